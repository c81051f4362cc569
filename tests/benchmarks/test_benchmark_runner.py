"""The command that runs a suite: what is skipped, what is shared, what is left when something goes wrong."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import benchmark_fakes
import pytest
from benchmark_fakes import HORIZON, SEASON, Back, waves
from runner_fakes import Run, choices, experiment, notes, runs, stored

from benchmarks.data import datasets
from benchmarks.errors import WeightsMissing
from benchmarks.run import jobs, measures, provenance, runner, suites
from benchmarks.run import store as results
from benchmarks.run.experiments import Experiment
from benchmarks.run.processes import ProcessFailed

pytestmark = pytest.mark.usefixtures("fakes")


# ------------------------------------------------------------------------------------------------- what is done again


def test_a_result_is_fitted_with_what_was_chosen_and_then_skipped(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [experiment(tmp_path), experiment(tmp_path, "pf")]
    assert run(both) == 0
    for asked, result in zip(both, runs(tmp_path), strict=True):
        levels = measures.LEVELS if asked.family == "pf" else None
        assert result["settings"] == {"look_back": SEASON, "spread": 0.5}
        stride = asked.test_stride
        expected = measures.measure(Back(SEASON, levels, 0.5), waves(), "test", HORIZON, stride, SEASON, levels)
        assert result["metrics"] == expected.metrics
        assert result["key"] == asked.key
    assert {choice["key"] for choice in choices(tmp_path)} == {e.choice_key for e in both}
    before, done = stored(tmp_path), notes(tmp_path)
    assert len(done) == 2 * (2 + 1) * 2  # build and fit: two candidates and the chosen, twice
    capsys.readouterr()
    assert run(both) == 0
    printed = capsys.readouterr()
    assert "2 experiments, 2 of them done before" in printed.out
    assert printed.err == ""  # no bar of nothing
    assert (stored(tmp_path), notes(tmp_path)) == (before, done)


def test_seeds_and_strides_share_a_choice(tmp_path: Path, run: Run) -> None:
    assert run([experiment(tmp_path, seed=seed) for seed in (0, 1)]) == 0
    assert run([experiment(tmp_path, seed=2, test_stride=3)]) == 0
    builds = [note for note in notes(tmp_path) if note.startswith("build")]
    tried = ["build 11 0.5 seed 0", "build 12 0.5 seed 0"]
    assert builds == [*tried, "build 12 0.5 seed 0", "build 12 0.5 seed 1", "build 12 0.5 seed 2"]
    assert len(choices(tmp_path)) == 1
    assert len({result["choice_key"] for result in runs(tmp_path)}) == 1
    assert run([experiment(tmp_path, options={"spread": 0.1})]) == 0  # another model
    assert len(choices(tmp_path)) == 2


@pytest.mark.parametrize("changed", ["protocol", "defaults"])
def test_results_of_another_protocol_or_other_defaults_are_measured_anew(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    asked = [experiment(tmp_path)]
    assert run(asked) == 0
    before, done = stored(tmp_path), len(notes(tmp_path))
    with monkeypatch.context() as patch:
        if changed == "protocol":
            patch.setattr(jobs, "PROTOCOL", 99)
        else:
            patch.setattr(benchmark_fakes.Fake, "defaults", {**benchmark_fakes.Fake.defaults, "new": 1})
        assert run(asked) == 0
        assert len(notes(tmp_path)) == 2 * done  # the choice was made again, too
    after = stored(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before)
    assert run(asked) == 0
    assert stored(tmp_path) == after


def test_weights_that_change_during_a_run_are_noticed(tmp_path: Path, run: Run) -> None:
    """The first experiment's fit changes them: it stores nothing, and the second is chosen anew."""
    weights = tmp_path / "weights"
    weights.write_text("1")
    options = {"weights": str(weights), "look_back": SEASON}
    assert run([experiment(tmp_path, options=options)]) == 0
    fit = benchmark_fakes.Fake.fit

    def changing(self: Any, *rest: Any) -> None:
        fit(self, *rest)
        weights.write_text("2")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_fakes.Fake, "fit", changing)
        assert run([experiment(tmp_path, seed=seed, options=options) for seed in (1, 2)]) == 1
    found = {result["experiment"]["seed"]: result["weights"] for result in runs(tmp_path)}
    assert found == {0: "1", 2: "2"}
    assert sorted(choice["weights"] for choice in choices(tmp_path)) == ["1", "2"]


def test_the_same_weights_at_another_place_are_the_same_result(tmp_path: Path, run: Run) -> None:
    for name, text in (("here", "a"), ("there", "a"), ("other", "b")):
        (tmp_path / name).write_text(text)
    places = [experiment(tmp_path, options={"backbone": str(tmp_path / name)}) for name in ("here", "there", "other")]
    assert len({place.key for place in places}) == 1
    assert run(places[:1]) == 0
    before = stored(tmp_path)
    assert run(places[1:2]) == 0
    assert stored(tmp_path) == before
    assert run(places) == 0
    assert sorted(result["weights"] for result in runs(tmp_path)) == ["a", "b"]


def test_a_follower_s_leader_chooses_first_and_once(tmp_path: Path, run: Run) -> None:
    options = {"follows": [10, SEASON], "look_back": [10, 11, SEASON]}
    asked = [experiment(tmp_path, options={**options, "spread": spread}) for spread in (1, 2)]
    assert run(asked) == 0
    tried = [note for note in notes(tmp_path) if note.startswith("build")]
    assert tried == [*("build 10 0.5 seed 0", "build 12 0.5 seed 0"), *("build 12 1 seed 0", "build 12 2 seed 0")]
    assert [result["settings"]["look_back"] for result in runs(tmp_path)] == [SEASON, SEASON]
    assert len(choices(tmp_path)) == 3
    leader = jobs.leader_of(asked[0])
    assert leader is not None
    followed = {"key": leader.choice_key, "settings": {"look_back": SEASON}}
    assert [choice["followed"] for choice in choices(tmp_path) if choice["key"] != leader.choice_key] == [followed] * 2


@pytest.mark.parametrize("changed", ["shift", "weights"])
def test_other_data_or_weights_are_measured_anew(tmp_path: Path, run: Run, changed: str) -> None:
    for name in ("shift", "weights"):
        (tmp_path / name).write_text("1")
    asked = [experiment(tmp_path, options={"weights": str(tmp_path / "weights")})]
    assert run(asked) == 0
    before = stored(tmp_path)
    (tmp_path / changed).write_text("2")
    assert run(asked) == 0
    after = stored(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before) == 4
    assert len(results.entries(tmp_path / "results", "candidate")) == 4
    assert run(asked) == 0
    (tmp_path / changed).write_text("1")
    assert run(asked) == 0
    assert stored(tmp_path) == after


def test_a_dry_run_runs_nothing(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    both = [experiment(tmp_path, seed=seed) for seed in (0, 1)]
    assert run(both[:1]) == 0
    before = stored(tmp_path)
    capsys.readouterr()
    assert run(both, "--dry-run") == 0
    assert stored(tmp_path) == before
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"to run  {both[1].key[:10]}  {both[1]}", "2 experiments, 1 of them to run"]


def test_a_quick_look_says_so_and_leaves_pf_alone(tmp_path: Path, run: Run) -> None:
    both = [experiment(tmp_path), experiment(tmp_path, "pf")]
    assert run(both) == 0
    assert run(both, "--stride", "9") == 0
    strides = [result["experiment"]["test_stride"] for result in runs(tmp_path)]
    assert sorted(strides) == [1, HORIZON, 9]
    windows = {result["experiment"]["test_stride"]: result["windows"] for result in runs(tmp_path)}
    assert windows == {1: 95, HORIZON: 16, 9: 11}


# --------------------------------------------------------------------------------------------------- what goes wrong


def test_the_others_run_where_one_fails(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    failing = experiment(tmp_path, options={"trouble": "raise"})
    three = [experiment(tmp_path), failing, experiment(tmp_path, seed=1)]
    assert run(three) == 1
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1]
    errors = capsys.readouterr().err
    assert f"FAILED {failing}\nRuntimeError: the fake fails" in errors
    assert errors.rstrip().endswith("1 experiments failed, see above; the same command tries them again")
    done = len(notes(tmp_path))
    assert run(three) == 1
    assert notes(tmp_path)[done:] == ["build 11 0.5 seed 0", "fit"]
    assert len(runs(tmp_path)) == 2


def test_a_process_s_own_account_is_reported(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dead(*_: Any) -> None:
        raise ProcessFailed("the process was ended by signal 9")

    monkeypatch.setattr(runner, "isolated", dead)
    assert run([experiment(tmp_path)]) == 1
    assert f"FAILED {experiment(tmp_path)}\nthe process was ended by signal 9\n" in capsys.readouterr().err


def test_data_that_are_gone_are_a_failure_of_their_experiments(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result is there, but whether it is of the same data can't be told."""
    both = [experiment(tmp_path), experiment(tmp_path, dataset="others")]
    assert run(both) == 0

    def gone(name: str, *rest: Any) -> Any:
        if name == "others":
            raise FileNotFoundError("others.csv is not there")
        return waves(name, *rest)

    monkeypatch.setattr(datasets, "load", gone)
    for words in ([], ["--dry-run"]):
        assert run([*both, experiment(tmp_path, seed=1)], *words) == 1
        assert "FileNotFoundError: others.csv is not there" in capsys.readouterr().err
    assert len(runs(tmp_path)) == 3


def without_weights(self: Any) -> str | None:
    """In place of the fake's own: those of one spread can't be had."""
    if self.options["spread"] == 9:
        raise WeightsMissing("no hub here; give local_dir")
    return None


def test_what_lacks_its_weights_is_skipped_and_no_failure(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = experiment(tmp_path, options={"spread": 9})
    asked = [lacking, experiment(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(benchmark_fakes.Fake, "weights", without_weights)
        assert run(asked) == 0
        printed = capsys.readouterr()
        assert f"{lacking}  skipped: no hub here; give local_dir\n" in printed.err
        assert "failed" not in printed.err
        assert [result["experiment"]["options"].get("spread") for result in runs(tmp_path)] == [None]
        assert run([*asked, experiment(tmp_path, options={"trouble": "raise"})]) == 1
        errors = capsys.readouterr().err
        assert "skipped: no hub here" in errors
        assert "\n1 experiments failed" in errors
    assert run(asked) == 0
    assert "skipped" not in capsys.readouterr().err
    assert len(runs(tmp_path)) == 2
    monkeypatch.setattr(benchmark_fakes.Fake, "weights", without_weights)
    for words in ([], ["--dry-run"]):  # whether its result is of the same weights can't be told
        assert run(asked, *words) == 0
        assert "skipped: no hub here" in capsys.readouterr().err


def test_without_a_git_checkout_nothing_is_begun(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert run([experiment(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("python -m benchmarks run: results need a git checkout")
    assert message.count("\n") == 1
    assert (stored(tmp_path), notes(tmp_path)) == ({}, [])
    assert run([experiment(tmp_path)], "--dry-run") == 0


def test_a_horizon_that_does_not_fit_is_told_before_any_fit(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [experiment(tmp_path)]
    assert run(asked, "--datasets", "my.toml", "--horizons", "101") == 1
    assert (
        "horizon=101 does not fit into the validation part of my.toml; take 1 to 100 steps" in capsys.readouterr().err
    )
    assert notes(tmp_path) == []


def test_an_interrupt_stops_and_keeps_what_is_finished(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    troubles = ("raise", None, "interrupt", None)
    asked = [experiment(tmp_path, seed=seed, options={"trouble": each}) for seed, each in enumerate(troubles)]
    assert run(asked) == 130
    assert [result["experiment"]["seed"] for result in runs(tmp_path)] == [1]
    errors = capsys.readouterr().err
    assert "the fake fails" in errors
    assert "stopped; what is finished is stored" in errors


# ------------------------------------------------------------------------------------------------- what is asked for


def test_an_option_reaches_the_model(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([experiment(tmp_path)], "--option", "spread=2", "--option", "look_back=[7]") == 0
    assert notes(tmp_path)[0] == "build 7 2 seed 0"
    assert run([experiment(tmp_path)], "--option", "spread") == 2
    assert "--option spread is not allowed; give NAME=VALUE" in capsys.readouterr().err


def test_the_command_of_a_result_selects_its_experiment(tmp_path: Path, run: Run) -> None:
    """With a stride, an option, a data set that needs quoting, and a horizon of its own."""
    suite = [experiment(tmp_path, family, seed=seed) for family in ("lsf", "pf") for seed in (0, 1)]
    words = ["--datasets", "my data.toml", "--horizons", "7", "--seeds", "1", "--stride", "9"]
    assert run(suite, *words, "--option", "look_back=[7, 11]") == 0
    assert len(runs(tmp_path)) == 2
    for result in runs(tmp_path):
        assert result["experiment"]["horizon"] == 7
        assert result["suite"] == "fake"
        command = shlex.split(result["command"])
        assert command[:4] == ["python", "-m", "benchmarks", "run"]
        parser = argparse.ArgumentParser()
        runner.add_arguments(parser)
        told = parser.parse_args(command[4:])
        found = runner.select(runner.with_options(suites.load(told.suite), told.option), told)
        assert found == [Experiment.from_dict(result["experiment"])]


def test_a_family_of_the_suite_alone(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    suite = [experiment(tmp_path, family) for family in ("lsf", "pf")]
    assert run(suite, "--family", "pf") == 0
    assert [result["experiment"]["family"] for result in runs(tmp_path)] == ["pf"]
    assert run(suite[:1], "--family", "pf") == 2
    assert "--family pf: the suite 'fake' has lsf alone" in capsys.readouterr().err


def test_what_the_suite_lacks_is_an_error(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [experiment(tmp_path), Experiment("lsf", "others", 24, "msft")]
    assert run(asked, "--only", "dlinear") == 2
    assert "--only dlinear: the suite 'fake' has fake, msft alone" in capsys.readouterr().err
    assert run(asked, "--only", "msft", "--datasets", "waves") == 2
    assert "no experiment of the suite fits all of --family, --only, --datasets" in capsys.readouterr().err
    assert run(asked, "--horizons", "28") == 2
    assert "--horizons 28: the suite 'fake' has 6, 24 alone" in capsys.readouterr().err
    assert stored(tmp_path) == {}


def test_results_of_a_user_s_data_stay_out_of_the_published_ones(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    assert run([experiment(tmp_path)], "--datasets", "my.toml") == 2
    assert "--datasets my.toml: results of your own data have no place in" in capsys.readouterr().err
    assert stored(tmp_path) == {}


def test_a_file_as_the_folder_of_results_is_refused_before_anything_is_measured(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results").write_text("")
    assert run([experiment(tmp_path)]) == 2
    assert "--results is no folder that can be written into" in capsys.readouterr().err
    assert notes(tmp_path) == []
