"""MOMENT (1) over the real `momentfm.MOMENT`, whose parameters and layers are used.

Reference: Goswami et al. 2024, "MOMENT: A Family of Open Time-series Foundation Models" (arXiv 2402.03885);
`momentfm/models/moment.py` 0.1.4 (MIT). Two forms share the encoder:

- the flat form, as in the paper's long-horizon task: no pretrained head; each scale has a new linear head on all of its
  context's tokens, and all scales are standardised with the statistics of scale 0;
- the masked form ("masked_horizon" in the configuration), momentfm's `short_forecast`: tokens of the horizon are the
  mask token, and the pretrained reconstruction head reads them. Context and horizon share the 512 steps. Each scale is
  then a forecast of the pretrained model, with statistics of its own.

What differs from momentfm's forward: shorter contexts have fewer tokens, at the last positions, which momentfm reaches
by padding on the left; a patch with any value is attended to, with its missing values at the window's location, where
momentfm drops patches that lack a single value. There is no dropout.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from momentfm import MOMENT
from torch import Tensor

from darts_msft.backbones.base import Adapters, Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.config_fields import required
from darts_msft.backbones.families import PointFamily
from darts_msft.backbones.moments import mean_and_variance
from darts_msft.scales.pyramid import TokenLayout
from darts_msft.storage.weights import load_strict

_MINIMUM_SCALE = 1e-5  # of RevIN, added to the deviation
_VOCABULARY = 2  # words that T5 would have; their embeddings are thrown away
MASKED = "masked_horizon"
"""The field of the configuration that chooses the masked form; official ones lack it."""


class MomentBackbone(Backbone):
    """The flat form.

    The parameters live in `module`, under momentfm's own names; T5's embeddings of words are left out.
    """

    dropped: ClassVar[tuple[str, ...]] = ("encoder.embed_tokens.*", "head.*")
    task: ClassVar[str] = "embedding"
    head_names: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[tuple[str, ...]] = ("module.patch_embedding.mask_embedding",)

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.traits = self.traits_of(config)
        self.patch_size = self.traits.patch_sizes[0]
        self.most_tokens = config["seq_len"] // self.patch_size
        self.module = _make_module(config, self.task)
        attention = self.module.encoder.block[0].layer[0].SelfAttention
        linears = {name: getattr(attention, name) for name in ("q", "k", "v")}
        self.spec = Spec(
            width=attention.q.in_features,
            num_layers=len(self.module.encoder.block),
            adapter_targets={
                name: Target(f"SelfAttention.{name}", linear.in_features, linear.out_features)
                for name, linear in linears.items()
            },
            tuned=("*.SelfAttention.o.weight", "*layer_norm.weight"),
            head=self.head_names,
            unused=self.unused,
        )

    @classmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        patch_size, length = int(config["patch_len"]), int(config["seq_len"])
        if config.get(MASKED, False):
            return Traits((patch_size,), PointFamily(), max_tokens=length // patch_size)
        return Traits(
            (patch_size,),
            PointFamily(),
            TokenLayout(horizon=False),
            pretrained_head=False,
            own_statistics=False,
            max_context=length,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> MomentBackbone:
        return MaskedMoment(config) if config.get(MASKED, False) else MomentBackbone(config)

    def load_pretrained(self, state: Mapping[str, Tensor], origin: str) -> None:
        load_strict(self.module, state, origin, self.dropped)

    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        """Mean, and the biased deviation plus 1e-5."""
        mean, variance = mean_and_variance(past)
        return Stats(mean, variance.sqrt() + _MINIMUM_SCALE)

    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        embedding = self.module.patch_embedding
        context = embedding.value_embedding(past.unflatten(-1, (-1, self.patch_size)))
        horizon = repeat(
            embedding.mask_embedding.to(context.dtype),
            "d -> b v n d",
            b=past.shape[0],
            v=past.shape[1],
            n=future.shape[-1] // self.patch_size,
        )
        tokens = torch.cat([context, horizon], dim=-2)
        positions = embedding.position_embedding.pe[0, self.most_tokens - tokens.shape[-2] : self.most_tokens]
        return tokens + positions.to(tokens.dtype)

    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        blocks, count = self.module.encoder.block, tokens.shape[-2]
        sublayer = blocks[layer].layer[0]
        attn, x = sublayer.SelfAttention, sublayer.layer_norm(tokens)
        query, key, value = (
            rearrange(
                adapted(name, getattr(attn, name), x, adapters), "b v n (head d) -> (b v) head n d", head=attn.n_heads
            )
            for name in ("q", "k", "v")
        )
        bias = (
            blocks[0].layer[0].SelfAttention.compute_bias(count, count).to(query.dtype)
        )  # by distance, for all layers
        if mask is not None:
            bias = bias.masked_fill(rearrange(~mask, "b v n -> (b v) 1 1 n"), torch.finfo(bias.dtype).min)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        joined: Tensor = attn.o(rearrange(attended, "(b v) head n d -> b v n (head d)", b=len(tokens)))
        return tokens + joined

    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        result: Tensor = self.module.encoder.block[layer].layer[1](tokens)
        return result

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        encoded: Tensor = self.module.encoder.final_layer_norm(tokens)
        return encoded * mask.unsqueeze(-1).to(encoded.dtype)

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        raise NotImplementedError("MOMENT's flat form has no pretrained head")


class MaskedMoment(MomentBackbone):
    """The masked form."""

    dropped = ("encoder.embed_tokens.*",)
    task = "reconstruction"
    head_names = ("module.head.linear.*",)
    unused = ()

    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        encoded: Tensor = self.module.encoder.final_layer_norm(tokens[..., -math.ceil(horizon / self.patch_size) :, :])
        return encoded

    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        steps: Tensor = self.module.head.linear(self.readout(tokens, horizon, mask)).flatten(-2)
        return steps[..., :horizon].unsqueeze(-1)


def _make_module(config: Mapping[str, Any], task: str) -> MOMENT:
    """With random weights, all of which may train: momentfm freezes the encoder."""
    t5 = config["t5_config"]
    (width,) = required(config, "d_model", inside="t5_config")
    settings = {
        "patch_stride_len": config["patch_len"],
        "transformer_type": "encoder_only",
        "transformer_backbone": "T5",
        **config,
        "d_model": width,
        "task_name": task,
        "enable_gradient_checkpointing": False,
        "t5_config": {**t5, "vocab_size": _VOCABULARY},
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Only reconstruction head is pre-trained", category=UserWarning)
        module = MOMENT({}, model_kwargs=settings)
    module.encoder.set_input_embeddings(None)
    return module.requires_grad_(True)
