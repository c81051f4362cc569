"""From per-scale forecasts at the original rate to one forecast, and the weights of the scales.

Source: arXiv 2506.14087, multi-scale mixing. Shapes: H horizon steps, V variates, S scales, R parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.scales.pyramid import ScalePlan

QUANTILE_DRAWS = 64  # draws a scale behind each averaged quantile function
_CHUNK = 20_000_000  # numbers held at once while sampling

Sampler = Callable[[Tensor], Tensor]
"""One draw for each step: parameters (..., R) -> values (...)."""


class MixedForecast(NamedTuple):
    """All scales' forecasts at the original rate: standardised parameters, their affine maps and the weights."""

    params: Float[Tensor, "B H V S R"]
    loc: Float[Tensor, "B H V S"]
    scale: Float[Tensor, "B H V S"]
    weights: Float[Tensor, "S"]


class ScaleWeights(nn.Module):
    """softmax(omega), one weight a scale; `omega` holds the logits.

    A single scale has weight 1 and nothing to learn.
    """

    def __init__(self, logits: Sequence[float], learned: bool) -> None:
        super().__init__()
        self.omega = nn.Parameter(torch.tensor(logits), requires_grad=learned and len(logits) > 1)

    def forward(self) -> Float[Tensor, "S"]:
        return self.omega.softmax(dim=0)

    @torch.no_grad()
    def set(self, weights: Float[Tensor, "S"]) -> None:
        """Sets the weights themselves, as stacking does; a weight of 0 becomes one of about 1e-9."""
        self.omega.copy_(weights.clamp(min=1e-9).log())


def upsample_all(plan: ScalePlan, blocks: Sequence[Float[Tensor, "B V _ Q"]], how: str) -> Float[Tensor, "B H V S Q"]:
    """Brings every scale's steps (B, V, H_i, Q) to the original rate and stacks the scales."""
    steps = [plan.upsample(block, scale, how) for scale, block in enumerate(blocks)]
    return torch.stack(steps, dim=-2).transpose(1, 2)


def pack(steps: Float[Tensor, "B H V S Q"], weights: Float[Tensor, "S"]) -> Float[Tensor, "B H V Z"]:
    """One flat vector a step, as Darts wants it: for each scale its Q numbers, then its weight."""
    column = weights.to(steps.dtype).reshape(-1, 1).expand(*steps.shape[:-1], 1)
    return torch.cat([steps, column], dim=-1).flatten(-2)


def unpack(packed: Float[Tensor, "B H V Z"], num_scales: int) -> MixedForecast:
    """Undoes `pack`, with Q = (R parameters, location, scale); `num_scales` is S."""
    steps = packed.unflatten(-1, (num_scales, -1))
    return MixedForecast(steps[..., :-3], steps[..., -3], steps[..., -2], steps[0, 0, 0, :, -1])


def mix_points(points: Float[Tensor, "*shape S"], weights: Float[Tensor, "S"]) -> Float[Tensor, "*shape"]:
    """Weighted sum over the scales."""
    return (points * weights.to(points.dtype)).sum(dim=-1)


@torch.no_grad()
def sample_mixture(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Sample paths, each wholly from one scale, drawn with the scales' weights for every series and variate."""
    batch, horizon, variates, num_scales, size = forecast.params.shape
    paths = torch.multinomial(forecast.weights.float(), count * batch * variates, replacement=True)
    paths = paths.reshape(count, batch, 1, variates, 1).expand(-1, -1, horizon, -1, -1)
    samples = []
    for chosen in paths.split(max(1, _CHUNK // (batch * horizon * variates * size))):
        shape = (len(chosen), batch, horizon, variates)
        index = chosen.unsqueeze(-1).expand(*shape, 1, size)
        params = forecast.params.expand(*shape, num_scales, size).gather(-2, index).squeeze(-2)
        loc = forecast.loc.expand(*shape, num_scales).gather(-1, chosen).squeeze(-1)
        scale = forecast.scale.expand(*shape, num_scales).gather(-1, chosen).squeeze(-1)
        samples.append(draw(params) * scale + loc)
    return torch.cat(samples)


@torch.no_grad()
def sample_quantile_average(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Draws from the distribution whose quantile function is the weighted average of the scales' quantile functions.

    The functions are the order statistics of as many draws a scale; steps are independent, as in the mixture.
    """
    size = max(count, QUANTILE_DRAWS)
    averaged = forecast.loc.new_zeros((size, *forecast.loc.shape[:-1]))
    for scale, weight in enumerate(forecast.weights.to(averaged.dtype)):
        averaged += weight * _draw_scale(draw, forecast, scale, size).sort(dim=0).values
    order = torch.rand_like(averaged).argsort(dim=0)[:count]
    return averaged.gather(0, order)


@torch.no_grad()
def sample_path_average(draw: Sampler, forecast: MixedForecast, count: int) -> Float[Tensor, "M B H V"]:
    """Weighted averages of one path of every scale, drawn independently (the paper's mixing).

    The mean is the weighted mean, but the variance is sum(w_i^2 var_i), less than any mixture's: intervals are narrow.
    """
    averaged = forecast.loc.new_zeros((count, *forecast.loc.shape[:-1]))
    for scale, weight in enumerate(forecast.weights.to(averaged.dtype)):
        if weight > 0:  # an unused scale's infinite draw would spoil the sum
            averaged += weight * _draw_scale(draw, forecast, scale, count)
    return averaged


def _draw_scale(draw: Sampler, forecast: MixedForecast, scale: int, count: int) -> Float[Tensor, "M B H V"]:
    """Draws from one scale's distribution, in the series' units."""
    params = forecast.params[..., scale, :]
    parts = torch.arange(count).split(max(1, _CHUNK // params.numel()))
    draws = torch.cat([draw(params.expand(len(part), *params.shape)) for part in parts])
    return draws * forecast.scale[..., scale] + forecast.loc[..., scale]


def stack_weights(gram: Float[Tensor, "S S"]) -> Float[Tensor, "S"]:
    """Weights w >= 0 with sum 1 that minimise w' G w, G being the scales' error products (stacking).

    Each set of active scales has a closed solution; S is small, so all sets are tried.
    """
    num_scales = len(gram)
    scaled = gram.double() / gram.diagonal().double().mean().clamp(min=1e-30)
    best, best_loss = torch.full((num_scales,), 1 / num_scales, dtype=torch.float64), torch.inf
    for members in range(1, 2**num_scales):
        active = [scale for scale in range(num_scales) if members >> scale & 1]
        block = scaled[active][:, active] + 1e-9 * torch.eye(len(active), dtype=torch.float64, device=gram.device)
        solution = torch.linalg.solve(block, torch.ones(len(active), dtype=torch.float64, device=gram.device))
        solution = solution / solution.sum()
        if (solution < 0).any():
            continue
        weights = torch.zeros(num_scales, dtype=torch.float64, device=gram.device)
        weights[active] = solution
        loss = (weights @ scaled @ weights).item()
        if loss < best_loss:
            best, best_loss = weights, loss
    return best.to(gram.dtype)


def crps(samples: Float[Tensor, "M *shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Continuous ranked probability score from M samples, in the target's units.

    The unbiased ("fair") estimator E|X - y| - E|X - X'| / 2 (Ferro 2014); the absolute error where M is 1.
    """
    count = len(samples)
    error = (samples - target).abs().mean(dim=0)
    if count == 1:
        return error
    rank = torch.arange(1, count + 1, device=samples.device, dtype=samples.dtype)
    rank = (2 * rank - count - 1).reshape(-1, *(1,) * target.ndim)
    spread = (samples.sort(dim=0).values * rank).sum(dim=0) / (count * (count - 1))
    return error - spread
