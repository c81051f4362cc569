"""The rows of a file's table: its columns, numbers, times and repeated rows. It knows pandas alone, to answer soon."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from darts_msft_command.clocks import Unusable, times_of, twofold, written

logger = logging.getLogger("darts_msft")

SEVERAL = 0.25  # of the rows have the time of another one: these are several series
NUMBER_LIKE = re.compile(r"\s*[-+]?\d[\d.,' ]*\s*")


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
    decimal: str = ".",
    thousands: str | None = None,
) -> Rows:
    """The rows in a file, each once."""
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
    used = frame[[time, *([series] if series else []), *dict.fromkeys([*targets, *known])]]
    if series is not None and (nameless := int(used[series].isna().sum())):
        raise Unusable(f"column {series!r} names no series in {nameless} rows: fill it, or leave them out")
    stand = written(used[time])
    used = _once(used, twofold(stand, zone), data)
    if series is None:
        _refuse_several(used, frame, time)
    names = None if series is None else used[series].astype(str)
    used[time], zone = times_of(stand.at(used.index), zone, names)
    groups = [("", used)] if names is None else list(used.drop(columns=series).groupby(names, sort=False))
    several = len(groups) > 1
    frames = {
        str(name): without_repeats(own, time, zone, f"series {name!r}" if several else str(data)).sort_values(time)
        for name, own in groups
    }
    return Rows(frames, time, targets, known, zone, data)


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
                f"column {name!r} holds {strange.iloc[0]!r} (row {strange.index[0] + 2} of the file; {len(strange)} of "
                f"{len(frame)} rows are no numbers): leave these empty, or correct them"
            )
        raise Unusable(
            f"column {name!r} holds numbers such as {wrong.iloc[0]!r}: say how they are written, as in "
            "--thousands , for 1,234.5 or --decimal , for 0,5"
        )


def _frame(data: Path, text: list[str], decimal: str, thousands: str | None) -> pd.DataFrame:
    """The table; of a .csv the columns named in `text` as they stand, but years as numbers."""
    try:
        if data.suffix == ".parquet":
            frame = pd.read_parquet(data)
            return frame.reset_index(drop=not any(frame.index.names))
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
    again = used[time][used[time].duplicated()]
    if len(again) <= SEVERAL * len(used):
        return
    rows = whole.drop_duplicates()
    apart = [name for name in rows.columns if name not in used and not rows.duplicated([time, name]).any()]
    raise Unusable(
        f"column {time!r} has {again.iloc[0]} more than once, as many of its times: that is a table of several series; "
        f"name the column that tells them apart, as in --series {apart[0] if apart else 'shop'}, or keep one row a time"
    )


def _once(frame: pd.DataFrame, but: pd.Series, data: Path) -> pd.DataFrame:
    """Without rows that are there before, but those at some times."""
    repeats = frame.duplicated() & ~but
    if repeats.any():
        logger.warning("%d rows of %s repeat others: they are taken once", int(repeats.sum()), data)
    return frame[~repeats].copy()


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
