"""The training loss: each scale's own loss, their sum, and the mixed forecast's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from darts_msft.backbones.base import Stats
from darts_msft.backbones.families import Family
from darts_msft.scales.pyramid import ScalePlan

LossFn = Callable[[Tensor, Tensor], Tensor]  # of forecast and value


def scale_losses(
    family: Family,
    plan: ScalePlan,
    params: Sequence[Float[Tensor, "B V _ R"]],
    stats: Sequence[Stats],
    target: Float[Tensor, "B V H"],
    sample_weight: Float[Tensor, "B V H"] | None,
    loss_fn: LossFn | None = None,
) -> Float[Tensor, "S"]:
    """L_i: the family's loss at each scale over observed labels, in units of the context's standard deviation.

    With a `loss_fn` it is that, of the medians in the series' units. `params[i]` is (B, V, H_i, R); NaN in `target`
    marks missing values; labels are the pooled horizon.
    """
    weights = torch.ones_like(target) if sample_weight is None else sample_weight
    labels, pooled = plan.pool_horizon(target), plan.pool_horizon(weights)
    if loss_fn is None:
        values = [(label - loc) / spread for label, (loc, spread) in zip(labels, stats, strict=True)]
        return family.losses(params, values, pooled)
    losses = []
    for label, weight, scale_params, (loc, spread) in zip(labels, pooled, params, stats, strict=True):
        losses.append(loss_of_points(loss_fn, family.quantile(scale_params, 0.5) * spread + loc, label, weight))
    return torch.stack(losses)


def mixed_loss(
    family: Family,
    params: Float[Tensor, "B V H S R"],
    stats: Sequence[Stats],
    weights: Float[Tensor, "*shape S"],
    target: Float[Tensor, "B V H"],
    sample_weight: Float[Tensor, "B V H"] | None,
    loss_fn: LossFn | None = None,
) -> Float[Tensor, ""]:
    """The family's loss of the scales' mixed forecast at the original rate; with a `loss_fn` that, as above."""
    loc, spread = (torch.stack([getattr(part, name) for part in stats], dim=-1) for name in ("loc", "spread"))
    if loss_fn is None:
        return family.mixed_loss(params, loc, spread, weights, target, sample_weight)
    points = ((family.quantile(params, 0.5) * spread + loc) * weights).sum(dim=-1)
    return loss_of_points(loss_fn, points, target, torch.ones_like(target) if sample_weight is None else sample_weight)


def loss_of_points(
    loss_fn: LossFn, points: Float[Tensor, "B V H"], target: Float[Tensor, "B V H"], weight: Float[Tensor, "B V H"]
) -> Float[Tensor, ""]:
    """A torch loss, which sees (B, H, V) as with Darts' models; a missing value counts as the others on average.

    Weights count where the loss is not reduced, which Darts sees to.
    """
    seen = ~torch.isnan(target)
    target = target.where(seen, points.detach())
    loss: Tensor = loss_fn(points.transpose(1, 2), target.transpose(1, 2))
    if loss.ndim:
        loss = (loss * (weight * seen).transpose(1, 2)).mean()
    return loss * (seen.numel() / seen.sum().clamp(min=1))


def combine(losses: Float[Tensor, "S"], weights: Float[Tensor, "S"], weight_learning: str) -> Float[Tensor, ""]:
    """The paper's sum of softmax(omega)-weighted losses, or, where omega learns elsewhere, the plain mean."""
    if weight_learning == "scale_loss":
        return (weights * losses).sum()
    return losses.mean()
