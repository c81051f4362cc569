"""Ensembles, conformal intervals and grid search around the model, beside Darts' own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.metrics import mae
from darts.models import (
    ConformalNaiveModel,
    DLinearModel,
    NaiveEnsembleModel,
    NaiveSeasonal,
    RegressionEnsembleModel,
)
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import CONTEXT, HORIZON, TRAINER, from_values, make_model, values_of, wave
from safetensors.torch import load_file
from uni2ts.model.moirai.forecast import MoiraiForecast
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft import MSFTFoundationModel


def dlinear() -> DLinearModel:
    return DLinearModel(
        CONTEXT, HORIZON, n_epochs=1, random_state=0, pl_trainer_kwargs=TRAINER, optimizer_kwargs={"lr": 1e-2}
    )


def test_naive_ensemble_is_the_mean_of_its_members(tiny_moirai: str) -> None:
    series = wave(70)
    ensemble = NaiveEnsembleModel([make_model(tiny_moirai, likelihood=None), dlinear(), NaiveSeasonal(8)]).fit(series)
    members = [
        values_of(model.fit(series).predict(HORIZON))
        for model in (make_model(tiny_moirai, likelihood=None), dlinear(), NaiveSeasonal(8))
    ]
    np.testing.assert_allclose(values_of(ensemble.predict(HORIZON)), np.mean(members, axis=0), rtol=1e-4)


def test_naive_ensemble_of_fitted_models(tiny_moirai: str) -> None:
    """The samples of two distributions are averaged path by path, so the means are too."""
    series, seeds = wave(70), (0, 1)
    members = [make_model(tiny_moirai, likelihood=GaussianLikelihood(), random_state=i).fit(series) for i in seeds]
    ensemble = NaiveEnsembleModel(members, train_forecasting_models=False)
    new = wave(seed=3)
    forecast = values_of(ensemble.predict(HORIZON, new, num_samples=600, random_state=0))[:, 0]
    own = np.mean(
        [values_of(member.predict(HORIZON, new, num_samples=600)).mean(axis=-1) for member in members], axis=0
    )
    error = forecast.std(axis=-1) * np.sqrt(2 / 600)
    assert (np.abs(forecast.mean(axis=-1) - own[:, 0]) < 5 * error).all()
    past = ensemble.historical_forecasts(
        wave(60, seed=3), forecast_horizon=HORIZON, retrain=False, last_points_only=False, stride=6
    )
    assert len(past) == 4


@pytest.mark.parametrize("likelihood", ["native", None])
def test_regression_ensemble(tiny_moirai: str, likelihood: str | None) -> None:
    """The member that knows the series gets nearly all weight: NaiveSeasonal on a series of period 8."""
    series = from_values(np.tile(np.arange(8.0, dtype=np.float32), 14)[:, None])
    members = [make_model(tiny_moirai, likelihood=likelihood), dlinear(), NaiveSeasonal(8)]
    ensemble = RegressionEnsembleModel(members, regression_train_n_points=3 * HORIZON, regression_train_num_samples=1)
    forecast = values_of(ensemble.fit(series).predict(HORIZON))
    np.testing.assert_allclose(forecast[:, 0, 0], np.arange(8.0), atol=0.2)


def test_conformal_intervals_cover(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=None, lr_head=1e-2, n_epochs=3).fit(wave())
    conformal = ConformalNaiveModel(model, quantiles=[0.1, 0.5, 0.9])
    series = wave(160, seed=5)
    forecast = conformal.predict(HORIZON, series[:-HORIZON], predict_likelihood_parameters=True)
    low, middle, high = forecast.values().T
    point = values_of(model.predict(HORIZON, series[:-HORIZON]))[:, 0, 0]
    np.testing.assert_allclose(middle, point, rtol=1e-5)
    assert (low < middle).all()
    assert (middle < high).all()
    actual = series.values()[-HORIZON:, 0]
    assert np.mean((low <= actual) & (actual <= high)) >= 0.5


def test_conformal_on_a_distribution(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai).fit(wave())
    conformal = ConformalNaiveModel(model, quantiles=[0.1, 0.5, 0.9], cal_num_samples=50)
    assert conformal.predict(HORIZON, wave(100, seed=5), num_samples=5).n_samples == 5


def test_gridsearch_over_scales(tiny_moirai: str) -> None:
    series, val = wave(78)[:70], wave(78)[70:]
    grid: dict[str, list[Any]] = {
        "input_chunk_length": [CONTEXT],
        "output_chunk_length": [HORIZON],
        "num_scales": [0, 1, 2],
        "backbone": [tiny_moirai],
        "patch_size": [4],
        "likelihood": [None],
        "n_epochs": [1],
        "lr_head": [1e-2],
        "random_state": [0],
        "pl_trainer_kwargs": [TRAINER],
    }
    best, parameters, error = MSFTFoundationModel.gridsearch(grid, series, val_series=val, metric=mae)
    errors = {}
    for scales in (0, 1, 2):
        model = make_model(tiny_moirai, likelihood=None, num_scales=scales, batch_size=32, lr_head=1e-2).fit(series)
        errors[scales] = mae(val, model.predict(HORIZON))
    assert len(set(errors.values())) == 3
    assert error == pytest.approx(min(errors.values()), rel=1e-4)
    assert parameters["num_scales"] == min(errors, key=lambda scales: errors[scales])
    assert best.model_params["num_scales"] == parameters["num_scales"]


# --------------------------------------------------------------------------------------- zero-shot against uni2ts


def test_zero_shot_is_uni2ts_own_forecast(tiny_moirai: str) -> None:
    """The distribution of `MoiraiForecast` over the same weights, by its own sampling."""
    draws = 20_000
    module = MoiraiModule.from_pretrained(tiny_moirai)
    module.load_state_dict(load_file(Path(tiny_moirai) / "model.safetensors"))
    reference = MoiraiForecast(
        module=module,
        prediction_length=HORIZON,
        context_length=CONTEXT,
        patch_size=4,
        num_samples=draws,
        target_dim=1,
        feat_dynamic_real_dim=0,
        past_feat_dynamic_real_dim=0,
    )
    torch.manual_seed(0)
    context = torch.as_tensor(wave().values()[-CONTEXT:])[None]
    observed = torch.ones_like(context, dtype=torch.bool)
    expected = reference(context, observed, torch.zeros(1, CONTEXT, dtype=torch.bool))[0].numpy()
    forecast = make_model(tiny_moirai).predict(HORIZON, wave(), num_samples=draws, random_state=0)
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    own = np.quantile(values_of(forecast)[:, 0], levels, axis=-1)
    theirs = np.quantile(expected, levels, axis=0)
    spread = theirs[-1] - theirs[0]
    assert np.abs((own - theirs) / spread).max() < 0.06
