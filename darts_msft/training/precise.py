"""Metrics whose sums keep their precision in a module of half precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric


class Precise(Metric):
    """Goes with its module from device to device, but not to another type of numbers."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        moved: nn.Module = super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)
        return moved


class PreciseMean(Precise, MeanMetric):
    """A mean."""
