"""The contract between a pretrained encoder and everything that finetunes it.

Axis legend of the whole package, used in every shape comment:

    B batch, V variates, C context steps, H horizon steps, P patch size, N tokens,
    D width, S scales, R parameters of one step's forecast distribution.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

STAND_IN = 1.0
"""In the place of missing values, whose density counts nowhere: inside every family's support."""

Adapters = Mapping[str, nn.Module]
"""Modules by target name: `adapters[target](linear, x)` takes the place of the target's `linear(x)`."""


def adapted(
    name: str, linear: nn.Module, x: Float[Tensor, "*shape I"], adapters: Adapters
) -> Float[Tensor, "*shape O"]:
    """The output of the target linear `name`, through its adapter where it has one."""
    output: Tensor = adapters[name](linear, x) if name in adapters else linear(x)
    return output


class Stats(NamedTuple):
    """What `Backbone.normalise` took out of a window, in the series' units."""

    loc: Float[Tensor, "B V 1"]
    spread: Float[Tensor, "B V 1"]


@dataclass(frozen=True)
class Spec:
    """What a method may know of a backbone.

    Attributes
    ----------
    width, num_layers
        D and the number of encoder layers.
    patch_sizes
        Patch sizes that the pretrained weights know, in steps, ascending.
    horizon_tokens
        Whether the horizon has tokens of its own (a masked encoder) or is read off the context's tokens.
    adapter_targets
        The linears of a layer's attention that can be adapted, as name -> (input, output) features; the name is the
        last part of the module's own, and no module outside the layers' attention has it.
    tuned
        Patterns (`fnmatch`, on the backbone's parameter names) of pretrained weights that MSFT keeps
        training beside the head: output projections and norms.
    head
        Patterns of the head's parameter names.
    unused
        Patterns of the names of parameters that no forecast depends on, such as other patch sizes' layers.
    """

    width: int
    num_layers: int
    patch_sizes: tuple[int, ...]
    horizon_tokens: bool
    adapter_targets: Mapping[str, tuple[int, int]]
    tuned: tuple[str, ...]
    head: tuple[str, ...]
    unused: tuple[str, ...] = ()


class Family(ABC):
    """A family of forecast distributions for single steps, in standardised units.

    `params` is (..., R); everything else has the leading shape. Parameters are constrained already
    (a scale is positive), so that convex combinations of two parameter vectors are valid too.
    """

    names: tuple[str, ...]

    @abstractmethod
    def log_prob(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Log-density of `value`."""

    @abstractmethod
    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        """One independent draw for each step."""

    @abstractmethod
    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Share (0..1) of the distribution at or below `value`, without gradients."""

    @abstractmethod
    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        """The value with a share `level` (0..1) of the distribution below; 0.5 gives the point forecast."""

    def loss(
        self, params: Float[Tensor, "B V H R"], value: Float[Tensor, "B V H"], weight: Float[Tensor, "B V H"]
    ) -> Float[Tensor, ""]:
        """Weighted mean negative log-likelihood over observed values (not NaN)."""
        observed = ~torch.isnan(value)
        weight = torch.where(observed, weight, 0)
        density = self.log_prob(params, torch.where(observed, value, STAND_IN))
        return -(density * weight).sum() / observed.sum().clamp(min=1)

    def mixed_loss(
        self,
        params: Float[Tensor, "B V H S R"],
        loc: Float[Tensor, "B V 1 S"],
        spread: Float[Tensor, "B V 1 S"],
        weights: Float[Tensor, "S"],
        value: Float[Tensor, "B V H"],
        weight: Float[Tensor, "B V H"] | None = None,
    ) -> Float[Tensor, ""]:
        """Weighted mean negative log-likelihood of the scales' mixture, in scale 0's standardised units.

        `value` is in the series' units; NaN marks missing values.
        """
        observed = ~torch.isnan(value)
        standardised = torch.where(observed.unsqueeze(-1), (value.unsqueeze(-1) - loc) / spread, STAND_IN)
        density = self.log_prob(params, standardised) - (spread / spread[..., :1]).log()
        mixed = (density + weights.log()).logsumexp(dim=-1)
        counted = observed if weight is None else torch.where(observed, weight, 0)
        return -(mixed * counted).sum() / observed.sum().clamp(min=1)


class Backbone(nn.Module, ABC):
    """A pretrained encoder, cut at the places where finetuning methods attach.

    Statistics and masks are passed along; nothing about a call is kept on `self`.
    """

    spec: Spec
    family: Family

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int) -> Backbone:
        """The architecture with random weights; `patch_size` in steps, one of the backbone's."""

    @classmethod
    @abstractmethod
    def patch_sizes(cls, config: Mapping[str, Any]) -> tuple[int, ...]:
        """Patch sizes, in steps, that a checkpoint with this configuration knows, ascending."""

    @classmethod
    def max_tokens(cls, config: Mapping[str, Any]) -> int | None:
        """The longest sequence that the checkpoint was made for, in tokens; None: no limit."""
        return None

    @classmethod
    @abstractmethod
    def family_of(cls, config: Mapping[str, Any]) -> Family:
        """The forecast distributions of a checkpoint with this configuration."""

    @abstractmethod
    def load_pretrained(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Copies a checkpoint's tensors in, strictly; `origin` names it in errors."""

    @abstractmethod
    def normalise(self, context: Float[Tensor, "B V C"]) -> tuple[Float[Tensor, "B V C"], Stats]:
        """Standardises each window; NaN marks missing values, which come out as 0 (the location)."""

    @abstractmethod
    def embed(
        self, values: Float[Tensor, "B V L"], observed: Bool[Tensor, "B V L"], num_horizon_tokens: int
    ) -> Float[Tensor, "B V N D"]:
        """Tokens of a context of whole patches (L a multiple of P), followed by the horizon's tokens."""

    @abstractmethod
    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        """Self-attention sublayer with its residual; only tokens that `mask` marks True are attended to."""

    @abstractmethod
    def feed_forward(self, layer: int, tokens: Float[Tensor, "B V N D"]) -> Float[Tensor, "B V N D"]:
        """Feed-forward sublayer with its residual; acts on each token alone."""

    @abstractmethod
    def readout(self, tokens: Float[Tensor, "B V N D"], horizon: int) -> Float[Tensor, "B V NH D"]:
        """One vector for each patch of the horizon, from the encoder's output: what a head reads."""

    @abstractmethod
    def head(self, tokens: Float[Tensor, "B V N D"], scale: int, horizon: int) -> Float[Tensor, "B V H R"]:
        """Distribution parameters of `horizon` steps at the given scale, in standardised units."""

    def heads(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], horizons: Sequence[int]
    ) -> list[Float[Tensor, "B V _ R"]]:
        """`head` at scales 0, 1, ...; a backbone whose head is the same at all may take them together."""
        scales = zip(tokens, range(len(tokens)), horizons, strict=True)
        return [self.head(part, scale, horizon) for part, scale, horizon in scales]


def with_stats(params: Float[Tensor, "B V H R"], stats: Stats) -> Float[Tensor, "B V H R2"]:
    """Appends location and spread, which turn the standardised distribution into the series' units."""
    affine = torch.cat([stats.loc, stats.spread], dim=-1).to(params.dtype)
    return torch.cat([params, affine.unsqueeze(-2).expand(-1, -1, params.shape[-2], -1)], dim=-1)
