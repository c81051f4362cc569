"""A second encoder, unlike MOIRAI wherever the contract leaves a choice, to show that shared code knows no backbone.

It fuses q, k and v in one linear, has biases, LayerNorm, positions by distance, a gate in the feed-forward, a
projection for each patch size, mean absolute deviations for scale, and a Normal forecast.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Normal

from darts_msft.backbones import ARCHITECTURES, Architecture
from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.families import DensityFamily

TOY = Architecture("toy_backbone:ToyBackbone", ("toy_width", "toy_layers", "toy_patch_sizes"))
TOY_OF_QUANTILES = Architecture("toy_layouts:ToyOfLayouts", ("toy_lead", "toy_middle"))
TOY_WITHOUT_HEAD = Architecture("toy_layouts:ToyOfLayouts", ("toy_headless",))
MINIMUM_SCALE = 1e-5


class NormalFamily(DensityFamily):
    """Normal distribution with the columns mean and standard deviation."""

    names = ("loc", "scale")

    def log_prob(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return Normal(*params.unbind(dim=-1)).log_prob(value)

    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        return Normal(*params.unbind(dim=-1)).sample()

    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return Normal(*params.unbind(dim=-1)).cdf(value)

    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        return Normal(*params.unbind(dim=-1)).icdf(params.new_tensor(level))


class ToyLayer(nn.Module):
    """One encoder layer's parameters, two heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.slope = nn.Parameter(torch.tensor([0.1, 0.3]))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(2 * width, width)


class ToyBackbone(Backbone):
    """A pre-norm encoder whose attention fades with distance."""

    def __init__(self, width: int, num_layers: int, traits: Traits, patch_size: int) -> None:
        super().__init__()
        self.patch_size, self.traits = patch_size, traits
        patch_sizes = traits.patch_sizes
        self.inputs = nn.ModuleDict({str(size): nn.Linear(size, width) for size in patch_sizes})
        self.outputs = nn.ModuleDict({str(size): nn.Linear(width, 2 * size) for size in patch_sizes})
        self.horizon_token = nn.Parameter(torch.randn(width))
        self.layers = nn.ModuleList(ToyLayer(width) for _ in range(num_layers))
        self.last_norm = nn.LayerNorm(width)
        self.spec = Spec(
            width=width,
            num_layers=num_layers,
            adapter_targets={"qkv": Target("qkv", width, 3 * width), "out": Target("out", width, width)},
            tuned=("layers.*.norm_*", "layers.*.slope", "last_norm.*"),
            head=(f"outputs.{patch_size}.*",),
            unused=tuple(f"*puts.{size}.*" for size in patch_sizes if size != patch_size),
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        return Traits(tuple(config["toy_patch_sizes"]), NormalFamily())

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> ToyBackbone:
        return cls(config["toy_width"], config["toy_layers"], cls.traits_of(config), patch_size)

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        return mean_and_deviation(past)

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        context = self.inputs[str(self.patch_size)](past.unflatten(-1, (-1, self.patch_size)))
        horizon = self.horizon_token.expand(*context.shape[:2], future.shape[-1] // self.patch_size, -1)
        return torch.cat([context, horizon], dim=-2)

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        block, x = self.layers[layer], self.layers[layer].norm_attention(tokens)
        projected = adapted("qkv", block.qkv, x, adapters)
        query, key, value = rearrange(projected, "b v n (three head d) -> three b v head n d", three=3, head=2)
        time = torch.arange(tokens.shape[-2])
        bias = -block.slope[:, None, None] * (time[:, None] - time).abs()
        if mask is not None:
            bias = bias.masked_fill(~mask[:, :, None, None, :], -torch.inf)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        joined = rearrange(attended, "b v head n d -> b v n (head d)")
        return tokens + adapted("out", block.out, joined, adapters)

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        block = self.layers[layer]
        return tokens + block.down(F.glu(block.up(block.norm_feed_forward(tokens))))

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        return self.last_norm(tokens[..., -math.ceil(horizon / self.patch_size) :, :])

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        raw = self.outputs[str(self.patch_size)](self.readout(tokens, horizon, mask))
        loc, spread = rearrange(raw, "b v n (p two) -> two b v (n p)", two=2)[..., :horizon]
        return torch.stack([loc, F.softplus(spread) + MINIMUM_SCALE], dim=-1)


def mean_and_deviation(past: Float[Tensor, "B V C"]) -> Stats:
    """In double precision."""
    observed = ~torch.isnan(past)
    values, count = torch.where(observed, past, 0).double(), observed.sum(dim=-1, keepdim=True).clamp(min=1)
    loc = values.sum(dim=-1, keepdim=True) / count
    deviation = torch.where(observed, values - loc, 0).abs()
    return Stats(loc, deviation.sum(dim=-1, keepdim=True) / count + MINIMUM_SCALE)


@contextmanager
def registered_toys() -> Iterator[None]:
    """The toys are architectures like any other for as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "toy", TOY)
        patch.setitem(ARCHITECTURES, "toy_of_quantiles", TOY_OF_QUANTILES)
        patch.setitem(ARCHITECTURES, "toy_without_head", TOY_WITHOUT_HEAD)
        yield


def save_toy(directory: Path) -> None:
    """A checkpoint with random weights: config.json and model.safetensors."""
    save_random(ToyBackbone, {"toy_width": 16, "toy_layers": 2, "toy_patch_sizes": [4, 8]}, directory)


def save_random(cls: type[Backbone], config: dict[str, Any], directory: Path, **surplus: Tensor) -> None:
    """With tensors beside those of the backbone."""
    torch.manual_seed(5)
    backbone = cls.from_config(config, patch_size=4)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file({**backbone.state_dict(), **surplus}, directory / "model.safetensors")
