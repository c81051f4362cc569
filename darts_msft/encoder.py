"""The layer loop: in-scale attention, cross-scale aggregation, feed-forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from darts_msft.backbones.base import Adapters, Backbone


@runtime_checkable
class Hooks(Protocol):
    """What a finetuning method may do inside the loop."""

    def adapters(self, layer: int, scale: int) -> Adapters:
        """Additive modules for the attention's linears."""

    def aggregate(self, layer: int, tokens: list[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        """Exchange between scales after the attention."""


def encode(
    backbone: Backbone,
    hooks: Hooks,
    tokens: Sequence[Float[Tensor, "B V _ D"]],
    masks: Sequence[Bool[Tensor, "B V _"] | None],
) -> list[Float[Tensor, "B V _ D"]]:
    """Runs all layers over the scales' tokens; `tokens[i]` is (B, V, N_i, D).

    A token attends to valid tokens of its own scale and variate.
    """
    current = list(tokens)
    for layer in range(backbone.spec.num_layers):
        attended = [
            backbone.attention(layer, scale_tokens, mask, hooks.adapters(layer, scale))
            for scale, (scale_tokens, mask) in enumerate(zip(current, masks, strict=True))
        ]
        fused = hooks.aggregate(layer, attended, masks)
        current = [backbone.feed_forward(layer, scale_tokens) for scale_tokens in fused]
    return current
