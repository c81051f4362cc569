"""Raw data files: where they lie, whether they are the published ones, and their steps in time order.

Nothing is guessed, and only what the publisher marks as missing is filled (`RawFile.missing`): what cannot be read as
regular, complete numbers is a ValueError.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import darts.datasets
import numpy as np
import pandas as pd
from darts.datasets.dataset_loaders import DatasetLoader, DatasetLoadingException

import darts_msft.datasets
from benchmarks.data.registry import RawFile
from darts_msft.datasets import DATA_DIR_VARIABLE

_logger = logging.getLogger(__name__)


def find(file: RawFile, folder: str | Path | None) -> Path:
    """The file in the first place that has it: `folder`, DARTS_MSFT_DATA, Darts' cache, Darts' download.

    Darts' own places serve only the files that Darts has itself. FileNotFoundError where none has it.
    """
    if file.bundled:
        return Path(darts_msft.datasets.__file__).parent / file.name
    places = [Path(place) for place in (folder, os.environ.get(DATA_DIR_VARIABLE)) if place]
    if file.loader:
        places.append(Path(DatasetLoader._DEFAULT_DIRECTORY))
    for place in places:
        if (place / file.name).is_file():
            return place / file.name
    if not file.loader:
        raise _missing(file, places, "")
    try:
        getattr(darts.datasets, file.loader)().load()
    except DatasetLoadingException as error:  # no `Exception`
        raise _missing(file, places, f"; Darts could not download it ({error})") from error
    return places[-1] / file.name


def check(file: RawFile, path: Path) -> str:
    """The file's hash as "md5:..." or "sha256:..."; ValueError if another is published."""
    kind, _, expected = (file.digest or "sha256:").lower().partition(":")
    found = hashlib.new(kind, path.read_bytes(), usedforsecurity=False).hexdigest()
    if expected and found != expected:
        raise ValueError(
            f"{path} is not the expected file: its {kind.upper()} sum is {found}, expected {expected}; "
            f"get it anew from {file.where}"
        )
    if not expected:
        _logger.warning("%s is taken as it is, since no hash to check it by is known; its SHA-256 is %s", path, found)
    return f"{kind}:{found}"


def read(file: RawFile, path: Path, targets: Sequence[str] | None = None) -> pd.DataFrame:
    """The file's steps, (T, V) float64, with a regular time index; `targets`: these columns only."""
    raw = _table(file, path)
    columns = [name for name in raw.columns if name != file.time] if targets is None else list(targets)
    if absent := [name for name in columns if name not in raw.columns]:
        raise ValueError(f"{path} has no column {absent[0]!r}; it has {', '.join(map(str, raw.columns))}")
    if not columns or not len(raw):
        raise ValueError(f"{path} has {len(raw)} rows of {len(columns)} variables; at least one of each is needed")
    numbers = pd.DataFrame({str(name): _numbers(path, raw[name]) for name in columns})
    if file.missing is not None:
        numbers = numbers.mask(numbers == file.missing).ffill()
    numbers.index = _counted(file, len(raw)) if file.start else _stamps(file, path, raw[file.time])
    if file.gather:
        numbers = numbers.resample(file.frequency).agg(file.gather)
    numbers.index = _regular(file, path, pd.DatetimeIndex(numbers.index))
    _check_complete(path, numbers)
    return numbers


def _missing(file: RawFile, places: Sequence[Path], reason: str) -> FileNotFoundError:
    looked = f"is not in {' or '.join(map(str, places))}" if places else "has no folder to be read from"
    return FileNotFoundError(
        f"{file.name} {looked}{reason}; get it from {file.where}, put it into a folder under this name, and give the "
        f"folder by --data or {DATA_DIR_VARIABLE}"
    )


def _table(file: RawFile, path: Path) -> pd.DataFrame:
    """The file's cells; the time column as text."""
    header, as_text = (None, None) if file.time is None else (0, {file.time: str})
    try:
        raw = pd.read_csv(path, header=header, dtype=as_text)
    except ValueError as error:
        raise ValueError(f"{path} can't be read as CSV in UTF-8: {error}; save it as such") from error
    if file.time is not None and file.time not in raw.columns:
        raise ValueError(f"{path} has no time column {file.time!r}; it has {', '.join(map(str, raw.columns))}")
    return raw


def _numbers(path: Path, column: pd.Series) -> pd.Series:
    """The column in double precision, missing values as NaN."""
    numbers = pd.to_numeric(column, errors="coerce")
    if (wrong := (numbers.isna() & column.notna()).to_numpy()).any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path} has {column.iloc[row]!r} in column {column.name!r}, data row {row + 1}; only numbers are allowed: "
            "correct it, or leave the column out of the targets"
        )
    return numbers.astype(np.float64)


def _counted(file: RawFile, steps: int) -> pd.DatetimeIndex:
    return pd.date_range(file.start, periods=steps, freq=file.rows or file.frequency)


def _stamps(file: RawFile, path: Path, column: pd.Series) -> pd.DatetimeIndex:
    """The time column, in UTC and without a zone where it has one."""
    stamps = pd.to_datetime(column, format=file.time_format, errors="coerce", utc=True).dt.tz_localize(None)
    if (wrong := stamps.isna().to_numpy()).any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path} has the time {column.iloc[row]!r} in data row {row + 1}, expected the form {file.time_format!r}; "
            "correct it, or describe the form by time_format in a .toml"
        )
    return pd.DatetimeIndex(stamps)


def _regular(file: RawFile, path: Path, stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
    """The same times with their frequency; ValueError at the first that is not a step after the one before."""
    try:
        grid = pd.date_range(stamps[0], periods=len(stamps), freq=file.frequency)
    except ValueError as error:
        raise ValueError(f"frequency={file.frequency!r} is not allowed ({error}); give a pandas alias") from error
    if (wrong := np.asarray(grid != stamps)).any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path} is not regular: step {row + 1} is at {stamps[row]}, expected {grid[row]} at the frequency "
            f"{file.frequency!r}; sort its rows, drop repeated ones, fill missing ones, or correct the frequency"
        )
    return grid.rename("time")


def _check_complete(path: Path, numbers: pd.DataFrame) -> None:
    wrong = ~np.isfinite(numbers.to_numpy())
    if wrong.any():
        row = int(wrong.any(axis=1).argmax())
        column = numbers.columns[int(wrong[row].argmax())]
        raise ValueError(
            f"{path} has no finite value of {column!r} at {numbers.index[row]}, the first of {wrong.sum()}; fill them "
            "in a copy of the file that a .toml describes, begin later, or leave the column out of the targets"
        )
