"""Ridge regressions from normal equations, and their errors on windows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import linalg

from darts_msft.linear.equations import Equations

STILL = 1e-6  # of the series' variance: what windows without any leave in the sums, and less than that, is rounding


def solve(equations: Equations, penalty: float) -> Float[np.ndarray, "L H"]:
    """W = (G + penalty I)^-1 X'Y, with the penalty in units of the mean diagonal of G.

    By a Cholesky factor: a dozen of them cost as much as one eigen-decomposition for all penalties. Where the past
    doesn't vary, the weights are 0.
    """
    gram, cross = equations.gram.copy().T, equations.cross  # symmetric, and so in LAPACK's order
    length = len(gram)
    diagonal = np.trace(gram) / length
    if not diagonal > STILL:
        return np.zeros_like(cross)
    gram.flat[:: length + 1] += penalty * diagonal
    factor = linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
    return np.asarray(linalg.cho_solve(factor, cross, check_finite=False))


def residuals(
    weight: Float[np.ndarray, "L H"], past: Float[np.ndarray, "B C"], future: Float[np.ndarray, "B H"]
) -> Float[np.ndarray, "B H"]:
    """Errors of the forecasts of windows; NaN where the last L steps have a gap, or the target is missing."""
    inputs = past[:, past.shape[1] - len(weight) :]
    mean = inputs.mean(axis=1, keepdims=True)
    return future - mean - (inputs - mean) @ weight
