"""Quantiles at other levels, in other units and from samples; the seasonal naive forecast; windows without Darts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.models import GlobalNaiveSeasonal
from scipy.stats import norm
from three_waves import HORIZON, LEVELS, SEASON, backtest, waves

from benchmarks.data.datasets import load
from benchmarks.models import load_forecaster
from benchmarks.models.classical import SeasonalNaiveModel
from benchmarks.models.views import AtLevels, FromSamples, Standardised, WindowModel, at_levels
from benchmarks.run.measures import forecast, measure

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


def series_of(values: np.ndarray) -> TimeSeries:
    times = pd.date_range("2024-01-01", periods=len(values), freq="h")
    return TimeSeries(times=times, values=values, components=["low", "high"])


class Answer:
    """Stands in for a Darts model: answers with the windows that it is given, and keeps what it was asked."""

    input_chunk_length = 3

    def __init__(self, *windows: np.ndarray) -> None:
        self.windows, self.series, self.asked = windows, None, dict[str, Any]()

    def historical_forecasts(self, series: TimeSeries, **asked: Any) -> list[TimeSeries]:
        self.series, self.asked = series, asked
        times = pd.date_range("2024-01-02", periods=len(self.windows[0]), freq="h")
        return [TimeSeries(times=times, values=window) for window in self.windows]


# -------------------------------------------------------------------------------------------------------------- levels


def test_other_levels_of_a_normal_distribution_are_exact() -> None:
    """Between the known levels and beyond them, whatever its mean and deviation."""
    known, wanted = (0.1, 0.2, 0.5, 0.8, 0.9), (0.001, 0.025, 0.1, 0.15, 0.5, 0.6, 0.9, 0.975)
    loc, scale = np.array([[3.0], [-100.0]]), np.array([[2.0], [30.0]])
    found = at_levels(loc + scale * norm.ppf(known), known, wanted)
    np.testing.assert_allclose(found, loc + scale * norm.ppf(wanted), atol=1e-9)


def test_known_levels_stay_as_they_are() -> None:
    known = (0.1, 0.4, 0.5, 0.9)
    quantiles = np.random.default_rng(0).standard_normal((5, 2, 4))
    np.testing.assert_allclose(at_levels(quantiles, known, known[1:]), quantiles[..., 1:], atol=1e-12)


@pytest.mark.parametrize("known", [(0.5,), (0.1, 0.5, 0.9)])
def test_levels_that_do_not_fit_the_quantiles_are_refused(known: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"2 quantiles of . levels"):
        at_levels(np.zeros((1, 2)), known, [0.5])


def test_at_levels_asks_for_quantiles_and_names_those_wanted() -> None:
    inner = Answer(np.array([[1.0, 2.0, 3.0, -10.0, 0.0, 20.0]]))
    view = AtLevels(inner, (0.1, 0.5, 0.9), (0.5, 0.9))
    window = view.historical_forecasts(series_of(np.zeros((4, 2))), predict_likelihood_parameters=True)[0]
    assert inner.asked["predict_likelihood_parameters"] is True
    assert list(window.components) == ["low_q0.500", "low_q0.900", "high_q0.500", "high_q0.900"]
    np.testing.assert_allclose(window.values(), [[2, 3, 0, 20]])
    with pytest.raises(ValueError, match="predict_likelihood_parameters is False"):
        view.historical_forecasts(series_of(np.zeros((4, 2))))


# ---------------------------------------------------------------------------------------------------- units and samples


def test_standardised_goes_to_the_models_units_and_back() -> None:
    train = np.array([[1.0, 100.0], [3.0, 100.0]])  # mean 2 and deviation 1; 100, and never changes
    inner = Answer(np.array([[0.0, 1.0, -1.0, 2.0]]))  # two levels for each variable
    view = Standardised(inner, train)
    window = view.historical_forecasts(series_of(np.array([[5.0, 101.0]] * 3)), predict_likelihood_parameters=True)[0]
    np.testing.assert_array_equal(inner.series.values(), [[3, 1]] * 3)
    np.testing.assert_array_equal(window.values(), [[2, 3, 99, 102]])
    assert view.input_chunk_length == 3


def test_quantiles_from_samples() -> None:
    samples = np.random.default_rng(0).standard_normal((4, 2, 50)) * [[[1], [10]]]
    inner = Answer(samples)
    view = FromSamples(inner, (0.1, 0.5, 0.9), count=50, seed=7)
    window = view.historical_forecasts(series_of(np.zeros((4, 2))), predict_likelihood_parameters=True, stride=5)[0]
    assert (inner.asked["num_samples"], inner.asked["random_state"], inner.asked["stride"]) == (50, 7, 5)
    assert "predict_likelihood_parameters" not in inner.asked
    assert list(window.components)[:4] == ["low_q0.100", "low_q0.500", "low_q0.900", "high_q0.100"]
    for step, variable, place in np.ndindex(4, 2, 3):
        expected = np.quantile(samples[step, variable], (0.1, 0.5, 0.9)[place])
        assert window.values()[step, 3 * variable + place] == pytest.approx(expected)
    with pytest.raises(ValueError, match="predict_likelihood_parameters is False"):
        view.historical_forecasts(series_of(np.zeros((4, 2))))


# ------------------------------------------------------------------------------------------------------- seasonal naive


def test_seasonal_naive_is_darts_own(caplog: pytest.LogCaptureFixture) -> None:
    """The same windows, times, names and values as Darts' model that goes on from one step to the next."""
    data, horizon = waves(), 30
    darts_model = GlobalNaiveSeasonal(SEASON, 1, pl_trainer_kwargs={**QUIET, "accelerator": "cpu"})
    series, asked = data.series("test", 40), {"forecast_horizon": horizon, "stride": 7, "retrain": False}
    darts_model.fit(data.series("train"))
    expected = darts_model.historical_forecasts(series, last_points_only=False, show_warnings=False, **asked)
    found = SeasonalNaiveModel(data, horizon, None).historical_forecasts(series, last_points_only=False, **asked)
    assert len(found) == len(expected) > 10
    for own, other in zip(found, expected, strict=True):
        assert own.time_index.equals(other.time_index)
        assert list(own.components) == list(other.components)
        np.testing.assert_array_equal(own.values(), other.values())


def test_seasonal_naive_has_the_published_figure(ett_dir: Path) -> None:
    data = load("ETTh1", "lsf", ett_dir)
    errors = measure(SeasonalNaiveModel(data, 96, None), data, "test", 96, 1, 24, None).metrics
    assert errors == pytest.approx({"mse": 0.512, "mae": 0.433}, abs=1e-3)


def test_seasonal_naives_quantiles_against_a_loop() -> None:
    """Horizon 30 is longer than the season; windows begin at any hour."""
    data, horizon, starts = waves(), 30, range(485, 570, 11)
    model = SeasonalNaiveModel(data, horizon, LEVELS)
    found = forecast(model, data, starts, horizon, SEASON, LEVELS)
    train = data.values[:400].astype(np.float64)
    for index, start in enumerate(starts):
        for step in (0, 5, 23, 24, 29):
            lag = SEASON if step < SEASON else 2 * SEASON
            same_hour = [t for t in range(lag, 400) if t % SEASON == (start + step) % SEASON]
            errors = np.array([train[t] - train[t - lag] for t in same_hour])
            expected = data.values[start + step - lag] + np.quantile(errors, LEVELS, axis=0)
            np.testing.assert_allclose(found[index, step], expected.T, rtol=1e-6)


def test_seasonal_naive_has_nothing_to_choose_and_no_weights() -> None:
    _, found, described = backtest("seasonal_naive", {}, range(480, 500, 4))
    assert found.shape == (5, HORIZON, 3, 1)
    assert described["parameters"] == described["trained_parameters"] == 0
    forecaster = load_forecaster("seasonal_naive", {}, None)
    assert forecaster.candidates(waves(), HORIZON) == [{"look_back": SEASON}]
    with pytest.raises(ValueError, match=r"look_back=12 .* give 24"):
        forecaster.build({"look_back": 12}, waves(), HORIZON, 0, None)


def test_seasonal_naive_refuses_too_short_a_past_and_other_times() -> None:
    data = waves()
    with pytest.raises(ValueError, match="400 steps, too few for errors over 17 seasons"):
        SeasonalNaiveModel(data, 17 * SEASON, LEVELS)
    model, later = SeasonalNaiveModel(data, HORIZON, LEVELS), replace(data, times=data.times + pd.Timedelta("1min"))
    with pytest.raises(ValueError, match="no time of the data set"):
        forecast(model, later, range(580, 589), HORIZON, SEASON, LEVELS)


# ------------------------------------------------------------------------------------------------------------- windows


class Context(WindowModel):
    """Forecasts the mean of its context, and the hour of its first step."""

    def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
        means = np.broadcast_to(contexts.mean(axis=1)[:, None, :], (len(contexts), horizon, contexts.shape[2]))
        hours = np.broadcast_to(begins.hour.to_numpy()[:, None, None], means.shape)
        return np.stack([means, hours], axis=-1)


def test_windows_see_their_context_alone() -> None:
    data = waves()
    found = forecast(Context(5, (0.1, 0.9)), data, range(490, 580, 13), HORIZON, 9, (0.1, 0.9))
    for index, start in enumerate(range(490, 580, 13)):
        np.testing.assert_allclose(found[index, 3, :, 0], data.values[start - 5 : start].mean(axis=0), rtol=1e-6)
        assert (found[index, ..., 1] == data.times[start].hour).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrain": True}, "retrain=True"),
        ({"last_points_only": True}, "last_points_only=True"),
        ({"start": 0.5, "start_format": "value"}, "start_format='value'"),
        ({"predict_likelihood_parameters": False}, "does not go with levels"),
        ({"start": 4}, "start=4 leaves no window"),
        ({"start": 589}, "start=589 leaves no window"),
    ],
)
def test_windows_refuse_what_they_can_not_do(changes: dict[str, Any], message: str) -> None:
    asked = {"forecast_horizon": 12, "retrain": False, "last_points_only": False, "predict_likelihood_parameters": True}
    series = TimeSeries(times=waves().times, values=waves().values)
    with pytest.raises(ValueError, match=message):
        Context(5, (0.1, 0.9)).historical_forecasts(series, **{**asked, **changes})
