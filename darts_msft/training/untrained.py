"""`fit` where nothing is trained: it compares what the pretrained model can do, and weighs its scales."""

from __future__ import annotations

import logging
from typing import Any

from darts.utils.data.torch_datasets.utils import TorchTrainingSample

from darts_msft.training.keep_best import KeepBest
from darts_msft.training.report import FitReport

logger = logging.getLogger("darts_msft")


def weigh_scales(trainer: Any, module: Any, data: Any, began: float) -> FitReport | None:
    """Keeps the best of the pretrained model's forms on the validation windows; None where there is one form only.

    `began` is `time.perf_counter()` where the fit began.
    """
    sample = data.val_dataset[0]
    labels = sample.future_target if isinstance(sample, TorchTrainingSample) else sample[-1]
    length = 0 if labels is None else len(labels)
    if length != module.output_chunk_length and not module.scale_forms:
        return None
    if length != module.output_chunk_length:
        logger.warning(
            "the scales are weighted as before: validation windows have %d steps to forecast, not "
            "output_chunk_length=%d; pass fit(series, val_series=...), or windows with that many",
            length,
            module.output_chunk_length,
        )
        return None
    keep = KeepBest(seed=0, validates=True, began=began)
    with keep.attached_to(trainer):
        if not module.scale_forms:
            keep.learn_paths(trainer, module, data.scored_batches())
            return None
        keep.compare_untrained(trainer, module, data.scored_batches())
    return keep.report
