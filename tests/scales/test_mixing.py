"""Mixing of the scales' forecasts against loops and closed forms."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from darts_msft.scales import mixing
from darts_msft.scales.mixing import (
    MixedForecast,
    ScaleWeights,
    mix_points,
    pack,
    sample_mixture,
    sample_path_average,
    sample_quantile_average,
    unpack,
    upsample_all,
)
from darts_msft.scales.pyramid import ScalePlan

BATCH, HORIZON, VARIATES, SCALES = 2, 5, 2, 3
WEIGHTS = torch.tensor([[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]])  # each window has its own
EACH_STEP = WEIGHTS[:, None, None, :]

Sampling = Callable[[Callable[[Tensor], Tensor], MixedForecast, int], Tensor]
EACH_SAMPLER = pytest.mark.parametrize("sampler", [sample_mixture, sample_quantile_average, sample_path_average])


def draw_normal(params: Tensor) -> Tensor:
    return params[..., 0] + params[..., 1] * torch.randn(params.shape[:-1])


def draw_location(params: Tensor) -> Tensor:
    return params[..., 0]


def normal_forecast() -> MixedForecast:
    """Normal distributions with another location and standard deviation everywhere, and affine maps."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, HORIZON, VARIATES, SCALES)
    params = [torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) + 0.5]
    loc = 5 * torch.randn(shape, generator=generator)
    spread = 2 * torch.rand(shape, generator=generator) + 0.5
    return MixedForecast(torch.stack(params, dim=-1), loc, spread, WEIGHTS)


def moments(forecast: MixedForecast) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each scale's forecast, in the series' units; (B, H, V, S)."""
    params, loc, spread, *_ = forecast
    return params[..., 0] * spread + loc, params[..., 1] * spread


# --- weights, packing, points -----------------------------------------------------------------------------------------


def test_scale_weights_are_the_softmax_of_omega_and_can_be_set() -> None:
    logits = [0.3, -1.0, 10.0]
    weights = ScaleWeights(logits)
    total = sum(map(math.exp, logits))
    np.testing.assert_allclose(weights().tolist(), [math.exp(logit) / total for logit in logits], rtol=1e-6)
    weights.set(torch.tensor([0.75, 0.0, 0.25]))
    np.testing.assert_allclose(weights().tolist(), [0.75, 0.0, 0.25], atol=1e-7)
    assert weights.omega.isfinite().all()
    weights.only_finest()
    assert weights().tolist() == [1.0, 0.0, 0.0]  # exactly
    weights.start()
    assert weights.omega.tolist() == pytest.approx(logits)


def test_unpack_undoes_pack() -> None:
    steps = torch.randn(BATCH, HORIZON, VARIATES, SCALES, 6)
    packed = pack(steps, WEIGHTS)
    assert packed.shape == (BATCH, HORIZON, VARIATES, SCALES * 7)
    for scale in range(SCALES):  # Darts' names of the parameters count on this order
        assert torch.equal(packed[..., 7 * scale : 7 * scale + 6], steps[..., scale, :])
        assert (packed[..., 7 * scale + 6] == WEIGHTS[:, None, None, scale]).all()
    for found, expected in zip(
        unpack(packed, SCALES)[:4], (steps[..., :4], steps[..., 4], steps[..., 5], WEIGHTS), strict=True
    ):
        assert torch.equal(found, expected)


def test_all_scales_reach_the_original_rate_in_darts_order() -> None:
    plan = ScalePlan(40, 7, 4, 2)
    blocks = [torch.randn(BATCH, VARIATES, steps, 3) for steps in plan.horizons]
    stacked = upsample_all(plan, blocks, "repeat")
    assert stacked.shape == (BATCH, 7, VARIATES, SCALES, 3)
    for step, scale in itertools.product(range(7), range(SCALES)):
        assert torch.equal(stacked[:, step, :, scale], blocks[scale][:, :, step // 2**scale])
    assert torch.equal(upsample_all(plan, blocks[:1], "repeat"), stacked[:, :, :, :1])


def test_points_mix_as_a_weighted_sum() -> None:
    points = torch.randn(BATCH, HORIZON, VARIATES, 2, SCALES)
    for index in np.ndindex(BATCH, HORIZON, VARIATES, 2):
        weights = WEIGHTS[index[0]].tolist()
        expected = sum(weight * point for weight, point in zip(weights, points[index].tolist(), strict=True))
        assert mix_points(points, WEIGHTS)[index].item() == pytest.approx(expected, rel=1e-5)


# --- every way of sampling --------------------------------------------------------------------------------------------


@EACH_SAMPLER
def test_small_pieces_give_the_same_samples(sampler: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast, drawn = normal_forecast(), []
    for chunk in (10**9, 1, 150):
        monkeypatch.setattr(mixing, "_CHUNK", chunk)
        torch.manual_seed(0)
        drawn.append(sampler(draw_location, forecast, 33))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@EACH_SAMPLER
def test_all_weight_on_one_scale_gives_its_forecast(sampler: Sampling) -> None:
    forecast = normal_forecast()
    for kept in range(SCALES):
        torch.manual_seed(0)
        others = torch.eye(SCALES)[[kept, (kept + 1) % SCALES]]
        paths = sampler(draw_location, forecast._replace(weights=others), 5)
        own = moments(forecast)[0]
        expected = torch.stack([own[0, ..., kept], own[1, ..., (kept + 1) % SCALES]])
        torch.testing.assert_close(paths, expected.expand(5, -1, -1, -1))


# --- the mixture ------------------------------------------------------------------------------------------------------


def test_a_path_comes_wholly_from_one_scale_as_often_as_its_weight_says() -> None:
    """Series and variates draw their scales independently of one another."""
    count = 4000
    torch.manual_seed(0)
    forecast = normal_forecast()
    paths = sample_mixture(draw_location, forecast, count)
    assert paths.shape == (count, BATCH, HORIZON, VARIATES)
    same = torch.isclose(paths.unsqueeze(-1), moments(forecast)[0], rtol=1e-5, atol=1e-5)
    chosen = same.all(dim=2)  # (M, B, V, S): all steps are this scale's
    assert (chosen.sum(dim=-1) == 1).all()
    weights = WEIGHTS[:, None]
    error = (weights * (1 - weights) / count).sqrt()
    assert ((chosen.double().mean(dim=0) - weights).abs() < 4 * error).all()
    finest = chosen[..., 0].double().flatten(1)
    correlations = torch.corrcoef(finest.T) - torch.eye(finest.shape[1])
    assert correlations.abs().max() < 4 / math.sqrt(count)


def test_the_mixtures_mean_and_spread_are_those_of_the_weighted_scales() -> None:
    """The spread between the scales adds to that within them: mixing must not shrink it."""
    count = 20_000
    torch.manual_seed(1)
    forecast = normal_forecast()
    paths = sample_mixture(draw_normal, forecast, count)
    means, deviations = moments(forecast)
    mean = (EACH_STEP * means).sum(dim=-1)
    variance = (EACH_STEP * (deviations**2 + means**2)).sum(dim=-1) - mean**2
    assert ((paths.mean(dim=0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    torch.testing.assert_close(paths.var(dim=0), variance, rtol=0.1, atol=0)


# --- averaged samples -------------------------------------------------------------------------------------------------


def test_averaged_samples_are_weighted_sums_of_independent_draws_of_every_scale() -> None:
    torch.manual_seed(2)
    drawn: list[Tensor] = []

    def record(params: Tensor) -> Tensor:
        drawn.append(draw_normal(params))
        return drawn[-1]

    forecast = normal_forecast()
    paths = sample_path_average(record, forecast, 2000)
    _, loc, spread, *_ = forecast
    expected = sum(
        weight * (draws * spread[..., scale] + loc[..., scale])
        for scale, (weight, draws) in enumerate(zip(EACH_STEP.unbind(dim=-1), drawn, strict=True))
    )
    torch.testing.assert_close(paths, expected)
    noise = torch.stack([(draws - draws.mean(dim=0)).flatten(1) for draws in drawn])
    for first, second in itertools.combinations(noise, 2):
        correlation = (first * second).mean(dim=0) / (first.std(dim=0) * second.std(dim=0))
        assert correlation.abs().max() < 5 / math.sqrt(2000)


@pytest.mark.parametrize("sampler", [sample_path_average, sample_quantile_average])
def test_a_scale_without_weight_cannot_spoil_averaged_samples(sampler: Sampling) -> None:
    """Not even where other windows use it."""
    forecast = normal_forecast()
    forecast.params[0, ..., 2, :] = torch.inf
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]])
    paths = sampler(draw_location, forecast._replace(weights=weights), 3)
    means = moments(forecast)[0]
    torch.testing.assert_close(paths[0, 0], means[0, ..., :2].mean(dim=-1))
    torch.testing.assert_close(paths[0, 1], (means[1] * weights[1]).sum(dim=-1))


# --- quantile averaging -----------------------------------------------------------------------------------------------


class Grid:
    """In place of random draws: the quantiles of a standard normal at even levels, in a scrambled order."""

    def __init__(self, size: int) -> None:
        levels = (np.arange(size) + 0.5) / size
        self.values = torch.from_numpy(scipy.stats.norm.ppf(levels)).float()
        self.order = torch.randperm(size, generator=torch.Generator().manual_seed(0))

    def __call__(self, params: Tensor) -> Tensor:
        self.order = self.order.roll(1)
        return params[..., 0] + params[..., 1] * self.values[self.order].reshape(-1, *(1,) * (params.ndim - 2))


def averaged_moments(forecast: MixedForecast) -> tuple[Tensor, Tensor]:
    means, deviations = moments(forecast)
    return (EACH_STEP * means).sum(dim=-1), (EACH_STEP * deviations).sum(dim=-1)


def test_averaged_quantiles_of_normals_are_those_of_the_normal_with_averaged_moments() -> None:
    size, forecast = 401, normal_forecast()
    samples = sample_quantile_average(Grid(size), forecast, size).sort(dim=0).values
    location, spread = averaged_moments(forecast)
    expected = location + spread * Grid(size).values.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [7, 1400])
def test_any_number_of_samples_follows_the_averaged_distribution(count: int) -> None:
    """Fewer samples than draws are a random choice among them, not the lowest ones; steps are independent."""
    torch.manual_seed(2)
    forecast, repeats = normal_forecast(), 1400 // count
    samples = torch.cat([sample_quantile_average(draw_normal, forecast, count) for _ in range(repeats)])
    assert samples.shape == (1400, BATCH, HORIZON, VARIATES)
    location, spread = averaged_moments(forecast)
    standard = (samples - location) / spread
    assert standard.mean(dim=0).abs().max() < 0.12
    assert (standard.std(dim=0) - 1).abs().max() < 0.12
    assert scipy.stats.kstest(standard.flatten().numpy()[::7], "norm").pvalue > 1e-3
    correlations = torch.corrcoef(standard.flatten(1).T) - torch.eye(standard[0].numel())
    assert correlations.abs().max() < 5 / math.sqrt(1400)
