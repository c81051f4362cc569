"""How a row of the results table is built, fitted, asked for forecasts and described, whatever model is behind it.

Shapes: N windows, C context steps, H horizon steps, V variables, Q levels, T time.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil, inf, isfinite
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.data import SequentialTorchTrainingDataset
from darts.utils.likelihood_models.torch import QuantileRegression
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping
from scipy.stats import norm

from benchmarks.data import Dataset
from benchmarks.errors import Diverged, Misuse
from benchmarks.models import Budget

Settings = Mapping[str, Any]
Levels = Sequence[float] | None  # None: point forecasts (the median)

SIZES = ("look_back", "patch_size")  # settings that decide whether a model can take a place
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Forecaster(ABC):
    """One row of the results table.

    `defaults` has every option and its default; `options` are the diff against it. An option named in `chosen` may be a
    list: its entries are compared on validation data. A look-back of None is the budget's list of them.
    """

    version: ClassVar[int] = 1  # raised when the code of a model, here or behind it, changes its figures
    trains: bool = True  # False: zero-shot or naive
    baseline: bool = False  # True: begins from random weights, so it has epochs of its own
    defaults: Settings = MappingProxyType({})
    chosen: tuple[str, ...] = ("look_back",)

    def __init__(self, options: Settings, budget: Budget) -> None:
        if unknown := sorted(set(options) - set(self.defaults)):
            names = ", ".join(self.defaults) or "none"
            raise Misuse(f"{type(self).__name__} has no option {unknown[0]!r}; choose from {names}")
        self.given, self.options, self.budget = dict(options), {**self.defaults, **options}, budget

    def candidates(self, data: Dataset, horizon: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Settings to choose from, and those that the model can't take; no look-back that was asked for by name."""
        choices = {name: self.choices(name, data, horizon) for name in self.chosen}
        kept, dropped = list[dict[str, Any]](), list[dict[str, Any]]()
        for values in product(*choices.values()):
            settings = dict(zip(choices, values, strict=True))
            reason = self.refusal(settings, data, horizon)
            entry = {**{name: settings[name] for name in SIZES if name in settings}, "reason": reason}
            if reason is None:
                kept.append(settings)
            elif entry not in dropped:
                dropped.append(entry)
        asked = set(choices["look_back"]) if "look_back" in self.given else set[Any]()
        if not kept or asked - {settings["look_back"] for settings in kept}:
            reasons = "; ".join(entry["reason"] for entry in dropped)
            raise ValueError(f"{type(self).__name__} can't take look_back={choices['look_back']}: {reasons}")
        return kept, dropped

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        """Model and options whose choice gives this one the settings named in `followed`."""
        return None

    @property
    def followed(self) -> tuple[str, ...]:
        """Settings that it takes from its leader's choice."""
        return ("patch_size",)

    @abstractmethod
    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        """The model; `settings` is one of `candidates`. One that trains nothing can forecast as it is."""

    def fit(self, model: Any, data: Dataset, settings: Settings) -> None:
        """Trains on the training part; the validation part finds the best epoch, which is kept, and ends the fit."""
        if self.trains:
            model.fit_from_dataset(*self.windows(model, data, settings))

    def windows(self, model: Any, data: Dataset, settings: Settings) -> tuple[Any, Any]:
        """All windows of the training part, and of the validation part those that the budget allows."""
        look_back, horizon, seen = settings["look_back"], model.output_chunk_length, self.seen(data)
        stride = self.budget.validation_stride(len(data.starts("validation", horizon, 1)), data.season)
        lengths = {"input_chunk_length": look_back, "output_chunk_length": horizon, "use_static_covariates": False}
        return (
            SequentialTorchTrainingDataset(seen.series("train"), **lengths, stride=1),
            SequentialTorchTrainingDataset(seen.series("validation", look_back), **lengths, stride=stride),
        )

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        """Forecasts (N, H, V, Q) of the windows that begin at `starts`, each from its context; `asked` is for Darts."""
        look_back, horizon, seen = model.input_chunk_length, model.output_chunk_length, self.seen(data)
        steps = slice(starts[0] - look_back, starts[-1] + horizon)
        found = model.historical_forecasts(
            TimeSeries(times=seen.times[steps], values=seen.values[steps], components=list(seen.columns)),
            start=look_back,
            start_format="position",
            forecast_horizon=horizon,
            stride=starts.step,
            retrain=False,
            last_points_only=False,
            verbose=False,
            **{"predict_likelihood_parameters": levels is not None, **asked},
        )
        if [one.start_time() for one in found] != list(data.times[np.asarray(starts)]):
            raise RuntimeError(f"forecasts of {type(self).__name__} don't begin with the windows")
        values = np.stack([window.all_values(copy=False) for window in found])  # (N, H, V * Q, samples)
        return values.reshape(len(starts), horizon, len(data.columns), -1)

    def held(self, levels: Levels) -> int:
        """How many numbers it holds for each value that it forecasts, while it does."""
        return len(levels or (0.5,))

    def describe(self, model: Any) -> dict[str, Any]:
        """Parameters (trained, all), the weights' hash, what the fit did, and the scales' weights where there are."""
        sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.model.parameters()]
        return {
            "trained_parameters": sum(size for size, trains in sizes if trains) if self.trains else 0,
            "parameters": sum(size for size, _ in sizes),
            "weights": self.weights(),
            "fit_report": BestEpoch.report_of(model) if self.trains else None,
            "scale_weights": None,
        }

    def resolved(self, model: Any) -> dict[str, Any]:
        """What the model really has where options leave it open: most epochs, patch sizes, rates; in JSON's types."""
        return {"look_back": int(model.input_chunk_length), **({"max_epochs": self.epochs} if self.trains else {})}

    def weights(self) -> str | None:
        """sha256 of the pretrained weights; None where there are none."""
        return None

    def defaults_hash(self) -> str:
        """sha256 of what is not in an experiment's options but decides its result."""
        return sha256_of({"version": self.version, "defaults": dict(self.defaults), "recipe": self.recipe()})

    def seen(self, data: Dataset) -> Dataset:
        """The data as the model sees them."""
        return data

    @property
    def epochs(self) -> int:
        """The most that a fit may take."""
        return (self.budget.baseline_epochs if self.baseline else None) or self.budget.epochs

    def trainer(self, *callbacks: Callback, to_the_end: bool = False) -> dict[str, Any]:
        """Lightning's settings: quiet, nothing written to disk, the budget's batches an epoch, stopped early or not."""
        patience, most = self.epochs if to_the_end else self.budget.patience, self.budget.train_batches
        sampled = {} if most is None else {"limit_train_batches": most}
        return {**QUIET, **sampled, "callbacks": [EarlyStopping("val_loss", patience=patience), *callbacks]}

    def batches(self, data: Dataset, look_back: int, horizon: int) -> tuple[int, int]:
        """Training batches of an epoch under the budget, and of a pass over all training windows."""
        begin, end = data.bounds["train"]
        every = ceil((end - begin - look_back - horizon + 1) / self.budget.batch_size)
        return min(every, self.budget.train_batches or every), every

    def recipe(self) -> Any:
        """How the model is trained beside its options, in JSON's types."""
        return None

    def choices(self, name: str, data: Dataset, horizon: int) -> list[Any]:
        """The values of a setting to choose from."""
        value = self.options[name]
        if value is None and name == "look_back":
            value = self.budget.look_backs
        return list(value) if isinstance(value, list | tuple) else [value]

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        """Why the model can't take these settings; None: it can."""
        begin, end = data.bounds["train"]
        look_back, room = settings["look_back"], end - begin - horizon
        lengths = f"a look-back of {look_back} and a horizon of {horizon} steps don't fit into the {end - begin}"
        return None if look_back <= room else f"{lengths} training steps of {data.name}; take at most {room} steps"


class BestEpoch(Callback):
    """Keeps the state with the lowest validation loss in memory, and returns to it when training ends."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.state: dict[str, torch.Tensor] = {}

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.sanity_checking:
            return
        self.losses.append(float(trainer.callback_metrics["val_loss"]))
        if self.best == len(self.losses) - 1:
            self.state = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.best is None:
            raise Diverged(f"no epoch had a finite validation loss ({self.losses}): lower the learning rate")
        pl_module.load_state_dict(self.state)
        self.state = {}

    @property
    def best(self) -> int | None:
        """The first epoch with the lowest finite loss."""
        finite = [loss if isfinite(loss) else inf for loss in self.losses]
        return finite.index(min(finite)) if min(finite, default=inf) < inf else None

    @classmethod
    def report_of(cls, model: Any) -> dict[str, Any] | None:
        """What the Darts model's fit compared and kept; None where none of these took part."""
        for one in model.trainer.callbacks:
            if isinstance(one, cls):
                found = {"kept": f"epoch {one.best}", "losses": one.losses, "epochs": len(one.losses)}
                return {**found, "still_improving": one.best == len(one.losses) - 1}
        return None


def sha256_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def quantile_likelihood(levels: Levels) -> QuantileRegression | None:
    return None if levels is None else QuantileRegression(list(levels))


def at_levels(quantiles: np.ndarray, known: Sequence[float], levels: Sequence[float]) -> np.ndarray:
    """Quantiles (..., K) of the ascending levels `known` as quantiles (..., Q) of other `levels`.

    Between neighbours, and beyond the outermost, it is linear in the standard normal distribution's quantile.
    """
    knots, wanted = norm.ppf(known), norm.ppf(levels)
    left = np.clip(np.searchsorted(knots, wanted, side="right") - 1, 0, len(knots) - 2)
    share = (wanted - knots[left]) / (knots[left + 1] - knots[left])
    return np.asarray(quantiles[..., left] * (1 - share) + quantiles[..., left + 1] * share)
