"""How many tokens of variates that attend to one another a checkpoint takes."""

from __future__ import annotations

from darts_msft.backbones.base import Traits
from darts_msft.scales.pyramid import ScalePlan


class TooLong(ValueError):
    """A scale has more tokens, or steps, than the checkpoint was made for."""


def check_group(traits: Traits, plan: ScalePlan, variates: int, joined: bool) -> int | None:
    """The most tokens of each of `variates` that attend to one another; refuses more, as where a group is too wide.

    If `joined`, the tokens of all scales attend to one another.
    """
    limit, count = traits.max_group_tokens, sum(plan.token_counts) if joined else max(plan.timed_token_counts)
    if variates == 1 or limit is None:
        return traits.max_tokens
    if variates * count > limit:
        raise TooLong(
            f"{variates} variates (covariates count) attend to one another with {count} tokens of {plan.patch_size} "
            f"steps each, {variates * count} in all, more than the {limit} that the backbone was made for; give fewer "
            "covariates, multivariate='independent' for the targets, a shorter finest_context with more scales "
            f"(num_scales), or a larger patch_size ({', '.join(map(str, traits.patch_sizes))})"
        )
    return min(limit // variates, traits.max_tokens or limit)
