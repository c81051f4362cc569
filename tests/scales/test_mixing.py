"""Mixing of the scales' forecasts, stacking and CRPS against loops and closed forms."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import Tensor

from darts_msft.scales import mixing
from darts_msft.scales.mixing import (
    MixedForecast,
    ScaleWeights,
    crps,
    mix_points,
    pack,
    sample_mixture,
    sample_path_average,
    sample_quantile_average,
    stack_weights,
    unpack,
    upsample_all,
)
from darts_msft.scales.pyramid import ScalePlan

BATCH, HORIZON, VARIATES, SCALES = 2, 5, 2, 3
WEIGHTS = torch.tensor([0.6, 0.1, 0.3])

Sampling = Callable[[Callable[[Tensor], Tensor], MixedForecast, int], Tensor]


def draw_normal(params: Tensor) -> Tensor:
    return params[..., 0] + params[..., 1] * torch.randn(params.shape[:-1])


def draw_location(params: Tensor) -> Tensor:
    return params[..., 0]


def normal_forecast() -> MixedForecast:
    """Normal distributions with another location and standard deviation everywhere, and affine maps."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, HORIZON, VARIATES, SCALES)
    params = torch.stack(
        [torch.randn(shape, generator=generator), torch.rand(shape, generator=generator) + 0.5], dim=-1
    )
    loc = 5 * torch.randn(shape, generator=generator)
    scale = 2 * torch.rand(shape, generator=generator) + 0.5
    return MixedForecast(params, loc, scale, WEIGHTS)


def moments(forecast: MixedForecast) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each scale's forecast, in the series' units; (B, H, V, S)."""
    return forecast.params[..., 0] * forecast.scale + forecast.loc, forecast.params[..., 1] * forecast.scale


# --- weights, packing, points -----------------------------------------------------------------------------------------


def test_scale_weights_are_the_softmax_of_omega() -> None:
    logits = [0.3, -1.0, 10.0]
    weights = ScaleWeights(logits, learned=True)
    total = sum(map(math.exp, logits))
    np.testing.assert_allclose(weights().tolist(), [math.exp(logit) / total for logit in logits], rtol=1e-6)
    assert weights.omega.requires_grad
    assert not ScaleWeights(logits, learned=False).omega.requires_grad
    alone = ScaleWeights([2.0], learned=True)
    assert alone().tolist() == [1.0]
    assert not alone.omega.requires_grad


def test_scale_weights_can_be_set_with_zeros_among_them() -> None:
    weights = ScaleWeights([0.0, 0.0, 0.0], learned=False)
    weights.set(torch.tensor([0.75, 0.0, 0.25]))
    np.testing.assert_allclose(weights().tolist(), [0.75, 0.0, 0.25], atol=1e-7)
    assert weights.omega.isfinite().all()
    assert not weights.omega.requires_grad


def test_unpack_undoes_pack() -> None:
    steps = torch.randn(BATCH, HORIZON, VARIATES, SCALES, 6)
    packed = pack(steps, WEIGHTS)
    assert packed.shape == (BATCH, HORIZON, VARIATES, SCALES * 7)
    for scale in range(SCALES):  # Darts' names of the parameters count on this order
        assert torch.equal(packed[..., 7 * scale : 7 * scale + 6], steps[..., scale, :])
        assert (packed[..., 7 * scale + 6] == WEIGHTS[scale]).all()
    forecast = unpack(packed, SCALES)
    assert torch.equal(forecast.params, steps[..., :4])
    assert torch.equal(forecast.loc, steps[..., 4])
    assert torch.equal(forecast.scale, steps[..., 5])
    assert torch.equal(forecast.weights, WEIGHTS)


def test_all_scales_reach_the_original_rate_in_darts_order() -> None:
    plan = ScalePlan(40, 7, 4, 2)
    blocks = [torch.randn(BATCH, VARIATES, steps, 3) for steps in plan.horizons]
    stacked = upsample_all(plan, blocks, "repeat")
    assert stacked.shape == (BATCH, 7, VARIATES, SCALES, 3)
    for step, scale in itertools.product(range(7), range(SCALES)):
        assert torch.equal(stacked[:, step, :, scale], blocks[scale][:, :, step // 2**scale])


def test_points_mix_as_a_weighted_sum() -> None:
    points = torch.randn(4, 2, SCALES)
    for index in np.ndindex(4, 2):
        expected = sum(weight * point for weight, point in zip(WEIGHTS.tolist(), points[index].tolist(), strict=True))
        assert mix_points(points, WEIGHTS)[index].item() == pytest.approx(expected, rel=1e-5)


# --- the mixture ------------------------------------------------------------------------------------------------------


def test_a_path_comes_wholly_from_one_scale_as_often_as_its_weight_says() -> None:
    """Series and variates draw their scales independently of one another."""
    count = 4000
    torch.manual_seed(0)
    forecast = normal_forecast()
    paths = sample_mixture(draw_location, forecast, count)
    assert paths.shape == (count, BATCH, HORIZON, VARIATES)
    expected = moments(forecast)[0]
    same = torch.isclose(paths.unsqueeze(-1), expected, rtol=1e-5, atol=1e-5)
    chosen = same.all(dim=2)  # (M, B, V, S): all steps are this scale's
    assert (chosen.sum(dim=-1) == 1).all()
    for batch, variate in np.ndindex(BATCH, VARIATES):
        shares = chosen[:, batch, variate].double().mean(dim=0)
        error = (WEIGHTS * (1 - WEIGHTS) / count).sqrt()
        assert ((shares - WEIGHTS).abs() < 4 * error).all()
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
    mean = (WEIGHTS * means).sum(dim=-1)
    variance = (WEIGHTS * (deviations**2 + means**2)).sum(dim=-1) - mean**2
    assert ((paths.mean(dim=0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    torch.testing.assert_close(paths.var(dim=0), variance, rtol=0.1, atol=0)


@pytest.mark.parametrize("sampler", [sample_mixture, sample_quantile_average, sample_path_average])
def test_small_pieces_give_the_same_samples(sampler: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast, drawn = normal_forecast(), []
    for chunk in (10**9, 1, 150):
        monkeypatch.setattr(mixing, "_CHUNK", chunk)
        torch.manual_seed(0)
        drawn.append(sampler(draw_location, forecast, 33))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("sampler", [sample_mixture, sample_quantile_average, sample_path_average])
def test_all_weight_on_one_scale_gives_its_forecast(sampler: Sampling) -> None:
    forecast = normal_forecast()
    for kept in range(SCALES):
        torch.manual_seed(0)
        paths = sampler(draw_location, forecast._replace(weights=torch.eye(SCALES)[kept]), 5)
        torch.testing.assert_close(paths, moments(forecast)[0][..., kept].expand(5, -1, -1, -1))


# --- averaged samples -------------------------------------------------------------------------------------------------


def test_averaged_samples_have_the_weighted_mean_and_too_small_a_spread() -> None:
    """Independent draws: the variance is sum(w^2 var), less than within the average scale."""
    count = 20_000
    torch.manual_seed(1)
    forecast = normal_forecast()
    paths = sample_path_average(draw_normal, forecast, count)
    assert paths.shape == (count, BATCH, HORIZON, VARIATES)
    means, deviations = moments(forecast)
    mean, variance = torch.zeros_like(means[..., 0]), torch.zeros_like(means[..., 0])
    for index in np.ndindex(BATCH, HORIZON, VARIATES):
        for scale, weight in enumerate(WEIGHTS.tolist()):
            mean[index] += weight * means[index][scale]
            variance[index] += weight**2 * deviations[index][scale] ** 2
    assert ((paths.mean(dim=0) - mean).abs() < 5 * (variance / count).sqrt()).all()
    torch.testing.assert_close(paths.var(dim=0), variance, rtol=0.06, atol=0)


def test_averaged_samples_draw_the_scales_and_samples_independently() -> None:
    torch.manual_seed(2)
    drawn: list[Tensor] = []

    def record(params: Tensor) -> Tensor:
        drawn.append(draw_normal(params))
        return drawn[-1]

    forecast = normal_forecast()
    paths = sample_path_average(record, forecast, 2000)
    expected = sum(
        weight * (draws * forecast.scale[..., scale] + forecast.loc[..., scale])
        for scale, (weight, draws) in enumerate(zip(WEIGHTS.tolist(), drawn, strict=True))
    )
    torch.testing.assert_close(paths, expected)
    noise = torch.stack([(draws - draws.mean(dim=0)).flatten(1) for draws in drawn])
    for first, second in itertools.combinations(noise, 2):
        correlation = (first * second).mean(dim=0) / (first.std(dim=0) * second.std(dim=0))
        assert correlation.abs().max() < 5 / math.sqrt(2000)


def test_a_scale_without_weight_cannot_spoil_averaged_samples() -> None:
    forecast = normal_forecast()
    forecast.params[..., 2, :] = torch.inf
    paths = sample_path_average(draw_location, forecast._replace(weights=torch.tensor([0.5, 0.5, 0.0])), 3)
    torch.testing.assert_close(paths[0], moments(forecast)[0][..., :2].mean(dim=-1))


# --- quantile averaging -----------------------------------------------------------------------------------------------


class Grid:
    """In place of random draws: the quantiles of a standard normal at even levels, in a scrambled order."""

    def __init__(self, size: int) -> None:
        levels = (np.arange(size) + 0.5) / size
        self.levels = torch.from_numpy(levels)
        self.values = torch.from_numpy(scipy.stats.norm.ppf(levels)).float()
        self.order = torch.randperm(size, generator=torch.Generator().manual_seed(0))

    def __call__(self, params: Tensor) -> Tensor:
        self.order = self.order.roll(1)
        return params[..., 0] + params[..., 1] * self.values[self.order].reshape(-1, *(1,) * (params.ndim - 2))


def test_averaged_quantiles_of_normals_are_those_of_the_normal_with_averaged_moments() -> None:
    size = 401
    forecast = normal_forecast()
    samples = sample_quantile_average(Grid(size), forecast, size).sort(dim=0).values
    means, deviations = moments(forecast)
    location, spread = (WEIGHTS * means).sum(dim=-1), (WEIGHTS * deviations).sum(dim=-1)
    expected = location + spread * Grid(size).values.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(samples[size // 2], mix_points(means, WEIGHTS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 7, 64, 300])
def test_any_number_of_samples_follows_the_averaged_distribution(count: int) -> None:
    """Fewer samples than draws are a random choice among them, not the lowest ones."""
    torch.manual_seed(2)
    forecast = normal_forecast()
    repeats = 1400 // count
    samples = torch.cat([sample_quantile_average(draw_normal, forecast, count) for _ in range(repeats)])
    assert samples.shape == (count * repeats, BATCH, HORIZON, VARIATES)
    means, deviations = moments(forecast)
    location, spread = (WEIGHTS * means).sum(dim=-1), (WEIGHTS * deviations).sum(dim=-1)
    standard = (samples - location) / spread
    assert standard.mean(dim=0).abs().max() < 0.12
    assert (standard.std(dim=0) - 1).abs().max() < 0.12
    assert scipy.stats.kstest(standard.flatten().numpy()[::7], "norm").pvalue > 1e-3


def test_averaged_steps_are_independent() -> None:
    torch.manual_seed(3)
    samples = sample_quantile_average(draw_normal, normal_forecast(), 3000).flatten(1)
    correlations = torch.corrcoef(samples.T) - torch.eye(samples.shape[1])
    assert correlations.abs().max() < 5 / math.sqrt(3000)


# --- stacking ---------------------------------------------------------------------------------------------------------


def random_gram(num_scales: int, seed: int, rank: int | None = None) -> Tensor:
    """Products of errors that share a part, so that some optimal weights are zero."""
    rng = np.random.default_rng(seed)
    rows = rank or 50
    shared = rng.uniform(0.5, 1.5, num_scales) * rng.normal(size=(rows, 1))
    errors = shared + rng.uniform(0.1, 1.0, num_scales) * rng.normal(size=(rows, num_scales))
    return torch.from_numpy(errors.T @ errors * 10.0 ** rng.uniform(-6, 6))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("num_scales", [1, 2, 3, 4, 6])
def test_stacking_finds_the_minimum_on_the_simplex(num_scales: int, rank: int | None) -> None:
    zeros = 0
    for seed in range(8):
        gram = random_gram(num_scales, seed, rank)
        weights = stack_weights(gram).numpy()
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        zeros += int((weights == 0).sum())
        matrix = gram.numpy() / np.trace(gram.numpy())
        reference = scipy.optimize.minimize(
            lambda w, matrix=matrix: w @ matrix @ w,
            np.full(num_scales, 1 / num_scales),
            jac=lambda w, matrix=matrix: 2 * matrix @ w,
            bounds=[(0, 1)] * num_scales,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones_like(w)},
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert weights @ matrix @ weights <= reference.fun + 1e-7
    assert zeros or num_scales < 3  # corners of the simplex are among the cases


def test_stacking_against_a_grid() -> None:
    grid = [(a / 50, b / 50, 1 - (a + b) / 50) for a in range(51) for b in range(51 - a)]
    for seed in range(5):
        gram = random_gram(3, seed)
        best = min(grid, key=lambda w, gram=gram: np.array(w) @ gram.numpy() @ np.array(w))
        np.testing.assert_allclose(stack_weights(gram).numpy(), best, atol=0.021)


def test_stacking_by_hand() -> None:
    independent = torch.diag(torch.tensor([1.0, 4.0]))  # inverse variances: 4 to 1
    torch.testing.assert_close(stack_weights(independent), torch.tensor([0.8, 0.2]))
    worse = torch.tensor([[1.0, 2.0], [2.0, 4.0]])  # the second scale makes twice the first one's error
    torch.testing.assert_close(stack_weights(worse), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(stack_weights(torch.ones(1, 1)), torch.ones(1))
    for degenerate in (torch.zeros(3, 3), torch.ones(3, 3)):
        weights = stack_weights(degenerate)
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1)


# --- CRPS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_crps_is_the_double_loop_over_samples(count: int) -> None:
    """E|X - y| - E|X - X'| / 2 over pairs of different samples."""
    samples, target = torch.randn(count, 3, 2), torch.randn(3, 2)
    samples[0] = samples[-1]  # ties
    found = crps(samples, target)
    for index in np.ndindex(3, 2):
        values, truth = samples[:, *index].tolist(), target[index].item()
        error = sum(abs(value - truth) for value in values) / count
        pairs = [abs(first - second) for first, second in itertools.permutations(values, 2)]
        spread = sum(pairs) / len(pairs) / 2 if pairs else 0.0
        assert found[index].item() == pytest.approx(error - spread, abs=1e-5)


def test_crps_of_normal_samples_is_unbiased() -> None:
    """Few samples a forecast, many forecasts: the mean is the closed form of the normal distribution."""
    torch.manual_seed(0)
    mean, std, truth = 1.0, 2.0, 2.5
    score = crps(mean + std * torch.randn(4, 200_000), torch.full((200_000,), truth))
    z = (truth - mean) / std
    normal = scipy.stats.norm
    expected = std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / math.sqrt(math.pi))
    assert score.mean().item() == pytest.approx(expected, abs=4 * score.std().item() / math.sqrt(200_000))


def test_crps_of_a_missing_target_is_missing() -> None:
    score = crps(torch.randn(5, 2), torch.tensor([math.nan, 1.0]))
    assert score.isnan().tolist() == [True, False]
