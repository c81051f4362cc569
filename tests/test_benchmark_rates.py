"""The benchmark of learning rates: what tells runs apart, where entries come from, and the table."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import rates
from benchmarks.provenance import provenance

ASKED = argparse.Namespace(backbone="moirai-tiny", epochs=1, datasets=["ETTh1"], methods=["msft", "scratch"], seeds=[0])


def test_runs_of_another_window_are_other_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = rates.plan(ASKED)
    for name in ("CONTEXT", "HORIZON"):
        with monkeypatch.context() as patch:
            patch.setattr(rates, name, 64)
            assert not [run for run in rates.plan(ASKED) if run in runs]


def test_the_commit_is_the_repository_s_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = provenance()
    monkeypatch.chdir(tmp_path)
    there = provenance()
    assert here["commit"] == there["commit"]
    assert len(here["commit"]) == 40


def test_table_has_scores_and_no_ratio_for_scratch(capsys: pytest.CaptureFixture[str]) -> None:
    runs = rates.plan(ASKED)
    results = [{"run": run, "scores": {"start": 0.5, "epoch 0": 0.25}, "best": 0.25} for run in runs]
    rates.table(results, runs)
    lines = {tuple(line.split()[:2]): line.split()[2:] for line in capsys.readouterr().out.splitlines()[2:]}
    assert lines["msft", "1e-04"] == ["ETTh1", "0.2500", "(0.5000)"]
    assert lines["scratch", "1e-03"] == ["ETTh1", "0.2500"]
