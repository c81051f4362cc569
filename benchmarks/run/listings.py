"""Results that are one JSON list a file, to which every call of a command adds an entry."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse
from benchmarks.run.store import claim, write


def read(path: Path) -> list[dict[str, Any]]:
    """What the file holds so far; Misuse where it is no list of entries."""
    if not path.exists():
        return []
    if not path.is_file():
        raise Misuse(f"--results {path} is no file; give the path of a file of entries, or of a new one")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Misuse(f"--results {path} is not JSON ({error}); restore it, or give another file") from error
    if not isinstance(found, list):
        raise Misuse(f"--results {path} holds no list of entries; restore it, or give another file")
    return found


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds the entry, at once or not at all; several processes that add to one file take turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with claim(path.parent, "listing", path.name, wait=True):
        write(path, json.dumps([*read(path), entry], indent=1) + "\n")
