"""Windows whose spread is very small or very large are measured in a unit of their own, an exact power of two.

Encoders add a constant to a window's variance or bound its deviation from below, so that a window without variation
does not divide by 0. Beside a series of returns such a constant is large: the forecast would be of another series. In a
unit that brings the spread near 1 it can't matter, whatever the encoder. Axes as in `backbones/base.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from darts_msft.backbones.base import Backbone, Stats

LEAST, MOST = 0.0875, 2.0**64
"""Where a window is left as it is: its spread, times that of the series' whole window, is LEAST or more.

A constant of 1e-5 in the variance changes a forecast by less than 1e-4 of the series' spread then, which is the same
in any unit. The square of MOST is beyond single precision.
"""
LARGE = 0.75  # from here on the whole window's spread doesn't make up for a smaller one of what a scale sees


def statistics_in_any_unit(
    backbone: Backbone, series: Float[Tensor, "B V C"], windows: Sequence[tuple[Tensor, Tensor]]
) -> list[Stats]:
    """The backbone's statistics of each scale's past and future, which are measured in units of their own.

    They are in the series' units again. `series` is the whole window at the original rate.
    """
    whole = spread_of(series).clamp(max=LARGE)
    found = []
    for past, future in windows:
        unit = unit_of(spread_of(torch.cat([past, future], dim=-1)), whole)
        if not torch.compiler.is_exporting() and bool((unit == 1).all()):
            found.append(backbone.statistics(past, future))
            continue
        loc, spread = backbone.statistics(past.double() / unit, future.double() / unit)
        found.append(Stats(loc * unit, spread * unit))
    return found


def unit_of(spread: Float[Tensor, "B V 1"], whole: Float[Tensor, "B V 1"]) -> Float[Tensor, "B V 1"]:
    """The power of two next below a spread where that is very small, also beside the `whole` window's, or large; or 1.

    Exact: single precision loses nothing.
    """
    beyond = (spread > 0) & spread.isfinite() & ((spread * whole < LEAST) | (spread > MOST))
    if torch.compiler.is_exporting():  # ONNX knows no frexp and ldexp
        return torch.pow(2.0, torch.where(beyond, spread, 1).log2().floor())
    _, exponent = torch.frexp(spread)
    return torch.ldexp(torch.ones_like(spread), torch.where(beyond, exponent - 1, 0))


def spread_of(values: Float[Tensor, "B V T"]) -> Float[Tensor, "B V 1"]:
    """Standard deviations of what is observed (not NaN), in double precision, for values of any size.

    Where no more than rounding varies, the largest value takes its place.
    """
    rounding = 2 * torch.finfo(values.dtype).eps
    observed = ~torch.isnan(values)
    values = torch.where(observed, values, 0).double()
    count = observed.sum(dim=-1, keepdim=True).clamp(min=1)
    # in units of the largest value and of the largest deviation: the squares of 1e-200 and 1e200 are no numbers
    largest = values.abs().amax(dim=-1, keepdim=True)
    values = values / largest.where(largest > 0, 1)
    apart = torch.where(observed, values - values.sum(dim=-1, keepdim=True) / count, 0)
    farthest = apart.abs().amax(dim=-1, keepdim=True)
    apart = apart / farthest.where(farthest > 0, 1)
    deviation = largest * farthest * (apart.square().sum(dim=-1, keepdim=True) / count).sqrt()
    return torch.where(farthest > rounding, deviation, largest)
