"""Models trained from random weights: DLinear, PatchTST, iTransformer and TimeMixer, as `recipes.toml` says.

All train with Adam on the squared error (quantile forecasts: on the pinball loss), and see each variable in units of
its deviation in the training part. Batch sizes, epochs and patience are the budget's. iTransformer and TimeMixer get no
calendar features, which their authors' programs feed to them.
"""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from darts.models import DLinearModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from benchmarks.data import Dataset
from benchmarks.models.base import BestEpoch, Forecaster, Levels, Settings, quantile_likelihood

RATES = (1e-4, 1e-3, 5e-3)  # of DLinear, to choose from
PAPER = "paper"  # a learning rate by this name is the authors' for the data set
DEFAULT = "Weather"  # whose recipe any other data set gets: more variables than ETT, and sampled finely
# What multiplies the rate after each pass over all training windows, and from which pass on: the scripts' "type1"
# (which sets the rate of the first pass anew after it, and only then begins to halve) and "type3".
FACTORS = {"halved": (0.5, 1), "late_decay": (0.9, 3)}


def factor_of(schedule: str, share: float, epoch: int) -> float:
    """In an epoch, the first being 0, that is a `share` of a pass: a budget may be sampled."""
    factor, first = FACTORS[schedule]
    return float(factor ** max(0, int(epoch * share) - first))


_TOLD = tomllib.loads(Path(__file__).with_name("recipes.toml").read_text())
_HORIZONS = _TOLD["dlinear"].pop("horizons")
DLINEAR_RATES = {
    (name, h): rate for name, rates in _TOLD.pop("dlinear").items() for h, rate in zip(_HORIZONS, rates, strict=True)
}


def _recipes(head: dict[str, Any]) -> dict[str | tuple[str, int], dict[str, Any]]:
    """By data set, or by data set and horizon where the script tells horizons apart."""
    found = {}
    for place, own in head.pop("places").items():
        told = {**head, **own, "network": {**head["network"], **own.get("network", {})}}
        name, _, horizon = place.partition("-")
        told["source"] = told["source"].format(script=told.pop("script"))
        found[(name, int(horizon)) if horizon else name] = told
    return found


RECIPES = {network: _recipes(head) for network, head in _TOLD.items()}


def recipe(network: str, dataset: str, horizon: int) -> dict[str, Any]:
    """The recipe of `network` for a data set and horizon in steps; that of `DEFAULT` where the authors have none."""
    found = RECIPES[network]
    return found.get((dataset, horizon)) or found.get(dataset) or found[DEFAULT]


class Trained(Forecaster):
    """What the four have in common. Option `lr`: a rate, a list to choose from, "paper" (the authors') or None."""

    baseline = True
    chosen = ("look_back", "lr")

    def rates(self, data: Dataset, horizon: int) -> tuple[float | None, list[float]]:
        """The authors' rate, if there is one, and those to choose from."""
        raise NotImplementedError

    def choices(self, name: str, data: Dataset, horizon: int) -> list[Any]:
        if name != "lr" or self.options["lr"] not in (None, PAPER):
            return super().choices(name, data, horizon)
        own, tried = self.rates(data, horizon)
        if self.options["lr"] is None:
            return tried
        if own is None:
            raise ValueError(f"lr={PAPER!r} is not known for {data.name} at horizon {horizon}; give a number")
        return [own]

    def unit(self, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Each variable's mean and deviation in the training part, (V,); one that never changes keeps its unit."""
        values = data.values[slice(*data.bounds["train"])].astype(np.float64)
        deviation = values.std(axis=0)
        return values.mean(axis=0), np.where(deviation > 0, deviation, 1.0)

    def seen(self, data: Dataset) -> Dataset:
        loc, scale = self.unit(data)
        return replace(data, values=((data.values - loc) / scale).astype(np.float32))

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        loc, scale = self.unit(data)
        return super().forecast(model, data, starts, levels, **asked) * scale[:, None] + loc[:, None]

    def resolved(self, model: Any) -> dict[str, Any]:
        rate, factor = model.model_params["optimizer_kwargs"]["lr"], model.model_params["lr_scheduler_cls"].__name__
        return {**super().resolved(model), "lr": rate, "schedule": factor}

    def arguments(
        self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels, schedule: str, warm_up: float
    ) -> dict[str, Any]:
        """Of a Darts model, but for the network's own."""
        rate, (epoch, every) = settings["lr"], self.batches(data, settings["look_back"], horizon)
        if schedule in FACTORS:
            factor = partial(factor_of, schedule, epoch / every)
            fall: dict[str, Any] = {"lr_scheduler_cls": LambdaLR, "lr_scheduler_kwargs": {"lr_lambda": factor}}
        else:  # a rate that rises before it falls: such a fit is not ended by the budget's patience
            cycle = {"max_lr": rate, "total_steps": self.epochs * epoch, "pct_start": warm_up, "interval": "step"}
            fall = {"lr_scheduler_cls": OneCycleLR, "lr_scheduler_kwargs": cycle}
        return {
            "input_chunk_length": settings["look_back"],
            "output_chunk_length": horizon,
            "batch_size": self.budget.batch_size,
            "n_epochs": self.epochs,
            "loss_fn": torch.nn.MSELoss(),
            "likelihood": quantile_likelihood(levels),
            "optimizer_cls": torch.optim.Adam,
            "optimizer_kwargs": {"lr": rate},
            "random_state": seed,
            "pl_trainer_kwargs": self.trainer(BestEpoch(), to_the_end=schedule not in FACTORS),
            **fall,
        }


class DLinear(Trained):
    """Darts' `DLinearModel` as the paper trains it: one set of weights for all variables, kernel 25, a rate halved."""

    defaults: ClassVar[Settings] = {"look_back": None, "lr": None, "kernel_size": 25, "const_init": False}

    def rates(self, data: Dataset, horizon: int) -> tuple[float | None, list[float]]:
        own = DLINEAR_RATES.get((data.name, horizon))
        return own, [*RATES, *([own] if own not in (None, *RATES) else [])]

    def recipe(self) -> Any:
        return [RATES, sorted([*place, rate] for place, rate in DLINEAR_RATES.items())]

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        own = {name: self.options[name] for name in ("kernel_size", "const_init")}
        shared = self.arguments(settings, data, horizon, seed, levels, "halved", 0)
        return DLinearModel(shared_weights=True, **own, **shared)


class Neural(Trained):
    """A network of the package neuralforecast with its authors' hyperparameters for the data set.

    It may choose from the authors' rate `rate_times` as much, since a budget may be far shorter than theirs. Option
    `network`: what differs from the authors' arguments of the network.
    """

    network: ClassVar[str]
    rate_times: ClassVar[tuple[float, ...]] = (1, 3, 10)
    quantile_norm: ClassVar[dict[str, Any]] = {}  # for quantiles: what leaves each window's normalisation to Darts
    defaults: ClassVar[Settings] = {"look_back": None, "lr": None, "network": {}}

    def rates(self, data: Dataset, horizon: int) -> tuple[float | None, list[float]]:
        own = recipe(self.network, data.name, horizon)["lr"]
        return own, [float(f"{times * own:.3g}") for times in self.rate_times]

    def recipe(self) -> Any:
        return [self.rate_times, sorted([str(place), told] for place, told in RECIPES[self.network].items())]

    def resolved(self, model: Any) -> dict[str, Any]:
        return {**super().resolved(model), "network": model.model_params["model_kwargs"]}

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        from darts.models import NeuralForecastModel  # imports neuralforecast, which takes seconds

        found, norm = recipe(self.network, data.name, horizon), {} if levels is None else self.quantile_norm
        return NeuralForecastModel(
            model=_network(self.network),
            model_kwargs={**found["network"], **self.options["network"], **norm},
            use_reversible_instance_norm=bool(norm),
            use_static_covariates=False,
            **self.arguments(settings, data, horizon, seed, levels, found["schedule"], found["warm_up"]),
        )


class PatchTST(Neural):
    network = "PatchTST"


class ITransformer(Neural):
    network = "iTransformer"


class TimeMixer(Neural):
    network = "TimeMixer"
    version = 2  # 1 ended fits before the rates had gone down
    rate_times = (1 / 3, 1, 3)  # 0.01 is high as it is: with ten times that, fits of long look-backs diverge
    quantile_norm: ClassVar[dict[str, Any]] = {"use_norm": False}  # else undone before a linear map over all variables

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        network = {**recipe(self.network, data.name, horizon)["network"], **self.options["network"]}
        factor = network["down_sampling_window"] ** network["down_sampling_layers"]
        if settings["look_back"] % factor:
            return f"TimeMixer averages over up to {factor} steps; take a look-back that is a multiple of {factor}"
        return super().refusal(settings, data, horizon)


@cache
def _network(name: str) -> Any:
    """The class of neuralforecast; iTransformer's quantiles come level by level, and Darts takes them by variable."""
    import neuralforecast.models

    found = getattr(neuralforecast.models, name)
    if name != "iTransformer":
        return found

    class OrderedITransformer(found):  # type: ignore[misc, valid-type]
        def forward(self, windows_batch: dict[str, Any]) -> Tensor:
            by_level = super().forward(windows_batch)  # (B, H, Q * V)
            return by_level.unflatten(-1, (-1, self.enc_in)).transpose(-1, -2).flatten(-2)

    OrderedITransformer.__qualname__ = "OrderedITransformer"  # can be pickled, as Lightning wants it
    globals()["OrderedITransformer"] = OrderedITransformer
    return OrderedITransformer
