"""darts-msft's own methods, on any of its backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, ClassVar

from pytorch_lightning.callbacks import EarlyStopping

from benchmarks.datasets import Dataset
from benchmarks.models.base import FOLLOWED, QUIET, Forecaster, quantile_likelihood, sha256_of
from benchmarks.models.views import FromSamples, inner_of
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe as describe_backbone
from darts_msft.backbones import load_class
from darts_msft.config import MethodConfig
from darts_msft.methods import find_method
from darts_msft.model import ADAMW, GRADIENT_CLIP
from darts_msft.pyramid import ScalePlan
from darts_msft.settings import Checkpoint, check_tokens, choose_patch_size
from darts_msft.weights import Source, load_state, state_hash

SAMPLES = 100  # behind the quantiles, as many as in MOIRAI's evaluation
# MSFTFoundationModel's arguments that are options here too, with its defaults
FIXED_OPTIONS = {"backbone": "moirai-tiny", "revision": None, "weight_init": "uniform"}
METHOD_OPTIONS = {
    "num_scales": None,
    "patch_size": "auto",
    "lora_rank": 16,
    "lora_alpha": 16.0,
    "aggregator": "both",
    "shared_adapters": False,
    "shared_lora": False,
    "attention": "in_scale",
    "prompt_length": 8,
    "mixing": "mixture",
    "upsampling": "repeat",
    "weight_learning": "stacking",
    "lr_pretrained": None,
    "lr_new": None,
    "lr_head": None,
    "lr_omega": None,
}


class Ours(Forecaster):
    """`MSFTFoundationModel` with one finetuning method.

    Options: all of the model's own, each but `FIXED_OPTIONS` also as a list to choose from on validation data;
    `likelihood` (quantile forecasts only): "native" trains the backbone's own distribution and takes the quantiles of
    `num_samples` sample paths, "quantile" trains a new head with the pinball loss.

    With the budget's `zero_shot_choice`, what is trained takes look-back and patch size from the zero-shot model's
    choice. So does "scratch", which is a control for the same context.
    """

    method: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {
        "look_back": None,
        **FIXED_OPTIONS,
        **METHOD_OPTIONS,
        "likelihood": "native",
        "num_samples": SAMPLES,
    }
    chosen = ("look_back", *METHOD_OPTIONS)

    def leader(self) -> tuple[str, dict[str, Any]] | None:
        if not (self.trains and self.budget.zero_shot_choice):
            return None
        shared = (*FOLLOWED, "backbone", "revision", "likelihood", "num_samples")
        return "zero_shot", {name: value for name, value in self.given.items() if name in shared}

    def refusal(self, settings: Mapping[str, Any], dataset: Dataset, horizon: int) -> str | None:
        """Also more tokens than the backbone was made for."""
        _, architecture, config = self._backbone
        cls, look_back = load_class(architecture), settings["look_back"]
        patch_size = choose_patch_size(settings["patch_size"], cls.patch_sizes(config), look_back)
        added = find_method(self.method).added_tokens(MethodConfig(prompt_length=settings["prompt_length"]))
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
            n_epochs=self.budget.epochs,
            random_state=seed,
            # the best state, the one before training included, is kept by the model itself
            pl_trainer_kwargs={**QUIET, "callbacks": [EarlyStopping("val_loss", patience=self.budget.patience)]},
            **{name: self.options[name] for name in FIXED_OPTIONS},
            **{name: settings[name] for name in METHOD_OPTIONS},
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
        return [find_method(self.method).rates.to_dict(), ADAMW, GRADIENT_CLIP]

    def weights(self) -> str:
        source, _, _ = self._backbone
        return state_hash(load_state(source))

    @cached_property
    def _backbone(self) -> tuple[Source, str, dict[str, Any]]:
        """Source, architecture and configuration."""
        return describe_backbone(self.options["backbone"], self.options["revision"])


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

    def weights(self) -> str:
        """sha256 of the configuration: there is nothing else of the backbone in it."""
        return sha256_of(self._backbone[2])
