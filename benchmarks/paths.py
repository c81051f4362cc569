"""`python -m benchmarks.paths`: whether sums, largest and smallest values of sample paths are told as well as steps.

For each data set, unfitted and fitted, forecasts of the test part with independent steps and with the model's own
dependence: shares of the truth in the central 80 % interval, the CRPS of steps and sums, and the energy score.
"""

from __future__ import annotations

import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from darts import TimeSeries

from benchmarks.errors import Misuse
from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset

RESULTS = Path(__file__).parent / "results" / "paths.json"
CONTEXT, HORIZON, SAMPLES, SEED, DAY = 1024, 96, 200, 0, 24
MONTH = 30 * 24  # hours
PARTS: dict[str, tuple[float, float, float]] = {
    "ETTh1": (12 * MONTH, 16 * MONTH, 20 * MONTH),
    "ETTm1": (12 * MONTH * 4, 16 * MONTH * 4, 20 * MONTH * 4),
    "departures": (0.7, 0.85, 1.0),
    "sea_temperature": (0.7, 0.85, 1.0),
}
"""Where the training, validation and test part end, in steps or as shares."""
LOWER = {"departures": 0.0}  # counts
TRAINER: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_model_summary": False}
TRAINER |= {"enable_progress_bar": False, "enable_checkpointing": False}


def make(dependence: str, lower: float | None) -> MSFTFoundationModel:
    """The bundled checkpoint, of which nothing is trained."""
    lengths = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "method": "zero_shot"}
    return MSFTFoundationModel(
        **lengths, lower=lower, sample_dependence=dependence, random_state=SEED, pl_trainer_kwargs=dict(TRAINER)
    )


def models(series: TimeSeries, train: int, val: int, lower: float | None, fits: bool) -> dict[str, MSFTFoundationModel]:
    """With independent steps and with the model's own dependence; one fit for both."""
    found = {name: make(name, lower) for name in ("independent", "copula")}
    if fits:
        found["copula"].fit(series[:train], val_series=series[train - CONTEXT : val])
        with tempfile.TemporaryDirectory() as folder:
            found["copula"].save_adapter(Path(folder) / "adapter")
            found["independent"].load_adapter(Path(folder) / "adapter")
    return found


def samples_of(model: MSFTFoundationModel, contexts: list[TimeSeries]) -> tuple[np.ndarray, float]:
    """(origin, step, component, sample), and the seconds of this process's own work."""
    began = time.process_time()
    forecasts = model.predict(HORIZON, contexts, num_samples=SAMPLES, random_state=SEED)
    return np.stack([one.all_values(copy=False) for one in forecasts]).astype(float), time.process_time() - began


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of the samples on the last axis."""
    count = samples.shape[-1]
    rank = np.arange(1 - count, count, 2)
    distance = np.abs(samples - truth[..., None]).mean(axis=-1)
    return np.asarray(distance - (np.sort(samples, axis=-1) * rank).sum(axis=-1) / count**2)


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
        low, high = np.quantile(drawn, (0.1, 0.9), axis=-1)
        found[f"cover_{name}"] = float(((own >= low) & (own <= high)).mean())
        found[f"crps_{name}"] = float((crps(drawn, own) / (1 if own is weighed[0] else unit)).mean())
    return found | {"energy": energy_score(samples, truth)}


def measure(name: str, fits: bool, origins: int, data: Path | None) -> dict[str, Any]:
    """Both models' scores on a data set's test part."""
    series = load_dataset(name, data)
    train, val, end = (int(part * len(series)) if part <= 1 else int(part) for part in PARTS[name])
    places = np.unique(np.linspace(val, end - HORIZON, origins).astype(int))
    contexts = [series[place - CONTEXT : place] for place in places]
    truth = np.stack([series.values()[place : place + HORIZON] for place in places]).astype(float)
    found: dict[str, Any] = {"data": name, "fitted": fits, "origins": len(places)}
    drawn = {}
    for how, model in models(series, train, val, LOWER.get(name), fits).items():
        drawn[how], seconds = samples_of(model, contexts)
        found[how] = {key: round(value, 4) for key, value in scores(drawn[how], truth).items()}
        found[how]["cpu_seconds"] = round(seconds, 2)
    both = (np.sort(one, axis=-1) for one in drawn.values())
    found["same_samples_at_each_step"] = bool(np.array_equal(*both))
    return found


def main(
    data: Annotated[Path | None, typer.Option(help="folder with ETTh1.csv and ETTm1.csv")] = None,
    only: Annotated[list[str] | None, typer.Option(help="this data set alone")] = None,
    origins: Annotated[int, typer.Option(help="forecasts of each test part")] = 200,
    output: Annotated[Path, typer.Option(help="file of the results")] = RESULTS,
) -> None:
    """Measure, print a line for each data set and way, and write the file after each."""
    if unknown := set(only or ()) - PARTS.keys():
        raise Misuse(f"{sorted(unknown)} are not known; take some of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True)
    settings = {"backbone": "moirai-tiny", "context": CONTEXT, "horizon": HORIZON, "samples": SAMPLES, "seed": SEED}
    settings |= {"commit": commit.stdout.strip(), "torch": torch.__version__, "python": platform.python_version()}
    rows = []
    for name in only or PARTS:
        for fits in (False, True):
            row = measure(name, fits, origins, data)
            print(name, "fitted" if fits else "unfitted", f"same samples: {row['same_samples_at_each_step']}")
            for how in ("independent", "copula"):
                print(f"  {how:12}", *(f"{key} {value:.3f}" for key, value in row[how].items()), flush=True)
            rows.append(row)
            output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
