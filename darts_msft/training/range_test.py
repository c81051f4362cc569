"""Darts' `lr_find` and `scale_batch_size` on modules whose parameter groups have rates of their own."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
from pytorch_lightning.tuner.lr_finder import _LRFinder
from torch.optim import Optimizer

SMOOTHING = 0.98  # as Lightning's
LEAST_STEPS = 20  # of a range test
SHARE = 0.1  # of a range test's steps that a slope is taken over


class RangeTest(_LRFinder):
    """Lightning's, but `suggestion` looks for the steepest fall by the rate's logarithm, over a tenth of the steps.

    Lightning's looks by the rate itself, from one step to the next: any noise at a tiny rate is the steepest.
    """

    @classmethod
    def of(cls, found: _LRFinder) -> RangeTest:
        test = cls(found.mode, found.lr_min, found.lr_max, found.num_training)
        test.results = found.results
        return test

    def suggestion(self, skip_begin: int = 10, skip_end: int = 1) -> float | None:
        rates, losses = (np.array(self.results[name], dtype=float) for name in ("lr", "loss"))
        width = max(3, round(SHARE * self.num_training))
        starts = range(min(skip_begin, len(losses) // 2), len(losses) - skip_end - width + 1)
        slopes = [np.polyfit(np.log(rates[i : i + width]), losses[i : i + width], 1)[0] for i in starts]
        finite = np.isfinite(slopes)
        self._optimal_idx: int | None = None
        if finite.any():
            best = int(np.nanargmin(np.where(finite, slopes, np.nan)))
            self._optimal_idx = starts[best] + width // 2
        return None if self._optimal_idx is None else float(rates[self._optimal_idx])


class Divergence:
    """Whether a range test went too far: its smoothed loss rose above the best by so much.

    Lightning compares ratios of losses, which says nothing where they are likelihoods, of either sign. Here it is
    `threshold - 1` times the best loss, or times 1 where that is nearer to 0. None: it never does.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.mean, self.steps, self.best = 0.0, 0, inf

    def update(self, loss: float) -> bool:
        self.steps += 1
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * loss
        smoothed = self.mean / (1 - SMOOTHING**self.steps)
        self.best = min(self.best, smoothed)
        return self.threshold is not None and smoothed - self.best > (self.threshold - 1) * max(abs(self.best), 1.0)


def keep_ratios(optimizer: Optimizer, new: float) -> None:
    """Every step is made with rates in the ratio to `new` that they have now, though Lightning sets all to one."""
    ratios = [group["lr"] / new for group in optimizer.param_groups]

    def scale(*_: Any) -> None:
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            if "told_lr" not in group:  # a subclass's step and its parent's each call the hooks
                group["told_lr"], group["lr"] = group["lr"], group["lr"] * ratio

    def restore(*_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group.pop("told_lr", group["lr"])

    optimizer.register_step_pre_hook(scale)
    optimizer.register_step_post_hook(restore)
