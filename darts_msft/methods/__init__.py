"""Finetuning methods by name, imported when asked for."""

from __future__ import annotations

import importlib

from darts_msft.methods.base import Method

METHODS = {
    "msft": "darts_msft.methods.msft:MSFT",
    "msft_full": "darts_msft.methods.msft_full:MSFTFull",
    "zero_shot": "darts_msft.methods.zero_shot:ZeroShot",
    "full": "darts_msft.methods.full:Full",
    "linear_probe": "darts_msft.methods.linear_probe:LinearProbe",
    "prompt": "darts_msft.methods.prompt:Prompt",
    "lora": "darts_msft.methods.lora:LoRAFinetuning",
    "adalora": "darts_msft.methods.adalora:AdaLoRA",
    "scratch": "darts_msft.methods.scratch:Scratch",
}


def find_method(name: str) -> type[Method]:
    """The class registered under `name`; ValueError with the choices if there is none."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"method={name!r} is not known; choose one of {', '.join(map(repr, METHODS))}")
    module, _, attribute = METHODS[name].partition(":")
    found: type[Method] = getattr(importlib.import_module(module), attribute)
    return found


def methods_with(argument: str) -> list[str]:
    """The methods with a use for an argument of the model, such as "lora_rank" or "lr_head"."""
    found = []
    for name in METHODS:
        try:
            method = find_method(name)
        except ModuleNotFoundError:  # can't be taken here
            continue
        if argument in method.options or argument in map("lr_{}".format, method.groups):
            found.append(name)
    return found
