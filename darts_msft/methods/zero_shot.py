"""No finetuning: the pretrained model forecasts, and `fit` trains nothing."""

from __future__ import annotations

from darts_msft.methods.base import Method
from darts_msft.options import LearningRates


class ZeroShot(Method):
    """The reference that every other method is compared with."""

    trains = False
    options = ("mixing", "upsampling", "linear_member")  # its weights of the scales are always solved for
    no_merge = "adds nothing to the pretrained weights"
    rates = LearningRates(pretrained=0.0, new=0.0, head=0.0, omega=0.0)

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {}
