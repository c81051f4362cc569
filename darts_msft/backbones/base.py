"""The contract between a pretrained encoder and everything that finetunes it.

Axis legend of the whole package, used in every shape comment:

    B batch, V variates, C context steps, H horizon steps, L steps in whole patches, P patch size, N tokens,
    D width, S scales, R parameters of one step's forecast.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.families import Family
from darts_msft.scales.pyramid import PLAIN_LAYOUT, TokenLayout
from darts_msft.storage.weights import load_strict

Adapters = Mapping[str, nn.Module]
"""Modules by target name: `adapters[target](linear, x)` takes the place of the target's `linear(x)`."""


def adapted(
    name: str, linear: nn.Module, x: Float[Tensor, "*shape I"], adapters: Adapters
) -> Float[Tensor, "*shape O"]:
    """The output of the target linear `name`, through its adapter where it has one; `x` is always (B, V, N, I)."""
    output: Tensor = adapters[name](linear, x) if name in adapters else linear(x)
    return output


class Stats(NamedTuple):
    """Location and scale of each window, in the series' units."""

    loc: Float[Tensor, "B V 1"]
    spread: Float[Tensor, "B V 1"]

    def to(self, dtype: torch.dtype) -> Stats:
        return Stats(self.loc.to(dtype), self.spread.to(dtype))


def standardise(values: Float[Tensor, "B V C"], stats: Stats) -> Float[Tensor, "B V C"]:
    """(value - location) / scale, in the statistics' precision; missing values (NaN) come out as 0, the location."""
    observed = ~torch.isnan(values)
    exact = (torch.where(observed, values, 0).to(stats.loc.dtype) - stats.loc) / stats.spread
    return torch.where(observed, exact, 0).to(values.dtype)


@dataclass(frozen=True)
class Traits:
    """What config.json alone says of a checkpoint, before there are weights.

    Attributes
    ----------
    patch_sizes
        Patch sizes that the pretrained weights know, in steps, ascending.
    family
        What the pretrained head forecasts, or what a new head is to: values then, as raw outputs are any number.
    layout
        The parts of a scale's sequence of tokens.
    pretrained_head
        False: there is no forecast before training.
    own_statistics
        False: every scale is standardised with the statistics of scale 0.
    past_covariates, future_covariates
        Whether covariates are of use.
    multivariate
        What the variates of a series can be to one another, the default first: "independent", "joint".
    pretrained_alone
        Pretraining saw one variate at a time: until a fit has trained it, what it makes of others is noise.
    max_context, max_horizon
        Most steps of a scale's context, and of its horizon; None: no limit.
    max_tokens
        Most tokens of a scale's context and horizon together; None: no limit.
    max_group_tokens
        The same of all variates that attend to one another.
    """

    patch_sizes: tuple[int, ...]
    family: Family
    layout: TokenLayout = PLAIN_LAYOUT
    pretrained_head: bool = True
    own_statistics: bool = True
    past_covariates: bool = False
    future_covariates: bool = False
    multivariate: tuple[str, ...] = ("independent",)
    pretrained_alone: bool = False
    max_context: int | None = None
    max_horizon: int | None = None
    max_tokens: int | None = None
    max_group_tokens: int | None = None


class Target(NamedTuple):
    """A linear that can be adapted: one in each layer, whose module's name ends in "." and `suffix`."""

    suffix: str
    inputs: int
    outputs: int

    def names(self, module: nn.Module) -> list[str]:
        """Of the linears in `module`, by layer."""
        return [name for name, _ in module.named_modules() if name.endswith(f".{self.suffix}")]


@dataclass(frozen=True)
class Spec:
    """What a method may know of a backbone.

    Attributes
    ----------
    width, num_layers
        D and the number of encoder layers.
    adapter_targets
        The linears of the layers' attention that can be adapted, by names without dots that `adapted` is called with.
    tuned
        Patterns (`fnmatch`, on the backbone's parameter names) of pretrained weights that MSFT keeps
        training beside the head: output projections and norms.
    head
        Patterns of the pretrained head's parameter names; () where there is none.
    prompts
        Patterns of tokens that belong to a data set: they train where a prompt is tuned, and with MSFT.
    unused
        Patterns of the names of parameters that no forecast depends on, such as other patch sizes' layers.
    """

    width: int
    num_layers: int
    adapter_targets: Mapping[str, Target]
    tuned: tuple[str, ...]
    head: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()


class Backbone(nn.Module, ABC):
    """A pretrained encoder, cut at the places where finetuning methods attach.

    Statistics and masks are passed along; nothing about a call is kept on `self`. A constructor sets `spec`, `traits`
    and `patch_size` (P, in steps). Axes V: targets first, then covariates.
    """

    spec: Spec
    traits: Traits
    patch_size: int

    mixes_time: ClassVar[bool] = False
    """Whether more than the attention's softmax mixes tokens along time: then scales don't share calls."""
    not_exported: ClassVar[str] = ""
    """Why torch's ONNX exporter can't follow it ("which ..."); "" where it can."""
    dropped: ClassVar[tuple[str, ...]] = ()
    """Patterns of a checkpoint's tensors that are left out on purpose; all others are loaded strictly."""

    @property
    def family(self) -> Family:
        return self.traits.family

    @classmethod
    @abstractmethod
    def traits_of(cls, config: Mapping[str, Any]) -> Traits:
        """What a checkpoint with this configuration is like."""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], patch_size: int, joint: bool = False) -> Backbone:
        """The architecture with random weights; `patch_size` in steps, one of the backbone's.

        `joint`: variates that attend to one another are to come. It is given where the traits have such alone.
        """

    def load_pretrained(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Copies a checkpoint's tensors in, strictly but for those `dropped`; `origin` names it in errors."""
        load_strict(self, state, origin, self.dropped)

    @abstractmethod
    def statistics(self, past: Float[Tensor, "B V C"], future: Float[Tensor, "B V H"]) -> Stats:
        """Of each window, in double precision; NaN is missing, as is the future but for covariates.

        Location 0 where nothing is observed; the scale is above 0: a constant that sees to that changes a scale of 1 by
        1e-5 at most. Standardising is affine: what is not, such as asinh, belongs to `embed` and `head`.
        """

    @abstractmethod
    def embed(
        self,
        past: Float[Tensor, "B V L"],
        observed: Bool[Tensor, "B V L"],
        future: Float[Tensor, "B V LH"],
        known: Bool[Tensor, "B V LH"],
    ) -> Float[Tensor, "B V N D"]:
        """Tokens of whole patches in the order of the layout, lead | context | middle | horizon.

        Values are standardised, and 0 where they are missing. LH is 0 where the horizon has no tokens.
        """

    def token_mask(
        self, observed: Bool[Tensor, "B V L"], known: Bool[Tensor, "B V LH"], targets: int
    ) -> Bool[Tensor, "B V N"]:
        """Tokens that can be attended to: of the context those with any step observed, and all others.

        `targets` is how many of the variates are not covariates.
        """
        context = rearrange(observed, "b v (n p) -> b v n p", p=self.patch_size).any(dim=-1)
        _, lead, middle = self.traits.layout
        after = middle + known.shape[-1] // self.patch_size
        return nn.functional.pad(context, (lead, after), value=True)

    @abstractmethod
    def attention(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None, adapters: Adapters
    ) -> Float[Tensor, "B V N D"]:
        """All attention sublayers of a layer, residuals included; only tokens that `mask` marks True are attended to.

        A row of the mask may be False throughout: what comes out of it is finite.
        """

    @abstractmethod
    def feed_forward(
        self, layer: int, tokens: Float[Tensor, "B V N D"], mask: Bool[Tensor, "B V N"] | None
    ) -> Float[Tensor, "B V N D"]:
        """Feed-forward sublayer with its residual; acts on each token alone (the mask is None) unless `mixes_time`."""

    @abstractmethod
    def readout(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V NH D"]:
        """What a new head reads, from the encoder's output: a vector for each patch of the horizon.

        Where the horizon has no tokens, one for each patch of the context, 0 where the mask is False.
        """

    @abstractmethod
    def head(
        self, tokens: Float[Tensor, "B V N D"], horizon: int, mask: Bool[Tensor, "B V N"]
    ) -> Float[Tensor, "B V H R"]:
        """The pretrained head's parameters of `horizon` steps, in standardised units.

        NotImplementedError where the traits say that there is none.
        """

    def heads(
        self,
        tokens: Sequence[Float[Tensor, "B V _ D"]],
        horizons: Sequence[int],
        masks: Sequence[Bool[Tensor, "B V _"]],
    ) -> list[Float[Tensor, "B V _ R"]]:
        """`head` at scales 0, 1, ...; a backbone may take them together, which is quicker."""
        return [self.head(*scale) for scale in zip(tokens, horizons, masks, strict=True)]


def with_stats(params: Float[Tensor, "B V H R"], stats: Stats) -> Float[Tensor, "B V H R2"]:
    """Appends location and spread, which turn the standardised distribution into the series' units."""
    affine = torch.cat([stats.loc, stats.spread], dim=-1).to(params.dtype)
    return torch.cat([params, affine.unsqueeze(-2).expand(-1, -1, params.shape[-2], -1)], dim=-1)
