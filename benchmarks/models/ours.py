"""darts-msft's own methods, on any of its backbones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

from pytorch_lightning.callbacks import EarlyStopping

from benchmarks.datasets import Dataset
from benchmarks.models.base import CONTEXTS, QUIET, Forecaster, quantile_likelihood
from benchmarks.models.views import FromSamples, inner_of
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe as describe_backbone
from darts_msft.weights import load_state, state_hash

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
    """

    method: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {
        "look_back": CONTEXTS,
        **FIXED_OPTIONS,
        **METHOD_OPTIONS,
        "likelihood": "native",
        "num_samples": SAMPLES,
    }
    chosen = ("look_back", *METHOD_OPTIONS)

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
            trained = report.trained_parameters
            report = {**asdict(report), "before": report.before, "best": report.best}
        found = {"trained_parameters": trained, "fit_report": report, "scale_weights": inner.scale_weights.tolist()}
        return {**super().describe(model), **found}

    def weights(self) -> str | None:
        source, _, _ = describe_backbone(self.options["backbone"], self.options["revision"])
        return state_hash(load_state(source))


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

    def weights(self) -> None:
        return None
