"""A data set of two waves, and a model without training, for tests of the benchmarks' own machinery.

As a script it is `python -m benchmarks` with these registered, in the processes that it starts too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy.stats import norm

from benchmarks import models
from benchmarks.data import datasets
from benchmarks.data.datasets import Dataset
from benchmarks.errors import Diverged
from benchmarks.models.base import Forecaster
from benchmarks.models.views import WindowModel
from benchmarks.run import suites
from benchmarks.run.experiments import Budget, Experiment

SEASON, HORIZON = 12, 6
BUDGET = Budget(epochs=1, validation_windows=20)


def waves(name: str = "waves", family: str = "lsf", folder: Any = None) -> Dataset:
    """300, 100 and 100 steps; stands in for `datasets.load`. The folder may hold a text that shifts the values."""
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


class Back(WindowModel):
    """Forecasts what was `look_back` steps before, and normal quantiles around it."""

    def __init__(self, look_back: int, levels: Sequence[float] | None, spread: float) -> None:
        super().__init__(look_back, levels)
        self.spread = spread

    def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
        points = contexts[:, np.arange(horizon) % contexts.shape[1], :, None]
        return points if self.levels is None else points + self.spread * norm.ppf(self.levels)


class Fake(Forecaster):
    """Writes what it does to the file `log`; `weights` and `backbone` are files whose text stands for weights.

    `trouble`: what its fit does; "diverge 11" at this look-back. With `follows` its look-back is that of the same model
    without it, whose candidates are these.
    """

    defaults: ClassVar[Mapping[str, Any]] = {
        "look_back": [SEASON - 1, SEASON],
        "spread": 0.5,
        "log": None,
        "weights": None,
        "backbone": None,
        "trouble": None,
        "follows": None,
    }
    chosen = ("look_back", "spread")

    def weights(self) -> str | None:
        path = self.options["weights"] or self.options["backbone"]
        return Path(path).read_text() if path else None

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        if self.options["follows"] is None:
            return None
        return "fake", {"look_back": self.options["follows"], "log": self.options["log"]}

    def dropped(self, dataset: Dataset, horizon: int) -> list[dict[str, Any]]:
        return [{"look_back": 999, "reason": "too long"}]

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> Back:
        self.note(f"build {settings['look_back']} {settings['spread']} seed {seed}")
        return Back(settings["look_back"], levels, settings["spread"])

    def fit(self, model: Any, dataset: Dataset, settings: Mapping[str, Any]) -> None:
        self.note("fit")
        trouble = self.options["trouble"]
        if trouble == "raise":
            raise RuntimeError("the fake fails")
        if trouble == "sleep":
            time.sleep(0.5)
        if trouble == "interrupt":
            raise KeyboardInterrupt
        if trouble == f"diverge {settings['look_back']}" or trouble == "diverge":
            raise Diverged("the fake has no finite loss")
        if trouble == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble and trouble.startswith("wait for "):
            while not Path(trouble.removeprefix("wait for ")).exists():
                time.sleep(0.02)

    def describe(self, model: Any) -> dict[str, Any]:
        nothing = dict.fromkeys(("fit_report", "scale_weights"))
        return {"trained_parameters": 1, "parameters": 2, "weights": self.weights(), **nothing}

    def note(self, what: str) -> None:
        if self.options["log"]:
            with Path(self.options["log"]).open("a") as file:
                file.write(f"{os.getpid()} {what}\n")


def fake_suite() -> list[Experiment]:
    """One experiment for each word of the environment variable FAKE_TROUBLES ("none": it works)."""
    troubles = os.environ["FAKE_TROUBLES"].split(",")
    options = {"log": os.environ["FAKE_LOG"], "look_back": SEASON}
    return [
        Experiment("lsf", "waves", HORIZON, "fake", seed, {**options, "trouble": trouble, "spread": float(seed)})
        for seed, trouble in enumerate(troubles)
    ]


def register() -> None:
    datasets.load = waves  # type: ignore[assignment]
    models.MODELS["fake"] = "benchmark_fakes:Fake"
    suites.SUITES["fake"] = fake_suite


if __name__ in ("__main__", "__mp_main__"):
    register()

if __name__ == "__main__":
    from benchmarks.__main__ import main

    sys.exit(main())
