"""Ridge regressions from normal equations, their leverage, and their errors on windows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import linalg

from darts_msft.linear.equations import Equations, blend


class Ridge(NamedTuple):
    """W = A^-1 X'Y with A = G + penalty I."""

    weight: Float[np.ndarray, "L H"]
    inverse: Float[np.ndarray, "L L"]  # of A, its lower triangle


def solve(own: Equations, pooled: Equations, share: float, penalty: float, with_inverse: bool = False) -> Ridge:
    """Of a blend of a component's equations with those of all; `penalty` is relative to the mean diagonal of G.

    By a Cholesky factor: a dozen of them cost as much as one eigen-decomposition for all penalties.
    The inverse is empty unless asked for. Where the past doesn't vary, the weights are 0.
    """
    gram, cross, _, _ = blend(own, pooled, share)
    length = len(gram)
    diagonal = np.trace(gram) / length
    if not diagonal > 0:
        return Ridge(np.zeros_like(cross), np.zeros((length, length)))
    gram.flat[:: length + 1] += penalty * diagonal
    factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
    weight = linalg.cho_solve(factor, cross, check_finite=False)
    inverse = np.tril(linalg.lapack.dpotri(factor[0], lower=1)[0]) if with_inverse else np.empty((0, 0))
    return Ridge(weight, inverse)


def leverage(ridge: Ridge, own: Equations, pooled: Equations, share: float) -> float:
    """How much a window's target moves its own forecast: the mean over the component's windows, below 1."""
    # x' A^-1 x, averaged; and what one target counts in X'Y, which is a mean over windows
    mean = 2 * np.vdot(ridge.inverse, own.gram) - ridge.inverse.diagonal() @ own.gram.diagonal()
    return min(float(mean * ((1 - share) / own.windows + share / pooled.windows)), 0.999)


def residuals(
    weight: Float[np.ndarray, "L H"], past: Float[np.ndarray, "B C"], future: Float[np.ndarray, "B H"]
) -> Float[np.ndarray, "B H"]:
    """Errors of the forecasts of windows; NaN where the last L steps have a gap, or the target is missing."""
    inputs = past[:, past.shape[1] - len(weight) :]
    mean = inputs.mean(axis=1, keepdims=True)
    return future - mean - (inputs - mean) @ weight
