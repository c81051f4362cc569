"""The season of a series, the seasonal naive forecast's error, and the look-backs that are worth trying."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.ndimage import uniform_filter1d

LOOKBACKS = (336, 1024)  # steps
SEASONS = (1, 2, 4)  # look-backs, in seasons
LONGEST = 1536  # steps of a look-back: the cost grows with its cube

_PERIODS = ("1h", "1D", "7D", "365.25D")  # of what repeats by the clock and the calendar
_CALENDAR = {"Y": 1, "A": 1, "Q": 4, "M": 12, "SM": 24, "W": 52, "B": 5, "C": 5}  # steps a season, by the first letters
_LEAST_CORRELATION = 0.2  # of the detrended series with itself a season earlier; chance gives 1 / sqrt(cycles) at most
_LEAST_CYCLES = 4  # that a season shows in the data
_USUAL, _STRAY = 0.9, 50.0  # a stray is so many times as far from the median as that share of the values
_LONGER = 0.8  # of the variance that a season leaves unexplained, a longer one may leave no more than this share


def find_season(freq: str | pd.offsets.BaseOffset | int, series: Sequence[Float[np.ndarray, "_ V"]]) -> int | None:
    """Steps after which the series repeat themselves, of those that their frequency suggests; None where they don't.

    A season counts where the series, without its moving average over that season, correlates with itself a season
    earlier; the mean over components and series. A frequency in plain steps (an integer index) suggests nothing. Strays
    are left out: one error code of -9999 would hide every season.
    """
    found, unexplained = None, math.inf
    series = [np.where(strays(one), np.nan, one) for one in series]
    longest = max((len(one) for one in series), default=0)
    for season in candidate_seasons(freq):
        correlations = [_correlation(column, season) for one in series for column in one.T.astype(np.float64)]
        known = [value for value in correlations if not math.isnan(value)]
        score = float(np.mean(known)) if known else 0.0
        least = max(_LEAST_CORRELATION, math.sqrt(season / max(longest, 1)))
        if score > least and 1 - score <= _LONGER * unexplained:
            found, unexplained = season, 1 - score
    return found


def candidate_seasons(freq: str | pd.offsets.BaseOffset | int) -> list[int]:
    """An hour, a day, a week and a year, in steps of `freq`: those that are at least two whole steps; ascending."""
    if isinstance(freq, int):
        return []
    offset = pd.tseries.frequencies.to_offset(freq)
    if isinstance(offset, pd.offsets.Tick | pd.offsets.Day):
        steps = [pd.Timedelta(period) / pd.Timedelta(offset) for period in _PERIODS]
        return [round(step) for step in steps if step >= 2 and (step == round(step) or step > 300)]
    try:
        code = offset.rule_code
    except NotImplementedError:  # a DateOffset of any parts
        return []
    name = code.split("-")[0].removesuffix("S").removesuffix("E").removeprefix("B") or "B"
    steps = _CALENDAR.get(name, 0) / offset.n
    return [int(steps)] if steps >= 2 and steps == int(steps) else []


def candidate_lookbacks(context: int, season: int | None) -> list[int]:
    """Ascending look-backs in steps, none longer than `context`: one, two and four seasons, and the usual ones.

    A usual one that differs from what is there by less than a quarter adds only cost.
    """
    longest = min(context, LONGEST)
    found = [season * times for times in SEASONS if season * times <= longest] if season is not None else []
    for usual in LOOKBACKS:
        steps = min(usual, longest)
        if all(max(steps, other) > 1.25 * min(steps, other) for other in found):
            found.append(steps)
    return sorted(found)


def strays(values: Float[np.ndarray, "T V"]) -> Bool[np.ndarray, "T V"]:
    """Where a component is more than 50 times as far from its median as 90 % of its values: error codes, mostly."""
    found = np.zeros(values.shape, dtype=bool)
    for component, column in enumerate(values.T):
        seen = np.isfinite(column)
        if seen.any():
            distance = np.abs(column - np.median(column[seen]))
            usual = np.quantile(distance[seen], _USUAL)
            found[:, component] = seen & (distance > _STRAY * usual) & (usual > 0)
    return found


def naive_error(series: Sequence[Float[np.ndarray, "_ V"]], season: int | None) -> Float[np.ndarray, "V"]:
    """Mean |x_t - x_{t - season}| of every component over all series: the unit of the MASE.

    Without a season the step before is the forecast. NaN for a component with no such pair.
    """
    lag = season or 1
    total, count = 0.0, 0
    for one in series:
        difference = np.abs(one[lag:] - one[:-lag])
        seen = np.isfinite(difference)
        total, count = total + np.where(seen, difference, 0.0).sum(axis=0), count + seen.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(total) / np.asarray(count)


def _correlation(values: Float[np.ndarray, "T"], season: int) -> float:
    """Of the values without their centred moving average over a season with those a season earlier; NaN: can't be told.

    Gaps are left out of the averages; ends, where no average is whole, are left out.
    """
    seen = np.isfinite(values)
    if len(values) < _LEAST_CYCLES * season or not seen.any():
        return math.nan
    filled = np.where(seen, values - values[seen].mean(), 0.0)
    rest = filled - _moving_average(filled, season) / np.maximum(_moving_average(seen.astype(np.float64), season), 1e-9)
    rest = np.where(seen, rest, np.nan)[season // 2 : len(rest) - season // 2]
    now, before = rest[season:], rest[:-season]
    both = np.isfinite(now) & np.isfinite(before)
    if both.sum() < season or not now[both].std() or not before[both].std():
        return math.nan
    return float(np.corrcoef(now[both], before[both])[0, 1])


def _moving_average(values: Float[np.ndarray, "T"], season: int) -> Float[np.ndarray, "T"]:
    """Centred over a season; an even one has half a weight at both ends, as in the classical decomposition."""
    average = uniform_filter1d(values, season, mode="constant")
    return average if season % 2 else (average + uniform_filter1d(values, season, mode="constant", origin=-1)) / 2
