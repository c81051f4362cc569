"""Quantiles from a distribution function, for many distributions at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

SHARE_ERROR = 2e-6  # of a quantile, as a share of the distribution
VALUE_ERROR = 3e-7  # of a quantile, relative to 1 and to itself: a few roundings in single precision
NEGLIGIBLE = 1e-7  # a mixture's weight that a quantile does not feel
_SECANTS = 12  # steps before halving alone
_HALVINGS = 60

Cdf = Callable[[Int[Tensor, "M"], Float[Tensor, "M"]], Float[Tensor, "M"]]
"""Shares below the values, for the distributions with these indices."""


def quantile_between(
    cdf: Cdf, level: float, low: Float[Tensor, "N"], high: Float[Tensor, "N"], start: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """The values in [low, high] with a share `level` below, searched from `start`; an end where none is inside.

    Secants of the shares' log-odds, which are straighter than the shares. An end that stays for two steps loses
    height (the rule of Anderson and Bjorck), and every fourth step halves the bracket.
    """
    target, result = math.log(level / (1 - level)), start.clone()
    rows = _wide(low, high).nonzero().squeeze(-1)
    low, high, value = (part.index_select(0, rows) for part in (low, high, start))
    below, above = (cdf(rows, end).logit(1e-7) - target for end in (low, high))
    result[rows] = torch.where(below >= 0, low, high)
    active = (below < 0) & (above > 0)
    state = torch.stack([low, high, below, above, torch.zeros_like(value), value])
    for step in range(1, _SECANTS + _HALVINGS):
        chosen = active.nonzero().squeeze(-1)
        if not chosen.numel():
            break
        rows = rows.index_select(0, chosen)
        low, high, below, above, side, value = state.index_select(1, chosen)
        share = cdf(rows, value)
        height = share.logit(1e-7) - target
        up = height >= 0
        now = up.to(value) * 2 - 1  # the side that moves
        kept = 1 - height / torch.where(up, above, below)
        kept = torch.where(side == now, torch.where(kept > 0, kept, 0.5), 1)
        low, below = torch.where(up, low, value), torch.where(up, below * kept, height)
        high, above = torch.where(up, value, high), torch.where(up, height, above * kept)
        wide = _wide(low, high)
        result[rows] = torch.where(wide, value, high)
        active = wide & ((share - level).abs() > SHARE_ERROR)
        value = (low + high) / 2
        if step % 4 and step < _SECANTS:
            secant = low - below * (high - low) / (above - below)
            value = torch.where((secant > low) & (secant < high), secant, value)
        state = torch.stack([low, high, below, above, now, value])
    return result


def _wide(low: Float[Tensor, "N"], high: Float[Tensor, "N"]) -> Tensor:
    return high - low > VALUE_ERROR * (1 + high.abs())
