"""The layer loop: attention within each scale, cross-scale aggregation, feed-forward.

Scales of nearly equal numbers of tokens attend as one batch: a few large products where there were many small ones.
Without gradients a CPU takes a few windows at a time: what a layer makes of many is too large for its caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, adapted
from darts_msft.scales.adapters import LoRA, through_loras

MOST_PADDING = 0.15  # of a batch of scales, as a share of their own tokens: beyond, separate calls are cheaper

CACHED_TOKENS = 4096  # of all scales, that a CPU takes at a time


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
    if (windows := _windows_at_a_time(tokens)) < len(tokens[0]):
        encoded = []
        for first in range(0, len(tokens[0]), windows):
            rows = slice(first, first + windows)
            seen = [None if mask is None else mask[rows] for mask in masks]
            encoded.append(encode(backbone, hooks, [part[rows] for part in tokens], seen))
        return [torch.cat(parts) for parts in zip(*encoded, strict=True)]
    current, counts = list(tokens), [part.shape[-2] for part in tokens]
    attention = _choose(hooks.joined, backbone.mixes_time, counts)(tokens, masks)
    for layer in range(backbone.spec.num_layers):
        adapters = [hooks.adapters(layer, scale) for scale in range(len(current))]
        fused = hooks.aggregate(layer, attention(backbone, layer, current, adapters), masks)
        if backbone.mixes_time:
            current = [backbone.feed_forward(layer, *scale) for scale in zip(fused, masks, strict=True)]
        else:  # it acts on each token alone: one large product for all scales
            current = list(backbone.feed_forward(layer, torch.cat(fused, dim=-2), None).split(counts, dim=-2))
    return current


def unless_all(mask: Bool[Tensor, "B V N"]) -> Bool[Tensor, "B V N"] | None:
    """None where all is valid, which is quicker.

    Not on other devices, which would have to be waited for, nor where the forecast is exported, for any windows.
    """
    asks = mask.device.type == "cpu" and not torch.compiler.is_exporting()
    return None if asks and bool(mask.all()) else mask


def _windows_at_a_time(tokens: Sequence[Float[Tensor, "B V _ D"]]) -> int:
    first = tokens[0]
    if torch.is_grad_enabled() or first.device.type != "cpu" or torch.compiler.is_exporting():
        return len(first)
    return max(1, CACHED_TOKENS // (first.shape[1] * sum(part.shape[-2] for part in tokens)))


def _choose(joined: bool, mixes_time: bool, counts: Sequence[int]) -> type[_OneByOne]:
    if len(counts) > 1 and joined:
        return _AsSequence
    if mixes_time:
        return _OneByOne
    within = max(counts) * len(counts) <= (1 + MOST_PADDING) * sum(counts)
    return _AsBatch if len(counts) > 1 and within else _OneByOne


class _OneByOne:
    """The attention of each scale alone; its subclasses bring the scales into fewer calls.

    It is made for one pass with tokens of the pass's shapes, (B, V, N_i, D), and their masks.
    """

    def __init__(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> None:
        self.masks, self.counts = masks, [part.shape[-2] for part in tokens]

    def __call__(
        self, backbone: Backbone, layer: int, tokens: Sequence[Float[Tensor, "B V _ D"]], adapters: Sequence[Adapters]
    ) -> list[Float[Tensor, "B V _ D"]]:
        return [backbone.attention(layer, *scale) for scale in zip(tokens, self.masks, adapters, strict=True)]


class _AsSequence(_OneByOne):
    """One sequence with full attention and positions that run on; each scale's adapters act on its own tokens."""

    def __init__(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> None:
        super().__init__(tokens, masks)
        filled = [_filled(*scale) for scale in zip(tokens, masks, strict=True)]
        self.mask = None if all(part is None for part in masks) else torch.cat(filled, dim=-1)

    def __call__(
        self, backbone: Backbone, layer: int, tokens: Sequence[Float[Tensor, "B V _ D"]], adapters: Sequence[Adapters]
    ) -> list[Float[Tensor, "B V _ D"]]:
        composite = {name: ScaleSections(name, adapters, self.counts, dim=-2) for name in _names(adapters)}
        attended = backbone.attention(layer, torch.cat(list(tokens), dim=-2), self.mask, composite)
        return list(attended.split(self.counts, dim=-2))


class _AsBatch(_OneByOne):
    """One batch, scale after scale; the shorter ones end in padding that no token attends to."""

    def __init__(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> None:
        super().__init__(tokens, masks)
        padding = [max(self.counts) - count for count in self.counts]
        needless = not any(padding) and all(part is None for part in masks)
        filled = [_filled(*scale) for scale in zip(tokens, masks, strict=True)]
        padded = [F.pad(part, (0, missing)) for part, missing in zip(filled, padding, strict=True)]
        self.mask = None if needless else torch.cat(padded)

    def __call__(
        self, backbone: Backbone, layer: int, tokens: Sequence[Float[Tensor, "B V _ D"]], adapters: Sequence[Adapters]
    ) -> list[Float[Tensor, "B V _ D"]]:
        sizes = [len(part) for part in tokens]
        composite = {name: ScaleSections(name, adapters, sizes, dim=0) for name in _names(adapters)}
        joined: Tensor = _JoinPadded.apply(*tokens)
        attended = backbone.attention(layer, joined, self.mask, composite).split(sizes)
        return [part[..., :count, :] for part, count in zip(attended, self.counts, strict=True)]


class _JoinPadded(torch.autograd.Function):
    """(B, V, N_i, D) of each scale -> (S B, V, N, D), scale after scale, with zeros at the end of the shorter ones.

    As `F.pad` and `torch.cat`, but each number is copied once.
    """

    @staticmethod
    def forward(ctx: Any, *tokens: Tensor) -> Tensor:
        ctx.shapes = [part.shape for part in tokens]
        longest, whole = max(shape[-2] for shape in ctx.shapes), sum(map(len, tokens))
        joined = tokens[0].new_empty(whole, tokens[0].shape[1], longest, tokens[0].shape[-1])
        for part, place in zip(tokens, joined.split([len(part) for part in tokens]), strict=True):
            place[..., : part.shape[-2], :] = part
            place[..., part.shape[-2] :, :] = 0
        return joined

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        places = gradient.split([shape[0] for shape in ctx.shapes])
        return tuple(place[..., : shape[-2], :] for place, shape in zip(places, ctx.shapes, strict=True))


def _filled(tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None) -> Bool[Tensor, "B V N"]:
    return torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask


def _names(adapters: Sequence[Adapters]) -> list[str]:
    return sorted({name for of_scale in adapters for name in of_scale})


class ScaleSections(nn.Module):
    """One target's adapters over all scales at once: each scale's own on its `sizes[i]` entries of the axis `dim`.

    It borrows the adapters for one call, and owns no parameters.
    """

    def __init__(self, name: str, adapters: Sequence[Adapters], sizes: Sequence[int], dim: int) -> None:
        super().__init__()
        self.name, self.adapters, self.sizes, self.dim = name, list(adapters), list(sizes), dim

    def forward(self, linear: nn.Module, x: Float[Tensor, "*shape N I"]) -> Float[Tensor, "*shape N O"]:
        loras = [adapter for of_scale in self.adapters if isinstance(adapter := of_scale.get(self.name), LoRA)]
        if self.dim == 0 and len(loras) == len(self.sizes) and isinstance(linear, nn.Linear):
            return through_loras(loras, linear, x)
        sections = zip(x.split(self.sizes, dim=self.dim), self.adapters, strict=True)
        return torch.cat([adapted(self.name, linear, part, own) for part, own in sections], dim=self.dim)
