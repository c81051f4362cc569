"""A data set of two waves, and a model without training, for tests of the benchmarks' own machinery."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from benchmarks import __main__, data, models, run
from benchmarks.data import Dataset
from benchmarks.errors import Diverged
from benchmarks.models import Budget
from benchmarks.models.base import Forecaster, Levels, Settings
from benchmarks.run import measures, store, suites
from benchmarks.run.experiments import Experiment

SEASON, HORIZON = 12, 6
BUDGET = Budget(epochs=1, validation_windows=20)


def waves(name: str = "waves", family: str = "lsf", folder: Any = None) -> Dataset:
    """300, 100 and 100 steps; stands in for `data.load`. The folder may hold a text that shifts the values."""
    steps = np.arange(500)[:, None]
    noise = np.random.default_rng(0).standard_normal((500, 2))
    values = np.sin(2 * np.pi * steps / SEASON + np.arange(2)) * [1, 3] + [2, 5] + 0.3 * noise
    shift = Path(folder, "shift") if folder else None
    if shift is not None and shift.exists():
        values = values + float(shift.read_text())
    return Dataset(
        name=name,
        family=family,
        frequency="h",
        season=SEASON,
        values=values.astype(np.float32),
        columns=("first", "second"),
        times=pd.date_range("2020-01-01", periods=500, freq="h"),
        bounds={"train": (0, 300), "validation": (300, 400), "test": (400, 500)},
    )


class Back:
    """What was `look_back` steps before, and normal quantiles around it."""

    def __init__(self, look_back: int, spread: float) -> None:
        self.input_chunk_length, self.output_chunk_length, self.spread = look_back, HORIZON, spread


class Fake(Forecaster):
    """Writes what it does to the file `log`; `weights` and `backbone` are files whose text stands for weights.

    `trouble`: what its fit does; "diverge 11" at this look-back. With `follows` its look-back is that of the same model
    without it, whose candidates are these.
    """

    defaults: ClassVar[Settings] = {
        "look_back": [SEASON - 1, SEASON],
        "spread": 0.5,
        **dict.fromkeys(("log", "weights", "backbone", "trouble", "follows")),
    }
    chosen = ("look_back", "spread")
    followed = ("look_back",)

    def weights(self) -> str | None:
        path = self.options["weights"] or self.options["backbone"]
        return Path(path).read_text() if path else None

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        if self.options["follows"] is None:
            return None
        return "fake", {"look_back": self.options["follows"], "log": self.options["log"]}

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Back:
        self.note(f"build {settings['look_back']} {settings['spread']} seed {seed}")
        return Back(settings["look_back"], settings["spread"])

    def fit(self, model: Any, data: Dataset, settings: Settings) -> None:
        self.note("fit")
        trouble = self.options["trouble"]
        if trouble == "raise":
            raise RuntimeError("the fake fails")
        if trouble == "lack":
            raise ModuleNotFoundError("No module named 'neuralforecast'")
        if trouble == "interrupt":
            raise KeyboardInterrupt
        if trouble == f"diverge {settings['look_back']}" or trouble == "diverge":
            raise Diverged("the fake has no finite loss")
        if trouble and trouble.startswith("wait for "):
            while not Path(trouble.removeprefix("wait for ")).exists():
                time.sleep(0.02)

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        look_back = model.input_chunk_length
        steps = np.asarray(starts)[:, None] - look_back + np.arange(HORIZON) % look_back
        points = data.values[steps][..., None]
        return points if levels is None else points + model.spread * norm.ppf(levels)

    def describe(self, model: Any) -> dict[str, Any]:
        nothing = dict.fromkeys(("fit_report", "scale_weights"))
        return {"trained_parameters": 1, "parameters": 2, "weights": self.weights(), **nothing}

    def note(self, what: str) -> None:
        if self.options["log"]:
            with Path(self.options["log"]).open("a") as file:
                file.write(f"{os.getpid()} {what}\n")


def measured(look_back: int, part: str, stride: int, levels: Levels = None, spread: float = 0.5) -> dict[str, Any]:
    """What the fake's forecasts of a part are worth."""
    return measures.measure(Fake({}, BUDGET), Back(look_back, spread), waves(), part, stride, levels)


# ---- experiments, and what a run of them leaves in a folder


def experiment(folder: Path, family: str = "lsf", **changes: Any) -> Experiment:
    options = {"log": str(folder / "log"), **changes.pop("options", {})}
    name = changes.pop("dataset", "waves")
    return Experiment(family, name, HORIZON, "fake", options=options, budget=BUDGET, **changes)


def notes(folder: Path) -> list[str]:
    log = folder / "log"
    return [line.partition(" ")[2] for line in log.read_text().splitlines()] if log.exists() else []


def builds(folder: Path) -> list[str]:
    return [note.removeprefix("build ") for note in notes(folder) if note.startswith("build")]


def runs(folder: Path, kind: str = "run") -> list[dict[str, Any]]:
    return [entry for _, entry in store.entries(folder / "results", kind)]


def stored(folder: Path) -> dict[str, str]:
    """The text of every result and choice."""
    return {
        f"{kind}/{path.name}": path.read_text()
        for kind in ("run", "choice")
        for path, _ in store.entries(folder / "results", kind)
    }


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fakes; and every job runs in this process."""
    monkeypatch.setattr(data, "load", waves)
    monkeypatch.setitem(models.MODELS, "fake", ("the fake", "benchmark_fakes:Fake"))
    monkeypatch.setattr(measures, "quiet", lambda: None)
    monkeypatch.setattr(measures, "provenance", lambda: {"commit": "0" * 40, "dirty": False})
    monkeypatch.setattr(run, "isolated", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(run, "preload", lambda modules: None)
    run.data_hash.cache_clear()


def command(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`run` for these experiments, with results and data in the folder; gives the exit code."""

    def found(experiments: Sequence[Experiment], *words: str) -> int:
        run.data_hash.cache_clear()  # as in a new process
        monkeypatch.setattr(suites, "load", lambda name: list(experiments))
        shared = ["--suite", "fake", "--results", str(folder / "results"), "--data", str(folder)]
        return __main__.main(["run", *shared, *words])

    return found


def play(folder: Path, gate: Path) -> None:
    """Three experiments in a process of their own; the last two wait for the gate."""
    troubles = [None, f"wait for {gate}", f"wait for {gate}"]
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        options = [{"look_back": SEASON, "spread": float(seed), "trouble": each} for seed, each in enumerate(troubles)]
        asked = [experiment(folder, seed=seed, options=each) for seed, each in enumerate(options)]
        sys.exit(command(folder, patch)(asked))
