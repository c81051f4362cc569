"""The benchmark data as models see it: split, standardised, with its times.

`load(name, family, folder)` gives a `Dataset`. Family "lsf" (long-sequence forecasting) holds values standardised with
training statistics, "pf" (probabilistic forecasting) raw units; `files.toml` lists the data sets and their splits.
Axes: T time, V variables.

A user's own CSV is described by a small TOML; times and numbers are read as they stand, and nothing is filled:

    csv = "sales.csv"                   # relative to this file
    time = "date"                       # column; ISO 8601, or as time_format says; times with a zone become UTC
    time_format = "%d.%m.%Y %H:%M"      # may be left out
    frequency = "h"                     # pandas' alias
    season = 24                         # steps
    targets = ["shop_1", "shop_2"]      # may be left out: every column but the time
    sha256 = "..."                      # may be left out: the file isn't checked
    [split]                             # shares that make 1, or numbers of steps
    train = 0.7
    validation = 0.1
    test = 0.2
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from darts import TimeSeries

from benchmarks.data import files
from benchmarks.data.files import REGISTRY, RawFile, Split
from darts_msft.datasets import load_dataset

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Dataset:
    """Values up to the test part's end, regular in time."""

    name: str
    family: str
    frequency: str
    season: int  # steps of the seasonal cycle
    values: np.ndarray  # (T, V) float32, standardised ("lsf") or in raw units ("pf")
    columns: tuple[str, ...]
    times: pd.DatetimeIndex
    bounds: dict[str, tuple[int, int]]  # a part's first step and the one after it
    file_hash: str | None = None  # "sha256:..." or "md5:..." of the file that was read

    def series(self, part: str, look_back: int = 0) -> TimeSeries:
        """A part, and `look_back` steps before it."""
        begin, end = self.bounds[part]
        if not 0 <= look_back <= begin:
            raise ValueError(f"look_back={look_back} is not allowed before the {part} part; give 0 to {begin} steps")
        steps = slice(begin - look_back, end)
        return TimeSeries(times=self.times[steps], values=self.values[steps], components=list(self.columns))

    def starts(self, part: str, horizon: int, stride: int) -> range:
        """The first horizon step of every window; all `horizon` steps lie within the part."""
        begin, end = self.bounds[part]
        if not 1 <= horizon <= end - begin:
            wrong = f"horizon={horizon} does not fit into the {part} part of {self.name}"
            raise ValueError(f"{wrong}; take 1 to {end - begin} steps")
        return range(begin, end - horizon + 1, stride)

    @property
    def hash(self) -> str:
        """sha256 of what results depend on: the values' bytes, and before them season, times, names and bounds."""
        about = [self.season, self.frequency, str(self.times[0]), self.columns, sorted(self.bounds.items())]
        found = hashlib.sha256(json.dumps(about).encode())
        found.update(np.ascontiguousarray(self.values).data)
        return found.hexdigest()


def load(name: str, family: str, folder: str | Path | None = None) -> Dataset:
    """A registered data set, or a user's by the path of its .toml; `files.find` says where files are looked for."""
    targets = None
    if name.endswith(".toml"):
        file, split, path, targets = _described(Path(name))
        name = Path(name).stem
    elif name in REGISTRY[family]:
        file, split = REGISTRY[family][name]
        path = files.find(file, folder)
    else:
        names = ", ".join(REGISTRY[family])
        raise ValueError(f"{name!r} is no data set of the family {family!r}; choose one of {names}, or give a .toml")
    file_hash = files.check(file, path)
    frame = load_dataset(name).to_dataframe() if file.bundled else files.read(file, path, targets)
    if file.shape is not None and frame.shape != tuple(file.shape):
        raise ValueError(f"{path} has {frame.shape} steps and variables, expected {file.shape}; see {file.where}")
    return _made(name, family, file, split, frame, file_hash)


def _made(name: str, family: str, file: RawFile, split: Split, frame: pd.DataFrame, file_hash: str) -> Dataset:
    """The frame's (T, V) values, cut at the test part's end."""
    ends = split.ends(len(frame))
    if not 0 < file.season < ends[0]:
        raise ValueError(f"season={file.season} is not allowed with {ends[0]} training steps of {name}")
    values, columns = frame.to_numpy(np.float64)[: ends[-1]], tuple(map(str, frame.columns))
    if family == "lsf":  # each variable less its mean over its deviation, both of the training part
        train = values[: ends[0]]
        if (constant := np.ptp(train, axis=0) == 0).any():
            wrong = f"{columns[int(constant.argmax())]!r} of {name} never changes in the training part"
            raise ValueError(f"{wrong}; leave it out of the targets, or take the family 'pf'")
        values = (values - train.mean(axis=0)) / train.std(axis=0)
    bounds = dict(zip(PARTS, zip((0, *ends[:-1]), ends, strict=True), strict=True))
    times, values = pd.DatetimeIndex(frame.index[: ends[-1]]), values.astype(np.float32)
    return Dataset(name, family, file.frequency, file.season, values, columns, times, bounds, file_hash)


def _described(toml: Path) -> tuple[RawFile, Split, Path, list[str] | None]:
    """What a .toml says: how to read the file, its split, its path, and its target columns (None: all)."""
    told = tomllib.loads(toml.read_text(encoding="utf-8"))
    try:
        path, targets, parts = toml.parent / told.pop("csv"), told.pop("targets", None), told.pop("split")
        digest = f"sha256:{told.pop('sha256')}" if "sha256" in told else None
        return RawFile(path.name, str(toml), digest=digest, **told), Split(**parts), path, targets
    except (KeyError, TypeError) as error:
        shown = "the head of benchmarks/data/__init__.py shows one"
        raise ValueError(f"{toml} lacks something or has too much ({error}); {shown}") from error
