"""Fracast-0, a pretrained forecaster of 85,001 parameters whose weights come with its package (PyPI, Apache-2.0).

github.com/ztxtech/fracast-0, version 0.1.0. Its head forecasts 48 steps; longer horizons go on from the medians, as its
own `forecast_batch` does it. Every variable is forecast apart, from at most 2048 steps; a shorter context costs as
much, since it is padded. On one processor core a window of one variable takes 0.07 s for every 48 steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import fracast
import numpy as np
import pandas as pd
import torch

from benchmarks.data.datasets import Dataset
from benchmarks.models.base import Forecaster
from benchmarks.models.views import WindowModel, at_levels

FILES = {"fp32": "model.safetensors", "w8": "model.int8.safetensors"}
LONGEST = 2048  # context, in steps
ROWS = {"cpu": 16, "cuda": 1024}  # windows of one variable forecast at once: what fits into a processor's cache


class Fracast(Forecaster):
    """Zero-shot; quantiles at other levels than its own 0.1, ..., 0.9 are read off as `at_levels` says.

    Option `weights`: "fp32", or "w8" (the same in 8 bits, which the package takes by default).
    """

    trains = False
    defaults: ClassVar[Mapping[str, Any]] = {"look_back": None, "weights": "fp32"}

    def refusal(self, settings: Mapping[str, Any], dataset: Dataset, horizon: int) -> str | None:
        if settings["look_back"] > LONGEST:
            return f"a look-back of {settings['look_back']} steps is more than Fracast sees; take at most {LONGEST}"
        return super().refusal(settings, dataset, horizon)

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> FracastForecaster:
        self._file()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = fracast.FracastModel.from_pretrained(weights=self.options["weights"], device=device)
        return FracastForecaster(network, settings["look_back"], levels)

    def describe(self, model: Any) -> dict[str, Any]:
        parts = (model.network.core, model.network.head)
        count = sum(parameter.numel() for part in parts for parameter in part.parameters())
        found: dict[str, Any] = {"trained_parameters": 0, "parameters": count, "weights": self.weights()}
        return {**found, "fit_report": None, "scale_weights": None}

    def resolved(self, model: Any) -> dict[str, Any]:
        return {**super().resolved(model), "known_levels": list(model.network.quantiles)}

    def weights(self) -> str:
        return hashlib.sha256(self._file().read_bytes()).hexdigest()

    def _file(self) -> Path:
        kind = self.options["weights"]
        if kind not in FILES:
            raise ValueError(f"weights={kind!r} is not known; choose one of {', '.join(FILES)}")
        return Path(fracast.__file__).parent / "weights" / FILES[kind]


class FracastForecaster(WindowModel):
    """The network with Darts' `historical_forecasts`."""

    def __init__(self, network: fracast.FracastModel, look_back: int, levels: Sequence[float] | None) -> None:
        super().__init__(look_back, levels)
        self.network = network

    def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
        count, context, variables = contexts.shape
        rows = contexts.swapaxes(1, 2).reshape(count * variables, context)
        size = ROWS[self.network.device.type]
        pieces = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        found = np.concatenate([self.network.forecast_batch(piece, horizon=horizon) for piece in pieces])
        quantiles = at_levels(found, self.network.quantiles, self.levels or (0.5,))
        return quantiles.reshape(count, variables, horizon, -1).swapaxes(1, 2)
