"""From per-scale forecasts at the original rate to one forecast, and the weights of the scales.

Source: arXiv 2506.14087, multi-scale mixing. Shapes: H horizon steps, V variates, S scales, R parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.root_finding import NEGLIGIBLE, quantile_between
from darts_msft.scales.pyramid import ScalePlan

QUANTILE_DRAWS = 64  # draws a scale behind each averaged quantile function
_CHUNK = 20_000_000  # numbers held at once while sampling

Sampler = Callable[[Tensor], Tensor]
"""One draw for each step: parameters (..., R) -> values (...)."""
DistributionFunction = Callable[[Tensor, Tensor], Tensor]
"""The share below, for each step: parameters (..., R), values (...) -> shares (...)."""
QuantileFunction = Callable[[Tensor, float], Tensor]
"""The value with a share below, for each step: parameters (..., R), the share -> values (...)."""


class MixedForecast(NamedTuple):
    """All scales' forecasts at the original rate: standardised parameters, their affine maps and the weights."""

    params: Float[Tensor, "B H V S R"]
    loc: Float[Tensor, "B H V S"]
    spread: Float[Tensor, "B H V S"]
    weights: Float[Tensor, "B S"]


class ScaleWeights(nn.Module):
    """softmax(omega), one weight a scale; `omega` holds the logits, `initial` those before the first step."""

    def __init__(self, initial: Sequence[float]) -> None:
        super().__init__()
        self.initial = tuple(initial)
        self.omega = nn.Parameter(torch.tensor(self.initial))

    def forward(self) -> Float[Tensor, "S"]:
        return self.omega.softmax(dim=0)

    @torch.no_grad()
    def start(self) -> None:
        """Sets the initial weights."""
        self.omega.copy_(self.omega.new_tensor(self.initial))

    @torch.no_grad()
    def only_finest(self) -> None:
        """Puts all weight on scale 0."""
        self.omega.fill_(-torch.inf)
        self.omega[0] = 0.0

    @torch.no_grad()
    def set(self, weights: Float[Tensor, "S"]) -> None:
        """Sets the weights themselves, as stacking does; a weight of 0 becomes one of about 1e-9."""
        self.omega.copy_(weights.clamp(min=1e-9).log())


def upsample_all(plan: ScalePlan, blocks: Sequence[Float[Tensor, "B V _ Q"]], how: str) -> Float[Tensor, "B H V S Q"]:
    """Brings each scale's steps (B, V, H_i, Q) to the original rate and stacks them."""
    steps = [plan.upsample(block, scale, how) for scale, block in enumerate(blocks)]
    return torch.stack(steps, dim=-2).transpose(1, 2)


def pack(steps: Float[Tensor, "B H V S Q"], weights: Float[Tensor, "B S"]) -> Float[Tensor, "B H V Z"]:
    """One flat vector a step, as Darts wants it: for each scale its Q numbers, then its weight."""
    column = weights.to(steps.dtype)[:, None, None, :, None].expand(*steps.shape[:-1], 1)
    return torch.cat([steps, column], dim=-1).flatten(-2)


def unpack(packed: Float[Tensor, "B H V Z"], num_scales: int) -> MixedForecast:
    """Undoes `pack`, with Q = (R parameters, location, spread); `num_scales` is S."""
    steps = packed.unflatten(-1, (num_scales, -1))
    return MixedForecast(steps[..., :-3], steps[..., -3], steps[..., -2], steps[:, 0, 0, :, -1])


def mix_points(points: Float[Tensor, "B H V Q S"], weights: Float[Tensor, "B S"]) -> Float[Tensor, "B H V Q"]:
    """Weighted sum over the scales; an unused one's points may be infinite."""
    weights = weights.to(points.dtype)[:, None, None, None]
    return (points.where(weights > 0, 0) * weights).sum(dim=-1)


@torch.no_grad()
def sample_mixture(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Sample paths, each wholly from one scale, drawn with the scales' weights for every series and variate."""
    batch, horizon, variates, num_scales, size = forecast.params.shape
    paths = torch.multinomial(forecast.weights.float(), count * variates, replacement=True)
    paths = paths.reshape(batch, count, 1, variates, 1).transpose(0, 1).expand(-1, -1, horizon, -1, -1)
    samples = []
    for chosen in paths.split(max(1, _CHUNK // (batch * horizon * variates * size))):
        shape = (len(chosen), batch, horizon, variates)
        index = chosen.unsqueeze(-1).expand(*shape, 1, size)
        params = forecast.params.expand(*shape, num_scales, size).gather(-2, index).squeeze(-2)
        loc = forecast.loc.expand(*shape, num_scales).gather(-1, chosen).squeeze(-1)
        spread = forecast.spread.expand(*shape, num_scales).gather(-1, chosen).squeeze(-1)
        samples.append(draw(params) * spread + loc)
    return torch.cat(samples)


@torch.no_grad()
def sample_quantile_average(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Draws from the distribution whose quantile function is the weighted average of the scales' quantile functions.

    The functions are the order statistics of as many draws a scale; steps are independent, as in the mixture.
    """
    size = max(count, QUANTILE_DRAWS)
    averaged = forecast.loc.new_zeros((size, *forecast.loc.shape[:-1]))
    for scale, weight in _used(forecast):
        averaged += _times(weight, draw_scale(draw, forecast, scale, size).sort(dim=0).values)
    order = torch.rand_like(averaged).argsort(dim=0)[:count]
    return averaged.gather(0, order)


@torch.no_grad()
def sample_path_average(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Weighted averages of one path of every scale, drawn independently (the paper's mixing).

    The mean is the weighted mean, but the variance is sum(w_i^2 var_i), less than any mixture's: intervals are narrow.
    """
    averaged = forecast.loc.new_zeros((count, *forecast.loc.shape[:-1]))
    for scale, weight in _used(forecast):
        averaged += _times(weight, draw_scale(draw, forecast, scale, count))
    return averaged


def _used(forecast: MixedForecast) -> Iterator[tuple[int, Float[Tensor, "B 1 1"]]]:
    """Scales with any weight, and their weights."""
    for scale, weight in enumerate(forecast.weights.unbind(dim=-1)):
        if bool((weight > 0).any()):
            yield scale, weight.to(forecast.loc)[:, None, None]


def _times(weight: Float[Tensor, "B 1 1"], draws: Float[Tensor, "M B H V"]) -> Float[Tensor, "M B H V"]:
    """Their product; 0 where a window has no use for the scale, whose draw may be infinite."""
    return weight * torch.where(weight > 0, draws, 0)


def draw_scale(draw: Sampler, forecast: MixedForecast, scale: int, count: int) -> Float[Tensor, "M B H V"]:
    """Draws from one scale's distribution, in the series' units."""
    params = forecast.params[..., scale, :]
    parts = torch.arange(count).split(max(1, _CHUNK // params.numel()))
    draws = torch.cat([draw(params.expand(len(part), *params.shape)) for part in parts])
    return draws * forecast.spread[..., scale] + forecast.loc[..., scale]


@torch.no_grad()
def quantile_of_mixture(
    cdf: DistributionFunction, quantile: QuantileFunction, forecast: MixedForecast, level: float
) -> Float[Tensor, "B H V"]:
    """The value with a share `level` below of the scales' distributions, summed with their weights.

    It lies between the scales' own quantiles. A scale without spread is a point.
    """
    centre, unit = forecast.loc[..., 0], forecast.spread.amax(dim=-1)
    unit = unit.where(unit > 0, 1)  # of the search, which is then the same in all units
    weights = forecast.weights[:, None, None].expand_as(forecast.loc).flatten(0, 2)
    felt = (weights > NEGLIGIBLE).any(dim=0).nonzero().squeeze(-1)
    flat = (forecast.params, forecast.loc - centre.unsqueeze(-1), forecast.spread)
    # one parameter after another: much quicker
    params = flat[0].flatten(0, 2).index_select(1, felt).permute(2, 1, 0).contiguous()
    loc, spread = (part.flatten(0, 2).index_select(1, felt).T / unit.flatten() for part in flat[1:])
    weights = weights.index_select(1, felt).T.contiguous()
    own = quantile(params.movedim(0, -1), level) * spread + loc

    def share(rows: Tensor, value: Tensor) -> Tensor:
        place, width, weight = (part.index_select(1, rows) for part in (loc, spread, weights))
        standardised = (value - place) / width.where(width > 0, 1)
        below = cdf(params.index_select(2, rows).movedim(0, -1), standardised)
        return (weight * below.where(width > 0, (value >= place).to(below))).sum(dim=0)

    low, high = own.amin(dim=0), own.amax(dim=0)
    found = quantile_between(share, level, low, high, (weights * own).sum(dim=0).clamp(low, high))
    return found.reshape(centre.shape) * unit + centre


@torch.no_grad()
def average_of_quantiles(quantile: QuantileFunction, forecast: MixedForecast, level: float) -> Float[Tensor, "B H V"]:
    """The scales' own quantiles, averaged with their weights."""
    own = quantile(forecast.params, level) * forecast.spread + forecast.loc
    weights = forecast.weights[:, None, None]
    return (weights * own.where(weights > 0, 0)).sum(dim=-1)  # an unused scale's may be infinite
