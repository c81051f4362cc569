"""What is done for an experiment: its settings are chosen on the validation part, then it is measured on the test part.

A choice fits every candidate and takes the one with the lowest MSE (LSF) or CRPS (PF). It is made with seed 0 and
holds for all seeds and test strides. Where a model has one candidate alone there is nothing to fit.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import datasets
from benchmarks.datasets import Dataset
from benchmarks.experiments import Experiment
from benchmarks.measures import LEVELS, Measured, measure
from benchmarks.models import load_forecaster
from benchmarks.models.base import Forecaster
from benchmarks.processes import peak_memory_mb
from benchmarks.provenance import provenance

CHOOSING_SEED = 0
DECIDES = {"lsf": "mse", "pf": "crps"}


def choose(experiment: Experiment, folder: str | Path | None) -> dict[str, Any]:
    """The settings with the best validation score, and all that were tried; `folder` holds the data."""
    quiet()
    dataset, forecaster = load(experiment, folder)
    stride, rows = validation_stride(experiment, dataset), list[dict[str, Any]]()
    for settings in candidates(experiment, dataset, forecaster):
        begin = time.perf_counter()
        model = fitted(experiment, forecaster, dataset, settings, CHOOSING_SEED)
        validation = errors(experiment, model, dataset, settings, "validation", stride).metrics
        rows.append({"settings": settings, "validation": validation, "seconds": time.perf_counter() - begin})
    best = min(rows, key=lambda row: row["validation"][DECIDES[experiment.family]])
    return _choice(experiment, dataset, forecaster, rows, best["settings"])


def only_choice(experiment: Experiment, folder: str | Path | None) -> dict[str, Any] | None:
    """The same where there is one candidate alone, without a fit (its row has no score); else None."""
    dataset, forecaster = load(experiment, folder)
    settings, *others = candidates(experiment, dataset, forecaster)
    if others:
        return None
    rows = [{"settings": settings, "validation": None, "seconds": 0.0}]
    return _choice(experiment, dataset, forecaster, rows, settings)


def _choice(
    experiment: Experiment, dataset: Dataset, forecaster: Forecaster, rows: list[dict[str, Any]], chosen: dict[str, Any]
) -> dict[str, Any]:
    return {
        "kind": "choice",
        "key": experiment.choice_key,
        "experiment": experiment.to_dict(),
        "rows": rows,
        "chosen": chosen,
        "decided_by": DECIDES[experiment.family],
        "data_hash": dataset.hash,
        "weights": forecaster.weights(),
        "provenance": provenance(),
    }


def test(experiment: Experiment, settings: Mapping[str, Any], folder: str | Path | None) -> dict[str, Any]:
    """One result: fitted with these settings, and measured on the test part."""
    quiet()
    dataset, forecaster = load(experiment, folder)
    begin = time.perf_counter()
    model = fitted(experiment, forecaster, dataset, settings, experiment.seed)
    seconds = time.perf_counter() - begin
    measured = errors(experiment, model, dataset, settings, "test", experiment.test_stride)
    return {
        "kind": "run",
        "key": experiment.key,
        "experiment": experiment.to_dict(),
        "settings": dict(settings),
        "choice_key": experiment.choice_key,
        "metrics": measured.metrics,
        "windows": measured.windows,
        "without_msis": measured.without_msis,
        **forecaster.describe(model),
        "data_hash": dataset.hash,
        "file_hash": dataset.file_hash,
        "seconds": {"fit": seconds, "forecast": measured.seconds},
        "peak_memory_mb": peak_memory_mb(),
        "provenance": provenance(),
        "examples": measured.examples,
    }


def load(experiment: Experiment, folder: str | Path | None) -> tuple[Dataset, Forecaster]:
    """The experiment's data set and row of the table."""
    dataset = datasets.load(experiment.dataset, experiment.family, folder)
    return dataset, load_forecaster(experiment.model, experiment.options, experiment.budget)


def candidates(experiment: Experiment, dataset: Dataset, forecaster: Forecaster) -> list[dict[str, Any]]:
    """The settings to choose from; none is an error."""
    found = forecaster.candidates(dataset, experiment.horizon)
    if not found:
        raise ValueError(
            f"{experiment.model} has no setting for {experiment.dataset} at horizon {experiment.horizon} with the "
            f"options {dict(experiment.options)}; give others"
        )
    return found


def fitted(
    experiment: Experiment, forecaster: Forecaster, dataset: Dataset, settings: Mapping[str, Any], seed: int
) -> Any:
    """The model, built and fitted."""
    levels = LEVELS if experiment.family == "pf" else None
    model = forecaster.build(settings, dataset, experiment.horizon, seed, levels)
    forecaster.fit(model, dataset, settings)
    return model


def errors(
    experiment: Experiment, model: Any, dataset: Dataset, settings: Mapping[str, Any], part: str, stride: int
) -> Measured:
    levels = LEVELS if experiment.family == "pf" else None
    return measure(model, dataset, part, experiment.horizon, stride, settings["look_back"], levels)


def validation_stride(experiment: Experiment, dataset: Dataset) -> int:
    """Steps between validation windows: as in the test part at its densest, thinned to what the budget allows."""
    densest = experiment.horizon if experiment.family == "pf" else 1
    windows = len(dataset.starts("validation", experiment.horizon, densest))
    return densest * experiment.budget.stride(windows, experiment.budget.validation_windows)


def quiet() -> None:
    """No messages of Lightning's at every forecast."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", message=".*('pin_memory'|LeafSpec).*")
