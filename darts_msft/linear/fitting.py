"""The fit of the linear member: candidates, how well each forecasts, their average, and its distribution.

A candidate is a ridge regression with a look-back, from each component's own windows or those of all components, or the
seasonal naive forecast. Of each look-back the penalty is taken that is best on the validation windows for all
components together. Candidates are judged on these windows and, by regressions that leave a fold out, on windows of all
times of the training series: a validation part without holidays doesn't tell what forecasts holidays. They are
averaged, for each component with weights that fall with a power of their mean squared errors. This is safer than the
best one and than weights by least squares, and costs nothing later: an average of linear maps is one linear map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, repeat
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from darts_msft.linear.equations import Equations, Frame, equations_of, merge
from darts_msft.linear.folds import Fold, cross_residuals, make_folds
from darts_msft.linear.member import LinearMember, unrest_of
from darts_msft.linear.ridge import residuals, solve
from darts_msft.linear.student import Student, choose_student
from darts_msft.linear.windows import Windows, comparable, hold_out

PENALTIES = (1e-4, 1e-2, 1.0)  # relative to the mean diagonal of the Gram matrix
POWER = 8.0  # weights ~ MSE ** -POWER
LEAST_WEIGHT = 0.02  # of a candidate in the average
MOST_OWN = 32  # components with matrices of their own; more of them share one

Series = Sequence[Float[np.ndarray, "_ V"]]


class Candidate(NamedTuple):
    """A ridge regression, or the seasonal naive forecast, in the average."""

    frame: Frame  # of the naive one: a season to look back
    pooled: bool  # from all components' windows, not each component's own
    penalty: float | None  # None: the seasonal naive forecast
    error: Float[np.ndarray, "V"]  # mean squared on the windows that judge, in units; NaN: can't be told
    weight: Float[np.ndarray, "V"] | None = None  # in the average


class LinearFit(NamedTuple):
    """The member, what it is the average of, and whether that was chosen on the validation windows that were given."""

    member: LinearMember
    candidates: list[Candidate]
    validated: bool


def fit_linear(
    series: Series,
    horizon: int,
    lookbacks: Sequence[int],
    shift: int = 0,
    validation: Windows | None = None,
    season: int | None = None,
) -> LinearFit | None:
    """From all windows of the training series without a gap (NaN); None where no look-back fits into any.

    The forecast that repeats the last `season` steps takes part too where that is one of the look-backs. Without
    validation windows that are complete, the last fifth of every series judges fits to the rest, and what was chosen is
    fitted anew to all. (Generalised cross-validation is fooled where series are short: windows overlap, so that one
    that is left out is not unseen.)
    """
    _check(series, horizon, lookbacks, shift, validation)
    series = [_without_infinities(one) for one in series]
    if validation is not None:
        past, future = map(_without_infinities, validation[:2])
        validation = validation._replace(past=past, future=future)
    judged, (windows, usable) = series, comparable(validation, lookbacks) if validation else (None, [])
    validated = bool(usable)
    if not validated:
        judged, held_out = hold_out(series, Frame(max(lookbacks, default=1), horizon, shift))
        windows, usable = comparable(held_out, lookbacks) if held_out else (None, [])
    if windows is None:
        return None
    frames = [Frame(lookback, horizon, shift) for lookback in usable]
    pooled = _pooled(judged, frames)
    candidates = [one for frame, found in pooled.items() for one in _best_penalties(judged, frame, found, windows)]
    if not candidates:
        return None
    if season in usable:
        candidates.append(_seasonal_naive(Frame(season, horizon, shift), windows))
    folds = make_folds(judged, max(pooled))
    crossed = _crossed(judged, candidates, folds) if folds else []
    if folds:
        units = np.concatenate([fold.windows.unit for fold in folds])
        errors = [_mean_square(one, units) for one in crossed]
        candidates = [_judged_on_both(*pair, len(folds)) for pair in zip(candidates, errors, strict=True)]
    weights = _weights(candidates, alike=series[0].shape[1] > MOST_OWN)
    mixed = sum(row[:, None] * one for row, one in zip(weights, crossed, strict=True)) if folds else None
    candidates = [one._replace(weight=row) for one, row in zip(candidates, weights, strict=True) if row.any()]
    weight = _average(judged, candidates, pooled)
    season = season if season is not None and 2 * season <= weight.shape[1] else 0
    student = _distribution(weight, season, windows, mixed, folds)
    if not validated:
        weight = _average(series, candidates, _pooled(series, list(pooled)))
    member = LinearMember(*(torch.tensor(part, dtype=torch.float32) for part in (weight, *student, season)))
    return LinearFit(member, candidates, validated)


def _without_infinities(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan).astype(np.float64)


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


# ---------------------------------------------------------------- candidates


def _own_equations(series: Series, frame: Frame, pooled: Equations | None = None) -> Iterator[Equations | None]:
    """Of each component; `pooled` for one without any windows."""
    for component in range(series[0].shape[1]):
        yield equations_of([one[:, component] for one in series], frame) or pooled


def _pooled(series: Series, frames: Sequence[Frame]) -> dict[Frame, Equations]:
    """Of all components, for each frame that fits."""
    return {frame: found for frame in frames if (found := merge(_own_equations(series, frame)))}


def _best_penalties(series: Series, frame: Frame, pooled: Equations, windows: Windows) -> Iterator[Candidate]:
    """With each component's own windows, then with all, the candidate with the lowest mean error over components."""
    components = series[0].shape[1]
    errors = np.empty((2, len(PENALTIES), components))
    for row, penalty in enumerate(PENALTIES):
        errors[1, row] = _mean_square(_residuals(solve(pooled, penalty)[None], windows), windows.unit)
    alone = 1 < components <= MOST_OWN
    if alone:
        for component, own in enumerate(_own_equations(series, frame, pooled)):
            assert own is not None
            some = windows.of(component)
            for row, penalty in enumerate(PENALTIES):
                errors[0, row, component] = _mean_square(_residuals(solve(own, penalty)[None], some), some.unit)[0]
    for kind in range(not alone, 2):
        told = ~np.isnan(errors[kind]).all(axis=0)
        best = int(errors[kind][:, told].mean(axis=1).argmin())
        yield Candidate(frame, bool(kind), PENALTIES[best], errors[kind, best])


def _seasonal_naive(frame: Frame, windows: Windows) -> Candidate:
    error = _mean_square(_residuals(_repeat_season(frame)[None], windows), windows.unit)
    return Candidate(frame, True, None, error)


def _repeat_season(frame: Frame) -> Float[np.ndarray, "L H"]:
    """The map from a season to the steps that repeat it."""
    return np.eye(frame.lookback)[:, (frame.shift + np.arange(frame.horizon)) % frame.lookback]


# ---------------------------------------------------------------- how well they forecast


def _residuals(weight: Float[np.ndarray, "W L H"], windows: Windows) -> Float[np.ndarray, "B V H"]:
    """Of maps for each component, or of one for all."""
    past, future = (np.moveaxis(part, 2, 0) for part in (windows.past, windows.future))
    return np.stack([residuals(*column) for column in zip(cycle(weight), past, future, strict=False)], axis=1)


def _mean_square(errors: Float[np.ndarray, "B V H"], unit: Float[np.ndarray, "B V"]) -> Float[np.ndarray, "V"]:
    """In units, over what was observed; NaN where that is nothing."""
    square = (errors / np.where(unit > 0, unit, np.nan)[:, :, None]) ** 2
    seen = ~np.isnan(square)
    count = seen.sum(axis=(0, 2))
    return np.where(count > 0, np.where(seen, square, 0.0).sum(axis=(0, 2)) / count.clip(1), np.nan)


def _crossed(
    series: Series, candidates: Sequence[Candidate], folds: Sequence[Fold]
) -> list[Float[np.ndarray, "B V H"]]:
    """Each candidate's errors on the folds' windows, which its regression has not seen."""
    penalties: dict[Frame, dict[bool, float]] = {}
    for one in candidates:
        if one.penalty is not None:
            penalties.setdefault(one.frame, {})[one.pooled] = one.penalty
    found = {frame: cross_residuals(series, frame, some, folds) for frame, some in penalties.items()}
    return [
        np.concatenate([_residuals(_repeat_season(one.frame)[None], fold.windows) for fold in folds])
        if one.penalty is None
        else found[one.frame][one.pooled]
        for one in candidates
    ]


def _judged_on_both(candidate: Candidate, crossed: Float[np.ndarray, "V"], folds: int) -> Candidate:
    """With the mean of its errors on folds and on validation windows, which count as one more, where both are known.

    Else with that on the latter.
    """
    both = (candidate.error + folds * crossed) / (folds + 1)
    return candidate._replace(error=np.where(np.isnan(both), candidate.error, both))


def _weights(candidates: Sequence[Candidate], alike: bool) -> Float[np.ndarray, "N V"]:
    """In the average; `alike`: the same in all components."""
    errors = np.stack([candidate.error for candidate in candidates])
    mean = np.nanmean(errors, axis=1, keepdims=True)
    errors = np.where(np.isnan(errors) | alike, mean, errors)
    weights = (errors.min(axis=0).clip(1e-300) / errors.clip(1e-300)) ** POWER
    weights /= weights.sum(axis=0)
    weights[weights < np.minimum(LEAST_WEIGHT, weights.max(axis=0))] = 0.0
    return np.asarray(weights / weights.sum(axis=0))


# ---------------------------------------------------------------- their average


def _average(
    series: Series, candidates: Sequence[Candidate], pooled: Mapping[Frame, Equations]
) -> Float[np.ndarray, "W L H"]:
    """One map from the longest look-back, without its mean."""
    components = series[0].shape[1]
    longest = max(candidate.frame.lookback for candidate in candidates)
    matrices = 1 if components > MOST_OWN else components
    total = np.zeros((matrices, longest, candidates[0].frame.horizon))
    for frame, for_all, penalty, _, weights in candidates:
        assert weights is not None
        if penalty is None:
            total[:, longest - frame.lookback :] += weights[:matrices, None, None] * _repeat_season(frame)
            continue
        equations = repeat(pooled[frame], matrices) if for_all else _own_equations(series, frame, pooled[frame])
        shared = solve(pooled[frame], penalty) if for_all else None
        for component, own in zip(range(matrices), equations, strict=True):
            assert own is not None
            weight = solve(own, penalty) if shared is None else shared
            # the mean of the shorter look-back is part of the map
            total[component, longest - frame.lookback :] += weights[component] * (weight + 1 / frame.lookback)
    return total - total.mean(axis=1, keepdims=True)


def _distribution(
    weight: Float[np.ndarray, "W L H"],
    season: int,
    windows: Windows,
    crossed: Float[np.ndarray, "B V H"] | None,
    folds: Sequence[Fold],
) -> Student:
    """From residuals on windows that the regressions have not seen: those of validation, and those of the folds."""
    parts = [(windows, _residuals(weight, windows))]
    if crossed is not None:
        ends = np.cumsum([len(fold.windows.unit) for fold in folds])[:-1]
        parts += zip([fold.windows for fold in folds], np.split(crossed, ends), strict=True)
    length = weight.shape[1]
    pasts = np.concatenate([one.past[:, one.past.shape[1] - length :] for one, _ in parts])
    deviation = pasts.std(axis=1)
    unrest = unrest_of(torch.tensor(pasts), torch.tensor(deviation), season).numpy() if season else None
    units = np.concatenate([one.unit for one, _ in parts])
    return choose_student(np.concatenate([errors for _, errors in parts]), deviation, unrest, units)
