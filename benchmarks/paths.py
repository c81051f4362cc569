"""`python -m benchmarks.paths`: whether sums, largest and smallest values of sample paths are told as well as steps.

For each data set forecasts of the test part by the bundled model, unfitted and fitted, with independent steps and with
its own dependence, and by DLinear: shares of the truth in the central 80 % interval, the CRPS of steps and sums, and
the energy score, each a mean over the seeds of the draws; the energy score of every seed beside it. Data sets can be
named on the command line; files are read from DARTS_MSFT_DATA.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from darts.models import DLinearModel
from darts.utils.likelihood_models.torch import QuantileRegression
from sklearn.preprocessing import StandardScaler

from benchmarks.data import load
from benchmarks.data.files import Split
from benchmarks.models.base import QUIET
from benchmarks.run.provenance import provenance, quiet
from benchmarks.run.store import FOLDER, add_rows
from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_departures

CONTEXT, HORIZON, ORIGINS, SAMPLES, DAY = 1024, 96, 200, 200, 24
SEEDS = (0, 1, 2)  # of the draws
DATA = ("ETTh1", "ETTm1", "Weather", "sea_temperature", "departures")
TRAINER: dict[str, Any] = {**QUIET, "accelerator": "cpu"}
LEVELS = [0.01, 0.05, *(round(0.1 * step, 1) for step in range(1, 10)), 0.95, 0.99]

Draw = Callable[[list[TimeSeries], int], list[TimeSeries]]
"""Sample paths of the horizon after each series, by a seed."""


def ours(dependence: str, lower: float | None) -> MSFTFoundationModel:
    """The bundled checkpoint, of which nothing is trained by gradients."""
    lengths = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "method": "zero_shot"}
    return MSFTFoundationModel(
        **lengths, lower=lower, sample_dependence=dependence, random_state=0, pl_trainer_kwargs=dict(TRAINER)
    )


def both(train: TimeSeries, val: TimeSeries, lower: float | None, fits: bool) -> dict[str, Draw]:
    """With independent steps and with the model's own dependence; one fit for both."""
    found = {name: ours(name, lower) for name in ("independent", "copula")}
    if fits:
        found["copula"].fit(train, val_series=val)
        with tempfile.TemporaryDirectory() as folder:
            found["copula"].save_adapter(Path(folder) / "adapter")
            found["independent"].load_adapter(Path(folder) / "adapter")
    return {name: partial(_draw, model) for name, model in found.items()}


def dlinear(train: TimeSeries, val: TimeSeries, lower: float | None) -> dict[str, Draw]:
    """As a user of Darts would: standardised, quantiles, the epoch that is best on the validation part."""
    scaler = Scaler(StandardScaler())
    parts = scaler.fit_transform(train), scaler.transform(val)
    with tempfile.TemporaryDirectory() as folder:
        keep = {"save_checkpoints": True, "force_reset": True, "work_dir": folder, "model_name": "dlinear"}
        model = DLinearModel(
            672, HORIZON, shared_weights=True, likelihood=QuantileRegression(LEVELS), n_epochs=30, random_state=0,
            pl_trainer_kwargs=TRAINER | {"enable_checkpointing": True}, **keep,
        )  # fmt: skip
        model.fit(parts[0], val_series=parts[1], stride=max(1, len(train) // 6000), load_best=True, verbose=False)

    def draw(contexts: list[TimeSeries], seed: int) -> list[TimeSeries]:
        known = [scaler.transform(context) for context in contexts]
        paths = [scaler.inverse_transform(one) for one in _draw(model, known, seed)]
        return [path.map(lambda values: np.maximum(values, lower)) for path in paths] if lower is not None else paths

    return {"dlinear": draw}


def _draw(model: Any, contexts: list[TimeSeries], seed: int) -> list[TimeSeries]:
    found: list[TimeSeries] = model.predict(
        HORIZON, contexts, num_samples=SAMPLES, random_state=seed, verbose=False, show_warnings=False
    )
    return found


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of the samples on the last axis."""
    count = samples.shape[-1]
    rank = np.arange(1 - count, count, 2)
    distance = np.abs(samples - truth[..., None]).mean(axis=-1)
    return np.asarray(distance - (np.sort(samples, axis=-1) * rank).sum(axis=-1) / count**2)


def coverage(samples: np.ndarray, truth: np.ndarray) -> float:
    """The share of the truth in the central 80 % of the samples on the last axis."""
    low, high = np.quantile(samples, (0.1, 0.9), axis=-1)
    return float(((truth >= low) & (truth <= high)).mean())


def energy_score(samples: np.ndarray, truth: np.ndarray) -> float:
    """Over the horizon, in units of each component's deviation, averaged over origins and components."""
    paths = torch.from_numpy(np.moveaxis(samples, (1, 3), (3, 2)).copy())  # origin, component, sample, step
    own = torch.from_numpy(np.moveaxis(truth, 1, 2).copy()).unsqueeze(2)
    spread = torch.cdist(paths, paths).sum(dim=(-1, -2)) / (SAMPLES * (SAMPLES - 1))
    score = torch.cdist(paths, own).mean(dim=(-1, -2)) - spread / 2
    return float((score.numpy() / truth.std(axis=(0, 1))).mean())


def scores(samples: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Of samples (N, H, V, M) and truths (N, H, V); "cover" is the share of the truth in the 80 % interval."""
    unit = truth.std(axis=(0, 1))
    weighed = (truth / unit).sum(axis=2, keepdims=True), (samples / unit[:, None]).sum(axis=2, keepdims=True)
    parts = {
        "step": (truth, samples),
        "sum_24": (truth[:, :DAY].sum(axis=1), samples[:, :DAY].sum(axis=1)),
        f"sum_{HORIZON}": (truth.sum(axis=1), samples.sum(axis=1)),
        "maximum": (truth.max(axis=1), samples.max(axis=1)),
        "minimum": (truth.min(axis=1), samples.min(axis=1)),
        "range": (np.ptp(truth, axis=1), np.ptp(samples, axis=1)),
    }
    if truth.shape[2] > 1:
        parts["components_step"] = weighed
    found = {}
    for name, (own, drawn) in parts.items():
        found[f"cover_{name}"] = coverage(drawn, own)
        found[f"crps_{name}"] = float((crps(drawn, own) / (1 if own is weighed[0] else unit)).mean())
    return found | {"energy": energy_score(samples, truth)}


def measure(name: str) -> Iterator[dict[str, Any]]:
    """A row of scores on a data set's test part for each model."""
    if name == "departures":  # counts, so not standardised, and never below 0
        series, lower = load_departures(), 0.0
        train, val, end = Split(0.7, 0.15, 0.15).ends(len(series))
    else:
        found, lower = load(name, "lsf"), None
        series = found.series("test", found.bounds["test"][0])
        train, val, end = (after for _, after in found.bounds.values())
    places = np.unique(np.linspace(val, end - HORIZON, ORIGINS).astype(int))
    contexts = [series[place - CONTEXT : place] for place in places]
    truth = np.stack([series.values()[place : place + HORIZON] for place in places]).astype(float)
    parts = series[:train], series[train - CONTEXT : val], lower
    for model in ("unfitted", "fitted", "dlinear"):
        steps = []  # of each dependence, sorted: the same numbers
        draws = dlinear(*parts) if model == "dlinear" else both(*parts, model == "fitted")
        for dependence, draw in draws.items():
            row: dict[str, Any] = {"model": model, "dependence": dependence, "origins": len(contexts)}
            told, seconds = [], 0.0
            for seed in SEEDS:
                began = time.process_time()
                paths = np.stack([one.all_values(copy=False) for one in draw(contexts, seed)]).astype(float)
                seconds += time.process_time() - began
                told.append(scores(paths, truth))
            steps.append(np.sort(paths, axis=-1))
            row |= {key: round(float(np.mean([one[key] for one in told])), 4) for key in told[0]}
            row |= {"energies": [round(one["energy"], 4) for one in told]}
            row |= {"cpu_seconds": round(seconds / len(SEEDS), 2)}
            if len(steps) > 1:
                row["same_samples_at_each_step"] = bool(np.array_equal(*steps))
            yield row


def run(
    measure: Callable[[str], Iterable[dict[str, Any]]], names: Iterable[str], results: Path, **settings: Any
) -> None:
    """Measures the data sets that the command line names, or all; prints each row, and writes the file after each."""
    torch.set_num_threads(1)
    quiet()
    for name in sys.argv[1:] or names:
        rows = list[dict[str, Any]]()
        for row in measure(name):
            print(name, row, flush=True)
            rows.append({**row, "settings": settings, "provenance": provenance()})
            add_rows(results, rows, data=name)


if __name__ == "__main__":
    run(measure, DATA, FOLDER / "paths.json", context=CONTEXT, horizon=HORIZON, samples=SAMPLES, seeds=SEEDS)
