"""Fields of a checkpoint's config.json, with an error that names those that are missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def required(config: Mapping[str, Any], *names: str, inside: str = "") -> list[Any]:
    """The values of `names` in config.json, or in its object `inside`; ValueError where one of them is missing."""
    place = config.get(inside) if inside else config
    if not isinstance(place, Mapping):
        raise ValueError(f"config.json: {inside}={place!r} is not an object; give the checkpoint's own config.json")
    missing = [name for name in names if place.get(name) is None]
    if missing:
        where = f" in {inside}" if inside else ""
        raise ValueError(
            f"config.json lacks {', '.join(missing)}{where}; it has {sorted(place)}: give the checkpoint's own"
        )
    return [place[name] for name in names]
