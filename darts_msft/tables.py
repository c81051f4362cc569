"""A file's table as series: its columns, repeated rows, steps and covariates, for the command line."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries

from darts_msft.clocks import Unusable, times_of, written

logger = logging.getLogger("darts_msft")

SEVERAL = 0.25  # of the rows have the time of another one: these are several series
NUMBER_LIKE = re.compile(r"\s*[-+]?\d[\d.,' ]*\s*")


class Table(NamedTuple):
    """Series without a zone, in UTC where the file's times have a `zone`, each with its covariates, if there are any.

    `names` are those in the column of series; None: the table is one series. A series ends with its last value, its
    covariates with their table's last row.
    """

    series: list[TimeSeries]
    names: list[str] | None
    covariates: list[TimeSeries] | None
    zone: str | None


def read(
    data: Path,
    time: str,
    target: Sequence[str] | None = None,
    frequency: str | None = None,
    zone: str | None = None,
    series: str | None = None,
    covariates: Sequence[str] | None = None,
    decimal: str = ".",
    thousands: str | None = None,
) -> Table:
    """The series in a file; times that are missing become gaps."""
    frame = _frame(data, [time, *([series] if series else [])], decimal, thousands)
    columns = [str(column) for column in frame.columns]
    known, wanted = _split(covariates, columns), _split(target, columns)
    if unknown := [name for name in (time, *([series] if series else []), *known, *wanted) if name not in columns]:
        raise Unusable(f"{data} has no column {unknown[0]!r}; it has {', '.join(columns)}")
    if not len(frame):
        raise Unusable(f"{data} has no rows")
    if both := [name for name in (*known, *wanted) if name in (time, series)]:
        raise Unusable(f"column {both[0]!r} is that of times or series: leave it out of --target and --covariates")
    others = [name for name in columns if name not in (time, series, *known)]
    targets = _targets(frame, wanted, others, data)
    _check_numbers(frame, known)
    used = frame[[time, *([series] if series else []), *dict.fromkeys([*targets, *known])]].copy()
    stand = written(used[time])
    if series is None:
        _refuse_several(used, frame, time)
    elif nameless := int(used[series].isna().sum()):
        raise Unusable(f"column {series!r} names no series in {nameless} rows: fill it, or leave them out")
    names = None if series is None else used[series].astype(str)
    used[time], zone = times_of(stand, zone, names)
    groups = [("", used)] if names is None else list(used.drop(columns=series).groupby(names, sort=False))
    return _series_of(groups, time, targets, known, frequency, data, zone)


def _series_of(
    groups: list[tuple[str, pd.DataFrame]],
    time: str,
    targets: list[str],
    known: list[str],
    frequency: str | None,
    data: Path,
    zone: str | None,
) -> Table:
    """Each group as a series, at the steps of the longest where none are asked for."""
    order = sorted(range(len(groups)), key=lambda number: -len(groups[number][1]))
    found: dict[int, TimeSeries] = {}
    step: Any = frequency
    for number in order:
        name, frame = groups[number]
        which = f"series {name!r}" if len(groups) > 1 else str(data)
        frame = without_repeats(frame, time, zone, which).sort_values(time)
        found[number] = _steady(frame, time, step, frequency, which, zone)
        step = step or found[number].freq
    return _trimmed([(name, found[number]) for number, (name, _) in enumerate(groups)], targets, known, data, zone)


def _trimmed(
    every: list[tuple[str, TimeSeries]], targets: list[str], known: list[str], data: Path, zone: str | None
) -> Table:
    """Series from their first value to their last, and whole covariates."""
    series, names, covariates, empty, cut = [], [], [], [], 0
    for name, whole in every:
        observed = np.isfinite(whole[targets].values(copy=False)).any(axis=1)
        if not observed.any():
            empty.append(name)
            continue
        first, last = np.flatnonzero(observed)[[0, -1]]
        series.append(whole[targets][int(first) : int(last) + 1])
        names.append(name)
        covariates += [whole[known]] if known else []
        cut += int(last + 1 < len(observed))
    if not series:
        raise Unusable(f"{data} has no value in {', '.join(targets)}")
    if empty:
        logger.warning("series without any value, which are left out: %s", ", ".join(empty))
    if cut and not known:
        of = f"{cut} of {len(series)} series" if any(names) else str(data)
        logger.warning("%s: the last rows have no value; the forecast begins after the last value", of)
    return Table(series, names if any(names) else None, covariates or None, zone)


def _split(asked: Sequence[str] | None, columns: list[str]) -> list[str]:
    """Names of columns; what is none is split at its commas."""
    found = ([name] if name in columns else name.split(",") for name in asked or [])
    return list(dict.fromkeys(name.strip() for names in found for name in names))


def _targets(frame: pd.DataFrame, wanted: list[str], others: list[str], data: Path) -> list[str]:
    numbers = [name for name in others if pd.api.types.is_numeric_dtype(frame[name])]
    if both := [name for name in wanted if name not in others]:
        raise Unusable(f"column {both[0]!r} is in --target and in --covariates: leave it out of one")
    if not wanted:
        like = [name for name in others if name not in numbers and _looks_like_numbers(frame[name])]
        _check_numbers(frame, like)
        if not numbers:
            raise Unusable(f"{data} has no column of numbers to forecast; it has {', '.join(map(str, frame.columns))}")
    _check_numbers(frame, wanted)
    return wanted or numbers


def _looks_like_numbers(column: pd.Series) -> bool:
    told = column.dropna().astype(str)
    return bool(len(told)) and bool(told.str.fullmatch(NUMBER_LIKE).mean() > 0.5)


def _check_numbers(frame: pd.DataFrame, names: list[str]) -> None:
    """Refuses columns of text, with what to do about it."""
    for name in names:
        if pd.api.types.is_numeric_dtype(frame[name]):
            continue
        told = frame[name].dropna().astype(str)
        wrong = told[pd.to_numeric(told, errors="coerce").isna()]
        if not _looks_like_numbers(told):
            numbers = [str(one) for one in frame.columns if pd.api.types.is_numeric_dtype(frame[one])]
            raise Unusable(
                f"column {name!r} is no column of numbers, but of text such as {told.iloc[0]!r}; take some of "
                f"{', '.join(numbers) or 'none'}"
            )
        if (strange := wrong[~wrong.str.fullmatch(NUMBER_LIKE)]).size:
            raise Unusable(
                f"column {name!r} holds {strange.iloc[0]!r} ({len(strange)} of {len(frame)} rows are no numbers): "
                "leave these empty, or correct them"
            )
        raise Unusable(
            f"column {name!r} holds numbers such as {wrong.iloc[0]!r}: say how they are written, as in "
            "--thousands , for 1,234.5 or --decimal , for 0,5"
        )


def _steady(frame: pd.DataFrame, time: str, step: Any, asked: str | None, which: str, zone: str | None) -> TimeSeries:
    logging.disable(logging.ERROR)  # what Darts would tell of is in our error
    try:
        steady = step or steady_step(frame[time])
        frame = frame.astype({name: float for name in frame.columns if name != time})
        return TimeSeries.from_dataframe(frame, time, fill_missing_dates=True, freq=steady).astype("float32")
    except ValueError as error:
        raise Unusable(_unsteady(frame[time], step, asked, which, zone)) from error
    finally:
        logging.disable(logging.NOTSET)


def _unsteady(times: pd.Series, step: Any, asked: str | None, which: str, zone: str | None) -> str:
    steps = times.diff().mode()
    days = len(steps) and steps.iloc[0] >= pd.Timedelta("1D")
    if days and zone is not None:
        return (
            f"the times of {which} are days or longer, but not at steady steps in UTC, nor at one time of the day by "
            f"the clock of {zone}: give dates without offsets, or the zone they begin in, as in --zone Europe/Berlin"
        )
    if asked is not None:
        return f"the times of {which} are not all at steps of --frequency {asked}"
    if step is not None:
        return (
            f"the times of {which} are not all at steps of {step.freqstr}, as those of the series with the most rows: "
            "say which, as in --frequency h, or forecast it by itself"
        )
    if len(times) == 1:
        return f"{which} has one row: say the step of its times, as in --frequency h"
    if days:
        return f"the times of {which} have no steady step that can be read off: say which, as in --frequency D"
    most = f": most are {steps.iloc[0]} apart, but others no multiple of that" if len(steps) else ""
    return f"the times of {which} have no steady step{most}; round them, or say which, as in --frequency h"


def _frame(data: Path, text: list[str], decimal: str, thousands: str | None) -> pd.DataFrame:
    """The table; of a .csv the columns named in `text` as they stand, but years as numbers."""
    try:
        if data.suffix == ".parquet":
            return pd.read_parquet(data)
        with data.open(encoding="utf-8", errors="replace") as file:
            header = file.readline()
        separator = max(",;\t", key=header.count)
        frame = pd.read_csv(data, sep=separator, decimal=decimal, thousands=thousands, dtype=dict.fromkeys(text, str))
    except (OSError, ValueError) as error:
        raise Unusable(f"{data} can't be read: {' '.join(str(error).split())}") from error
    if text[0] in frame and (numbers := pd.to_numeric(frame[text[0]], errors="coerce")).notna().any():
        return frame.assign(**{text[0]: numbers}) if numbers.isna().equals(frame[text[0]].isna()) else frame
    return frame


def _refuse_several(used: pd.DataFrame, whole: pd.DataFrame, time: str) -> None:
    """Raises Unusable where many rows have the time of another one, and other values."""
    distinct = used.drop_duplicates()
    again = distinct[time][distinct[time].duplicated()]
    if len(again) <= SEVERAL * len(distinct):
        return
    rows = whole.drop_duplicates()
    apart = [name for name in rows.columns if name not in used and not rows.duplicated([time, name]).any()]
    raise Unusable(
        f"column {time!r} has {again.iloc[0]} more than once, as many of its times: that is a table of several series; "
        f"name the column that tells them apart, as in --series {apart[0] if apart else 'shop'}, or keep one row a time"
    )


def without_repeats(frame: pd.DataFrame, time: str, zone: str | None, which: str) -> pd.DataFrame:
    """Rows that are there twice are taken once; times with several values are refused."""
    once = frame.drop_duplicates()
    if len(once) < len(frame):
        logger.warning("%d rows of %s repeat others: they are taken once", len(frame) - len(once), which)
    again = once[time][once[time].duplicated()]
    if len(again):
        clock = "" if zone else "; where a clock was set back, say whose, as in --zone Europe/Berlin"
        raise Unusable(
            f"column {time!r} has {again.iloc[0]} more than once with different values, as {again.nunique()} times of "
            f"{which} in all: keep one row for each{clock}"
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
