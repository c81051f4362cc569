"""The bundled checkpoint's figures: zero-shot, after MSFT, and seasonal naive, on the test part of the ETT sets.

    python -m benchmarks.checkpoint --data ../shared/data [--datasets ETTh1 --horizons 96 --stride 1 --epochs 8]

Splits and standardisation of the long-sequence-forecasting literature: training 12, validation 4, test 4 months of
30 days, each variable standardised with training statistics. The context and every setting of MSFT are defaults or
were chosen on validation data; the test part is read once, here. `--epochs 0` leaves MSFT out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from sklearn.preprocessing import StandardScaler

from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset
from darts_msft.weights import bundled, load_state, state_hash

RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
STEPS_PER_DAY = {"ETTh1": 24, "ETTm1": 96}
CONTEXT = 512


def split(name: str, folder: str | None) -> tuple[TimeSeries, TimeSeries, TimeSeries]:
    """Training, validation and test series, standardised; the last two look back CONTEXT steps."""
    series, month = load_dataset(name, folder), 30 * STEPS_PER_DAY[name]
    scaler = Scaler(StandardScaler())
    train = scaler.fit_transform(series[: 12 * month])
    validation = scaler.transform(series[12 * month - CONTEXT : 16 * month])
    return train, validation, scaler.transform(series[16 * month - CONTEXT : 20 * month])


def errors(model: MSFTFoundationModel, test: TimeSeries, horizon: int, stride: int) -> dict[str, float]:
    """MSE and MAE over all windows, steps and variables."""
    forecasts = model.historical_forecasts(
        test, forecast_horizon=horizon, stride=stride, retrain=False, last_points_only=False
    )
    return _errors(np.stack([forecast.values() for forecast in forecasts]), _targets(test, horizon, stride))


def naive_errors(test: TimeSeries, horizon: int, stride: int, day: int) -> dict[str, float]:
    """The same for the last day repeated."""
    values = test.values()
    starts = range(CONTEXT, len(values) - horizon + 1, stride)
    steps = np.arange(horizon) % day - day
    return _errors(np.stack([values[start + steps] for start in starts]), _targets(test, horizon, stride))


def _targets(test: TimeSeries, horizon: int, stride: int) -> np.ndarray:
    values = test.values()
    starts = range(CONTEXT, len(values) - horizon + 1, stride)
    return np.stack([values[start : start + horizon] for start in starts])


def _errors(forecast: np.ndarray, target: np.ndarray) -> dict[str, float]:
    if forecast.shape != target.shape:
        raise ValueError(f"forecasts {forecast.shape} and targets {target.shape} do not cover the same windows")
    difference = forecast.astype(np.float64) - target
    return {"mse": float(np.square(difference).mean()), "mae": float(np.abs(difference).mean())}


def measure(name: str, horizon: int, arguments: argparse.Namespace) -> dict[str, Any]:
    train, validation, test = split(name, arguments.data)
    settings: dict[str, Any] = {
        "input_chunk_length": CONTEXT,
        "output_chunk_length": horizon,
        "likelihood": None,
        "random_state": 0,
        "pl_trainer_kwargs": {"accelerator": "cpu", "enable_model_summary": False},
    }
    zero_shot = MSFTFoundationModel(**settings)
    rows = {
        "seasonal naive": naive_errors(test, horizon, arguments.stride, STEPS_PER_DAY[name]),
        "zero-shot": errors(zero_shot, test, horizon, arguments.stride),
    }
    if arguments.epochs:
        begin = time.perf_counter()
        model = MSFTFoundationModel(**settings, n_epochs=arguments.epochs)
        model.fit(train, val_series=validation, stride=arguments.train_stride)
        rows["MSFT"] = errors(model, test, horizon, arguments.stride)
        rows["MSFT"] |= {"fit_seconds": time.perf_counter() - begin, "scale_weights": model.scale_weights.tolist()}
    return {"dataset": name, "horizon": horizon, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint", description=__doc__)
    parser.add_argument("--data", help="folder with the ETT files")
    parser.add_argument("--datasets", nargs="+", default=["ETTh1"], choices=sorted(STEPS_PER_DAY))
    parser.add_argument("--horizons", nargs="+", type=int, default=[96])
    parser.add_argument("--stride", type=int, default=1, help="steps between test windows")
    parser.add_argument("--train-stride", type=int, default=8, help="steps between training (and validation) windows")
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    source = bundled("moirai-tiny")
    if source is None:
        raise FileNotFoundError("the bundled checkpoint is missing")
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    for name in arguments.datasets:
        for horizon in arguments.horizons:
            result = {
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "commit": git.stdout.strip(),
                "weights": state_hash(load_state(source)),
                "settings": vars(arguments),
                **measure(name, horizon, arguments),
            }
            results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
            RESULTS.write_text(json.dumps([*results, result], indent=1) + "\n")
            for label, row in result["rows"].items():
                print(f"{name}-{horizon:<4d} {label:15s} MSE {row['mse']:.3f}  MAE {row['mae']:.3f}")


if __name__ == "__main__":
    main()
