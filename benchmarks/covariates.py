"""`python -m benchmarks.covariates`: what covariates gain, and what they cost where they tell nothing.

The bundled checkpoint, fitted with and without future covariates that are known, on the same training and validation
part; mean squared and absolute errors of forecasts of the test part from evenly spaced origins. "told": the covariate
makes the series but for noise of variance 1. "noise": it has nothing to do with it. "departures": with the days around
holidays, and the weather as it was observed, which nobody knows ahead. "ETTh1", "Weather": their variates apart and
together, finetuned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.utils.timeseries_generation import holidays_timeseries
from scipy.signal import lfilter

from benchmarks.origins import SPLIT, TRAINER, Ends, run, series_of, windows_of
from benchmarks.run.store import FOLDER
from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_departures_weather

CONTEXT, HORIZON, ORIGINS = 512, 96, 200
STEPS, DAY, SEEDS = 4000, 24, (0, 1, 2)  # of synthetic series
ZERO_SHOT: dict[str, Any] = {"method": "zero_shot"}
TRAINED: dict[str, Any] = {"method": "full", "linear_member": False, "n_epochs": 5}

Case = tuple[TimeSeries, Ends, dict[str, TimeSeries | None], dict[str, dict[str, Any]]]
"""A series, the ends of its parts, the covariates to compare, and settings of the models to compare."""


def _hourly(values: np.ndarray) -> TimeSeries:
    times = pd.date_range("2024-01-01", periods=len(values), freq="h")
    return TimeSeries.from_times_and_values(times, values.astype(np.float32))


def _remembering(rng: np.random.Generator, share: float) -> np.ndarray:
    """Of variance 1, correlated by `share` from step to step."""
    noise = rng.standard_normal(STEPS)
    noise[1:] *= np.sqrt(1 - share**2)
    return lfilter([1.0], [1.0, -share], noise)[:, None]


def told(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    known = _remembering(rng, 0.5)
    series = 10 + 3 * known + rng.standard_normal((STEPS, 1))
    models = {"fitted": ZERO_SHOT, "scales alone, finetuned": TRAINED}
    return _hourly(series), SPLIT.ends(STEPS), {"none": None, "known": _hourly(known)}, models


def noise(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    series = np.sin(2 * np.pi * np.arange(STEPS) / DAY)[:, None] + 0.5 * _remembering(rng, 0.9)
    known = np.hstack([rng.standard_normal((STEPS, 1)), _remembering(rng, 0.9), _remembering(rng, 0.99)])
    return _hourly(series), SPLIT.ends(STEPS), {"none": None, "3 of noise": _hourly(known)}, {"fitted": ZERO_SHOT}


def departures(_: int) -> Case:
    """Hours around holidays: one on, before and after them, times the hour's usual share, as nobody flies at night."""
    (series, ends), weather = series_of("departures"), load_departures_weather().values()
    weather = weather.reshape(len(series), 3, 4).mean(axis=1)  # of the airports: more covariates are refused
    holiday = holidays_timeseries(series.time_index, "US")
    days = holiday.values()[::DAY, 0]
    around = np.stack([days, np.roll(days, -1), np.roll(days, 1)], axis=1).repeat(DAY, axis=0)  # on, before, after
    shape = series.values()[: ends[0] // DAY * DAY].mean(axis=1).reshape(-1, DAY).mean(axis=0)
    daily = np.tile(shape, len(days))[:, None]
    hours = series.with_values((around * daily / shape.mean()).astype(np.float32))
    known = {
        "none": None,
        "holidays": holiday.astype(np.float32),
        "hours around holidays": hours,
        "weather": TimeSeries.from_times_and_values(series.time_index, weather),
    }
    return series, ends, known, {"fitted": ZERO_SHOT}


def joint(dataset: str, finest_context: int, windows: int, _: int) -> Case:
    """As many steps as scales of 128 tokens have room for, with all variates; the components apart have no more."""
    room = {"patch_size": 32, "num_scales": 1, "finest_context": finest_context, "windows_per_epoch": windows}
    models = {how: TRAINED | room | {"multivariate": how} for how in ("independent", "joint")}
    return *series_of(dataset), {"none": None}, models


CASES: dict[str, Callable[[int], Case]]
CASES = {"told": told, "noise": noise, "departures": departures}
CASES |= {"ETTh1": partial(joint, "ETTh1", 256, 512), "Weather": partial(joint, "Weather", 96, 176)}


def measure(name: str) -> Iterator[dict[str, Any]]:
    """A row for each seed, model and set of covariates."""
    for seed in SEEDS[:1] if name == "departures" else SEEDS:  # nothing is random in it
        series, ends, sets, models = CASES[name](seed)
        train, val, _ = ends
        contexts, truth = windows_of(series, ends, (CONTEXT, HORIZON), ORIGINS)
        for model, settings in models.items():
            for covariates, known in sets.items():
                own = {**settings, "random_state": seed, "pl_trainer_kwargs": {**TRAINER}}
                used = MSFTFoundationModel(CONTEXT, HORIZON, **own)
                given = {} if known is None else {"future_covariates": known, "val_future_covariates": known}
                began = time.process_time()
                used.fit(series[:train], val_series=series[train - CONTEXT : val], **given)
                seconds = time.process_time() - began
                later = {} if known is None else {"future_covariates": [known] * len(contexts)}
                errors = np.stack([one.values() for one in used.predict(HORIZON, contexts, **later)]) - truth
                row = {"seed": seed, "model": model, "covariates": covariates}
                row |= {"mse": round(float(np.square(errors).mean()), 4), "mae": round(float(np.abs(errors).mean()), 4)}
                yield row | {"fit_cpu_seconds": round(seconds, 1)}


if __name__ == "__main__":
    about = {"backbone": "moirai-tiny", "context": CONTEXT, "horizon": HORIZON, "origins": ORIGINS}
    run(measure, CASES, FOLDER / "covariates.json", **about)
