"""From the lengths, patch size and scales that users give to the plan of the scales, with errors for what can't be."""

from __future__ import annotations

from typing import NamedTuple

from darts.logging import get_logger

from darts_msft.backbones import describe, load_class
from darts_msft.backbones.base import Traits
from darts_msft.groups import TooLong
from darts_msft.methods import find_method
from darts_msft.options import AUTO, MethodConfig, check_number, is_integer
from darts_msft.scales import pyramid
from darts_msft.scales.pyramid import ScalePlan

logger = get_logger("darts_msft")

DEFAULT_SCALES, DEFAULT_MAX_SCALES = 2, 3
DEFAULT_CONTEXT_PATCHES = 16  # patch_size="auto" takes the largest patch that leaves so many in the context
DEFAULT_COARSE_TOKENS = 4  # num_scales=None keeps so many context tokens at the coarsest scale
DEFAULT_FINEST_CONTEXT = 1024  # steps that scale 0 sees; more where the coarsest scale would not reach back over all


def largest_num_scales(
    input_chunk_length: object,
    output_chunk_length: int,
    output_chunk_shift: int,
    patch_size: int | str,
    backbone: str,
    revision: str | None,
) -> int:
    """The largest K that a model of these arguments can have."""
    context, horizon = check_lengths(input_chunk_length, output_chunk_length, output_chunk_shift)
    if isinstance(patch_size, str):
        _, architecture, config = describe(backbone, revision)
        sizes = load_class(architecture).traits_of(config).patch_sizes
        patch_size = choose_patch_size(patch_size, sizes, min(context, DEFAULT_FINEST_CONTEXT))
    plan = ScalePlan(context, horizon, patch_size, 0)  # refuses a context that is too short for the patches
    return pyramid.largest_num_scales(plan.context, plan.horizon, plan.patch_size)


def default_num_scales(context: int, horizon: int, patch_size: int, finest_context: int) -> int:
    """K where the user gives none: 2, or as many more, at most 3 in all, as scale 0's context falls short of the input.

    Fewer where there is no room for a whole step in the horizon and 4 tokens in the coarsest scale's context (or as
    many as in scale 0's).
    """
    wanted = min(pyramid.scales_to_reach(context, finest_context), DEFAULT_MAX_SCALES)
    scales = min(max(DEFAULT_SCALES, wanted), pyramid.largest_num_scales(context, horizon, patch_size))
    while scales:
        plan = ScalePlan(context, horizon, patch_size, scales, finest_context=finest_context)
        if plan.context_token_counts[-1] >= min(DEFAULT_COARSE_TOKENS, plan.context_token_counts[0]):
            break
        scales -= 1
    return scales


def choose_num_scales(asked: int | str | None, context: int, horizon: int, patch_size: int, finest_context: int) -> int:
    """K from `num_scales`."""
    if asked is None or asked == AUTO:  # before a fit "auto" is as None
        return default_num_scales(context, horizon, patch_size, finest_context)
    if isinstance(asked, str):
        raise ValueError(f"num_scales={asked!r} is not known; give an integer of at least 0, None or {AUTO!r}")
    return int(check_number("num_scales", asked, 0, integer=True))


class Checkpoint(NamedTuple):
    """A pretrained model before its weights are read: the user's name for it, and what config.json says of it."""

    name: str
    traits: Traits


class Asked(NamedTuple):
    """What the user gave of the scales."""

    patch_size: int | str
    num_scales: int | str | None
    finest_context: int | None


def choose_plan(
    checkpoint: Checkpoint, method: str, method_config: MethodConfig, context: int, horizon: int, asked: Asked
) -> ScalePlan:
    """The scales for these lengths, in steps; refuses sequences that are longer than the checkpoint was made for."""
    patch_size, num_scales, given = asked
    traits = checkpoint.traits
    most = min(DEFAULT_FINEST_CONTEXT, traits.max_context or DEFAULT_FINEST_CONTEXT)
    finest = min(context, most) if given is None else given
    seen = context if num_scales == 0 and given is None else check_number("finest_context", finest, 1, integer=True)
    patch = choose_patch_size(patch_size, traits.patch_sizes, int(seen))
    ScalePlan(context, horizon, patch, 0, finest_context=given)  # refuses lengths that don't go together
    scales = choose_num_scales(num_scales, context, horizon, patch, max(finest, patch + 1))
    if given is None:
        finest = max(finest, pyramid.finest_to_reach(context, scales))
    plan = ScalePlan(context, horizon, patch, scales, traits.layout, finest)
    check_steps(checkpoint, plan)
    check_tokens(checkpoint, plan, find_method(method).added_tokens(method_config))
    if method_config.joined:
        check_joined_tokens(checkpoint, plan, method_config.attention)
    return plan


def warn_of_reach(plan: ScalePlan) -> None:
    """Says what it takes for the coarsest scale to see the whole input."""
    context, finest, scales = plan.context, plan.contexts[0], plan.num_scales
    logger.warning(
        "finest_context=%d with num_scales=%d: the coarsest scale sees %d of the input's %d steps; for all of them "
        "give num_scales=%d, or finest_context=%d",
        *(finest, scales, plan.reach, context),
        *(pyramid.scales_to_reach(context, finest), pyramid.finest_to_reach(context, scales)),
    )


def check_lengths(input_chunk_length: object, output_chunk_length: int, shift: int) -> tuple[int, int]:
    """Longest context and whole horizon, the gap before it included, in steps."""
    context = longest_context(input_chunk_length)
    length = check_number("output_chunk_length", output_chunk_length, 1, integer=True)
    return context, int(length + check_number("output_chunk_shift", shift, 0, integer=True))


def longest_context(input_chunk_length: object) -> int:
    """C from `input_chunk_length`: a number of steps, or (shortest, longest)."""
    pair = input_chunk_length if isinstance(input_chunk_length, tuple | list) else (input_chunk_length,) * 2
    whole = len(pair) == 2 and all(map(is_integer, pair))
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
    if not is_integer(asked) or asked not in available:
        raise ValueError(
            f"patch_size={asked!r} is not one that the backbone's weights know; choose 'auto' or one of "
            f"{', '.join(map(str, available))}"
        )
    return int(asked)


def check_steps(checkpoint: Checkpoint, plan: ScalePlan) -> None:
    """Refuses a context or a horizon of more steps than the checkpoint was made for."""
    name, traits = checkpoint
    if traits.max_context is not None and plan.contexts[0] > traits.max_context:
        raise TooLong(
            f"input_chunk_length={plan.context}, of which scale 0 sees {plan.contexts[0]} steps, is more than the "
            f"{traits.max_context} steps of backbone={name!r}; give more scales (num_scales), a shorter "
            "finest_context, or a shorter input_chunk_length"
        )
    if traits.max_horizon is not None and plan.horizon > traits.max_horizon:
        raise ValueError(
            f"output_chunk_length with output_chunk_shift are {plan.horizon} steps, more than the "
            f"{traits.max_horizon} of backbone={name!r}; shorten them: predict(n) goes on by itself for a larger n"
        )


def check_tokens(checkpoint: Checkpoint, plan: ScalePlan, added: int = 0) -> None:
    """Refuses a scale with more tokens than the checkpoint was made for; `added` tokens are the method's own."""
    name, traits = checkpoint
    limit, count = traits.max_tokens, max(plan.timed_token_counts) + added
    if limit is not None and count > limit:
        own = f" and {added} of the method's own" if added else ""
        raise TooLong(
            f"input_chunk_length={plan.context}, of which scale 0 sees {plan.contexts[0]} steps, and a horizon of "
            f"{plan.horizon} are {count - added} tokens of {plan.patch_size} steps{own}, more than the {limit} of "
            f"backbone={name!r}; give more scales (num_scales), a shorter finest_context, a shorter "
            f"input_chunk_length, or a larger patch_size ({', '.join(map(str, traits.patch_sizes))})"
        )


def choose_multivariate(checkpoint: Checkpoint, asked: str) -> str:
    """What the variates of a series are to one another: "auto" takes what the backbone's traits name first."""
    name, traits = checkpoint
    allowed = (AUTO, *traits.multivariate)
    if not isinstance(asked, str) or asked not in allowed:
        raise ValueError(
            f"multivariate={asked!r} is not allowed with backbone={name!r}; give {' or '.join(map(repr, allowed))}"
        )
    return traits.multivariate[0] if asked == AUTO else asked


def check_joined_tokens(checkpoint: Checkpoint, plan: ScalePlan, attention: str) -> None:
    """Refuses an `attention` over all scales where their sequence is longer than the checkpoint was made for."""
    name, traits = checkpoint
    limit, count = traits.max_tokens, sum(plan.token_counts)
    if limit is not None and count > limit:
        raise ValueError(
            f"attention={attention!r} joins {plan.num_scales + 1} scales to a sequence of {count} tokens of "
            f"{plan.patch_size} steps, more than the {limit} of backbone={name!r}; lower num_scales, shorten the "
            f"context, take a larger patch_size ({', '.join(map(str, traits.patch_sizes))}), or "
            "attention='in_scale'"
        )
