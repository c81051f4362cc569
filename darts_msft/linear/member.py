"""The fitted linear member: forecasts of windows on any device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.linear.gaps import bridge

_NAMES = ("weight", "scale", "df", "exponents", "season", "effects")
Covariates: TypeAlias = tuple[Float[Tensor, "B C K"], Float[Tensor, "B H K"]]
_CALM = 0.1  # of the deviation: the least unrest


class LinearForecast(NamedTuple):
    """A Student-t at each step: `loc` and `scale` are NaN where the member can't tell."""

    loc: Float[Tensor, "B H V"]
    scale: Float[Tensor, "B H V"]
    tells: Bool[Tensor, "B V"]  # the last L steps are there, but for short gaps


def unrest_of(past: Float[Tensor, "B L V"], deviation: Float[Tensor, "B V"], season: int) -> Float[Tensor, "B V"]:
    """Root mean square of the last season's differences from the season before it, a tenth of the deviation or more.

    L is two seasons or more.
    """
    length = past.shape[1]
    lately, before = past[:, length - season :], past[:, length - 2 * season : length - season]
    return torch.maximum((lately - before).square().mean(dim=1).sqrt(), _CALM * deviation)


class LinearMember(nn.Module):
    """loc = m + W'(x - m) with the last L steps x of a window and their mean m: the same at any level, and in any unit.

    The scale is s * d ** a * u ** b, with d the standard deviation of x, and u its unrest (`unrest_of`): after days
    unlike those a week before, the next are less certain too. Its buffers are all there is to save; L = W's. Made
    without them it is `absent`, until it takes a fitted one's by `load_state_dict`.

    Parameters
    ----------
    weight
        W of each component, or one for all.
    scale
        s.
    df
        Degrees of freedom.
    exponents
        a and b. 0: errors do not depend on the window; a + b = 1: they grow with its unit.
    season
        In steps, of the unrest; 0 where there is none.
    effects
        Of known covariates z, in the series' unit: x is without effects @ z, which the forecast adds at its own steps.
        Without any columns where there are no covariates.
    """

    weight: Tensor
    scale: Tensor
    df: Tensor
    exponents: Tensor
    season: Tensor
    effects: Tensor

    def __init__(
        self,
        weight: Float[Tensor, "W L H"] | None = None,
        scale: Float[Tensor, "V H"] | None = None,
        df: Float[Tensor, "V"] | None = None,
        exponents: Float[Tensor, "2"] | None = None,
        season: Float[Tensor, ""] | None = None,
        effects: Float[Tensor, "V K"] | None = None,
    ) -> None:
        super().__init__()
        given = (weight, scale, df, exponents, season, effects)
        pair, number = torch.zeros(2), torch.zeros(())
        nothing = (torch.zeros(0, 0, 0), torch.zeros(0, 0), torch.zeros(0), pair, number, torch.zeros(0, 0))
        for name, value, empty in zip(_NAMES, given, nothing, strict=True):
            self.register_buffer(name, empty if value is None else value)
        self._settle()

    def _settle(self) -> None:
        """What the forecast depends on, as plain values, as exporters want it."""
        self._steps, self.sees_covariates = int(self.season), bool(self.effects.any())

    def with_effects(self, effects: Float[Tensor, "V K"]) -> LinearMember:
        """Itself, fitted on series without these."""
        self.effects = effects
        self._settle()
        return self

    @property
    def absent(self) -> bool:
        """Whether there is nothing to forecast with."""
        return self.weight.numel() == 0

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Takes the shapes that it finds: they are those of a fit."""
        for name in _NAMES:
            if (found := state_dict.get(prefix + name)) is not None:
                setattr(self, name, getattr(self, name).new_empty(found.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._settle()

    @property
    def lookback(self) -> int:
        """L, in steps."""
        return self.weight.shape[1]

    def forward(self, past: Float[Tensor, "B C V"], covariates: Covariates | None = None) -> LinearForecast:
        return self.forecast(past, covariates)

    def forecast(self, past: Float[Tensor, "B C V"], covariates: Covariates | None = None) -> LinearForecast:
        """Of windows that end where the past ends; steps that are missing are NaN, and short gaps bridged.

        `covariates` are those that `effects` are of: at the steps of the past, and at those that are forecast.
        """
        rest, added = past, None
        if self.sees_covariates:
            if covariates is None:
                raise ValueError(f"the forecast has effects of {self.effects.shape[1]} covariates, but none are given")
            before, added = self._effects(*covariates)
            rest = past.to(before.dtype) - before
        inputs = bridge(rest)[:, -self.lookback :].to(self.weight.dtype)  # what was fitted was bridged without effects
        # a mean of the differences from one value is exact at any level
        level = inputs[:, -1:]
        inputs = inputs - level
        if inputs.shape[1] < self.lookback:
            inputs = torch.full_like(inputs[:, :1], torch.nan).expand(-1, self.lookback, -1)
        mean = inputs.mean(dim=1, keepdim=True)
        inputs = inputs - mean
        weight = self.weight.expand(past.shape[2], -1, -1)
        loc = torch.einsum("blv,vlh->bhv", inputs, weight) + (mean + level)
        size = inputs.abs().amax(dim=1).clamp(min=1e-30)  # whose square may be beyond single precision
        inputs = inputs / size[:, None]
        deviation = inputs.square().mean(dim=1).sqrt()
        if added is not None:
            loc = loc + added
        spread = (size * deviation) ** self.exponents[0]
        if (season := self._steps) > 0:
            spread = spread * (size * unrest_of(inputs, deviation, season)) ** self.exponents[1]
        scale = self.scale.T * spread[:, None]
        tells = loc.isfinite().all(dim=1)
        # no number of its own where nothing varied: what rounding leaves
        scale = torch.maximum(scale, torch.finfo(loc.dtype).eps * loc.abs()).clamp(min=1e-30)
        return LinearForecast(
            torch.where(tells[:, None], loc, torch.nan), torch.where(tells[:, None], scale, torch.nan), tells
        )

    def _effects(
        self, past: Float[Tensor, "B C K"], ahead: Float[Tensor, "B H K"]
    ) -> tuple[Float[Tensor, "B C V"], Float[Tensor, "B H V"]]:
        """At the steps of the past and the horizon; missing where a covariate with an effect is."""
        level = past[:, -1:].nan_to_num(0.0)  # exact at any level
        has_effect = (self.effects != 0).to(self.effects).T

        def at(steps: Float[Tensor, "B _ K"]) -> Float[Tensor, "B _ V"]:
            gaps = steps.isnan()
            known = ((steps - level).nan_to_num(0.0).to(self.effects)) @ self.effects.T
            return known.masked_fill(gaps.to(has_effect) @ has_effect > 0, torch.nan)

        return at(past), at(ahead)
