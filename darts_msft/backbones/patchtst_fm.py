"""PatchTST-FM on the layers that Darts ported from ibm-granite/granite-tsfm.

Reference: Wen et al. 2026, "Revisiting the Generic Transformer: Deconstructing a Strong Baseline for Time Series
Foundation Models", arXiv 2602.06909. The layers are those of Darts 0.48.1 (`patchtst_fm_model.py` and
`patchtst_fm_submodels.py`, after granite-tsfm's branch patchtst-fm, Apache-2.0), under the checkpoints' own parameter
names. What differs from Darts' forward: statistics are in double precision and passed along; patches begin at the
forecast origin, where Darts counts them from the horizon's end (for a horizon of whole patches that is the same);
padded tokens are not attended to, but attend like others; and there is no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from darts.models.forecasting.patchtst_fm_model import _PatchTSTFMBackbone
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.config_fields import required
from darts_msft.backbones.families import QuantileFamily
from darts_msft.backbones.moments import mean_and_variance

_MINIMUM_SCALE = 1e-5  # a smaller deviation counts as 1
_PADDED = 0.9  # share of a patch's steps before the series begins beyond which nothing attends to it


class PatchTSTFMBackbone(Backbone):
    """A token is (asinh of the value, observed or not) of a patch, with learned positions that end at the horizon's."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.traits = self.traits_of(config)
        (self.patch_size,) = self.traits.patch_sizes
        names = ("d_model", "n_head", "n_layer", "context_length")
        width, num_heads, num_layers, longest = required(config, *names)
        self.backbone = _PatchTSTFMBackbone(
            context_length=longest,
            d_patch=self.patch_size,
            d_model=width,
            n_head=num_heads,
            n_layer=num_layers,
            num_quantile=len(self.family.names),
        )
        self.spec = Spec(
            width=width,
            num_layers=num_layers,
            adapter_targets={"qkv": Target("attn.qkv", width, 3 * width)},
            tuned=("*.attn.proj.*", "*.norm?.*"),
            head=("backbone.out_layer.*",),
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        patch, levels, longest = required(config, "d_patch", "quantile_levels", "context_length")
        fixed = {"num_quantile": len(levels), "norm_first": True}
        for name, value in fixed.items():
            if config.get(name, value) != value:
                raise ValueError(
                    f"config.json: {name}={config[name]!r} is not {value!r}, which goes with its other fields and with "
                    "PatchTST-FM; give the checkpoint's own config.json"
                )
        return Traits((patch,), QuantileFamily(levels, squashed=True), max_tokens=longest // patch)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> PatchTSTFMBackbone:
        return cls(config)

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        mean, variance = mean_and_variance(past)
        spread = variance.sqrt()
        return Stats(mean, spread.where(spread > _MINIMUM_SCALE, 1))

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        values = torch.cat([past, future], dim=-1).asinh()
        pairs = (values, torch.cat([observed, known], dim=-1).to(values.dtype))
        inputs = [rearrange(part, "b v (n p) -> b v n p", p=self.patch_size) for part in pairs]
        tokens: Tensor = self.backbone.in_layer(torch.cat(inputs, dim=-1))
        return tokens + self.backbone.pos_embed.embedding.weight[-tokens.shape[-2] :]

    def token_mask(
        self, observed: Bool[Tensor, "B V L"], known: Bool[Tensor, "B V LH"], targets: int
    ) -> Bool[Tensor, "B V N"]:
        """All but those before the series begins; gaps within it are seen as such."""
        before = rearrange(observed.cumsum(dim=-1) == 0, "b v (n p) -> b v n p", p=self.patch_size)
        begun = before.double().mean(dim=-1) <= _PADDED
        return F.pad(begun, (0, known.shape[-1] // self.patch_size), value=True)

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        block = self.backbone.blocks[layer]
        projected = adapted("qkv", block.attn.qkv, block.norm1(tokens), adapters)
        heads = {"three": 3, "head": block.attn.num_heads}
        query, key, value = rearrange(projected, "b v n (three head d) -> three (b v) head n d", **heads)
        seen = None if mask is None else rearrange(mask, "b v n -> (b v) 1 1 n")
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        joined = rearrange(attended, "(b v) head n d -> b v n (head d)", b=len(tokens))
        output: Tensor = tokens + block.attn.proj(joined)
        return output

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        block = self.backbone.blocks[layer]
        output: Tensor = tokens + block.mlp(block.norm2(tokens))
        return output

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        return tokens[..., -math.ceil(horizon / self.patch_size) :, :]

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        """The lowest level's value and the gaps to the next ones, which are never negative."""
        raw = rearrange(
            self.backbone.out_layer(self.readout(tokens, horizon, mask)),
            "b v n (r p) -> b v (n p) r",
            p=self.patch_size,
        )[..., :horizon, :]
        gaps = F.softplus(raw[..., 1:]) / len(self.family.names)
        return (raw[..., :1] + gaps.cumsum(dim=-1)).sinh()
