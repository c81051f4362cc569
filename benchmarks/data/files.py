"""The data files that `files.toml` describes: where they lie, how they are split, and their steps in time order.

Splits: "months" are 12, 4 and 4 months of 30 days, "shares" 70, 10 and 20 %. By "days" the last 7 days are the test
part, a window each, as in Woo et al. 2024 (arXiv 2402.02592, C.2 and table 18), and the 7 before the validation part.
A file that can't be read as regular, complete numbers is a ValueError.
"""

from __future__ import annotations

import hashlib
import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import darts.datasets
import numpy as np
import pandas as pd
from darts.datasets.dataset_loaders import DatasetLoader, DatasetLoadingException

import darts_msft.datasets
from darts_msft.datasets import DATA_DIR_VARIABLE


@dataclass(frozen=True)
class Split:
    """How long the parts are: whole numbers are steps, fractions are shares. `train` None: all before the others."""

    train: float | None
    validation: float
    test: float

    def ends(self, steps: int) -> tuple[int, int, int]:
        """The step after each part's last one, of a series of `steps` steps."""
        if isinstance(self.train, float):  # as the literature rounds: down, and the rest is for validation
            ends = (int(self.train * steps), steps - int(self.test * steps), steps)
        elif self.train is None:
            ends = (int(steps - self.test - self.validation), int(steps - self.test), steps)
        else:
            ends = (int(self.train), int(self.train + self.validation), int(self.train + self.validation + self.test))
        shares = not isinstance(self.train, float) or math.isclose(self.train + self.validation + self.test, 1)
        if not (shares and 0 < ends[0] < ends[1] < ends[2] <= steps):
            raise ValueError(f"{self} does not fit {steps} steps; give each at least one, or shares that make 1")
        return ends


@dataclass(frozen=True)
class RawFile:
    """A file as its publisher distributes it, and how to read it."""

    file: str
    where: str
    frequency: str  # of the steps once read
    season: int  # in steps
    digest: str | None = None  # "md5:..." or "sha256:..."; None where no public source states it
    shape: Sequence[int] | None = None  # steps and variables once read
    time: str = "date"  # its column; empty: no column and no header
    time_format: str = "ISO8601"
    start: str | None = None  # the rows are counted on from here, whatever the stamps say
    rows: str | None = None  # the rows' frequency, where they are counted
    gather: str | None = None  # how rows become steps: "sum", "mean"
    missing: float | None = None  # the number that stands for no value; the value before takes its place
    loader: str | None = None  # Darts' loader of exactly this file
    bundled: bool = False  # it ships with the package, read by its `load_dataset`


def _registry() -> dict[str, dict[str, tuple[RawFile, Split]]]:
    """Files and splits by family and name."""
    found: dict[str, dict[str, tuple[RawFile, Split]]] = {"lsf": {}, "pf": {}}
    for told in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["set"]:
        name, splits, day = told.pop("name"), told.pop("splits"), told["season"]
        ways = {"months": Split(360 * day, 120 * day, 120 * day), "shares": Split(0.7, 0.1, 0.2)}
        ways["days"] = Split(None, 7 * day, 7 * day)
        for family, way in splits.items():
            found[family][name] = (RawFile(**told), ways[way])
    return found


REGISTRY = _registry()


def find(file: RawFile, folder: str | Path | None) -> Path:
    """The file in the first place that has it: `folder`, DARTS_MSFT_DATA; of Darts' files its cache or download."""
    if file.bundled:
        return Path(darts_msft.datasets.__file__).parent / file.file
    places = [Path(place) for place in (folder, os.environ.get(DATA_DIR_VARIABLE)) if place]
    reason = ""
    if file.loader:
        places.append(Path(DatasetLoader._DEFAULT_DIRECTORY))
        if not any((place / file.file).is_file() for place in places):
            try:
                getattr(darts.datasets, file.loader)().load()
            except DatasetLoadingException as error:
                reason = f"; Darts could not download it ({error})"
    for place in places:
        if (place / file.file).is_file():
            return place / file.file
    raise FileNotFoundError(
        f"{file.file} is not in {' or '.join(map(str, places)) or 'any folder'}{reason}; get it from {file.where}, put "
        f"it into a folder under this name, and give the folder by --data or {DATA_DIR_VARIABLE}"
    )


def check(file: RawFile, path: Path) -> str:
    """The file's hash as "md5:..." or "sha256:..."; ValueError if another is published."""
    kind, _, expected = (file.digest or "sha256:").lower().partition(":")
    found = hashlib.new(kind, path.read_bytes(), usedforsecurity=False).hexdigest()
    if expected and found != expected:
        wrong = f"{path} is not the expected file: its {kind.upper()} sum is {found}, expected {expected}"
        raise ValueError(f"{wrong}; get it anew from {file.where}")
    return f"{kind}:{found}"


def read(file: RawFile, path: Path, targets: Sequence[str] | None = None) -> pd.DataFrame:
    """The file's steps, (T, V) float64, with a regular time index; `targets`: these columns only."""
    try:
        raw = pd.read_csv(path, **({"dtype": {file.time: str}} if file.time else {"header": None}))
        columns = [name for name in raw.columns if name != file.time] if targets is None else list(targets)
        numbers = raw[columns].rename(columns=str).astype(np.float64)
        if file.missing is not None:
            numbers = numbers.mask(numbers == file.missing).ffill()
        if file.start:
            numbers.index = pd.date_range(file.start, periods=len(raw), freq=file.rows or file.frequency)
        else:
            stamps = pd.to_datetime(raw[file.time], format=file.time_format, utc=True)
            numbers.index = pd.DatetimeIndex(stamps).tz_localize(None)
        if file.gather:
            numbers = numbers.resample(file.frequency).agg(file.gather)
        grid = pd.date_range(numbers.index[0], periods=len(numbers), freq=file.frequency, name="time")
    except (LookupError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}; correct it, or its description") from error
    if (wrong := np.asarray(grid != numbers.index)).any():
        row = int(wrong.argmax())
        expected = f"step {row + 1} is at {numbers.index[row]}, expected {grid[row]}"
        raise ValueError(f"{path}: {expected}; sort its rows, drop repeated ones, or fill missing ones")
    if (holes := np.argwhere(~np.isfinite(numbers.to_numpy()))).size:
        step, column = holes[0]
        place = f"no finite number in column {numbers.columns[column]!r}, step {step + 1}"
        raise ValueError(f"{path} has {place}: fill it in a copy of the file, or leave the column out")
    return numbers.set_axis(grid)
