"""darts-msft's own methods, on any of its backbones."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

from benchmarks.data.datasets import Dataset
from benchmarks.models.base import SIZES, Forecaster, quantile_likelihood, sha256_of
from benchmarks.models.views import FromSamples, inner_of
from darts_msft import MSFTFoundationModel
from darts_msft.arguments import Checkpoint, check_tokens, choose_patch_size
from darts_msft.backbones import describe as describe_backbone
from darts_msft.backbones import load_class
from darts_msft.methods import find_method
from darts_msft.model import ADAMW, GRADIENT_CLIP
from darts_msft.options import MethodConfig
from darts_msft.scales.pyramid import ScalePlan
from darts_msft.storage.weights import Source, load_state, state_hash

SAMPLES = 1000  # behind the quantiles; of MOIRAI's 100 the 2.5 % quantile, which the MSIS is of, would be noise
COMMON = ("backbone", "revision", "patch_size")  # arguments of the model that every method has a use for
FIXED = ("backbone", "revision", "weight_init")  # those that are no choice (a list of `weight_init` is one value)


class Ours(Forecaster):
    """`MSFTFoundationModel` with one finetuning method.

    Options: those of the model's own that the method has a use for, each but `FIXED` also as a list to choose from on
    validation data; `likelihood` (quantile forecasts only): "native" trains the backbone's own distribution and takes
    the quantiles of `num_samples` sample paths, "quantile" trains a new head with the pinball loss.

    With the budget's `zero_shot_choice`, what is trained takes the patch size from the zero-shot model's choice, and
    chooses the look-back itself: the context that is best before finetuning need not be the best after it.
    """

    version = 2  # 1 took the look-back from the zero-shot model's choice too

    method: ClassVar[str]

    @cached_property
    def defaults(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What the method has a use for, and `defaults_hash` so covers; found late, since peft is an extra."""
        return {"look_back": None, **arguments_of(self.method), "likelihood": "native", "num_samples": SAMPLES}

    @cached_property
    def chosen(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("look_back", *(name for name in arguments_of(self.method) if name not in FIXED))

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        if not (self.trains and self.budget.zero_shot_choice):
            return None
        shared = (*SIZES, "backbone", "revision", "likelihood", "num_samples")
        return "zero_shot", {name: value for name, value in self.given.items() if name in shared}

    def refusal(self, settings: Mapping[str, Any], dataset: Dataset, horizon: int) -> str | None:
        """Also more tokens than the backbone was made for."""
        _, architecture, config = self._backbone
        cls, look_back = load_class(architecture), settings["look_back"]
        patch_size = choose_patch_size(settings["patch_size"], cls.patch_sizes(config), look_back)
        prompt = {name: settings[name] for name in ("prompt_length",) if name in settings}
        added = find_method(self.method).added_tokens(MethodConfig(**prompt))
        plan = ScalePlan(look_back, horizon, patch_size, 0)
        try:
            check_tokens(Checkpoint(self.options["backbone"], cls, config), plan, added)
        except ValueError as error:
            return str(error)
        return super().refusal(settings, dataset, horizon)

    def build(
        self, settings: Mapping[str, Any], dataset: Dataset, horizon: int, seed: int, levels: Sequence[float] | None
    ) -> MSFTFoundationModel | FromSamples:
        kind = self.options["likelihood"]
        if kind not in ("native", "quantile"):
            raise ValueError(f"likelihood={kind!r} is not known; choose 'native' or 'quantile'")
        sampled = levels is not None and kind == "native"
        model = MSFTFoundationModel(
            settings["look_back"],
            horizon,
            method=self.method,
            likelihood="native" if sampled else quantile_likelihood(levels),
            batch_size=self.budget.batch_size,
            n_epochs=self.epochs,
            random_state=seed,
            pl_trainer_kwargs=self.trainer(),  # the model itself keeps its best state, that before training included
            **{name: self.options[name] for name in FIXED if name in self.options},
            **{name: value for name, value in settings.items() if name != "look_back"},
        )
        if not self.trains:
            model.fit(dataset.series("train"))  # reads the weights, trains nothing
        return model if not sampled else FromSamples(model, levels or (), self.options["num_samples"], seed)

    def describe(self, model: Any) -> dict[str, Any]:
        inner = inner_of(model)
        report, trained = inner.fit_report, 0
        if report is not None:
            trained, improving = report.trained_parameters, report.kept == f"epoch {report.epochs - 1}"
            own = {"before": report.before, "best": report.best, "still_improving": improving}
            report = {**asdict(report), **own}
        found = {"trained_parameters": trained, "fit_report": report, "scale_weights": inner.scale_weights.tolist()}
        return {**super().describe(model), **found}

    def resolved(self, model: Any) -> dict[str, Any]:
        module = inner_of(model).model
        found = {"patch_size": module.plan.patch_size, "num_scales": module.plan.num_scales}
        rates = {f"lr_{name}": rate for name, rate in module.rates.to_dict().items()} if self.trains else {}
        source, _, _ = self._backbone
        return {**super().resolved(model), **found, **rates, "revision": source.revision}

    def recipe(self) -> Any:
        rates = find_method(self.method).rates.to_dict()
        own = {group: rate for group, rate in rates.items() if f"lr_{group}" in self.defaults}
        return [own, ADAMW, GRADIENT_CLIP] if self.trains else None

    def weights(self) -> str:
        source, _, _ = self._backbone
        return state_hash(load_state(source))

    @cached_property
    def _backbone(self) -> tuple[Source, str, dict[str, Any]]:
        """Source, architecture and configuration."""
        return describe_backbone(self.options["backbone"], self.options["revision"])


def arguments_of(method: str) -> dict[str, Any]:
    """The arguments of `MSFTFoundationModel` that are options of a method here, and their defaults."""
    found = find_method(method)
    names = {*COMMON, *found.options, *(f"lr_{group}" for group in found.groups)}
    names |= {"num_scales"} if found.multi_scale else set()
    names |= {"lr_head"} if found.trains else set()  # of the head that likelihood="quantile" brings
    parameters = inspect.signature(MSFTFoundationModel.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name in names}


class MSFT(Ours):
    """Multi-scale finetuning."""

    method = "msft"


class Full(Ours):
    """Every weight."""

    method = "full"


class LinearProbe(Ours):
    """The head alone."""

    method = "linear_probe"


class Prompt(Ours):
    """Learned tokens before the context."""

    method = "prompt"


class LoRA(Ours):
    """Low-rank updates of the attention's weights."""

    method = "lora"


class AdaLoRA(Ours):
    """The same with ranks shared out by importance."""

    method = "adalora"


class ZeroShot(Ours):
    """The pretrained model as it is."""

    method = "zero_shot"
    trains = False


class Scratch(Ours):
    """The same architecture with random weights, as a control."""

    method = "scratch"
    baseline = True
    version = 3  # 2 had the epochs of pretrained models

    def weights(self) -> str:
        """sha256 of the configuration: there is nothing else of the backbone in it."""
        return sha256_of(self._backbone[2])
