"""What a head forecasts for single steps: densities, quantiles or points, in standardised units.

Axes as in `backbones/base.py`; R is the number of a step's parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

STAND_IN = 1.0
"""In the place of missing values, whose density counts nowhere: inside every family's support."""
SAME_LEVEL = 1e-6  # levels come from JSON


class Family(ABC):
    """A family of forecasts for single steps, in standardised units.

    `params` is (..., R); everything else has the leading shape. Parameters are constrained already
    (a scale is positive), so that convex combinations of two parameter vectors are valid too.

    Attributes
    ----------
    names
        One name a parameter.
    levels
        The levels (0..1, ascending) whose quantiles the parameters are; () where they are something else.
    deterministic
        Whether it is a point without any spread.
    """

    names: tuple[str, ...]
    levels: tuple[float, ...] = ()
    deterministic: bool = False

    @abstractmethod
    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        """One independent draw for each step."""

    @abstractmethod
    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Share (0..1) of the distribution at or below `value`, without gradients."""

    @abstractmethod
    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        """The value with a share `level` (0..1) of the distribution below; 0.5 gives the point forecast."""

    @abstractmethod
    def loss(
        self, params: Float[Tensor, "B V H R"], value: Float[Tensor, "B V H"], weight: Float[Tensor, "B V H"]
    ) -> Float[Tensor, ""]:
        """Weighted mean error over observed values (not NaN)."""

    def losses(
        self,
        params: Sequence[Float[Tensor, "B V _ R"]],
        values: Sequence[Float[Tensor, "B V _"]],
        weights: Sequence[Float[Tensor, "B V _"]],
    ) -> Float[Tensor, "S"]:
        """`loss` at scales 0, 1, ...; a family may take them together, which is quicker."""
        return torch.stack([self.loss(*scale) for scale in zip(params, values, weights, strict=True)])

    @abstractmethod
    def mixed_loss(
        self,
        params: Float[Tensor, "*shape S R"],
        loc: Float[Tensor, "*#shape S"],
        spread: Float[Tensor, "*#shape S"],
        weights: Float[Tensor, "*#shape S"],
        value: Float[Tensor, "*shape"],
        weight: Float[Tensor, "*shape"] | None = None,
    ) -> Float[Tensor, ""]:
        """Weighted mean error of the scales' forecasts, mixed by `weights`, in scale 0's standardised units.

        `value` is in the series' units; NaN marks missing values.
        """

    @property
    def has_points(self) -> bool:
        """Whether its median is among its parameters, or between two: it has a gradient."""
        return self.deterministic or self.serves([0.5])

    def serves(self, levels: Sequence[float]) -> bool:
        """Whether it has these quantiles, or others on both sides of each."""
        if not self.levels:
            return False
        lowest, highest = self.levels[0] - SAME_LEVEL, self.levels[-1] + SAME_LEVEL
        return all(lowest <= level <= highest for level in levels)


class DensityFamily(Family):
    """A family with a density: the error is the negative log-likelihood."""

    @abstractmethod
    def log_prob(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log-density of `value`."""

    def loss(
        self, params: Float[Tensor, "B V H R"], value: Float[Tensor, "B V H"], weight: Float[Tensor, "B V H"]
    ) -> Float[Tensor, ""]:
        observed = ~torch.isnan(value)
        weight = torch.where(observed, weight, 0)
        density = self.log_prob(params, torch.where(observed, value, STAND_IN))
        return -(density * weight).sum() / observed.sum().clamp(min=1)

    def mixed_loss(
        self,
        params: Float[Tensor, "*shape S R"],
        loc: Float[Tensor, "*#shape S"],
        spread: Float[Tensor, "*#shape S"],
        weights: Float[Tensor, "*#shape S"],
        value: Float[Tensor, "*shape"],
        weight: Float[Tensor, "*shape"] | None = None,
    ) -> Float[Tensor, ""]:
        """Of the mixture of the scales' distributions."""
        observed = ~torch.isnan(value)
        standardised = torch.where(observed.unsqueeze(-1), (value.unsqueeze(-1) - loc) / spread, STAND_IN)
        density = self.log_prob(params, standardised) - (spread / spread[..., :1]).log()
        mixed = (density + weights.log()).logsumexp(dim=-1)
        counted = observed if weight is None else torch.where(observed, weight, 0)
        return -(mixed * counted).sum() / observed.sum().clamp(min=1)


def in_first_units(
    params: Float[Tensor, "*shape S R"],
    loc: Float[Tensor, "*#shape S"],
    spread: Float[Tensor, "*#shape S"],
    weights: Float[Tensor, "*#shape S"],
    value: Float[Tensor, "*shape"],
) -> tuple[Float[Tensor, "*shape R"], Float[Tensor, "*shape"]]:
    """The weighted sum of the scales' values, and `value`, in scale 0's standardised units."""
    mixed = ((params * spread.unsqueeze(-1) + loc.unsqueeze(-1)) * weights.unsqueeze(-1)).sum(dim=-2)
    return (mixed - loc[..., :1]) / spread[..., :1], (value - loc[..., 0]) / spread[..., 0]


class ValueFamily(Family):
    """A family whose parameters are values, such as quantiles: the scales are mixed by averaging them."""

    @abstractmethod
    def error(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """How far the forecast is from `value`; at least 0."""

    def loss(
        self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"], weight: Float[Tensor, "*shape"]
    ) -> Float[Tensor, ""]:
        observed = ~torch.isnan(value)
        error = self.error(params, torch.where(observed, value, STAND_IN))
        return (error * torch.where(observed, weight, 0)).sum() / observed.sum().clamp(min=1)

    def mixed_loss(
        self,
        params: Float[Tensor, "*shape S R"],
        loc: Float[Tensor, "*#shape S"],
        spread: Float[Tensor, "*#shape S"],
        weights: Float[Tensor, "*#shape S"],
        value: Float[Tensor, "*shape"],
        weight: Float[Tensor, "*shape"] | None = None,
    ) -> Float[Tensor, ""]:
        """Of the scales' weighted values."""
        weight = torch.ones_like(value) if weight is None else weight
        return self.loss(*in_first_units(params, loc, spread, weights, value), weight)


class QuantileFamily(ValueFamily):
    """Quantiles at fixed levels: linear between them, and nothing beyond the outermost, which hold what is left.

    Columns may cross, as heads that learn them apart let them: draws and the distribution function sort them, while a
    quantile at one of the levels is its column as it is.

    Parameters
    ----------
    levels
        Ascending, between 0 and 1.
    squashed
        Whether errors are measured after asinh, for models that were trained so: outliers count less.
    """

    def __init__(self, levels: Sequence[float], squashed: bool = False) -> None:
        self.levels, self.squashed = tuple(levels), squashed
        self.names = tuple(f"q{level:g}" for level in self.levels)

    def error(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Twice the mean over the levels of the pinball loss, which is near the CRPS."""
        if self.squashed:
            params, value = params.asinh(), value.asinh()
        above = value.unsqueeze(-1) - params
        levels = params.new_tensor(self.levels)
        return 2 * torch.maximum(levels * above, (levels - 1) * above).mean(dim=-1)

    @torch.no_grad()
    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        share = torch.rand(
            params.shape[:-1], device=params.device, dtype=torch.promote_types(params.dtype, torch.float32)
        )
        return self._between(self._sorted(params), share)

    @torch.no_grad()
    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        columns, levels = self._sorted(params), params.new_tensor(self.levels)
        count = (columns <= value.unsqueeze(-1)).sum(dim=-1)
        left, right = (count - 1).clamp(min=0), count.clamp(max=len(levels) - 1)
        low, high = (columns.gather(-1, index.unsqueeze(-1)).squeeze(-1) for index in (left, right))
        way = ((value - low) / (high - low).where(high > low, 1)).clamp(0, 1)
        inside = levels[left] + way * (levels[right] - levels[left])
        return inside.where(count > 0, 0).where(count < len(levels), 1)

    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        for column, own in enumerate(self.levels):
            if abs(own - level) <= SAME_LEVEL:
                return params[..., column]
        return self._between(self._sorted(params), params.new_full(params.shape[:-1], level))

    def _between(self, columns: Float[Tensor, "*shape R"], share: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Values with these shares below, between the two nearest columns; the outermost column beyond all."""
        levels = share.new_tensor(self.levels)
        right = torch.bucketize(share, levels).clamp(max=len(levels) - 1)
        left = (right - 1).clamp(min=0)
        gap = levels[right] - levels[left]
        way = ((share - levels[left]) / gap.where(gap > 0, 1)).clamp(0, 1).to(columns.dtype)
        low, high = (columns.gather(-1, index.unsqueeze(-1)).squeeze(-1) for index in (left, right))
        return torch.lerp(low, high, way)

    def _sorted(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape R"]:
        """Draws of the same steps come as one tensor that is expanded in front: it is sorted once, if need be."""
        distinct = params[:1] if params.ndim > 1 and params.stride(0) == 0 else params
        if not torch.compiler.is_exporting() and bool((distinct.diff(dim=-1) >= 0).all()):
            return params
        return distinct.sort(dim=-1).values.expand_as(params)


class PointFamily(ValueFamily):
    """A point; the error is the squared one."""

    names = ("value",)
    deterministic = True

    def error(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (params[..., 0] - value).square()

    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        return params[..., 0].detach().clone()

    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return (value >= params[..., 0]).to(value.dtype)

    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        return params[..., 0]
