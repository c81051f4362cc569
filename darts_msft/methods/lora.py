"""LoRA through the `peft` library (Hu et al. 2022, arXiv 2106.09685)."""

from __future__ import annotations

from darts_msft.backbones.base import Backbone
from darts_msft.methods.low_rank import ADAPTER, LowRank, peft
from darts_msft.options import LearningRates


class LoRAFinetuning(LowRank):
    """W x + (alpha / rank) B A x with W frozen and B zero at the start."""

    rates = LearningRates(pretrained=3e-3, new=3e-3, head=1e-3, omega=1e-2, lora=3e-3)

    def make_tuner(self, backbone: Backbone) -> peft.LoraModel:
        config = peft.LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,  # type: ignore[arg-type]
            target_modules=[target.suffix for target in self.spec.adapter_targets.values()],
            lora_dropout=0.0,
        )
        return peft.LoraModel(backbone, config, ADAPTER)
