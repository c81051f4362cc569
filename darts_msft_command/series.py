"""A table's rows as series, with steady steps, for the command line."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from darts import TimeSeries

from darts_msft_command.clocks import Unusable
from darts_msft_command.tables import Rows

logger = logging.getLogger("darts_msft")

GONE = 12  # steps at the end of a table without a value: a column that may have ended


class Table(NamedTuple):
    """Series without a zone, in UTC where the file's times have a `zone`, each with its covariates, if there are any.

    `names` are those in the column of series; None: the table is one series. A series ends with its last value, its
    covariates with their table's last row.
    """

    series: list[TimeSeries]
    names: list[str] | None
    covariates: list[TimeSeries] | None
    zone: str | None


def series_of(rows: Rows, frequency: str | None = None) -> Table:
    """Each series at the steps of the longest where none are asked for; times that are missing become gaps."""
    found: dict[str, TimeSeries] = {}
    step: Any = frequency
    for name in sorted(rows.frames, key=lambda name: -len(rows.frames[name])):
        which = f"series {name!r}" if len(rows.frames) > 1 else str(rows.data)
        found[name] = _steady(rows.frames[name], rows.time, step, frequency, which, rows.zone)
        step = step or found[name].freq
    return _trimmed({name: found[name] for name in rows.frames}, rows)


def _trimmed(every: dict[str, TimeSeries], rows: Rows) -> Table:
    """Series from their first value to their last, and whole covariates."""
    targets, known = rows.targets, rows.known
    series, names, covariates, empty, ended, cut = [], [], [], [], set(), 0
    for name, whole in every.items():
        observed = np.isfinite(whole[targets].values(copy=False)).any(axis=1)
        if not observed.any():
            empty.append(name)
            continue
        first, last = np.flatnonzero(observed)[[0, -1]]
        end = np.isfinite(whole[targets].values(copy=False)[max(last + 1 - GONE, 0) : last + 1]).any(axis=0)
        ended |= {one for one, there in zip(targets, end, strict=True) if not there}
        series.append(whole[targets][int(first) : int(last) + 1])
        names.append(name)
        covariates += [whole[known]] if known else []
        cut += int(last + 1 < len(observed))
    if not series:
        raise Unusable(f"{rows.data} has no value in {', '.join(targets)}")
    if empty:
        logger.warning("series without any value, which are left out: %s", ", ".join(empty))
    if cut and not known:
        of = f"{cut} of {len(series)} series" if any(names) else str(rows.data)
        logger.warning("%s: the last rows have no value; the forecast begins after the last value", of)
    if ended:
        logger.warning(
            "no value in the last %d steps of %s, while other columns go on: name what is to forecast in --target, and "
            "what is known ahead in --covariates",
            GONE,
            ", ".join(sorted(ended)),
        )
    return Table(series, names if any(names) else None, covariates or None, rows.zone)


def _steady(frame: pd.DataFrame, time: str, step: Any, asked: str | None, which: str, zone: str | None) -> TimeSeries:
    logging.disable(logging.ERROR)  # what Darts would tell of is in our error
    try:
        steady = step or steady_step(frame[time])
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


def steady_step(times: pd.Series) -> pd.tseries.offsets.BaseOffset | None:
    """The step of sorted times less than a day apart, of which some may be missing; None: Darts finds it."""
    steps = times.diff().dropna()
    if steps.empty:
        return None
    step = steps.mode().iloc[0]
    if step >= pd.Timedelta("1D") or np.any(steps % step != pd.Timedelta(0)):
        return None
    return pd.tseries.frequencies.to_offset(step)
