"""Chronos-2 on the layers that Darts ported from amazon-science/chronos-forecasting.

Reference: Ansari et al. 2025, "Chronos-2: From Univariate to Universal Forecasting", arXiv 2510.15821. The layers are
those of `darts/models/components/chronos2_submodels.py` (Darts 0.48.1, after chronos-forecasting's commit c23d34c,
Apache-2.0), under the checkpoints' own parameter names. What differs from Darts' forward: statistics are in double
precision (there in float32, which shows where a series' level is a thousand times its spread), the group attention
runs along the axis of the variates instead of between rows with the same group, a lone variate skips its softmax over
one, the head sees horizon tokens only, and there is no dropout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from darts.models.components.chronos2_submodels import _Chronos2Encoder, _ResidualBlock, _RoPE
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.config_fields import required
from darts_msft.backbones.families import QuantileFamily
from darts_msft.backbones.moments import mean_and_variance
from darts_msft.scales.pyramid import TokenLayout

_MINIMUM_SCALE = 1e-5  # in the place of a deviation of 0
_REGISTER = 1  # the row of `shared` that holds the register token
_ACTIVATION = "relu"


class Chronos2Backbone(Backbone):
    """A token is (time, asinh of the value, observed or not) of a patch; a register token precedes the horizon's.

    Each layer attends along time and then, at each token, between the variates of a series.

    Parameters
    ----------
    config
        The checkpoint's.
    joint
        Whether series of several variates are to come. A lone variate has nobody to attend to: the group attention's
        queries and keys have no part in its forecast then.
    """

    def __init__(self, config: Mapping[str, Any], joint: bool) -> None:
        super().__init__()
        self.traits = self.traits_of(config)
        (self.patch_size,) = self.traits.patch_sizes
        names = ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "rope_theta")
        width, per_head, hidden, num_layers, num_heads, theta = required(config, *names)
        (self.time_scale,) = required(config, "time_encoding_scale", inside="chronos_config")
        self.num_heads = num_heads
        _, _, registers = self.traits.layout
        self.shared = nn.Embedding(1 + registers, width)
        outputs = len(self.family.names) * self.patch_size
        self.input_patch_embedding = _ResidualBlock(3 * self.patch_size, hidden, width, _ACTIVATION)
        self.output_patch_embedding = _ResidualBlock(width, hidden, outputs, _ACTIVATION)
        self.encoder = _Chronos2Encoder(
            d_model=width,
            d_kv=per_head,
            d_ff=hidden,
            num_heads=num_heads,
            dropout_rate=0.0,
            rope_theta=theta,
            attn_implementation="sdpa",
            dense_act_fn=_ACTIVATION,
            layer_norm_epsilon=config.get("layer_norm_epsilon", 1e-6),  # absent: the format's default, as below
            is_gated_act=False,
            num_layers=num_layers,
        )
        linears = {f"time_{name}": f"layer.0.self_attention.{name}" for name in "qkv"}
        linears |= {f"group_{name}": f"layer.1.self_attention.{name}" for name in ("qkv" if joint else "v")}
        self.spec = Spec(
            width=width,
            num_layers=num_layers,
            adapter_targets={name: Target(path, width, num_heads * per_head) for name, path in linears.items()},
            tuned=("encoder.block.*.layer.[01].self_attention.o.weight", "*layer_norm.weight"),
            head=("output_patch_embedding.*",),
            unused=(
                *(() if registers else ("shared.weight",)),
                *(() if joint else ("encoder.block.*.layer.1.self_attention.[qk].weight",)),
            ),
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        patch, stride, output_patch, levels, context, most_patches = required(
            config,
            *("input_patch_size", "input_patch_stride", "output_patch_size"),
            *("quantiles", "context_length", "max_output_patches"),
            inside="chronos_config",
        )
        if not patch == stride == output_patch:
            raise ValueError(
                f"config.json: output_patch_size={output_patch} and input_patch_stride={stride} of chronos_config must "
                f"both be its input_patch_size={patch}; take a checkpoint such as amazon/chronos-2"
            )
        activation = config.get("feed_forward_proj", _ACTIVATION)
        if activation != _ACTIVATION:
            raise ValueError(
                f"config.json: feed_forward_proj={activation!r} is not {_ACTIVATION!r}, which Chronos-2 has; take a "
                "checkpoint such as amazon/chronos-2"
            )
        chronos = config["chronos_config"]
        return Traits(
            (patch,),
            QuantileFamily(levels, squashed=bool(chronos.get("use_arcsinh", False))),
            TokenLayout(middle=int(chronos.get("use_reg_token", False))),
            past_covariates=True,
            future_covariates=True,
            multivariate=("joint", "independent"),
            max_context=context,
            max_horizon=output_patch * most_patches,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> Chronos2Backbone:
        return cls(config, joint)

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        # of the context alone, also for covariates whose horizon is known
        mean, variance = mean_and_variance(past)
        spread, seen = variance.sqrt(), ~torch.isnan(past).all(dim=-1, keepdim=True)
        return Stats(mean, spread.where(spread > 0, _MINIMUM_SCALE).where(seen, 1))

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        context = self._project(past, observed, first=-past.shape[-1])
        register = self.shared.weight[_REGISTER:].to(context.dtype).expand(*past.shape[:2], -1, -1)
        return torch.cat([context, register, self._project(future, known, first=0)], dim=-2)

    def _project(
        self, values: Float[Tensor, "B V L"], observed: Bool[Tensor, "B V L"], first: int
    ) -> Float[Tensor, "B V N D"]:
        """Patches of steps of which the first is `first` steps after the origin."""
        time = torch.arange(first, first + values.shape[-1], device=values.device, dtype=torch.float32)
        squashed = values.asinh() if self._squashed else values
        parts = ((time / self.time_scale).to(values.dtype).expand_as(values), squashed, observed.to(values.dtype))
        inputs = [rearrange(part, "b v (n p) -> b v n p", p=self.patch_size) for part in parts]
        tokens: Tensor = self.input_patch_embedding(torch.cat(inputs, dim=-1))
        return tokens

    @property
    def _squashed(self) -> bool:
        family = self.family
        assert isinstance(family, QuantileFamily)
        return family.squashed

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        tokens = tokens + self._along_time(layer, tokens, mask, adapters)
        return tokens + self._between_variates(layer, tokens, mask, adapters)

    def _along_time(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        block = self.encoder.block[layer].layer[0]
        linears, x = block.self_attention, block.layer_norm(tokens)
        query, key, value = (
            rearrange(
                adapted(f"time_{name}", getattr(linears, name), x, adapters),
                "b v n (head d) -> (b v) head n d",
                head=self.num_heads,
            )
            for name in "qkv"
        )
        positions = torch.arange(tokens.shape[-2], device=tokens.device).unsqueeze(0)
        query, key = _RoPE.apply_rotary_pos_emb(query, key, *linears.rope_embed(value, positions))
        seen = None if mask is None else rearrange(mask, "b v n -> (b v) 1 1 n")
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=1.0)
        joined = rearrange(attended, "(b v) head n d -> b v n (head d)", b=len(tokens))
        output: Tensor = linears.o(joined)
        return output

    def _between_variates(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        """Without positions, as variates have no order; a variate hears of those with a valid token at that time."""
        block = self.encoder.block[layer].layer[1]
        linears, x = block.self_attention, block.layer_norm(tokens)
        if tokens.shape[1] == 1:
            alone: Tensor = linears.o(adapted("group_v", linears.v, x, adapters))
            return alone
        query, key, value = (
            rearrange(
                adapted(f"group_{name}", getattr(linears, name), x, adapters),
                "b v n (head d) -> (b n) head v d",
                head=self.num_heads,
            )
            for name in "qkv"
        )
        seen = None if mask is None else rearrange(mask, "b v n -> (b n) 1 1 v")
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=1.0)
        joined = rearrange(attended, "(b n) head v d -> b v n (head d)", b=len(tokens))
        output: Tensor = linears.o(joined)
        return output

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        output: Tensor = self.encoder.block[layer].layer[2](tokens)
        return output

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        encoded: Tensor = self.encoder.final_layer_norm(tokens[..., -math.ceil(horizon / self.patch_size) :, :])
        return encoded

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        raw = self.output_patch_embedding(self.readout(tokens, horizon, mask))
        values = rearrange(raw, "b v n (r p) -> b v (n p) r", p=self.patch_size)[..., :horizon, :]
        return values.sinh() if self._squashed else values
