"""The rows of a file's table: its columns, numbers, times and repeated rows. It knows pandas alone, to answer soon."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from darts_msft_command.clocks import Unusable, times_of, twofold, written
from darts_msft_command.columns import MISSING, PLAIN, Signs, numbers, perhaps_thousands, told

logger = logging.getLogger("darts_msft")

SEVERAL = 0.25  # of the rows have the time of another one: these are several series


class Rows(NamedTuple):
    """A table's rows, in the order of time, by the name of their series; "" where the table is one.

    Columns to forecast are `targets`, those that are known ahead `known`; `time` is in UTC where the file's times have
    a `zone`.
    """

    frames: dict[str, pd.DataFrame]
    time: str
    targets: list[str]
    known: list[str]
    zone: str | None
    data: Path


def read(
    data: Path,
    time: str,
    target: Sequence[str] | None = None,
    zone: str | None = None,
    series: str | None = None,
    covariates: Sequence[str] | None = None,
    signs: Signs = PLAIN,
    day_first: bool | None = None,
) -> Rows:
    """The rows in a file, each once; what was decided is told once nothing is left to refuse."""
    frame, separator = _frame(data)
    keys = [time] if series is None else [time, series]
    columns = [str(column) for column in frame.columns]
    known, wanted = _split(covariates, columns), _split(target, columns)
    _check_names(data, columns, keys, known, wanted)
    if not len(frame):
        raise Unusable(f"{data} has no rows")
    values, remarks = _numbers(frame, [name for name in columns if name not in keys], known, wanted, signs, data)
    if separator not in (None, ",") and signs == PLAIN:
        remarks += [
            f"column {name!r}: {number} is read as a little more than {number.split('.')[0]}; "
            "where points are between thousands, give --decimal , --thousands ."
            for name in values
            if (number := perhaps_thousands(frame[name])) is not None
        ]
    frame[time] = _times(frame[time])
    if series is not None:
        frame[series] = frame[series].replace("", None)
        if nameless := int(frame[series].isna().sum()):
            raise Unusable(f"column {series!r} names no series in {nameless} rows: fill it, or leave them out")
    stand = written(frame[time], day_first)
    again = twofold(stand, zone)
    _refuse_several(frame[~frame.duplicated() | again], keys)
    used = pd.concat([frame[keys], pd.DataFrame(values)], axis=1)
    repeats = used.duplicated() & ~again
    used = used[~repeats].copy()
    names = None if series is None else used[series].astype(str)
    used[time], told_in = times_of(stand.at(used.index), zone, names)
    groups = [("", used)] if names is None else list(used.drop(columns=series).groupby(names, sort=False))
    several = len(groups) > 1
    frames = {
        str(name): without_repeats(own, time, zone, f"series {name!r}" if several else str(data)).sort_values(time)
        for name, own in groups
    }
    if repeats.any():
        remarks.append(f"{int(repeats.sum())} rows of {data} repeat others: they are taken once")
    for remark in filter(None, (*remarks, stand.remark)):
        logger.warning(remark)
    return Rows(frames, time, [name for name in values if name not in known], known, told_in, data)


def _frame(data: Path) -> tuple[pd.DataFrame, str | None]:
    """The table, and what separates its columns in a .csv, of which each cell is text as it stands."""
    try:
        if data.suffix.lower() == ".parquet":
            frame = pd.read_parquet(data)
            nested = [name for name in frame if pd.api.types.infer_dtype(frame[name], skipna=True) == "mixed"]
            frame = frame.astype(dict.fromkeys(nested, str))  # lists and the like
            return frame.reset_index(drop=not any(frame.index.names)), None
        with data.open(encoding="utf-8") as file:
            header = re.sub('"[^"]*"', "", file.readline())
        separator = max(",;\t", key=header.count)
        return pd.read_csv(data, sep=separator, dtype=str, keep_default_na=False), separator
    except UnicodeDecodeError as error:
        raise Unusable(f"{data} is not in UTF-8: save it so, in Excel as 'CSV UTF-8'") from error
    except (OSError, ValueError) as error:
        raise Unusable(f"{data} can't be read: {' '.join(str(error).split())}") from error


def _split(asked: Sequence[str] | None, columns: list[str]) -> list[str]:
    """Names of columns; what is none is split at its commas."""
    found = ([name] if name in columns else name.split(",") for name in asked or [])
    return list(dict.fromkeys(name.strip() for names in found for name in names))


def _check_names(data: Path, columns: list[str], keys: list[str], known: list[str], wanted: list[str]) -> None:
    if unknown := [name for name in (*keys, *known, *wanted) if name not in columns]:
        raise Unusable(f"{data} has no column {unknown[0]!r}; it has {', '.join(columns)}")
    if keys[0] in keys[1:]:
        raise Unusable(f"column {keys[0]!r} is in --time and in --series: give two")
    if both := [name for name in (*known, *wanted) if name in keys]:
        raise Unusable(f"column {both[0]!r} is that of times or series: leave it out of --target and --covariates")
    if both := [name for name in wanted if name in known]:
        raise Unusable(f"column {both[0]!r} is in --target and in --covariates: leave it out of one")


def _numbers(
    frame: pd.DataFrame, others: list[str], known: list[str], wanted: list[str], signs: Signs, data: Path
) -> tuple[dict[str, pd.Series], list[str]]:
    """Columns to forecast, then those known ahead, and a word on the `others` that can't be forecast."""
    found = {name: numbers(frame[name], signs) for name in (wanted or others) if name not in known}
    found |= {name: numbers(frame[name], signs) for name in known}
    text = [name for name, column in found.items() if column is None]
    empty = [name for name, column in found.items() if column is not None and column.isna().all() and name not in known]
    if refused := [name for name in text if name in (*wanted, *known)]:
        fit = [name for name in others if name not in text and _of_numbers(frame[name], signs)]
        raise Unusable(
            f"column {refused[0]!r} is no column of numbers, but of text such as "
            f"{told(frame[refused[0]]).iloc[0]!r}; take some of {', '.join(fit) or 'none'}"
        )
    if wanted and empty:
        raise Unusable(f"{data} has no value in {empty[0]}")
    kept = {name: column for name, column in found.items() if column is not None and name not in empty}
    if not set(kept) - set(known):
        raise Unusable(f"{data} has no column of numbers to forecast; it has {', '.join(map(str, frame.columns))}")
    left = {"no numbers": text, "no values": empty}
    return kept, [f"columns of {what}, which are left out: {', '.join(names)}" for what, names in left.items() if names]


def _of_numbers(column: pd.Series, signs: Signs) -> bool:
    try:
        return numbers(column, signs) is not None
    except Unusable:
        return False


def _times(column: pd.Series) -> pd.Series:
    """A column's times as they stand, but years as numbers."""
    if not pd.api.types.is_object_dtype(column) and not pd.api.types.is_string_dtype(column):
        return column
    text = column.where(~column.astype(str).str.strip().str.lower().isin(MISSING))
    found = pd.to_numeric(text, errors="coerce")
    return found if found.notna().any() and found.isna().equals(text.isna()) else text


def _refuse_several(rows: pd.DataFrame, keys: list[str]) -> None:
    """Raises Unusable where many rows have the time of another one."""
    again = rows[rows.duplicated(keys)]
    if len(again) <= SEVERAL * len(rows):
        return
    first = f"column {keys[0]!r} has {again[keys[0]].iloc[0]} more than once"
    if len(keys) > 1:
        raise Unusable(
            f"{first} in series {str(again[keys[1]].iloc[0])!r}, as many of its times: --series {keys[1]} doesn't tell "
            "all series apart; keep one row a time, or name a column that does"
        )
    apart = [
        name
        for name in rows.columns
        if name not in keys and rows[name].duplicated().any() and not rows.duplicated([*keys, name]).any()
    ]
    raise Unusable(
        f"{first}, as many of its times: that is a table of several series; name the column that tells them apart, as "
        f"in --series {apart[0] if apart else 'shop'}, or keep one row a time"
    )


def without_repeats(frame: pd.DataFrame, time: str, zone: str | None, which: str) -> pd.DataFrame:
    """Rows that are there twice are taken once; times with several values are refused."""
    once = frame.drop_duplicates()
    again = once[time][once[time].duplicated()]
    if len(again):
        clock = "" if zone else "; where a clock was set back, say whose, as in --zone Europe/Berlin"
        raise Unusable(
            f"column {time!r} has {again.iloc[0]} more than once with different values, as {again.nunique()} times of "
            f"{which} in all: keep one row for each{clock}"
        )
    return once
