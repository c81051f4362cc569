"""A pretrained encoder of one's own, cut at the places where finetuning attaches: see `darts_msft.backbones.base`.

Axes: B series, V components, C context steps, H horizon steps, P patch size, N tokens, D width, R quantiles.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from darts_msft.backbones.base import Backbone, Spec, Stats, Target, Traits, adapted
from darts_msft.backbones.families import QuantileFamily

LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class TinyEncoder(Backbone):
    """A transformer over patches of the context and one learned token for each patch of the horizon."""

    def __init__(self, config):
        super().__init__()
        self.traits, width = self.traits_of(config), config["tiny_width"]
        self.patch_size = config["tiny_patch"]
        self.patches, self.blank = nn.Linear(self.patch_size, width), nn.Parameter(0.02 * torch.randn(width))
        self.places = nn.Parameter(0.02 * torch.randn(config["tiny_tokens"], width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(config["tiny_layers"]))
        self.norm, self.quantiles = nn.LayerNorm(width), nn.Linear(width, self.patch_size * len(LEVELS))
        self.spec = Spec(  # what finetuning may know of it
            width,
            num_layers=config["tiny_layers"],
            adapter_targets={"qkv": Target("qkv", width, 3 * width)},  # LoRA goes here ...
            tuned=("layers.*.norm?.*", "layers.*.out.*", "norm.*"),  # ... these train with it ...
            head=("quantiles.*",),  # ... and this is the head
        )

    @classmethod
    def traits_of(cls, config):
        """What is known before there are weights."""
        return Traits((config["tiny_patch"],), QuantileFamily(LEVELS), max_tokens=config["tiny_tokens"])

    @classmethod
    def from_config(cls, config, patch_size):
        return cls(config)

    def statistics(self, past, future):
        """Mean and standard deviation of the observed values of (B, V, C), in double precision."""
        observed = ~past.isnan()
        values, count = past.nan_to_num().double(), observed.sum(-1, keepdim=True).clamp(min=1)
        mean = values.sum(-1, keepdim=True) / count
        variance = torch.where(observed, values - mean, 0).square().sum(-1, keepdim=True) / count
        return Stats(mean, (variance + 1e-6).sqrt())

    def embed(self, past, observed, future, known):
        """(B, V, N, D): tokens of the context, then of the horizon; values are standardised, and 0 where missing."""
        context = self.patches(past.unflatten(-1, (-1, self.patch_size)))
        horizon = self.blank.expand(*past.shape[:2], future.shape[-1] // self.patch_size, -1)
        tokens = torch.cat([context, horizon], dim=-2)
        return tokens + self.places[-tokens.shape[-2] :]  # counted from the end: longer padding changes nothing

    def attention(self, layer, tokens, mask, adapters):
        """Adds to (B, V, N, D) what each token hears from those whose `mask` (B, V, N) is True."""
        block = self.layers[layer]
        query, key, value = adapted("qkv", block.qkv, block.norm1(tokens), adapters).chunk(3, dim=-1)
        bias = torch.zeros_like(tokens[..., 0])
        if mask is not None:
            bias = bias.masked_fill(~mask, torch.finfo(bias.dtype).min)
        heard = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.unsqueeze(-2))
        return tokens + block.out(heard)

    def feed_forward(self, layer, tokens, mask):
        return tokens + self.layers[layer].mlp(self.layers[layer].norm2(tokens))

    def readout(self, tokens, horizon, mask):
        """What a new head would read: the horizon's tokens."""
        return self.norm(tokens[..., -math.ceil(horizon / self.patch_size) :, :])

    def head(self, tokens, horizon, mask):
        """(B, V, H, R): the quantiles, standardised."""
        steps = self.quantiles(self.readout(tokens, horizon, mask)).unflatten(-1, (self.patch_size, -1))
        return steps.flatten(-3, -2)[..., :horizon, :]
