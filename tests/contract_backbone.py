"""What the contract tests run on: a tiny random checkpoint for each architecture, and a forward pass without a method.

A new architecture is one more line in `MAKERS`, and what trains on it in `trained_names.py`; then
`test_backbone_contract.py`, `test_family_contract.py` and `test_method_contract.py` run on it. Its checkpoint knows
patches of 4 steps, contexts of 64 and horizons of 8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tiny_encoders import save_chronos2, save_patchtst_fm
from tiny_point_encoders import save_masked_moment, save_moment, save_units
from torch import Tensor, nn
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
from darts_msft.backbones.base import Backbone, Stats, standardise
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
    "chronos2": save_chronos2,
    "patchtst_fm": save_patchtst_fm,
    "moment": save_moment,
    "moment_masked": save_masked_moment,
    "units": save_units,
}
WITHOUT_HEAD = {"moment"}
"""Those that have no forecast before they are trained."""


def load_backbone(directory: Path, patch_size: int, joint: bool = False) -> Backbone:
    """The way of `MSFTFoundationModel`: config.json names the class, which takes the weights."""
    source, architecture, config = describe(str(directory))
    backbone = load_class(architecture).from_config(config, patch_size, joint)
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
    """A bare forward pass: standardised parameters (B, V, H, R) and the windows' statistics.

    Of a backbone without a head the last two tokens that a new one would read, (B, V, 2, D).
    """

    params: Tensor
    stats: Stats


def patch_context(context: Tensor, patch_size: int) -> Tensor:
    """Fills (B, V, C) with NaN on the left to whole patches."""
    missing = -context.shape[-1] % patch_size
    return torch.cat([context.new_full((*context.shape[:2], missing), torch.nan), context], dim=-1)


def embed(backbone: Backbone, context: Tensor, horizon: int, patch_size: int) -> tuple[Tensor, Tensor, Stats]:
    """Tokens (B, V, N, D) of (B, V, C), by a loop of its own: no pyramid; with their mask and the statistics."""
    padded = patch_context(context, patch_size)
    stats = backbone.statistics(context, context.new_full((*context.shape[:2], horizon), torch.nan))
    ahead = -(-horizon // patch_size) if backbone.traits.layout.horizon else 0
    future = padded.new_zeros(*padded.shape[:2], ahead * patch_size)
    tokens = backbone.embed(standardise(padded, stats), ~torch.isnan(padded), future, future > 0)
    mask = backbone.token_mask(~torch.isnan(padded), future > 0, targets=context.shape[1])
    return tokens, mask, stats.to(context.dtype)


def forecast(backbone: Backbone, context: Tensor, horizon: int, patch_size: int) -> Encoded:
    """The backbone alone on (B, V, C): no pyramid, no method."""
    tokens, mask, stats = embed(backbone, context, horizon, patch_size)
    for layer in range(backbone.spec.num_layers):
        tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, mask, {}), mask)
    if not backbone.traits.pretrained_head:
        return Encoded(backbone.readout(tokens, horizon, mask)[..., -2:, :], stats)
    return Encoded(backbone.head(tokens, horizon, mask), stats)


def forecast_apart(backbone: Backbone, context: Tensor, horizon: int, patch_size: int) -> Encoded:
    """The same, each variate as a series of its own."""
    batch, variates, _ = context.shape
    params, stats = forecast(backbone, context.flatten(0, 1).unsqueeze(1), horizon, patch_size)
    loc, spread = (part.unflatten(0, (batch, variates)).squeeze(2) for part in stats)
    return Encoded(params.unflatten(0, (batch, variates)).squeeze(2), Stats(loc, spread))


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
