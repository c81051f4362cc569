"""A third encoder, for what MOIRAI and the first toy lack, by its configuration.

Tokens of no time (lead and middle), no tokens for the horizon, two attentions a layer whose linears share their last
name, the second one across variates, a feed-forward that mixes time, a data set's own tokens, positions from the
origin; forecasts of quantiles, or points from a head that is not pretrained and statistics that the scales share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from toy_backbone import mean_and_deviation, save_random

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.families import PointFamily, QuantileFamily
from darts_msft.scales.pyramid import TokenLayout

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
BOTH = ("joint", "independent")


class ToyAttention(nn.Module):
    """One head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)


class ToyOfLayouts(Backbone):
    """A pre-norm encoder of one patch size, 4 steps; it reads its layout from the configuration."""

    dropped = ("decoder.*",)

    def __init__(self, width: int, num_layers: int, traits: Traits) -> None:
        super().__init__()
        self.patch_size, self.traits = traits.patch_sizes[0], traits
        self.mixes_time = traits.pretrained_head
        _, lead, middle = traits.layout
        self.input = nn.Linear(2 * self.patch_size, width)
        for name, count in (("lead", lead), ("middle", middle)):
            self.register_parameter(name, nn.Parameter(torch.randn(count, width)) if count else None)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "attention": nn.ModuleList([ToyAttention(width), ToyAttention(width)]),
                    "norm": nn.LayerNorm(width),
                    "up": nn.Linear(2 * width, 2 * width),
                    "down": nn.Linear(2 * width, width),
                }
            )
            for _ in range(num_layers)
        )
        self.last_norm = nn.LayerNorm(width)
        if traits.pretrained_head:
            self.output = nn.Linear(width, self.patch_size * len(traits.family.names))
        self.spec = Spec(
            width=width,
            num_layers=num_layers,
            adapter_targets={
                name: Target(f"attention.{index}.qkv", width, 3 * width)
                for index, name in enumerate(("time", "variate"))
            },
            tuned=("layers.*.attention.*.out.*", "*norm.*"),
            head=("output.*",) if traits.pretrained_head else (),
            prompts=("lead",) if lead else (),
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        if "toy_headless" in config:
            kind = {"family": PointFamily(), "layout": TokenLayout(horizon=False), "pretrained_head": False}
            return Traits((4,), **kind, own_statistics=False, multivariate=BOTH, max_context=64)
        layout = TokenLayout(lead=config["toy_lead"], middle=config["toy_middle"])
        family = PointFamily() if "toy_points" in config else QuantileFamily(LEVELS, squashed=True)
        return Traits((4,), family, layout, multivariate=BOTH, max_context=64)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> ToyOfLayouts:
        return cls(16, 2, cls.traits_of(config))

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        return mean_and_deviation(past)

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        context, horizon = (
            self.input(torch.cat([part.unflatten(-1, (-1, self.patch_size)) for part in pair], dim=-1)) + position
            for *pair, position in (
                (past.asinh(), observed.to(past), self._positions(-past.shape[-1], past)),
                (future.asinh(), known.to(past), self._positions(future.shape[-1], past)),
            )
        )
        parts = [part for part in (self.lead, context, self.middle, horizon) if part is not None]
        return torch.cat([part.expand(*past.shape[:2], -1, -1) for part in parts], dim=-2)

    def _positions(self, steps: int, like: Tensor) -> Float[Tensor, "N D"]:
        """Sines of the time from the origin, to `steps` before or after it."""
        time = torch.arange(min(steps, 0), max(steps, 0), self.patch_size, device=like.device).to(like)
        rates = torch.arange(1, self.spec.width + 1, device=like.device).to(like)
        return torch.sin(time[:, None] / (4 * rates))

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        mask = torch.ones_like(tokens[..., 0], dtype=torch.bool) if mask is None else mask
        for part, name, axes in ((0, "time", "b v n d -> b v n d"), (1, "variate", "b v n d -> b n v d")):
            block = self.layers[layer]["attention"][part]
            joined = rearrange(adapted(name, block.qkv, block.norm(tokens), adapters), axes)
            query, key, value = joined.chunk(3, dim=-1)
            seen = rearrange(mask.unsqueeze(-1), axes).squeeze(-1).unsqueeze(-2)
            scores = (query @ key.mT / math.sqrt(query.shape[-1])).masked_fill(~seen, torch.finfo(query.dtype).min)
            back = "b v n d -> b v n d" if part == 0 else "b n v d -> b v n d"
            tokens = tokens + block.out(rearrange(scores.softmax(dim=-1) @ value, back))
        return tokens

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        block = self.layers[layer]
        x = block["norm"](tokens)
        other = x
        if self.mixes_time:
            assert mask is not None
            valid = mask.unsqueeze(-1).to(x.dtype)
            mean = (x * valid).sum(dim=-2, keepdim=True) / valid.sum(dim=-2, keepdim=True).clamp(min=1)
            other = mean.expand_as(x)
        return tokens + block["down"](F.gelu(block["up"](torch.cat([x, other], dim=-1))))

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        if self.traits.layout.horizon:
            return self.last_norm(tokens[..., -math.ceil(horizon / self.patch_size) :, :])
        return self.last_norm(tokens) * mask.unsqueeze(-1).to(tokens.dtype)

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        if not self.traits.pretrained_head:
            raise NotImplementedError("there is no pretrained head")
        raw = self.output(self.readout(tokens, horizon, mask)).unflatten(-1, (len(self.family.names), -1))
        return rearrange(raw, "b v n r p -> b v (n p) r")[..., :horizon, :].sinh()


def save_quantile_toy(directory: Path) -> None:
    save_random(ToyOfLayouts, {"toy_lead": 2, "toy_middle": 1}, directory, **{"decoder.weight": torch.ones(3)})


def save_toy_of_points(directory: Path) -> None:
    save_random(ToyOfLayouts, {"toy_lead": 2, "toy_middle": 1, "toy_points": True}, directory)


def save_headless_toy(directory: Path) -> None:
    save_random(ToyOfLayouts, {"toy_headless": True}, directory)
