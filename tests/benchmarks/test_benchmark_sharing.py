"""Several runs at once, and code that changes during one: what is left to others, and what isn't begun."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmark_fakes import SEASON
from runner_fakes import Run, experiment, notes, runs, stored

from benchmarks.run import jobs, runner
from benchmarks.run import store as results

pytestmark = pytest.mark.usefixtures("fakes")


def test_a_result_that_comes_meanwhile_is_taken(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process stores it after this one has looked what is missing."""
    both = [experiment(tmp_path, seed=seed) for seed in (0, 1)]
    run_all = runner.run_all

    def late(*rest: Any) -> int:
        monkeypatch.setattr(runner, "run_all", run_all)
        assert run(both[:1]) == 0
        return run_all(*rest)

    monkeypatch.setattr(runner, "run_all", late)
    assert run(both) == 0
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1]
    assert [note for note in notes(tmp_path) if note.startswith("build 12")] == [
        *("build 12 0.5 seed 0", "build 12 0.5 seed 0", "build 12 0.5 seed 1")
    ]


def test_what_another_process_is_at_comes_last(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is claimed until the other two are done; then it is waited for."""
    three = [experiment(tmp_path, seed=seed, options={"look_back": SEASON}) for seed in range(3)]
    release, waited = threading.Event(), threading.Event()
    claim = results.claim

    def other() -> None:
        with claim(tmp_path / "results", "run", three[0].key, wait=True):
            waited.set()
            assert release.wait(60)

    def watched(folder: Any, kind: str, key: str, wait: bool) -> Any:
        if kind == "run" and wait:
            assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [1, 2]
            release.set()
        return claim(folder, kind, key, wait)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert waited.wait(60)
        monkeypatch.setattr(results, "claim", watched)
        assert run(three) == 0
    finally:
        release.set()
        thread.join()
    assert [result["experiment"]["seed"] for result in runs(tmp_path)].count(0) == 1
    builds = [note for note in notes(tmp_path) if note.startswith("build")]
    assert builds == [f"build 12 0.5 seed {seed}" for seed in (1, 2, 0)]


@contextmanager
def claimed(folder: Path, kind: str, key: str, release: threading.Event) -> Iterator[None]:
    """By another one until `release` is set, or for 20 seconds: a run that waits where it shouldn't goes on then."""
    there = threading.Event()

    def other() -> None:
        with results.claim(folder, kind, key, wait=True):
            there.set()
            release.wait(20)

    thread = threading.Thread(target=other)
    thread.start()
    try:
        assert there.wait(60)
        yield
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("of_leader", [False, True])
def test_a_choice_that_another_process_is_at_is_not_waited_for_while_there_is_other_work(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, of_leader: bool
) -> None:
    """The first two need it, the third doesn't."""
    options = {"follows": [10, SEASON]} if of_leader else {}
    asked = [experiment(tmp_path, seed=seed, options=options) for seed in (0, 1)]
    free = experiment(tmp_path, seed=2, options={"look_back": SEASON})
    leader = jobs.leader_of(asked[0])
    key = (leader or asked[0]).choice_key
    release, isolated = threading.Event(), runner.isolated

    def watched(function: Any, *arguments: Any) -> Any:
        found = isolated(function, *arguments)
        if function is jobs.test and arguments[0] == free:
            release.set()
        return found

    monkeypatch.setattr(runner, "isolated", watched)
    with claimed(tmp_path / "results", "choice", key, release):
        assert run([*asked, free]) == 0
    first = next(note for note in notes(tmp_path) if note.startswith("build"))
    assert first == f"build {SEASON} 0.5 seed 2"
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1, 2]


# ------------------------------------------------------------------------------------------------- uncommitted code


def test_uncommitted_code_has_no_place_in_the_repository_s_folder(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [experiment(tmp_path)]
    monkeypatch.setattr(runner, "is_dirty", lambda: True)
    monkeypatch.setattr(jobs, "provenance", lambda: {"commit": "0" * 40, "dirty": True})
    with monkeypatch.context() as patch:
        patch.setattr(results, "FOLDER", tmp_path / "results")
        assert run(asked) == 2
        assert "uncommitted changes; commit them" in capsys.readouterr().err
        assert (stored(tmp_path), notes(tmp_path)) == ({}, [])
        assert run(asked, "--dry-run") == 0
        patch.setattr(runner, "is_dirty", lambda: False)  # clean at the start alone
        assert run(asked) == 1
        assert stored(tmp_path) == {}
        assert run(asked, "--dirty") == 0
        assert len(runs(tmp_path)) == 1
    assert run([experiment(tmp_path, seed=1)]) == 0  # another folder


def test_code_that_changes_during_a_run_ends_it_before_the_next_fit(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second experiment would be refused when it is measured; what failed before is told all the same."""
    changed = []
    add = results.add

    def adding(folder: Any, entry: Any, dirty: bool = False) -> Path:
        path = add(folder, entry, dirty)
        changed.extend([True] if entry["kind"] == "run" else [])
        return path

    options = {"look_back": SEASON}
    asked = [experiment(tmp_path, seed=seed, options=options) for seed in (0, 1)]
    failing = experiment(tmp_path, options={**options, "trouble": "raise"})
    monkeypatch.setattr(results, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(runner, "is_dirty", lambda: bool(changed))
    monkeypatch.setattr(results, "add", adding)
    assert run([failing, *asked]) == 1
    assert notes(tmp_path) == [*("build 12 0.5 seed 0", "fit"), *("build 12 0.5 seed 0", "fit")]
    assert [result["experiment"]["seed"] for result in runs(tmp_path)] == [0]
    errors = capsys.readouterr().err
    assert "RuntimeError: the fake fails" in errors
    assert "stopped: the tree has uncommitted changes; commit them" in errors
    assert "what is finished is stored, and the same command goes on from there" in errors
