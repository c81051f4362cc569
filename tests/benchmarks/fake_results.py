"""Made-up results in the form of the store; none of them was measured."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from benchmarks.run import store as results
from benchmarks.run.experiments import PROTOCOL, Experiment
from benchmarks.show.frame import read
from benchmarks.show.tables import Table, tables

FIELDS = ("seed", "options", "budget", "test_stride")  # of an `Experiment`


def result(
    model: str, dataset: str = "ETTh1", horizon: int = 96, family: str = "lsf", **changes: Any
) -> dict[str, Any]:
    """One run; `changes` of an `Experiment` (seed, options, budget, test_stride) and of the result itself."""
    place = {"family": family, "dataset": dataset, "horizon": horizon, "model": model}
    experiment = Experiment.from_dict({**place, **{name: changes.pop(name) for name in FIELDS if name in changes}})
    return {
        **dict.fromkeys(results.NEEDED["run"]),
        "kind": "run",
        "key": experiment.key,
        "experiment": experiment.to_dict(),
        "metrics": {"mse": 0.4, "mae": 0.6},
        "windows": 2880 // experiment.test_stride,
        "weights": "a" * 64,
        "protocol": PROTOCOL,
        "defaults": "d" * 64,
        "suite": "first",
        "command": "python -m benchmarks run --suite first",
        "data_hash": hashlib.sha256(dataset.encode()).hexdigest(),
        "settings": {"look_back": 512, "finest_context": None},
        "resolved": {"patch_size": 32},
        "seconds": {"fit": 12.5, "forecast": 4.5},
        "processor_seconds": {"fit": 20.0, "forecast": 9.0},
        "provenance": {"made": "2026-01-02T03:04:05+00:00", "commit": "c67c8c5" + "0" * 33, "dirty": False},
        **changes,
    }


def of(model: str, value: float, dataset: str = "ETTh1", horizon: int = 96, **changes: Any) -> dict[str, Any]:
    """A run of "lsf" with this MSE and MAE."""
    return result(model, dataset, horizon, metrics={"mse": value, "mae": value}, **changes)


def store(folder: Path, *found: dict[str, Any]) -> Path:
    """Puts them into a store, as the runner does."""
    for entry in found:
        results.add(folder, entry)
    return folder


def tables_of(folder: Path, *found: dict[str, Any]) -> list[Table]:
    return tables(read(store(folder, *found)))
