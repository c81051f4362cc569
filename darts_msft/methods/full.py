"""Full finetuning: every weight of the backbone trains."""

from __future__ import annotations

from darts_msft.methods.base import Method
from darts_msft.options import LearningRates


class Full(Method):
    """All pretrained weights that take part in the forecast; the Spec names those that don't (other patch sizes)."""

    no_merge = "trains the weights themselves, and adds none"
    groups = ("pretrained", "head")
    rates = LearningRates(pretrained=3e-4, new=3e-4, head=3e-4, omega=1e-2)

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"head": self.spec.head, "pretrained": ("*",)}

    def group_of(self, name: str) -> str | None:
        return None if self.matches(name, self.spec.unused) else super().group_of(name)
