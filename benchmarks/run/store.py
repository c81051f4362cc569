"""The append-only store: one JSON file a result, whole or not there, never changed afterwards.

`FOLDER/runs/` holds what was measured on test parts, `FOLDER/choices/` the settings chosen on validation parts, and
`FOLDER/candidates/` what was tried for them. A file is
`<family>-<dataset>-<horizon>-<model>-<first ten digits of its key>.json`; a further one of the same key, from other
data, weights or defaults, ends in `-2`, `-3`, ...
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.errors import Misuse
from benchmarks.run.experiments import Experiment

FOLDER = Path(__file__).parents[1] / "results"
_ALWAYS = "key experiment data_hash weights protocol defaults provenance"
_RUN = "settings resolved choice_key metrics windows validation_windows suite command"
_MODEL = "trained_parameters parameters fit_report scale_weights seconds processor_seconds peak_memory_mb"
NEEDED = {  # words that an entry has
    "run": f"{_ALWAYS} {_RUN} {_MODEL}".split(),
    "choice": f"{_ALWAYS} rows chosen dropped followed".split(),
    "candidate": f"{_ALWAYS} settings validation reason seconds".split(),
}
METRICS = {"lsf": ("mse", "mae"), "pf": ("crps", "msis", "coverage")}  # of every run


def entries(folder: str | Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Every entry of a kind ("run", "choice", "candidate") and its file, by name; a Misuse if one is damaged."""
    return [(path, _load(path, kind)) for path in sorted(Path(folder, f"{kind}s").glob("*.json"))]


def find(folder: str | Path, kind: str, key: str, **same: Any) -> dict[str, Any] | None:
    """The entry of that key whose further entries are `same` (data_hash, weights, ...); None where there is none."""
    for path in sorted(Path(folder, f"{kind}s").glob(f"*-{key[:10]}*.json")):
        found = _load(path, kind)
        if {"key": key, **same}.items() <= found.items():
            return found
    return None


def add(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Writes an entry to a new file, at once or not at all; of uncommitted code none that is published."""
    if result["provenance"]["dirty"] and is_own(folder):
        raise Misuse("the tree has uncommitted changes; commit them, or give another folder by --results")
    place = Path(folder, f"{result['kind']}s")
    place.mkdir(parents=True, exist_ok=True)
    experiment = Experiment.from_dict(result["experiment"])
    dataset = Path(experiment.dataset).name.removesuffix(".toml")
    words = (experiment.family, dataset, str(experiment.horizon), experiment.model, result["key"][:10])
    stem = "-".join(re.sub(r"[^\w.]+", "_", word) for word in words)
    lines = (f" {json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in result.items())
    with _part(place / stem, "{\n" + ",\n".join(lines) + "\n}\n") as part:
        path = place / f"{stem}.json"
        for number in count(2):
            with suppress(FileExistsError):
                os.link(part, path)  # never replaces another file
                break
            path = place / f"{stem}-{number}.json"
    return path


def write(path: Path, content: str) -> None:
    """Any other file, whole or not at all; one that is there is replaced."""
    with _part(path, content) as part:
        part.replace(path)


def read_list(path: Path) -> list[dict[str, Any]]:
    """The entries of a file that holds a JSON list, to which `add_rows` adds; none where there is no file."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if not isinstance(found, list):
        raise Misuse(f"{path} is no JSON list; restore it, or give another file")
    return found


def add_rows(path: Path, rows: Sequence[Mapping[str, Any]], **about: Any) -> None:
    """Writes a list, a line an entry, at once: these rows, which share `about`, for those that were there of it.

    Several processes that add to one file take turns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with claim(path.parent, "list", path.name, wait=True):
        kept = [row for row in read_list(path) if not (about and about.items() <= row.items())]
        lines = ",\n".join(json.dumps(row) for row in [*kept, *({**about, **row} for row in rows)])
        write(path, f"[\n{lines}\n]\n")


def is_own(folder: str | Path) -> bool:
    return Path(folder).resolve() == FOLDER.resolve()


@contextmanager
def claim(folder: str | Path, kind: str, key: str, wait: bool) -> Iterator[bool]:
    """Whether the key is this block's alone, among all living processes. `wait`: until it is; else False if not."""
    path = Path(folder) / ".claims" / f"{kind}-{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink()
        lock.release()


@contextmanager
def _part(path: Path, content: str) -> Iterator[Path]:
    """A file beside `path` with the content, on disk; gone after the block unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _load(path: Path, kind: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if missing := {*NEEDED[kind], "kind"} - found.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        family = Experiment.from_dict(found["experiment"]).family
        if kind == "run" and not all(isinstance(found["metrics"].get(name), int | float) for name in METRICS[family]):
            raise ValueError(f"its metrics {', '.join(METRICS[family])} are not all numbers")
    except (AttributeError, TypeError, ValueError) as error:
        raise Misuse(f"{path} is not a result ({error}); restore it, or delete it to have it measured again") from error
    return found
