"""Models that nothing is trained of: the seasonal naive forecast, Chronos-2 and Fracast-0 as they are."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from darts.models import Chronos2Model
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError

from benchmarks.data import Dataset
from benchmarks.errors import WeightsMissing
from benchmarks.models.base import (
    QUIET,
    Forecaster,
    Levels,
    Settings,
    at_levels,
    contexts_of,
    quantile_likelihood,
    training_values,
)


class Alone(Forecaster):
    """What needs no Darts model: `build` gives anything with the lengths of one, and forecasts of contexts."""

    trains = False

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        return np.asarray(model.forecast(contexts_of(data, starts, model.input_chunk_length), starts))


class SeasonalNaive(Alone):
    """The last season repeated; quantiles from the errors that this makes in the training part."""

    def choices(self, name: str, data: Dataset, horizon: int) -> list[Any]:
        return [data.season]

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> SeasonalNaiveModel:
        return SeasonalNaiveModel(data, horizon, levels)

    def describe(self, model: Any) -> dict[str, Any]:
        nothing = dict.fromkeys(("weights", "fit_report", "scale_weights"))
        return {"trained_parameters": 0, "parameters": 0, **nothing}


class SeasonalNaiveModel:
    """Step h is forecast by the value c seasons of m steps before it, c = ceil(h / m) the seasons since the context.

    Its quantiles add those of the errors y[t] - y[t - c * m] over the training part, for each variable apart, with the
    same number of seasons c between, and t at the same step of the season: by day and by night apart, say.
    """

    def __init__(self, data: Dataset, horizon: int, levels: Levels) -> None:
        self.season = self.input_chunk_length = data.season
        self.output_chunk_length = horizon
        self.offsets = np.zeros((1, 1, 1, 1))
        if levels is None:
            return
        train, cycles = training_values(data).astype(np.float64), -(-horizon // self.season)
        if len(train) < (cycles + 1) * self.season:
            raise ValueError(
                f"the training part has {len(train)} steps, too few for errors over {cycles} seasons of {self.season}; "
                f"shorten the horizon, or give at least {(cycles + 1) * self.season} steps"
            )
        # by seasons between (c - 1) and step of the season: (seasons, m, V, Q)
        self.offsets = np.empty((cycles, self.season, train.shape[1], len(levels)))
        for cycle in range(cycles):
            lag = (cycle + 1) * self.season
            errors = train[lag:] - train[:-lag]
            for step in range(self.season):  # errors[i] is at step i of the season: lag is a multiple of it
                self.offsets[cycle, step] = np.quantile(errors[step :: self.season], levels, axis=0).T

    def forecast(self, contexts: np.ndarray, starts: range) -> np.ndarray:
        steps = np.arange(self.output_chunk_length)
        phases = (np.asarray(starts)[:, None] + steps) % self.season  # the training part begins at step 0
        cycles, every, _, _ = self.offsets.shape
        return contexts[:, steps % self.season, :, None] + self.offsets[(steps // self.season) % cycles, phases % every]


# ---- Chronos-2

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Chronos2(Forecaster):
    """Through Darts' `Chronos2Model` (Ansari et al. 2025, Apache-2.0), with all variables as one group.

    Options: `hub_model_name` and `revision` of the weights on the Hugging Face hub, or `local_dir`, a directory with
    config.json and model.safetensors. Quantiles at levels that it lacks are read off by `at_levels`.
    """

    trains = False
    defaults: ClassVar[Settings] = {
        **dict.fromkeys(("look_back", "revision", "local_dir")),
        "hub_model_name": "amazon/chronos-2",
    }

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        longest = self._config()["context_length"]
        if settings["look_back"] > longest:
            return f"a look-back of {settings['look_back']} steps is more than Chronos-2 sees; take at most {longest}"
        return super().refusal(settings, data, horizon)

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        self._file(WEIGHTS)
        known = self._config()["quantiles"]
        model = Chronos2Model(
            settings["look_back"],
            horizon,
            likelihood=quantile_likelihood(None if levels is None else known),
            hub_model_name=self.options["hub_model_name"],
            hub_model_revision=self.options["revision"],
            local_dir=self.options["local_dir"],
            batch_size=self.budget.batch_size,
            random_state=seed,
            pl_trainer_kwargs=dict(QUIET),
        )
        model.fit(data.series("train"))  # reads the weights, trains nothing
        return model

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        known = None if levels is None else self._config()["quantiles"]
        found = super().forecast(model, data, starts, known, **asked)
        return found if levels is None else at_levels(found, known, levels)

    def resolved(self, model: Any) -> dict[str, Any]:
        return {**super().resolved(model), "known_levels": self._config()["quantiles"]}

    def weights(self) -> str:
        return hashlib.sha256(self._file(WEIGHTS).read_bytes()).hexdigest()

    def _config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file(CONFIG).read_text())["chronos_config"]
        return found

    def _file(self, name: str) -> Path:
        """One of the two files, from the directory, or the hub's cache; downloaded where that lacks it.

        WeightsMissing where that can't be for want of the hub; FileNotFoundError where what was asked for isn't there.
        """
        repo, revision, folder = (self.options[option] for option in ("hub_model_name", "revision", "local_dir"))
        needed = f"local_dir, a directory with {CONFIG} and {WEIGHTS}"
        if folder is not None:
            path = Path(folder).expanduser() / name
            if not path.is_file():
                raise FileNotFoundError(f"{path} does not exist; give another {needed}")
            return path
        try:
            found = _from_hub(repo, name, revision)
        except OSError as error:
            raise FileNotFoundError(
                f"{name} of {repo} at revision {revision} can't be had ({error}); give another one, or {needed}"
            ) from error
        if found is None:
            raise WeightsMissing(
                f"{name} of {repo} is not in the hub's cache, and the hub can't be reached; give by --option {needed}"
            )
        return found


@functools.cache  # an attempt without network takes half a minute
def _from_hub(repo: str, name: str, revision: str | None) -> Path | None:
    """The file in the hub's cache, downloaded where that lacks it; None where the hub can't be reached."""
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except LocalEntryNotFoundError:
        return None


# ---- Fracast-0

FILES = {"fp32": "model.safetensors", "w8": "model.int8.safetensors"}
LONGEST = 2048  # context, in steps
ROWS = {"cpu": 16, "cuda": 1024}  # windows of one variable forecast at once: what fits into a processor's cache


class Fracast(Alone):
    """Fracast-0 (PyPI, version 0.1.0, Apache-2.0, github.com/ztxtech/fracast-0) with the weights of its package.

    Option `weights`: "fp32", or "w8" (the same in 8 bits). Its head forecasts 48 steps at its own levels 0.1, ..., 0.9;
    longer horizons go on from the medians, other levels are read off by `at_levels`. Every variable is forecast apart,
    in 0.07 s on one processor core for every 48 steps, whatever the context.
    """

    defaults: ClassVar[Settings] = {"look_back": None, "weights": "fp32"}

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        if settings["look_back"] > LONGEST:
            return f"a look-back of {settings['look_back']} steps is more than Fracast sees; take at most {LONGEST}"
        return super().refusal(settings, data, horizon)

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> FracastModel:
        import fracast

        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = fracast.FracastModel.from_pretrained(weights=self.options["weights"], device=device)
        return FracastModel(network, settings["look_back"], horizon, levels)

    def describe(self, model: Any) -> dict[str, Any]:
        parts = (model.network.core, model.network.head)
        count = sum(parameter.numel() for part in parts for parameter in part.parameters())
        nothing = dict.fromkeys(("fit_report", "scale_weights"))
        return {"trained_parameters": 0, "parameters": count, "weights": self.weights(), **nothing}

    def resolved(self, model: Any) -> dict[str, Any]:
        return {**super().resolved(model), "known_levels": list(model.network.quantiles)}

    def weights(self) -> str:
        import fracast

        kind = self.options["weights"]
        if kind not in FILES:
            raise ValueError(f"weights={kind!r} is not known; choose one of {', '.join(FILES)}")
        return hashlib.sha256((Path(fracast.__file__).parent / "weights" / FILES[kind]).read_bytes()).hexdigest()


class FracastModel:
    """The network, and the levels asked for."""

    def __init__(self, network: Any, look_back: int, horizon: int, levels: Levels) -> None:
        self.network, self.levels = network, levels or (0.5,)
        self.input_chunk_length, self.output_chunk_length = look_back, horizon

    def forecast(self, contexts: np.ndarray, starts: range) -> np.ndarray:
        horizon = self.output_chunk_length
        count, context, variables = contexts.shape
        rows = contexts.swapaxes(1, 2).reshape(count * variables, context)
        size = ROWS[self.network.device.type]
        pieces = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
        found = np.concatenate([self.network.forecast_batch(piece, horizon=horizon) for piece in pieces])
        quantiles = at_levels(found, self.network.quantiles, self.levels)
        return quantiles.reshape(count, variables, horizon, -1).swapaxes(1, 2)
