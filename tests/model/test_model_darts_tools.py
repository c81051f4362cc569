"""Ensembles, conformal intervals and grid search around the model, beside Darts' own models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from darts.metrics import mae
from darts.models import ConformalNaiveModel, DLinearModel, NaiveSeasonal, RegressionEnsembleModel
from model_fixtures import CONTEXT, HORIZON, TRAINER, fitted, from_values, make_model, values_of, wave

from darts_msft import MSFTFoundationModel


def dlinear() -> DLinearModel:
    return DLinearModel(CONTEXT, HORIZON, n_epochs=1, random_state=0, pl_trainer_kwargs=TRAINER)


@pytest.mark.parametrize("likelihood", ["native", None])
def test_regression_ensemble(tiny_moirai: str, likelihood: str | None) -> None:
    """The member that knows the series gets nearly all weight: NaiveSeasonal on a series of period 8."""
    series = from_values(np.tile(np.arange(8.0, dtype=np.float32), 14)[:, None])
    members = [make_model(tiny_moirai, likelihood=likelihood), dlinear(), NaiveSeasonal(8)]
    ensemble = RegressionEnsembleModel(members, regression_train_n_points=3 * HORIZON, regression_train_num_samples=1)
    forecast = values_of(ensemble.fit(series).predict(HORIZON))
    np.testing.assert_allclose(forecast[:, 0, 0], np.arange(8.0), atol=0.2)


@pytest.mark.parametrize("likelihood", ["native", None])
def test_conformal_intervals(tiny_moirai: str, likelihood: str | None) -> None:
    model, series = fitted(tiny_moirai, likelihood=likelihood, lr_head=1e-2), wave(100, seed=5)
    conformal = ConformalNaiveModel(model, quantiles=[0.1, 0.5, 0.9], cal_num_samples=1 if likelihood is None else 50)
    assert conformal.predict(HORIZON, series, num_samples=5).n_samples == 5
    low, middle, high = conformal.predict(HORIZON, series, predict_likelihood_parameters=True).values().T
    assert (low < middle).all()
    assert (middle < high).all()
    if likelihood is None:
        np.testing.assert_allclose(middle, values_of(model.predict(HORIZON, series))[:, 0, 0], rtol=1e-5)


def test_gridsearch(tiny_moirai: str) -> None:
    """Also over numbers of scales that a fit looks for itself."""
    series, val = wave(78), wave(60, seed=1)
    grid: dict[str, list[Any]] = {
        "input_chunk_length": [CONTEXT],
        "output_chunk_length": [HORIZON],
        "backbone": [tiny_moirai],
        "patch_size": [4],
        "n_epochs": [1],
        "likelihood": [None],
        "linear_member": [False],
        "num_scales": [2, "auto"],
        "lr_new": [1e-2],
        "random_state": [0],
        "pl_trainer_kwargs": [TRAINER],
    }
    best, found, score = MSFTFoundationModel.gridsearch(
        grid, series[:-HORIZON], val_series=series[-HORIZON:], metric=mae, fit_kwargs={"val_series": val}
    )
    expected = {}
    for scales in grid["num_scales"]:
        model = MSFTFoundationModel(**{name: values[0] for name, values in grid.items()} | {"num_scales": scales})
        model.fit(series[:-HORIZON], val_series=val)
        expected[scales] = mae(series[-HORIZON:], model.predict(HORIZON))
    assert expected[2] != expected["auto"]
    assert score == pytest.approx(min(expected.values()))
    assert expected[found["num_scales"]] == pytest.approx(score)
    assert best.model_params["num_scales"] == found["num_scales"]
