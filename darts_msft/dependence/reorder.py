"""Samples in the order of correlated normal draws: each step's numbers stay, and its paths become likely ones.

The reordering by ranks is that of Iman & Conover (1982) and of the Schaake shuffle (Clark et al. 2004). Shapes: M
samples, B series, H steps, V components.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def normal_draws(
    count: int,
    steps: Float[Tensor, "B H H"],
    components: Float[Tensor, "B V V"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B V H M"]:
    """Standard normal draws; `steps` and `components` are factors F of their correlations F F'.

    The correlation of two components at two steps is the product of the two.
    """
    shape = (len(steps), components.shape[-1], steps.shape[-1], count)
    with torch.autocast(steps.device.type, enabled=False):  # products would be rounded
        draws = steps.unsqueeze(1) @ torch.randn(shape, generator=generator, device=steps.device, dtype=steps.dtype)
        return draws if shape[1] == 1 else (components @ draws.flatten(2)).unflatten(2, shape[2:])


@torch.no_grad()
def in_order_of(samples: Float[Tensor, "M B H V"], scores: Float[Tensor, "B V H M"]) -> Float[Tensor, "M B H V"]:
    """At each step of a component, its smallest sample where the score is smallest, and so on."""
    columns = samples.permute(1, 3, 2, 0).contiguous()
    placed = torch.empty_like(columns).scatter_(-1, order(scores), ascending(columns))
    return placed.permute(3, 0, 2, 1)


@torch.no_grad()
def picked(samples: Float[Tensor, "M B H V"], scores: Float[Tensor, "B V H 1"]) -> Float[Tensor, "B H V"]:
    """One of the samples at each step: that whose rank among them is the score's share of the normal distribution.

    As the score is independent of the samples, what is picked is distributed as any of them.
    """
    columns = ascending(samples.permute(1, 3, 2, 0).contiguous())
    rank = (torch.special.ndtr(scores) * len(samples)).long().clamp(0, len(samples) - 1)
    return columns.gather(-1, rank).squeeze(-1).transpose(1, 2)


def ascending(values: Float[Tensor, "*shape M"]) -> Float[Tensor, "*shape M"]:
    """Along the last axis, by numpy where it can: several times as fast on a CPU."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        array = values.numpy().copy()
        array.sort(axis=-1)
        return torch.from_numpy(array)
    return values.sort(dim=-1).values


def order(values: Float[Tensor, "*shape M"]) -> Int[Tensor, "*shape M"]:
    """The places of the smallest, the next, and so on, along the last axis."""
    if values.device.type == "cpu":
        return torch.from_numpy(values.numpy().argsort(axis=-1))
    return values.argsort(dim=-1)
