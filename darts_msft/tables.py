"""A file's table as a series: its times, zones, repeated rows and steps, for the command line."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries

logger = logging.getLogger("darts_msft")


class Unusable(ValueError):
    """Input that can't be forecast, in a line for the user."""


class Table(NamedTuple):
    """A series without a zone, in UTC where the file's times have a `zone`."""

    series: TimeSeries
    zone: str | None


def read(data: Path, time: str, target: Sequence[str] | None, frequency: str | None, zone: str | None = None) -> Table:
    """The series in a file; times that are missing become gaps."""
    frame = _frame(data)
    columns = [str(column) for column in frame.columns]
    asked = [time, *(target or [])]
    if unknown := [name for name in asked if name not in columns]:
        raise Unusable(f"{data} has no column {unknown[0]!r}; it has {', '.join(columns)}")
    numbers = [name for name in columns if name != time and pd.api.types.is_numeric_dtype(frame[name])]
    if wrong := [name for name in target or [] if name not in numbers]:
        raise Unusable(f"column {wrong[0]!r} is no column of numbers; take some of {', '.join(numbers) or 'none'}")
    if not numbers:
        raise Unusable(f"{data} has no column of numbers beside {time!r}")
    if not len(frame):
        raise Unusable(f"{data} has no rows")
    frame[time], zone = times_of(frame[time], zone)
    frame = without_repeats(frame[[time, *(target or numbers)]], time, zone).sort_values(time)
    return Table(_series(frame, time, frequency, data, zone), zone)


def _series(frame: pd.DataFrame, time: str, frequency: str | None, data: Path, zone: str | None) -> TimeSeries:
    logging.disable(logging.ERROR)  # what Darts would tell of is in our error
    try:
        steady = frequency or steady_step(frame[time])
        return TimeSeries.from_dataframe(frame, time, fill_missing_dates=True, freq=steady).astype("float32")
    except ValueError as error:
        raise Unusable(_unsteady(frame[time], frequency, data, zone)) from error
    finally:
        logging.disable(logging.NOTSET)


def _unsteady(times: pd.Series, frequency: str | None, data: Path, zone: str | None) -> str:
    steps = times.diff().mode()
    days = len(steps) and steps.iloc[0] >= pd.Timedelta("1D")
    if days and zone is not None:
        return (
            f"the times of {data} are days or longer, but not at steady steps in UTC, nor at one time of the day by "
            f"the clock of {zone}: give dates without offsets, or the zone they begin in, as in --zone Europe/Berlin"
        )
    if frequency is not None:
        return f"the times of {data} are not all at steps of --frequency {frequency}"
    if days:
        return f"the times of {data} have no steady step that can be read off: say which, as in --frequency D"
    most = f": most are {steps.iloc[0]} apart, but others no multiple of that" if len(steps) else ""
    return f"the times of {data} have no steady step{most}; round them, or say which, as in --frequency h"


def _frame(data: Path) -> pd.DataFrame:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if data.suffix not in readers:
        raise Unusable(f"{data}: give a file whose name ends in {' or '.join(readers)}")
    try:
        return readers[data.suffix](data)
    except (OSError, ValueError) as error:
        raise Unusable(f"{data} can't be read: {' '.join(str(error).split())}") from error


def times_of(column: pd.Series, zone: str | None = None) -> tuple[pd.Series, str | None]:
    """Times without a zone, in UTC where they have one, and the zone to tell them in; years and days as they stand.

    `zone` is that of a clock on the wall. Rows at one time of its day are days, or longer, and keep their local times:
    in UTC they would not be at steady steps.
    """
    name = column.name
    if pd.api.types.is_numeric_dtype(column):
        if not column.between(1000, 9999).all() or (column != column.round()).any():
            raise Unusable(f"column {name!r} holds numbers such as {column.iloc[0]}: give dates, or years")
        return pd.to_datetime(column.astype(int).astype(str), format="%Y"), None
    try:
        times = pd.to_datetime(column, utc=True)
        plain = pd.to_datetime(column.iloc[:1]).dt.tz is None
        local = times.dt.tz_localize(None) if plain else _as_written(column)
    except (ValueError, TypeError) as error:
        raise Unusable(f"column {name!r} holds no times: {' '.join(str(error).split())}") from error
    if missing := int(times.isna().sum()):
        raise Unusable(f"column {name!r} has {missing} rows without a time: leave them out")
    if zone is not None:
        told = _told_in(times, zone)
        local = local if plain else told.dt.tz_localize(None)
    if (plain and zone is None) or (local - local.dt.normalize()).nunique() == 1:
        return local, None
    if plain and zone is not None:
        times = _from_the_wall(local, zone)
    return times.dt.tz_convert("UTC").dt.tz_localize(None), zone or "UTC"


def _as_written(column: pd.Series) -> pd.Series:
    """Times that have an offset, without it."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return column.dt.tz_localize(None)
    bare = column.astype(str).where(column.notna()).str.replace(r"\s*(Z|[+-]\d\d(:?\d\d)?)$", "", regex=True)
    return pd.to_datetime(bare, utc=True).dt.tz_localize(None)


def _told_in(times: pd.Series, zone: str) -> pd.Series:
    try:
        return times.dt.tz_convert(zone)
    except (KeyError, ValueError) as error:
        raise Unusable(f"--zone {zone}: give a name such as Europe/Berlin, or UTC") from error


def _from_the_wall(local: pd.Series, zone: str) -> pd.Series:
    """Times of a clock whose hour comes twice in autumn: the order of the rows, either way, says which is which."""
    way = -1 if local.iloc[0] > local.iloc[-1] else 1
    ordered = local[::way]
    by_clock = ordered.is_monotonic_increasing
    again = ordered.duplicated() if by_clock else ordered <= ordered.cummax().shift()
    times = ordered.dt.tz_localize(zone, ambiguous=~again.to_numpy(), nonexistent="NaT")
    if (skipped := times.isna() & ordered.notna()).any():
        raise Unusable(
            f"{ordered[skipped].iloc[0]} of column {local.name!r} is no time in {zone}, whose clock is set forward "
            "then: leave the row out, or --zone"
        )
    if by_clock or times.is_monotonic_increasing:
        return times[::way]
    _refuse_several(local)
    twofold = local.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT").isna() & local.duplicated()
    if twofold.any():
        raise Unusable(
            f"column {local.name!r} has {local[twofold].iloc[0]} more than once, when the clock of {zone} is set back, "
            "and its rows are in no order that says which came first: sort them by time, or give times with offsets"
        )
    return local.dt.tz_localize(zone, ambiguous=np.ones(len(local), dtype=bool), nonexistent="NaT")


def _refuse_several(times: pd.Series) -> None:
    again = times[times.duplicated()]
    if 2 * len(again) > len(times):
        raise Unusable(
            f"column {times.name!r} has {again.iloc[0]} more than once, as most of its times: that is a table of "
            "several series; give a file with one, or a column for each, or use Python's API, which takes many"
        )


def without_repeats(frame: pd.DataFrame, time: str, zone: str | None) -> pd.DataFrame:
    """Rows that are there twice are taken once; times with several values are refused."""
    _refuse_several(frame[time])
    once = frame.drop_duplicates()
    if len(once) < len(frame):
        logger.warning("%d rows of the table repeat others: they are taken once", len(frame) - len(once))
    again = once[time][once[time].duplicated()]
    if len(again):
        clock = "" if zone else "; where a clock was set back, say whose, as in --zone Europe/Berlin"
        raise Unusable(
            f"column {time!r} has {again.iloc[0]} more than once with different values, as {again.nunique()} times in "
            f"all: keep one row for each{clock}"
        )
    return once


def steady_step(times: pd.Series) -> pd.tseries.offsets.BaseOffset | None:
    """The step of sorted times less than a day apart, of which some may be missing; None: Darts finds it."""
    steps = times.diff().dropna()
    if steps.empty:
        return None
    step = steps.mode().iloc[0]
    if step >= pd.Timedelta("1D") or np.any(steps % step != pd.Timedelta(0)):
        return None
    return pd.tseries.frequencies.to_offset(step)
