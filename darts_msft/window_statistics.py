"""Statistics of windows that leave a scale nothing to see: those without variation, and those without values."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from darts_msft.backbones.base import Stats
from darts_msft.scales.pyramid import ScalePlan


def constant_where_flat(plan: ScalePlan, past_target: Float[Tensor, "B C V"], stats: list[Stats]) -> list[Stats]:
    """Where nothing that a scale sees varies, its forecast is its location, without spread; also if all is missing.

    A scale that saw nothing has the statistics of a coarser one.
    """
    values = rearrange(past_target, "b c v -> b v c")
    observed = ~torch.isnan(values)
    above, below = torch.where(observed, values, -torch.inf), torch.where(observed, values, torch.inf)
    constant, coarser = list(stats), torch.zeros_like(stats[0].spread)
    for scale in reversed(range(len(stats))):
        highest = plan.memory(above, scale).amax(dim=-1, keepdim=True)
        lowest = plan.memory(below, scale).amin(dim=-1, keepdim=True)
        own = torch.where(highest == lowest, 0, stats[scale].spread)
        coarser = torch.where(highest < lowest, coarser, own)  # with nothing observed: -inf and inf
        constant[scale] = Stats(stats[scale].loc, coarser)
    return constant


def of_those_that_saw(seen: list[Bool[Tensor, "B V 1"]], stats: list[Stats]) -> list[Stats]:
    """Each scale's statistics; one that saw nothing takes those of the next coarser one, which looks further back."""
    found = list(stats)
    for scale in reversed(range(len(stats) - 1)):
        pairs = zip(stats[scale], found[scale + 1], strict=True)
        found[scale] = Stats(*(torch.where(seen[scale], own, coarser) for own, coarser in pairs))
    return found


def nan_where_unseen(
    plan: ScalePlan, past_target: Float[Tensor, "B C V"], forecast: Float[Tensor, "*M B H VR"]
) -> Float[Tensor, "*M B H VR"]:
    """NaN for the components of a window in which no scale saw a value; each may have several columns, side by side."""
    memory = plan.memory(rearrange(past_target, "b c v -> b v c"), plan.num_scales)  # the longest
    unseen = torch.isnan(memory).all(dim=-1)
    columns = unseen.repeat_interleave(forecast.shape[-1] // unseen.shape[-1], dim=-1)
    return forecast.masked_fill(columns[:, None], torch.nan)
