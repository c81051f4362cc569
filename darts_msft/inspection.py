"""What a model's forecast is made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import _batch_collate_fn_predict
from darts.utils.utils import generate_index

from darts_msft.forms import Form, first_form
from darts_msft.inputs import check_finite
from darts_msft.lengths import check_lengths
from darts_msft.options import MixingConfig
from darts_msft.scales.pyramid import FACTOR, ScalePlan
from darts_msft.window_statistics import nan_where_unseen
from darts_msft.windows_of_batches import Window


def weights_before_fit(model: Any) -> np.ndarray | None:
    """The scales' weights that a model will have which was never fitted; None: by window."""
    settings, likelihood = model._module_settings, model.pl_module_params["likelihood"]
    if not model._is_pretrained or getattr(likelihood, "base", None) is not None:
        raise ValueError("this model has no forecast before fit(), and so no weights of its scales: call fit() first")
    mixing, scales = MixingConfig.from_dict(settings["mixing_config"]), settings["num_scales"]
    plan = plan_of(model)
    if first_form(plan, scales > 0 and not mixing.only_first) is Form.BACKCASTS:
        return None
    return np.eye(1, scales + 1 + mixing.linear_member)[0]


def plan_of(model: Any) -> ScalePlan:
    """The lengths of the scales that a model runs; without weights, of those that it will have."""
    if model.model is not None:
        plan: ScalePlan = model.model.parts.plan
        return plan
    settings = model._module_settings
    horizon = model.output_chunk_length + model.output_chunk_shift
    finest = settings.get("finest_context")
    return ScalePlan(
        model.input_chunk_length, horizon, settings["patch_size"], settings["num_scales"], finest_context=finest
    )


def scale_forecasts(model: Any, series: TimeSeries, covariates: dict[str, TimeSeries]) -> list[TimeSeries]:
    """Each scale's medians, as `MSFTFoundationModel.scale_forecasts` gives them."""
    module = model._require_module()
    window, times = _window_of(model, series, covariates)
    points = members_of(module, window)[0].astype(series.dtype)
    return [TimeSeries.from_times_and_values(times, one, columns=series.components) for one in points]


def explain(model: Any, series: TimeSeries, covariates: dict[str, TimeSeries]) -> pd.DataFrame:
    """What each member adds to the point forecast, as `MSFTFoundationModel.explain` gives it."""
    module = model._require_module()
    window, times = _window_of(model, series, covariates)
    points, weights = members_of(module, window)
    names = [f"scale {scale}" for scale in module.parts.plan.scales]
    names += ["linear member"] * (len(points) - len(names))
    mix = (weights[:, None] * np.nan_to_num(points)).sum(axis=0)  # (step, component)
    numbers = {
        "weight": np.broadcast_to(weights[:, None], points.shape),
        "forecast": points,
        "pull": weights[:, None] * (points - mix),
    }
    frames = [
        pd.DataFrame({"time": times, "component": str(component), "member": name}).assign(
            **{key: value[member, :, number] for key, value in numbers.items()}
        )
        for number, component in enumerate(series.components)
        for member, name in enumerate(names)
    ]
    return pd.concat(frames, ignore_index=True)


@torch.no_grad()
def members_of(module: Any, window: Window) -> tuple[np.ndarray, np.ndarray]:
    """Medians (M, H, V) of the scales and, if there is one, the linear member in one window; their weights (M, V).

    At the original rate, in the series' units; weights of a component add up to 1.
    """
    module.eval()
    window = window.to(module.scale_weights.omega)
    outputs = module.forecast(window)
    points, linear = module._medians(outputs).movedim(-1, 0), module.linear_part(outputs)
    weights = outputs.weights[0, : len(points), None].expand(-1, module.n_targets)
    if outputs.linear is not None and linear is not None:
        points = torch.cat([points, outputs.linear.loc[None]])
        weights = torch.cat([weights * (1 - linear.weight[:1]), linear.weight[:1]])
    past_target = window.past_target
    points = nan_where_unseen(module.parts.plan, past_target, module.bounds(points, past_target))
    return points[:, 0].double().cpu().numpy(), weights.double().cpu().numpy()


def _window_of(model: Any, series: TimeSeries, covariates: dict[str, TimeSeries]) -> tuple[Window, pd.Index]:
    """What the model sees of the end of a series, and the times of the steps that follow."""
    module = model._require_module()
    check_lengths(model, series, "a forecast")
    check_finite(series, last=model.input_chunk_length)
    if series.n_components != module.n_targets:
        raise ValueError(f"series has {series.n_components} components; give {module.n_targets}, as in fit()")
    call = model._setup_for_predict_from_dataset(model.output_chunk_length, [series], **covariates)
    batch = _batch_collate_fn_predict([call["dataset"][0]])
    start = series.end_time() + (1 + model.output_chunk_shift) * series.freq
    times = generate_index(start=start, length=model.output_chunk_length, freq=series.freq)
    return module.window(batch), times


def summary(model: Any) -> str:
    """As `MSFTFoundationModel.summary` gives it."""
    arguments, plan = model.model_params, plan_of(model)
    lines = [
        f"{arguments['backbone']}, method {arguments['method']!r}: {model.input_chunk_length} steps of input, "
        f"{model.output_chunk_length} of forecast, in tokens of {plan.patch_size} steps"
    ]
    for scale in plan.scales:
        step, seen = FACTOR**scale, len(plan.memory(torch.zeros(plan.context), scale))
        means = f"means of {step} steps" if scale else "the series itself"
        tokens = f"{plan.context_token_counts[scale]} + {plan.horizon_token_counts[scale]} tokens"
        lines.append(f"scale {scale}: {means}, sees the last {seen:,} steps, {tokens}")
    if model.model is None:
        return "\n".join([*lines, "not fitted, and no forecast made: no weights yet"])
    weights = model.scale_weights
    if weights is not None:
        shown = [f"scale {number} {weight:.0%}" for number, weight in enumerate(weights[: plan.num_scales + 1])]
        shown += [f"linear member {weight:.0%}" for weight in weights[plan.num_scales + 1 :]]
        lines.append("weights: " + ", ".join(shown))
    else:
        lines.append("weights: of each window, by backcasts")
    parameters = list(model.model.parameters())
    every = sum(one.numel() for one in parameters)
    trains = sum(one.numel() for one in parameters if one.requires_grad)
    size = sum(one.numel() * one.element_size() for one in parameters) / 1e6
    return "\n".join([*lines, f"parameters: {every:,}, of which {trains:,} train; {size:.1f} MB"])
