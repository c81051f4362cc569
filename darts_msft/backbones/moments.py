"""Mean and variance of windows with missing values."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def mean_and_variance(past: Float[Tensor, "B V C"]) -> tuple[Float[Tensor, "B V 1"], Float[Tensor, "B V 1"]]:
    """Of observed values (not NaN), in double precision; the variance is the biased one. 0 where none is observed."""
    observed = ~torch.isnan(past)
    values, count = torch.where(observed, past, 0).double(), observed.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = values.sum(dim=-1, keepdim=True) / count
    variance = torch.where(observed, values - mean, 0).square().sum(dim=-1, keepdim=True) / count
    return mean, variance
