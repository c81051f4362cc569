"""What is chosen on validation data, and what is measured on the test part."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_fakes import BUDGET, HORIZON, SEASON, Back, Fake, waves

from benchmarks import models
from benchmarks.data import datasets
from benchmarks.data.datasets import Dataset
from benchmarks.errors import Diverged
from benchmarks.run import jobs
from benchmarks.run import store as results
from benchmarks.run.experiments import PROTOCOL, Budget, Experiment
from benchmarks.run.measures import LEVELS, measure

SPREADS = [5.0, 0.4, 0.1]  # the forecast's errors deviate by 0.42: two noises of 0.3


@pytest.fixture(autouse=True)
def parts_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that were measured, in order. The fakes are registered."""
    monkeypatch.setattr(datasets, "load", waves)
    monkeypatch.setattr(jobs, "quiet", lambda: None)
    monkeypatch.setattr(jobs, "FOLLOWED", ("look_back",))  # fakes have no patch size
    monkeypatch.setitem(models.MODELS, "fake", "benchmark_fakes:Fake")
    read: list[str] = []

    def watched(model: Any, dataset: Dataset, part: str, *rest: Any) -> Any:
        read.append(part)
        return measure(model, dataset, part, *rest)

    monkeypatch.setattr(jobs, "measure", watched)
    return read


def experiment(tmp_path: Path, family: str = "lsf", **changes: Any) -> Experiment:
    options = {"log": str(tmp_path / "log"), **changes.pop("options", {})}
    return Experiment(family, "waves", HORIZON, "fake", options=options, budget=BUDGET, **changes)


def choice_for(asked: Experiment, **settings: Any) -> dict[str, Any]:
    """The choice of these settings for an experiment, from the data and weights at hand."""
    basis = jobs.Basis.of(asked, None)
    return {"key": asked.choice_key, "chosen": settings, "followed": None, **basis.same}


def notes(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def test_the_best_on_validation_data_is_chosen(tmp_path: Path, parts_read: list[str]) -> None:
    asked = experiment(tmp_path, seed=3, test_stride=2)
    choice = jobs.choose(asked, None, None, tmp_path)
    assert set(parts_read) == {"validation"}
    assert choice["chosen"] == {"look_back": SEASON, "spread": 0.5}
    assert [row["settings"]["look_back"] for row in choice["rows"]] == [SEASON - 1, SEASON]
    for row in choice["rows"]:
        look_back = row["settings"]["look_back"]
        expected = measure(Back(look_back, None, 0.5), waves(), "validation", HORIZON, 5, look_back, None)
        assert row["validation"] == expected.metrics  # 95 windows, at most 20: every fifth
        assert row["seconds"] >= 0
        assert row["reason"] is None
    assert choice["rows"][0]["validation"]["mse"] > choice["rows"][1]["validation"]["mse"]
    assert (choice["kind"], choice["key"], choice["decided_by"]) == ("choice", asked.choice_key, "mse")
    assert choice["experiment"] == asked.to_dict()
    assert (choice["data_hash"], choice["protocol"], choice["followed"]) == (waves().hash, PROTOCOL, None)
    assert choice["defaults"] == jobs.forecaster_of(asked).defaults_hash()
    assert choice["dropped"] == [{"look_back": 999, "reason": "too long"}]
    assert json.loads(json.dumps(choice)) == choice
    # the choice is shared by the seeds, so it doesn't depend on the one that asked first
    assert notes(tmp_path) == ["build 11 0.5 seed 0", "fit", "build 12 0.5 seed 0", "fit"]


@pytest.mark.parametrize(("family", "spread"), [("lsf", 5.0), ("pf", 0.4)])
def test_probabilistic_forecasts_are_chosen_by_their_crps(tmp_path: Path, family: str, spread: float) -> None:
    """The spread leaves the median as it is: among equals by MSE the first is taken."""
    choice = jobs.choose(
        experiment(tmp_path, family, options={"look_back": SEASON, "spread": SPREADS}), None, None, tmp_path
    )
    assert choice["chosen"]["spread"] == spread
    assert len(choice["rows"]) == 3
    assert len({round(row["validation"]["mse"], 9) for row in choice["rows"]}) == 1


def test_a_choice_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third candidate is what stops it; the two before are not fitted again."""
    asked = experiment(tmp_path, options={"look_back": [10, 11, 12]})
    fit = Fake.fit

    def stopped(self: Fake, model: Any, dataset: Dataset, settings: Any) -> None:
        if settings["look_back"] == 12:
            raise KeyboardInterrupt
        fit(self, model, dataset, settings)

    with monkeypatch.context() as patch:
        patch.setattr(Fake, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            jobs.choose(asked, None, None, tmp_path)
    kept = [entry for _, entry in results.entries(tmp_path, "candidate")]
    assert sorted(entry["settings"]["look_back"] for entry in kept) == [10, 11]
    done = len(notes(tmp_path))
    choice = jobs.choose(asked, None, None, tmp_path)
    assert notes(tmp_path)[done:] == ["build 12 0.5 seed 0", "fit"]
    assert [row["settings"]["look_back"] for row in choice["rows"]] == [10, 11, 12]
    assert [row in [{name: entry[name] for name in jobs.ROW} for entry in kept] for row in choice["rows"]] == [
        *(True, True, False)
    ]
    assert choice["chosen"]["look_back"] == 12


@pytest.mark.parametrize("changed", ["weights", "protocol", "defaults", "data"])
def test_candidates_of_another_state_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    (tmp_path / "weights").write_text("abc")
    (tmp_path / "shift").write_text("0")
    asked = experiment(tmp_path, options={"weights": str(tmp_path / "weights")})
    jobs.choose(asked, tmp_path, None, tmp_path)
    once = len(notes(tmp_path))
    jobs.choose(asked, tmp_path, None, tmp_path)
    assert len(notes(tmp_path)) == once
    if changed == "protocol":
        monkeypatch.setattr(jobs, "PROTOCOL", PROTOCOL + 1)
    elif changed == "defaults":
        monkeypatch.setattr(Fake, "defaults", {**Fake.defaults, "new": 1})
    else:
        (tmp_path / {"weights": "weights", "data": "shift"}[changed]).write_text("1")
    jobs.choose(asked, tmp_path, None, tmp_path)
    assert len(notes(tmp_path)) == 2 * once


def test_what_diverges_is_worse_than_all_others(tmp_path: Path) -> None:
    """The best look-back is the one that diverges; its row says so."""
    asked = experiment(tmp_path, options={"trouble": f"diverge {SEASON}"})
    choice = jobs.choose(asked, None, None, tmp_path)
    assert choice["chosen"]["look_back"] == SEASON - 1
    assert choice["rows"][1]["validation"] is None
    assert choice["rows"][1]["reason"] == "diverged: the fake has no finite loss"
    assert json.loads(json.dumps(choice, allow_nan=False)) == choice
    before = notes(tmp_path)
    assert jobs.choose(asked, None, None, tmp_path)["rows"] == choice["rows"]
    assert notes(tmp_path) == before
    with pytest.raises(Diverged, match=r"every candidate of .* diverged, the first: diverged: the fake"):
        jobs.choose(experiment(tmp_path, options={"trouble": "diverge"}), None, None, tmp_path)


def test_forecasts_that_are_not_finite_count_as_diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = Back.forecast
    monkeypatch.setattr(
        Back, "forecast", lambda self, *rest: forecast(self, *rest) * (np.inf if self.input_chunk_length == 12 else 1)
    )
    choice = jobs.choose(experiment(tmp_path), None, None, tmp_path)
    assert choice["chosen"]["look_back"] == SEASON - 1
    assert "forecasts of 19 of 19 windows" in choice["rows"][1]["reason"]


def test_other_errors_of_a_candidate_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="the fake fails"):
        jobs.choose(experiment(tmp_path, options={"trouble": "raise"}), None, None, tmp_path)


def test_a_follower_takes_over_and_chooses_the_rest(tmp_path: Path) -> None:
    """Its own data would choose a look-back of 12."""
    asked = experiment(tmp_path, "pf", options={"spread": SPREADS, "follows": [11]})
    leader = jobs.leader_of(asked)
    assert leader == experiment(tmp_path, "pf", options={"look_back": [11]})
    found = jobs.only_choice(leader, None)
    assert found is not None
    choice = jobs.choose(asked, None, found, tmp_path)
    assert choice["chosen"] == {"look_back": 11, "spread": 0.4}
    assert {row["settings"]["look_back"] for row in choice["rows"]} == {11}
    assert choice["followed"] == {"key": leader.choice_key, "settings": {"look_back": 11}}
    alone = jobs.only_choice(experiment(tmp_path, options={"follows": [11]}), None, found)
    assert alone is not None
    assert alone["chosen"] == {"look_back": 11, "spread": 0.5}
    with pytest.raises(ValueError, match=r"no setting for waves .* the settings \{'look_back': 7\} of its leader"):
        jobs.choose(asked, None, {**found, "chosen": {"look_back": 7}}, tmp_path)
    assert jobs.leader_of(experiment(tmp_path)) is None


def test_one_candidate_alone_is_not_fitted(tmp_path: Path, parts_read: list[str]) -> None:
    assert jobs.only_choice(experiment(tmp_path), None) is None
    asked = experiment(tmp_path, options={"look_back": SEASON})
    choice = jobs.only_choice(asked, None)
    assert choice is not None
    assert (choice["kind"], choice["key"], choice["data_hash"]) == ("choice", asked.choice_key, waves().hash)
    assert choice["chosen"] == {"look_back": SEASON, "spread": 0.5}
    (row,) = choice["rows"]
    assert (row["validation"], row["reason"]) == (None, "the only candidate")
    assert (notes(tmp_path), parts_read) == ([], [])


def test_no_candidate_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "candidates", lambda self, dataset, horizon: [])
    with pytest.raises(ValueError, match="fake has no setting for waves at horizon 6"):
        jobs.choose(experiment(tmp_path), None, None, tmp_path)
    with pytest.raises(ValueError, match="fake has no setting for waves at horizon 6"):
        jobs.only_choice(experiment(tmp_path), None)


@pytest.mark.parametrize(("family", "levels", "stride"), [("lsf", None, 2), ("pf", LEVELS, HORIZON)])
def test_a_result_is_the_test_part_s(
    tmp_path: Path, parts_read: list[str], family: str, levels: Any, stride: int
) -> None:
    (tmp_path / "weights").write_text("abc")
    options = {"weights": str(tmp_path / "weights")}
    asked = experiment(tmp_path, family, seed=3, test_stride=2 if family == "lsf" else 1, options=options)
    settings = {"look_back": SEASON - 1, "spread": 0.3}
    result = jobs.test(asked, choice_for(asked, **settings), None)
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
    assert result["seconds"].keys() == result["processor_seconds"].keys() == {"fit", "forecast"}
    assert min(result["processor_seconds"].values()) >= 0
    assert result["peak_memory_mb"] > 50
    assert len(result["provenance"]["commit"]) == 40
    assert {"peft", "pytorch-lightning", "pandas", "scipy", "torch"} < result["provenance"]["versions"].keys()
    assert (result["provenance"]["device"] == "cpu") == (not torch.cuda.is_available())
    assert (result["protocol"], result["resolved"]) == (PROTOCOL, {"look_back": SEASON - 1, "max_epochs": 1})
    assert result["defaults"] == jobs.forecaster_of(asked).defaults_hash()
    assert result["validation_windows"] == (19 if family == "lsf" else 16)
    assert json.loads(json.dumps(result)) == result
    assert notes(tmp_path) == ["build 11 0.3 seed 3", "fit"]


@pytest.mark.parametrize(
    ("family", "limit", "stride"), [("lsf", None, 1), ("lsf", 20, 5), ("pf", None, 6), ("pf", 16, 6), ("pf", 5, 30)]
)
def test_validation_windows_keep_the_budget(tmp_path: Path, family: str, limit: Any, stride: int) -> None:
    """95 windows at stride 1, 16 without overlap; every fourth of these would be at one phase of the season of 12."""
    asked = Experiment(family, "waves", HORIZON, "fake", budget=Budget(validation_windows=limit))
    assert jobs.validation_stride(jobs.Basis.of(asked, None)) == stride


# ---------------------------------------------------------------------------------------------- what must not be stored


@pytest.mark.parametrize("name", ["key", "data_hash", "weights", "protocol", "defaults"])
def test_a_choice_of_something_else_is_refused(tmp_path: Path, name: str) -> None:
    asked = experiment(tmp_path)
    choice = choice_for(asked, look_back=SEASON, spread=0.5)
    with pytest.raises(ValueError, match=rf"the choice for .* is of another {name}; choose again"):
        jobs.test(asked, {**choice, name: "other"}, None)
    assert notes(tmp_path) == []


def test_a_choice_that_follows_another_is_refused(tmp_path: Path) -> None:
    asked = experiment(tmp_path, options={"follows": [11]})
    leader = jobs.leader_of(asked)
    assert leader is not None
    choice = choice_for(asked, look_back=11, spread=0.5)
    right = {"key": leader.choice_key, "settings": {"look_back": 11}}
    for followed in (None, {**right, "key": "other"}, {**right, "settings": {"look_back": 12}}):
        with pytest.raises(ValueError, match=r"the choice for .* is of another followed; choose again"):
            jobs.test(asked, {**choice, "followed": followed}, None)
    assert notes(tmp_path) == []
    assert jobs.test(asked, {**choice, "followed": right}, None)["settings"]["look_back"] == 11
    with pytest.raises(ValueError, match="is of another followed"):
        jobs.test(experiment(tmp_path), {**choice_for(experiment(tmp_path), look_back=11), "followed": right}, None)


def test_processor_seconds_are_of_all_threads_and_not_of_waiting(tmp_path: Path) -> None:
    asked = experiment(tmp_path, options={"trouble": "sleep", "look_back": SEASON})
    result = jobs.test(asked, choice_for(asked, look_back=SEASON, spread=0.5), None)
    assert result["processor_seconds"]["fit"] < 0.3 < 0.5 <= result["seconds"]["fit"]


@pytest.mark.parametrize("changed", ["commit", "dirty", "weights"])
@pytest.mark.parametrize("job", ["choose", "test"])
def test_what_changes_meanwhile_spoils_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, job: str
) -> None:
    """The change comes during the fit: what was measured is neither of the old state nor of the new."""
    (tmp_path / "weights").write_text("abc")
    asked, now, fit = experiment(tmp_path, options={"weights": str(tmp_path / "weights")}), jobs.provenance(), Fake.fit

    def changing(self: Fake, *rest: Any) -> None:
        fit(self, *rest)
        if changed == "weights":
            (tmp_path / "weights").write_text("def")
        else:
            now[changed] = {"commit": "f" * 40, "dirty": not now["dirty"]}[changed]

    monkeypatch.setattr(jobs, "provenance", lambda: dict(now))
    monkeypatch.setattr(jobs, "same_code", lambda commit, other: commit == other)
    monkeypatch.setattr(Fake, "fit", changing)
    choice = choice_for(asked, look_back=SEASON, spread=0.5)
    with pytest.raises(RuntimeError, match=f"{changed} changed while .* so nothing is stored"):
        jobs.choose(asked, None, None, tmp_path) if job == "choose" else jobs.test(asked, choice, None)
    assert results.entries(tmp_path, "candidate") == []


def test_a_commit_of_other_things_than_code_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result names the commit of the beginning."""
    asked, commits = experiment(tmp_path, options={"look_back": SEASON}), iter(["a" * 40, "b" * 40])
    choice, compared = choice_for(asked, look_back=SEASON, spread=0.5), list[tuple[str, str]]()
    monkeypatch.setattr(jobs, "provenance", lambda: {"commit": next(commits), "dirty": False})
    monkeypatch.setattr(jobs, "same_code", lambda *pair: compared.append(pair) or True)
    assert jobs.test(asked, choice, None)["provenance"]["commit"] == "a" * 40
    assert compared == [("a" * 40, "b" * 40)]


def test_a_part_without_room_for_the_horizon_is_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"train": (0, 300), "validation": (300, 400), "test": (400, 400 + HORIZON - 1)}
    monkeypatch.setattr(datasets, "load", lambda *asked: replace(waves(*asked), bounds=bounds))
    with pytest.raises(ValueError, match="horizon=6 does not fit into the test part of waves; take 1 to 5 steps"):
        jobs.choose(experiment(tmp_path), None, None, tmp_path)
    assert notes(tmp_path) == []
