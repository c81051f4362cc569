"""Scores in a module of half precision are computed, and summed, in a better one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric


class Precise(Metric):
    """Goes with its module from device to device, but not to another type of numbers."""

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        moved: nn.Module = super()._apply(lambda tensor: tensor.to(fn(tensor).device), exclude_state)
        return moved


class PreciseMean(Precise, MeanMetric):
    """A mean."""


def scored_precisely(batch: Any) -> Any:
    """A batch with targets in single precision at least: in half precision errors are rounded away."""
    target = batch.future_target
    return replace(batch, future_target=target.to(torch.promote_types(target.dtype, torch.float32)))
