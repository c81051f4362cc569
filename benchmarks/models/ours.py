"""darts-msft's own methods, on any of its backbones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from benchmarks.data import Dataset
from benchmarks.models.base import SIZES, Forecaster, Levels, Settings, quantile_likelihood, sha256_of
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.storage.weights import load_state, state_hash

SAMPLES = 1000  # behind the quantiles; of MOIRAI's 100 the 2.5 % quantile, which the MSIS is of, would be noise
FIXED = ("backbone", "revision", "weight_init")  # options that are no choice (a list of `weight_init` is one value)
OPTIMISER = [{"betas": (0.9, 0.98), "weight_decay": 0.01}, 1.0]  # AdamW's arguments and the clipped norm
ARGUMENTS = {name: entry.default for name, entry in inspect.signature(MSFTFoundationModel.__init__).parameters.items()}


class Ours(Forecaster):
    """`MSFTFoundationModel` with one finetuning method.

    Options: those of the model's own that the method has a use for, each but `FIXED` also as a list to choose from on
    validation data; `likelihood` (quantile forecasts only): "native" trains the backbone's own distribution and takes
    the quantiles of `num_samples` sample paths, "quantile" trains a new head with the pinball loss.

    `own` are the method's own arguments of the model, `rates` its learning rates where none is given: a change of
    the model's default rates has to be made here too, so that results before and after it are told apart.
    """

    version = 2  # 1 took the look-back from the zero-shot model's choice too
    method: ClassVar[str]
    own: ClassVar[tuple[str, ...]] = ()
    rates: ClassVar[Mapping[str, float]] = {}
    pretrained: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        names = ("backbone", "revision", "patch_size", *cls.own, *(f"lr_{group}" for group in cls.rates))
        given = {name: ARGUMENTS[name] for name in names}
        cls.defaults = {"look_back": None, **given, "likelihood": "native", "num_samples": SAMPLES}
        cls.chosen = ("look_back", *(name for name in names if name not in FIXED))

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        if not (self.trains and self.budget.zero_shot_choice):
            return None
        shared = (*SIZES, "backbone", "revision", "likelihood", "num_samples")
        return "zero_shot", {name: value for name, value in self.given.items() if name in shared}

    def refusal(self, settings: Settings, data: Dataset, horizon: int) -> str | None:
        """Also what the model itself refuses, say more tokens than the backbone was made for."""
        try:
            self._model(settings, horizon)
        except ValueError as error:
            return str(error)
        return super().refusal(settings, data, horizon)

    def build(self, settings: Settings, data: Dataset, horizon: int, seed: int, levels: Levels) -> Any:
        kind = self.options["likelihood"]
        if kind not in ("native", "quantile"):
            raise ValueError(f"likelihood={kind!r} is not known; choose 'native' or 'quantile'")
        model = self._model(
            settings,
            horizon,
            likelihood="native" if self._sampled(levels) else quantile_likelihood(levels),
            batch_size=self.budget.batch_size,
            n_epochs=self.epochs,
            random_state=seed,
            pl_trainer_kwargs=self.trainer(),  # the model itself keeps its best state, that before training included
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
        return levels is not None and self.options["likelihood"] == "native"

    def _model(self, settings: Settings, horizon: int, **more: Any) -> MSFTFoundationModel:
        fixed = {name: self.options[name] for name in FIXED if name in self.options}
        chosen = {name: value for name, value in settings.items() if name != "look_back"}
        return MSFTFoundationModel(settings["look_back"], horizon, method=self.method, **fixed, **chosen, **more)

    def describe(self, model: Any) -> dict[str, Any]:
        report, trained = model.fit_report, 0
        if report is not None:
            trained, improving = report.trained_parameters, report.kept == f"epoch {report.epochs - 1}"
            own = {"before": report.before, "best": report.best, "still_improving": improving}
            report = {**asdict(report), **own}
        found = {"trained_parameters": trained, "fit_report": report, "scale_weights": model.scale_weights.tolist()}
        return {**super().describe(model), **found}

    def resolved(self, model: Any) -> dict[str, Any]:
        given = {group: model.model_params.get(f"lr_{group}") for group in self.rates}
        rates = {f"lr_{group}": rate if given[group] is None else given[group] for group, rate in self.rates.items()}
        sizes = {"patch_size": model.model.plan.patch_size, "num_scales": model.model.plan.num_scales}
        return {**super().resolved(model), **sizes, **rates, "revision": self._backbone[0].revision}

    def recipe(self) -> Any:
        return [dict(self.rates), *OPTIMISER] if self.trains else None

    def weights(self) -> str:
        source, _, config = self._backbone  # of "scratch" the configuration: it has nothing else of the backbone
        return state_hash(load_state(source)) if self.pretrained else sha256_of(config)

    @cached_property
    def _backbone(self) -> tuple[Any, str, dict[str, Any]]:
        return describe(self.options["backbone"], self.options["revision"])


def _row(method: str, own: tuple[str, ...] = (), **more: Any) -> type[Ours]:
    return type(method, (Ours,), {"method": method, "own": own, **more})


_SCALES = ("num_scales", "aggregator", "shared_adapters", "shared_lora", "attention")
_MIXING = ("mixing", "upsampling", "weight_learning", "weight_init")
_LORA = ("lora_rank", "lora_alpha")

MSFT_RATES = {"pretrained": 3e-5, "new": 3e-4, "head": 3e-5, "omega": 1e-2}
# 2 fitted the weights of the scales to the medians, not to the CRPS
MSFT = _row("msft", (*_SCALES, *_LORA, *_MIXING), rates=MSFT_RATES, version=3)
Full = _row("full", rates={"pretrained": 3e-4, "head": 3e-4})
LinearProbe = _row("linear_probe", rates={"head": 1e-3})
Prompt = _row("prompt", ("prompt_length",), rates={"new": 1e-2, "head": 1e-3})
LoRA = _row("lora", _LORA, rates={"new": 3e-3, "head": 1e-3})
AdaLoRA = _row("adalora", _LORA, rates={"new": 1e-2, "head": 1e-3})
ZeroShot = _row("zero_shot", trains=False)
Scratch = _row("scratch", rates={"pretrained": 1e-3, "head": 1e-3}, baseline=True, pretrained=False, version=3)
