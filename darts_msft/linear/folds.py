"""Cross-fitting: a regression leaves a fold of the training series out, and forecasts it.

A fold is a stretch of the training series, laid end to end. No window that touches it takes part in the fit; those
whose future lies in it judge. Folds are of all times of the training part, where validation windows are of its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from darts_msft.linear.equations import Equations, Frame, Stretch, equations_of, merge, without
from darts_msft.linear.ridge import residuals, solve
from darts_msft.linear.windows import Windows, comparable, cut_windows, spreads_of

FOLDS = 4
FOLD_WINDOWS = 64  # that judge, in each fold
MOST_VALUES = 8192  # to forecast in a window, beyond which fewer windows judge

Series = Sequence[Float[np.ndarray, "_ V"]]


class Fold(NamedTuple):
    """Its stretch of each series, and windows that forecast it from the longest look-back."""

    stretches: list[Stretch | None]
    windows: Windows


def make_folds(series: Series, frame: Frame) -> list[Fold]:
    """`frame` has the longest look-back. Folds in which no window is complete are left out."""
    ends = list(accumulate(map(len, series)))
    edges = [ends[-1] * fold // FOLDS for fold in range(FOLDS + 1)]
    values = series[0].shape[1] * frame.horizon
    count = max(8, min(FOLD_WINDOWS, FOLD_WINDOWS * MOST_VALUES // values))
    folds = []
    for low, high in pairwise(edges):
        stretches = [_within(low, high, end - len(one), len(one)) for one, end in zip(series, ends, strict=True)]
        windows = _windows(series, stretches, frame, count)
        if windows is not None:
            folds.append(Fold(stretches, windows))
    return folds


def _within(low: int, high: int, start: int, length: int) -> Stretch | None:
    """Of the steps from `low` to `high` of all series those of one that begins at `start`; None without any."""
    found = Stretch(max(low - start, 0), min(high - start, length))
    return found if found.stop > found.start else None


def _windows(series: Series, stretches: Sequence[Stretch | None], frame: Frame, count: int) -> Windows | None:
    """Evenly over all whose future lies in the stretches; None where none is complete."""
    reach = frame.lookback + frame.shift
    tails, units = [], []
    for one, stretch in zip(series, stretches, strict=True):
        tail = one[:0] if stretch is None else one[max(stretch.start - reach, 0) : stretch.stop]
        if len(tail) >= frame.length:
            tails.append(tail)
            units.append(spreads_of(one))
    if not tails:
        return None
    windows, usable = comparable(cut_windows(tails, frame, count, units), [frame.lookback])
    return windows if usable else None


def cross_residuals(
    series: Series, frame: Frame, penalties: Mapping[bool, float], folds: Sequence[Fold]
) -> dict[bool, Float[np.ndarray, "B V H"]]:
    """Errors of regressions on the folds' windows, of one fold after the other; NaN where they can't be told.

    `penalties` has one for each component's own windows (False), for all components' windows together (True), or both.
    """
    components = series[0].shape[1]
    found = {pooled: [_unknown(fold.windows) for fold in folds] for pooled in penalties}
    everyone: Equations | None = None
    touching: list[Equations | None] = [None] * len(folds)
    for component in range(components):
        columns = [one[:, component] for one in series]
        own = equations_of(columns, frame)
        parts = [equations_of(columns, frame, fold.stretches) for fold in folds]
        everyone = merge([everyone, own])
        touching = [merge(pair) for pair in zip(touching, parts, strict=True)]
        for fold, part, errors in zip(folds, parts, found.get(False, []), strict=False):
            _judge(without(own, part), penalties[False], fold.windows, [component], errors)
    for fold, part, errors in zip(folds, touching, found.get(True, []), strict=False):
        _judge(without(everyone, part), penalties[True], fold.windows, range(components), errors)
    return {pooled: np.concatenate(errors) for pooled, errors in found.items()}


def _unknown(windows: Windows) -> Float[np.ndarray, "B V H"]:
    return np.full(np.moveaxis(windows.future, 1, 2).shape, np.nan)


def _judge(
    equations: Equations | None,
    penalty: float,
    windows: Windows,
    components: Iterable[int],
    errors: Float[np.ndarray, "B V H"],
) -> None:
    """Writes the errors of these components' forecasts."""
    if equations is None:
        return
    weight = solve(equations, penalty)
    for component in components:
        errors[:, component] = residuals(weight, windows.past[:, :, component], windows.future[:, :, component])
