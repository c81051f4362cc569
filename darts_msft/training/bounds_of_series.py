"""`lower="auto"`: what the training series say of a forecast's bounds, before anything is scored."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import ShiftedTorchTrainingDataset

logger = logging.getLogger("darts_msft")


def learn_bounds(module: Any, data: Any) -> None:
    """By all values of all training series; without series, as before a fit: each window's context says it."""
    if not module.bounds.learns:
        return
    lowest = torch.full_like(module.bounds.lower, torch.nan)
    if isinstance(data.train_dataset, ShiftedTorchTrainingDataset):
        series = data.train_dataset.series
        for one in [series] if isinstance(series, TimeSeries) else series:
            values = one.all_values(copy=False)
            lowest = torch.fmin(lowest, torch.as_tensor(np.fmin.reduce(values, axis=(0, 2))).to(lowest))
    else:
        logger.warning("lower='auto' goes by each window's context: the training windows are not those of fit(series)")
    module.bounds.learn(lowest)
