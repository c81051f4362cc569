"""A linear member in the mixture, against scipy and loops."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import brentq
from torch import Tensor

from darts_msft.scales.mixing import (
    LinearPart,
    MixedForecast,
    ScaleWeights,
    pack,
    quantile_of_mixture,
    sample_mixture,
    unpack,
)

SHAPE = (2, 3, 2)  # B, H, V
WEIGHT = torch.tensor([[0.0, 0.4], [1.0, 0.7]], dtype=torch.float64)
NORMAL = {
    "cdf": lambda params, value: torch.special.ndtr((value - params[..., 0]) / params[..., 1]),
    "quantile": lambda params, level: params[..., 0] + params[..., 1] * float(scipy.stats.norm.ppf(level)),
}


def forecast_of(weight: Tensor = WEIGHT) -> MixedForecast:
    generator = torch.Generator().manual_seed(0)

    def numbers(*more: int) -> Tensor:
        return torch.rand((*SHAPE, *more), generator=generator, dtype=torch.float64)

    linear = LinearPart(6 * numbers() - 3, numbers() + 0.3, 3 + 5 * numbers(), weight)
    params = torch.stack([2 * numbers(2) - 1, numbers(2) + 0.5], dim=-1)
    weights = torch.tensor([[0.3, 0.7], [0.9, 0.1]], dtype=torch.float64)
    return MixedForecast(params, 3 * numbers(2), numbers(2) + 0.5, weights, linear)


def cdf_at(forecast: MixedForecast, place: tuple[int, int, int], value: float) -> float:
    """Of one step, with scipy."""
    b, _, v = place
    total = 0.0
    for scale in range(2):
        mean, deviation = forecast.params[place][scale].tolist()
        standardised = (value - float(forecast.loc[place][scale])) / float(forecast.spread[place][scale])
        total += float(forecast.weights[b, scale]) * scipy.stats.norm.cdf(standardised, mean, deviation)
    loc, scale_, df = (float(part[place]) for part in forecast.linear[:3])
    share = float(forecast.linear.weight[b, v])
    return (1 - share) * total + share * scipy.stats.t.cdf(value, df, loc, scale_)


def test_packing_keeps_everything() -> None:
    forecast = forecast_of()
    steps = torch.cat([forecast.params, forecast.loc[..., None], forecast.spread[..., None]], dim=-1)
    packed = pack(steps, forecast.weights, forecast.linear)
    again = unpack(packed, 2, with_linear=True)
    for one, other in zip((*forecast[:4], *forecast.linear), (*again[:4], *again.linear), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("level", [0.02, 0.5, 0.9])
def test_quantiles_are_those_of_the_summed_distribution(level: float) -> None:
    forecast = forecast_of()
    found = quantile_of_mixture(NORMAL["cdf"], NORMAL["quantile"], forecast, level)
    for place in np.ndindex(SHAPE):
        expected = brentq(lambda value, place=place: cdf_at(forecast, place, value) - level, -300, 300)
        assert float(found[place]) == pytest.approx(expected, abs=2e-4)


def test_paths_come_from_the_member_with_its_weight() -> None:
    """The scales are far below, so each path's member shows; all steps of a path are of one."""
    forecast = forecast_of()
    forecast = forecast._replace(loc=forecast.loc - 1e6)
    paths = sample_mixture(lambda params: params[..., 0], forecast, 4000)
    linear = paths > -1e5
    assert torch.equal(linear.all(dim=2), linear.any(dim=2))
    torch.testing.assert_close(linear[:, :, 0].double().mean(dim=0), WEIGHT, atol=0.03, rtol=0)
    assert not linear[:, 0, :, 0].any()
    assert linear[:, 1, :, 0].all()


def test_samples_have_its_distribution() -> None:
    linear = forecast_of().linear
    draws = linear.sample(20_000)
    for place in ((0, 0, 1), (1, 2, 0)):
        loc, scale, df = (float(part[place]) for part in linear[:3])
        assert scipy.stats.kstest(draws[:, *place].numpy(), "t", (df, loc, scale)).pvalue > 1e-3


def test_weights_of_all_members() -> None:
    weights = ScaleWeights([0.0, 0.0], with_linear=True, variates=2)
    assert weights.by_variate().tolist() == [[0.5, 0.5, 0.0]] * 2
    weights.set(torch.tensor([0.25, 0.75]), torch.tensor([0.6, 0.2]))
    np.testing.assert_allclose(weights.by_variate().detach(), [[0.1, 0.3, 0.6], [0.2, 0.6, 0.2]], atol=1e-6)
    assert weights().tolist() == pytest.approx([0.25, 0.75], abs=1e-6)
    weights.set(torch.tensor([1.0, 0.0]))
    np.testing.assert_allclose(weights.by_variate().detach(), [[1, 0, 0]] * 2, atol=1e-6)
    assert weights().isfinite().all()
    weights.start()
    assert weights.by_variate().tolist() == [[0.5, 0.5, 0.0]] * 2
    assert ScaleWeights([0.0, 0.0]).by_variate().tolist() == [[0.5, 0.5]]
    assert set(ScaleWeights([0.0]).state_dict()) == {"omega"}
