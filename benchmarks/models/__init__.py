"""The models of the benchmarks by name, imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from benchmarks.errors import Misuse
from benchmarks.models.base import Forecaster
from benchmarks.run.experiments import Budget

MODELS = {
    "msft": "benchmarks.models.ours:MSFT",
    "full": "benchmarks.models.ours:Full",
    "linear_probe": "benchmarks.models.ours:LinearProbe",
    "prompt": "benchmarks.models.ours:Prompt",
    "lora": "benchmarks.models.ours:LoRA",
    "adalora": "benchmarks.models.ours:AdaLoRA",
    "zero_shot": "benchmarks.models.ours:ZeroShot",
    "scratch": "benchmarks.models.ours:Scratch",
    "dlinear": "benchmarks.models.classical:DLinear",
    "seasonal_naive": "benchmarks.models.classical:SeasonalNaive",
    "patchtst": "benchmarks.models.neural:PatchTST",
    "itransformer": "benchmarks.models.neural:ITransformer",
    "timemixer": "benchmarks.models.neural:TimeMixer",
    "fracast": "benchmarks.models.fracast:Fracast",
    "chronos2": "benchmarks.models.chronos2:Chronos2",
}

INSTALL = {
    "neuralforecast": "pip install 'darts-msft[baselines]'",
    "fracast": "pip install 'darts-msft[baselines]'",
    "uni2ts": "pip install 'darts-msft[moirai]'",
    "peft": "pip install 'darts-msft[peft]'",
}


def load_forecaster(name: str, options: Mapping[str, Any], budget: Budget) -> Forecaster:
    """The model registered under `name`; `options` differ from its defaults.

    Raises
    ------
    Misuse
        If the name or an option is not known.
    ModuleNotFoundError
        If the model's package is missing, with the install line.
    """
    if name not in MODELS:
        raise Misuse(f"model {name!r} is not known; choose one of {', '.join(MODELS)}")
    module, _, attribute = MODELS[name].partition(":")
    try:
        found: type[Forecaster] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name not in INSTALL:
            raise
        raise ModuleNotFoundError(
            f"model {name!r} needs the package {error.name!r}, which is not installed; run: {INSTALL[error.name]}",
            name=error.name,
        ) from error
    return found(options, budget)
