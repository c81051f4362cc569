"""The command that runs a suite: what is skipped, what is shared, what is left when something goes wrong."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import benchmark_fakes
import pytest
from benchmark_fakes import BUDGET, HORIZON, SEASON, Back, waves
from test_benchmark_processes import eventually, is_alive

from benchmarks import __main__, datasets, jobs, measures, models, results, runner, suites
from benchmarks.experiments import Experiment
from benchmarks.processes import ProcessFailed

ROOT = Path(runner.__file__).parents[1]
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fakes are registered, and every job runs in this process."""
    monkeypatch.setattr(datasets, "load", waves)
    monkeypatch.setitem(models.MODELS, "fake", "benchmark_fakes:Fake")
    monkeypatch.setattr(jobs, "quiet", lambda: None)
    monkeypatch.setattr(runner, "isolated", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(jobs, "provenance", lambda: {"commit": "0" * 40})
    forget()
    yield
    forget()


def forget() -> None:
    """As in a new process: hashes of data and weights are read again."""
    runner._data_hash.cache_clear()
    runner._weights_hash.cache_clear()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs these experiments, with results and data in `tmp_path`; returns the exit code."""

    def command(experiments: list[Experiment], *words: str) -> int:
        forget()
        monkeypatch.setitem(suites.SUITES, "fake", lambda: experiments)
        shared = ["--suite", "fake", "--results", str(tmp_path / "results"), "--data", str(tmp_path)]
        return __main__.main(["run", *shared, *words])

    return command


def experiment(tmp_path: Path, family: str = "lsf", **changes: Any) -> Experiment:
    options = {"log": str(tmp_path / "log"), **changes.pop("options", {})}
    return Experiment(
        family, changes.pop("dataset", "waves"), HORIZON, "fake", options=options, budget=BUDGET, **changes
    )


def notes(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def stored(tmp_path: Path) -> dict[str, str]:
    """The text of every file in the results folder."""
    folder = tmp_path / "results"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def runs(tmp_path: Path) -> list[dict[str, Any]]:
    return results.read(tmp_path / "results", "run")


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
    assert {choice["key"] for choice in results.read(tmp_path / "results", "choice")} == {e.choice_key for e in both}
    before, done = stored(tmp_path), notes(tmp_path)
    assert len(done) == 2 * (2 + 1) * 2  # build and fit: two candidates and the chosen, twice
    capsys.readouterr()
    assert run(both) == 0
    assert "2 experiments, 2 of them done before" in capsys.readouterr().out
    assert (stored(tmp_path), notes(tmp_path)) == (before, done)


def test_seeds_and_strides_share_a_choice(tmp_path: Path, run: Run) -> None:
    assert run([experiment(tmp_path, seed=seed) for seed in (0, 1)]) == 0
    assert run([experiment(tmp_path, seed=2, test_stride=3)]) == 0
    builds = [note for note in notes(tmp_path) if note.startswith("build")]
    tried = ["build 11 0.5 seed 0", "build 12 0.5 seed 0"]
    assert builds == [*tried, "build 12 0.5 seed 0", "build 12 0.5 seed 1", "build 12 0.5 seed 2"]
    assert len(results.read(tmp_path / "results", "choice")) == 1
    assert len({result["choice_key"] for result in runs(tmp_path)}) == 1
    assert run([experiment(tmp_path, options={"spread": 0.1})]) == 0  # another model
    assert len(results.read(tmp_path / "results", "choice")) == 2


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


def arguments(**changes: Any) -> argparse.Namespace:
    nothing = dict.fromkeys(("only", "datasets", "horizons", "seeds", "stride"))
    return argparse.Namespace(suite="mine", **{**nothing, **changes})


SUITE = [
    Experiment("lsf", dataset, horizon, model, seed)
    for seed in (0, 1)
    for dataset in ("a", "b")
    for horizon in (24, 48)
    for model in ("msft", "full")
]


@pytest.mark.parametrize(
    ("option", "name", "values"),
    [
        ("only", "model", ["full"]),
        ("datasets", "dataset", ["b"]),
        ("horizons", "horizon", [48]),
        ("seeds", "seed", [1, 0]),
    ],
)
def test_a_part_of_a_suite_in_its_order(option: str, name: str, values: list[Any]) -> None:
    found = runner.select(SUITE, arguments(**{option: values}))
    assert found == [each for each in SUITE if getattr(each, name) in values]


def test_all_of_what_is_asked_for_counts() -> None:
    found = runner.select(SUITE, arguments(only=["msft"], datasets=["a"], horizons=[24], seeds=[1], stride=5))
    assert found == [Experiment("lsf", "a", 24, "msft", 1, test_stride=5)]
    assert runner.select(SUITE, arguments()) == SUITE


def test_a_user_s_data_take_the_place_of_the_suite_s() -> None:
    found = runner.select(SUITE, arguments(datasets=["my.toml"], seeds=[0]))
    models_of = ("msft", "full")
    assert found == [Experiment("lsf", "my.toml", horizon, model) for horizon in (24, 48) for model in models_of]
    beside = runner.select(SUITE, arguments(datasets=["my.toml", "b"], seeds=[0], horizons=[24], only=["full"]))
    assert [each.dataset for each in beside] == ["b", "my.toml"]


def test_what_the_suite_lacks_is_an_error(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [experiment(tmp_path), Experiment("lsf", "others", 24, "msft")]
    assert run(asked, "--only", "dlinear") == 2
    assert "--only dlinear: the suite 'fake' has fake, msft alone" in capsys.readouterr().err
    assert run(asked, "--only", "msft", "--datasets", "waves") == 2
    assert "no experiment of the suite fits all of --only, --datasets" in capsys.readouterr().err
    assert run(asked, "--stride", "0") == 2
    assert "test_stride=0" in capsys.readouterr().err
    assert stored(tmp_path) == {}


# --------------------------------------------------------------------------------------------------- whole processes


def start(tmp_path: Path, troubles: str) -> subprocess.Popen[str]:
    """The real command line with the fakes, and a process for each job."""
    environment = {**os.environ, "FAKE_LOG": str(tmp_path / "log"), "FAKE_TROUBLES": troubles}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "benchmarks")])}
    words = ["run", "--suite", "fake", "--results", str(tmp_path / "results")]
    return subprocess.Popen(
        [sys.executable, benchmark_fakes.__file__, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def test_kill_9_in_the_middle_leaves_whole_results_and_a_rerun_makes_the_rest(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = start(tmp_path, f"none,wait for {gate}")
    try:
        finished = eventually(lambda: len(notes(tmp_path)) == 4, 240)
        assert finished, process.communicate() if process.poll() is not None else notes(tmp_path)
    finally:
        process.kill()
        process.communicate()
    pid = int((tmp_path / "log").read_text().splitlines()[-1].split()[0])
    assert eventually(lambda: not is_alive(pid))
    before = stored(tmp_path)
    assert len(before) == 3  # the first's choice and result, the second's choice
    assert [json.loads(text)["experiment"]["seed"] for name, text in before.items() if "runs" in name] == [0]
    gate.touch()
    code, output = finish(start(tmp_path, f"none,wait for {gate}"))
    assert code == 0, output
    after = stored(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1]
    assert len(after) == 4
    builds = [note for note in notes(tmp_path) if note.startswith("build")]
    assert builds == ["build 12 0.0 seed 0", "build 12 1.0 seed 1", "build 12 1.0 seed 1"]
    # each job in a process of its own, and a bar with an estimate
    assert len({line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}) == 3
    assert re.search(r"1/1 \[\d\d:\d\d<00:00", output)
