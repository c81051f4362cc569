"""Errors against slow loops and figures computed by hand; backtests against forecasts one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmark_fakes import HORIZON, SEASON, Back, waves
from darts import TimeSeries
from darts.models import GlobalNaiveSeasonal, LinearRegressionModel
from scipy.stats import norm

from benchmarks.data.datasets import Dataset
from benchmarks.errors import Diverged
from benchmarks.models.views import FromSamples, View
from benchmarks.run import measures
from benchmarks.run.measures import LEVELS, PointSums, QuantileSums, measure


@pytest.fixture
def data() -> Dataset:
    return waves(family="pf")


def windows(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Targets (5, 4, 3), a third of them outside of most intervals, and quantiles at `LEVELS`."""
    targets = 2 * rng.standard_normal((5, 4, 3)) + [0, 5, -1]
    quantiles = np.sort(rng.standard_normal((5, 4, 3, len(LEVELS))), axis=-1) + np.array([0, 5, -1])[:, None]
    return targets, quantiles


# -------------------------------------------------------------------------------------------------------------- errors


def slow_errors(targets: np.ndarray, quantiles: np.ndarray, scales: np.ndarray) -> dict[str, float]:
    """By the definitions, one number at a time."""
    square, absolute, inside = [], [], []
    losses: dict[float, float] = dict.fromkeys(LEVELS[1:-1], 0.0)
    winkler: list[list[float]] = [[] for _ in scales]
    size = 0.0
    for place in np.ndindex(targets.shape):
        y, forecast = targets[place], dict(zip(LEVELS, quantiles[place], strict=True))
        square.append((y - forecast[0.5]) ** 2)
        absolute.append(abs(y - forecast[0.5]))
        size += abs(y)
        for level in losses:
            q = forecast[level]
            losses[level] += 2 * abs(y - q) * (level if y > q else 1 - level)
        inside.append(forecast[0.1] <= y <= forecast[0.9])
        low, high = forecast[0.025], forecast[0.975]
        penalty = max(low - y, 0) + max(y - high, 0)
        winkler[place[-1]].append((high - low) + 2 / 0.05 * penalty)
    return {
        "crps": float(np.mean([loss / size for loss in losses.values()])),
        "msis": float(np.mean([np.mean(values) / scale for values, scale in zip(winkler, scales, strict=True)])),
        "coverage": float(np.mean(inside)),
        "mse": float(np.mean(square)),
        "mae": float(np.mean(absolute)),
    }


def test_quantile_errors_against_a_loop() -> None:
    targets, quantiles = windows(np.random.default_rng(1))
    scales = np.array([0.5, 3.0, 1.0])
    sums = QuantileSums(LEVELS, scales)
    sums.add(targets[:2], quantiles[:2])
    sums.add(targets[2:], quantiles[2:])
    expected = slow_errors(targets, quantiles, scales)
    assert 0.2 < expected["coverage"] < 0.8
    assert sums.metrics() == pytest.approx(expected, rel=1e-9)


def test_point_errors_against_a_loop() -> None:
    targets, quantiles = windows(np.random.default_rng(2))
    middle = quantiles[..., LEVELS.index(0.5), None]
    sums = PointSums()
    sums.add(targets[:4], middle[:4])
    sums.add(targets[4:], middle[4:])
    expected = slow_errors(targets, quantiles, np.ones(3))
    assert sums.metrics() == pytest.approx({"mse": expected["mse"], "mae": expected["mae"]}, rel=1e-9)


def test_quantile_errors_by_hand() -> None:
    """Two windows of one step of one variable; quantile forecasts that can be added up on paper."""
    sums = QuantileSums(LEVELS, np.array([2.0]))
    # y = 10, all quantiles 8: losses 2 * 2 * level, at 0.5: 2; outside by 2: 40 * 2 = 80
    sums.add(np.array([[[10.0]]]), np.full((1, 1, 1, len(LEVELS)), 8.0))
    # y = 6, quantiles 4, 5, ..., 14: that of 0.5 is 9; the interval 4 to 14 holds y, that from 5 to 13 too
    sums.add(np.array([[[6.0]]]), np.arange(4.0, 15)[None, None, None])
    below = [0.1 * 1, 0.2 * 0]  # quantiles 5 and 6 of the levels 0.1 and 0.2
    above = [(1 - level) * distance for level, distance in zip(np.arange(3, 10) / 10, range(1, 8), strict=True)]
    losses = 2 * (2 * sum(np.arange(1, 10) / 10) + sum(below) + sum(above))
    found = sums.metrics()
    assert found["crps"] == pytest.approx(losses / 9 / (10 + 6))
    assert found["msis"] == pytest.approx(((0 + 80) + 10) / 2 / 2)
    assert found["coverage"] == 0.5
    assert found["mse"] == pytest.approx((4 + 9) / 2)
    assert found["mae"] == pytest.approx((2 + 3) / 2)


def test_the_ends_of_an_interval_are_inside() -> None:
    quantiles = np.arange(11.0)[None, None, None]
    for value, inside in [(1.0, 1), (9.0, 1), (0.99, 0), (9.01, 0)]:
        sums = QuantileSums(LEVELS, np.ones(1))
        sums.add(np.array([[[value]]]), quantiles)
        assert sums.metrics()["coverage"] == inside


def test_crps_of_normal_quantiles_is_near_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """With many levels the mean quantile loss tends to the CRPS; that of N(0, 1) at y is known."""
    levels = tuple(np.round(np.linspace(0.001, 0.999, 999), 3).tolist())
    monkeypatch.setattr(measures, "CRPS_LEVELS", levels)
    monkeypatch.setattr(measures, "LEVELS", levels)
    y = np.array([-2.0, -0.3, 0.4, 1.5])
    exact = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.sqrt(np.pi)
    sums = QuantileSums(levels, np.ones(1))
    sums.add(y[:, None, None], np.broadcast_to(norm.ppf(levels), (4, 1, 1, len(levels))))
    assert sums.metrics()["crps"] == pytest.approx(exact.sum() / np.abs(y).sum(), rel=2e-3)


def test_many_windows_lose_no_digits() -> None:
    """Added up in double precision: 100,000 errors of 0.1, given in single precision, for each variable."""
    sums, error = PointSums(), np.float32(0.1)
    sums.add(np.zeros((1000, 100, 10), np.float32), np.full((1000, 100, 10, 1), error))
    assert sums.metrics() == pytest.approx({"mse": float(error) ** 2, "mae": float(error)}, rel=1e-10)


def test_seasonal_errors_are_those_of_the_training_part(data: Dataset) -> None:
    values = data.values.astype(np.float64)
    expected = [np.mean([abs(values[t, v] - values[t - SEASON, v]) for t in range(SEASON, 300)]) for v in range(2)]
    np.testing.assert_allclose(measures.seasonal_errors(data), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="300 steps, no more than a season of 300"):
        measures.seasonal_errors(replace(data, season=300))


def test_levels_that_the_metrics_need() -> None:
    with pytest.raises(ValueError, match=r"lack \[0.025, 0.975\]"):
        QuantileSums(LEVELS[1:-1], np.ones(1))
    with pytest.raises(ValueError, match="no variable changes"):
        QuantileSums(LEVELS, np.zeros(2))


def test_a_variable_without_scale_is_left_out_of_the_msis_alone(data: Dataset) -> None:
    values = data.values.copy()
    values[:300, 1] = 7
    flat = replace(data, values=values)
    both, one = (
        measure(Back(SEASON, LEVELS, 0.5), each, "test", HORIZON, HORIZON, SEASON, LEVELS)
        for each in (flat, replace(flat, values=values[:, :1], columns=("first",)))
    )
    assert (both.without_msis, one.without_msis) == (["second"], [])
    assert both.metrics["msis"] == pytest.approx(one.metrics["msis"])
    assert both.metrics["mae"] != pytest.approx(one.metrics["mae"])


# ----------------------------------------------------------------------------------------------------------- backtests


@pytest.mark.parametrize(("part", "stride"), [("validation", 7), ("test", 1), ("test", HORIZON)])
def test_a_backtest_is_its_windows_one_by_one(data: Dataset, part: str, stride: int) -> None:
    """Targets and contexts are cut out by hand; the model is asked for nothing but the last season."""
    begin, end = data.bounds[part]
    starts = [start for start in range(begin, end, stride) if start + HORIZON <= end]
    targets = np.stack([data.values[start : start + HORIZON] for start in starts])
    points = np.stack([data.values[start - SEASON : start - SEASON + HORIZON] for start in starts])
    quantiles = points[..., None] + 0.5 * norm.ppf(LEVELS)
    found = measure(Back(SEASON, LEVELS, 0.5), data, part, HORIZON, stride, SEASON, LEVELS)
    assert found.windows == len(starts)
    assert found.metrics == pytest.approx(slow_errors(targets, quantiles, measures.seasonal_errors(data)), rel=1e-5)
    point = measure(Back(SEASON, None, 0.5), data, part, HORIZON, stride, SEASON, None)
    assert point.metrics == pytest.approx({name: found.metrics[name] for name in ("mse", "mae")})


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_a_darts_model_s_backtest_is_its_predict(data: Dataset, levels: Any) -> None:
    quantile = {} if levels is None else {"likelihood": "quantile", "quantiles": list(levels)}
    model = LinearRegressionModel(lags=SEASON, output_chunk_length=HORIZON, **quantile).fit(data.series("train"))
    starts = data.starts("test", HORIZON, 13)
    found = measures.forecast(model, data, starts, HORIZON, SEASON, levels)
    assert found.shape == (len(starts), HORIZON, 2, len(levels or [0]))
    for window, start in zip(found, starts, strict=True):
        context = data.series("test", 100)[: start - 400 + 100]
        single = model.predict(HORIZON, context, predict_likelihood_parameters=levels is not None)
        for variable, name in enumerate(data.columns):
            for place, level in enumerate(levels or [None]):
                column = name if level is None else f"{name}_q{level:.3f}"
                np.testing.assert_allclose(window[:, variable, place], single[column].values()[:, 0], rtol=1e-5)


def test_nothing_after_a_window_s_start_reaches_the_model(data: Dataset) -> None:
    """The future of a chunk's first window is the past of its last: each model input is still the past alone."""
    model = LinearRegressionModel(lags=SEASON, output_chunk_length=HORIZON).fit(data.series("train"))
    starts = data.starts("test", HORIZON, 1)
    whole = measures.forecast(model, data, starts, HORIZON, SEASON, None)
    for index in (0, 1, 40):
        values = data.values.copy()
        values[starts[index] :] = 1e6
        cut = measures.forecast(model, replace(data, values=values), starts[: index + 1], HORIZON, SEASON, None)
        np.testing.assert_allclose(cut, whole[: index + 1], rtol=1e-5)


def test_chunks_bound_windows_and_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = range(100, 1100, 3)
    monkeypatch.setattr(measures, "CHUNK_WINDOWS", 50)
    monkeypatch.setattr(measures, "CHUNK_VALUES", 1000)
    for values, size in [(1, 50), (20, 50), (21, 47), (999, 1), (5000, 1)]:
        found = list(measures.chunks(starts, values))
        assert [len(chunk) for chunk in found[:-1]] == [size] * (len(found) - 1)
        assert 1 <= len(found[-1]) <= size
        assert [start for chunk in found for start in chunk] == list(starts)


def test_chunks_are_what_is_forecast_at_once_and_change_nothing(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Watched(Back):
        def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
            asked.append(len(contexts))
            return super().forecast(contexts, begins, horizon)

    model = Watched(SEASON, LEVELS, 0.5)
    whole = measure(model, data, "test", HORIZON, 1, SEASON, LEVELS)
    assert asked == [95]
    asked.clear()
    monkeypatch.setattr(measures, "CHUNK_VALUES", 10 * HORIZON * 2 * len(LEVELS))
    pieces = measure(model, data, "test", HORIZON, 1, SEASON, LEVELS)
    assert asked == [10] * 9 + [5]
    assert pieces.metrics == pytest.approx(whole.metrics, rel=1e-9)
    assert pieces.examples == whole.examples


def test_samples_count_for_the_size_of_a_chunk(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory stays bounded however many sample paths are behind a quantile."""
    asked: list[int] = []

    class Drawing(View):
        held = 100

        def historical_forecasts(self, series: TimeSeries, **rest: Any) -> list[TimeSeries]:
            found = super().historical_forecasts(series, **rest)
            asked.append(len(found))
            return found

    monkeypatch.setattr(measures, "CHUNK_VALUES", 30 * HORIZON * 2 * 100)
    found = measure(Drawing(Back(SEASON, LEVELS, 0.5)), data, "test", HORIZON, 1, SEASON, LEVELS)
    assert asked == [30, 30, 30, 5]
    whole = measure(Back(SEASON, LEVELS, 0.5), data, "test", HORIZON, 1, SEASON, LEVELS)
    assert found.metrics == pytest.approx(whole.metrics, rel=1e-9)
    assert FromSamples(None, LEVELS, count=1000, seed=0).held == 1000


def test_examples_are_the_first_middle_and_last_window(data: Dataset) -> None:
    found = measure(Back(SEASON, LEVELS, 0.5), data, "test", HORIZON, HORIZON, SEASON, LEVELS).examples
    assert [example["start"] for example in found] == [400, 400 + 8 * HORIZON, 400 + 15 * HORIZON]
    assert json.loads(json.dumps(found)) == found
    for example in found:
        start = example["start"]
        assert example["variable"] == "first"
        assert example["levels"] == list(LEVELS)
        np.testing.assert_allclose(example["context"], data.values[start - 12 : start, 0], rtol=5e-5)
        np.testing.assert_allclose(example["target"], data.values[start : start + HORIZON, 0], rtol=5e-5)
        season = data.values[start - SEASON : start - SEASON + HORIZON, 0]
        np.testing.assert_allclose(
            example["quantiles"], [season + 0.5 * norm.ppf(level) for level in LEVELS], rtol=5e-5, atol=1e-5
        )
        assert all(len(f"{abs(value):.12g}".replace(".", "").lstrip("0")) <= 5 for value in example["target"])


def test_an_example_s_context_ends_at_two_horizons_or_the_look_back(data: Dataset) -> None:
    for look_back, length in [(SEASON - 3, SEASON - 3), (5 * SEASON, 2 * HORIZON)]:
        found = measure(Back(look_back, None, 0), data, "test", HORIZON, 50, look_back, None).examples[0]
        assert len(found["context"]) == length
        assert (found["levels"], len(found["quantiles"])) == ([0.5], 1)


def test_quantiles_that_cross_are_sorted_for_every_model(data: Dataset) -> None:
    """A model whose quantiles stand upside down is measured as the same one with them in order, examples included."""

    class Crossing(Back):
        def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
            return super().forecast(contexts, begins, horizon)[..., ::-1]

    found, expected = (
        measure(model(SEASON, LEVELS, 0.5), data, "test", HORIZON, 7, SEASON, LEVELS) for model in (Crossing, Back)
    )
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-12)
    assert found.examples == expected.examples
    with pytest.raises(ValueError, match="ascending"):
        measure(Back(SEASON, LEVELS, 0.5), data, "test", HORIZON, 7, SEASON, LEVELS[::-1])


def test_two_windows_have_two_examples(data: Dataset) -> None:
    found = measure(Back(SEASON, None, 0), data, "test", HORIZON, 60, SEASON, None)
    assert [example["start"] for example in found.examples] == [400, 460]


# ------------------------------------------------------------------------------------------------- what must not pass


class Wrong(Back):
    """Changes the list of forecasts."""

    def __init__(self, change: Any, levels: Any = None) -> None:
        super().__init__(SEASON, levels, 0.5)
        self.change = change

    def historical_forecasts(self, *arguments: Any, **asked: Any) -> list[TimeSeries]:
        return self.change(super().historical_forecasts(*arguments, **asked))


@pytest.mark.parametrize(
    ("change", "levels", "message"),
    [
        (lambda found: found[1:], None, "94 windows of .6. steps.*instead of 95 of 6 steps"),
        (lambda found: [window[1:] for window in found], None, r"windows of \[5\] steps"),
        (
            lambda found: [window.shift(1) for window in found],
            None,
            r"the first at .*01-17 17:00.*from 2020-01-17 16:00",
        ),
        (lambda found: [found[1], found[0], *found[2:]], None, "instead of 95"),
        (lambda found: [window["first"] for window in found], None, r"components \['first'\].*'second'"),
        (lambda found: [window[list(window.components[::-1])] for window in found], LEVELS, "q0.975.*ascending"),
        (lambda found: [found[0] * float("nan"), *found[1:]], None, "forecasts of 1 of 95 .*step 400: the model"),
        (
            lambda found: [*found[:2], found[2].map(lambda x: x + np.inf), *found[3:]],
            None,
            "forecasts of 1 of 95 .*step 402",
        ),
    ],
)
def test_wrong_forecasts_are_no_result(data: Dataset, change: Any, levels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as found:
        measure(Wrong(change, levels), data, "test", HORIZON, 1, SEASON, levels)
    assert isinstance(found.value, Diverged) == message.startswith("forecasts of")


def test_gaps_in_the_targets_are_named(data: Dataset) -> None:
    values = data.values.copy()
    values[470, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"targets of 6 of 95 windows of waves .* step 465: fill the data's gaps"
    ) as found:
        measure(Back(SEASON, None, 0), replace(data, values=values), "test", HORIZON, 1, SEASON, None)
    assert not isinstance(found.value, Diverged)  # no candidate may be dropped for it


def test_windows_need_their_look_back(data: Dataset) -> None:
    with pytest.raises(ValueError, match="fewer than 301 steps before it; take a look_back of at most 300"):
        measure(Back(301, None, 0), data, "validation", HORIZON, 1, 301, None)


def test_a_model_with_longer_lags_than_the_look_back_is_noticed(data: Dataset) -> None:
    model = GlobalNaiveSeasonal(input_chunk_length=SEASON + 2, output_chunk_length=1).fit(data.series("train"))
    with pytest.raises(ValueError, match=r"look.?back|historical|start"):
        measures.forecast(model, data, data.starts("test", 1, 1), 1, SEASON, None)
