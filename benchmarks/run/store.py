"""The append-only store: one JSON file a result, whole or not there, never changed afterwards.

`FOLDER/runs/` holds what was measured on test parts, `FOLDER/choices/` the settings chosen on validation parts, and
`FOLDER/candidates/` what was tried for them. A file is
`<family>-<dataset>-<horizon>-<model>-<first ten digits of its key>.json`; a further one of the same key, from other
data, weights or defaults, ends in `-2`, `-3`, ... Files are written under a hidden name that ends in `.part` and get
their own when they are on disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse
from benchmarks.run.experiments import Experiment

FOLDER = Path(__file__).parents[1] / "results"
KINDS = {"run": "runs", "choice": "choices", "candidate": "candidates"}
_ALWAYS = ("key", "experiment", "data_hash", "weights", "protocol", "defaults", "provenance")
NEEDED = {
    "run": (
        *_ALWAYS,
        *("settings", "choice_key", "metrics", "windows", "validation_windows", "resolved", "examples", "seconds"),
        "processor_seconds",
        *("trained_parameters", "parameters", "fit_report", "scale_weights", "peak_memory_mb", "suite", "command"),
    ),
    "choice": (*_ALWAYS, "rows", "chosen", "dropped", "followed"),
    "candidate": (*_ALWAYS, "settings", "validation", "reason", "seconds"),
}
OF_EXPERIMENT = ("family", "dataset", "horizon", "model", "seed", "options", "budget", "test_stride")
METRICS = {"lsf": ("mse", "mae"), "pf": ("crps", "msis", "coverage")}  # of every run; plots and tests are of the first


def entries(folder: str | Path, kind: str) -> list[tuple[Path, dict[str, Any]]]:
    """Every entry of a kind ("run", "choice", "candidate") and its file, in the order of the files' names.

    Raises
    ------
    Misuse
        If a file is not JSON, holds NaN or Infinity, lacks what an entry of its kind needs, or has an experiment that
        is none.
    """
    return [(path, _load(path, kind)) for path in sorted(_place(folder, kind).glob("*.json"))]


def find(folder: str | Path, kind: str, key: str, **same: Any) -> dict[str, Any] | None:
    """The entry of that key whose further entries are `same` (data_hash, weights, ...); None where there is none."""
    for path in sorted(_place(folder, kind).glob(f"*-{key[:10]}*.json")):
        found = _load(path, kind)
        if found["key"] == key and all(found[name] == value for name, value in same.items()):
            return found
    return None


def add(folder: str | Path, result: Mapping[str, Any], dirty: bool = False) -> Path:
    """Writes an entry to a new file, at once or not at all, and returns its path.

    Raises
    ------
    Misuse
        If it was made with uncommitted changes and would go into the repository's own folder; `dirty` allows it.
    """
    if result["provenance"]["dirty"] and not dirty and is_own(folder):
        raise Misuse(
            f"the tree has uncommitted changes, so this is no result for {FOLDER}; commit them, or give another folder "
            "by --results, or --dirty"
        )
    place = _place(folder, result["kind"])
    place.mkdir(parents=True, exist_ok=True)
    stem = place / _stem(result)
    text = "{\n" + ",\n".join(f" {json.dumps(name)}: {_compact(value)}" for name, value in result.items()) + "\n}\n"
    with _part(stem, text.encode()) as part:
        return _publish(part, stem)


def write(path: Path, content: str | bytes) -> None:
    """Any other file, whole or not at all; one that is there is replaced and keeps its permissions."""
    with _part(path, content.encode() if isinstance(content, str) else content) as part:
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)


def is_own(folder: str | Path) -> bool:
    """Whether this is the repository's own folder."""
    return Path(folder).resolve() == FOLDER.resolve()


@contextmanager
def claim(folder: str | Path, kind: str, key: str, wait: bool) -> Iterator[bool]:
    """Whether the key is this block's alone, among all processes. `wait`: until it is; else False where it is not.

    The operating system ends a claim with the process that has it, whatever ends that.
    """
    path = Path(folder) / ".claims" / f"{kind}-{key}"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _lock(path, wait)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink()
        os.close(handle)


def _lock(path: Path, wait: bool) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_at(path, handle):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the one before took the file away: its lock is worth nothing


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _part(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` with the content, on disk; gone after the block unless it was renamed."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


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


def _load(path: Path, kind: str) -> dict[str, Any]:
    remedy = "restore it, or delete it to have it measured again"
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except ValueError as error:
        raise Misuse(f"{path} is not a result ({error}); {remedy}") from error
    if not isinstance(loaded, dict) or loaded.get("kind") != kind:
        raise Misuse(f"{path} is not a result of the kind {kind!r}; {remedy}")
    if missing := [name for name in NEEDED[kind] if name not in loaded]:
        raise Misuse(f"{path} is not a whole result: it lacks {', '.join(missing)}; {remedy}")
    if wrong := _wrong_inside(loaded):
        raise Misuse(f"{path} is not a whole result: {wrong}; {remedy}")
    return loaded


def _wrong_inside(entry: Mapping[str, Any]) -> str:
    """What is wrong with the experiment, or with the metrics of a run; empty where nothing is."""
    given, metrics = entry["experiment"], entry.get("metrics")
    if not isinstance(given, dict):
        return f"its experiment is {given!r}"
    if absent := [name for name in OF_EXPERIMENT if name not in given]:
        return f"its experiment lacks {', '.join(absent)}"
    try:
        family = Experiment.from_dict(given).family
    except (TypeError, ValueError) as error:
        return f"its experiment is none ({error})"
    if entry["kind"] != "run":
        return ""
    if not isinstance(metrics, dict):
        return f"its metrics are {metrics!r}"
    absent = [name for name in METRICS[family] if not isinstance(metrics.get(name), int | float)]
    return f"its metrics lack a figure for {', '.join(absent)}" if absent else ""


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no figure")


def _compact(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
