"""The layer loop against one long sequence, on a fake backbone with a softmax attention."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from contract_backbone import Beside
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, Spec, Target, adapted
from darts_msft.encoder import encode

WIDTH, LAYERS = 4, 3
TARGETS = {"value": Target("value", WIDTH, WIDTH)}


class FakeBackbone(Backbone):
    """Softmax attention with a value projection that can be adapted, and a feed-forward; the rest is not needed."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = Spec(WIDTH, LAYERS, TARGETS, tuned=("value.*",))
        generator = torch.Generator().manual_seed(5)
        self.value = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float64) for _ in range(LAYERS))
        for value in self.value:
            value.weight.data = torch.randn(WIDTH, WIDTH, generator=generator).double()
        self.calls: list[str] = []

    def attention(self, layer: int, tokens: Tensor, mask: Tensor | None, adapters: Adapters) -> Tensor:
        self.calls.append(f"attention {layer}")
        scores = tokens @ tokens.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(-2), -torch.inf)
        value = adapted("value", self.value[layer], tokens, adapters)
        return tokens + scores.softmax(dim=-1) @ value

    def feed_forward(self, layer: int, tokens: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is None or self.mixes_time
        self.calls.append(f"feed_forward {layer}")
        return tokens + torch.tanh((layer + 1) * tokens)

    def from_config(self, *_: Any) -> Any:
        raise NotImplementedError

    traits_of = statistics = embed = readout = head = from_config  # type: ignore[assignment]


class Exchange:
    """Hooks with a different adapter for every layer and scale, and a sum over the scales as the exchange."""

    def __init__(self, calls: list[str], joined: bool = False) -> None:
        self.calls, self.joined = calls, joined
        generator = torch.Generator().manual_seed(6)
        self.linears = {}
        for layer in range(LAYERS):
            for scale in range(3):
                linear = nn.Linear(WIDTH, WIDTH, dtype=torch.float64)
                linear.weight.data = torch.randn(WIDTH, WIDTH, generator=generator).double()
                self.linears[layer, scale] = linear
        self.masks: Sequence[Tensor | None] = ()

    def adapters(self, layer: int, scale: int) -> Adapters:
        return {"value": Beside(self.linears[layer, scale])}

    def aggregate(self, layer: int, tokens: list[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        self.calls.append(f"aggregate {layer}")
        self.masks = masks
        total = sum(part.mean(dim=-2, keepdim=True) for part in tokens) / (layer + 1)
        return [part + (scale + 1) * total for scale, part in enumerate(tokens)]


def make_tokens(counts: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 2, count, WIDTH, generator=generator).double() * 0.5 for count in counts]


def make_masks(counts: Sequence[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    masks = [torch.rand(2, 2, count, generator=generator) < 0.6 for count in counts]
    for mask in masks:
        mask[..., -1] = True
    return masks


def attend(
    backbone: FakeBackbone, hooks: Exchange, layer: int, sequence: Tensor, scale_of: list[int], valid: Tensor
) -> Tensor:
    """One long sequence of all scales' tokens (N, D): a token sees the valid tokens of its own scale, or of all."""
    result = []
    for token, scale in zip(sequence, scale_of, strict=True):
        others = [index for index, other in enumerate(scale_of) if (hooks.joined or other == scale) and valid[index]]
        weights = torch.stack([token @ sequence[index] for index in others]).softmax(dim=0)
        adapters = [hooks.linears[layer, scale_of[index]] for index in others]
        values = [
            backbone.value[layer](sequence[index]) + adapter(sequence[index])
            for index, adapter in zip(others, adapters, strict=True)
        ]
        result.append(token + sum(weight * value for weight, value in zip(weights, values, strict=True)))
    return torch.stack(result)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize(
    ("counts", "masked"),
    [
        *[([6, 3, 2], (0, 1, 2)), ([6, 3], (1,)), ([6, 3, 2], ())],
        *[([6, 6, 5], (0, 1, 2)), ([5, 6], (1,)), ([6, 5, 6], ()), ([5, 5], ()), ([5, 5], (0,))],  # as one batch
    ],
)
@torch.no_grad()
def test_the_loop_is_one_sequence(counts: list[int], masked: tuple[int, ...], joined: bool) -> None:
    """With a block mask; or, where the scales are joined, with full attention and each scale's own adapter."""
    backbone = FakeBackbone()
    hooks = Exchange(backbone.calls, joined)
    tokens, masks = make_tokens(counts), make_masks(counts)
    found = encode(backbone, hooks, tokens, [mask if scale in masked else None for scale, mask in enumerate(masks)])
    scale_of = [scale for scale, count in enumerate(counts) for _ in range(count)]
    for batch in range(2):
        for variate in range(2):
            current = torch.cat([part[batch, variate] for part in tokens])
            valid = torch.cat([mask[batch, variate] | (scale not in masked) for scale, mask in enumerate(masks)])
            for layer in range(LAYERS):
                current = attend(backbone, hooks, layer, current, scale_of, valid)
                fused = hooks.aggregate(layer, list(current.split(counts)), [])
                current = backbone.feed_forward(layer, torch.cat(fused), None)
            for part, expected in zip(found, current.split(counts), strict=True):
                torch.testing.assert_close(part[batch, variate], expected)


@pytest.mark.parametrize(("counts", "calls"), [([20, 20, 14], 3), ([20, 20, 12], 9), ([20, 17], 3), ([20, 14], 6)])
@torch.no_grad()
def test_scales_attend_as_one_batch_where_that_takes_few_more_tokens(counts: list[int], calls: int) -> None:
    """60 for 54, and 40 for 37, are at most 15 % more."""
    backbone = FakeBackbone()
    encode(backbone, Exchange([]), make_tokens(counts), [None] * len(counts))
    assert sum(call.startswith("attention") for call in backbone.calls) == calls


@pytest.mark.parametrize("joined", [False, True])
@torch.no_grad()
def test_the_exchange_stands_between_attention_and_feed_forward_and_sees_the_masks(joined: bool) -> None:
    """Joined scales share one attention; all share one feed-forward, which acts on each token alone."""
    backbone = FakeBackbone()
    hooks = Exchange(backbone.calls, joined)
    masks: list[Tensor | None] = [*make_masks([6, 3]), None]
    encode(backbone, hooks, make_tokens([6, 3, 2]), masks)
    expected = []
    for layer in range(LAYERS):
        attentions = 1 if joined else 3
        expected += [f"attention {layer}"] * attentions + [f"aggregate {layer}", f"feed_forward {layer}"]
    assert backbone.calls == expected
    assert all(found is given for found, given in zip(hooks.masks, masks, strict=True))


@pytest.mark.parametrize(("counts", "joined"), [([6, 3, 2], True), ([6, 6, 5], False)])
@torch.no_grad()
def test_a_scale_without_an_adapter_keeps_the_plain_linear_beside_others(counts: list[int], joined: bool) -> None:
    class OnlySecond(Exchange):
        def adapters(self, layer: int, scale: int) -> Adapters:
            return super().adapters(layer, scale) if scale == 1 else {}

    backbone, hooks = FakeBackbone(), OnlySecond([], joined)
    found = encode(backbone, hooks, make_tokens(counts), [None] * 3)
    silent = Exchange([], joined)
    silent.linears = hooks.linears
    for (_, scale), linear in silent.linears.items():
        if scale != 1:
            for parameter in linear.parameters():
                parameter.zero_()
    for part, expected in zip(found, encode(backbone, silent, make_tokens(counts), [None] * 3), strict=True):
        torch.testing.assert_close(part, expected)
