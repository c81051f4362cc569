"""The scale pyramid: lengths, padding, pooling, upsampling and token alignment of every scale.

Source: arXiv 2506.14087, section on multi-scale generation. Scale i holds averages of 2**i steps, formed from the
forecast origin outwards (context backwards, horizon forwards), over observed values only. Unlike in the paper, scale 0
may see a part of the context only; each coarser scale then looks twice as far back as the one before. All lengths and
indices of the package are computed here. Axes as in `backbones/base.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from darts_msft.options import check_choice, check_number

FACTOR = 2  # s in the paper
MIN_CONTEXT_TOKENS = 2


class TokenLayout(NamedTuple):
    """The parts of a scale's sequence: lead | context | middle | horizon.

    `horizon` False: the horizon has no tokens, and is read off the context's. `lead` and `middle` are how many tokens,
    of no time, stand before the context and between it and the horizon.
    """

    horizon: bool = True
    lead: int = 0
    middle: int = 0


PLAIN_LAYOUT = TokenLayout()


def largest_num_scales(context: int, horizon: int, patch_size: int) -> int:
    """The largest K: the coarsest scale keeps two context tokens, and one of its steps fits in the horizon."""
    scales = 0
    while _fits(context, horizon, patch_size, scales + 1):
        scales += 1
    return scales


def scales_to_reach(context: int, finest_context: int) -> int:
    """The least K whose coarsest scale sees the whole context, if scale 0 sees `finest_context` steps."""
    return math.ceil(math.log2(context / finest_context) / math.log2(FACTOR))


def finest_to_reach(context: int, num_scales: int) -> int:
    """The least that scale 0 can see if the coarsest of `num_scales` (K) new scales is to see the whole context."""
    return math.ceil(context / FACTOR**num_scales)


def reach(context: int, finest_context: int, num_scales: int) -> int:
    """How many of the last steps the coarsest of `num_scales` (K) new scales sees, if scale 0 sees `finest_context`."""
    return min(context, finest_context * FACTOR**num_scales)


def _fits(context: int, horizon: int, patch_size: int, scales: int) -> bool:
    step = FACTOR**scales
    return math.ceil(math.ceil(context / step) / patch_size) >= MIN_CONTEXT_TOKENS and horizon >= step


@dataclass(frozen=True)
class ScalePlan:
    """Lengths of all scales, in steps of their own rate, for one context, horizon, patch size and K.

    Attributes
    ----------
    context, horizon, patch_size
        C, H and P, in steps.
    num_scales
        K: new scales beside scale 0.
    layout
        The parts of the backbone's sequence of tokens.
    finest_context
        c: how many of the last steps scale 0 sees; None: all C, as in the paper. Scale i sees the last c * 2**i.
    """

    context: int
    horizon: int
    patch_size: int
    num_scales: int
    layout: TokenLayout = PLAIN_LAYOUT
    finest_context: int | None = None

    def __post_init__(self) -> None:
        for name in ("context", "horizon", "patch_size"):
            check_number(name, getattr(self, name), 1, integer=True)
        check_number("num_scales", self.num_scales, 0, integer=True)
        if not _fits(self.context, self.horizon, self.patch_size, 0):
            raise ValueError(
                f"input_chunk_length={self.context} is too short for patch_size={self.patch_size}: a context needs "
                f"{MIN_CONTEXT_TOKENS} patches; use at least {self.patch_size + 1} steps, or a smaller patch_size if "
                "the backbone has one"
            )
        self._check_finest_context()
        largest = largest_num_scales(self.context, self.horizon, self.patch_size)
        if self.num_scales > largest:
            raise ValueError(
                f"num_scales={self.num_scales} is too large for a context of {self.context} and a horizon of "
                f"{self.horizon} steps in patches of {self.patch_size}; allowed are 0 to {largest}: lower it, or take "
                "a longer context, a longer horizon or a smaller patch_size"
            )

    def _check_finest_context(self) -> None:
        if self.finest_context is None:
            return
        check_number("finest_context", self.finest_context, 1, integer=True)
        if not self.patch_size < self.finest_context <= self.context:
            raise ValueError(
                f"finest_context={self.finest_context} is not allowed with patch_size={self.patch_size} and "
                f"input_chunk_length={self.context}; give {self.patch_size + 1} to {self.context} steps, or None"
            )

    @property
    def scales(self) -> range:
        """Indices 0..K."""
        return range(self.num_scales + 1)

    @cached_property
    def contexts(self) -> tuple[int, ...]:
        """C_i, in steps of scale i."""
        finest = self.context if self.finest_context is None else self.finest_context
        return tuple(min(finest, math.ceil(self.context / FACTOR**i)) for i in self.scales)

    @property
    def looks_further_back(self) -> bool:
        """Whether coarser scales see more of the past than scale 0."""
        return self.num_scales > 0 and self.contexts[0] < self.context

    @cached_property
    def horizons(self) -> tuple[int, ...]:
        """H_i, in steps of scale i."""
        return tuple(math.ceil(self.horizon / FACTOR**i) for i in self.scales)

    @cached_property
    def context_token_counts(self) -> tuple[int, ...]:
        return tuple(math.ceil(steps / self.patch_size) for steps in self.contexts)

    @cached_property
    def horizon_token_counts(self) -> tuple[int, ...]:
        if not self.layout.horizon:
            return (0,) * (self.num_scales + 1)
        return tuple(math.ceil(steps / self.patch_size) for steps in self.horizons)

    @cached_property
    def timed_token_counts(self) -> tuple[int, ...]:
        """How many tokens of each scale cover some time."""
        return tuple(map(sum, zip(self.context_token_counts, self.horizon_token_counts, strict=True)))

    @cached_property
    def token_counts(self) -> tuple[int, ...]:
        """N_i: all tokens."""
        return tuple(sum(self.sections(scale)) for scale in self.scales)

    def sections(self, scale: int) -> list[int]:
        """How many tokens are in the lead, the context, the middle and the horizon."""
        _, lead, middle = self.layout
        return [lead, self.context_token_counts[scale], middle, self.horizon_token_counts[scale]]

    @property
    def reach(self) -> int:
        """How many of the last steps the coarsest scale sees."""
        return reach(self.context, self.contexts[0], self.num_scales)

    def one_scale(self, max_context: int | None, max_tokens: int | None) -> ScalePlan:
        """Scale 0 alone with the whole context, or as much of it as a checkpoint takes, in steps and in tokens."""
        context = self.context if max_context is None else min(self.context, max_context)
        if max_tokens is not None:
            context = min(context, (max_tokens - self.horizon_token_counts[0]) * self.patch_size)
        return replace(self, context=context, num_scales=0, finest_context=None)

    def memory(self, values: Float[Tensor, "*batch C"], scale: int) -> Float[Tensor, "*batch L"]:
        """The steps, at the original rate, that a scale sees."""
        return values[..., -self.contexts[scale] * FACTOR**scale :]

    def pool_context(self, values: Float[Tensor, "*batch C"]) -> list[Float[Tensor, "*batch Ci"]]:
        """Averages of 2**i steps, backwards from the last step, for each scale; NaN marks missing values."""
        return [pool_steps(self.memory(values, i), FACTOR**i, anchor="end") for i in self.scales]

    def pool_horizon(self, values: Float[Tensor, "*batch H"]) -> list[Float[Tensor, "*batch Hi"]]:
        """Averages of 2**i steps, forwards from the first step, for each scale; NaN marks missing values."""
        return [pool_steps(values, FACTOR**i, anchor="start") for i in self.scales]

    def pad_context(self, values: Float[Tensor, "*batch Ci"] | Bool[Tensor, "*batch Ci"], scale: int) -> Tensor:
        """Fills the context with zeros (the location; False) on the left, to whole patches."""
        missing = self.context_token_counts[scale] * self.patch_size - self.contexts[scale]
        return F.pad(values, (missing, 0)) if missing else values

    def pad_horizon(self, values: Float[Tensor, "*batch Hi"] | Bool[Tensor, "*batch Hi"], scale: int) -> Tensor:
        """Fills the horizon with zeros (False) on the right, to whole patches; none of it where it has no tokens."""
        length = self.horizon_token_counts[scale] * self.patch_size
        return F.pad(values, (0, length - self.horizons[scale]))

    def upsample(self, values: Float[Tensor, "*batch Hi R"], scale: int, how: str) -> Float[Tensor, "*batch H R"]:
        """Brings scale i's horizon to the original rate: "repeat", or "linear" between the centres of its steps."""
        check_choice("upsampling", how, ("repeat", "linear"))
        if scale == 0:
            return values
        if how == "repeat":
            return values.repeat_interleave(FACTOR**scale, dim=-2)[..., : self.horizon, :]
        left, right, share = self._linear_grids[scale]
        way = torch.tensor(share, device=values.device, dtype=values.dtype).unsqueeze(-1)
        return torch.lerp(values[..., left, :], values[..., right, :], way)

    @cached_property
    def _linear_grids(self) -> list[tuple[list[int], list[int], list[float]]]:
        return [self._linear_grid(scale) for scale in self.scales]

    def _linear_grid(self, scale: int) -> tuple[list[int], list[int], list[float]]:
        """For each original step: the coarse steps before and after it, and how far it is on the way."""
        step, last = FACTOR**scale, self.horizons[scale] - 1
        centres = [(min((group + 1) * step, self.horizon) - 1 + group * step) / 2 for group in range(last + 1)]
        left, right, share = [], [], []
        for time in range(self.horizon):
            after = next((group for group, centre in enumerate(centres) if centre >= time), last)
            before = after if centres[after] <= time else max(after - 1, 0)
            gap = centres[after] - centres[before]
            left.append(before)
            right.append(after)
            share.append((time - centres[before]) / gap if gap else 0.0)
        return left, right, share

    def cover(self, scale: int) -> Float[Tensor, "Nc Nf"]:
        """1 where a token of `scale + 1` covers the time of a token of `scale`, else 0.

        Context tokens are counted from the origin backwards, horizon tokens forwards; each covers two. One that is
        older than all that the finer scale sees covers none, nor do those of no time.
        """
        lead, fine_context, middle, fine_horizon = self.sections(scale)
        _, coarse_context, _, coarse_horizon = self.sections(scale + 1)
        parts = []
        for coarse, fine, from_right in ((coarse_context, fine_context, True), (coarse_horizon, fine_horizon, False)):
            pairs = torch.eye(coarse).repeat_interleave(FACTOR, dim=-1)
            surplus = coarse * FACTOR - fine  # coarse tokens at the far end may cover one fine token, or none
            parts.append(pairs[:, surplus:] if from_right else pairs[:, :fine])
        context, horizon = parts
        return torch.block_diag(torch.zeros(lead, lead), context, torch.zeros(middle, middle), horizon)


def pool_steps(values: Float[Tensor, "*batch T"], step: int, anchor: str) -> Float[Tensor, "*batch T2"]:
    """Averages of `step` values over observed ones (not NaN), in groups counted from the `anchor` ("start", "end").

    The far end's remainder forms a smaller group; a group with nothing observed is NaN.
    """
    if step == 1:
        return values
    missing = -values.shape[-1] % step
    padding = (missing, 0) if anchor == "end" else (0, missing)
    groups = rearrange(F.pad(values, padding, value=torch.nan), "... (n s) -> ... n s", s=step)
    return torch.nanmean(groups, dim=-1)
