"""PatchTST, iTransformer and TimeMixer, trained from scratch, through Darts' `NeuralForecastModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import neuralforecast.models
import torch
from darts.models import NeuralForecastModel
from torch import Tensor

from benchmarks.datasets import Dataset
from benchmarks.models.base import LOOK_BACKS, Forecaster, quantile_likelihood, training_values
from benchmarks.models.papers import FACTORS, Recipe, recipe
from benchmarks.models.views import Standardised


class Neural(Forecaster):
    """A network of the package neuralforecast with its authors' hyperparameters for the data set (`papers.py`).

    Options: "look_back" and "lr" (None: the authors' rate), numbers or lists to choose from, and "network", what
    differs from the authors' arguments of the network, in neuralforecast's words. What differs from their programs:
    no calendar features (theirs feed them to iTransformer and TimeMixer), quantile forecasts train on the pinball loss.
    """

    network: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {"look_back": LOOK_BACKS, "lr": None, "network": {}}
    chosen = ("look_back", "lr")

    def candidates(self, dataset: Dataset, horizon: int) -> list[dict[str, Any]]:
        own = recipe(self.network, dataset.name, horizon).lr
        return [
            {**found, "lr": own if found["lr"] is None else found["lr"]}
            for found in super().candidates(dataset, horizon)
        ]

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> Standardised:
        found = recipe(self.network, dataset.name, horizon)
        arguments = {**found.network, **self.options["network"]}
        self.check(arguments, settings["look_back"])
        steps = self.steps(dataset, settings["look_back"], horizon)
        model = NeuralForecastModel(
            settings["look_back"],
            horizon,
            model=self.network_class(),
            model_kwargs={**arguments, **self.inner_norm(levels)},
            use_reversible_instance_norm=bool(self.inner_norm(levels)),
            use_static_covariates=False,
            batch_size=self.budget.batch_size,
            n_epochs=self.budget.epochs,
            loss_fn=torch.nn.MSELoss(),
            likelihood=quantile_likelihood(levels),
            optimizer_cls=torch.optim.Adam,
            optimizer_kwargs={"lr": settings["lr"]},
            random_state=seed,
            pl_trainer_kwargs=self.trainer(),
            **schedule(found, settings["lr"], steps),
        )
        return Standardised(model, training_values(dataset))

    def network_class(self) -> Any:
        return getattr(neuralforecast.models, self.network)

    def inner_norm(self, levels: Sequence[float] | None) -> dict[str, Any]:
        """Arguments that leave each window's normalisation to Darts; none where the network does it well itself."""
        return {}

    def check(self, arguments: Mapping[str, Any], look_back: int) -> None:
        """Refuses what the network can't take."""


class PatchTST(Neural):
    """Every variable apart, in patches of 16 steps."""

    network = "PatchTST"


class ITransformer(Neural):
    """A variable is a token."""

    network = "iTransformer"

    def network_class(self) -> Any:
        return OrderedITransformer


class TimeMixer(Neural):
    """Averages over 2, 4 and 8 steps beside the series itself.

    neuralforecast's network makes quantiles by a linear map over all variables *after* it has undone its
    normalisation. Quantile forecasts therefore leave that to Darts, which undoes it behind this map.
    """

    network = "TimeMixer"

    def inner_norm(self, levels: Sequence[float] | None) -> dict[str, Any]:
        return {} if levels is None else {"use_norm": False}

    def check(self, arguments: Mapping[str, Any], look_back: int) -> None:
        factor = arguments["down_sampling_window"] ** arguments["down_sampling_layers"]
        if look_back % factor:
            raise ValueError(
                f"look_back={look_back} is not allowed for TimeMixer, which averages over up to {factor} steps; give a "
                f"multiple of {factor}"
            )


class OrderedITransformer(neuralforecast.models.iTransformer):
    """neuralforecast's iTransformer with its quantiles in the order that Darts reads.

    A step's values (V variables, Q quantiles) leave the network level by level, but Darts takes them variable by
    variable: without this, quantiles go to other variables and get their units.
    """

    def forward(self, windows_batch: dict[str, Any]) -> Tensor:
        by_level: Tensor = super().forward(windows_batch)  # (B, H, Q * V)
        return by_level.unflatten(-1, (-1, self.enc_in)).transpose(-1, -2).flatten(-2)


def schedule(found: Recipe, rate: float, steps: int) -> dict[str, Any]:
    """Darts' arguments for the recipe's learning-rate schedule; `steps` are the optimiser's in all epochs."""
    optim = torch.optim.lr_scheduler
    if found.schedule in FACTORS:
        return {"lr_scheduler_cls": optim.LambdaLR, "lr_scheduler_kwargs": {"lr_lambda": FACTORS[found.schedule]}}
    cycle = {"max_lr": rate, "total_steps": steps, "pct_start": found.warm_up, "interval": "step"}
    return {"lr_scheduler_cls": optim.OneCycleLR, "lr_scheduler_kwargs": cycle}
