"""The training loss: each scale's own loss, and their sum."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from darts_msft.backbones.base import Stats
from darts_msft.backbones.families import Family
from darts_msft.scales.pyramid import ScalePlan


def scale_losses(
    family: Family,
    plan: ScalePlan,
    params: Sequence[Float[Tensor, "B V _ R"]],
    stats: Sequence[Stats],
    target: Float[Tensor, "B V H"],
    sample_weight: Float[Tensor, "B V H"] | None,
) -> Float[Tensor, "S"]:
    """L_i: the family's loss at each scale over observed labels, in units of the context's standard deviation.

    `params[i]` is (B, V, H_i, R); NaN in `target` marks missing values; labels are the pooled horizon.
    """
    weights = torch.ones_like(target) if sample_weight is None else sample_weight
    losses = []
    labels = zip(plan.pool_horizon(target), plan.pool_horizon(weights), strict=True)
    for (label, weight), scale_params, (loc, spread) in zip(labels, params, stats, strict=True):
        losses.append(family.loss(scale_params, (label - loc) / spread, weight))
    return torch.stack(losses)


def combine(losses: Float[Tensor, "S"], weights: Float[Tensor, "S"], weight_learning: str) -> Float[Tensor, ""]:
    """The paper's sum of softmax(omega)-weighted losses, or, where omega learns elsewhere, the plain mean."""
    if weight_learning == "scale_loss":
        return (weights * losses).sum()
    return losses.mean()
