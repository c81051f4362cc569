"""Multi-scale finetuning (arXiv 2506.14087): per-scale input adapters and LoRA, and the cross-scale aggregator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones.base import Adapters, Backbone, Spec
from darts_msft.methods.base import MIXING, Method
from darts_msft.options import LearningRates, MethodConfig
from darts_msft.scales.adapters import InputAdapter, LoRA
from darts_msft.scales.aggregator import CrossScaleAggregator
from darts_msft.scales.pyramid import ScalePlan


class MSFT(Method):
    """Every scale, scale 0 too, has an input adapter and a LoRA pair on each of q, k and v in every layer.

    Input projection, q, k, v and feed-forward stay frozen; output projections, norms and the head train. The paper's
    ablations share one adapter, or one LoRA set, between the scales, or join their tokens in one attention.
    """

    options = ("lora_rank", "lora_alpha", "aggregator", "shared_adapters", "shared_lora", "attention", *MIXING)
    after_merge: ClassVar[dict[str, Any]] = {"lora_rank": 0}
    groups = ("pretrained", "new", "lora", "head", "omega")
    rates = LearningRates(pretrained=3e-4, new=1e-3, head=1e-3, omega=1e-2, lora=3e-3)

    def __init__(self, spec: Spec, plan: ScalePlan, config: MethodConfig) -> None:
        super().__init__(spec, plan, config)
        self.joined = config.joined
        adapter_sets = 1 if config.shared_adapters else len(plan.scales)
        lora_sets = 1 if config.shared_lora else len(plan.scales)
        self.input_adapters = nn.ModuleList(InputAdapter(spec.width) for _ in range(adapter_sets))
        self.lora = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleDict(
                    {
                        name: LoRA(target.inputs, target.outputs, rank=config.lora_rank, alpha=config.lora_alpha)
                        for name, target in spec.adapter_targets.items()
                        if config.lora_rank > 0
                    }
                )
                for _ in range(lora_sets)
            )
            for _ in range(spec.num_layers)
        )
        branches = config.branches if plan.num_scales else None
        self.aggregators = (
            nn.ModuleList(CrossScaleAggregator(plan, spec.width, branches) for _ in range(spec.num_layers))
            if branches
            else None
        )

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"new": self.spec.prompts, "pretrained": self.spec.tuned, "head": self.spec.head}

    def own_group(self, name: str) -> str:
        return "lora" if name.startswith("lora.") else "new"

    def merge(self, backbone: Backbone) -> dict[str, Tensor]:
        state: dict[str, Tensor] = backbone.state_dict()
        if not self.config.lora_rank:
            raise self.unmergeable("has no LoRA (lora_rank=0)")
        layers = cast(list[list[dict[str, LoRA]]], self.lora)  # by layer, set and target
        if len(layers[0]) > 1:
            raise self.unmergeable(f"has a LoRA for each of {len(self.plan.scales)} scales on the same weights")
        for adapter, target in self.spec.adapter_targets.items():
            for name, sets in zip(target.names(backbone), layers, strict=True):
                lora = sets[0][adapter]
                state[f"{name}.weight"] = state[f"{name}.weight"] + lora.scaling * lora.b @ lora.a
        return state

    def adapt_input(self, tokens: Float[Tensor, "B V N D"], scale: int) -> Float[Tensor, "B V N D"]:
        adapted: Tensor = self.input_adapters[0 if self.config.shared_adapters else scale](tokens)
        return adapted

    def adapters(self, layer: int, scale: int) -> Adapters:
        own = 0 if self.config.shared_lora else scale
        return dict(self.lora[layer][own].items())  # type: ignore[index]

    def aggregate(
        self, layer: int, tokens: list[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        if self.aggregators is None or len(tokens) == 1:
            return tokens
        fused: list[Tensor] = self.aggregators[layer](tokens, masks)
        return fused
