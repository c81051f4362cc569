"""DLinear, and the seasonal naive forecast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from darts.models import DLinearModel

from benchmarks.data.datasets import Dataset
from benchmarks.models.base import BestEpoch, Forecaster, quantile_likelihood, training_values
from benchmarks.models.papers import DLINEAR_RATES, PAPER, after_passes, halved
from benchmarks.models.views import Standardised, WindowModel

RATES = (1e-4, 1e-3, 5e-3)


class DLinear(Forecaster):
    """Darts' `DLinearModel` as the paper trains it (Zeng et al., AAAI 2023).

    One set of weights for all variables, kernel 25, randomly initialised layers, squared error (quantile forecasts:
    pinball loss), Adam, a rate halved after each pass over the training windows but the first. Option `lr`: a rate, or
    a list to choose from on validation data; None: `RATES` and that of the authors' script for the data set; "paper":
    the latter alone. Like all models trained from scratch here it sees each variable in units of its deviation in the
    training part.
    """

    baseline = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "look_back": None,
        "lr": None,
        "kernel_size": 25,
        "const_init": False,
    }
    chosen = ("look_back", "lr")

    def choices(self, name: str, dataset: Dataset, horizon: int) -> list[Any]:
        if name != "lr" or self.options["lr"] not in (None, PAPER):
            return super().choices(name, dataset, horizon)
        own = DLINEAR_RATES.get((dataset.name, horizon))
        if self.options["lr"] is None:
            return [*RATES, *({own} - {None, *RATES})]
        if own is None:
            raise ValueError(f"lr={PAPER!r} is not known for {dataset.name} at horizon {horizon}; give a number")
        return [own]

    def recipe(self) -> Any:
        return [RATES, sorted([*place, rate] for place, rate in DLINEAR_RATES.items())]

    def resolved(self, model: Any) -> dict[str, Any]:
        rate = model.inner.model_params["optimizer_kwargs"]["lr"]
        return {**super().resolved(model), "lr": rate, "schedule": halved.__name__}

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> Standardised:
        share = self.share(dataset, settings["look_back"], horizon)
        model = DLinearModel(
            settings["look_back"],
            horizon,
            shared_weights=True,
            kernel_size=self.options["kernel_size"],
            const_init=self.options["const_init"],
            batch_size=self.budget.batch_size,
            n_epochs=self.epochs,
            loss_fn=torch.nn.MSELoss(),
            likelihood=quantile_likelihood(levels),
            optimizer_cls=torch.optim.Adam,
            optimizer_kwargs={"lr": settings["lr"]},
            lr_scheduler_cls=torch.optim.lr_scheduler.LambdaLR,
            lr_scheduler_kwargs={"lr_lambda": partial(after_passes, halved, share)},
            random_state=seed,
            pl_trainer_kwargs=self.trainer(BestEpoch()),
        )
        return Standardised(model, training_values(dataset))


class SeasonalNaive(Forecaster):
    """The last season repeated; quantiles from the errors that this makes in the training part."""

    trains = False

    def choices(self, name: str, dataset: Dataset, horizon: int) -> list[Any]:
        return [dataset.season]

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> SeasonalNaiveModel:
        if settings["look_back"] != dataset.season:
            raise ValueError(
                f"look_back={settings['look_back']} is not allowed for the seasonal naive forecast of {dataset.name}, "
                f"which repeats its season; give {dataset.season}"
            )
        return SeasonalNaiveModel(dataset, horizon, levels)

    def describe(self, model: Any) -> dict[str, Any]:
        nothing = dict.fromkeys(("weights", "fit_report", "scale_weights"))
        return {"trained_parameters": 0, "parameters": 0, **nothing}


class SeasonalNaiveModel(WindowModel):
    """Step h is forecast by the value c seasons of m steps before it, c = ceil(h / m) the seasons since the context.

    Its quantiles add those of the errors y[t] - y[t - c * m] over the training part, for each variable apart, with the
    same number of seasons c between, and t at the same step of the season: by day and by night apart, say.
    """

    def __init__(self, dataset: Dataset, horizon: int, levels: Sequence[float] | None) -> None:
        super().__init__(dataset.season, levels)
        self.season, self.times = dataset.season, dataset.times[dataset.bounds["train"][0] :]
        self.offsets = None if levels is None else self._error_quantiles(training_values(dataset), horizon, levels)

    def _error_quantiles(self, train: np.ndarray, horizon: int, levels: Sequence[float]) -> np.ndarray:
        """By seasons between (c - 1) and step of the season: (seasons, m, V, Q)."""
        season, cycles = self.season, -(-horizon // self.season)
        if len(train) < (cycles + 1) * season:
            raise ValueError(
                f"the training part has {len(train)} steps, too few for errors over {cycles} seasons of {season}; "
                f"shorten the horizon, or give at least {(cycles + 1) * season} steps"
            )
        found = np.empty((cycles, season, train.shape[1], len(levels)))
        for cycle in range(cycles):
            lag = (cycle + 1) * season
            errors = train[lag:].astype(np.float64) - train[:-lag]
            for step in range(season):  # errors[i] is at step i of the season: lag is a multiple of it
                found[cycle, step] = np.quantile(errors[step::season], levels, axis=0).T
        return found

    def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
        steps = np.arange(horizon)
        points = contexts[:, steps % self.season, :, None]
        if self.offsets is None:
            return points
        positions = self.times.get_indexer(begins)
        if (positions < 0).any():
            raise ValueError(
                f"a window begins at {begins[int(positions.argmin())]}, which is no time of the data set from "
                f"{self.times[0]} to {self.times[-1]}; forecast the data set that the model was built for"
            )
        phases = (positions[:, None] + steps) % self.season
        return np.asarray(points + self.offsets[steps // self.season, phases])
