"""PatchTST, iTransformer and TimeMixer, trained from scratch, through Darts' `NeuralForecastModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

import neuralforecast.models
import torch
from darts.models import NeuralForecastModel
from torch import Tensor

from benchmarks.data.datasets import Dataset
from benchmarks.models.base import BestEpoch, Forecaster, quantile_likelihood, training_values
from benchmarks.models.papers import FACTORS, PAPER, RECIPES, Recipe, after_passes, recipe
from benchmarks.models.views import Standardised


class Neural(Forecaster):
    """A network of the package neuralforecast with its authors' hyperparameters for the data set (`papers.py`).

    Options: "look_back" and "lr", numbers or lists to choose from (an lr of None: the authors' rate `rate_times` as
    much, since a budget may be far shorter than theirs; "paper": theirs alone), and "network", what differs from
    the authors' arguments of the network, in neuralforecast's words. What differs from their programs:
    no calendar features (theirs feed them to iTransformer and TimeMixer), quantile forecasts train on the pinball loss.
    A one-cycle schedule rises before it falls, so a fit with one is not ended by the budget's patience.
    """

    network: ClassVar[str]
    rate_times: ClassVar[tuple[float, ...]] = (1, 3, 10)
    baseline = True
    defaults: ClassVar[Mapping[str, Any]] = {"look_back": None, "lr": None, "network": {}}
    chosen = ("look_back", "lr")

    def choices(self, name: str, dataset: Dataset, horizon: int) -> list[Any]:
        own = recipe(self.network, dataset.name, horizon).lr
        if name == "lr" and self.options["lr"] in (None, PAPER):
            return [float(f"{times * own:.3g}") for times in ((1,) if self.options["lr"] == PAPER else self.rate_times)]
        return super().choices(name, dataset, horizon)

    def refusal(self, settings: Mapping[str, Any], dataset: Dataset, horizon: int) -> str | None:
        found = recipe(self.network, dataset.name, horizon)
        arguments = {**found.network, **self.options["network"]}
        return self.refused(arguments, settings["look_back"]) or super().refusal(settings, dataset, horizon)

    def recipe(self) -> Any:
        return [self.rate_times, sorted((str(place), asdict(found)) for place, found in RECIPES[self.network].items())]

    def resolved(self, model: Any) -> dict[str, Any]:
        given = model.inner.model_params
        rate, schedule = given["optimizer_kwargs"]["lr"], given["lr_scheduler_cls"].__name__
        return {**super().resolved(model), "lr": rate, "schedule": schedule, "network": given["model_kwargs"]}

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> Standardised:
        found = recipe(self.network, dataset.name, horizon)
        arguments = {**found.network, **self.options["network"]}
        window = dataset, settings["look_back"], horizon
        model = NeuralForecastModel(
            settings["look_back"],
            horizon,
            model=self.network_class(),
            model_kwargs={**arguments, **self.inner_norm(levels)},
            use_reversible_instance_norm=bool(self.inner_norm(levels)),
            use_static_covariates=False,
            batch_size=self.budget.batch_size,
            n_epochs=self.epochs,
            loss_fn=torch.nn.MSELoss(),
            likelihood=quantile_likelihood(levels),
            optimizer_cls=torch.optim.Adam,
            optimizer_kwargs={"lr": settings["lr"]},
            random_state=seed,
            pl_trainer_kwargs=self.trainer(BestEpoch(), to_the_end=found.schedule not in FACTORS),
            **schedule(found, settings["lr"], self.steps(*window), self.share(*window)),
        )
        return Standardised(model, training_values(dataset))

    def network_class(self) -> Any:
        return getattr(neuralforecast.models, self.network)

    def inner_norm(self, levels: Sequence[float] | None) -> dict[str, Any]:
        """Arguments that leave each window's normalisation to Darts; none where the network does it well itself."""
        return {}

    def refused(self, arguments: Mapping[str, Any], look_back: int) -> str | None:
        """Why the network can't take this look-back; None: it can."""
        return None


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
    version = 2  # 1 ended fits before the rates had gone down
    rate_times = (1 / 3, 1, 3)  # 0.01 is high as it is: with ten times that, fits of long look-backs diverge

    def inner_norm(self, levels: Sequence[float] | None) -> dict[str, Any]:
        return {} if levels is None else {"use_norm": False}

    def refused(self, arguments: Mapping[str, Any], look_back: int) -> str | None:
        factor = arguments["down_sampling_window"] ** arguments["down_sampling_layers"]
        if look_back % factor == 0:
            return None
        return (
            f"a look-back of {look_back} steps is nothing for TimeMixer, which averages over up to {factor} steps; "
            f"take a multiple of {factor}"
        )


class OrderedITransformer(neuralforecast.models.iTransformer):
    """neuralforecast's iTransformer with its quantiles in the order that Darts reads.

    A step's values (V variables, Q quantiles) leave the network level by level, but Darts takes them variable by
    variable: without this, quantiles go to other variables and get their units.
    """

    def forward(self, windows_batch: dict[str, Any]) -> Tensor:
        by_level: Tensor = super().forward(windows_batch)  # (B, H, Q * V)
        return by_level.unflatten(-1, (-1, self.enc_in)).transpose(-1, -2).flatten(-2)


def schedule(found: Recipe, rate: float, steps: int, share: float) -> dict[str, Any]:
    """Darts' arguments for the recipe's learning-rate schedule.

    `steps` are the optimiser's in all epochs, `share` is how much of all training windows an epoch has.
    """
    optim = torch.optim.lr_scheduler
    if found.schedule in FACTORS:
        factor = partial(after_passes, FACTORS[found.schedule], share)
        return {"lr_scheduler_cls": optim.LambdaLR, "lr_scheduler_kwargs": {"lr_lambda": factor}}
    cycle = {"max_lr": rate, "total_steps": steps, "pct_start": found.warm_up, "interval": "step"}
    return {"lr_scheduler_cls": optim.OneCycleLR, "lr_scheduler_kwargs": cycle}
