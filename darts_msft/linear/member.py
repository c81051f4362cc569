"""The fitted linear member: forecasts of windows on any device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_NAMES = ("weight", "scale", "df", "exponent")


class LinearForecast(NamedTuple):
    """A Student-t at each step: `loc` and `scale` are NaN where the member can't tell."""

    loc: Float[Tensor, "B H V"]
    scale: Float[Tensor, "B H V"]
    tells: Bool[Tensor, "B V"]  # the last L steps are there


class LinearMember(nn.Module):
    """loc = m + W'(x - m) with the last L steps x of a window and their mean m: the same at any level, and in any unit.

    The scale is s * d ** exponent, with d the standard deviation of x. Its buffers are all there is to save; L = W's.

    Parameters
    ----------
    weight
        W of each component, or one for all.
    scale
        s.
    df
        Degrees of freedom.
    exponent
        0: errors do not depend on the window; 1: they grow with its spread.
    """

    weight: Tensor
    scale: Tensor
    df: Tensor
    exponent: Tensor

    def __init__(
        self,
        weight: Float[Tensor, "W L H"],
        scale: Float[Tensor, "V H"],
        df: Float[Tensor, "V"],
        exponent: Float[Tensor, ""],
    ) -> None:
        super().__init__()
        for name, value in zip(_NAMES, (weight, scale, df, exponent), strict=True):
            self.register_buffer(name, value)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> LinearMember:
        """From what `state_dict` gave."""
        return cls(*(state[name] for name in _NAMES))

    @property
    def lookback(self) -> int:
        """L, in steps."""
        return self.weight.shape[1]

    def forward(self, past: Float[Tensor, "B C V"]) -> LinearForecast:
        return self.forecast(past)

    def forecast(self, past: Float[Tensor, "B C V"]) -> LinearForecast:
        """Of windows that end where the past ends; steps that are missing are NaN."""
        inputs = past[:, -self.lookback :].to(self.weight.dtype)
        # a mean of the differences from one value is exact at any level
        level = inputs[:, -1:]
        inputs = inputs - level
        if inputs.shape[1] < self.lookback:
            inputs = torch.full_like(inputs[:, :1], torch.nan).expand(-1, self.lookback, -1)
        mean = inputs.mean(dim=1, keepdim=True)
        inputs = inputs - mean
        weight = self.weight.expand(past.shape[2], -1, -1)
        loc = torch.einsum("blv,vlh->bhv", inputs, weight) + (mean + level)
        spread = inputs.square().mean(dim=1).sqrt()
        scale = self.scale.T * spread[:, None] ** self.exponent
        # no number of its own where nothing varied: what single precision leaves
        tells = loc.isfinite().all(dim=1)
        scale = torch.maximum(scale, 1e-6 * loc.abs()).clamp(min=1e-12)
        return LinearForecast(
            torch.where(tells[:, None], loc, torch.nan), torch.where(tells[:, None], scale, torch.nan), tells
        )
