"""MOIRAI (1.0 and 1.1) over the real `uni2ts.model.moirai.module.MoiraiModule`.

Reference: Woo et al. 2024, "Unified Training of Universal Time Series Forecasting Transformers";
`uni2ts/model/moirai/module.py` and `forecast.py` (Apache-2.0). The module's own parameters and layers
are used. What differs from its forward: shapes are fixed (no packing), only the chosen patch size is
projected, the head sees horizon tokens only, and missing values enter as the window's location
(0 after scaling) where uni2ts lets raw zeros through, and wholly missing patches are not attended to. As in
uni2ts, 1e-5 is added to each window's variance; `units.py` sees to it that this never matters.
Statistics are in double precision throughout (uni2ts standardises in float32, which shows where a series' level is
a thousand times its spread). Where variates do not attend to one another, the same-variate attention bias is a
constant that cancels in the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor
from uni2ts.distribution import DistributionOutput
from uni2ts.model.moirai.module import MoiraiModule, decode_distr_output

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.moirai_mixture import MoiraiFamily
from darts_msft.storage.weights import load_strict

_MINIMUM_VARIANCE = 1e-5  # PackedStdScaler's minimum_scale, added to the variance


class MoiraiBackbone(Backbone):
    """A `MoiraiModule` with one patch size chosen for all its tokens.

    The parameters live in `module`, under uni2ts' own names, so checkpoints of either side fit the other. If `joint`,
    a token attends to those of all variates of its series (any-variate attention).
    """

    def __init__(self, module: MoiraiModule, patch_size: int, joint: bool = False, alone: bool = False) -> None:
        super().__init__()
        self.joint = joint
        self.module = module
        self.patch_size = patch_size
        self.patch_index = list(module.patch_sizes).index(patch_size)
        self.traits = _traits(module.distr_output, module.patch_sizes, module.max_seq_len, alone)
        attention = module.encoder.layers[0].self_attn
        linears = {name: getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj")}
        self.spec = Spec(
            width=module.d_model,
            num_layers=module.num_layers,
            adapter_targets={
                name: Target(name, linear.in_features, linear.out_features) for name, linear in linears.items()
            },
            tuned=("module.encoder.*norm*.weight", "module.encoder.layers.*.self_attn.out_proj.weight"),
            head=("module.param_proj.*",),
            unused=() if joint else ("module.encoder.layers.*.self_attn.var_attn_bias.*",),
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        output, alone = decode_distr_output(config["distr_output"]), bool(config.get("pretrained_alone"))
        return _traits(output, config["patch_sizes"], config["max_seq_len"], alone)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> MoiraiBackbone:
        known = ("d_model", "num_layers", "max_seq_len", "attn_dropout_p", "dropout_p", "scaling")
        module = MoiraiModule(
            distr_output=decode_distr_output(config["distr_output"]),
            patch_sizes=tuple(config["patch_sizes"]),
            **{name: config[name] for name in known if name in config},
        )
        return cls(module, patch_size, joint, bool(config.get("pretrained_alone")))

    def load_pretrained(self, state: Mapping[str, Tensor], origin: str) -> None:
        load_strict(self.module, state, origin)

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        # PackedStdScaler: mean and unbiased variance over observed values, those of the horizon included
        values = torch.cat([past, future], dim=-1)
        observed = ~torch.isnan(values)
        values = torch.where(observed, values, 0).double()
        count = observed.sum(dim=-1, keepdim=True)
        loc = values.sum(dim=-1, keepdim=True) / count.clamp(min=1)
        deviation = torch.where(observed, values - loc, 0)
        variance = deviation.square().sum(dim=-1, keepdim=True) / (count - 1).clamp(min=1)
        if not self.module.scaling:
            return Stats(torch.zeros_like(loc), torch.ones_like(loc))
        return Stats(loc, (variance + _MINIMUM_VARIANCE).sqrt())

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        context = self._project(past)
        count = future.shape[-1] // self.patch_size
        horizon = repeat(
            self.module.mask_encoding.weight, "1 d -> b v n d", b=context.shape[0], v=context.shape[1], n=count
        )
        horizon = horizon.to(context.dtype)
        if self.joint:
            horizon = torch.where(self._any_step(known).unsqueeze(-1), self._project(future), horizon)
        return torch.cat([context, horizon], dim=-2)

    def _project(self, values: Float[Tensor, "B V L"]) -> Float[Tensor, "B V N D"]:
        patches = rearrange(values, "b v (n p) -> b v n p", p=self.patch_size)
        projection = self.module.in_proj
        weight = projection.weight[self.patch_index, :, : self.patch_size]
        return F.linear(patches, weight, projection.bias[self.patch_index])

    def _any_step(self, steps: Bool[Tensor, "B V L"]) -> Bool[Tensor, "B V N"]:
        return rearrange(steps, "b v (n p) -> b v n p", p=self.patch_size).any(dim=-1)

    def token_mask(
        self, observed: Bool[Tensor, "B V L"], known: Bool[Tensor, "B V LH"], targets: int
    ) -> Bool[Tensor, "B V N"]:
        # a covariate has tokens where it has values alone: in the context, and in a known horizon
        mask = super().token_mask(observed, known, targets)
        if targets == observed.shape[1]:
            return mask
        own = torch.cat([self._any_step(observed), self._any_step(known)], dim=-1)
        return torch.cat([mask[:, :targets], own[:, targets:]], dim=1)

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        block = self.module.encoder.layers[layer]
        attn = block.self_attn
        x = block.norm1(tokens)
        together = self.joint and tokens.shape[1] > 1
        heads = f"b v n (group hpg d) -> {'b group hpg (v n) d' if together else '(b v) group hpg n d'}"
        query, key, value = (
            rearrange(adapted(name, getattr(attn, name), x, adapters), heads, hpg=1, d=attn.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        seen = None if mask is None else rearrange(mask, "b v n -> (b v) 1 1 n")
        if together:
            seen = self._variate_bias(layer, tokens, mask)
        count = tokens.shape[-2]
        query, key = (_in_time(attn.time_qk_proj, one, count) for one in (attn.q_norm(query), attn.k_norm(key)))
        attended = F.scaled_dot_product_attention(
            query.flatten(1, 2),  # one group a head: four axes select the fused kernel
            key.flatten(1, 2),
            value.flatten(1, 2),
            attn_mask=seen,
            dropout_p=attn.attn_dropout_p if self.training else 0.0,
            scale=attn.softmax_scale,
        )
        rows = "b head (v n) d" if together else "(b v) head n d"
        joined = rearrange(attended, f"{rows} -> b v n (head d)", b=tokens.shape[0], v=tokens.shape[1])
        return tokens + block.dropout(attn.out_proj(joined))

    def _variate_bias(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "#B heads VN VN"]:
        """What is added to the attention's logits: one number for the own variate, one for all others."""
        variate = torch.arange(tokens.shape[1], device=tokens.device).repeat_interleave(tokens.shape[-2])
        same = (variate[:, None] == variate).unsqueeze(-1)
        others, own = self.module.encoder.layers[layer].self_attn.var_attn_bias.emb.weight.to(tokens.dtype)
        bias = rearrange(torch.where(same, own, others), "q k head -> 1 head q k")
        if mask is None:
            return bias
        # not -inf, also in half precision: nothing may be valid
        return torch.where(rearrange(mask, "b v n -> b 1 1 (v n)"), bias, torch.finfo(torch.float16).min)

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        block = self.module.encoder.layers[layer]
        return tokens + block.ffn(block.norm2(tokens))

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        num_tokens = math.ceil(horizon / self.patch_size)
        encoded: Tensor = self.module.encoder.norm(tokens[..., -num_tokens:, :])
        return encoded

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        return self.heads([tokens], [horizon], [mask])[0]

    def heads(
        self,
        tokens: Sequence[Float[Tensor, "B V _ D"]],
        horizons: Sequence[int],
        masks: Sequence[Bool[Tensor, "B V _"]],
    ) -> list[Float[Tensor, "B V _ R"]]:
        # one product for all scales, and the projection's parameters are gathered once
        encoded = [self.readout(*scale) for scale in zip(tokens, horizons, masks, strict=True)]
        family = cast(MoiraiFamily, self.family)
        params = family.project(self.module.param_proj, torch.cat(encoded, dim=-2), self.patch_index, self.patch_size)
        parts = zip(params.split([part.shape[-2] for part in encoded], dim=-3), horizons, strict=True)
        return [rearrange(part, "b v n p r -> b v (n p) r")[..., :horizon, :] for part, horizon in parts]


def _in_time(projection: Any, part: Float[Tensor, "*shape VN E"], count: int) -> Float[Tensor, "*shape VN E"]:
    """uni2ts' rotation of queries or keys by their position, 0 to `count` - 1 in each variate.

    Its own looks positions up by a tensor's largest value, which no exporter can follow.
    """
    rotary = projection.query_proj  # the keys' too
    rotary._init_freq(max_len=count)
    cos, sin = (table[:count].repeat(part.shape[-2] // count, 1) for table in (rotary.cos, rotary.sin))
    before, _, after = sizes = projection.split_sizes
    if part.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        # pairs of numbers as complex ones, which turn in one pass
        turns = F.pad(torch.complex(cos[:, ::2], sin[:, ::2]), (before // 2, after // 2), value=1)
        pairs = torch.view_as_complex(part.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turns).flatten(-2)
    kept, turned, rest = part.split(sizes, dim=-1)
    return torch.cat([kept, cos * turned + sin * rotary._rotate(turned), rest], dim=-1)


def _traits(output: DistributionOutput, patch_sizes: Sequence[int], max_tokens: int, alone: bool) -> Traits:
    return Traits(
        tuple(sorted(patch_sizes)),
        MoiraiFamily(output),
        past_covariates=True,
        future_covariates=True,
        multivariate=("independent", "joint"),
        pretrained_alone=alone,
        max_tokens=int(max_tokens),
        max_group_tokens=int(max_tokens),
    )
