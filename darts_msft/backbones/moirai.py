"""MOIRAI (1.0 and 1.1) over the real `uni2ts.model.moirai.module.MoiraiModule`.

Reference: Woo et al. 2024, "Unified Training of Universal Time Series Forecasting Transformers";
`uni2ts/model/moirai/module.py` and `forecast.py` (Apache-2.0). The module's own parameters and layers
are used. What differs from its forward: shapes are fixed (no packing), only the chosen patch size is
projected, the head sees horizon tokens only, and missing values enter as the window's location
(0 after scaling) where uni2ts lets raw zeros through, and wholly missing patches are not attended to. As in
uni2ts, 1e-5 is added to each window's variance: bring series with a deviation below about 0.03 to a larger unit.
Statistics are in double precision throughout (uni2ts standardises in float32, which shows where a series' level is
a thousand times its spread). Variates do not attend to one another, so the
same-variate attention bias is a constant that cancels in the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from uni2ts.model.moirai.module import MoiraiModule, decode_distr_output

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, adapted
from darts_msft.backbones.moirai_mixture import MoiraiFamily
from darts_msft.storage.weights import load_strict

_MINIMUM_VARIANCE = 1e-5  # PackedStdScaler's minimum_scale, added to the variance


class MoiraiBackbone(Backbone):
    """A `MoiraiModule` with one patch size chosen for all its tokens.

    The parameters live in `module`, under uni2ts' own names, so checkpoints of either side fit the other.
    """

    def __init__(self, module: MoiraiModule, patch_size: int) -> None:
        super().__init__()
        self.module = module
        self.patch_size = patch_size
        self.patch_index = list(module.patch_sizes).index(patch_size)
        self.family: MoiraiFamily = MoiraiFamily(module.distr_output)
        attention = module.encoder.layers[0].self_attn
        self.spec = Spec(
            width=module.d_model,
            num_layers=module.num_layers,
            patch_sizes=tuple(sorted(module.patch_sizes)),
            horizon_tokens=True,
            adapter_targets={
                name: (getattr(attention, name).in_features, getattr(attention, name).out_features)
                for name in ("q_proj", "k_proj", "v_proj")
            },
            tuned=("module.encoder.*norm*.weight", "module.encoder.layers.*.self_attn.out_proj.weight"),
            head=("module.param_proj.*",),
            unused=("module.encoder.layers.*.self_attn.var_attn_bias.*",),
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int) -> MoiraiBackbone:
        known = ("d_model", "num_layers", "max_seq_len", "attn_dropout_p", "dropout_p", "scaling")
        module = MoiraiModule(
            distr_output=decode_distr_output(config["distr_output"]),
            patch_sizes=tuple(config["patch_sizes"]),
            **{name: config[name] for name in known if name in config},
        )
        return cls(module, patch_size)

    @classmethod
    def patch_sizes(cls, config: Mapping[str, Any]) -> tuple[int, ...]:
        return tuple(sorted(config["patch_sizes"]))

    @classmethod
    def max_tokens(cls, config: Mapping[str, Any]) -> int | None:
        return int(config["max_seq_len"])

    @classmethod
    def family_of(cls, config: Mapping[str, Any]) -> MoiraiFamily:
        return MoiraiFamily(decode_distr_output(config["distr_output"]))

    def load_pretrained(self, state: Mapping[str, Tensor], origin: str) -> None:
        load_strict(self.module, state, origin)

    def normalise(self, context: Float[Tensor, "B V C"]) -> tuple[Float[Tensor, "B V C"], Stats]:
        # PackedStdScaler: mean and unbiased variance over observed context values, in double precision
        observed = ~torch.isnan(context)
        values = torch.where(observed, context, 0).double()
        count = observed.sum(dim=-1, keepdim=True)
        loc = values.sum(dim=-1, keepdim=True) / count.clamp(min=1)
        deviation = torch.where(observed, values - loc, 0)
        variance = deviation.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
        spread = (variance + _MINIMUM_VARIANCE).sqrt() if self.module.scaling else torch.ones_like(loc)
        loc = loc if self.module.scaling else torch.zeros_like(loc)
        standardised = torch.where(observed, (values - loc) / spread, 0)
        return standardised.to(context.dtype), Stats(loc.to(context.dtype), spread.to(context.dtype))

    def embed(
        self, values: Float[Tensor, "B V L"], observed: Bool[Tensor, "B V L"], num_horizon_tokens: int
    ) -> Float[Tensor, "B V N D"]:
        patches = rearrange(values, "b v (n p) -> b v n p", p=self.patch_size)
        projection = self.module.in_proj
        weight = projection.weight[self.patch_index, :, : self.patch_size]
        context = F.linear(patches, weight, projection.bias[self.patch_index])
        horizon = repeat(
            self.module.mask_encoding.weight,
            "1 d -> b v n d",
            b=context.shape[0],
            v=context.shape[1],
            n=num_horizon_tokens,
        )
        return torch.cat([context, horizon.to(context.dtype)], dim=-2)

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        block = self.module.encoder.layers[layer]
        attn = block.self_attn
        x = block.norm1(tokens)
        heads = "b v n (group hpg d) -> (b v) group hpg n d"
        query, key, value = (
            rearrange(adapted(name, getattr(attn, name), x, adapters), heads, hpg=1, d=attn.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        time = torch.arange(tokens.shape[-2], device=tokens.device).reshape(1, 1, 1, -1)
        query, key = attn.time_qk_proj(attn.q_norm(query), attn.k_norm(key), query_id=time, kv_id=time)
        attended = F.scaled_dot_product_attention(
            query.flatten(1, 2),  # one group a head: four axes select the fused kernel
            key.flatten(1, 2),
            value.flatten(1, 2),
            attn_mask=None if mask is None else rearrange(mask, "b v n -> (b v) 1 1 n"),
            dropout_p=attn.attn_dropout_p if self.training else 0.0,
            scale=attn.softmax_scale,
        )
        joined = rearrange(attended, "(b v) head n d -> b v n (head d)", b=tokens.shape[0])
        return tokens + block.dropout(attn.out_proj(joined))

    def feed_forward(self, layer: int, tokens: Float[Tensor, "B V N D"]) -> Float[Tensor, "B V N D"]:
        block = self.module.encoder.layers[layer]
        return tokens + block.ffn(block.norm2(tokens))

    def readout(self, tokens: Float[Tensor, "B V N D"], horizon: int) -> Float[Tensor, "B V NH D"]:
        num_tokens = math.ceil(horizon / self.patch_size)
        encoded: Tensor = self.module.encoder.norm(tokens[..., -num_tokens:, :])
        return encoded

    def head(self, tokens: Float[Tensor, "B V N D"], scale: int, horizon: int) -> Float[Tensor, "B V H R"]:
        return self.heads([tokens], [horizon])[0]

    def heads(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], horizons: Sequence[int]
    ) -> list[Float[Tensor, "B V _ R"]]:
        # one product for all scales, and the projection's parameters are gathered once
        encoded = [self.readout(part, horizon) for part, horizon in zip(tokens, horizons, strict=True)]
        params = self.family.project(
            self.module.param_proj, torch.cat(encoded, dim=-2), self.patch_index, self.patch_size
        )
        parts = zip(params.split([part.shape[-2] for part in encoded], dim=-3), horizons, strict=True)
        return [rearrange(part, "b v n p r -> b v (n p) r")[..., :horizon, :] for part, horizon in parts]
