"""Full finetuning: every weight of the backbone trains."""

from __future__ import annotations

from darts_msft.methods.base import Method
from darts_msft.options import LearningRates


class Full(Method):
    """All pretrained weights that take part in the forecast, shared by the scales."""

    no_merge = "trains the weights themselves, and adds none"
    groups = ("pretrained", "head", "omega")
    rates = LearningRates(pretrained=3e-4, new=3e-4, head=1e-3, omega=1e-2)

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"head": self.spec.head, "pretrained": ("*",)}
