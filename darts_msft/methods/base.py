"""The contract of a finetuning method: modules attached at construction, and the names of what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, Spec
from darts_msft.options import LearningRates, MethodConfig, MixingConfig
from darts_msft.scales.pyramid import ScalePlan

MIXING = tuple(MixingConfig().to_dict())
"""The options of mixing the scales, which every method has a use for."""


class Method(nn.Module, ABC):
    """Hooks into the encoder loop and the training, with neutral defaults; a subclass says what it trains.

    The scales share the backbone's weights, trained or not. Its own parameters are always trained.
    """

    pretrained: ClassVar[bool] = True
    """Whether it starts from the pretrained weights; False: from random ones."""
    trains: ClassVar[bool] = True
    """Whether `fit` trains anything."""
    options: ClassVar[tuple[str, ...]] = MIXING
    """The fields of `MethodConfig` and `MixingConfig` that it uses; other values than the default are refused."""
    groups: ClassVar[tuple[str, ...]] = ()
    """The groups of parameters that it trains, each at its own learning rate; besides "head" for a new one."""
    rates: ClassVar[LearningRates]
    """The learning rates where the user gives none."""

    after_merge: ClassVar[dict[str, Any]] = {}
    """The model's arguments that `merge` changes; with another method, the options fall back to their defaults."""
    no_merge: ClassVar[str] = ""
    """Why there is nothing to merge: the end of a sentence about the method."""

    undoes: ClassVar[bool] = True
    """Whether an epoch is undone by giving what trains its earlier values."""

    joined: bool = False
    """Whether the attention sees the tokens of all scales as one sequence, scale after scale."""

    def __init__(self, spec: Spec, plan: ScalePlan, config: MethodConfig) -> None:
        super().__init__()
        self.spec, self.plan, self.config = spec, plan, config

    @classmethod
    def check(cls, config: MethodConfig) -> None:
        """Raises ValueError for options that the method can't do with."""

    @abstractmethod
    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        """For the groups "new", "pretrained", "lora" and "head": patterns of the backbone's parameter names to train.

        "lora" are parameters that `attach` put there, "new" a data set's own tokens. The first group that matches a
        name has it; what the forecast doesn't use (the Spec names it, such as other patch sizes) never trains.
        """

    @classmethod
    def resolve_rates(cls, given: Mapping[str, float | None]) -> LearningRates:
        """The learning rates with those in `given` that are not None in place of the method's own."""
        return cls.rates.replaced(**given)

    @classmethod
    def added_tokens(cls, config: MethodConfig) -> int:
        """How many tokens `add_tokens` adds to each scale's sequence."""
        return 0

    # ---------------------------------------------------------------- modules inside the backbone

    def attach(self, backbone: Backbone) -> None:
        """Puts modules of the method into the backbone; called once by the constructor, and after each `detach`."""

    def detach(self, backbone: Backbone) -> None:
        """Takes them out again, so that its parameters have their own names and it forecasts as if pretrained."""

    def merge(self, backbone: Backbone) -> dict[str, Tensor]:
        """The bare backbone's state with what the method added folded in, where that is exact; changes nothing."""
        raise self.unmergeable(self.no_merge)

    def unmergeable(self, reason: str) -> ValueError:
        """The error of `merge` where it can't be exact."""
        return ValueError(
            f"merge() folds low-rank updates into the weights, but {type(self).__name__} {reason}; it is for method="
            "'lora' and 'adalora', and for 'msft' and 'msft_full' with one LoRA for all scales (shared_lora=True, or "
            "num_scales=0)"
        )

    # ---------------------------------------------------------------- the encoder loop

    def adapt_input(self, tokens: Float[Tensor, "B V N D"], scale: int) -> Float[Tensor, "B V N D"]:
        """What follows the input projection of a scale's context tokens."""
        return tokens

    def adapters(self, layer: int, scale: int) -> Adapters:
        """What takes the place of the attention's linears, by name, at a layer and scale."""
        return {}

    def aggregate(
        self, layer: int, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        """Exchange between the scales after a layer's attention."""
        return tokens

    def add_tokens(
        self, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> tuple[list[Float[Tensor, "B V _ D"]], list[Bool[Tensor, "B V _"] | None]]:
        """Each scale's tokens and mask with the method's own tokens among them, as the encoder sees them."""
        return tokens, list(masks)

    def drop_tokens(
        self, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        """The encoder's output without them; `masks` are those before `add_tokens`."""
        return tokens

    # ---------------------------------------------------------------- training

    def penalty(self) -> Float[Tensor, ""]:
        """What the method adds to the training loss."""
        return torch.zeros(())

    def begin(self, steps: float) -> None:
        """Called before the first step with the number of the optimiser's steps planned, which may be infinite."""

    def after_step(self, step: int) -> None:
        """Called after each step of the optimiser, from 1 on, with the gradients still there."""

    def training_state(self) -> dict[str, Any]:
        """What a checkpoint must hold, besides the parameters, to go on with the training."""
        return {}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Takes over what `training_state` gave."""

    # ---------------------------------------------------------------- what trains

    def group_of(self, name: str) -> str | None:
        """The group ("new", "pretrained", "lora", "head") that trains the backbone's parameter `name`; None: frozen."""
        if self.matches(name, self.spec.unused):
            return None
        groups = self.backbone_patterns().items()
        return next((group for group, patterns in groups if self.matches(name, patterns)), None)

    def own_group(self, name: str) -> str:
        """The group ("new", "lora") that trains the method's own parameter `name`."""
        return "new"

    @staticmethod
    def matches(name: str, patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)
