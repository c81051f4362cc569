"""What the methods of the `peft` library share: its tuner layers around the attention's linears."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from darts_msft.backbones.base import Backbone, Spec
from darts_msft.methods.base import MIXING, Method
from darts_msft.options import LearningRates, MethodConfig
from darts_msft.scales.pyramid import ScalePlan

try:
    import peft
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"The methods 'lora' and 'adalora' need the package `peft` ({error}); install it with: "
        "pip install 'darts-msft[peft]'"
    ) from error

__all__ = ["ADAPTER", "LowRank", "peft"]

ADAPTER = "default"


class LowRank(Method):
    """Low-rank updates of a frozen backbone's `adapter_targets`, in every layer, shared by the scales.

    The tuner's layers live in the backbone, around the linears; the tuner itself is no submodule of the method, so
    that no parameter has two names.
    """

    options = ("lora_rank", "lora_alpha", *MIXING)
    groups = ("lora", "omega")
    after_merge: ClassVar[dict[str, Any]] = {"method": "full"}

    def __init__(self, spec: Spec, plan: ScalePlan, config: MethodConfig) -> None:
        super().__init__(spec, plan, config)
        self._tuners: list[BaseTuner] = []  # in a list, nn.Module doesn't register it
        self._layers: list[tuple[nn.Module, str, BaseTunerLayer]] = []

    @classmethod
    def check(cls, config: MethodConfig) -> None:
        if config.lora_rank < 1:
            raise ValueError(
                f"lora_rank={config.lora_rank} leaves nothing to train; give an integer of at least 1, or take "
                "method='zero_shot'"
            )

    @classmethod
    def resolve_rates(cls, given: Mapping[str, float | None]) -> LearningRates:
        leads = given.get("lora") if given.get("new") is None else given["new"]  # an optimiser's `lr` goes by "new"
        return super().resolve_rates({**given, "new": leads})

    @abstractmethod
    def make_tuner(self, backbone: Backbone) -> BaseTuner:
        """peft's tuner on the backbone, with all of `spec.adapter_targets` wrapped."""

    @property
    def tuner(self) -> BaseTuner:
        return self._tuners[0]

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"lora": ("*.lora_*",)}

    def attach(self, backbone: Backbone) -> None:
        if not self._tuners:
            self._tuners = [self.make_tuner(backbone)]
            self._layers = self._find_layers(backbone)
        for parent, name, layer in self._layers:
            setattr(parent, name, layer)

    def detach(self, backbone: Backbone) -> None:
        for parent, name, layer in self._layers:
            setattr(parent, name, layer.get_base_layer())

    def merge(self, backbone: Backbone) -> dict[str, Tensor]:
        merged = copy.deepcopy(self.tuner).merge_and_unload(safe_merge=True)
        state: dict[str, Tensor] = merged.state_dict()
        return state

    def _find_layers(self, backbone: Backbone) -> list[tuple[nn.Module, str, BaseTunerLayer]]:
        names = [name for name, module in backbone.named_modules() if isinstance(module, BaseTunerLayer)]
        expected = self.spec.num_layers * len(self.spec.adapter_targets)
        if len(names) != expected:
            raise ValueError(
                f"adapter_targets {sorted(self.spec.adapter_targets)} of {type(backbone).__name__} name "
                f"{len(names)} linears, not {expected} ({self.spec.num_layers} layers): {names}; give them the names "
                "that the layers' attention alone uses"
            )
        split = [name.rpartition(".") for name in names]
        return [
            (parent := backbone.get_submodule(path), name, parent.get_submodule(name))  # type: ignore[misc]
            for path, _, name in split
        ]
