"""Multi-scale finetuning of every weight: MSFT's modules on a backbone of which nothing is frozen."""

from __future__ import annotations

from darts_msft.methods.msft import MSFT
from darts_msft.options import LearningRates


class MSFTFull(MSFT):
    """As MSFT, but all pretrained weights that take part in the forecast train too, shared by the scales."""

    rates = LearningRates(pretrained=3e-4, new=3e-4, head=3e-4, omega=1e-2, lora=3e-3)

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"new": self.spec.prompts, "head": self.spec.head, "pretrained": ("*",)}
