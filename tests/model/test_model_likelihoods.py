"""What the forecasts say: the native mixture, Darts likelihoods, and point forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.likelihood_models import torch as likelihoods
from darts.utils.likelihood_models.torch import (
    CauchyLikelihood,
    GaussianLikelihood,
    GumbelLikelihood,
    LaplaceLikelihood,
    QuantileRegression,
)
from model_fixtures import (
    HORIZON,
    make_model,
    mixture_cdf,
    parameters_of,
    scale_cdf,
    scale_quantile,
    validation_scores,
    values_of,
    wave,
)
from scipy import stats

from darts_msft import MSFTFoundationModel
from darts_msft.likelihoods import DartsFamily
from darts_msft.module import MSFTModule

LEVELS = [0.1, 0.5, 0.9]
SAMPLES = 3000


@pytest.fixture(scope="module", params=["mixture", "quantile"])
def native(request: pytest.FixtureRequest, tiny_moirai: str) -> MSFTFoundationModel:
    """Fitted, with unequal weights; tests must not fit it again."""
    return make_model(tiny_moirai, mixing=request.param, lr_head=1e-2, weight_init=[0.0, 0.5, 1.0]).fit(wave())


# ---------------------------------------------------------------------------------------------------- native


def test_samples_follow_the_forecast_parameters(native: MSFTFoundationModel) -> None:
    """Against distribution functions written with scipy; quantile averaging averages the scales' quantiles."""
    steps = parameters_of(native, wave())
    samples = values_of(native.predict(HORIZON, wave(), num_samples=SAMPLES, random_state=0))[:, 0]
    assert [scale["weight"] for scale in steps[0]] == pytest.approx(native.scale_weights.tolist())
    for step, draws in list(zip(steps, samples, strict=True))[::3]:
        if native.model_params["mixing"] == "mixture":
            distance = [
                abs(mixture_cdf(step, v) - np.mean(draws <= v)) for v in np.quantile(draws, [0.1, 0.3, 0.5, 0.8])
            ]
            assert max(distance) < 0.04
        else:
            for level in (0.2, 0.5, 0.8):
                expected = sum(scale["weight"] * scale_quantile(scale, level) for scale in step)
                spread = scale_quantile(step[0], 0.9) - scale_quantile(step[0], 0.1)
                assert abs(np.quantile(draws, level) - expected) < 0.05 * spread + 1e-3


def test_sampling_at_once_equals_darts_one_by_one(native: MSFTFoundationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = values_of(native.predict(HORIZON, wave(), num_samples=SAMPLES, random_state=0))[:, 0]
    monkeypatch.setattr(MSFTModule, "predict_step", PLForecastingModule.predict_step)
    slow = values_of(native.predict(HORIZON, wave(), num_samples=SAMPLES, random_state=1, batch_size=SAMPLES))[:, 0]
    for step in range(HORIZON):
        assert stats.ks_2samp(fast[step], slow[step]).pvalue > 1e-3 / HORIZON
    # correlation of the steps of a path: a path comes from one scale in both
    assert np.corrcoef(np.clip(fast, 0, 10))[0, 4] == pytest.approx(np.corrcoef(np.clip(slow, 0, 10))[0, 4], abs=0.1)


def test_paths_come_from_one_scale(tiny_moirai: str) -> None:
    """The scales' forecasts are driven 100 apart, so a path that mixed them would jump."""
    model = make_model(tiny_moirai, weight_learning="uniform").fit(wave())
    with torch.no_grad():
        mix = model.model.mix

    def apart(outputs: Any) -> torch.Tensor:
        packed = mix(outputs).unflatten(-1, (3, -1)).clone()
        packed[..., -3] += 1000 * torch.arange(3)  # the scales' locations
        return packed.flatten(-2)

    model.model.mix = apart
    samples = values_of(model.predict(HORIZON, [wave(), wave(seed=1)], num_samples=300, random_state=0))[:, :, 0]
    scale = np.round((samples - 5) / 1000)
    assert set(np.unique(np.clip(scale, 0, 2))) == {0, 1, 2}
    same = (scale == np.median(scale, axis=1, keepdims=True)).mean()
    assert same > 0.95
    shares = [np.mean(np.median(scale, axis=1) == index) for index in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes of the network's forward passes."""
    calls: list[int] = []
    forward = MSFTModule.forecast_scales

    def counted(self: MSFTModule, past_target: torch.Tensor) -> Any:
        calls.append(len(past_target))
        return forward(self, past_target)

    monkeypatch.setattr(MSFTModule, "forecast_scales", counted)
    return calls


@pytest.mark.parametrize("likelihood", ["native", QuantileRegression(LEVELS), GaussianLikelihood()])
def test_network_runs_once_for_all_samples(tiny_moirai: str, forwards: list[int], likelihood: Any) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood).fit(wave(50))
    forwards.clear()
    forecasts = model.predict(HORIZON - 2, [wave(), wave(seed=1), wave(seed=2)], num_samples=40)
    assert values_of(forecasts).shape == (3, HORIZON - 2, 1, 40)
    assert forwards == [3]


# --------------------------------------------------------------------------------------------------- point forecasts


@pytest.mark.parametrize("upsampling", ["repeat", "linear"])
def test_point_forecast_is_the_weighted_median(tiny_moirai: str, tmp_path: Path, upsampling: str) -> None:
    fitted = make_model(tiny_moirai, lr_head=1e-2, weight_init=[0.0, 0.5, 1.0]).fit(wave())
    fitted.save(str(tmp_path / "native.pt"))
    point = make_model(tiny_moirai, likelihood=None, upsampling=upsampling)
    point.load_weights(str(tmp_path / "native.pt"), skip_checks=True, load_encoders=False)
    forecast = values_of(point.predict(HORIZON, wave()))[:, 0, 0]
    medians = np.array([[scale_quantile(s, 0.5) for s in step] for step in parameters_of(fitted, wave())])
    if upsampling == "repeat":
        np.testing.assert_allclose(forecast, medians @ fitted.scale_weights, rtol=1e-4)
        return
    time = np.arange(HORIZON)
    for scale, size in ((1, 2), (2, 4)):
        centres = time.reshape(-1, size).mean(axis=1)
        medians[:, scale] = np.interp(time, centres, medians[::size, scale])
    np.testing.assert_allclose(forecast, medians @ fitted.scale_weights, rtol=1e-4)


def test_point_forecasts_have_no_samples(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=None).fit(wave(50))
    assert not model.supports_probabilistic_prediction
    with pytest.raises(ValueError, match="num_samples"):
        model.predict(HORIZON, wave(), num_samples=2)


# ------------------------------------------------------------------------------------------------- Darts likelihoods


def test_zero_shot_quantiles_are_the_native_ones(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=QuantileRegression(LEVELS))
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    assert list(forecast.columns) == ["0_q0.100", "0_q0.500", "0_q0.900"]
    steps = parameters_of(make_model(tiny_moirai), wave())
    for step, row in zip(steps, forecast.values(), strict=True):
        assert [scale["weight"] for scale in step] == [1, 0, 0]
        assert row == pytest.approx([scale_quantile(step[0], level) for level in LEVELS], rel=1e-3)


def test_quantile_regression_learns(tiny_moirai: str) -> None:
    model = make_model(
        tiny_moirai, likelihood=QuantileRegression(LEVELS), lr_head=3e-2, n_epochs=8, num_scales=1, random_state=1
    )
    model.fit(wave(200), val_series=wave(80, seed=1))
    before, after = validation_scores(model)
    assert after < 0.7 * before
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    low, middle, high = forecast.values().T
    truth = np.sin(2 * np.pi * np.arange(100, 100 + HORIZON) / 8) + 5
    assert np.abs(middle - truth).mean() < 0.5
    assert (low < high).all()


@pytest.mark.parametrize(
    "likelihood", [GaussianLikelihood(), LaplaceLikelihood(), CauchyLikelihood(), GumbelLikelihood()]
)
def test_new_distributions_learn(tiny_moirai: str, likelihood: Any) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood, lr_head=3e-2, n_epochs=6)
    model.fit(wave(150), val_series=wave(80, seed=1))
    before, after = validation_scores(model)
    assert after < 0.8 * before
    forecast = values_of(model.predict(HORIZON, wave(), num_samples=200, random_state=0))
    truth = np.sin(2 * np.pi * np.arange(100, 100 + HORIZON) / 8) + 5
    assert np.abs(np.median(forecast, axis=-1)[:, 0] - truth).mean() < 0.6


def test_gaussian_parameters_describe_the_samples(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=GaussianLikelihood(), num_scales=1, lr_head=1e-2).fit(wave())
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    columns = {name[2:]: forecast.values()[:, index] for index, name in enumerate(forecast.columns)}
    means = [columns[f"s{i}_loc"] + columns[f"s{i}_scale"] * columns[f"s{i}_mu"] for i in range(2)]
    mean = sum(columns[f"s{i}_weight"] * means[i] for i in range(2))
    samples = values_of(model.predict(HORIZON, wave(), num_samples=SAMPLES, random_state=0))[:, 0]
    error = samples.std(axis=1) / np.sqrt(SAMPLES)
    assert (np.abs(samples.mean(axis=1) - mean) < 5 * error).all()


@pytest.mark.parametrize(
    "likelihood",
    [QuantileRegression(LEVELS), GaussianLikelihood(), LaplaceLikelihood(), GaussianLikelihood(beta_nll=0.5)],
)
def test_loss_is_darts_own_over_what_is_observed(likelihood: Any) -> None:
    family, generator = DartsFamily(likelihood), torch.Generator().manual_seed(0)
    params = torch.randn(4, 2, 6, len(family.names), generator=generator)
    value, weight = torch.randn(4, 2, 6, generator=generator), torch.rand(4, 2, 6, generator=generator)
    full = likelihood.compute_loss(params.transpose(1, 2), value.transpose(1, 2), weight.transpose(1, 2))
    assert family.loss(params, value, weight).item() == pytest.approx(full.item(), rel=1e-5)
    value[0, 1, 2:] = value[3] = torch.nan
    seen = ~torch.isnan(value)
    part = likelihood.compute_loss(*(x[seen].reshape(-1, 1, 1, *x.shape[3:]) for x in (params, value, weight)))
    assert family.loss(params, value, weight).item() == pytest.approx(part.item(), rel=1e-5)


@pytest.mark.parametrize("likelihood", [GaussianLikelihood(), LaplaceLikelihood()])
def test_zero_shot_needs_a_trained_head(tiny_moirai: str, likelihood: Any) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood)
    for forecast in (model.predict, lambda n, series: model.historical_forecasts(series, retrain=False)):
        with pytest.raises(ValueError, match=r"needs a new head.*call fit\(\) first, or take likelihood='native'"):
            forecast(HORIZON, wave(50))
    model.fit(wave(50))
    assert np.isfinite(values_of(model.predict(HORIZON, wave(50), num_samples=3))).all()


def test_an_untrained_head_is_no_zero_shot_forecast(tiny_moirai: str) -> None:
    """The first candidate of a fresh model is what its likelihood's new head says before it is trained."""
    model = make_model(tiny_moirai, likelihood=GaussianLikelihood())
    for label in ("untrained head", "before this fit"):
        assert model.fit(wave(60), val_series=wave(50, seed=1)).candidates[0].label == label
    pretrained = make_model(tiny_moirai, likelihood=QuantileRegression(LEVELS))
    assert pretrained.fit(wave(60), val_series=wave(50, seed=1)).candidates[0].label == "zero-shot"


@pytest.mark.parametrize(
    "name", ["Poisson", "NegativeBinomial", "Beta", "Exponential", "Gamma", "LogNormal", "HalfNormal", "Weibull"]
)
def test_likelihoods_of_part_of_the_line_are_refused(tiny_moirai: str, name: str) -> None:
    likelihood = getattr(likelihoods, f"{name}Likelihood")()
    with pytest.raises(ValueError, match=rf"{name}Likelihood.*take likelihood='native', QuantileRegression, Gaussian"):
        make_model(tiny_moirai, likelihood=likelihood)


def test_likelihoods_by_another_name_are_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"likelihood='gaussian' is not known; give 'native'"):
        make_model(tiny_moirai, likelihood="gaussian")


def test_the_scipy_oracle_is_a_distribution(tiny_moirai: str) -> None:
    """Guards the oracle of this file: monotone, from 0 to 1, with the quantile as inverse."""
    scale = parameters_of(make_model(tiny_moirai), wave())[0][0]
    values = scale_cdf(scale, scale["loc"] + scale["scale"] * np.linspace(-60, 400, 500))
    assert (np.diff(values) >= -1e-12).all()
    assert values[0] < 0.05
    assert values[-1] > 0.95
    quantile = scale_quantile(scale, 0.3)
    assert scale_cdf(scale, quantile - 1e-6) - 1e-3 <= 0.3 <= scale_cdf(scale, quantile + 1e-6) + 1e-3
