"""What a model's forecast is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.utils import generate_index


def scale_forecasts(model: Any, series: TimeSeries) -> list[TimeSeries]:
    """Each scale's medians, as `MSFTFoundationModel.scale_forecasts` gives them."""
    module, length = model._require_module(), model.input_chunk_length
    context = series.values(copy=False)[-length:]
    if len(context) < model.min_input_chunk_length or context.shape[1] != module.n_targets:
        raise ValueError(
            f"series has {len(context)} steps and {context.shape[1]} components; give at least "
            f"{model.min_input_chunk_length} steps and {module.n_targets} components"
        )
    context = np.pad(context, ((length - len(context), 0), (0, 0)), constant_values=np.nan)
    start = series.end_time() + (1 + model.output_chunk_shift) * series.freq
    times = generate_index(start=start, length=model.output_chunk_length, freq=series.freq)
    points = module.scale_points(torch.as_tensor(context)[None])
    return [TimeSeries.from_times_and_values(times, one, columns=series.components) for one in points]
