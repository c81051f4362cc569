"""The command that runs a suite: what is asked for, measured anew, shared; what goes wrong, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmark_fakes import SEASON, Fake, builds, experiment, measured, notes, play, runs, stored
from child_process import run_in_child

from benchmarks import run as runner
from benchmarks.run import measures, provenance, store
from benchmarks.run.experiments import Experiment

Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]

Run = Callable[..., int]

pytestmark = pytest.mark.usefixtures("fakes")


# ---- what is measured, and what is there already


def test_a_result_is_fitted_with_what_was_chosen_and_then_found(tmp_path: Path, run: Run, capsys: Capture) -> None:
    both = [experiment(tmp_path), experiment(tmp_path, "pf")]
    assert run(both, "--dry-run") == 0
    assert capsys.readouterr().out.endswith(f"{both[1].key[:10]}  {both[1]}\n2 experiments, 2 of them to run\n")
    assert stored(tmp_path) == {}
    assert run(both) == 0
    for asked, result in zip(both, runs(tmp_path), strict=True):
        levels = measures.LEVELS if asked.family == "pf" else None
        assert result["settings"] == {"look_back": SEASON, "spread": 0.5}
        assert result["metrics"] == measured(SEASON, "test", asked.test_stride, levels)["metrics"]
        assert (result["key"], result["suite"]) == (asked.key, "fake")
    assert {choice["key"] for choice in runs(tmp_path, "choice")} == {e.choice_key for e in both}
    before, done = stored(tmp_path), notes(tmp_path)
    assert len(done) == 2 * (2 + 1) * 2  # build and fit: two candidates and the chosen, twice
    capsys.readouterr()
    assert run(both) == 0
    figures = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in figures] == [str(each) for each in both]
    assert (stored(tmp_path), notes(tmp_path)) == (before, done)


def test_seeds_and_strides_share_a_choice_and_other_places_all(tmp_path: Path, run: Run) -> None:
    for name in ("here", "there"):
        (tmp_path / name).write_text("weights")
    here, there = ({"backbone": str(tmp_path / name)} for name in ("here", "there"))
    assert run([experiment(tmp_path, seed=seed, options=here) for seed in (0, 1)]) == 0
    assert run([experiment(tmp_path, seed=2, test_stride=3, options=here)]) == 0
    tried = ["11 0.5 seed 0", "12 0.5 seed 0"]
    assert builds(tmp_path) == [*tried, "12 0.5 seed 0", "12 0.5 seed 1", "12 0.5 seed 2"]
    before = stored(tmp_path)
    assert run([experiment(tmp_path, options=there)]) == 0
    assert stored(tmp_path) == before
    assert run([experiment(tmp_path, options={**here, "spread": 0.1})]) == 0  # another model
    assert len(runs(tmp_path, "choice")) == 2


@pytest.mark.parametrize("changed", ["protocol", "defaults", "shift", "weights"])
def test_another_state_is_measured_anew(tmp_path: Path, run: Run, monkeypatch: Patch, changed: str) -> None:
    """Choice and candidates, too; and each is found again in its own state."""
    for name in ("shift", "weights"):
        (tmp_path / name).write_text("1")
    asked = [experiment(tmp_path, options={"weights": str(tmp_path / "weights")})]
    assert run(asked) == 0
    before = stored(tmp_path)
    with monkeypatch.context() as patch:
        if changed == "protocol":
            patch.setattr(measures, "PROTOCOL", 99)
        elif changed == "defaults":
            patch.setattr(Fake, "defaults", {**Fake.defaults, "new": 1})
        else:
            (tmp_path / changed).write_text("2")
        assert run(asked) == 0
    after = stored(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 2 * len(before) == 4
    assert len(runs(tmp_path, "candidate")) == 4
    for name in ("shift", "weights"):
        (tmp_path / name).write_text("1")
    assert run(asked) == 0
    assert stored(tmp_path) == after


# ---- several at once


@contextmanager
def claimed(folder: Path, kind: str, key: str) -> Iterator[threading.Event]:
    """Another has the claim, until the event."""
    begun, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store.claim(folder / "results", kind, key, wait=True):
            begun.set()
            release.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert begun.wait(60)
        yield release
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("kind", ["run", "choice", "leader's choice"])
def test_what_another_process_is_at_comes_last(tmp_path: Path, run: Run, monkeypatch: Patch, kind: str) -> None:
    """Its claim ends when the experiment that needs nothing of it is measured; then the others are."""
    options = {"follows": [10, SEASON]} if kind == "leader's choice" else {}
    free = experiment(tmp_path, seed=2, options={"look_back": SEASON})
    asked = [experiment(tmp_path, seed=seed, options=options) for seed in (0, 1)]
    key = asked[0].key if kind == "run" else (measures.leader_of(asked[0]) or asked[0]).choice_key
    with claimed(tmp_path, kind.rpartition(" ")[2], key) as release:

        def isolated(function: Any, *arguments: Any) -> Any:
            found = function(*arguments)
            if function is measures.test and arguments[0] == free:
                release.set()
            return found

        monkeypatch.setattr(runner, "isolated", isolated)
        assert run([asked[0], free, asked[1]]) == 0
    assert builds(tmp_path)[0] == "12 0.5 seed 2"
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1, 2]


def test_two_processes_share_a_store_and_one_that_is_killed_leaves_whole_results(tmp_path: Path) -> None:
    """One is killed in the middle of an experiment; the other does that one anew when it has done its own."""
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(run_in_child, play, tmp_path, gate) for _ in range(2)]
        end = time.monotonic() + 100
        while len(notes(tmp_path)) < 6 and time.monotonic() < end and not any(each.done() for each in both):
            time.sleep(0.05)
        before, begun = stored(tmp_path), notes(tmp_path)
        killed = (tmp_path / "log").read_text().splitlines()[-1].split()[0]
        os.kill(int(killed), signal.SIGKILL)
        while not any(each.done() for each in both):
            time.sleep(0.05)
        assert stored(tmp_path) == before
        gate.touch()
        assert sorted(each.result() for each in both) == [-9, 0]
    assert sorted(begun) == sorted(["fit"] * 3 + [f"build 12 {float(seed)} seed {seed}" for seed in range(3)])
    assert [json.loads(text)["experiment"]["seed"] for name, text in before.items() if name.startswith("run")] == [0]
    assert len(before) == 4  # and three choices
    after = stored(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1, 2]
    assert len(builds(tmp_path)) == 4
    assert builds(tmp_path)[3] in builds(tmp_path)[:3]
    assert all(path.suffix == ".json" for path in (tmp_path / "results").rglob("*") if path.is_file())


# ---- what goes wrong


def test_others_run_where_one_fails(tmp_path: Path, run: Run, capsys: Capture) -> None:
    failing = experiment(tmp_path, options={"trouble": "raise"})
    for tried in (6, 2):  # build and fit: of the one that fails, the first time also of two seeds of another
        done = len(notes(tmp_path))
        asked = [experiment(tmp_path, options={"look_back": SEASON}, seed=seed) for seed in (0, 1)]
        assert run([asked[0], failing, asked[1]]) == 1
        assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1]
        assert capsys.readouterr().err.endswith(f"FAILED {failing}: RuntimeError: the fake fails\n")
        assert len(notes(tmp_path)) - done == tried


def test_a_missing_package_is_told_with_its_remedy(tmp_path: Path, run: Run, capsys: Capture) -> None:
    assert run([experiment(tmp_path, options={"trouble": "lack"})]) == 1
    remedy = (
        "ModuleNotFoundError: No module named 'neuralforecast'; pip install 'darts-msft[baselines,benchmarks,peft]'"
    )
    assert capsys.readouterr().err.endswith(f"{remedy}\n")


def test_an_interrupt_stops_and_keeps_what_is_finished(tmp_path: Path, run: Run, capsys: Capture) -> None:
    troubles = ("raise", None, "interrupt", None)
    asked = [experiment(tmp_path, seed=seed, options={"trouble": each}) for seed, each in enumerate(troubles)]
    assert run(asked) == 130
    assert [result["experiment"]["seed"] for result in runs(tmp_path)] == [1]
    errors = capsys.readouterr().err
    assert "the fake fails" in errors
    assert "what is finished is stored" in errors


def test_changed_code_stops_a_run(tmp_path: Path, run: Run, monkeypatch: Patch, capsys: Capture) -> None:
    asked = [experiment(tmp_path, seed=seed, options={"look_back": SEASON}) for seed in range(3)]
    monkeypatch.setattr(measures, "provenance", lambda: {"commit": "0" * 40, "dirty": True})
    monkeypatch.setattr(runner, "is_dirty", lambda: True)
    assert run(asked[:1]) == 0  # another folder
    monkeypatch.setattr(store, "FOLDER", tmp_path / "results" / ".." / "results")
    assert run(asked) == 2
    assert "commit" in capsys.readouterr().err
    monkeypatch.setattr(runner, "is_dirty", lambda: False)  # clean at the start alone
    assert run(asked) == 1
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0]
    monkeypatch.setattr(measures, "provenance", lambda: {"commit": "0" * 40, "dirty": False})
    for name, after in (("is_dirty", True), ("same_code", False)):  # it changes after the first experiment
        before = len(runs(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(runner, name, lambda *_, n=before, after=after: (len(runs(tmp_path)) > n) == after)
            assert run([experiment(tmp_path, seed=seed + 10 * before) for seed in range(2)]) == 1
        assert len(runs(tmp_path)) == before + 1
        assert "stopped" in capsys.readouterr().err


def test_misuse_is_told_before_anything_is_done(tmp_path: Path, run: Run, monkeypatch: Patch, capsys: Capture) -> None:
    asked = [experiment(tmp_path), Experiment("lsf", "others", 24, "msft")]
    cases = [
        (["--only", "dlinear"], "dlinear"),
        (["--only", "msft", "--datasets", "waves"], "waves"),
        (["--horizons", "28"], "28"),
        (["--family", "pf"], "pf"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(store, "FOLDER", tmp_path / "results")
        cases.append((["--datasets", "my.toml"], "your own data"))
        for words, message in cases:
            assert run(asked, *words) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "ROOT", tmp_path)
        assert run(asked) == 2
        assert "results need a git checkout" in capsys.readouterr().err
    assert (stored(tmp_path), notes(tmp_path)) == ({}, [])
    assert run(asked[:1], "--datasets", "my.toml", "--horizons", "101") == 1
    assert "horizon=101 does not fit into the validation part of my.toml" in capsys.readouterr().err
    (tmp_path / "a").write_text("")
    assert run(asked[:1], "--results", str(tmp_path / "a")) == 2


# ---- what is asked for


def test_a_part_of_a_suite_in_its_order() -> None:
    suite = [Experiment("lsf", d, h, m, s) for s in (0, 1) for d in "ab" for h in (24, 48) for m in ("msft", "full")]

    def select(stride: int | None = None, **wanted: Any) -> list[Experiment]:
        return runner.select(suite, {"dataset": None, "horizon": None, **wanted}, stride)

    for name, values in (("model", ["full"]), ("dataset", ["b"]), ("horizon", [48]), ("seed", [1, 0])):
        assert select(**{name: values}) == [each for each in suite if getattr(each, name) in values]
    one = select(5, model=["msft"], dataset=["a"], horizon=[24], seed=[1])
    assert one == [Experiment("lsf", "a", 24, "msft", 1, test_stride=5)]
    own = select(dataset=["a/my.toml", "b/my.toml"], seed=[0], model=["full"])
    assert [(e.dataset, e.horizon) for e in own] == [(f"{x}/my.toml", h) for x in "ab" for h in (24, 48)]
    own = select(dataset=["my.toml"], horizon=[28, 24], seed=[0])  # of your own data at any horizon
    assert own == [Experiment("lsf", "my.toml", horizon, m) for m in ("msft", "full") for horizon in (28, 24)]
    suite = [Experiment("lsf", "a", 24, "msft", test_stride=5), Experiment("pf", "b", 48, "msft")]
    assert [each.test_stride for each in select(7)] == [7, 48]
    assert [each.test_stride for each in select(dataset=["my.toml"], horizon=[28])] == [5, 28]
