"""The correlation of forecast errors over the horizon and between components, in closed form from normal scores.

A truth's normal score is z = Phi^-1(u), with u its forecast's distribution function there. If forecasts of single steps
are right, z is standard normal at each step, and the correlation of the scores of different steps is what independent
draws lack (a Gaussian copula; Pinson et al. 2009, "From probabilistic forecasts to statistical scenarios of short-term
wind power production"). Numbers only: shapes are H steps, V components.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import nnls

MOST_STEPS = 1024  # for which a whole matrix is kept, 4 MiB; beyond, a correlation for each lag
HALF_TRUST = 20.0  # windows that don't overlap, with which the estimate and its smooth form count alike
HALF_TRUST_COMPONENTS = 6.0
LEAST_EIGENVALUE = 1e-6  # of a correlation matrix
SEASON_WIDTHS = (1 / 24, 1 / 8)  # of the season, in which errors at the same time of day are alike


class Sums(NamedTuple):
    """Sums of products of normal scores over windows, and of how many there were: both scores were known."""

    steps: Float[np.ndarray, "H H"]  # over windows and components
    step_counts: Float[np.ndarray, "H H"]
    components: Float[np.ndarray, "V V"]  # over windows and steps
    component_counts: Float[np.ndarray, "V V"]


class Correlations(NamedTuple):
    """Of steps, (H, H) or, beyond `MOST_STEPS`, (H,) by lag; and of components at a step."""

    steps: Float[np.ndarray, "*H"]
    components: Float[np.ndarray, "V V"]


def constant_form(horizon: int) -> Float[np.ndarray, "H"]:
    """By lag, where no validation data say it."""
    lags = np.arange(horizon)
    parts = [share * 0.5 ** (lags / life) for share, life in CONSTANT_FORM]
    return np.asarray((lags == 0) * (1 - sum(share for share, _ in CONSTANT_FORM)) + sum(parts))


CONSTANT_FORM = ((0.6, 16.0), (0.3, 128.0))


def estimate(sums: Sums, horizon: int, windows: float, season: int | None) -> Correlations | None:
    """The correlations that these sums tell; None where they tell nothing.

    The steps' matrix is shrunk towards a smooth form of the lag alone (`smooth_form`), the components' towards
    independence; `windows`, how many there are that don't overlap, says how far. The sums may be of a horizon's first
    steps.
    """
    raw = _correlation(sums.steps, sums.step_counts)
    if raw is None:
        return None
    form = smooth_form(raw, sums.step_counts, season, horizon)
    components = _correlation(sums.components, sums.component_counts)
    own = np.eye(len(sums.components)) if components is None else components
    trust = windows / (windows + HALF_TRUST_COMPONENTS)
    own = nearest_correlation(trust * own + (1 - trust) * np.eye(len(own)))
    if horizon > MOST_STEPS:
        return Correlations(form, own)
    trust = windows / (windows + HALF_TRUST)
    return Correlations(nearest_correlation(trust * raw + (1 - trust) * by_lag(form)), own)


def smooth_form(
    correlation: Float[np.ndarray, "N N"], counts: Float[np.ndarray, "N N"], season: int | None, horizon: int
) -> Float[np.ndarray, "H"]:
    """By lag up to `horizon`, the non-negative sum of known forms that is nearest to the mean correlation at each lag.

    The forms are noise, AR(1) of several half-lives, a constant, and what comes back every season; all are positive
    semi-definite, so their sum is.
    """
    size = len(correlation)
    season = season if season is not None and 1 < season < size else None
    total, count = (_by_diagonal(part) for part in (np.where(counts > 0, correlation * counts, 0), counts))
    weight = np.sqrt(count)
    weight[0] *= 10  # the sum at lag 0 is 1
    mean = total / np.maximum(count, 1e-12)
    forms = np.stack(_forms(max(horizon, size), season), axis=1)[:horizon]
    shares, _ = nnls(forms[:size] * weight[:, None], mean * weight)
    found = forms @ shares
    return np.asarray(found / found[0]) if found[0] > 0 else forms[:, 0]


def _forms(horizon: int, season: int | None) -> list[np.ndarray]:
    """Correlations by lag; the first is noise."""
    lag = np.arange(horizon)
    lives = 2.0 ** np.arange(np.ceil(np.log2(max(horizon, 2))) + 1)
    forms = [(lag == 0).astype(float), np.ones(horizon), *(0.5 ** (lag / life) for life in lives)]
    if season is not None:
        turn = np.minimum(lag % season, season - lag % season) / season  # exp(-distance) on a circle
        for width in SEASON_WIDTHS:
            forms += [np.exp(-turn / width), np.exp(-turn / width) * 0.5 ** (lag / (2 * season))]
    return forms


def by_lag(correlation: Float[np.ndarray, "H"]) -> Float[np.ndarray, "H H"]:
    """The matrix whose entries depend on the lag alone."""
    steps = np.arange(len(correlation))
    return np.asarray(correlation[np.abs(steps[:, None] - steps)])


def lag_means(steps: Float[np.ndarray, "*H"]) -> Float[np.ndarray, "H"]:
    """The mean correlation at each lag."""
    if steps.ndim == 1:
        return steps
    return np.asarray(_by_diagonal(steps) / np.arange(len(steps), 0, -1))


def nearest_correlation(matrix: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Symmetric, positive definite and with ones on the diagonal: eigenvalues below the least become it."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    if values[0] < LEAST_EIGENVALUE:
        matrix = (vectors * np.maximum(values, LEAST_EIGENVALUE)) @ vectors.T
    unit = np.sqrt(np.diagonal(matrix))
    matrix = (matrix + matrix.T) / (2 * unit * unit[:, None])
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix)


def _correlation(products: Float[np.ndarray, "N N"], counts: Float[np.ndarray, "N N"]) -> np.ndarray | None:
    """Uncentred: a forecast that is always too low is so at all steps. Pairs that never met don't correlate."""
    mean = products / np.maximum(counts, 1)
    power = np.diagonal(mean)
    if not (power > 0).any():
        return None
    unit = np.sqrt(np.where(power > 0, power, 1.0))
    found = np.where(counts > 0, mean, 0) / (unit * unit[:, None])
    found = found.clip(-1, 1)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)


def _by_diagonal(matrix: Float[np.ndarray, "H H"]) -> Float[np.ndarray, "H"]:
    """The sum over each diagonal from the main one upwards."""
    return np.array([np.trace(matrix, offset) for offset in range(len(matrix))])
