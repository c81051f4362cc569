"""Student's t distribution, at any number of degrees of freedom from 2 on, in plain torch and on any device.

torch has neither its distribution function nor its quantiles. Both follow from the normal's by a change of
coordinates: w = sqrt(df log(1 + t^2 / df)) grows nearly as the normal score z that leaves the same share below, so
z / w and w / z are smooth and near 1, and small polynomials in w^2 (or z^2) and 1 / df give them. These are fitted to
scipy's exact values at the first use, which takes milliseconds; shares are right to 1e-6.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import scipy.special
import torch
from jaxtyping import Float
from torch import Tensor

_DEGREES = (5, 4)  # in the squared score, and in 1 / df
_HALF = 16.0  # the squared score that is half way on the first axis, s^2 / (s^2 + _HALF)
_TOP = 5.0  # the highest score of the fit: a share of 3e-7 lies beyond
_NODES = 50  # of the fit, on each axis

Polynomial = tuple[tuple[float, ...], ...]
"""Coefficients by the power of 1 / df, then by that of the first axis."""


def cdf(t: Float[Tensor, "*shape"], df: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Share of the distribution below `t`."""
    inverse = _inverse(df)
    t = t.clamp(-1e15, 1e15)  # whose squares are finite
    squared = (t * t * inverse).log1p() / inverse
    ratio = _evaluate(_polynomials()[0], _axis(squared), inverse)
    return torch.special.ndtr(squared.sqrt().copysign(t) * ratio)


def quantile(df: Float[Tensor, "*shape"], level: float) -> Float[Tensor, "*shape"]:
    """The value with a share `level` of the distribution below."""
    score, inverse = float(scipy.special.ndtri(level)), _inverse(df)
    ratio = _evaluate(_polynomials()[1], _axis(torch.full_like(inverse, score * score)), inverse)
    squared = (score * ratio) ** 2
    return ((squared * inverse).expm1() / inverse).sqrt() * math.copysign(1, score)


def _inverse(df: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return df.reciprocal().clamp(min=1e-12)  # infinitely many are nothing special


def _axis(squared: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return (squared / (squared + _HALF)).clamp(max=_TOP**2 / (_TOP**2 + _HALF))


def _evaluate(
    polynomial: Polynomial, first: Float[Tensor, "*shape"], second: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Horner's scheme, on the second axis for all powers of the first at once."""
    *lower, inner = (
        torch.tensor(column, dtype=second.dtype, device=second.device).reshape(-1, *(1,) * second.ndim)
        for column in polynomial
    )
    inner = inner * second + lower.pop()
    for column in reversed(lower):
        inner = inner.mul_(second).add_(column)
    *lower, total = inner
    for coefficient in reversed(lower):
        total = total.mul_(first).add_(coefficient)
    return total


@lru_cache(maxsize=1)
def _polynomials() -> tuple[Polynomial, Polynomial]:
    """z / w on (w^2, 1 / df), and w / z on (z^2, 1 / df)."""
    first, inverse = np.meshgrid(_nodes(_TOP**2 / (_TOP**2 + _HALF)), _nodes(0.5), indexing="ij")
    score = np.sqrt(_HALF * first / (1 - first))
    t = -scipy.special.stdtrit(1 / inverse, scipy.special.ndtr(-score))
    w = np.sqrt(np.log1p(t * t * inverse) / inverse)
    density = np.exp(-score * score / 2)  # errors count in shares; a little more holds the tails
    return _fit(w, inverse, score / w, density * w + 1e-3), _fit(score, inverse, w / score, density * score + 1e-3)


def _nodes(top: float) -> np.ndarray:
    """Chebyshev's, in (0, top)."""
    return (1 + np.cos(np.pi * (np.arange(_NODES) + 0.5) / _NODES)) / 2 * top


def _fit(score: np.ndarray, inverse: np.ndarray, ratio: np.ndarray, weight: np.ndarray) -> Polynomial:
    first = score**2 / (score**2 + _HALF)
    powers = np.polynomial.polynomial.polyvander2d(first.ravel(), inverse.ravel(), _DEGREES)
    found = np.linalg.lstsq(powers * weight.reshape(-1, 1), (ratio * weight).ravel(), rcond=None)[0]
    return tuple(tuple(column) for column in found.reshape(_DEGREES[0] + 1, -1).T.tolist())
