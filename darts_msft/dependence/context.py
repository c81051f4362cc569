"""What a window's own past says of how the errors of its forecast will hang together.

Forecasts know the season and little else far ahead, so their errors are much like what the season leaves of the past:
its autocorrelation is theirs. On ETTh1, ETTm1, the departures and the sea temperature that of 1,024 steps of context
describes the normal scores of the test parts nearly as well as their own autocorrelation does. Shapes: B windows, C
steps of context, H steps, V components.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CONSTANT = ((0.45, 16.0), (0.3, 128.0))
"""Shares of exponential decays and their half-lives in steps; the rest is noise. Between what was measured on the
validation parts of the four data sets named above: correlations at lag 1 from 0 to 0.98, at lag 24 from 0.4 to 0.7."""
CYCLES = 4  # that a season shows in the context
LEAST_CORRELATION = 0.2  # of the context with itself a season earlier


class Told(NamedTuple):
    """What a window's past tells: correlations of steps, by lag, and of components."""

    steps: Float[Tensor, "B H"]
    components: Float[Tensor, "B V V"]


def constant_form(horizon: int) -> Float[Tensor, "H"]:
    """By lag, where the past says nothing."""
    lags = torch.arange(horizon, dtype=torch.float64)
    parts = [share * 0.5 ** (lags / life) for share, life in CONSTANT]
    return torch.where(lags == 0, 1.0, torch.stack(parts).sum(dim=0))


def of_context(past: Float[Tensor, "B C V"], horizon: int) -> Told:
    """The correlations of what is left of the past without its season, the more of them the longer it is.

    The rest is the constant form of steps and independence of components, and that alone where the past is constant.
    Positive definite.
    """
    seen = past.isfinite()
    values = _centred(torch.where(seen, past, 0).double(), seen)
    seasons = _seasons(values, seen)
    rest = torch.empty_like(values)
    for season in seasons.unique().tolist():
        rows = seasons == season
        rest[rows] = values[rows] - _seasonal(values[rows], seen[rows], season) * seen[rows]
    rest = _centred(rest, seen)
    unit = rest.square().sum(dim=1, keepdim=True).sqrt()
    rest = rest / unit.where(unit > 0, torch.inf)
    varies = unit[:, 0] > 0
    own = _autocovariance(rest, horizon).sum(dim=2) / varies.sum(dim=1, keepdim=True).clamp(min=1)
    count = seen.any(dim=2).sum(dim=1)
    share = (count / (count + horizon)).where(varies.any(dim=1), 0).to(own)
    steps = torch.lerp(constant_form(horizon).to(own), own, share[:, None])
    components = torch.einsum("bcv,bcw->bvw", rest, rest) * share[:, None, None]
    components.diagonal(dim1=1, dim2=2).fill_(1.0)
    return Told(steps, components)


def by_lag(form: Float[Tensor, "*B H"]) -> Float[Tensor, "*B H H"]:
    """The matrices whose entries depend on the lag alone."""
    steps = torch.arange(form.shape[-1], device=form.device)
    return form[..., (steps[:, None] - steps).abs()]


def _centred(values: Float[Tensor, "B C V"], seen: Tensor) -> Float[Tensor, "B C V"]:
    """Without its mean; 0 where nothing was seen."""
    mean = (values * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
    return (values - mean) * seen


def _seasons(values: Float[Tensor, "B C V"], seen: Tensor) -> Tensor:
    """Of each window, in steps: where its autocorrelation has its highest peak; 1 where it has none."""
    length = values.shape[1] // CYCLES
    if length < 4:  # no lag from 2 on has two neighbours
        return values.new_ones(len(values), dtype=torch.long)
    overlap = _autocovariance(seen.double(), length).round().clamp(min=1)
    power = values.square().sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True).clamp(min=1)
    told = (_autocovariance(values, length) / overlap / power).nanmean(dim=2).nan_to_num(0.0)
    before, now, after = told[:, 1:-2], told[:, 2:-1], told[:, 3:]
    height, place = torch.where((now >= before) & (now > after), now, 0).max(dim=1)
    return torch.where(height > LEAST_CORRELATION, place + 2, 1)


def _seasonal(values: Float[Tensor, "B C V"], seen: Tensor, season: int) -> Float[Tensor, "B C V"]:
    """The mean at each place of the season, repeated; 0 for a season of one step."""
    if season == 1:
        return torch.zeros_like(values)
    length = values.shape[1]
    lacking = -length % season
    cycles, counts = (
        torch.nn.functional.pad(part.double(), (0, 0, lacking, 0)).unflatten(1, (-1, season)) for part in (values, seen)
    )
    mean = cycles.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    return mean.repeat(1, (length + lacking) // season, 1)[:, lacking:]


def _autocovariance(values: Float[Tensor, "B C V"], lags: int) -> Float[Tensor, "B L V"]:
    """Sums of products of values so far apart; 0 where the values end."""
    size = values.shape[1] + lags
    spectrum = torch.fft.rfft(values, size, dim=1).abs().square()
    return torch.fft.irfft(spectrum, size, dim=1)[:, :lags]
