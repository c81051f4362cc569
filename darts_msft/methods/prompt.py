"""Prompt tuning: learned tokens before the context of a frozen model (Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from darts_msft.backbones.base import Spec
from darts_msft.methods.base import MIXING, Method
from darts_msft.options import LearningRates, MethodConfig
from darts_msft.scales.pyramid import ScalePlan

PROMPT_INIT_STD = 0.02


class Prompt(Method):
    """`prompt_length` tokens (T, D), the same for all variates and scales, attended to by all others of a scale.

    They stand right before the first observed token, behind any padding, so that padding changes nothing. Any token
    takes a share of the attention: training doesn't start at the pretrained model's forecast, but near it.

    A backbone with tokens of its own for each data set (`Spec.prompts`) has these trained instead.
    """

    options = ("prompt_length", *MIXING)
    no_merge = "adds tokens to the input, which no weights of the encoder can stand for"
    groups = ("new", "omega")
    rates = LearningRates(pretrained=1e-2, new=1e-2, head=1e-3, omega=1e-2)

    def __init__(self, spec: Spec, plan: ScalePlan, config: MethodConfig) -> None:
        super().__init__(spec, plan, config)
        if not spec.prompts:
            self.tokens = nn.Parameter(torch.randn(config.prompt_length, spec.width) * PROMPT_INIT_STD)

    @classmethod
    def added_tokens(cls, config: MethodConfig) -> int:
        return config.prompt_length

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"new": self.spec.prompts}

    def add_tokens(
        self, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> tuple[list[Float[Tensor, "B V _ D"]], list[Bool[Tensor, "B V _"] | None]]:
        if self.spec.prompts:
            return tokens, list(masks)
        length = len(self.tokens)
        placed: list[Tensor] = []
        extended: list[Tensor | None] = []
        for part, mask in zip(tokens, masks, strict=True):
            prompt = repeat(self.tokens.to(part.dtype), "t d -> b v t d", b=part.shape[0], v=part.shape[1])
            joined = torch.cat([prompt, part], dim=-2)
            if mask is None:
                placed.append(joined)
                extended.append(None)
                continue
            position = torch.arange(joined.shape[-2], device=part.device)
            lead = _leading_padding(mask)
            behind = torch.where(position < lead + length, position - lead, position)
            order = torch.where(position < lead, position + length, behind)
            placed.append(_take(joined, order))
            extended.append(F.pad(mask, (length, 0), value=True).gather(-1, order))
        return placed, extended

    def drop_tokens(
        self, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        if self.spec.prompts:
            return tokens
        length, kept = len(self.tokens), []
        for part, mask in zip(tokens, masks, strict=True):
            if mask is None:
                kept.append(part[..., length:, :])
                continue
            position = torch.arange(mask.shape[-1], device=part.device)
            kept.append(_take(part, torch.where(position < _leading_padding(mask), position, position + length)))
        return kept


def _leading_padding(mask: Bool[Tensor, "B V N"]) -> Int[Tensor, "B V 1"]:
    """How many tokens lie before the first valid one."""
    return (mask.cumsum(dim=-1) == 0).sum(dim=-1, keepdim=True)


def _take(tokens: Float[Tensor, "B V _ D"], order: Int[Tensor, "B V N"]) -> Float[Tensor, "B V N D"]:
    return tokens.take_along_dim(order.unsqueeze(-1), dim=-2)
