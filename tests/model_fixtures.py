"""What the tests of `MSFTFoundationModel` share: a tiny model, series, and the forecast distribution written out."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from darts import TimeSeries
from scipy import stats

from darts_msft import MSFTFoundationModel

CONTEXT, HORIZON = 32, 8
TRAINER = {
    "accelerator": os.environ.get("DARTS_MSFT_TEST_ACCELERATOR", "cpu"),  # "cuda": of `make gpu-check`
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}
LONG: dict[str, Any] = {"finest_context": 16}
"""Coarser scales look further back: before a fit their weights come from backcasts."""
ZERO_SHOT = ["zero-shot", "zero-shot, scales weighted by backcasts", "zero-shot, scales stacked"]
"""Labels of the candidates that every fit at several scales starts with."""
LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2}
STILL = dict.fromkeys(("lr_pretrained", "lr_new", "lr_head", "lr_omega", "lr_lora"), 0.0)


def make_model(checkpoint: str, trainer: dict[str, Any] | None = None, **changes: Any) -> MSFTFoundationModel:
    """A model that fits and forecasts in a fraction of a second: the method alone, without a linear member and paths.

    `trainer` goes on top of the usual arguments.
    """
    settings: dict[str, Any] = {
        "input_chunk_length": CONTEXT,
        "output_chunk_length": HORIZON,
        "backbone": checkpoint,
        "num_scales": 2,
        "patch_size": 4,
        "linear_member": False,
        "sample_dependence": "independent",
        "n_epochs": 1,
        "batch_size": 16,
        "random_state": 0,
        "pl_trainer_kwargs": {**TRAINER, **(trainer or {})},
    }
    return MSFTFoundationModel(**{**settings, **changes})


@cache
def fitted(checkpoint: str, validated: bool = False, **changes: Any) -> MSFTFoundationModel:
    """A finetuned model, made once for all tests: they must not fit or change it."""
    return make_model(checkpoint, **changes).fit(wave(), val_series=wave(60, seed=1) if validated else None)


class Order(pl.Callback):
    """The first value of each training window, in the order of training, by epoch."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 0:
            self.seen.append([])
        self.seen[-1] += batch.past_target[:, 0, 0].tolist()


def wave(
    length: int = 100, components: int = 1, seed: int = 0, dtype: Any = np.float32, level: float = 5.0
) -> TimeSeries:
    """Sines of period 8 with a little noise, hourly; component c is shifted in phase and c times 3 higher."""
    time, shift = np.arange(length)[:, None], np.arange(components)
    noise = 0.1 * np.random.default_rng(seed).standard_normal((length, components))
    values = np.sin(2 * np.pi * time / 8 + shift) + level + 3 * shift + noise
    index = pd.date_range("2024-01-01", periods=length, freq="h", name="time")
    return TimeSeries.from_times_and_values(index, values.astype(dtype))


def naive_unit(series: TimeSeries, season: int = 24) -> np.ndarray:
    """Mean error of the value `season` steps before, by component. `wave` has that season where it has 96 steps."""
    values = series.values().astype(float)
    return np.abs(values[season:] - values[:-season]).mean(axis=0)


def from_values(values: np.ndarray) -> TimeSeries:
    """An hourly series that starts like `wave`."""
    index = pd.date_range("2024-01-01", periods=len(values), freq="h", name="time")
    return TimeSeries.from_times_and_values(index, values)


def values_of(forecast: TimeSeries | list[TimeSeries]) -> np.ndarray:
    """(time, component, sample), or (series, time, component, sample)."""
    if isinstance(forecast, TimeSeries):
        return forecast.all_values(copy=False)
    return np.stack([series.all_values(copy=False) for series in forecast])


def parameters_of(model: MSFTFoundationModel, series: TimeSeries) -> list[list[dict[str, float]]]:
    """By step and scale: the native distribution's parameters of a univariate forecast, under their short names."""
    forecast = model.predict(HORIZON, series, predict_likelihood_parameters=True)
    frame, steps = forecast.to_dataframe(), []
    names = [name.split("_", 1)[1] for name in frame.columns]  # without the component's name
    for row in frame.to_numpy(dtype=float):
        scales: dict[str, dict[str, float]] = {}
        for name, value in zip(names, row, strict=True):
            scale, short = name.split("_", 1)
            scales.setdefault(scale, {})[short] = value
        steps.append(list(scales.values()))
    return steps


COMPONENTS: dict[str, Callable[[np.ndarray, dict[str, float]], np.ndarray]] = {
    "studentt": lambda z, p: stats.t.cdf(z, p["df"], p["loc"], p["scale"]),
    "normalfixedscale": lambda z, p: stats.norm.cdf(z, p["loc"], 1e-3),
    # torch counts successes of probability sigmoid(logits) before `total_count` failures
    "negativebinomial": lambda z, p: stats.nbinom.cdf(np.floor(z), p["total_count"], 1 / (1 + np.exp(p["logits"]))),
    "lognormal": lambda z, p: stats.lognorm.cdf(z, s=p["scale"], scale=np.exp(p["loc"])),
}
"""Distribution functions by the name of a component, written with scipy alone."""


def scale_cdf(scale: dict[str, float], value: np.ndarray | float) -> np.ndarray:
    """Distribution function of one scale, from its parameters, in the series' units."""
    z = (np.asarray(value, dtype=float) - scale["loc"]) / scale["scale"]
    components: dict[str, dict[str, float]] = {}
    for name, number in scale.items():
        component, of_a_component, parameter = name.partition("_")
        if of_a_component:
            components.setdefault(component, {})[parameter] = number
    weights = np.exp([scale[f"logit{i}"] for i in range(len(components))])
    parts = [COMPONENTS[name.rstrip("0123456789")](z, own) for name, own in components.items()]
    return np.tensordot(weights / weights.sum(), np.stack(parts), axes=1)


def mixture_cdf(step: list[dict[str, float]], value: np.ndarray | float) -> np.ndarray:
    """Distribution function of a step's mixture over scales."""
    return np.sum([scale["weight"] * scale_cdf(scale, value) for scale in step], axis=0)


def scale_quantile(scale: dict[str, float], level: float) -> float:
    """The smallest value whose distribution function reaches `level`, by plain bisection."""
    low, high = scale["loc"] - 1e4 * scale["scale"], scale["loc"] + 1e4 * scale["scale"]
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if scale_cdf(scale, middle) < level else (low, middle)
    return float(high)


def parameters_snapshot(model: MSFTFoundationModel) -> dict[str, np.ndarray]:
    """Copies of all of the network's parameters."""
    return {name: value.detach().cpu().numpy().copy() for name, value in model.model.named_parameters()}


def changed(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    """Names whose values differ in any bit."""
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name], equal_nan=True)}


def differing(one: MSFTFoundationModel, other: MSFTFoundationModel) -> set[str]:
    """Names of the parameters that differ between two models in any bit."""
    return changed(parameters_snapshot(one), parameters_snapshot(other))
