"""darts-msft's own methods, on any of its backbones."""

from __future__ import annotations

import inspect
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from benchmarks.data import Dataset
from benchmarks.models import Budget
from benchmarks.models.base import QUIET, Forecaster, Levels, Settings, quantile_likelihood, sha256_of
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.methods import find_method
from darts_msft.storage.weights import load_state, state_hash

SAMPLES = 1000  # behind the quantiles; of MOIRAI's 100 the 2.5 % quantile, which the MSIS is of, would be noise
FIXED = ("backbone", "revision", "weight_init")  # options that are no choice (a list of `weight_init` is one value)
OPTIMISER = [{"betas": (0.9, 0.98), "weight_decay": 0.01}, 1.0]  # AdamW's arguments and the clipped norm
ALWAYS = ("backbone", "revision", "patch_size", "num_scales", "finest_context")  # arguments that all methods use
LATER = {"linear_member": False}  # options of a later version, and what the rows before it had
LED = ("look_back", "patch_size", "num_scales", "finest_context")  # settings of the zero-shot model's choice
ARGUMENTS = {name: entry.default for name, entry in inspect.signature(MSFTFoundationModel.__init__).parameters.items()}


class Ours(Forecaster):
    """`MSFTFoundationModel` with one finetuning method.

    Options: those of the model's own that the method has a use for, each but `FIXED` also as a list to choose from on
    validation data; `likelihood`: "native" trains the backbone's own distribution and takes the quantiles of
    `num_samples` sample paths, or, where points are asked for, is a model of points (`likelihood=None`); "quantile"
    trains a new head with the pinball loss; "default" is a distribution for points too, of which `predict` gives the
    medians, as to a user who asks for nothing. A `finest_context`
    of "look_back" is the look-back: the paper's form, in which every scale sees the same steps.

    What a method has a use for, and its rates where none are given, come from the method itself; `resolved` writes
    down what they were. `linear_member` is off unless a row asks for it.
    """

    version = 4  # 1 chose the look-back otherwise, 2 had one scale but for MSFT, 3 never undid an epoch
    method: ClassVar[str]

    def __init__(self, options: Settings, budget: Budget) -> None:
        own = find_method(self.method)
        self.trains, self.pretrained, self.baseline = own.trains, own.pretrained, not own.pretrained
        groups, given = (*own.groups, *(["head"] if own.trains else [])), own.rates.to_dict()
        rates = {group: given["new"] if given[group] is None else given[group] for group in dict.fromkeys(groups)}
        self.rates: dict[str, float] = rates
        taken = [name for name in own.options if name not in LATER]
        names = (*ALWAYS, *taken, *(f"lr_{group}" for group in self.rates))
        self.defaults = {"look_back": None, **{name: ARGUMENTS[name] for name in names}, **self.more()}
        self.chosen = ("look_back", *(name for name in names if name not in FIXED))
        super().__init__(options, budget)

    def more(self) -> dict[str, Any]:
        """Options that are none of the model's, or have another default here."""
        return {"likelihood": "native", "num_samples": SAMPLES, **LATER}

    @property
    def one_scale(self) -> bool:
        return self.options["num_scales"] == 0

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        if not (self.trains and self.budget.zero_shot_choice):
            return None
        known = ZeroShot({}, self.budget).defaults.keys() - LATER.keys()
        return "zero_shot", {name: value for name, value in self.given.items() if name in known}

    @property
    def followed(self) -> tuple[str, ...]:
        """At one scale the look-back is chosen by fits: with a longer one zero-shot loses, and finetuning gains."""
        return LED if self.budget.zero_shot_look_back and not self.one_scale else super().followed

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        """Also what the model itself refuses, say more tokens than the backbone was made for."""
        try:
            self._model(settings, horizon)
        except ValueError as error:
            return str(error)
        return super().refusal(settings, data, horizon)

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        kind = self.options["likelihood"]
        if kind not in ("native", "quantile", "default"):
            raise ValueError(f"likelihood={kind!r} is not known; choose 'native', 'quantile' or 'default'")
        model = self._model(
            settings,
            horizon,
            likelihood="native" if self._sampled(levels) or kind == "default" else quantile_likelihood(levels),
            batch_size=self.budget.batch_size,
            n_epochs=self.epochs,
            random_state=seed,
            # the model itself keeps its best state, that before training included
            pl_trainer_kwargs=self.trainer() if self.trains else dict(QUIET),
        )
        if not self.trains:
            model.fit(data.series("train"))  # reads the weights, trains nothing
        return model

    def forecast(self, model: Any, data: Dataset, starts: range, levels: Levels, **asked: Any) -> np.ndarray:
        """Quantiles of sample paths are always of the same draws."""
        if levels is None or not self._sampled(levels):
            return super().forecast(model, data, starts, levels)
        draws = {"num_samples": self.options["num_samples"], "random_state": model.model_params["random_state"]}
        found = super().forecast(model, data, starts, None, **draws)
        return np.moveaxis(np.quantile(found, levels, axis=-1), 0, -1)

    def held(self, levels: Levels) -> int:
        return self.options["num_samples"] if self._sampled(levels) else super().held(levels)

    def _sampled(self, levels: Levels) -> bool:
        return levels is not None and self.options["likelihood"] != "quantile"

    def _model(self, settings: Settings, horizon: int, **more: Any) -> MSFTFoundationModel:
        fixed = {name: self.options[name] for name in FIXED if name in self.options}
        chosen = {name: value for name, value in settings.items() if name != "look_back"}
        if chosen["finest_context"] == "look_back":
            chosen["finest_context"] = settings["look_back"]
        fixed |= {name: self.options[name] for name in LATER}
        return MSFTFoundationModel(settings["look_back"], horizon, method=self.method, **fixed, **chosen, **more)

    def describe(self, model: Any) -> dict[str, Any]:
        report, trained = model.fit_report, 0
        if report is not None:
            trained = report.trained_parameters
            own = {name: getattr(report, name) for name in ("before", "best", "still_improving")}
            report = {**asdict(replace(report, by_series=())), **own}
        weights = None if model.scale_weights is None else model.scale_weights.tolist()  # None: each window its own
        found = {"trained_parameters": trained, "fit_report": report, "scale_weights": weights}
        return {**super().describe(model), **found}

    def resolved(self, model: Any) -> dict[str, Any]:
        given = {group: model.model_params.get(f"lr_{group}") for group in self.rates}
        rates = {f"lr_{group}": rate if given[group] is None else given[group] for group, rate in self.rates.items()}
        plan = model.model.plan
        sizes = {"patch_size": plan.patch_size, "num_scales": plan.num_scales, "finest_context": plan.contexts[0]}
        return {**super().resolved(model), **sizes, **rates, "revision": self._backbone[0].revision}

    def recipe(self) -> Any:
        return [dict(self.rates), *OPTIMISER] if self.trains else None

    def defaults_hash(self) -> str:
        """Without the later options, which the rows before them lack."""
        defaults = {name: value for name, value in self.defaults.items() if name not in LATER}
        return sha256_of({"version": self.version, "defaults": defaults, "recipe": self.recipe()})

    def weights(self) -> str:
        source, _, config = self._backbone  # of "scratch" the configuration: it has nothing else of the backbone
        return state_hash(load_state(source)) if self.pretrained else sha256_of(config)

    @cached_property
    def _backbone(self) -> tuple[Any, str, dict[str, Any]]:
        return describe(self.options["backbone"], self.options["revision"])


class ZeroShot(Ours):
    """Its own option `stacked`: whether the scales' weights are solved for on the validation part, or are those of
    backcasts in each window, as of a model that was never fitted.
    """

    method, version = "zero_shot", 3

    def more(self) -> dict[str, Any]:
        return {**super().more(), "stacked": True}

    def fit(self, model: Any, data: Dataset, settings: Settings) -> None:
        if self.options["stacked"] and model.model.plan.num_scales:
            model.fit_from_dataset(*self.windows(model, data, settings))


class Chronos2(ZeroShot):
    """Chronos-2 (Ansari et al. 2025, Apache-2.0) as it is, with all variables as one group: at one scale it forecasts
    what Darts' own Chronos2Model does (tests/backbones/test_chronos2.py).
    """

    def more(self) -> dict[str, Any]:
        return {**super().more(), "backbone": "chronos-2", "num_scales": 0, "likelihood": "quantile"}


class Scratch(Ours):
    method, version = "scratch", 5


class MSFT(Ours):
    method, version = "msft", 5  # 2 fitted the weights of the scales to the medians, not to the CRPS


def _row(method: str) -> type[Ours]:
    return type(method, (Ours,), {"method": method})


MSFTFull, Full, LinearProbe = _row("msft_full"), _row("full"), _row("linear_probe")
Prompt, LoRA, AdaLoRA = _row("prompt"), _row("lora"), _row("adalora")
