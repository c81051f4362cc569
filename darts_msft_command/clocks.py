"""The times in a table's column: how they are written, and by which clock, for the command line."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

FIRST_YEAR, LAST_YEAR = 1678, 2261  # whole ones of pandas' nanoseconds
ISO: dict[str, Any] = {"format": "ISO8601"}
BY_ORDER: dict[bool, dict[str, Any]] = {False: {}, True: {"dayfirst": True}}
ORDERS = {False: "--month-first", True: "--day-first"}
UNTOLD = r"^\s*(\d\d?)([./-])\s*(\d\d?)\2"  # day and month, or month and day
STEADY = 0.6  # of the steps between first and last are there: weekdays have more


class Unusable(ValueError):
    """Input that can't be forecast, in a line for the user."""


class Written(NamedTuple):
    """A column's times in UTC, and as they stand there; `plain` ones have no offset, and years no clock.

    `remark`: how they were read, where they might be read otherwise.
    """

    times: pd.Series
    local: pd.Series
    plain: bool
    years: bool = False
    remark: str = ""

    def at(self, rows: pd.Index) -> Written:
        return self._replace(times=self.times[rows], local=self.local[rows])


def written(column: pd.Series, day_first: bool | None = None) -> Written:
    """What stands in a column, if all of it is times; `day_first` of 01/02/2024, else by dots and steady steps."""
    if missing := int(column.isna().sum()):
        rows, it = ("row", "it") if missing == 1 else ("rows", "them")
        raise Unusable(
            f"column {column.name!r} has {missing} {rows} without a time, {_row(column.isna())} first: leave {it} out"
        )
    return _years(column) if pd.api.types.is_numeric_dtype(column) else _dates(column, day_first)


def twofold(stand: Written, zone: str | None) -> pd.Series:
    """Which of these times come twice on the zone's clock, as it is set back in autumn."""
    if zone is None or not stand.plain or stand.years:
        return pd.Series(False, stand.local.index)
    _told_in(stand.times, zone)
    return stand.local.dt.tz_localize(zone, ambiguous="NaT", nonexistent="shift_forward").isna()


def times_of(stand: Written, zone: str | None = None, names: pd.Series | None = None) -> tuple[pd.Series, str | None]:
    """Times without a zone, in UTC where they have one, and the zone to tell them in; years and days as they stand.

    `zone` is that of a clock on the wall. Rows at one time of its day are days, or longer, and keep their local times:
    in UTC they would not be at steady steps. `names` tells rows of several series apart.
    """
    times, local, plain, years, _ = stand
    if zone is not None:
        told = _told_in(times, zone)
        local = local if plain else told.dt.tz_localize(None)
    if years or (plain and zone is None) or (local - local.dt.normalize()).nunique() == 1:
        return local, None
    if plain and zone is not None:
        each = [local] if names is None else [own for _, own in local.groupby(names, sort=False)]
        times = pd.concat([_from_the_wall(own, zone) for own in each]).reindex(local.index)
    return times.dt.tz_convert("UTC").dt.tz_localize(None), zone or "UTC"


def _years(column: pd.Series) -> Written:
    wrong = ~column.between(FIRST_YEAR, LAST_YEAR) | (column != column.round())
    if wrong.any():
        raise Unusable(
            f"column {column.name!r} holds numbers such as {column[wrong].iloc[0]} ({_row(wrong)}): give dates, or "
            f"years from {FIRST_YEAR} to {LAST_YEAR}"
        )
    local = pd.to_datetime(column.astype(int).astype(str), format="%Y")
    return Written(local.dt.tz_localize("UTC"), local, plain=True, years=True)


def _dates(column: pd.Series, day_first: bool | None) -> Written:
    """The column's times, by the way of writing that most of them follow."""
    best, how, remark = _read(column, ISO), ISO, ""
    if best.isna().any():
        first, remark = _order(column, day_first)
        for tried in [BY_ORDER[first]] + ([BY_ORDER[not first]] if day_first is None else []):
            times = _read(column, tried)
            if times.notna().sum() > best.notna().sum():
                best, how = times, tried
    wrong = best.isna()
    if wrong.any():
        raise Unusable(
            f"column {column.name!r} holds {str(column[wrong].iloc[0])!r} ({_row(wrong)}), which is no time from "
            f"{FIRST_YEAR} to {LAST_YEAR}, or written otherwise than the others: correct it, or leave the row out"
        )
    plain = pd.to_datetime(column.iloc[:1], **how).dt.tz is None
    return Written(best, best.dt.tz_localize(None) if plain else _as_written(column, how), plain, remark=remark)


def _order(column: pd.Series, asked: bool | None) -> tuple[bool, str]:
    """Whether days come first, and a word on it where only the steps tell; dots mean so."""
    parts = column.astype(str).str.extract(UNTOLD).dropna()
    first, second = parts[0].astype(int), parts[2].astype(int)
    surely = {True: parts.index[first > 12], False: parts.index[second > 12]}
    if len(surely[True]) and len(surely[False]):
        both = " and ".join(f"{column[rows[0]]!r} (row {rows[0] + 2} of the file)" for rows in surely.values())
        raise Unusable(f"column {column.name!r} has {both}: write them alike")
    for order, rows in surely.items():
        if len(rows) and asked in (None, order):
            return order, ""
        if len(rows):
            raise Unusable(
                f"{ORDERS[not order]}: not so in {column[rows[0]]!r} (row {rows[0] + 2}) of column {column.name!r}"
            )
    if asked is not None:
        return asked, ""
    if len(parts) < len(column) or first.equals(second) or parts[1].eq(".").all():
        return bool(parts[1].eq(".").all()), ""
    row = column[first != second].index[0]
    read = {order: _read(column, how) for order, how in BY_ORDER.items()}
    steady = [order for order, times in read.items() if _steadiness(times) >= STEADY]
    either = {order: f"{times[row].day} {times[row]:%B %Y}" for order, times in read.items()}
    where = f"column {column.name!r} has {column[row]!r} ({_row(first != second)}), "
    if len(steady) != 1:
        raise Unusable(f"{where}which may be {either[True]} or {either[False]}: say --day-first or --month-first")
    order = steady[0]
    return order, f"{where}taken for {either[order]}, as the steps are steady so; {ORDERS[not order]} is otherwise"


def _steadiness(times: pd.Series) -> float:
    """The part of the most common steps from first to last that are there."""
    steps = times.drop_duplicates().sort_values().diff().dropna()
    return float(steps.mode().iloc[0] * len(steps) / steps.sum()) if len(steps) else 0.0


def _read(column: pd.Series, how: dict[str, Any]) -> pd.Series:
    """Times in UTC; missing where they are not written so, or of other years."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # days before months are meant
        times = pd.to_datetime(column, utc=True, errors="coerce", **how)
    return times.where(times.dt.year.between(FIRST_YEAR, LAST_YEAR))


def _row(which: pd.Series) -> str:
    """The first of these rows, as a spreadsheet counts them."""
    return f"row {int(np.argmax(which.to_numpy())) + 2} of the file"


def _as_written(column: pd.Series, how: dict[str, Any]) -> pd.Series:
    """Times that have an offset, without it."""
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return column.dt.tz_localize(None)
    bare = column.astype(str).str.replace(r"\s*(Z|[+-]\d\d(:?\d\d)?)$", "", regex=True)
    return _read(bare, how).dt.tz_localize(None)


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
    if (skipped := times.isna()).any():
        raise Unusable(
            f"{ordered[skipped].iloc[0]} of column {local.name!r} is no time in {zone}, whose clock is set forward "
            "then: leave the row out, or --zone"
        )
    if by_clock or times.is_monotonic_increasing:
        return times[::way]
    twice = local.dt.tz_localize(zone, ambiguous="NaT", nonexistent="NaT").isna() & local.duplicated()
    if twice.any():
        raise Unusable(
            f"column {local.name!r} has {local[twice].iloc[0]} more than once, when the clock of {zone} is set back, "
            "and its rows are in no order that says which came first: sort them by time, or give times with offsets"
        )
    return local.dt.tz_localize(zone, ambiguous=np.ones(len(local), dtype=bool), nonexistent="NaT")
