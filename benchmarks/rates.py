"""Learning rates of every finetuning method, compared on validation data alone.

    python -m benchmarks.rates --data ../shared/data [--methods msft lora --datasets ETTh1 ETTm1 --seeds 0]

For each method the rate of the parameters that it is about is varied; MSFT's pretrained and head rates are a tenth of
that of its new modules. The test parts are not read. Runs that have a result in `results/rates.json` for the same
weights and settings are skipped, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from sklearn.preprocessing import StandardScaler

from benchmarks.provenance import provenance
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.datasets import load_dataset
from darts_msft.weights import load_state, state_hash

RESULTS = Path(__file__).parent / "results" / "rates.json"
PARTS = {"ETTh1": (8640, 11520), "ETTm1": (34560, 46080)}  # ends of the training and the validation part
STRIDES = {"ETTh1": 16, "ETTm1": 64}  # steps between training (and validation) windows: 16 hours, some 500 windows
CONTEXT, HORIZON = 512, 96
GRID: dict[str, tuple[float, ...]] = {
    "msft": (1e-4, 3e-4, 1e-3),
    "full": (3e-5, 1e-4, 3e-4),
    "linear_probe": (3e-4, 1e-3, 3e-3),
    "prompt": (1e-3, 3e-3, 1e-2),
    "lora": (3e-4, 1e-3, 3e-3),
    "adalora": (1e-3, 3e-3, 1e-2),
    "scratch": (3e-4, 1e-3, 3e-3),
}


def rates_of(method: str, rate: float) -> dict[str, float]:
    """The model's rates where the method's main one is `rate`."""
    if method in ("full", "scratch"):
        return {"lr_pretrained": rate, "lr_head": rate}
    if method == "linear_probe":
        return {"lr_head": rate}
    if method == "msft":
        return {"lr_new": rate, "lr_pretrained": rate / 10, "lr_head": rate / 10}
    return {"lr_new": rate}


def parts(name: str, folder: str | None) -> tuple[TimeSeries, TimeSeries]:
    """Training and validation series, standardised with training statistics; the latter looks back CONTEXT steps."""
    first, second = PARTS[name]
    series = load_dataset(name, folder)
    scaler = Scaler(StandardScaler())
    train = scaler.fit_transform(series[:first])
    return train, scaler.transform(series[first - CONTEXT : second])


def fit(run: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    train, validation = parts(run["dataset"], arguments.data)
    train, validation = train.astype(np.float32), validation.astype(np.float32)
    model = MSFTFoundationModel(
        CONTEXT,
        HORIZON,
        backbone=run["backbone"],
        method=run["method"],
        n_epochs=run["epochs"],
        random_state=run["seed"],
        pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
        **rates_of(run["method"], run["rate"]),
    )
    begin = time.perf_counter()
    model.fit(train, val_series=validation, stride=run["stride"])
    scores = {candidate.label: candidate.score for candidate in model.candidates}
    return {"scores": scores, "best": min(scores.values()), "seconds": time.perf_counter() - begin}


def plan(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every run, as the settings that tell it from others."""
    source, _, _ = describe(arguments.backbone)
    shared = {"backbone": arguments.backbone, "weights": state_hash(load_state(source))}
    shared |= {"context": CONTEXT, "horizon": HORIZON, "epochs": arguments.epochs}
    return [
        {**shared, "dataset": dataset, "stride": STRIDES[dataset], "method": method, "rate": rate, "seed": seed}
        for dataset in arguments.datasets
        for method in arguments.methods
        for rate in GRID[method]
        for seed in arguments.seeds
    ]


def table(results: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Prints the best validation score of each method and rate, and its ratio to that before training (zero-shot).

    For "scratch" the untrained state is no measure: there the score alone counts.
    """
    print(f"\n{'method':<14}{'rate':>9}   best validation CRPS (over that before training), mean over seeds")
    for method, grid in GRID.items():
        for rate in grid:
            chosen = [
                r for r in results if r["run"] in runs and (r["run"]["method"], r["run"]["rate"]) == (method, rate)
            ]
            cells = ""
            for name in dict.fromkeys(r["run"]["dataset"] for r in chosen):
                own = [r for r in chosen if r["run"]["dataset"] == name]
                cells += f"  {name} {np.mean([r['best'] for r in own]):.4f}"
                if method != "scratch":
                    cells += f" ({np.mean([r['best'] / next(iter(r['scores'].values())) for r in own]):.4f})"
            if cells:
                print(f"{method:<14}{rate:>9.0e} {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rates", description=__doc__)
    parser.add_argument("--data", help="folder with the ETT files")
    parser.add_argument("--backbone", default="moirai-tiny")
    parser.add_argument("--methods", nargs="+", default=list(GRID), choices=list(GRID))
    parser.add_argument("--datasets", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    runs = plan(arguments)
    for run in runs:
        if any(result["run"] == run for result in results):
            continue
        results.append({"run": run, **provenance(), **fit(run, arguments)})
        part = RESULTS.with_suffix(".part")
        part.write_text(json.dumps(results, indent=1) + "\n")
        part.replace(RESULTS)
        print(run["dataset"], run["method"], run["rate"], f"{results[-1]['best']:.4f}", flush=True)
    table(results, runs)


if __name__ == "__main__":
    main()
