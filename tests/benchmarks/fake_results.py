"""Made-up results in the form of the store, for tests of tables, pictures and the report; none of them was measured."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data.datasets import Dataset
from benchmarks.models import MODELS, load_forecaster
from benchmarks.run import store as results
from benchmarks.run import suites
from benchmarks.run.experiments import LOCATIONS, PROTOCOL, Budget, Experiment
from benchmarks.summary import Run, Table, tables

PARAMETERS = {"msft": 180_000, "full": 1_350_000, "linear_probe": 60_000, "lora": 90_000, "dlinear": 98_000}
ERRORS = {"msft": 0.38, "full": 0.40, "linear_probe": 0.41, "lora": 0.395, "dlinear": 0.39, "zero_shot": 0.42}
ERRORS |= {"seasonal_naive": 0.5}
WINDOWS = {"ETTh1": 2881, "ETTm1": 11521, "Weather": 10540}


def result(
    model: str, dataset: str = "ETTh1", horizon: int = 96, family: str = "lsf", **changes: Any
) -> dict[str, Any]:
    """One run. `changes` of an `Experiment` (seed, options, budget, test_stride) and of the result itself."""
    of_experiment = {
        name: changes.pop(name) for name in ("seed", "options", "budget", "test_stride") if name in changes
    }
    experiment = Experiment.from_dict(
        {"family": family, "dataset": dataset, "horizon": horizon, "model": model, **of_experiment}
    )
    random = np.random.default_rng(int(experiment.key[:8], 16))
    error = ERRORS.get(model, 0.45) * (1 + 0.1 * random.random())
    lsf = {"mse": error, "mae": 0.9 * error**0.5}
    pf = {"crps": error / 2, "msis": 8 * error, "coverage": 0.7 + error / 4, "mse": error, "mae": error}
    trained = PARAMETERS.get(model, 0)
    return {
        "kind": "run",
        "key": experiment.key,
        "experiment": experiment.to_dict(),
        "settings": settings_of(experiment),
        "choice_key": experiment.choice_key,
        "metrics": lsf if family == "lsf" else pf,
        "windows": (WINDOWS.get(dataset, 500) - horizon) // experiment.test_stride,
        "validation_windows": 200,
        "trained_parameters": trained,
        "parameters": 1_350_000,
        "weights": "a" * 64,
        "protocol": PROTOCOL,
        "defaults": "d" * 64,
        "resolved": resolved_of(experiment),
        "suite": "first",
        "command": "python -m benchmarks run --suite first",
        "data_hash": hashlib.sha256(dataset.encode()).hexdigest(),
        "scale_weights": random.dirichlet([6, 3, 2]).tolist() if model == "msft" else None,
        "fit_report": None,
        "seconds": {"fit": 0.01 + trained**0.5 * random.uniform(0.5, 1), "forecast": 4.5},
        "processor_seconds": {"fit": 0.02 + trained**0.5 * random.uniform(1, 2), "forecast": 9.0},
        "peak_memory_mb": 812.0,
        "examples": [_example(random, start, horizon, family) for start in (11520, 12912, 14304)],
        "provenance": {
            "made": "2026-01-02T03:04:05+00:00",
            "commit": "c67c8c5" + "0" * 33,
            "dirty": False,
            "versions": {"python": "3.11.9", "torch": "2.13.0"},
            "machine": "x86_64",
            "device": "cpu",
            "threads": 2,
        },
        **changes,
    }


def settings_of(experiment: Experiment) -> dict[str, Any]:
    """The model's own candidate with the context of 512 steps, else its first; made-up models have a context alone."""
    options = {name: value for name, value in experiment.options.items() if name not in LOCATIONS}
    if experiment.model not in MODELS or experiment.model == "chronos2":  # whose candidates need its weights
        return {"look_back": 512}
    found = _candidates(experiment.model, json.dumps(options), experiment.budget, experiment.horizon)
    return next((settings for settings in found if settings["look_back"] == 512), found[0])


def resolved_of(experiment: Experiment) -> dict[str, Any]:
    """Patches of 32 steps, and K = 2 where it is left open."""
    scales = experiment.options.get("num_scales", 2 if experiment.model == "msft" else 0)
    sizes = {"patch_size": 32, "num_scales": scales} if experiment.model in suites.OURS else {}
    return {"look_back": 512, **sizes}


@functools.cache
def _candidates(model: str, options: str, budget: Budget, horizon: int) -> list[dict[str, Any]]:
    bounds = {"train": (0, 9000), "validation": (9000, 9500), "test": (9500, 9999)}
    data = Dataset("ETTh1", "lsf", "h", 24, np.zeros((1, 1), np.float32), ("OT",), pd.DatetimeIndex([]), bounds)
    return load_forecaster(model, json.loads(options), budget).candidates(data, horizon)


def _example(random: np.random.Generator, start: int, horizon: int, family: str) -> dict[str, Any]:
    """A daily wave under a slow one; all models see the same truth at a start."""
    time = np.arange(-2 * horizon, horizon)
    values = np.sin(2 * np.pi * time / 24) + 0.6 * np.sin(2 * np.pi * (time + start) / 170)
    noise = np.random.default_rng(start).standard_normal(len(time)).cumsum() * 0.05
    levels = [0.5] if family == "lsf" else [0.025, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.975]
    middle = values[2 * horizon :] * random.uniform(0.6, 1) + noise[2 * horizon]
    width = 0.5 + 2 * (np.arange(horizon) / horizon) ** 0.5
    values += noise
    return {
        "start": start,
        "variable": "OT",
        "context": np.round(values[: 2 * horizon], 4).tolist(),
        "target": np.round(values[2 * horizon :], 4).tolist(),
        "levels": levels,
        "quantiles": np.round([middle + (level - 0.5) * width for level in levels], 4).tolist(),
    }


def store(folder: Path, *found: dict[str, Any]) -> Path:
    """Puts them into a store, as the runner does."""
    for entry in found:
        results.add(folder, entry)
    return folder


def tables_of(*found: dict[str, Any], weights: str | None = None) -> list[Table]:
    """The tables of results that are in no store."""
    return tables([Run(Path(f"{number}.json"), entry) for number, entry in enumerate(found)], weights)


def arguments_of(module: Any, *words: str) -> argparse.Namespace:
    """What a command's `main` gets for these words."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)
