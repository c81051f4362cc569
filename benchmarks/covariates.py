"""`python -m benchmarks.covariates`: what covariates gain, and what they cost where they tell nothing.

The bundled checkpoint, fitted with and without future covariates that are known, on the same training and validation
part; mean squared and absolute errors of forecasts of the test part from evenly spaced origins. "told": the covariate
makes the series but for noise of variance 1. "noise": it has nothing to do with it. "departures": with the days around
holidays, and the weather as it was observed, which nobody knows ahead. "ETTh1", "Weather": their variates apart and
together, finetuned.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from darts import TimeSeries
from darts.utils.timeseries_generation import holidays_timeseries

from benchmarks.data import PARTS, load
from benchmarks.data.files import Split
from benchmarks.errors import Misuse
from benchmarks.models.base import QUIET
from benchmarks.run.provenance import provenance, quiet
from benchmarks.run.store import replace_rows
from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_departures, load_departures_weather

RESULTS = Path(__file__).parent / "results" / "covariates.json"
CONTEXT, HORIZON, ORIGINS = 512, 96, 200
STEPS, DAY, SEEDS = 4000, 24, (0, 1, 2)  # of synthetic series
SPLIT = Split(0.7, 0.15, 0.15)
ZERO_SHOT: dict[str, Any] = {"method": "zero_shot"}
TRAINED: dict[str, Any] = {"method": "full", "linear_member": False, "n_epochs": 5}

Case = tuple[TimeSeries, tuple[int, ...], dict[str, TimeSeries | None], dict[str, dict[str, Any]]]
"""A series, the ends of its parts, the covariates to compare, and settings of the models to compare."""


def _hourly(values: np.ndarray) -> TimeSeries:
    times = pd.date_range("2024-01-01", periods=len(values), freq="h")
    return TimeSeries.from_times_and_values(times, values.astype(np.float32))


def _remembering(rng: np.random.Generator, share: float) -> np.ndarray:
    """Of variance 1, correlated by `share` from step to step."""
    noise = rng.standard_normal(STEPS)
    for step in range(1, STEPS):
        noise[step] = share * noise[step - 1] + np.sqrt(1 - share**2) * noise[step]
    return noise[:, None]


def told(seed: int, _: Path | None) -> Case:
    rng = np.random.default_rng(seed)
    known = _remembering(rng, 0.5)
    series = 10 + 3 * known + rng.standard_normal((STEPS, 1))
    models = {"fitted": ZERO_SHOT, "scales alone, finetuned": TRAINED}
    return _hourly(series), SPLIT.ends(STEPS), {"none": None, "known": _hourly(known)}, models


def noise(seed: int, _: Path | None) -> Case:
    rng = np.random.default_rng(seed)
    series = np.sin(2 * np.pi * np.arange(STEPS) / DAY)[:, None] + 0.5 * _remembering(rng, 0.9)
    known = np.hstack([rng.standard_normal((STEPS, 1)), _remembering(rng, 0.9), _remembering(rng, 0.99)])
    return _hourly(series), SPLIT.ends(STEPS), {"none": None, "3 of noise": _hourly(known)}, {"fitted": ZERO_SHOT}


def departures(seed: int, _: Path | None) -> Case:
    """Hours around holidays: one on, before and after them, times the hour's usual share, as nobody flies at night."""
    series, weather = load_departures(), load_departures_weather().values()
    weather = weather.reshape(len(series), 3, 4).mean(axis=1)  # of the airports: more covariates are refused
    holiday = holidays_timeseries(series.time_index, "US")
    days = holiday.values()[::DAY, 0]
    around = np.stack([days, np.roll(days, -1), np.roll(days, 1)], axis=1).repeat(DAY, axis=0)  # on, before, after
    shape = series.values()[: SPLIT.ends(len(series))[0] // DAY * DAY].mean(axis=1).reshape(-1, DAY).mean(axis=0)
    daily = np.tile(shape, len(days))[:, None]
    hours = series.with_values((around * daily / shape.mean()).astype(np.float32))
    known = {
        "none": None,
        "holidays": holiday.astype(np.float32),
        "hours around holidays": hours,
        "weather": TimeSeries.from_times_and_values(series.time_index, weather),
    }
    return series, SPLIT.ends(len(series)), known, {"fitted": ZERO_SHOT}


def joint(dataset: str, finest_context: int, windows: int, seed: int, data: Path | None) -> Case:
    """As many steps as scales of 128 tokens have room for, with all variates; the components apart have no more."""
    found = load(dataset, "lsf", data)
    ends = tuple(found.bounds[part][1] for part in PARTS)
    room = {"patch_size": 32, "num_scales": 1, "finest_context": finest_context, "windows_per_epoch": windows}
    models = {how: TRAINED | room | {"multivariate": how} for how in ("independent", "joint")}
    return found.series("test", found.bounds["test"][0]), ends, {"none": None}, models


CASES: dict[str, Callable[[int, Path | None], Case]]
CASES = {"told": told, "noise": noise, "departures": departures}
CASES |= {"ETTh1": partial(joint, "ETTh1", 256, 512), "Weather": partial(joint, "Weather", 96, 176)}


def measure(name: str, seed: int, data: Path | None) -> list[dict[str, Any]]:
    """A row for each model and set of covariates."""
    series, (train, val, end), sets, models = CASES[name](seed, data)
    places = np.unique(np.linspace(val, end - HORIZON, ORIGINS).astype(int))
    contexts = [series[place - CONTEXT : place] for place in places]
    truth = np.stack([series.values()[place : place + HORIZON] for place in places])
    rows = []
    for model, settings in models.items():
        for covariates, known in sets.items():
            used = MSFTFoundationModel(
                CONTEXT, HORIZON, **settings, random_state=seed, pl_trainer_kwargs={**QUIET, "accelerator": "cpu"}
            )
            given = {} if known is None else {"future_covariates": known, "val_future_covariates": known}
            began = time.process_time()
            used.fit(series[:train], val_series=series[train - CONTEXT : val], **given)
            seconds = time.process_time() - began
            later = {} if known is None else {"future_covariates": [known] * len(places)}
            errors = np.stack([one.values() for one in used.predict(HORIZON, contexts, **later)]) - truth
            row: dict[str, Any] = {"model": model, "covariates": covariates}
            row |= {"mse": round(float(np.square(errors).mean()), 4), "mae": round(float(np.abs(errors).mean()), 4)}
            rows.append(row | {"fit_cpu_seconds": round(seconds, 1)})
            print(name, seed, rows[-1], flush=True)
    return rows


def main(
    data: Annotated[Path | None, typer.Option(help="folder with ETTh1.csv and Weather's")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"some of {', '.join(CASES)}")] = None,
    output: Annotated[Path, typer.Option(help="file of the results; others' rows stay")] = RESULTS,
) -> None:
    """Measure, print a line for each row, and write the file after each data set and seed."""
    if unknown := set(only or ()) - CASES.keys():
        raise Misuse(f"{sorted(unknown)} are not known; take some of {', '.join(CASES)}")
    torch.set_num_threads(1)
    quiet()
    settings = {"backbone": "moirai-tiny", "context": CONTEXT, "horizon": HORIZON, "origins": ORIGINS}
    for name, seed in product(only or CASES, SEEDS):
        if name == "departures" and seed != SEEDS[0]:
            continue  # nothing random in it
        about = {"settings": settings, "provenance": provenance()}
        replace_rows(output, [row | about for row in measure(name, seed, data)], data=name, seed=seed)


if __name__ == "__main__":
    typer.run(main)
