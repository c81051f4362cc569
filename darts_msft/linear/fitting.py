"""The fit of the linear member: candidates, how well each forecasts, their average, and its distribution.

A candidate is a ridge regression with a look-back, a penalty, and a share of all components' windows in each
component's equations. Of each look-back and share the penalty is taken that is best for all components together; these
are averaged, for each component with weights that fall with a power of its mean squared errors. This is safer than the
best one and than weights by least squares, and costs nothing later: an average of linear maps is one linear map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, repeat
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from darts_msft.linear.equations import Equations, Frame, equations_of, merge
from darts_msft.linear.member import LinearMember
from darts_msft.linear.ridge import leverage, residuals, solve
from darts_msft.linear.student import Student, choose_student
from darts_msft.linear.windows import Windows, comparable, cut_windows, hold_out

PENALTIES = (1e-4, 1e-2, 1.0)  # relative to the mean diagonal of the Gram matrix
SHARES = (0.0, 1.0)  # own matrices, one for all; their average shrinks the one towards the other
POWER = 8.0  # weights ~ MSE ** -POWER
LEAST_WEIGHT = 0.02  # of a candidate in the average
MOST_OWN = 32  # components with matrices of their own; more of them share one
TRAINING_WINDOWS = 256  # whose residuals tell the distribution, together with those on validation windows

Series = Sequence[Float[np.ndarray, "_ V"]]


class Candidate(NamedTuple):
    """A ridge regression in the average."""

    frame: Frame
    share: float  # of all components' windows in a component's equations
    penalty: float
    error: Float[np.ndarray, "V"]  # mean squared on the windows that judge, in units; NaN: can't be told
    weight: Float[np.ndarray, "V"] | None = None  # in the average


class LinearFit(NamedTuple):
    """The member, what it is the average of, and whether that was chosen on the validation windows that were given."""

    member: LinearMember
    candidates: list[Candidate]
    validated: bool


def fit_linear(
    series: Series, horizon: int, lookbacks: Sequence[int], shift: int = 0, validation: Windows | None = None
) -> LinearFit | None:
    """From all windows of the training series without a gap (NaN); None where no look-back fits into any.

    Choices are made on the validation windows. Without any that are complete, the last fifth of every series judges
    fits to the rest, and what was chosen is fitted anew to all. (Generalised cross-validation is fooled where series
    are short: windows overlap, so that one that is left out is not unseen.)
    """
    _check(series, horizon, lookbacks, shift, validation)
    series = [np.where(np.isfinite(one), one, np.nan).astype(np.float64) for one in series]
    judged, (windows, usable) = series, comparable(validation, lookbacks) if validation else (None, [])
    validated = bool(usable)
    if not validated:
        judged, held_out = hold_out(series, Frame(max(lookbacks, default=1), horizon, shift))
        windows, usable = comparable(held_out, lookbacks) if held_out else (None, [])
    if windows is None:
        return None
    frames = [Frame(lookback, horizon, shift) for lookback in usable]
    pooled = _pooled(judged, frames)
    candidates = [
        candidate
        for frame, equations in pooled.items()
        for candidate in _best_penalties(judged, frame, equations, windows)
    ]
    if not candidates:
        return None
    candidates = _weighted(candidates, alike=series[0].shape[1] > MOST_OWN)
    weight, moved = _average(judged, candidates, pooled)
    trained = cut_windows(judged, Frame(weight.shape[1], horizon, shift), TRAINING_WINDOWS)
    student = _distribution(weight, [(trained, moved), (windows, 0 * moved)])
    if not validated:
        weight, _ = _average(series, candidates, _pooled(series, list({one.frame for one in candidates})))
    member = LinearMember(*(torch.tensor(part, dtype=torch.float32) for part in (weight, *student)))
    return LinearFit(member, candidates, validated)


def _check(series: Series, horizon: int, lookbacks: Sequence[int], shift: int, validation: Windows | None) -> None:
    if horizon < 1 or shift < 0 or min(lookbacks, default=1) < 1:
        raise ValueError(
            f"horizon={horizon} and look-backs {list(lookbacks)} must be 1 or more, shift={shift} 0 or more"
        )
    widths = {one.shape[1] for one in series} | ({validation.unit.shape[1]} if validation is not None else set())
    if len(widths) != 1:
        raise ValueError(f"training series and validation windows must have one number of components, not {widths}")
    if validation is not None and validation.future.shape[1] != horizon:
        raise ValueError(f"validation windows have {validation.future.shape[1]} steps to forecast, not {horizon}")


def _own_equations(series: Series, frame: Frame, pooled: Equations | None = None) -> Iterator[Equations | None]:
    """Of each component; `pooled` for one without any windows."""
    for component in range(series[0].shape[1]):
        yield equations_of([one[:, component] for one in series], frame) or pooled


def _pooled(series: Series, frames: Sequence[Frame]) -> dict[Frame, Equations]:
    """Of all components, for each frame that fits."""
    return {frame: found for frame in frames if (found := merge(_own_equations(series, frame)))}


def _best_penalties(series: Series, frame: Frame, pooled: Equations, windows: Windows) -> Iterator[Candidate]:
    """For each share the candidate with the lowest mean error over components."""
    components = series[0].shape[1]
    shares = SHARES if 1 < components <= MOST_OWN else (1.0,)
    grid = [(share, penalty) for share in shares for penalty in PENALTIES]
    for_all = {penalty: solve(pooled, pooled, 1.0, penalty) for penalty in PENALTIES}
    owns = repeat(pooled, components) if shares == (1.0,) else _own_equations(series, frame, pooled)
    errors = np.empty((len(grid), components))
    for component, own in enumerate(owns):
        assert own is not None
        for row, (share, penalty) in enumerate(grid):
            ridge = for_all[penalty] if share == 1 else solve(own, pooled, share, penalty)
            errors[row, component] = _error(ridge.weight, windows, component)
    told = ~np.isnan(errors).all(axis=0)
    means = errors[:, told].mean(axis=1).reshape(len(shares), len(PENALTIES))
    for share, best, rows in zip(shares, means.argmin(axis=1), errors.reshape(*means.shape, -1), strict=True):
        yield Candidate(frame, share, PENALTIES[best], rows[best])


def _error(weight: Float[np.ndarray, "L H"], windows: Windows, component: int) -> float:
    """Mean squared error in units over what was observed."""
    error = residuals(weight, windows.past[:, :, component], windows.future[:, :, component])
    error = error[windows.unit[:, component] > 0] / windows.unit[windows.unit[:, component] > 0, component, None]
    seen = ~np.isnan(error)
    return float(np.mean(error[seen] ** 2)) if seen.any() else np.nan


def _weighted(candidates: list[Candidate], alike: bool) -> list[Candidate]:
    """Those with any weight; `alike`: with the same weights in all components."""
    errors = np.stack([candidate.error for candidate in candidates])
    mean = np.nanmean(errors, axis=1, keepdims=True)
    errors = np.where(np.isnan(errors) | alike, mean, errors)
    weights = (errors.min(axis=0).clip(1e-300) / errors.clip(1e-300)) ** POWER
    weights /= weights.sum(axis=0)
    weights[weights < np.minimum(LEAST_WEIGHT, weights.max(axis=0))] = 0.0
    weights /= weights.sum(axis=0)
    return [one._replace(weight=row) for one, row in zip(candidates, weights, strict=True) if row.any()]


def _average(
    series: Series, candidates: list[Candidate], pooled: dict[Frame, Equations]
) -> tuple[Float[np.ndarray, "W L H"], Float[np.ndarray, "V"]]:
    """The average as one map from the longest look-back, without its mean; and its leverage in each component."""
    components = series[0].shape[1]
    longest = max(candidate.frame.lookback for candidate in candidates)
    matrices = 1 if components > MOST_OWN else components
    total = np.zeros((matrices, longest, candidates[0].frame.horizon))
    moved = np.zeros(components)
    for frame, share, penalty, _, weights in candidates:
        assert weights is not None
        everyone = pooled[frame]
        alone = components == 1 or components > MOST_OWN
        for_all = solve(everyone, everyone, 1.0, penalty, with_inverse=True) if share == 1 else None
        for component, own in enumerate(
            repeat(everyone, components) if alone else _own_equations(series, frame, everyone)
        ):
            assert own is not None
            ridge = for_all or solve(own, everyone, share, penalty, with_inverse=True)
            moved[component] += weights[component] * leverage(ridge, own, everyone, share)
            if component < matrices:
                # the mean of the shorter look-back is part of the map
                total[component, longest - frame.lookback :] += weights[component] * (ridge.weight + 1 / frame.lookback)
    return total - total.mean(axis=1, keepdims=True), moved


def _distribution(
    weight: Float[np.ndarray, "W L H"], parts: Sequence[tuple[Windows, Float[np.ndarray, "V"]]]
) -> Student:
    """From the residuals of windows, each part with its leverage, for which they are enlarged.

    Training residuals beside those on validation windows lower the CRPS: these are fewer, and of one time of the year.
    """
    errors, spreads = [], []
    for windows, moved in parts:
        inputs = windows.past[:, windows.past.shape[1] - weight.shape[1] :]
        columns = zip(cycle(weight), np.moveaxis(inputs, 2, 0), np.moveaxis(windows.future, 2, 0), strict=False)
        errors.append(np.stack([residuals(*column) for column in columns], axis=1) / (1 - moved[:, None]))
        spreads.append(inputs.std(axis=1))
    units = np.concatenate([windows.unit for windows, _ in parts])
    return choose_student(np.concatenate(errors), np.concatenate(spreads), units)
