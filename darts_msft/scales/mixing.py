"""From per-scale forecasts at the original rate to one forecast, and the weights of the scales.

Source: arXiv 2506.14087, multi-scale mixing. Shapes: H horizon steps, V variates, S scales, R parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.distributions import student_t
from darts_msft.distributions.root_finding import NEGLIGIBLE, quantile_between
from darts_msft.scales.pyramid import ScalePlan

QUANTILE_DRAWS = 64  # draws a scale behind each averaged quantile function
_CHUNK = 20_000_000  # numbers held at once while sampling

Sampler = Callable[[Tensor], Tensor]
"""One draw for each step: parameters (..., R) -> values (...)."""
DistributionFunction = Callable[[Tensor, Tensor], Tensor]
"""The share below, for each step: parameters (..., R), values (...) -> shares (...)."""
QuantileFunction = Callable[[Tensor, float], Tensor]
"""The value with a share below, for each step: parameters (..., R), the share -> values (...)."""


class LinearPart(NamedTuple):
    """The linear member's forecast, a Student-t at each step, and its weight: the scales share what is left of 1.

    Where it has no forecast of its own the weight is 0, and the numbers are any.
    """

    loc: Float[Tensor, "*steps"]  # B H V
    scale: Float[Tensor, "*steps"]
    df: Float[Tensor, "*steps"]
    weight: Float[Tensor, "*series"]  # B V

    @classmethod
    def unused(cls, like: Float[Tensor, "B H V"]) -> LinearPart:
        ones = torch.ones_like(like)
        return cls(torch.zeros_like(like), ones, 3 * ones, like.new_zeros(len(like), like.shape[-1]))

    def beside(self, scales: Float[Tensor, "*M B H V"], own: Float[Tensor, "*M B H V"]) -> Float[Tensor, "*M B H V"]:
        """The weighted sum of a number of the scales' mixture and one of its own."""
        return torch.lerp(scales, own.to(scales), self.weight[:, None].to(scales))

    @torch.no_grad()
    def sample(self, count: int) -> Float[Tensor, "M B H V"]:
        normal = torch.randn((count, *self.loc.shape), device=self.loc.device, dtype=self.loc.dtype)
        half = (self.df / 2).expand(normal.shape)
        half = half.float() if half.dtype in (torch.float16, torch.bfloat16) else half  # which the draw doesn't know
        ratio = (half / torch._standard_gamma(half).clamp(min=1e-30)).sqrt()
        return self.loc + self.scale * normal * ratio.to(normal)

    def cdf(self, value: Float[Tensor, "*steps"]) -> Float[Tensor, "*steps"]:
        return student_t.cdf((value - self.loc) / self.scale, self.df)

    def quantile(self, level: float) -> Float[Tensor, "*steps"]:
        return self.loc + self.scale * student_t.quantile(self.df, level)


class MixedForecast(NamedTuple):
    """All scales' forecasts at the original rate: standardised parameters, their affine maps and the weights."""

    params: Float[Tensor, "B H V S R"]
    loc: Float[Tensor, "B H V S"]
    spread: Float[Tensor, "B H V S"]
    weights: Float[Tensor, "B S"]
    linear: LinearPart | None = None


class ScaleWeights(nn.Module):
    """softmax(omega), one weight a scale; `omega` holds the logits, `initial` those before the first step.

    With a linear member the scales share what its weight, `linear`, one for each variate, leaves of 1.
    """

    linear: Tensor

    def __init__(self, initial: Sequence[float], with_linear: bool = False, variates: int = 1) -> None:
        super().__init__()
        self.initial, self.with_linear = tuple(initial), with_linear
        self.omega = nn.Parameter(torch.tensor(self.initial))
        self.register_buffer("linear", torch.zeros(variates), persistent=with_linear)

    def forward(self) -> Float[Tensor, "S"]:
        return self.omega.softmax(dim=0)

    @torch.no_grad()
    def start(self) -> None:
        """Sets the initial weights."""
        self.omega.copy_(self.omega.new_tensor(self.initial))
        self.linear.zero_()

    @torch.no_grad()
    def only_finest(self) -> None:
        """Puts all weight on scale 0."""
        self.omega.fill_(-torch.inf)
        self.omega[0] = 0.0
        self.linear.zero_()

    @torch.no_grad()
    def set(self, weights: Float[Tensor, "S"], linear: Float[Tensor, "V"] | None = None) -> None:
        """Sets the weights themselves, as stacking does: the scales' among themselves, and the linear member's.

        A scale's weight of 0 becomes one of about 1e-9.
        """
        self.linear.copy_(torch.zeros_like(self.linear) if linear is None else linear)
        self.omega.copy_((weights / weights.sum()).clamp(min=1e-9).log())

    def by_variate(self) -> Float[Tensor, "V M"]:
        """All weights, that of a linear member last."""
        scales, linear = self(), self.linear.unsqueeze(-1)
        weights: Tensor = torch.cat([scales * (1 - linear), linear], dim=-1)
        return weights if self.with_linear else weights[:, :-1]


def upsample_all(plan: ScalePlan, blocks: Sequence[Float[Tensor, "B V _ Q"]], how: str) -> Float[Tensor, "B H V S Q"]:
    """Brings each scale's steps (B, V, H_i, Q) to the original rate and stacks them."""
    steps = [plan.upsample(block, scale, how) for scale, block in enumerate(blocks)]
    return torch.stack(steps, dim=-2).transpose(1, 2)


def pack(
    steps: Float[Tensor, "B H V S Q"], weights: Float[Tensor, "B S"], linear: LinearPart | None = None
) -> Float[Tensor, "B H V Z"]:
    """One flat vector a step, as Darts wants it: for each scale its Q numbers and its weight, then the linear part."""
    column = weights.to(steps.dtype)[:, None, None, :, None].expand(*steps.shape[:-1], 1)
    packed = torch.cat([steps, column], dim=-1).flatten(-2)
    if linear is None:
        return packed
    own = [linear.loc, linear.scale, linear.df, linear.weight[:, None].expand_as(linear.loc)]
    return torch.cat([packed, torch.stack(own, dim=-1).to(packed)], dim=-1)


def unpack(packed: Float[Tensor, "B H V Z"], num_scales: int, with_linear: bool = False) -> MixedForecast:
    """Undoes `pack`, with Q = (R parameters, location, spread); `num_scales` is S."""
    linear = None
    if with_linear:
        loc, scale, df, weight = packed[..., -4:].unbind(dim=-1)
        packed, linear = packed[..., :-4], LinearPart(loc, scale, df, weight[:, 0])
    steps = packed.unflatten(-1, (num_scales, -1))
    return MixedForecast(steps[..., :-3], steps[..., -3], steps[..., -2], steps[:, 0, 0, :, -1], linear)


def mix_points(points: Float[Tensor, "B H V Q S"], weights: Float[Tensor, "B S"]) -> Float[Tensor, "B H V Q"]:
    """Weighted sum over the scales; an unused one's points may be infinite."""
    weights = weights.to(points.dtype)[:, None, None, None]
    return (points.where(weights > 0, 0) * weights).sum(dim=-1)


@torch.no_grad()
def sample_mixture(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Sample paths, each wholly from one member, drawn with the members' weights for every series and variate."""
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
    paths = torch.cat(samples)
    if forecast.linear is None:
        return paths
    weight = forecast.linear.weight[:, None]
    chosen = torch.rand((count, *weight.shape), device=weight.device) < weight
    return torch.where(chosen, forecast.linear.sample(count), paths)


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
    """The value with a share `level` below of the members' distributions, summed with their weights.

    It lies between their own quantiles. A scale without spread is a point.
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
    linear = None if forecast.linear is None else _in_units(forecast.linear, centre, unit)
    every = weights
    if linear is not None:
        # where it has no weight, any place between the others does
        place = linear.quantile(level).where(linear.weight > NEGLIGIBLE, own[0])
        own, every = torch.cat([own, place[None]]), torch.cat([weights * (1 - linear.weight), linear.weight[None]])

    def share(rows: Tensor, value: Tensor) -> Tensor:
        place, width, weight = (part.index_select(1, rows) for part in (loc, spread, weights))
        standardised = (value - place) / width.where(width > 0, 1)
        below = cdf(params.index_select(2, rows).movedim(0, -1), standardised)
        total = (weight * below.where(width > 0, (value >= place).to(below))).sum(dim=0)
        if linear is None:
            return total
        some = LinearPart(*(part.index_select(0, rows) for part in linear))
        return torch.lerp(total, some.cdf(value), some.weight)

    low, high = own.amin(dim=0), own.amax(dim=0)
    found = quantile_between(share, level, low, high, (every * own).sum(dim=0).clamp(low, high))
    return found.reshape(centre.shape) * unit + centre


@torch.no_grad()
def cdf_of_mixture(
    cdf: DistributionFunction, forecast: MixedForecast, value: Float[Tensor, "B H V"]
) -> Float[Tensor, "B H V"]:
    """The share of the members' distributions, summed with their weights, at or below `value`."""
    place, width = (value.unsqueeze(-1) - forecast.loc), forecast.spread
    below = cdf(forecast.params, place / width.where(width > 0, 1)).where(width > 0, (place >= 0).to(place))
    weights = forecast.weights[:, None, None]
    total = (below.where(weights > 0, 0) * weights).sum(dim=-1)
    return total if forecast.linear is None else forecast.linear.beside(total, forecast.linear.cdf(value))


def _in_units(linear: LinearPart, centre: Float[Tensor, "B H V"], unit: Float[Tensor, "B H V"]) -> LinearPart:
    """Its steps in one row, (N), as multiples of `unit` from `centre`."""
    weight = linear.weight[:, None].expand_as(centre)
    return LinearPart(
        *(part.flatten() for part in ((linear.loc - centre) / unit, linear.scale / unit, linear.df, weight))
    )


@torch.no_grad()
def average_of_quantiles(quantile: QuantileFunction, forecast: MixedForecast, level: float) -> Float[Tensor, "B H V"]:
    """The scales' own quantiles, averaged with their weights."""
    own = quantile(forecast.params, level) * forecast.spread + forecast.loc
    weights = forecast.weights[:, None, None]
    return (weights * own.where(weights > 0, 0)).sum(dim=-1)  # an unused scale's may be infinite
