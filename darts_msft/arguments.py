"""From the arguments that users give to the parts of a model, with the errors for what does not fit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from fnmatch import fnmatch
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import torch
from darts.logging import get_logger
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.likelihood_models.torch import QuantileRegression, TorchLikelihood

from darts_msft.backbones import describe, load_class
from darts_msft.backbones.base import Traits
from darts_msft.bounds import BoundsConfig
from darts_msft.likelihoods import DartsFamily, ScaleMixture
from darts_msft.methods import find_method, methods_with
from darts_msft.options import (
    AUTO,
    MIXINGS,
    SAMPLE_DEPENDENCES,
    LearningRates,
    MethodConfig,
    MixingConfig,
    check_choice,
    check_number,
)
from darts_msft.plans import Asked, Checkpoint, check_lengths, choose_multivariate, choose_plan, warn_of_reach

logger = get_logger("darts_msft")

GRADIENT_CLIP = 1.0
DARTS_WORDS = {  # of its own foundation models, and ours
    "hub_model_name": "backbone={!r}",
    "hub_model_revision": "revision={!r}",
    "local_dir": "backbone={!r}, a directory with config.json and model.safetensors",
}
ADAMW = {"betas": (0.9, 0.98), "weight_decay": 0.01}


class Resolved(NamedTuple):
    """What a model's arguments come to: the module's settings (plain data), the likelihood, the weights' commit."""

    settings: dict[str, Any]
    likelihood: TorchLikelihood | None
    revision: str | None


def resolve(given: Mapping[str, Any], warns: bool = True) -> Resolved:
    """From all arguments of a model, by name; raises ValueError for what does not fit together.

    `warns` of scales that see less than the whole input: a user's choice may be meant otherwise.
    """
    given = {name: as_python(value) for name, value in given.items()}
    method, num_scales, likelihood = given["method"], given["num_scales"], given["likelihood"]
    method_cls = find_method(method)
    context, horizon = check_lengths(
        given["input_chunk_length"], given["output_chunk_length"], given["output_chunk_shift"]
    )
    check_search(num_scales, given["weight_init"], bool(given.get("save_checkpoints")))
    source, architecture, config = describe(given["backbone"], given["revision"])
    method_config = MethodConfig(**{field.name: given[field.name] for field in fields(MethodConfig)})
    if given.get("linear_member") is None:
        given["linear_member"] = may_have_linear_member(given)
    mixing_config = MixingConfig(**{field.name: given[field.name] for field in fields(MixingConfig)})
    bounds = BoundsConfig(given.get("lower"), given.get("upper"))
    dependence = given.get("sample_dependence", SAMPLE_DEPENDENCES[0])
    check_choice("sample_dependence", dependence, SAMPLE_DEPENDENCES)
    rates = {field.name: given.get(f"lr_{field.name}") for field in fields(LearningRates)}
    trains = given["enable_finetuning"]
    checkpoint = Checkpoint(given["backbone"], load_class(architecture).traits_of(config))
    if likelihood == "native" and checkpoint.traits.family.deterministic:
        likelihood = None
    trains_points = given.get("loss_fn") is not None
    if trains_points:
        check_loss(given["loss_fn"], likelihood, method)
    new_head = brings_head(likelihood, checkpoint.traits, trains_points)
    check_options(method, method_config, mixing_config, rates, new_head, trains)
    finest = given.get("finest_context")
    if finest is None and mixing_config.only_first:
        finest = context  # scale 0 alone forecasts
    asked = Asked(given["patch_size"], num_scales, finest)
    plan = choose_plan(checkpoint, method, method_config, context, horizon, asked)
    if warns and plan.reach < context:
        warn_of_reach(plan)
    mixing_config.initial_logits(plan.num_scales)  # refuses a wrong number of them
    resolved = resolve_likelihood(likelihood, architecture, config, plan.num_scales + 1, mixing_config)
    check_training(method, trains, resolved)
    check_pretrained_head(checkpoint, method, trains)
    check_encoders(given.get("add_encoders"), checkpoint, mixing_config.linear_member)
    settings = {
        "architecture": architecture,
        "backbone_config": config,
        "patch_size": plan.patch_size,
        "num_scales": plan.num_scales,
        "finest_context": plan.contexts[0],
        "method": method,
        "method_config": method_config.to_dict(),
        "mixing_config": mixing_config.to_dict(),
        "bounds_config": bounds.to_dict(),
        "multivariate": choose_multivariate(checkpoint, given.get("multivariate", AUTO)),
        "sample_dependence": dependence,
        "trains_points": trains_points,
        "learning_rates": method_cls.resolve_rates(rates).to_dict(),
    }
    # the commit, so that the weights are of the configuration's
    return Resolved(settings, resolved, source.revision)


def may_have_linear_member(given: Mapping[str, Any]) -> bool:
    """Whether a linear member can join the mixture: its weight is stacked."""
    defaults = MixingConfig()
    return (given["mixing"], given["weight_learning"]) == (defaults.mixing, defaults.weight_learning)


def settle_darts_arguments(model: type, given: dict[str, Any], trains: bool) -> None:
    """Puts our defaults for Darts' own arguments into `given`; refuses those that have no effect here."""
    check_names(model, given)
    given.update({name: as_python(value) for name, value in given.items()})  # can be saved, and compared
    if given.get("use_reversible_instance_norm"):
        logger.warning("use_reversible_instance_norm has no effect: the backbone standardises every window itself")
    if given.get("enable_finetuning") is None:
        given["enable_finetuning"] = trains
    defaults = darts_defaults(trains)
    if "optimizer_cls" not in given:
        given["optimizer_cls"] = defaults["optimizer_cls"]
        given["optimizer_kwargs"] = {**ADAMW, **(given.get("optimizer_kwargs") or {})}
    given.setdefault("n_epochs", defaults["n_epochs"])


def darts_defaults(trains: bool) -> dict[str, Any]:
    """Ours for Darts' own arguments, of a method that trains or not."""
    return {
        "enable_finetuning": trains,
        "optimizer_cls": torch.optim.AdamW,
        "optimizer_kwargs": dict(ADAMW),
        "n_epochs": 10,
    }


def as_python(value: Any) -> Any:
    """A numpy scalar, or those in a list or tuple, as Python's own; a path as a string."""
    if isinstance(value, list | tuple):
        return type(value)(map(as_python, value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if isinstance(value, np.generic) else value


def check_names(model: type, given: Mapping[str, Any]) -> None:
    """Refuses arguments that neither `model`, nor its base classes, nor Darts' modules have."""
    classes = (*model.__mro__[:-1], PLForecastingModule)
    known = {name for cls in classes for name in signature(cls.__init__).parameters}
    known -= {"self", "args", "kwargs"}
    for name in sorted(set(given) - known):
        if name in DARTS_WORDS:
            ours = DARTS_WORDS[name].format(as_python(given[name]))
            raise ValueError(f"{model.__name__} has no argument {name!r}; here it is {ours}")
        near = get_close_matches(name, sorted(known), n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "leave it out; help() lists them all"
        raise ValueError(f"{model.__name__} has no argument {name!r}; {hint}")


def check_windows_per_epoch(asked: int | None) -> int | None:
    """Training windows an epoch; None: all."""
    return None if asked is None else int(check_number("windows_per_epoch", asked, 1, integer=True))


def check_search(num_scales: int | str | None, weight_init: object, save_checkpoints: bool) -> None:
    """Refuses what the fits of num_scales="auto", one for every K, can't share."""
    if num_scales != AUTO:
        return
    if not isinstance(weight_init, str):
        raise ValueError(
            f"weight_init={weight_init!r} is not allowed with num_scales='auto', which fits with other numbers of "
            "scales; give 'uniform' or 'first', or num_scales as a number"
        )
    if save_checkpoints:
        raise ValueError(
            "save_checkpoints=True is not allowed with num_scales='auto', whose fits would need a folder each; let "
            "'auto' pick K first, then create the model with this num_scales and fit it with save_checkpoints=True"
        )


def brings_head(likelihood: object, traits: Traits, trains_points: bool = False) -> bool:
    """Whether a likelihood, as the user gave it, or training points by a loss, needs a new head."""
    if trains_points and not traits.family.has_points:
        return True
    served = isinstance(likelihood, QuantileRegression) and traits.family.serves(likelihood.quantiles)
    return not (traits.pretrained_head and (served or likelihood is None or isinstance(likelihood, str)))


def check_options(
    method: str,
    method_config: MethodConfig,
    mixing_config: MixingConfig,
    rates: Mapping[str, float | None],
    new_head: bool,
    enable_finetuning: bool | dict[str, list[str]],
) -> None:
    """Refuses values, other than the defaults, of options that are without effect.

    `rates` are those given, by group. A `new_head` always trains. With a dictionary as `enable_finetuning`, any rate
    may be given.
    """
    found = find_method(method)
    found.check(method_config)
    given: dict[str, Any] = {}
    if not isinstance(enable_finetuning, dict):
        given = {f"lr_{group}": rate for group, rate in rates.items() if rate is not None}
    given |= method_config.changes() | mixing_config.changes()
    own = {*found.options, *(f"lr_{group}" for group in found.groups)}
    if found.trains and new_head:
        own.add("lr_head")
    useless = [
        f"{name}={list(value) if isinstance(value, tuple) else value!r} (of {', '.join(map(repr, methods_with(name)))})"
        for name, value in given.items()
        if name not in own
    ]
    if useless:
        raise ValueError(
            f"{'; '.join(useless)}: without effect with method={method!r}; leave it out, or take a method that uses it"
        )
    unused = mixing_config.changes().keys() & {"weight_learning", "weight_init"}
    if mixing_config.only_first and unused:
        values = ", ".join(f"{name}={getattr(mixing_config, name)!r}" for name in sorted(unused))
        others = ", ".join(repr(one) for one in MIXINGS if one != mixing_config.mixing)
        raise ValueError(
            f"{values}: without effect with mixing='first', where scale 0 alone forecasts; leave it out, or take one "
            f"of the mixings {others}"
        )


def check_training(
    method: str, enable_finetuning: bool | dict[str, list[str]], likelihood: TorchLikelihood | None
) -> None:
    """Refuses what contradicts a method that trains nothing, or one whose weights are random before training."""
    found = find_method(method)
    if not found.trains and enable_finetuning:
        raise ValueError(
            f"enable_finetuning={enable_finetuning!r} is not allowed with method={method!r}, which trains nothing; "
            "leave it out, or take another method"
        )
    if not found.trains and isinstance(likelihood, ScaleMixture) and likelihood.base is not None:
        raise ValueError(
            f"likelihood={likelihood.base!r} needs a new head, which method={method!r} doesn't train; take "
            "likelihood='native', QuantileRegression or None, or another method"
        )
    if not found.pretrained and enable_finetuning is False:
        raise ValueError(
            f"enable_finetuning=False is not allowed with method={method!r}, whose weights are random before training; "
            "leave it out, or take method='zero_shot'"
        )


def check_pretrained_head(checkpoint: Checkpoint, method: str, enable_finetuning: bool | dict[str, list[str]]) -> None:
    """Refuses to train nothing where the forecast needs a head that is trained first."""
    if checkpoint.traits.pretrained_head or (find_method(method).trains and enable_finetuning is not False):
        return
    asked = f"method={method!r}" if not find_method(method).trains else "enable_finetuning=False"
    raise ValueError(
        f"{asked} trains nothing, but backbone={checkpoint.name!r} was pretrained without a head for forecasts: take a "
        "method that trains one, such as 'linear_probe' or 'msft', and call fit()"
    )


def check_patterns(enable_finetuning: Mapping[str, list[str]], names: list[str]) -> None:
    """Refuses patterns of `enable_finetuning` that match none of the model's parameters, which are `names`."""
    useless = [
        one
        for patterns in enable_finetuning.values()
        for one in patterns
        if not any(fnmatch(name, one) for name in names)
    ]
    if useless:
        near = [one for pattern in useless for one in get_close_matches(pattern, names, n=2, cutoff=0.4)]
        raise ValueError(
            f"enable_finetuning={enable_finetuning!r}: no parameter matches {', '.join(map(repr, useless))}; give "
            f"patterns (as of fnmatch) of parameter names, such as {', '.join(map(repr, near or names[:3]))}, or True "
            "for what the method trains"
        )


def check_loss(loss_fn: object, likelihood: object, method: str) -> None:
    """Refuses a torch loss where there are no points to train by it."""
    if likelihood is not None:
        raise ValueError(
            f"loss_fn={loss_fn!r} trains point forecasts, but likelihood={likelihood!r} has a loss of its own; give "
            "likelihood=None with it, or leave it out"
        )
    if not find_method(method).trains:
        raise ValueError(
            f"loss_fn={loss_fn!r} has no effect with method={method!r}, which trains nothing: leave it out"
        )


def check_encoders(add_encoders: Mapping[str, Any] | None, checkpoint: Checkpoint, linear_member: bool) -> None:
    """Refuses encoders of covariates for none of which the backbone has a place, or the linear member a use."""
    kinds = {kind for value in (add_encoders or {}).values() if isinstance(value, Mapping) for kind in value}
    asked = [kind for kind in ("past", "future") if kind in kinds]
    used = {"past": checkpoint.traits.past_covariates, "future": checkpoint.traits.future_covariates or linear_member}
    if asked and not any(used[kind] for kind in asked):
        raise ValueError(
            f"add_encoders={add_encoders!r} has no effect: backbone={checkpoint.name!r} has no place for "
            f"{' or '.join(asked)} covariates; leave it out, or take another backbone"
        )


def resolve_likelihood(
    likelihood: str | TorchLikelihood | None, architecture: str, config: dict[str, Any], scales: int, how: MixingConfig
) -> TorchLikelihood | None:
    """The Darts likelihood that `likelihood` asks for; `scales` is S. Raises ValueError where there is none."""
    if likelihood == "native":
        return ScaleMixture(architecture, config, scales, how.mixing, with_linear=how.linear_member)
    if likelihood is None or isinstance(likelihood, QuantileRegression):
        if how.mixing == "samples":
            raise ValueError(
                f"mixing='samples' averages sample paths, which likelihood={likelihood!r} has none of; take "
                "mixing='mixture', 'quantile' or 'first', or likelihood='native'"
            )
        if likelihood is None and how.mixing == "quantile":
            raise ValueError(
                "mixing='quantile' has no effect with likelihood=None, whose points are averaged in any case; leave it "
                "out, or take likelihood='native'"
            )
        return likelihood
    if not isinstance(likelihood, TorchLikelihood):
        raise ValueError(
            f"likelihood={likelihood!r} is not known; give 'native', a Darts likelihood such as "
            "QuantileRegression(), or None for point forecasts"
        )
    own = {name: value for name, value in vars(likelihood).items() if name.startswith("prior_")}
    if priors := {name: value for name, value in own.items() if value is not None and name != "prior_strength"}:
        asked = ", ".join(f"{name}={value!r}" for name, value in priors.items())
        raise ValueError(
            f"{asked} of {type(likelihood).__name__} is not allowed: forecasts are made in standardised units of each "
            "window, where a prior in the series' units means nothing; leave it out"
        )
    DartsFamily(likelihood)  # refuses a likelihood that can't describe standardised values
    return ScaleMixture(architecture, config, scales, how.mixing, likelihood, how.linear_member)
