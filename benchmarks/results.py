"""The append-only store: one JSON file a result, whole or not there, never changed afterwards.

`FOLDER/runs/` holds what was measured on test parts, `FOLDER/choices/` the settings chosen on validation parts. A file
is `<family>-<dataset>-<horizon>-<model>-<first ten digits of its key>.json`; a further one of the same key, from other
data or weights, ends in `-2`, `-3`, ... Files are written under a hidden name that ends in `.part` and renamed when
they are on disk.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"
KINDS = {"run": "runs", "choice": "choices"}


def read(folder: str | Path, kind: str) -> list[dict[str, Any]]:
    """Every result of a kind ("run" or "choice"), in the order of the files' names."""
    return [_load(path) for path in sorted(_place(folder, kind).glob("*.json"))]


def find(folder: str | Path, kind: str, key: str, **same: Any) -> dict[str, Any] | None:
    """A result of that key whose further entries are `same` (data_hash, weights); None where there is none."""
    for path in sorted(_place(folder, kind).glob(f"*-{key[:10]}*.json")):
        found = _load(path)
        if found["key"] == key and all(found[name] == value for name, value in same.items()):
            return found
    return None


def add(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Writes a result to a new file, at once or not at all, and returns its path."""
    place = _place(folder, result["kind"])
    place.mkdir(parents=True, exist_ok=True)
    text = "{\n" + ",\n".join(f" {json.dumps(name)}: {_compact(value)}" for name, value in result.items()) + "\n}\n"
    handle, part = tempfile.mkstemp(dir=place, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        return _publish(Path(part), place / _stem(result))
    finally:
        os.unlink(part)


def _publish(part: Path, stem: Path) -> Path:
    """Gives the finished file its name, the first that is free; a hard link, which never replaces another file."""
    number = 1
    while True:
        path = stem.with_name(f"{stem.name}{f'-{number}' if number > 1 else ''}.json")
        try:
            os.link(part, path)
        except FileExistsError:
            number += 1
        else:
            return path


def _stem(result: Mapping[str, Any]) -> str:
    experiment = result["experiment"]
    dataset = Path(experiment["dataset"]).name.removesuffix(".toml")
    words = (experiment["family"], dataset, str(experiment["horizon"]), experiment["model"], result["key"][:10])
    return "-".join(re.sub(r"[^\w.]+", "_", word) for word in words)


def _place(folder: str | Path, kind: str) -> Path:
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not known; choose one of {', '.join(KINDS)}")
    return Path(folder) / KINDS[kind]


def _load(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a result ({error}); restore it, or delete it to have it measured again"
        ) from error
    return loaded


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
