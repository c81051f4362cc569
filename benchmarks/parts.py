"""The benchmark data: splits, standardisation, windows, and errors summed over chunks of windows.

Splits of the long-sequence-forecasting literature: ETT 12, 4 and 4 months of 30 days; Weather 70, 10 and 20 %. Each
variable is standardised with training statistics. Windows may look back into the part before. Shapes: N windows,
H horizon steps, V variables, Q quantile levels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries

from darts_msft.datasets import DATA_DIR_VARIABLE, load_dataset

STEPS_PER_DAY = {"ETTh1": 24, "ETTm1": 96, "Weather": 144}
VALIDATION_STRIDE = {"ETTh1": 8, "ETTm1": 32, "Weather": 32}  # a few hundred windows each
PARTS = ("train", "validation", "test")
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
CHUNK = 256  # windows forecast at once

_WEATHER_FILE, _WEATHER_MD5 = "weather.csv", "2e79e5e4c921d3542684c4a34c6748b4"


@dataclass(frozen=True)
class Data:
    """A data set up to the test part's end, standardised; `bounds[part]` is its first step and the one after it."""

    name: str
    day: int
    values: np.ndarray
    bounds: dict[str, tuple[int, int]]

    @classmethod
    def make(cls, name: str, day: int, raw: np.ndarray, ends: Sequence[int]) -> Data:
        """`raw` (T, V), and where the three parts end."""
        train = raw[: ends[0]].astype(np.float64)
        values = (raw[: ends[-1]] - train.mean(axis=0)) / train.std(axis=0)
        bounds = dict(zip(PARTS, zip([0, *ends[:-1]], ends, strict=True), strict=True))
        return cls(name, day, values.astype(np.float32), bounds)

    def series(self, part: str, look_back: int = 0) -> TimeSeries:
        begin, end = self.bounds[part]
        return TimeSeries.from_values(self.values[begin - look_back : end])

    def starts(self, part: str, horizon: int, stride: int) -> range:
        """The first horizon step of every window; all `horizon` steps lie within the part."""
        begin, end = self.bounds[part]
        if begin + horizon > end:
            raise ValueError(
                f"horizon={horizon} does not fit into the {part} part of {self.name}; take at most {end - begin} steps"
            )
        return range(begin, end - horizon + 1, stride)

    def targets(self, starts: range, horizon: int) -> np.ndarray:
        """What came, (N, H, V)."""
        return self.values[np.asarray(starts)[:, None] + np.arange(horizon)]

    @property
    def hash(self) -> str:
        return hashlib.sha256(np.ascontiguousarray(self.values)).hexdigest()


def load(name: str, folder: str | None) -> Data:
    """A benchmark by name, from the folder with the files `ETTh1.csv`, `ETTm1.csv` and `weather.csv`."""
    if name not in STEPS_PER_DAY:
        raise ValueError(f"data set {name!r} is not known; choose one of {', '.join(STEPS_PER_DAY)}")
    day = STEPS_PER_DAY[name]
    if name == "Weather":
        raw = _read_weather(folder)
        train, test = int(0.7 * len(raw)), int(0.2 * len(raw))
        return Data.make(name, day, raw, [train, len(raw) - test, len(raw)])
    return Data.make(name, day, load_dataset(name, folder).values(), [months * 30 * day for months in (12, 16, 20)])


def _read_weather(folder: str | None) -> np.ndarray:
    found = folder or os.environ.get(DATA_DIR_VARIABLE)
    if found is None:
        raise ValueError(f"Weather has no folder to be read from; give --data, or set {DATA_DIR_VARIABLE}")
    path = Path(found) / _WEATHER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; put the file of Autoformer's data sets there")
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if md5 != _WEATHER_MD5:
        raise ValueError(
            f"{path} is not the benchmark's file: its MD5 sum is {md5}, expected {_WEATHER_MD5}; take the weather.csv "
            "of Autoformer's data sets"
        )
    return pd.read_csv(path, encoding="latin-1").iloc[:, 1:].to_numpy(np.float64)


class Score:
    """Errors over windows, steps and variables, added up chunk by chunk in double precision.

    The point forecast is the median. With several levels, ascending: their mean pinball loss (about half the CRPS),
    and the share of values between the first and the last quantile (the central 80 % interval of `QUANTILES`).
    """

    def __init__(self, levels: Sequence[float] = (0.5,)) -> None:
        self.levels = np.asarray(levels)
        self.sums = dict.fromkeys(("mse", "mae", "pinball", "coverage"), 0.0)
        self.count = 0

    def add(self, quantiles: np.ndarray, target: np.ndarray) -> None:
        """Quantiles (N, H, V, Q) and what came (N, H, V)."""
        if quantiles.shape != (*target.shape, len(self.levels)):
            raise ValueError(
                f"forecasts of shape {quantiles.shape} do not cover the targets {target.shape} at {len(self.levels)} "
                "levels; forecast every window and step at every level"
            )
        error = target.astype(np.float64)[..., None] - quantiles
        middle = error[..., list(self.levels).index(0.5)]
        self.sums["mse"] += np.square(middle).sum()
        self.sums["mae"] += np.abs(middle).sum()
        self.sums["pinball"] += np.maximum(self.levels * error, (self.levels - 1) * error).mean(axis=-1).sum()
        self.sums["coverage"] += ((error[..., 0] >= 0) & (error[..., -1] <= 0)).sum()
        self.count += target.size

    def result(self) -> dict[str, float]:
        names = ("mse", "mae") if len(self.levels) == 1 else tuple(self.sums)
        return {name: float(self.sums[name]) / self.count for name in names}


def forecast(model: Any, data: Data, starts: range, horizon: int, num_levels: int = 1) -> np.ndarray:
    """A Darts model's forecasts of the windows at `starts` as (N, H, V, Q), each from the steps before it alone.

    With `num_levels` over 1 the model has a quantile likelihood of that many levels, whose parameters are taken.
    """
    first, last = starts[0] - model.input_chunk_length, starts[-1] + horizon
    if first < 0:
        raise ValueError(
            f"a window at step {starts[0]} of {data.name} has no {model.input_chunk_length} steps before it; "
            f"take a context of at most {starts[0]}"
        )
    found = model.historical_forecasts(
        TimeSeries.from_values(data.values[first:last]),
        forecast_horizon=horizon,
        stride=starts.step,
        retrain=False,
        last_points_only=False,
        predict_likelihood_parameters=num_levels > 1,
    )
    return np.stack([window.values().reshape(horizon, -1, num_levels) for window in found])


def score(
    model: Any, data: Data, part: str, horizon: int, stride: int, levels: Sequence[float] = (0.5,)
) -> dict[str, float]:
    """The model's errors over a part's windows, forecast in chunks so that memory stays bounded."""
    starts, total = data.starts(part, horizon, stride), Score(levels)
    for position in range(0, len(starts), CHUNK):
        chunk = starts[position : position + CHUNK]
        total.add(forecast(model, data, chunk, horizon, len(levels)), data.targets(chunk, horizon))
    return total.result()


def naive_score(data: Data, part: str, horizon: int, stride: int) -> dict[str, float]:
    """The same for seasonal naive: the last day repeated."""
    starts, total = data.starts(part, horizon, stride), Score()
    steps = np.arange(horizon) % data.day - data.day
    for position in range(0, len(starts), CHUNK):
        chunk = starts[position : position + CHUNK]
        last_day = data.values[np.asarray(chunk)[:, None] + steps]
        total.add(last_day[..., None], data.targets(chunk, horizon))
    return total.result()
