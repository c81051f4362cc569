"""From the arguments that users give to the lengths and parts of a model, with the errors for what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from darts.utils.likelihood_models.torch import QuantileRegression, TorchLikelihood

from darts_msft.backbones.base import Backbone
from darts_msft.config import MethodConfig, check_number
from darts_msft.likelihoods import DartsFamily, ScaleMixture
from darts_msft.methods import find_method
from darts_msft.pyramid import ScalePlan, largest_num_scales

AUTO = "auto"
DEFAULT_MAX_SCALES = 3
DEFAULT_CONTEXT_PATCHES = 16  # patch_size="auto" takes the largest patch that leaves so many in the context
DEFAULT_COARSE_TOKENS = 4  # num_scales=None keeps so many context tokens at the coarsest scale


def default_num_scales(context: int, horizon: int, patch_size: int) -> int:
    """K where the user gives none: at most 3, with 4 context tokens left at the coarsest scale if there are any."""
    scales = min(DEFAULT_MAX_SCALES, largest_num_scales(context, horizon, patch_size))
    while scales and ScalePlan(context, horizon, patch_size, scales).context_token_counts[-1] < DEFAULT_COARSE_TOKENS:
        scales -= 1
    return scales


def choose_num_scales(asked: int | str | None, method: str, context: int, horizon: int, patch_size: int) -> int:
    """K from `num_scales`; a method that works at the data's own rate alone takes None or 0."""
    multi_scale = find_method(method).multi_scale
    if not multi_scale and asked not in (None, 0):
        raise ValueError(
            f"num_scales={asked!r} is not allowed with method={method!r}, which works at the series' own rate alone; "
            "give None or 0, or take method='msft'"
        )
    if asked is None or asked == AUTO:  # before a fit "auto" is as None
        return default_num_scales(context, horizon, patch_size) if multi_scale else 0
    if isinstance(asked, str):
        raise ValueError(f"num_scales={asked!r} is not known; give an integer of at least 0, None or {AUTO!r}")
    return asked


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


class Checkpoint(NamedTuple):
    """A pretrained model before its weights are read: the user's name for it, its class and its config.json."""

    name: str
    cls: type[Backbone]
    config: Mapping[str, Any]


def choose_plan(
    checkpoint: Checkpoint,
    method: str,
    method_config: MethodConfig,
    context: int,
    horizon: int,
    patch_size: int | str,
    num_scales: int | str | None,
) -> ScalePlan:
    """The scales for these lengths, in steps; refuses sequences that are longer than the checkpoint was made for."""
    patch = choose_patch_size(patch_size, checkpoint.cls.patch_sizes(checkpoint.config), context)
    added = find_method(method).added_tokens(method_config)
    check_tokens(checkpoint, ScalePlan(context, horizon, patch, 0), added)
    plan = ScalePlan(context, horizon, patch, choose_num_scales(num_scales, method, context, horizon, patch))
    if method_config.attention == "full":
        check_joined_tokens(checkpoint, plan)
    return plan


def check_lengths(input_chunk_length: object, output_chunk_length: int, shift: int) -> tuple[int, int]:
    """Longest context and whole horizon, the gap before it included, in steps."""
    context = longest_context(input_chunk_length)
    check_number("output_chunk_length", output_chunk_length, 1, integer=True)
    check_number("output_chunk_shift", shift, 0, integer=True)
    return context, output_chunk_length + shift


def longest_context(input_chunk_length: object) -> int:
    """C from `input_chunk_length`: a number of steps, or (shortest, longest)."""
    pair = input_chunk_length if isinstance(input_chunk_length, tuple | list) else (input_chunk_length,) * 2
    whole = len(pair) == 2 and all(isinstance(steps, int) and not isinstance(steps, bool) for steps in pair)
    if not whole or not 1 <= pair[0] <= pair[1]:
        raise ValueError(
            f"input_chunk_length={input_chunk_length!r} is not allowed; give an integer of at least 1, or a pair "
            "(shortest, longest) of them"
        )
    return int(pair[1])


def choose_patch_size(asked: int | str, available: tuple[int, ...], context: int) -> int:
    """P from `patch_size`: one of `available`, or by "auto" the largest with enough patches in the context."""
    if asked == AUTO:
        fitting = [size for size in available if context >= size * DEFAULT_CONTEXT_PATCHES]
        return max(fitting, default=min(available))
    if asked not in available or isinstance(asked, bool | str):
        raise ValueError(
            f"patch_size={asked!r} is not one that the backbone's weights know; choose 'auto' or one of "
            f"{', '.join(map(str, available))}"
        )
    return int(asked)


def check_tokens(checkpoint: Checkpoint, plan: ScalePlan, added: int = 0) -> None:
    """Refuses a sequence that is longer than the checkpoint was made for; `added` tokens are the method's own."""
    name, cls, config = checkpoint
    limit, count = cls.max_tokens(config), plan.token_counts[0] + added
    if limit is not None and count > limit:
        own = f" and {added} of the method's own" if added else ""
        raise ValueError(
            f"input_chunk_length={plan.context} and a horizon of {plan.horizon} steps are {plan.token_counts[0]} "
            f"tokens of {plan.patch_size} steps{own}, more than the {limit} of backbone={name!r}; shorten "
            f"the context or take a larger patch_size ({', '.join(map(str, cls.patch_sizes(config)))})"
        )


def check_joined_tokens(checkpoint: Checkpoint, plan: ScalePlan) -> None:
    """Refuses attention="full" where the scales' joined sequence is longer than the checkpoint was made for."""
    name, cls, config = checkpoint
    limit, count = cls.max_tokens(config), sum(plan.token_counts)
    if limit is not None and count > limit:
        raise ValueError(
            f"attention='full' joins {plan.num_scales + 1} scales to a sequence of {count} tokens of "
            f"{plan.patch_size} steps, more than the {limit} of backbone={name!r}; lower num_scales, shorten the "
            f"context, take a larger patch_size ({', '.join(map(str, cls.patch_sizes(config)))}), or "
            "attention='in_scale'"
        )


def resolve_likelihood(
    likelihood: str | TorchLikelihood | None, architecture: str, config: dict[str, Any], scales: int, mixing: str
) -> TorchLikelihood | None:
    """The Darts likelihood that `likelihood` asks for; `scales` is S. Raises ValueError where there is none."""
    if likelihood == "native":
        return ScaleMixture(architecture, config, scales, mixing)
    if likelihood is None or isinstance(likelihood, QuantileRegression):
        if mixing == "samples":
            raise ValueError(
                f"mixing='samples' averages sample paths, which likelihood={likelihood!r} has none of; take "
                "mixing='mixture', 'quantile' or 'first', or likelihood='native'"
            )
        return likelihood
    if not isinstance(likelihood, TorchLikelihood):
        raise ValueError(
            f"likelihood={likelihood!r} is not known; give 'native', a Darts likelihood such as "
            "QuantileRegression(), or None for point forecasts"
        )
    DartsFamily(likelihood)  # refuses a likelihood that can't describe standardised values
    return ScaleMixture(architecture, config, scales, mixing, base=likelihood)
