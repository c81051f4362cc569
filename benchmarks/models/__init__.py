"""The models of the benchmarks by name, imported when asked for, and the budget that all of them train with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, gcd
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from benchmarks.errors import Misuse

if TYPE_CHECKING:
    from benchmarks.models.base import Forecaster

MODELS = {  # by name, in the order of a table's rows: how readers see it, and its class
    "msft": ("MSFT", "benchmarks.models.ours:MSFT"),
    "msft_full": ("MSFT with all weights", "benchmarks.models.ours:MSFTFull"),
    "full": ("full finetuning", "benchmarks.models.ours:Full"),
    "linear_probe": ("linear probing", "benchmarks.models.ours:LinearProbe"),
    "prompt": ("prompt tuning", "benchmarks.models.ours:Prompt"),
    "lora": ("LoRA", "benchmarks.models.ours:LoRA"),
    "adalora": ("AdaLoRA", "benchmarks.models.ours:AdaLoRA"),
    "zero_shot": ("zero-shot", "benchmarks.models.ours:ZeroShot"),
    "scratch": ("from scratch", "benchmarks.models.ours:Scratch"),
    "dlinear": ("DLinear", "benchmarks.models.trained:DLinear"),
    "patchtst": ("PatchTST", "benchmarks.models.trained:PatchTST"),
    "itransformer": ("iTransformer", "benchmarks.models.trained:ITransformer"),
    "timemixer": ("TimeMixer", "benchmarks.models.trained:TimeMixer"),
    "fracast": ("Fracast-0", "benchmarks.models.untrained:Fracast"),
    "chronos2": ("Chronos-2", "benchmarks.models.ours:Chronos2"),
    "seasonal_naive": ("seasonal naive", "benchmarks.models.untrained:SeasonalNaive"),
}
OURS = tuple(name for name, (_, place) in MODELS.items() if ".ours:" in place)


@dataclass(frozen=True)
class Budget:
    """What a fit may spend, the same for every model of a table."""

    epochs: int = 10  # passes over the training windows
    patience: int = 3  # epochs without a better validation score before a fit stops
    batch_size: int = 32  # windows a step
    train_windows: int | None = None  # at most so many an epoch, in whole batches, others each epoch; None: all
    validation_windows: int | None = None  # at most so many, evenly spaced, for settings and the best epoch; None: all
    look_backs: tuple[int, ...] = (96, 336, 512, 1024, 2048)  # contexts, in steps, to choose from
    zero_shot_choice: bool = False  # pretrained models that train take the patch size of the untrained one's choice
    zero_shot_look_back: bool = False  # and at several scales its look-back, too
    baseline_epochs: int | None = None  # those of models from random weights; None: as epochs

    def __post_init__(self) -> None:
        object.__setattr__(self, "look_backs", tuple(self.look_backs))  # a list in YAML and JSON

    @property
    def train_batches(self) -> int | None:
        """The most training batches of an epoch; None: all that there are."""
        return None if self.train_windows is None else ceil(self.train_windows / self.batch_size)

    def validation_stride(self, windows: int, season: int) -> int:
        """The least stride that keeps of `windows` no more than allowed, at all phases of a season of so many steps."""
        stride = 1 if self.validation_windows is None else ceil(windows / self.validation_windows)
        while gcd(stride, season) > 1:
            stride += 1
        return stride


def load_forecaster(name: str, options: Mapping[str, Any], budget: Budget) -> Forecaster:
    """The model registered under `name`; `options` differ from its defaults."""
    if name not in MODELS:
        raise Misuse(f"model {name!r} is not known; choose one of {', '.join(MODELS)}")
    return resolve_name(MODELS[name][1])(options, budget)
