"""The contract of a finetuning method: modules attached at construction, and the names of what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from fnmatch import fnmatchcase

from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Spec
from darts_msft.config import MethodConfig
from darts_msft.pyramid import ScalePlan


class Method(nn.Module, ABC):
    """Hooks into the encoder loop, with neutral defaults; a subclass adds modules and says what it trains.

    Its own parameters are always trained, in the group "new".
    """

    def __init__(self, spec: Spec, plan: ScalePlan, config: MethodConfig) -> None:
        super().__init__()
        self.spec, self.plan, self.config = spec, plan, config

    @abstractmethod
    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        """For the groups "pretrained" and "head": patterns of the backbone's parameter names to train."""

    def adapt_input(self, tokens: Float[Tensor, "B V N D"], scale: int) -> Float[Tensor, "B V N D"]:
        """What follows the input projection of a scale's context tokens."""
        return tokens

    def adapters(self, layer: int, scale: int) -> Adapters:
        """Additive modules for the attention's linears at a layer and scale."""
        return {}

    def aggregate(
        self, layer: int, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        """Exchange between the scales after a layer's attention."""
        return tokens

    def group_of(self, name: str) -> str | None:
        """The group ("pretrained", "head") that trains the backbone's parameter `name`; None: frozen."""
        for group, patterns in self.backbone_patterns().items():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return group
        return None
