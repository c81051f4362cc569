"""Models of others that nothing is trained of: the seasonal naive forecast, and Fracast-0 as it is."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks.data import Dataset
from benchmarks.models.base import Forecaster, Levels, Settings, at_levels

_NOTHING = dict.fromkeys(("weights", "fit_report", "scale_weights")) | {"trained_parameters": 0, "parameters": 0}


def _contexts(data: Dataset, starts: range, look_back: int) -> np.ndarray:
    """What is before the windows that begin at `starts`, (N, C, V)."""
    windows = np.lib.stride_tricks.sliding_window_view(data.values, look_back, axis=0)
    return windows[np.asarray(starts) - look_back].swapaxes(1, 2)


class SeasonalNaive(Forecaster):
    """Step h is forecast by the value c seasons of m steps before it, c = ceil(h / m) the seasons since the context.

    Its quantiles add those of the errors y[t] - y[t - c * m] over the training part, for each variable apart, with the
    same number of seasons c between, and t at the same step of the season: by day and by night apart, say.
    """

    trains = False

    def choices(self, name: str, data: Dataset, horizon: int) -> list[Any]:
        return [data.season]

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        """The model are the errors' quantiles by seasons between (c - 1) and step of the season: (seasons, m, V, Q)."""
        season, cycles = data.season, -(-horizon // data.season)
        train = data.values[slice(*data.bounds["train"])].astype(np.float64)
        if len(train) < (cycles + 1) * season:
            few = f"the training part has {len(train)} steps, too few for errors over {cycles} seasons of {season}"
            raise ValueError(f"{few}; shorten the horizon, or give at least {(cycles + 1) * season} steps")
        offsets = np.zeros((cycles, season, train.shape[1], len(levels or [0])))
        for cycle, step in np.ndindex(*(offsets.shape[:2] if levels else (0, 0))):
            lag = (cycle + 1) * season  # a multiple of the season: errors[i] is at step i of it
            offsets[cycle, step] = np.quantile((train[lag:] - train[:-lag])[step::season], levels or (), axis=0).T
        return SimpleNamespace(input_chunk_length=season, output_chunk_length=horizon, offsets=offsets)

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        season, steps = data.season, np.arange(model.output_chunk_length)
        points = _contexts(data, starts, season)[:, steps % season, :, None]
        return points + model.offsets[steps // season, (np.asarray(starts)[:, None] + steps) % season]

    def describe(self, model: Any) -> dict[str, Any]:
        return dict(_NOTHING)


class Fracast(Forecaster):
    """Fracast-0 (PyPI, version 0.1.0, Apache-2.0, github.com/ztxtech/fracast-0) with the weights of its package.

    Option `weights`: "fp32", or "w8" (the same in 8 bits). Its head forecasts 48 steps at its own levels 0.1, ..., 0.9;
    longer horizons go on from the medians. Every variable is forecast apart.
    """

    trains = False
    defaults: ClassVar[Settings] = {"look_back": None, "weights": "fp32"}
    files: ClassVar[dict[str, str]] = {"fp32": "model.safetensors", "w8": "model.int8.safetensors"}
    rows: ClassVar[dict[str, int]] = {"cpu": 16, "cuda": 1024}  # windows of one variable at once: what fits a cache

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        if settings["look_back"] > 2048:
            return f"a look-back of {settings['look_back']} steps is more than the model sees; take at most 2048"
        return super().refusal(settings, data, horizon)

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        import fracast

        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = fracast.FracastModel.from_pretrained(weights=self.options["weights"], device=device)
        lengths = {"input_chunk_length": settings["look_back"], "output_chunk_length": horizon}
        return SimpleNamespace(network=network, **lengths)

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        network, horizon = model.network, model.output_chunk_length
        contexts = _contexts(data, starts, model.input_chunk_length).swapaxes(1, 2)
        rows, size = contexts.reshape(-1, contexts.shape[-1]), self.rows[network.device.type]
        pieces = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        found = np.concatenate([network.forecast_batch(piece, horizon=horizon) for piece in pieces])
        quantiles = at_levels(found, network.quantiles, levels or (0.5,))
        return quantiles.reshape(len(starts), -1, horizon, quantiles.shape[-1]).swapaxes(1, 2)

    def describe(self, model: Any) -> dict[str, Any]:
        count = sum(one.numel() for part in (model.network.core, model.network.head) for one in part.parameters())
        return {**_NOTHING, "parameters": count, "weights": self.weights()}

    def resolved(self, model: Any) -> dict[str, Any]:
        return {**super().resolved(model), "known_levels": list(model.network.quantiles)}

    def weights(self) -> str:
        import fracast

        kind = self.options["weights"]
        if kind not in self.files:
            raise ValueError(f"weights={kind!r} is not known; choose one of {', '.join(self.files)}")
        return hashlib.sha256((Path(fracast.__file__).parent / "weights" / self.files[kind]).read_bytes()).hexdigest()
