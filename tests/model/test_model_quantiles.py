"""Point forecasts of models with a distribution, and quantiles by level."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import (
    CauchyLikelihood,
    GaussianLikelihood,
    GumbelLikelihood,
    LaplaceLikelihood,
    QuantileRegression,
)
from model_fixtures import (
    HORIZON,
    fitted,
    from_values,
    make_model,
    mixture_cdf,
    parameters_of,
    scale_quantile,
    values_of,
    wave,
)

from darts_msft.likelihoods import DartsFamily

LEVELS = (0.1, 0.5, 0.9)
UNEQUAL: dict[str, Any] = {"lr_head": 1e-2, "weight_init": (0.0, 0.5, 1.0)}
MIXINGS = ("mixture", "quantile", "samples", "first")


def weighted_medians(model: Any) -> np.ndarray:
    """Of the native distributions that the model's parameters describe."""
    steps = parameters_of(model, wave())
    return np.array([sum(scale["weight"] * scale_quantile(scale, 0.5) for scale in step) for step in steps])


# --- one sample -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mixing", "upsampling"), [*((one, "repeat") for one in MIXINGS), ("mixture", "linear")])
def test_one_sample_is_the_weighted_mean_of_the_scales_medians(tiny_moirai: str, mixing: str, upsampling: str) -> None:
    """With linear upsampling the medians are what is interpolated, as without a likelihood."""
    options = {"lr_head": 1e-2} if mixing == "first" else UNEQUAL
    model = fitted(tiny_moirai, mixing=mixing, upsampling=upsampling, **options)
    forecast = model.predict(HORIZON, wave())
    points = np.stack([one.values()[:, 0] for one in model.scale_forecasts(wave())], axis=-1)
    np.testing.assert_allclose(forecast.values()[:, 0], points @ model.scale_weights, rtol=1e-5)
    if upsampling == "repeat":
        np.testing.assert_allclose(forecast.values()[:, 0], weighted_medians(model), rtol=1e-4)
    again = model.predict(HORIZON, wave(), random_state=1)
    assert np.array_equal(values_of(again), values_of(forecast))


@pytest.mark.parametrize(
    ("likelihood", "mixing"),
    [
        *((GaussianLikelihood(), mixing) for mixing in ("mixture", "samples")),
        *((QuantileRegression([0.1, 0.4, 0.5, 0.6, 0.9]), mixing) for mixing in ("mixture", "quantile")),
    ],
)
def test_one_sample_of_darts_likelihoods_is_their_median(tiny_moirai: str, likelihood: Any, mixing: str) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood, mixing=mixing, lr_head=1e-2).fit(wave())
    points = np.stack([one.values()[:, 0] for one in model.scale_forecasts(wave())], axis=-1)
    forecast = model.predict(HORIZON, wave()).values()[:, 0]
    np.testing.assert_allclose(forecast, points @ model.scale_weights, rtol=1e-5)
    samples = values_of(model.predict(HORIZON, wave(), num_samples=500, random_state=0))[:, 0]
    assert (samples.std(axis=-1) > 0).all()
    error = np.abs(np.median(samples, axis=-1) - forecast)
    assert (error < 0.3 * samples.std(axis=-1)).all()


def test_one_sample_before_fit_is_the_native_median(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=QuantileRegression(list(LEVELS)))
    point = make_model(tiny_moirai, likelihood=None)
    native = make_model(tiny_moirai)
    expected = values_of(point.predict(HORIZON, wave()))
    for one in (model, native):
        np.testing.assert_allclose(values_of(one.predict(HORIZON, wave())), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="needs a new head"):
        make_model(tiny_moirai, likelihood=GaussianLikelihood()).predict(HORIZON, wave())


@pytest.mark.parametrize("likelihood", ["native", QuantileRegression(list(LEVELS))])
def test_the_point_forecast_is_fed_back(tiny_moirai: str, likelihood: Any) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood)
    chunks = [model.predict(HORIZON, wave())]
    chunks.append(model.predict(HORIZON, wave().append(chunks[0])))
    longer = model.predict(2 * HORIZON, wave())
    expected = np.concatenate([values_of(chunk) for chunk in chunks])
    np.testing.assert_allclose(values_of(longer), expected, rtol=1e-5)
    paths = values_of(model.predict(2 * HORIZON, wave(), num_samples=20, random_state=0))
    assert (paths.std(axis=-1) > 0).all()


# --- quantiles by level -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixing", ["mixture", "quantile", "first"])
def test_quantiles_are_exact(tiny_moirai: str, mixing: str) -> None:
    """Against distribution functions written with scipy; quantile averaging averages the scales' quantiles."""
    model = fitted(tiny_moirai, mixing=mixing, **({"lr_head": 1e-2} if mixing == "first" else UNEQUAL))
    levels = (0.9, 0.05, 0.5)
    forecast = model.predict_quantiles(HORIZON - 1, wave(), levels)
    assert list(forecast.components) == ["0_q0.900", "0_q0.050", "0_q0.500"]
    assert forecast.time_index.equals(model.predict(HORIZON - 1, wave()).time_index)
    for step, row in zip(parameters_of(model, wave()), forecast.values(), strict=False):
        for level, value in zip(levels, row, strict=True):
            if mixing == "quantile":
                expected = sum(scale["weight"] * scale_quantile(scale, level) for scale in step)
                assert value == pytest.approx(expected, rel=1e-4)
            else:
                low, high = mixture_cdf(step, np.array([value - 1e-5, value + 1e-5]))
                assert low - 1e-4 <= level <= high + 1e-4


def test_quantiles_of_several_series_and_components(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    several = [wave(50, components=2, seed=seed).with_columns_renamed(["0", "1"], ["a", "b"]) for seed in range(3)]
    forecasts = model.predict_quantiles(HORIZON, several, LEVELS, batch_size=2, verbose=False)
    assert [list(one.components) for one in forecasts] == [
        ["a_q0.100", "a_q0.500", "a_q0.900", "b_q0.100", "b_q0.500", "b_q0.900"]
    ] * 3
    samples = model.predict(HORIZON, several, num_samples=2000, random_state=0)
    for one, paths in zip(forecasts, samples, strict=True):
        draws = np.repeat(values_of(paths), len(LEVELS), axis=1)  # (time, component and level, sample)
        less, at_most = ((draws <= one.all_values() + slack).mean(axis=-1) for slack in (-1e-4, 1e-4))
        assert (less <= np.tile(LEVELS, 2) + 0.05).all()
        assert (at_most >= np.tile(LEVELS, 2) - 0.05).all()


def test_quantiles_leave_the_model_as_it_was(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    before = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    likelihood = model.likelihood
    model.predict_quantiles(HORIZON, wave())
    with pytest.raises(ValueError, match="series"):
        model.predict_quantiles(HORIZON, wave(10))
    assert model.likelihood is likelihood
    after = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    assert list(after.components) == list(before.components)
    assert np.array_equal(values_of(after), values_of(before))


def test_a_constant_series_has_its_value_at_every_level(tiny_moirai: str) -> None:
    forecast = make_model(tiny_moirai).predict_quantiles(HORIZON, from_values(np.full((50, 1), 3.25, np.float32)))
    assert (forecast.values() == 3.25).all()


def test_quantile_regression_has_its_own_levels_in_any_order(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=QuantileRegression([0.1, 0.3, 0.5, 0.7, 0.9]))
    series = [wave(50, components=2), wave(50, components=2, seed=1)]
    everything = model.predict(HORIZON, series, predict_likelihood_parameters=True)
    for one, whole in zip(model.predict_quantiles(HORIZON, series, (0.9, 0.5)), everything, strict=True):
        assert list(one.components) == ["0_q0.900", "0_q0.500", "1_q0.900", "1_q0.500"]
        assert np.array_equal(one.values(), whole.values()[:, [4, 2, 9, 7]])
    alone = model.predict_quantiles(HORIZON, series[0], (0.3,))
    assert np.array_equal(alone.values(), everything[0].values()[:, [1, 6]])


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"n": HORIZON + 1}, rf"n={HORIZON + 1} is more than output_chunk_length={HORIZON}.*num_samples"),
    ({}, {"quantiles": ()}, r"quantiles=\(\) must be levels between 0 and 1"),
    ({}, {"quantiles": (0.5, 1.0)}, r"quantiles=\(0.5, 1.0\) must be levels between 0 and 1"),
    ({}, {"quantiles": [0.0]}, r"quantiles=\[0.0\] must be levels between 0 and 1"),
    ({}, {"quantiles": (float("nan"),)}, r"quantiles=\(nan,\) must be levels between 0 and 1"),
    ({}, {"quantiles": (0.5, 0.50001)}, "must differ in their first three decimals"),
    ({"likelihood": None}, {}, "likelihood=None forecasts points alone"),
    ({"likelihood": QuantileRegression(list(LEVELS))}, {"quantiles": (0.5, 0.2)}, r"quantiles=\[0.2\] .*0.1, 0.5, 0.9"),
    ({"likelihood": GaussianLikelihood()}, {}, r"GaussianLikelihood.*needs a new head"),
    ({"mixing": "samples"}, {}, "mixing='samples' .*no distribution function"),
]


@pytest.mark.parametrize(("settings", "arguments", "message"), REFUSED)
def test_what_has_no_quantiles_is_refused(
    tiny_moirai: str, settings: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    model = make_model(tiny_moirai, **settings)
    with pytest.raises(ValueError, match=message):
        model.predict_quantiles(**{"n": HORIZON, "series": wave(), **arguments})


@pytest.mark.parametrize(
    "likelihood", [GaussianLikelihood(), LaplaceLikelihood(), CauchyLikelihood(), GumbelLikelihood()]
)
def test_quantiles_of_darts_families_have_their_level_below(likelihood: Any) -> None:
    family = DartsFamily(likelihood)
    params = 3 * torch.randn(4, 7, len(family.names), dtype=torch.float64)
    for level in (0.01, 0.3, 0.5, 0.95):
        shares = family.cdf(params, family.quantile(params, level))
        torch.testing.assert_close(shares, torch.full_like(shares, level), rtol=0, atol=1e-6)


def test_quantile_regression_has_no_shares_between_its_levels() -> None:
    family = DartsFamily(QuantileRegression(list(LEVELS)))
    with pytest.raises(ValueError, match="no distribution function"):
        family.cdf(torch.zeros(2, 3), torch.zeros(2))
