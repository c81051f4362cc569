"""What a scale sees, as tokens."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from darts_msft.backbones.base import Backbone, Stats, standardise
from darts_msft.methods.base import Method
from darts_msft.scales.pyramid import ScalePlan
from darts_msft.windows_of_batches import Window


def embed_scale(
    backbone: Backbone, method: Method, plan: ScalePlan, scale: int, rows: Window, stats: Stats
) -> tuple[Float[Tensor, "B V N D"], Bool[Tensor, "B V N"]]:
    """The scale's tokens past the input adapter, and which of them can be attended to; `rows` are at its own rate.

    The adapter acts on tokens of values: of the context, and of a horizon that is known.
    """
    observed = plan.pad_context(~torch.isnan(rows.past), scale)
    known = plan.pad_horizon(~torch.isnan(rows.future), scale)
    values = plan.pad_context(standardise(rows.past, stats), scale)
    ahead = plan.pad_horizon(standardise(rows.future, stats), scale)
    tokens = backbone.embed(values, observed, ahead, known)
    lead, past, middle, future = tokens.split(plan.sections(scale), dim=-2)
    if rows.ahead:
        told = rearrange(known, "b v (n p) -> b v n p", p=plan.patch_size).any(dim=-1)[:, -rows.ahead :, :, None]
        theirs = future[:, -rows.ahead :]
        adapted = torch.where(told, method.adapt_input(theirs, scale), theirs)
        future = torch.cat([future[:, : -rows.ahead], adapted], dim=1)
    tokens = torch.cat([lead, method.adapt_input(past, scale), middle, future], dim=-2)
    return tokens, backbone.token_mask(observed, known, targets=rows.targets)
