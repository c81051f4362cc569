"""What the tests of the runner share beside the fixtures `fakes` and `run`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmark_fakes import BUDGET, HORIZON, waves

from benchmarks import __main__, models
from benchmarks.data import datasets
from benchmarks.run import jobs, runner, suites, usable
from benchmarks.run import store as results
from benchmarks.run.experiments import Experiment

Run = Callable[..., int]


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes; and every job runs in this process."""
    monkeypatch.setattr(datasets, "load", waves)
    monkeypatch.setitem(models.MODELS, "fake", "benchmark_fakes:Fake")
    monkeypatch.setattr(jobs, "quiet", lambda: None)
    monkeypatch.setattr(jobs, "FOLLOWED", ("look_back",))  # fakes have no patch size
    monkeypatch.setattr(runner, "isolated", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(jobs, "provenance", lambda: {"commit": "0" * 40, "dirty": False})
    forget()


def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """What the fixture `run` gives."""

    def found(experiments: list[Experiment], *words: str) -> int:
        forget()
        monkeypatch.setitem(suites.SUITES, "fake", lambda: experiments)
        shared = ["--suite", "fake", "--results", str(tmp_path / "results"), "--data", str(tmp_path)]
        return __main__.main(["run", *shared, *words])

    return found


def forget() -> None:
    """As in a new process: hashes of data are read again."""
    usable.data_hash.cache_clear()


def experiment(tmp_path: Path, family: str = "lsf", **changes: Any) -> Experiment:
    options = {"log": str(tmp_path / "log"), **changes.pop("options", {})}
    return Experiment(
        family, changes.pop("dataset", "waves"), HORIZON, "fake", options=options, budget=BUDGET, **changes
    )


def notes(tmp_path: Path) -> list[str]:
    log = tmp_path / "log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def stored(tmp_path: Path) -> dict[str, str]:
    """The text of every result and choice; candidates beside them are the choices' own affair."""
    folder = tmp_path / "results"
    return {
        str(path.relative_to(folder)): path.read_text()
        for kind in ("run", "choice")
        for path, _ in results.entries(folder, kind)
    }


def runs(tmp_path: Path) -> list[dict[str, Any]]:
    return [entry for _, entry in results.entries(tmp_path / "results", "run")]


def choices(tmp_path: Path) -> list[dict[str, Any]]:
    return [entry for _, entry in results.entries(tmp_path / "results", "choice")]
