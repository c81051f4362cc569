"""Linear probing: the forecasting head alone trains, on the frozen encoder's output."""

from __future__ import annotations

from darts_msft.methods.base import Method
from darts_msft.options import LearningRates


class LinearProbe(Method):
    """The head of the backbone, or the new one that a Darts likelihood brings."""

    no_merge = "trains the head itself, and adds no weights"
    groups = ("head", "omega")
    rates = LearningRates(pretrained=1e-3, new=1e-3, head=1e-3, omega=1e-2)

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"head": self.spec.head}
