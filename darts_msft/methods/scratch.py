"""Training from scratch: the backbone's architecture with random weights, as a control."""

from __future__ import annotations

from darts_msft.methods.full import Full
from darts_msft.options import LearningRates


class Scratch(Full):
    """Full training of weights that never were pretrained; says what the pretrained ones are worth."""

    pretrained = False
    rates = LearningRates(pretrained=1e-3, new=1e-3, head=1e-3, omega=1e-2)
