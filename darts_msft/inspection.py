"""What a model's forecast is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import _batch_collate_fn_predict
from darts.utils.utils import generate_index

from darts_msft.forms import Form, first_form
from darts_msft.inputs import check_finite
from darts_msft.lengths import check_lengths
from darts_msft.options import MixingConfig
from darts_msft.scales.pyramid import ScalePlan


def weights_before_fit(model: Any) -> np.ndarray | None:
    """The scales' weights that a model will have which was never fitted; None: by window."""
    settings, likelihood = model._module_settings, model.pl_module_params["likelihood"]
    if not model._is_pretrained or getattr(likelihood, "base", None) is not None:
        raise ValueError("this model has no forecast before fit(), and so no weights of its scales: call fit() first")
    mixing, scales = MixingConfig.from_dict(settings["mixing_config"]), settings["num_scales"]
    horizon = model.output_chunk_length + model.output_chunk_shift
    finest = settings.get("finest_context")
    plan = ScalePlan(model.input_chunk_length, horizon, settings["patch_size"], scales, finest_context=finest)
    if first_form(plan, scales > 0 and not mixing.only_first) is Form.BACKCASTS:
        return None
    return np.eye(1, scales + 1 + mixing.linear_member)[0]


def scale_forecasts(model: Any, series: TimeSeries, covariates: dict[str, TimeSeries]) -> list[TimeSeries]:
    """Each scale's medians, as `MSFTFoundationModel.scale_forecasts` gives them."""
    module = model._require_module()
    check_lengths(model, series, "a forecast")
    check_finite(series, last=model.input_chunk_length)
    if series.n_components != module.n_targets:
        raise ValueError(f"series has {series.n_components} components; give {module.n_targets}, as in fit()")
    call = model._setup_for_predict_from_dataset(model.output_chunk_length, [series], **covariates)
    batch = _batch_collate_fn_predict([call["dataset"][0]])
    start = series.end_time() + (1 + model.output_chunk_shift) * series.freq
    times = generate_index(start=start, length=model.output_chunk_length, freq=series.freq)
    points = module.scale_points(module.window(batch))
    return [TimeSeries.from_times_and_values(times, one, columns=series.components) for one in points]
