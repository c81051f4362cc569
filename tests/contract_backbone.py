"""What the contract tests run on: a tiny random checkpoint for each architecture, and a forward pass without a method.

A new architecture is one more line in `MAKERS`, and what trains on it in `trained_names.py`; then
`test_backbone_contract.py`, `test_family_contract.py` and `test_method_contract.py` run on it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from toy_backbone import save_toy
from uni2ts.distribution import (
    DistributionOutput,
    LogNormalOutput,
    MixtureOutput,
    NegativeBinomialOutput,
    NormalFixedScaleOutput,
    StudentTOutput,
)
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.backbones import describe, load_class
from darts_msft.backbones.base import Backbone, Stats
from darts_msft.storage.weights import load_state


def official_mixture() -> MixtureOutput:
    """The distribution of the official MOIRAI checkpoints."""
    components = [StudentTOutput(), NormalFixedScaleOutput(), NegativeBinomialOutput(), LogNormalOutput()]
    return MixtureOutput(components)


def random_moirai(
    width: int = 64,
    patch_sizes: tuple[int, ...] = (4, 8),
    output: DistributionOutput | None = None,
    scaling: bool = True,
    attn_dropout_p: float = 0.0,
) -> MoiraiModule:
    """Every parameter is random, also those that start at 0 or 1, so that one left out is seen.

    It has dropout; in the attention only on demand, as uni2ts drops there in evaluation too.
    """
    torch.manual_seed(3)
    module = MoiraiModule(
        distr_output=output if output is not None else official_mixture(),
        d_model=width,
        num_layers=2,
        patch_sizes=patch_sizes,
        max_seq_len=64,
        attn_dropout_p=attn_dropout_p,
        dropout_p=0.2,
        scaling=scaling,
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def save_moirai(directory: Path) -> None:
    random_moirai(attn_dropout_p=0.2).save_pretrained(directory)


MAKERS: dict[str, Callable[[Path], None]] = {
    "moirai": save_moirai,
    "toy": save_toy,
    "toy_without_horizon_tokens": lambda directory: save_toy(directory, horizon_tokens=False),
}


def load_backbone(directory: Path, patch_size: int) -> Backbone:
    """The way of `MSFTFoundationModel`: config.json names the class, which takes the weights."""
    source, architecture, config = describe(str(directory))
    backbone = load_class(architecture).from_config(config, patch_size)
    backbone.load_pretrained(load_state(source), source.location)
    return backbone.eval()


class Beside(nn.Module):
    """An adapter whose own linear joins the target's."""

    def __init__(self, own: nn.Linear) -> None:
        super().__init__()
        self.own = own

    def forward(self, linear: nn.Module, x: Tensor) -> Tensor:
        joined: Tensor = linear(x) + self.own(x)
        return joined


class Encoded(NamedTuple):
    """A bare forward pass: standardised parameters (B, V, H, R) and the windows' statistics."""

    params: Tensor
    stats: Stats


def patch_context(context: Tensor, patch_size: int) -> tuple[Tensor, Tensor]:
    """Fills (B, V, C) with NaN on the left to whole patches; also returns which tokens have something observed."""
    missing = -context.shape[-1] % patch_size
    padded = torch.cat([context.new_full((*context.shape[:2], missing), torch.nan), context], dim=-1)
    observed = rearrange(~torch.isnan(padded), "b v (n p) -> b v n p", p=patch_size).any(dim=-1)
    return padded, observed


def forecast(backbone: Backbone, context: Tensor, horizon: int, patch_size: int, scale: int = 0) -> Encoded:
    """The backbone alone on (B, V, C), by a loop of its own: no pyramid, no method."""
    padded, observed = patch_context(context, patch_size)
    values, stats = backbone.normalise(padded)
    ahead = -(-horizon // patch_size) if backbone.spec.horizon_tokens else 0
    mask = torch.cat([observed, torch.ones(*observed.shape[:2], ahead, dtype=torch.bool)], dim=-1)
    tokens = backbone.embed(values, ~torch.isnan(padded), ahead)
    for layer in range(backbone.spec.num_layers):
        tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, mask, {}))
    return Encoded(backbone.head(tokens, scale, horizon), stats)


def random_walks(batch: int, variates: int, steps: int, seed: int = 0) -> Tensor:
    """(B, V, steps) with levels and spreads of their own, all observed."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, variates, 1)
    walks = torch.randn(batch, variates, steps, generator=generator).cumsum(dim=-1)
    level, spread = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    return 5 * level + (0.5 + spread) * walks


def with_gaps(series: Tensor) -> Tensor:
    """Single missing values, a gap that spans whole patches of 4, and a start that one series lacks."""
    gapped = series.clone()
    gapped[0, 0, ::7] = torch.nan
    gapped[0, -1, 5:15] = torch.nan
    gapped[-1, :, :6] = torch.nan
    return gapped
