"""What is chosen on validation data, and what is measured on the test part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_fakes import BUDGET, HORIZON, SEASON, Back, Fake, waves

from benchmarks import datasets, jobs, models
from benchmarks.datasets import Dataset
from benchmarks.experiments import Budget, Experiment
from benchmarks.measures import LEVELS, measure

SPREADS = [5.0, 0.4, 0.1]  # the forecast's errors deviate by 0.42: two noises of 0.3


@pytest.fixture(autouse=True)
def parts_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts whose windows were asked for, in order. The fakes are registered."""
    monkeypatch.setattr(datasets, "load", waves)
    monkeypatch.setattr(jobs, "quiet", lambda: None)
    monkeypatch.setitem(models.MODELS, "fake", "benchmark_fakes:Fake")
    read, starts = [], Dataset.starts
    monkeypatch.setattr(Dataset, "starts", lambda self, part, *rest: read.append(part) or starts(self, part, *rest))
    return read


def experiment(tmp_path: Path, family: str = "lsf", **changes: Any) -> Experiment:
    options = {"log": str(tmp_path / "log"), **changes.pop("options", {})}
    return Experiment(family, "waves", HORIZON, "fake", options=options, budget=BUDGET, **changes)


def notes(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def test_the_best_on_validation_data_is_chosen(tmp_path: Path, parts_read: list[str]) -> None:
    asked = experiment(tmp_path, seed=3, test_stride=2)
    choice = jobs.choose(asked, None)
    assert set(parts_read) == {"validation"}
    assert choice["chosen"] == {"look_back": SEASON, "spread": 0.5}
    assert [row["settings"]["look_back"] for row in choice["rows"]] == [SEASON - 1, SEASON]
    for row in choice["rows"]:
        look_back = row["settings"]["look_back"]
        expected = measure(Back(look_back, None, 0.5), waves(), "validation", HORIZON, 5, look_back, None)
        assert row["validation"] == expected.metrics  # 95 windows, at most 20: every fifth
        assert row["seconds"] >= 0
    assert choice["rows"][0]["validation"]["mse"] > choice["rows"][1]["validation"]["mse"]
    assert (choice["kind"], choice["key"], choice["decided_by"]) == ("choice", asked.choice_key, "mse")
    assert choice["experiment"] == asked.to_dict()
    assert choice["data_hash"] == waves().hash
    assert json.loads(json.dumps(choice)) == choice
    # the choice is shared by the seeds, so it doesn't depend on the one that asked first
    assert notes(tmp_path) == ["build 11 0.5 seed 0", "fit", "build 12 0.5 seed 0", "fit"]


@pytest.mark.parametrize(("family", "spread"), [("lsf", 5.0), ("pf", 0.4)])
def test_probabilistic_forecasts_are_chosen_by_their_crps(tmp_path: Path, family: str, spread: float) -> None:
    """The spread leaves the median as it is: among equals by MSE the first is taken."""
    choice = jobs.choose(experiment(tmp_path, family, options={"look_back": SEASON, "spread": SPREADS}), None)
    assert choice["chosen"]["spread"] == spread
    assert len(choice["rows"]) == 3
    assert len({round(row["validation"]["mse"], 9) for row in choice["rows"]}) == 1


def test_one_candidate_alone_is_not_fitted(tmp_path: Path, parts_read: list[str]) -> None:
    assert jobs.only_choice(experiment(tmp_path), None) is None
    asked = experiment(tmp_path, options={"look_back": SEASON})
    choice = jobs.only_choice(asked, None)
    assert choice is not None
    assert (choice["kind"], choice["key"], choice["data_hash"]) == ("choice", asked.choice_key, waves().hash)
    assert choice["chosen"] == {"look_back": SEASON, "spread": 0.5}
    assert [row["validation"] for row in choice["rows"]] == [None]
    assert (notes(tmp_path), parts_read) == ([], [])


def test_no_candidate_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "candidates", lambda self, dataset, horizon: [])
    for choose in (jobs.choose, jobs.only_choice):
        with pytest.raises(ValueError, match="fake has no setting for waves at horizon 6"):
            choose(experiment(tmp_path), None)


@pytest.mark.parametrize(("family", "levels", "stride"), [("lsf", None, 2), ("pf", LEVELS, HORIZON)])
def test_a_result_is_the_test_part_s(
    tmp_path: Path, parts_read: list[str], family: str, levels: Any, stride: int
) -> None:
    (tmp_path / "weights").write_text("abc")
    options = {"weights": str(tmp_path / "weights")}
    asked = experiment(tmp_path, family, seed=3, test_stride=2 if family == "lsf" else 1, options=options)
    settings = {"look_back": SEASON - 1, "spread": 0.3}
    result = jobs.test(asked, settings, None)
    assert set(parts_read) == {"test"}
    expected = measure(Back(SEASON - 1, levels, 0.3), waves(), "test", HORIZON, stride, SEASON - 1, levels)
    assert result["metrics"] == expected.metrics
    assert set(result["metrics"]) == {"mse", "mae"} | ({"crps", "msis", "coverage"} if family == "pf" else set())
    assert (result["windows"], result["examples"]) == (expected.windows, expected.examples)
    named = {name: result[name] for name in ("kind", "key", "choice_key", "experiment", "settings", "weights")}
    assert named == {
        "kind": "run",
        "key": asked.key,
        "choice_key": asked.choice_key,
        "experiment": asked.to_dict(),
        "settings": settings,
        "weights": "abc",
    }
    assert (result["trained_parameters"], result["parameters"]) == (1, 2)
    assert (result["fit_report"], result["scale_weights"]) == (None, None)
    assert result["data_hash"] == waves().hash
    assert result["seconds"].keys() == {"fit", "forecast"}
    assert result["peak_memory_mb"] > 50
    assert len(result["provenance"]["commit"]) == 40
    assert json.loads(json.dumps(result)) == result
    assert notes(tmp_path) == ["build 11 0.3 seed 3", "fit"]


@pytest.mark.parametrize(
    ("family", "limit", "stride"), [("lsf", None, 1), ("lsf", 20, 5), ("pf", None, 6), ("pf", 16, 6), ("pf", 5, 24)]
)
def test_validation_windows_keep_the_budget(tmp_path: Path, family: str, limit: Any, stride: int) -> None:
    """95 windows at stride 1, 16 without overlap."""
    asked = Experiment(family, "waves", HORIZON, "fake", budget=Budget(validation_windows=limit))
    assert jobs.validation_stride(asked, waves()) == stride
