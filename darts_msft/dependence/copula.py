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

HALF_TRUST = 30.0  # windows that don't overlap, with which their correlations and the context's count alike
LEAST_EIGENVALUE = 1e-6  # of a correlation matrix


class Sums(NamedTuple):
    """Sums of products of normal scores over windows, and of how many there were: both scores were known."""

    steps: Float[np.ndarray, "H H"]  # over windows and components
    step_counts: Float[np.ndarray, "H H"]
    components: Float[np.ndarray, "V V"]  # over windows and steps
    component_counts: Float[np.ndarray, "V V"]


class Correlations(NamedTuple):
    """Of steps and of components, and the share (0..1) that they have beside what a window's context says."""

    steps: Float[np.ndarray, "H H"]
    components: Float[np.ndarray, "V V"]
    trust: float


def estimate(sums: Sums, windows: float) -> Correlations | None:
    """The correlations that these sums tell; None where they tell nothing.

    `windows`, how many there are that don't overlap, says how far they are trusted.
    """
    steps = _correlation(sums.steps, sums.step_counts)
    components = _correlation(sums.components, sums.component_counts)
    if steps is None or components is None:
        return None
    trust = windows / (windows + HALF_TRUST)
    return Correlations(nearest_correlation(steps), nearest_correlation(components), trust)


def nearest_correlation(matrix: Float[np.ndarray, "N N"]) -> Float[np.ndarray, "N N"]:
    """Symmetric, positive definite and with ones on the diagonal: eigenvalues below the least become it."""
    matrix = (matrix + matrix.T) / 2
    values, vectors = np.linalg.eigh(matrix)
    if values[0] < LEAST_EIGENVALUE:
        matrix = (vectors * np.maximum(values, LEAST_EIGENVALUE)) @ vectors.T
    unit = np.sqrt(np.diagonal(matrix))
    matrix = matrix / (unit * unit[:, None])
    np.fill_diagonal(matrix, 1.0)
    return np.asarray(matrix)


def lag_means(correlation: Float[np.ndarray, "H H"]) -> Float[np.ndarray, "H"]:
    """The mean correlation of steps so far apart."""
    return np.array([np.diagonal(correlation, lag).mean() for lag in range(len(correlation))])


def _correlation(products: Float[np.ndarray, "N N"], counts: Float[np.ndarray, "N N"]) -> np.ndarray | None:
    """Uncentred: a forecast that is always too low is so at all steps. Pairs that never met don't correlate."""
    mean = products / np.maximum(counts, 1)
    power = np.diagonal(mean)
    if not (power > 0).any():
        return None
    unit = np.sqrt(np.where(power > 0, power, 1.0))
    found = (mean / (unit * unit[:, None])).clip(-1, 1)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)
