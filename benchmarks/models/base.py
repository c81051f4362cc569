"""How a row of the results table is built, fitted and described, whatever model is behind it."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil, inf, isfinite
from typing import Any, ClassVar

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.data import SequentialTorchTrainingDataset
from darts.utils.likelihood_models.torch import QuantileRegression
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping

from benchmarks.data.datasets import Dataset
from benchmarks.errors import Diverged, Misuse
from benchmarks.models.views import View, inner_of
from benchmarks.run.experiments import Budget

FOLLOWED = ("patch_size",)  # settings that a follower takes from its leader's choice
SIZES = ("look_back", "patch_size")  # settings that decide whether a model can take a place
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Forecaster(ABC):
    """One row of the results table: how a model is built, fitted and described.

    `defaults` has every option and its default value; `options` are the diff against it. An option named in `chosen`
    may be a list: its entries are compared on validation data. A look-back of None is the budget's list of them.

    Raises
    ------
    Misuse
        If an option is not known.
    """

    version: ClassVar[int] = 1  # raised when the code of a model, here or behind it, changes its figures
    trains: ClassVar[bool] = True  # False: zero-shot or naive
    baseline: ClassVar[bool] = False  # True: begins from random weights, so it has epochs of its own
    defaults: ClassVar[Mapping[str, Any]] = {}
    chosen: ClassVar[tuple[str, ...]] = ("look_back",)

    def __init__(self, options: Mapping[str, Any], budget: Budget) -> None:
        if unknown := sorted(set(options) - set(self.defaults)):
            raise Misuse(
                f"{type(self).__name__} has no option {', '.join(map(repr, unknown))}; "
                f"choose from {', '.join(self.defaults) or 'none'}"
            )
        self.given, self.options, self.budget = dict(options), {**self.defaults, **options}, budget

    # ---------------------------------------------------------------- what the runner asks for

    def candidates(self, dataset: Dataset, horizon: int) -> list[dict[str, Any]]:
        """Settings to choose from on validation data, "look_back" in steps among them; `horizon` in steps.

        Those that the model can't take are left out (`dropped` has them). ValueError where a look-back that was asked
        for by name is among these, or nothing is left.
        """
        kept, dropped = self._sorted_out(dataset, horizon)
        if not kept or ("look_back" in self.given and dropped):
            asked = self.choices("look_back", dataset, horizon)
            raise ValueError(
                f"{type(self).__name__} can't take look_back={asked}: {'; '.join(entry['reason'] for entry in dropped)}"
            )
        return kept

    def dropped(self, dataset: Dataset, horizon: int) -> list[dict[str, Any]]:
        """What `candidates` leaves out: {"look_back": 2048, "reason": why}, and "patch_size" where there is one."""
        return self._sorted_out(dataset, horizon)[1]

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        """Model and options whose choice gives this one the settings named in `FOLLOWED`; None: it has its own."""
        return None

    @abstractmethod
    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> Any:
        """The model, or a view of it, with `input_chunk_length` and Darts' `historical_forecasts`.

        `settings` is one of `candidates`. `levels` None: point forecasts (the median), else quantiles of these levels.
        A model that trains nothing can forecast as it is.
        """

    def fit(self, model: Any, dataset: Dataset, settings: Mapping[str, Any]) -> None:
        """Trains on the training part; the validation part finds the best epoch, which is kept, and ends the fit.

        A model with `trains = False` is left as it is.
        """
        if not self.trains:
            return
        inner, look_back = inner_of(model), settings["look_back"]
        horizon = inner.output_chunk_length
        stride = self.budget.validation_stride(len(dataset.starts("validation", horizon, 1)), dataset.season)
        prepare = model.prepare if isinstance(model, View) else _unchanged
        inner.fit_from_dataset(
            _windows(prepare(dataset.series("train")), look_back, horizon, 1),
            _windows(prepare(dataset.series("validation", look_back)), look_back, horizon, stride),
        )

    def describe(self, model: Any) -> dict[str, Any]:
        """Parameters (trained, all), the weights' hash, what the fit did, and the scales' weights where there are."""
        module = inner_of(model).model
        count = sum(parameter.numel() for parameter in module.parameters())
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        return {
            "trained_parameters": trained if self.trains else 0,
            "parameters": count,
            "weights": self.weights(),
            "fit_report": BestEpoch.report_of(inner_of(model)) if self.trains else None,
            "scale_weights": None,
        }

    def resolved(self, model: Any) -> dict[str, Any]:
        """What the model really has where options leave it open: most epochs, patch sizes, rates; in JSON's types."""
        return {"look_back": model.input_chunk_length, **({"max_epochs": self.epochs} if self.trains else {})}

    def weights(self) -> str | None:
        """sha256 of the pretrained weights; None where there are none. WeightsMissing where they can't be had."""
        return None

    def defaults_hash(self) -> str:
        """sha256 of all that is not in an experiment's options but decides its result: version, defaults and recipe."""
        return sha256_of({"version": self.version, "defaults": dict(self.defaults), "recipe": self.recipe()})

    # ---------------------------------------------------------------- for subclasses

    @property
    def epochs(self) -> int:
        """The most that a fit may take."""
        return (self.budget.baseline_epochs if self.baseline else None) or self.budget.epochs

    def trainer(self, *callbacks: Callback, to_the_end: bool = False) -> dict[str, Any]:
        """Lightning's settings: quiet, nothing written to disk, the budget's batches an epoch, stopped early or not."""
        patience, most = self.epochs if to_the_end else self.budget.patience, self.budget.train_batches
        stop = EarlyStopping("val_loss", patience=patience)  # whatever its patience, at a loss that is no number
        sampled = {} if most is None else {"limit_train_batches": most}  # Lightning: where there are more
        return {**QUIET, **sampled, "callbacks": [stop, *callbacks]}

    def steps(self, dataset: Dataset, look_back: int, horizon: int) -> int:
        """Optimiser steps of a fit that uses all of its epochs."""
        return round(self.epochs * self.share(dataset, look_back, horizon) * self._batches(dataset, look_back, horizon))

    def share(self, dataset: Dataset, look_back: int, horizon: int) -> float:
        """How much of all training windows an epoch has; papers' schedules count passes over all of them."""
        batches = self._batches(dataset, look_back, horizon)
        return min(batches, self.budget.train_batches or batches) / batches

    def _batches(self, dataset: Dataset, look_back: int, horizon: int) -> int:
        begin, end = dataset.bounds["train"]
        return ceil((end - begin - look_back - horizon + 1) / self.budget.batch_size)

    def recipe(self) -> Any:
        """How the model is trained beside its options, in JSON's types."""
        return None

    def choices(self, name: str, dataset: Dataset, horizon: int) -> list[Any]:
        """The values of a setting to choose from."""
        value = self.options[name]
        if value is None and name == "look_back":
            value = self.budget.look_backs
        return list(value) if isinstance(value, list | tuple) else [value]

    def refusal(self, settings: Mapping[str, Any], dataset: Dataset, horizon: int) -> str | None:
        """Why the model can't take these settings; None: it can."""
        begin, end = dataset.bounds["train"]
        if settings["look_back"] <= end - begin - horizon:
            return None
        return (
            f"a look-back of {settings['look_back']} and a horizon of {horizon} steps don't fit into the {end - begin} "
            f"training steps of {dataset.name}; take at most {end - begin - horizon} steps"
        )

    def _sorted_out(self, dataset: Dataset, horizon: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Every combination of choices that the model can take, and the others with the reason."""
        choices = {name: self.choices(name, dataset, horizon) for name in self.chosen}
        kept, dropped = list[dict[str, Any]](), list[dict[str, Any]]()
        for values in product(*choices.values()):
            settings = dict(zip(choices, values, strict=True))
            reason = self.refusal(settings, dataset, horizon)
            entry = {**{name: settings[name] for name in SIZES if name in settings}, "reason": reason}
            if reason is None:
                kept.append(settings)
            elif entry not in dropped:
                dropped.append(entry)
        return kept, dropped


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
        """What the Darts model's fit compared and kept; None before a fit."""
        found = [callback for callback in getattr(model.trainer, "callbacks", []) if isinstance(callback, cls)]
        if not found or not found[0].losses:
            return None
        losses, best = found[0].losses, found[0].best
        improving = best == len(losses) - 1
        return {"kept": f"epoch {best}", "losses": losses, "epochs": len(losses), "still_improving": improving}


def sha256_of(value: Any) -> str:
    """sha256 of a value in JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def training_values(dataset: Dataset) -> np.ndarray:
    """The training part, (T, V)."""
    begin, end = dataset.bounds["train"]
    return dataset.values[begin:end]


def quantile_likelihood(levels: Sequence[float] | None) -> QuantileRegression | None:
    """Darts' likelihood for `levels`; None for point forecasts."""
    return None if levels is None else QuantileRegression(list(levels))


def _windows(series: TimeSeries, look_back: int, horizon: int, stride: int) -> SequentialTorchTrainingDataset:
    """The series' windows, `stride` steps apart and counted from its end."""
    return SequentialTorchTrainingDataset(
        series,
        input_chunk_length=look_back,
        output_chunk_length=horizon,
        stride=stride,
        use_static_covariates=False,
    )


def _unchanged(series: TimeSeries) -> TimeSeries:
    return series
