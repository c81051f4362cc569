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
    GaussianLikelihood,
    GumbelLikelihood,
    LaplaceLikelihood,
    QuantileRegression,
)
from model_fixtures import (
    HORIZON,
    LONG,
    fitted,
    make_model,
    mixture_cdf,
    parameters_of,
    scale_quantile,
    values_of,
    wave,
)
from scipy import stats

from darts_msft import MSFTFoundationModel
from darts_msft.likelihoods import DartsFamily
from darts_msft.module import MSFTModule
from darts_msft.scales import mixing
from darts_msft.scales.backcasts import COUNT

LEVELS = [0.1, 0.5, 0.9]
SAMPLES = 3000
UNEQUAL: dict[str, Any] = {"lr_head": 1e-2, "weight_init": (0.0, 0.5, 1.0)}


@pytest.fixture(scope="module", params=["mixture", "quantile"])
def native(request: pytest.FixtureRequest, mixed_moirai: str) -> MSFTFoundationModel:
    """Finetuned, with unequal weights."""
    return fitted(mixed_moirai, mixing=request.param, **UNEQUAL)


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
    count = SAMPLES // 6
    fast = values_of(native.predict(HORIZON, wave(), num_samples=count, random_state=0))[:, 0]
    monkeypatch.setattr(MSFTModule, "predict_step", PLForecastingModule.predict_step)
    monkeypatch.setattr(mixing, "QUANTILE_DRAWS", 500)  # one sample's own few would blur the averaged quantiles
    slow = values_of(native.predict(HORIZON, wave(), num_samples=count, random_state=1, batch_size=count))[:, 0]
    for step in range(HORIZON):
        assert stats.ks_2samp(fast[step], slow[step]).pvalue > 1e-3 / HORIZON
    # correlation of the steps of a path: a path comes from one scale in both
    assert np.corrcoef(np.clip(fast, 0, 10))[0, 4] == pytest.approx(np.corrcoef(np.clip(slow, 0, 10))[0, 4], abs=0.1)


@pytest.mark.parametrize(("memory", "windows"), [({}, 1), (LONG, 1 + COUNT)])  # with backcasts that weigh the scales
@pytest.mark.parametrize("likelihood", ["native", QuantileRegression(LEVELS)])
def test_network_runs_once_for_all_samples(
    mixed_moirai: str, monkeypatch: pytest.MonkeyPatch, likelihood: Any, memory: dict[str, int], windows: int
) -> None:
    batches: list[int] = []
    forward = MSFTModule.forecast_scales
    monkeypatch.setattr(
        MSFTModule, "forecast_scales", lambda self, seen: batches.append(len(seen.past)) or forward(self, seen)
    )
    several = [wave(seed=seed) for seed in range(3)]
    model = make_model(mixed_moirai, likelihood=likelihood, **memory)
    forecasts = model.predict(HORIZON - 2, several, num_samples=40)
    assert values_of(forecasts).shape == (3, HORIZON - 2, 1, 40)
    assert batches == [3 * windows]


def test_upsampling_is_of_the_medians(mixed_moirai: str, tmp_path: Path) -> None:
    native = fitted(mixed_moirai, upsampling="repeat", **UNEQUAL)  # whose parameters are those of the scales' own steps
    native.save(str(tmp_path / "native.pt"))
    point = make_model(mixed_moirai, likelihood=None, upsampling="linear")
    point.load_weights(str(tmp_path / "native.pt"), skip_checks=True, load_encoders=False)
    forecast = values_of(point.predict(HORIZON, wave()))[:, 0, 0]
    medians = np.array([[scale_quantile(s, 0.5) for s in step] for step in parameters_of(native, wave())])
    time = np.arange(HORIZON)
    for scale, size in ((1, 2), (2, 4)):
        centres = time.reshape(-1, size).mean(axis=1)
        medians[:, scale] = np.interp(time, centres, medians[::size, scale])
    np.testing.assert_allclose(forecast, medians @ native.scale_weights, rtol=1e-4)


def test_zero_shot_quantiles_are_the_native_ones(mixed_moirai: str) -> None:
    """Of each scale, averaged with the same weights."""
    options: dict[str, Any] = {"upsampling": "repeat", **LONG}
    model = make_model(mixed_moirai, likelihood=QuantileRegression(LEVELS), **options)
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    assert list(forecast.columns) == ["0_q0.100", "0_q0.500", "0_q0.900"]
    steps = parameters_of(make_model(mixed_moirai, **options), wave())
    for step, row in zip(steps, forecast.values(), strict=True):
        assert max(scale["weight"] for scale in step) < 0.95
        expected = [sum(scale["weight"] * scale_quantile(scale, level) for scale in step) for level in LEVELS]
        assert row == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    "likelihood",
    [QuantileRegression(LEVELS), GaussianLikelihood(), GumbelLikelihood()],
)
def test_darts_likelihoods_learn(mixed_moirai: str, likelihood: Any) -> None:
    model = make_model(mixed_moirai, likelihood=likelihood, lr_head=3e-2, n_epochs=6)
    report = model.fit(wave(120), val_series=wave(48, seed=1)).fit_report
    assert report.best < 0.8 * report.before
    forecast = values_of(model.predict(HORIZON, wave(), num_samples=200, random_state=0))
    truth = np.sin(2 * np.pi * np.arange(100, 100 + HORIZON) / 8) + 5
    assert np.abs(np.median(forecast, axis=-1)[:, 0] - truth).mean() < 0.6


@pytest.mark.parametrize(
    ("likelihood", "options"), [(GaussianLikelihood(), {}), (LaplaceLikelihood(), {"weight_learning": "uniform"})]
)
def test_parameters_say_the_medians_and_means(mixed_moirai: str, likelihood: Any, options: dict[str, str]) -> None:
    """Gaussian and Laplace have both at loc + scale * mu, repeated over each coarse step."""
    model = make_model(mixed_moirai, likelihood=likelihood, lr_head=1e-2, **options)
    model.fit(wave(), val_series=wave(60, seed=1))
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    columns = {name[2:]: forecast.values()[:, index] for index, name in enumerate(forecast.columns)}
    mean = np.zeros(HORIZON)
    for scale, one in enumerate(model.scale_forecasts(wave())):
        median = columns[f"s{scale}_loc"] + columns[f"s{scale}_scale"] * columns[f"s{scale}_mu"]
        np.testing.assert_allclose(one.values()[:, 0], median, rtol=1e-5)
        assert one.time_index.equals(forecast.time_index)
        mean += columns[f"s{scale}_weight"] * median
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


def test_a_new_head_has_no_zero_shot_forecast(mixed_moirai: str) -> None:
    """The first candidate of a fit is then what the head says before it is trained."""
    model = make_model(mixed_moirai, likelihood=GaussianLikelihood())
    for forecast in (model.predict, lambda n, series: model.historical_forecasts(series, retrain=False)):
        with pytest.raises(ValueError, match=r"needs a new head.*fit\(\) first, or take likelihood='native'"):
            forecast(HORIZON, wave(50))
    for label in ("untrained head", "before this fit"):
        assert model.fit(wave(60), val_series=wave(50, seed=1)).candidates[0].label == label
    assert np.isfinite(values_of(model.predict(HORIZON, wave(50), num_samples=3))).all()
    pretrained = make_model(mixed_moirai, likelihood=QuantileRegression(LEVELS))
    assert pretrained.fit(wave(60), val_series=wave(50, seed=1)).candidates[0].label == "zero-shot"


def test_likelihoods_of_part_of_the_line_are_refused(mixed_moirai: str) -> None:
    for name in ("Poisson", "NegativeBinomial", "Beta", "Exponential", "Gamma", "LogNormal", "HalfNormal", "Weibull"):
        likelihood = getattr(likelihoods, f"{name}Likelihood")()
        with pytest.raises(ValueError, match=rf"{name}Likelihood.*take likelihood='native', QuantileRegression, Gauss"):
            make_model(mixed_moirai, likelihood=likelihood)
    with pytest.raises(ValueError, match=r"likelihood='gaussian' .*'native'"):
        make_model(mixed_moirai, likelihood="gaussian")
