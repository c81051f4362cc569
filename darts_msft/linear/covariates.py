"""What known covariates do to a series at the same step: the linear member forecasts what is left of it.

With covariates z_t a component is x_t = b'z_t + r_t. A regression forecasts r from its own past, and b'z, whose z are
known over the horizon, is added. b is what makes this forecast's squared errors on the training series least, for the
regression that there is; so a covariate that repeats what the past tells already (an hour's sine where days repeat) is
left out, and one that goes with the series by a common trend alone is too. The penalty of b, or that there are no
effects, is chosen for each component by leaving stretches of time out: only a gain that is no chance counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from darts_msft.linear.equations import Frame
from darts_msft.linear.fitting import MOST_OWN
from darts_msft.linear.member import LinearMember
from darts_msft.linear.windows import cut_windows

PENALTIES = (1e-4, 1e-2, 1.0)  # relative to the squares of the covariates, without their means over the past
FOLDS = 8
SURE = 1.5  # standard errors that the gain on folds left out must be over 0; with 0, noise has effects by chance
MOST_WINDOWS = 1024
MOST_VALUES = 2**24  # in all of them

Series = Sequence[Float[np.ndarray, "_ V"]]
Covariates = Sequence[Float[np.ndarray, "_ K"]]


def rest_of(
    series: Float[np.ndarray, "T V"], covariates: Float[np.ndarray, "T K"], effects: Float[np.ndarray, "V K"]
) -> Float[np.ndarray, "T V"]:
    """The series without its covariates' effects; missing where a covariate with an effect is."""
    gaps = np.isnan(covariates)
    known = np.where(gaps, 0.0, covariates) @ effects.T
    return np.where(gaps @ (effects.T != 0), np.nan, series - known)


def with_effects(
    member: LinearMember,
    solve: Callable[[list[np.ndarray], list[np.ndarray]], LinearMember | None],
    train: tuple[Series, Covariates],
    val: tuple[Series, Covariates],
    shift: int = 0,
) -> LinearMember:
    """The member for what is left of the series, with the effects of the covariates; as it is where there are none.

    `train` and `val` are series with their covariates; `solve` finds the member for training and validation series.
    """
    effects = find_effects(member.weight.double().numpy(), *train, shift)
    rest = [[rest_of(*pair, effects) for pair in zip(*part, strict=True)] for part in (train, val)]
    found = solve(*rest) if effects.any() else None  # another round of both changes nothing
    if found is None:
        return member
    return found.with_effects(torch.tensor(effects, dtype=found.weight.dtype))


def find_effects(
    weight: Float[np.ndarray, "W L H"], series: Series, covariates: Covariates, shift: int = 0
) -> Float[np.ndarray, "V K"]:
    """In units of the series by units of the covariates, all 0 where a component is forecast better without.

    `weight` has the regressions, of each component or one for all, as `LinearMember` has them; each series counts in
    units of its spread.
    """
    frame = Frame(weight.shape[1], weight.shape[2], shift)
    if max(map(len, series)) < frame.length:
        return np.zeros((series[0].shape[1], covariates[0].shape[1]))
    starts = range(0, series[0].shape[1], MOST_OWN)  # one, where each component has a regression of its own
    parts = ([one[:, start : start + MOST_OWN] for one in series] for start in starts)
    return np.concatenate([_effects_on_some(weight, part, covariates, frame) for part in parts])


def _effects_on_some(
    weight: Float[np.ndarray, "W L H"], series: Series, covariates: Covariates, frame: Frame
) -> Float[np.ndarray, "V K"]:
    components, width = series[0].shape[1], covariates[0].shape[1]
    effects = np.zeros((components, width))
    labels = np.array_split(_fold_of_each_step(sum(map(len, series))), np.cumsum([len(one) for one in series])[:-1])
    columns = [np.column_stack(parts) for parts in zip(series, covariates, labels, strict=True)]
    count = min(MOST_WINDOWS, MOST_VALUES // (frame.length * (components + width + 1)))
    windows = cut_windows(columns, frame, max(count, 1))
    past, future = (np.moveaxis(part, 2, 0) for part in (windows.past, windows.future))
    for matrix, own_weight in enumerate(weight):
        errors, plain = _errors(own_weight, past[components:-1], future[components:-1])
        for component in range(components) if len(weight) == 1 else [matrix]:
            unit = np.where(windows.unit[:, component] > 0, windows.unit[:, component], np.nan)[:, None]
            own, _ = _errors(own_weight, past[[component]], future[[component]])
            effects[component] = _least_squares(own / unit, errors / unit, plain / unit, future[-1])
    return effects


def _fold_of_each_step(steps: int) -> Float[np.ndarray, "_"]:
    return np.arange(steps) * FOLDS // steps * 1.0


def _errors(
    weight: Float[np.ndarray, "L H"], past: Float[np.ndarray, "K N L"], future: Float[np.ndarray, "K N H"]
) -> tuple[Float[np.ndarray, "K N H"], Float[np.ndarray, "K N H"]]:
    """Of the regression's forecasts, and of those by the mean of the past."""
    mean = past.mean(axis=2, keepdims=True)
    plain = future - mean
    return plain - (past - mean) @ weight, plain


def _least_squares(
    errors: Float[np.ndarray, "1 N H"],
    covariates: Float[np.ndarray, "K N H"],
    plain: Float[np.ndarray, "K N H"],
    fold: Float[np.ndarray, "N H"],
) -> Float[np.ndarray, "K"]:
    """The effects with the penalty of the surest gain on folds left out; 0 where none is sure."""
    seen = np.isfinite(errors[0]) & np.isfinite(covariates).all(axis=0)
    sums = []
    for index in range(FOLDS):
        x, z, own = (part[:, seen & (fold == index)] for part in (errors, covariates, plain))
        sums.append((z @ z.T, (z @ x.T)[:, 0], np.square(own).sum(axis=1)))
    gram, cross, size = (np.array(part) for part in zip(*sums, strict=True))
    best, chosen = 0.0, None
    for penalty in PENALTIES:
        gains = np.empty(FOLDS)  # in squares
        for index in range(FOLDS):
            others = np.arange(FOLDS) != index
            b = _solve(gram[others].sum(axis=0), cross[others].sum(axis=0), size[others].sum(axis=0), penalty)
            gains[index] = 2 * b @ cross[index] - b @ gram[index] @ b
        least = gains.mean() - SURE * gains.std(ddof=1) / np.sqrt(FOLDS)
        if least > best:
            best, chosen = least, penalty
    if chosen is None:
        return np.zeros(len(covariates))
    return _solve(gram.sum(axis=0), cross.sum(axis=0), size.sum(axis=0), chosen)


def _solve(
    gram: Float[np.ndarray, "K K"], cross: Float[np.ndarray, "K"], size: Float[np.ndarray, "K"], penalty: float
) -> Float[np.ndarray, "K"]:
    """In units of each covariate's size, so that units don't matter; 0 for one that doesn't vary."""
    unit = np.where(size > 0, 1 / np.sqrt(np.where(size > 0, size, 1.0)), 0.0)
    scaled = gram * unit[:, None] * unit + penalty * np.eye(len(unit))
    return np.linalg.solve(scaled, cross * unit) * unit
