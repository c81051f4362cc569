"""Quantiles by level of several scales' forecasts, against scipy's normal distributions, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from darts_msft.scales.mixing import MixedForecast, average_of_quantiles, quantile_of_mixture

SHAPE = (2, 5, 2, 3)  # windows, steps, variates, scales
LEVELS = (0.01, 0.3, 0.5, 0.9)
SHARED = [[0.6, 0.1, 0.3], [0.6, 0.1, 0.3]]
EACH_WINDOWS_OWN = [[0.2, 0.0, 0.8], [0.0, 1.0, 0.0]]


def normal_cdf(params: Tensor, value: Tensor) -> Tensor:
    return torch.special.ndtr((value - params[..., 0]) / params[..., 1])


def normal_quantile(params: Tensor, level: float) -> Tensor:
    return params[..., 0] + params[..., 1] * scipy.stats.norm.ppf(level)


def normal_forecast(weights: list[list[float]] = SHARED) -> MixedForecast:
    """Another location and standard deviation everywhere, and affine maps."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.randn(SHAPE, generator=generator), torch.rand(SHAPE, generator=generator) + 0.5]
    loc = 5 * torch.randn(SHAPE, generator=generator)
    spread = 2 * torch.rand(SHAPE, generator=generator) + 0.5
    return MixedForecast(torch.stack(params, dim=-1), loc, spread, torch.tensor(weights))


def moments(forecast: MixedForecast) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each scale's forecast, in the series' units."""
    params, loc, spread = (part.double().numpy() for part in forecast[:3])
    return params[..., 0] * spread + loc, params[..., 1] * spread


def check_shares(forecast: MixedForecast, level: float) -> None:
    """The weighted shares below the quantile are the level; a scale without spread jumps."""
    found = quantile_of_mixture(normal_cdf, normal_quantile, forecast, level)
    means, deviations = moments(forecast)
    assert found.shape == SHAPE[:3]
    for index in np.ndindex(*SHAPE[:3]):
        value, weights = found[index].item(), forecast.weights[index[0]].double().numpy()
        slack = 1e-6 * (1 + abs(value))
        low, high = (
            weights @ scipy.stats.norm.cdf(value + near, means[index], np.maximum(deviations[index], 1e-9))
            for near in (-slack, slack)
        )
        assert low - 1e-5 <= level <= high + 1e-5


@pytest.mark.parametrize("weights", [SHARED, EACH_WINDOWS_OWN])
def test_quantiles_of_a_mixture_have_their_level_below(weights: list[list[float]]) -> None:
    for level in LEVELS:
        check_shares(normal_forecast(weights), level)


@pytest.mark.parametrize("unit", [1e-9, 1e9])
def test_quantiles_go_with_the_series_units(unit: float) -> None:
    forecast = normal_forecast()
    moved = forecast._replace(loc=unit * (forecast.loc + 3), spread=unit * forecast.spread)
    for level in LEVELS:
        one, other = (quantile_of_mixture(normal_cdf, normal_quantile, each, level) for each in (forecast, moved))
        torch.testing.assert_close(other / unit, one + 3, rtol=1e-4, atol=1e-4)


def test_a_scale_without_spread_is_a_point_in_the_mixture() -> None:
    forecast = normal_forecast()
    forecast.spread[0, 1, :, 1] = forecast.spread[0, 2, :, 0] = forecast.spread[1] = 0
    for level in LEVELS:
        check_shares(forecast, level)
    forecast.spread[:], forecast.loc[:] = 0, 7.1
    found = quantile_of_mixture(normal_cdf, normal_quantile, forecast, 0.3)
    assert torch.equal(found, torch.full_like(found, 7.1))


def test_a_scale_without_weight_cannot_spoil_quantiles() -> None:
    forecast = normal_forecast([[1.0, 0.0, 0.0]] * 2)
    means, deviations = moments(forecast)
    forecast.params[..., 1:, :] = torch.inf
    for level in LEVELS:
        expected = scipy.stats.norm.ppf(level, means[..., 0], deviations[..., 0])
        for found in (
            quantile_of_mixture(normal_cdf, normal_quantile, forecast, level),
            average_of_quantiles(normal_quantile, forecast, level),
        ):
            np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weights", [SHARED, EACH_WINDOWS_OWN])
def test_averaged_quantiles_are_weighted_sums(weights: list[list[float]]) -> None:
    forecast = normal_forecast(weights)
    for level in LEVELS:
        own = scipy.stats.norm.ppf(level, *moments(forecast))
        expected = [window @ np.array(row) for window, row in zip(own, weights, strict=True)]
        found = average_of_quantiles(normal_quantile, forecast, level)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)
