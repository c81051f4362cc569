"""Windows to judge forecasts on: those that are given, or some of the training series'."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from darts_msft.linear.equations import Frame, spread_of

HELD_OUT = 256  # windows that judge, without others


class Windows(NamedTuple):
    """Windows with what followed them, `shift` steps later; missing values are NaN."""

    past: Float[np.ndarray, "B C V"]
    future: Float[np.ndarray, "B H V"]
    unit: Float[np.ndarray, "B V"]
    """What an error of 1 is: the spread of the window's series, so that components and series count alike."""

    def of(self, component: int) -> Windows:
        """One component alone."""
        return Windows(*(part[..., component : component + 1] for part in self))


def complete(windows: Windows, lookback: int) -> Bool[np.ndarray, "B V"]:
    """Whether a forecast from the last `lookback` steps can be judged: they are all there, and some of the future."""
    if lookback > windows.past.shape[1]:
        return np.zeros(windows.unit.shape, dtype=bool)
    inputs = windows.past[:, windows.past.shape[1] - lookback :]
    return np.isfinite(inputs).all(axis=1) & np.isfinite(windows.future).any(axis=1) & (windows.unit > 0)


def comparable(windows: Windows, lookbacks: Sequence[int]) -> tuple[Windows, list[int]]:
    """The look-backs that can be judged on these windows, and the windows with the targets that all of them can tell.

    A longer look-back that can tell less than half of what the shortest can is left out.
    """
    known = {lookback: complete(windows, lookback) for lookback in sorted(lookbacks)}
    counts = {lookback: int(seen.sum()) for lookback, seen in known.items()}
    most = max(counts.values(), default=0)
    usable = [lookback for lookback, count in counts.items() if count and 2 * count >= most]
    if not usable:
        return windows, []
    future = np.where(known[usable[-1]][:, None] & np.isfinite(windows.future), windows.future, np.nan)
    return windows._replace(future=future), usable


def hold_out(
    series: Sequence[Float[np.ndarray, "_ V"]], frame: Frame
) -> tuple[list[Float[np.ndarray, "_ V"]], Windows | None]:
    """The series without their last fifth, and windows that forecast that; None where nothing can be held out.

    Their past is before the fifth or in it; before a series begins it is missing.
    """
    cuts = [len(one) - max(frame.horizon, len(one) // 5) for one in series]
    heads = [one[: max(cut, 0)] for one, cut in zip(series, cuts, strict=True)]
    fits = [(one, cut) for one, cut in zip(series, cuts, strict=True) if cut > frame.shift]
    start = ((frame.lookback, 0), (0, 0))
    tails = [np.pad(one, start, constant_values=np.nan)[cut - frame.shift :] for one, cut in fits]
    return heads, cut_windows(tails, frame, HELD_OUT) if tails else None


def cut_windows(
    series: Sequence[Float[np.ndarray, "_ V"]],
    frame: Frame,
    count: int,
    units: Sequence[Float[np.ndarray, "V"]] | None = None,
) -> Windows:
    """At most `count` windows, evenly over all positions of all series, in units of their series' spread.

    `units` are those of what the series were cut from.
    """
    starts = [max(len(one) - frame.length + 1, 0) for one in series]
    ends = np.cumsum(starts)
    chosen = np.unique(np.linspace(0, max(ends[-1] - 1, 0), min(count, ends[-1])).astype(int))
    units = units or [spreads_of(one) for one in series]
    past, future, unit = [], [], []
    for position in chosen:
        index = int(np.searchsorted(ends, position, side="right"))
        start = position - ends[index] + starts[index]
        window = series[index][start : start + frame.length]
        past.append(window[: frame.lookback])
        future.append(window[frame.lookback + frame.shift :])
        unit.append(units[index])
    return Windows(np.stack(past), np.stack(future), np.stack(unit))


def spreads_of(series: Float[np.ndarray, "_ V"]) -> Float[np.ndarray, "V"]:
    """Each component's."""
    return np.array([spread_of(column) for column in series.T])
