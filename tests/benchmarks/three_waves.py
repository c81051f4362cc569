"""Three daily waves on very different levels, for the tests of the benchmarks' models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data.datasets import Dataset
from benchmarks.models import load_forecaster
from benchmarks.models.base import Forecaster
from benchmarks.run.experiments import Budget
from benchmarks.run.measures import forecast

LOOK_BACK, HORIZON, SEASON = 48, 12, 24
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
BUDGET = Budget(epochs=2, patience=2, batch_size=16, train_windows=40, validation_windows=10)


def waves(name: str = "waves", family: str = "pf") -> Dataset:
    """400, 80 and 120 hours; the variables lie around 0, 100 and 1000."""
    steps = np.arange(600)[:, None]
    noise = np.random.default_rng(0).standard_normal((600, 3)) * [0.1, 0.5, 2]
    values = np.sin(2 * np.pi * steps / SEASON + np.arange(3)) * [1, 5, 20] + [0, 100, 1000] + noise
    return Dataset(
        name=name,
        family=family,
        frequency="h",
        season=SEASON,
        values=values.astype(np.float32),
        columns=("low", "middle", "high"),
        times=pd.date_range("2024-01-01", periods=600, freq="h"),
        bounds={"train": (0, 400), "validation": (400, 480), "test": (480, 600)},
    )


def our_options(checkpoint: str, **changes: Any) -> dict[str, Any]:
    """For a tiny backbone."""
    return {"backbone": checkpoint, "look_back": LOOK_BACK, "patch_size": 4, **changes}


def fitted(
    name: str, options: dict[str, Any], levels: Sequence[float] | None, dataset: Dataset, budget: Budget
) -> tuple[Forecaster, Any, dict[str, Any]]:
    """The row of the table, its fitted model, and the first of its candidates, which that is built with."""
    forecaster = load_forecaster(name, options, budget)
    settings = forecaster.candidates(dataset, HORIZON)[0]
    model = forecaster.build(settings, dataset, HORIZON, 0, levels)
    forecaster.fit(model, dataset, settings)
    return forecaster, model, settings


def backtest(
    name: str,
    options: dict[str, Any],
    starts: range,
    levels: Sequence[float] | None = None,
    dataset: Dataset | None = None,
    budget: Budget = BUDGET,
) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """The fitted model, its forecasts (N, H, V, Q), and its description after a way through JSON."""
    data = dataset or waves()
    forecaster, model, settings = fitted(name, options, levels, data, budget)
    found = forecast(model, data, starts, HORIZON, settings["look_back"], levels)
    return model, found, json.loads(json.dumps(forecaster.describe(model)))
