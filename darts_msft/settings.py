"""From the arguments that users give to the lengths and parts of a model, with the errors for what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from darts.utils.likelihood_models.torch import QuantileRegression, TorchLikelihood

from darts_msft.backbones.base import Backbone
from darts_msft.likelihoods import DartsFamily, ScaleMixture
from darts_msft.pyramid import ScalePlan, largest_num_scales

DEFAULT_MAX_SCALES = 3
DEFAULT_CONTEXT_PATCHES = 16  # patch_size="auto" takes the largest patch that leaves so many in the context
DEFAULT_COARSE_TOKENS = 4  # num_scales=None keeps so many context tokens at the coarsest scale


def default_num_scales(context: int, horizon: int, patch_size: int) -> int:
    """K where the user gives none: at most 3, with 4 context tokens left at the coarsest scale if there are any."""
    scales = min(DEFAULT_MAX_SCALES, largest_num_scales(context, horizon, patch_size))
    while scales and ScalePlan(context, horizon, patch_size, scales).context_token_counts[-1] < DEFAULT_COARSE_TOKENS:
        scales -= 1
    return scales


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
    if asked == "auto":
        fitting = [size for size in available if context >= size * DEFAULT_CONTEXT_PATCHES]
        return max(fitting, default=min(available))
    if asked not in available or isinstance(asked, bool | str):
        raise ValueError(
            f"patch_size={asked!r} is not one that the backbone's weights know; choose 'auto' or one of "
            f"{', '.join(map(str, available))}"
        )
    return int(asked)


def check_tokens(cls: type[Backbone], config: Mapping[str, Any], plan: ScalePlan, backbone: str) -> None:
    """Refuses a sequence that is longer than the checkpoint was made for."""
    limit = cls.max_tokens(config)
    if limit is not None and plan.token_counts[0] > limit:
        raise ValueError(
            f"input_chunk_length={plan.context} and a horizon of {plan.horizon} steps are {plan.token_counts[0]} "
            f"tokens of {plan.patch_size} steps, more than the {limit} of backbone={backbone!r}; shorten "
            f"the context or take a larger patch_size ({', '.join(map(str, cls.patch_sizes(config)))})"
        )


def resolve_likelihood(
    likelihood: str | TorchLikelihood | None, architecture: str, config: dict[str, Any], scales: int, mixing: str
) -> TorchLikelihood | None:
    """The Darts likelihood that `likelihood` asks for; `scales` is S. Raises ValueError where there is none."""
    if likelihood == "native":
        return ScaleMixture(architecture, config, scales, mixing)
    if likelihood is None or isinstance(likelihood, QuantileRegression):
        return likelihood
    if not isinstance(likelihood, TorchLikelihood):
        raise ValueError(
            f"likelihood={likelihood!r} is not known; give 'native', a Darts likelihood such as "
            "QuantileRegression(), or None for point forecasts"
        )
    DartsFamily(likelihood)  # refuses a likelihood that can't describe standardised values
    return ScaleMixture(architecture, config, scales, mixing, base=likelihood)
