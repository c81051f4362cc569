"""What the scales forecast."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from darts_msft.backbones.base import Stats
from darts_msft.backbones.families import Family
from darts_msft.linear.member import LinearForecast
from darts_msft.scales.pyramid import ScalePlan


class ScaleOutputs(NamedTuple):
    """Parameters (B, V, H_i, R) of the plan's scales, standardised, their statistics, whose they are, and weights.

    `linear` is the linear member's forecast, where it takes part.
    """

    plan: ScalePlan
    params: list[Float[Tensor, "B V _ R"]]
    stats: list[Stats]
    family: Family
    weights: Float[Tensor, "B S"]
    linear: LinearForecast | None = None

    @property
    def finite(self) -> bool:
        """Whether no parameter broke down."""
        return bool(torch.stack([torch.isfinite(params).all() for params in self.params]).all())

    def rows(self, rows: slice) -> ScaleOutputs:
        """The outputs of some windows."""
        params = [part[rows] for part in self.params]
        stats = [Stats(loc[rows], spread[rows]) for loc, spread in self.stats]
        return self._replace(params=params, stats=stats, weights=self.weights[rows])
