"""Errors against slow loops and figures computed by hand; backtests window by window; choices and results."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmark_fakes import BUDGET, HORIZON, SEASON, Back, Fake, experiment, measured, notes, waves
from scipy.stats import norm

from benchmarks.data import Dataset
from benchmarks.errors import Diverged
from benchmarks.run import measures, store
from benchmarks.run.experiments import Experiment
from benchmarks.run.measures import LEVELS, measure

Patch = pytest.MonkeyPatch

SPREADS = [5.0, 0.4, 0.1]  # the forecast's errors deviate by 0.42: two noises of 0.3


@pytest.fixture
def data() -> Dataset:
    return waves(family="pf")


# ---- errors


def metrics(*scales: float, sums: dict[str, Any], levels: Any = LEVELS) -> dict[str, float]:
    """For variables of these seasonal naive errors: the steps of the training part go up by them."""
    names, values = tuple("abc")[: len(scales)], np.arange(4)[:, None] * np.array(scales)
    data = replace(waves(), values=values, columns=names, bounds={"train": (0, 4)}, season=1)
    return measures.metrics_of(sums, data, levels)[0]


def slow_errors(targets: np.ndarray, quantiles: np.ndarray, scales: Any) -> dict[str, float]:
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


def test_errors_against_a_loop() -> None:
    """A third of the targets is outside of most intervals; in two chunks."""
    rng = np.random.default_rng(1)
    targets = 2 * rng.standard_normal((5, 4, 3)) + [0, 5, -1]
    quantiles = np.sort(rng.standard_normal((5, 4, 3, len(LEVELS))), axis=-1) + np.array([0, 5, -1])[:, None]
    expected = slow_errors(targets, quantiles, (0.5, 3.0, 1.0))
    assert 0.2 < expected["coverage"] < 0.8
    for levels, forecasts in ((LEVELS, quantiles), (None, quantiles[..., [LEVELS.index(0.5)]])):
        first, second = (measures.errors_of(targets[part], forecasts[part], levels) for part in (slice(2), slice(2, 5)))
        found = metrics(0.5, 3.0, 1.0, sums={name: first[name] + second[name] for name in first}, levels=levels)
        assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-9)
        assert set(found) == (set(expected) if levels else {"mse", "mae"})


def test_a_variable_without_scale_is_left_out_of_the_msis_alone(data: Dataset) -> None:
    values = data.values.copy()
    values[:300, 1] = 7
    flat = replace(data, values=values)
    both, one = (
        measure(Fake({}, BUDGET), Back(SEASON, 0.5), each, "test", HORIZON, LEVELS)
        for each in (flat, replace(flat, values=values[:, :1], columns=("first",)))
    )
    assert (both["without_msis"], one["without_msis"]) == (["second"], [])
    assert both["metrics"]["msis"] == pytest.approx(one["metrics"]["msis"])
    assert both["metrics"]["mae"] != pytest.approx(one["metrics"]["mae"])
    with pytest.raises(ValueError, match="no variable changes"):
        metrics(0.0, 0.0, sums={"count": 1, "mse": 1, "mae": 1})


# ---- backtests


@pytest.mark.parametrize(("part", "stride"), [("validation", 7), ("test", 1), ("test", HORIZON)])
def test_a_backtest_is_its_windows_one_by_one(data: Dataset, part: str, stride: int) -> None:
    """Targets and contexts are cut out by hand; the model is asked for nothing but the last season."""
    begin, end = data.bounds[part]
    starts = [start for start in range(begin, end, stride) if start + HORIZON <= end]
    targets = np.stack([data.values[start : start + HORIZON] for start in starts])
    points = np.stack([data.values[start - SEASON : start - SEASON + HORIZON] for start in starts])
    scales = [
        np.mean([abs(data.values[t, v] - data.values[t - SEASON, v]) for t in range(SEASON, 300)]) for v in (0, 1)
    ]
    found, point = measured(SEASON, part, stride, LEVELS), measured(SEASON, part, stride)
    assert found["windows"] == len(starts)
    expected = slow_errors(targets, points[..., None] + 0.5 * norm.ppf(LEVELS), scales)
    assert found["metrics"] == pytest.approx(expected, rel=1e-5)
    assert point["metrics"] == pytest.approx({name: found["metrics"][name] for name in ("mse", "mae")})


def test_chunks_and_crossing_quantiles_change_nothing(monkeypatch: Patch) -> None:
    """Chunks are bounded by windows and by numbers, samples behind a quantile included; quantiles are sorted."""
    asked, forecast = list[int](), Fake.forecast

    def watched(self: Any, model: Any, data: Any, starts: range, *rest: Any) -> np.ndarray:
        asked.append(len(starts))
        return forecast(self, model, data, starts, *rest)[..., ::-1]

    whole = measured(SEASON, "test", 1, LEVELS)
    monkeypatch.setattr(Fake, "forecast", watched)
    monkeypatch.setattr(measures, "CHUNK_VALUES", 30 * HORIZON * 2 * 100)
    monkeypatch.setattr(Fake, "held", lambda self, levels: 100)
    pieces = measured(SEASON, "test", 1, LEVELS)
    monkeypatch.setattr(measures, "CHUNK_WINDOWS", 20)
    measured(SEASON, "test", 1, LEVELS)
    assert asked == [*(30, 30, 30, 5), *(20, 20, 20, 20, 15)]
    assert pieces["metrics"] == pytest.approx(whole["metrics"], rel=1e-9)
    bad = np.where(np.arange(95) == 2, np.nan, 1)[:, None, None, None]
    monkeypatch.setattr(measures, "CHUNK_WINDOWS", 95)
    monkeypatch.setattr(Fake, "held", lambda self, levels: 1)
    monkeypatch.setattr(Fake, "forecast", lambda *asked: forecast(*asked) * bad)
    with pytest.raises(Diverged, match="402"):
        measured(SEASON, "test", 1, LEVELS)


# ---- choices


def choose(folder: Path, asked: Experiment, leader: Any = None) -> dict[str, Any]:
    return measures.choose(asked, folder, leader, folder)


@pytest.mark.usefixtures("fakes")
class TestJobs:
    def test_the_best_on_validation_data_is_chosen(self, tmp_path: Path) -> None:
        asked = experiment(tmp_path, seed=3, test_stride=2)
        choice = choose(tmp_path, asked)
        assert choice["chosen"] == {"look_back": SEASON, "spread": 0.5}
        assert [row["settings"]["look_back"] for row in choice["rows"]] == [SEASON - 1, SEASON]
        for row in choice["rows"]:  # 95 windows, at most 20: every fifth
            assert row["validation"] == measured(row["settings"]["look_back"], "validation", 5)["metrics"]
        assert (choice["kind"], choice["key"], choice["decided_by"]) == ("choice", asked.choice_key, "mse")
        assert (choice["experiment"], choice["data_hash"]) == (asked.to_dict(), waves().hash)
        # the choice is shared by the seeds, so it doesn't depend on the one that asked first
        assert notes(tmp_path) == ["build 11 0.5 seed 0", "fit", "build 12 0.5 seed 0", "fit"]

    @pytest.mark.parametrize(("family", "spread"), [("lsf", 5.0), ("pf", 0.4)])
    def test_probabilistic_forecasts_are_chosen_by_their_crps(self, tmp_path: Path, family: str, spread: float) -> None:
        """The spread leaves the median as it is: among equals by MSE the first is taken."""
        asked = experiment(tmp_path, family, options={"look_back": SEASON, "spread": SPREADS})
        assert choose(tmp_path, asked)["chosen"]["spread"] == spread

    def test_a_choice_that_was_stopped_goes_on(self, tmp_path: Path, monkeypatch: Patch) -> None:
        """The third candidate is what stops it; the two before are not fitted again."""
        asked = experiment(tmp_path, options={"look_back": [10, 11, 12]})
        fit = Fake.fit

        def stopped(self: Fake, model: Any, data: Dataset, settings: Any) -> None:
            if settings["look_back"] == 12:
                raise KeyboardInterrupt
            fit(self, model, data, settings)

        with monkeypatch.context() as patch:
            patch.setattr(Fake, "fit", stopped)
            with pytest.raises(KeyboardInterrupt):
                choose(tmp_path, asked)
        assert len(store.entries(tmp_path, "candidate")) == 2
        done = len(notes(tmp_path))
        choice = choose(tmp_path, asked)
        assert notes(tmp_path)[done:] == ["build 12 0.5 seed 0", "fit"]
        assert [row["settings"]["look_back"] for row in choice["rows"]] == [10, 11, 12]
        assert choice["chosen"]["look_back"] == 12

    def test_what_diverges_is_worse_than_all_others(self, tmp_path: Path, monkeypatch: Patch) -> None:
        """The best look-back is the one that diverges, in its fit or in its forecasts; its row says so."""
        choice = choose(tmp_path, experiment(tmp_path, options={"trouble": f"diverge {SEASON}"}))
        assert choice["chosen"]["look_back"] == SEASON - 1
        assert choice["rows"][1]["validation"] is None
        assert choice["rows"][1]["reason"] == "diverged: the fake has no finite loss"
        for trouble, error in (("diverge", Diverged), ("raise", RuntimeError)):
            with pytest.raises(error, match="the fake"):
                choose(tmp_path, experiment(tmp_path, options={"trouble": trouble}))

    def test_a_follower_takes_over_and_chooses_the_rest(self, tmp_path: Path) -> None:
        """Its own data would choose a look-back of 12. Of one candidate alone nothing is fitted."""
        asked = experiment(tmp_path, "pf", options={"spread": SPREADS, "follows": [11]})
        leader = measures.leader_of(asked)
        assert leader == experiment(tmp_path, "pf", options={"look_back": [11]})
        led_by = choose(tmp_path, leader)
        assert [(row["validation"], row["reason"]) for row in led_by["rows"]] == [(None, "the only candidate")]
        assert notes(tmp_path) == []
        choice = choose(tmp_path, asked, led_by)
        assert choice["chosen"] == {"look_back": 11, "spread": 0.4}
        assert {row["settings"]["look_back"] for row in choice["rows"]} == {11}
        assert choice["followed"] == {"key": leader.choice_key, "settings": {"look_back": 11}}
        with pytest.raises(ValueError, match="no setting"):
            choose(tmp_path, asked, {**led_by, "chosen": {"look_back": 7}})

    @pytest.mark.parametrize(("family", "levels", "stride"), [("lsf", None, 2), ("pf", LEVELS, HORIZON)])
    def test_a_result_is_the_test_part_s(self, tmp_path: Path, family: str, levels: Any, stride: int) -> None:
        (tmp_path / "weights").write_text("abc")
        options = {"weights": str(tmp_path / "weights")}
        asked = experiment(tmp_path, family, seed=3, test_stride=2 if family == "lsf" else 1, options=options)
        settings = {"look_back": SEASON - 1, "spread": 0.3}
        result = measures.test(asked, {"chosen": settings}, None)
        expected = measured(SEASON - 1, "test", stride, levels, 0.3)
        assert (result["metrics"], result["windows"]) == (expected["metrics"], expected["windows"])
        assert set(result["metrics"]) == {"mse", "mae"} | ({"crps", "msis", "coverage"} if family == "pf" else set())
        assert (result["key"], result["choice_key"], result["weights"]) == (asked.key, asked.choice_key, "abc")
        assert (result["experiment"], result["settings"]) == (asked.to_dict(), settings)
        assert result["validation_windows"] == (19 if family == "lsf" else 16)
        assert set(store.NEEDED["run"]) <= {*result, "suite", "command"}
        assert notes(tmp_path) == ["build 11 0.3 seed 3", "fit"]
