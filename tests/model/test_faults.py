"""What users were seen to try, and what they should get: missing and infinite values, lists, copies, half precision."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from darts.utils.likelihood_models.torch import GaussianLikelihood, LaplaceLikelihood
from model_fixtures import CONTEXT, HORIZON, LONG, fitted, from_values, make_model, values_of, wave

from darts_msft import MSFTFoundationModel


def with_value(value: float, component: int, steps: slice = slice(None), length: int = 60) -> TimeSeries:
    values = wave(length, components=2).values().copy()
    values[steps, component] = value
    return from_values(values).with_columns_renamed(["0", "1"], ["air", "load"])


# ------------------------------------------------------------------------------------------------- nothing observed

WAYS: dict[str, Callable[[MSFTFoundationModel, Any], list[TimeSeries]]] = {
    "points": lambda model, series: model.predict(HORIZON, series),
    "samples": lambda model, series: model.predict(HORIZON, series, num_samples=3),
    "far ahead": lambda model, series: model.predict(3 * HORIZON, series, num_samples=3),
    "parameters": lambda model, series: model.predict(HORIZON, series, predict_likelihood_parameters=True),
    "quantiles": lambda model, series: model.predict_quantiles(HORIZON, series),
    "by scale": lambda model, series: [model.scale_forecasts(one)[0] for one in series],
    "historical": lambda model, series: [
        one[0]
        for one in model.historical_forecasts(
            series, retrain=False, last_points_only=False, forecast_horizon=HORIZON, start=40
        )
    ],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_component_without_observations_is_nan_and_harms_no_other(
    tiny_moirai: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, whole = make_model(tiny_moirai, **LONG), with_value(1.0, 0, slice(0))
    unseen = with_value(np.nan, 1)
    with caplog.at_level(logging.WARNING, "darts_msft"):
        found = WAYS[way](model, [whole, unseen])
    told = [record.getMessage() for record in caplog.records if "NaN" in record.getMessage()]
    assert len(told) == (way != "by scale")
    assert all("series[1] ('load')" in one and "'air'" not in one for one in told)
    first, second = (one.all_values().reshape(len(one), 2, -1) for one in found)
    assert np.isfinite(first).all()
    assert np.isnan(second[:, 1]).all()
    if way not in ("samples", "far ahead"):
        alone = WAYS[way](make_model(tiny_moirai, **LONG), [unseen["air"]])[0]
        expected = alone.all_values().reshape(len(alone), -1)
        np.testing.assert_allclose(second[:, 0], expected, rtol=1e-5, atol=1e-6)
    else:
        assert np.isfinite(second[:, 0]).all()


def test_one_observation_is_enough(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    series = with_value(np.nan, 1, slice(0, 59))
    forecast = make_model(tiny_moirai).predict(HORIZON, series)
    np.testing.assert_allclose(forecast.values()[:, 1], series.values()[-1, 1], rtol=1e-5)
    assert not [record for record in caplog.records if "NaN" in record.getMessage()]


def test_it_is_said_how_far_back_was_looked(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    model = make_model(tiny_moirai, num_scales=1, finest_context=8)
    assert np.isnan(model.predict(HORIZON, with_value(np.nan, 1, slice(-16, None))).values()[:, 1]).all()
    assert "in the 16 steps before" in caplog.text


def test_the_training_series_is_told_of_too(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    unseen = with_value(np.nan, 1, slice(-CONTEXT, None), 100)
    model = make_model(tiny_moirai).fit(unseen)
    caplog.clear()
    assert np.isnan(model.predict(HORIZON).values()[:, 1]).all()
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert "'load'" in told[0]


# ---------------------------------------------------------------------------------------------------- infinite values


def test_infinite_values_are_refused_by_name(tiny_moirai: str) -> None:
    whole, broken = with_value(1.0, 0, slice(0)), with_value(-np.inf, 1, slice(50, 53))
    model = make_model(tiny_moirai)
    for way in ("points", "samples", "quantiles", "historical"):
        with pytest.raises(ValueError, match=r"series\[1\].*3 in component 'load'"):
            WAYS[way](model, [whole, broken])
    with pytest.raises(ValueError, match=r"series .*3 in component 'load'"):
        model.scale_forecasts(broken)
    with pytest.raises(ValueError, match=r"^series has.*3 in component 'load'"):
        make_model(tiny_moirai).fit(broken)
    with pytest.raises(ValueError, match=r"^val_series\[0\] has.*3 in component 'load'"):
        make_model(tiny_moirai).fit([whole], val_series=[broken])
    early = with_value(np.inf, 1, slice(0, 3))  # before the context
    assert np.isfinite(values_of(model.predict(HORIZON, early))).all()


# -------------------------------------------------------------------------------------------------------------- lists


@pytest.mark.parametrize("types", [("float32", "float64"), ("float32", "float16")])
def test_a_list_of_types_is_forecast_in_the_common_one(tiny_moirai: str, types: tuple[str, str]) -> None:
    series = [wave(60, seed=seed).astype(kind) for seed, kind in enumerate(types)]
    common = np.result_type(*types)
    found = make_model(tiny_moirai).predict(HORIZON, series)
    assert [one.dtype for one in found] == [common, common]
    alone = [make_model(tiny_moirai).predict(HORIZON, one.astype(common)) for one in series]
    np.testing.assert_allclose(values_of(found), values_of(alone), rtol=1e-5)


def test_a_fitted_model_takes_series_of_another_type(tiny_moirai: str) -> None:
    model, series = fitted(tiny_moirai), wave(60, dtype=np.float64)
    found = model.predict(HORIZON, [series, series.astype(np.float32)])
    np.testing.assert_array_equal(found[0].values(), found[1].values())


def test_a_list_of_types_is_fitted_in_the_common_one(tiny_moirai: str) -> None:
    """A validation series of another type is in that of the training series."""
    every, other = [wave(60, seed=seed) for seed in (0, 1)], wave(60, seed=2)

    def after(series: Any, validation: Any) -> np.ndarray:
        model = make_model(tiny_moirai).fit(series, val_series=validation)
        return values_of(model.predict(HORIZON, other))

    double = [one.astype(np.float64) for one in every]
    np.testing.assert_array_equal(after([every[0], double[1]], other), after(double, other.astype(np.float64)))
    np.testing.assert_array_equal(after(every, other.astype(np.float64)), after(every, other))


def test_lists_that_no_fit_takes_are_refused(tiny_moirai: str) -> None:
    one, two = wave(60), wave(60, components=2)
    for arguments, message in (
        ({"series": []}, r"^series=\[\]"),
        ({"series": one, "val_series": []}, r"^val_series=\[\]"),
        ({"series": [one, two]}, r"^series\[1\] has 2 components but series\[0\] has 1"),
        ({"series": one, "val_series": [one, two]}, "`series`.* validation set at .* index `1` do not match"),
        ({"series": [one, one], "past_covariates": [two, one]}, r"^past_covariates\[1\] has 1 .*\[0\] has 2"),
    ):
        with pytest.raises(ValueError, match=message):
            make_model(tiny_moirai).fit(**arguments)
        with pytest.raises(ValueError, match=message):
            make_model(tiny_moirai).scale_batch_size(**arguments)


@pytest.mark.parametrize("is_fitted", [False, True])
def test_an_empty_list_and_unequal_widths_are_refused(tiny_moirai: str, is_fitted: bool) -> None:
    model = fitted(tiny_moirai) if is_fitted else make_model(tiny_moirai)
    for forecast in (
        lambda series: model.predict(HORIZON, series),
        lambda series: model.predict_quantiles(HORIZON, series),
        lambda series: model.historical_forecasts(series, retrain=False),
        model.scale_forecasts,
    ):
        with pytest.raises(ValueError, match=r"series=\[\]"):
            forecast([])
        with pytest.raises(ValueError, match=r"series\[1\] has 2 components but series\[0\] has 1"):
            forecast([wave(60), wave(60, components=2)])


# ------------------------------------------------------------------------------------------------------------- copies


COPIES: dict[str, Callable[[MSFTFoundationModel, Path], MSFTFoundationModel]] = {
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_model_that_was_not_fitted_forecasts_as_it_does(tiny_moirai: str, way: str, tmp_path: Path) -> None:
    model, series = make_model(tiny_moirai), wave(60)
    expected = model.predict(HORIZON, series)
    other = COPIES[way](model, tmp_path)
    assert other.predict(HORIZON, series) == expected
    assert other.predict(HORIZON, wave(60, components=2)).n_components == 2
    assert COPIES[way](model, tmp_path).fit(wave()).predict(HORIZON).n_components == 1
    assert model.predict(HORIZON, series) == expected


# ----------------------------------------------------------------------------------------------------- half precision


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_draws_what_single_precision_does(tiny_moirai: str, precision: str) -> None:
    series = wave(60)
    model, exact = make_model(tiny_moirai, trainer={"precision": precision}), make_model(tiny_moirai)
    levels = [0.1, 0.5, 0.9]
    draws = values_of(model.predict(HORIZON, series, num_samples=4000, random_state=0))
    expected = values_of(exact.predict_quantiles(HORIZON, series, levels))[..., 0]
    found = np.quantile(draws[:, 0], levels, axis=-1).T
    np.testing.assert_allclose(found, expected, atol=0.3 * float(series.values().std()))
    np.testing.assert_allclose(values_of(model.predict_quantiles(HORIZON, series, levels))[..., 0], expected, atol=0.1)


@pytest.mark.parametrize("likelihood", ["native", None, GaussianLikelihood()], ids=str)
def test_series_of_half_precision_are_fitted_and_forecast(tiny_moirai: str, likelihood: Any, tmp_path: Path) -> None:
    train, val, later = (wave(steps, seed=seed).astype(np.float16) for steps, seed in ((60, 0), (48, 1), (50, 2)))
    model = make_model(tiny_moirai, likelihood=likelihood, linear_member=None).fit(train, val_series=val)
    assert all(np.isfinite(one.score) for one in model.candidates)
    samples = 4 if likelihood is not None else 1
    assert np.isfinite(values_of(model.predict(HORIZON, later, num_samples=samples))).all()
    model.save(str(tmp_path / "model.pt"))
    again = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert again.predict(HORIZON, later) == model.predict(HORIZON, later)


def test_series_of_half_precision_are_forecast_zero_shot(tiny_moirai: str) -> None:
    series = wave(60)
    exact = values_of(make_model(tiny_moirai).predict(HORIZON, series))
    found = values_of(make_model(tiny_moirai).predict(HORIZON, series.astype(np.float16)))
    np.testing.assert_allclose(found, exact, atol=0.1)


def test_a_score_in_half_precision_is_that_of_single_precision(tiny_moirai: str) -> None:
    """Sums in half precision would stop to grow after a few hundred steps."""
    train, val = wave(), wave(120, seed=1)
    scores = []
    for trainer in ({}, {"precision": "bf16-true"}):
        model = make_model(tiny_moirai, trainer=trainer, method="zero_shot", num_scales=0, linear_member=None)
        scores.append([one.score for one in model.fit(train, val_series=val).candidates])
    np.testing.assert_allclose(scores[1], scores[0], rtol=0.03)


# ---------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    "likelihood", [GaussianLikelihood(prior_mu=10), GaussianLikelihood(prior_sigma=1.0), LaplaceLikelihood(prior_b=2)]
)
def test_priors_are_refused(tiny_moirai: str, likelihood: Any) -> None:
    with pytest.raises(ValueError, match=r"prior_(mu=10|sigma=1.0|b=2) of (Gaussian|Laplace)Likelihood"):
        make_model(tiny_moirai, likelihood=likelihood)


def test_no_epochs_leave_the_pretrained_model(tiny_moirai: str) -> None:
    model, series = make_model(tiny_moirai, n_epochs=0).fit(wave()), wave(60)
    assert model.fit_report is not None
    assert "last weights" not in model.fit_report.kept
    assert model.fit_report.kept.startswith("zero-shot")
    assert model.predict(HORIZON, series) == make_model(tiny_moirai).predict(HORIZON, series)
    assert "last weights" in fitted(tiny_moirai).fit_report.kept


def test_a_retrain_of_0_is_false(tiny_moirai: str) -> None:
    model, series = make_model(tiny_moirai), wave(50)
    expected = model.historical_forecasts(series, retrain=False)
    assert model.historical_forecasts(series, retrain=0) == expected
    assert model.backtest(series, retrain=0) == model.backtest(series, retrain=False)
    with pytest.raises(ValueError, match="retrain=1 "):
        model.historical_forecasts(series, retrain=1)


def test_a_backbone_is_a_path_too(tiny_moirai: str, tmp_path: Path) -> None:
    model, series = make_model(Path(tiny_moirai)), wave(60)  # type: ignore[arg-type]
    assert model.predict(HORIZON, series) == make_model(tiny_moirai).predict(HORIZON, series)
    model.fit(wave()).save(str(tmp_path / "model.pt"))
    assert MSFTFoundationModel.load(str(tmp_path / "model.pt")).predict(HORIZON) == model.predict(HORIZON)


@pytest.mark.parametrize("method", ["msft", "full", "lora"])
def test_without_finetuning_nothing_asks_for_gradients(tiny_moirai: str, method: str, tmp_path: Path) -> None:
    """Nor does it lose what an adapter holds."""
    model = make_model(tiny_moirai, method=method, enable_finetuning=False)
    model.predict(HORIZON, wave(60))
    assert not [name for name, one in model.model.named_parameters() if one.requires_grad]
    trained = fitted(tiny_moirai, method=method)
    trained.save_adapter(tmp_path / "adapter")
    model = make_model(tiny_moirai, method=method, enable_finetuning=False)
    model.load_adapter(tmp_path / "adapter")
    assert not [name for name, one in model.model.named_parameters() if one.requires_grad]
    assert model.predict(HORIZON, wave(60)) == trained.predict(HORIZON, wave(60))
    model.save_adapter(tmp_path / "again")
    other = make_model(tiny_moirai, method=method)
    other.load_adapter(tmp_path / "again")
    assert other.predict(HORIZON, wave(60)) == trained.predict(HORIZON, wave(60))


def test_a_name_shows_what_was_given() -> None:
    assert str(MSFTFoundationModel(CONTEXT, HORIZON)) == (
        f"MSFTFoundationModel(input_chunk_length={CONTEXT}, output_chunk_length={HORIZON})"
    )
    zero_shot = str(MSFTFoundationModel(CONTEXT, HORIZON, method="zero_shot", n_epochs=3))
    assert "enable_finetuning" not in zero_shot
    assert "n_epochs=3" in zero_shot
    assert "enable_finetuning=False" in str(MSFTFoundationModel(CONTEXT, HORIZON, enable_finetuning=False))
