"""The layer loop: attention within each scale, cross-scale aggregation, feed-forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, adapted


@runtime_checkable
class Hooks(Protocol):
    """What a finetuning method may do inside the loop."""

    joined: bool
    """Whether the attention sees the tokens of all scales as one sequence, scale after scale."""

    def adapters(self, layer: int, scale: int) -> Adapters:
        """What takes the place of the attention's linears, by name."""

    def aggregate(self, layer: int, tokens: list[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        """Exchange between scales after the attention."""


def encode(
    backbone: Backbone,
    hooks: Hooks,
    tokens: Sequence[Float[Tensor, "B V _ D"]],
    masks: Sequence[Bool[Tensor, "B V _"] | None],
) -> list[Float[Tensor, "B V _ D"]]:
    """Runs all layers over the scales' tokens; `tokens[i]` is (B, V, N_i, D).

    A token attends to valid tokens of its own variate: of its own scale, or, where the method asks for it, of all. The
    joined sequence has positions 0, 1, ... that run on from scale to scale (our reading of the paper's ablation).
    """
    current, counts = list(tokens), [part.shape[-2] for part in tokens]
    for layer in range(backbone.spec.num_layers):
        adapters = [hooks.adapters(layer, scale) for scale in range(len(current))]
        attend = _attend_jointly if hooks.joined and len(current) > 1 else _attend_in_scale
        fused = hooks.aggregate(layer, attend(backbone, layer, current, masks, adapters), masks)
        # it acts on each token alone: one large product for all scales
        current = list(backbone.feed_forward(layer, torch.cat(fused, dim=-2)).split(counts, dim=-2))
    return current


def _attend_in_scale(
    backbone: Backbone,
    layer: int,
    tokens: Sequence[Float[Tensor, "B V _ D"]],
    masks: Sequence[Bool[Tensor, "B V _"] | None],
    adapters: Sequence[Adapters],
) -> list[Float[Tensor, "B V _ D"]]:
    return [backbone.attention(layer, *scale) for scale in zip(tokens, masks, adapters, strict=True)]


def _attend_jointly(
    backbone: Backbone,
    layer: int,
    tokens: Sequence[Float[Tensor, "B V _ D"]],
    masks: Sequence[Bool[Tensor, "B V _"] | None],
    adapters: Sequence[Adapters],
) -> list[Float[Tensor, "B V _ D"]]:
    """One sequence with full attention and positions that run on; each scale's adapters act on its own tokens."""
    counts = [part.shape[-2] for part in tokens]
    mask = None
    if any(part is not None for part in masks):
        filled = [torch.ones_like(part[..., 0], dtype=torch.bool) for part in tokens]
        filled = [every if part is None else part for every, part in zip(filled, masks, strict=True)]
        mask = torch.cat(filled, dim=-1)
    names = sorted({name for scale_adapters in adapters for name in scale_adapters})
    composite = {name: ScaleSections(name, adapters, counts) for name in names}
    attended = backbone.attention(layer, torch.cat(list(tokens), dim=-2), mask, composite)
    return list(attended.split(counts, dim=-2))


class ScaleSections(nn.Module):
    """One target's adapters over the joined sequence: each scale's own on its `counts[i]` tokens.

    It borrows the adapters for one call, and owns no parameters.
    """

    def __init__(self, name: str, adapters: Sequence[Adapters], counts: Sequence[int]) -> None:
        super().__init__()
        self.name, self.adapters, self.counts = name, list(adapters), list(counts)

    def forward(self, linear: nn.Module, x: Float[Tensor, "*shape N I"]) -> Float[Tensor, "*shape N O"]:
        sections = zip(x.split(self.counts, dim=-2), self.adapters, strict=True)
        return torch.cat([adapted(self.name, linear, part, own) for part, own in sections], dim=-2)
