"""Three daily waves on very different levels, for the tests of the benchmarks' models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data import Dataset
from benchmarks.models import OURS, Budget, load_forecaster
from benchmarks.models.base import Forecaster

LOOK_BACK, HORIZON, SEASON = 48, 12, 24
LEVELS = (0.025, 0.1, 0.5, 0.9, 0.975)
BUDGET = Budget(epochs=2, patience=2, batch_size=16, train_windows=40, validation_windows=10)
STARTS = range(490, 520, 9)
SMALL = {"patchtst": {"hidden_size": 16, "n_heads": 2}, "itransformer": {"hidden_size": 16, "n_heads": 2}}


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


def options_of(name: str, checkpoint: str = "", **changes: Any) -> dict[str, Any]:
    """Few and small."""
    if name in OURS:
        return {"backbone": checkpoint, "look_back": LOOK_BACK, "patch_size": 4, **changes}
    if name == "seasonal_naive":
        return {}
    own = {"fracast": {}, "dlinear": {"lr": 1e-3}}
    return {"look_back": LOOK_BACK, **own.get(name, {"lr": 1e-3, "network": SMALL.get(name, {})})}


def fitted(
    name: str,
    options: dict[str, Any],
    levels: Sequence[float] | None = None,
    data: Dataset | None = None,
    budget: Budget = BUDGET,
) -> tuple[Forecaster, Any]:
    """The row of the table, and its model with the first of its candidates, fitted."""
    forecaster, seen = load_forecaster(name, options, budget), data or waves()
    settings = forecaster.candidates(seen, HORIZON)[0][0]
    model = forecaster.build(settings, seen, HORIZON, 0, levels)
    forecaster.fit(model, seen, settings)
    return forecaster, model


def forecasts(forecaster: Forecaster, model: Any, levels: Sequence[float] | None = None) -> np.ndarray:
    """(N, H, V, Q) of the windows that begin at `STARTS`."""
    return forecaster.forecast(model, waves(), STARTS, levels)


def told(forecaster: Forecaster, model: Any) -> dict[str, Any]:
    """What a result holds of it, after a way through JSON."""
    found: dict[str, Any] = json.loads(json.dumps({**forecaster.describe(model), **forecaster.resolved(model)}))
    return found
