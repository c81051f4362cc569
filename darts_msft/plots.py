"""Pictures of a forecast, of what its scales see and say, and of a fit; each returns matplotlib's axes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression
from matplotlib.axes import Axes

from darts_msft.inspection import explain, plan_of
from darts_msft.scales.pyramid import FACTOR

BAND = (0.1, 0.5, 0.9)
SAMPLES = 200  # of a forecast whose quantiles are not exact
SHOWN = 3  # horizons of the past before a forecast


def plot_forecast(
    model: Any,
    series: TimeSeries,
    covariates: dict[str, TimeSeries],
    n: int | None,
    actual: TimeSeries | None,
    component: str | None,
    ax: Axes | None,
) -> Axes:
    """`MSFTFoundationModel.plot_forecast`."""
    name, steps = _component(series, component), n or model.output_chunk_length
    middle, band = _told(model, series, covariates, steps, name)
    axis = ax if ax is not None else plt.subplots(figsize=(9, 3.5), layout="constrained")[1]
    draw_forecast(axis, series[name], middle, band, name)
    if actual is not None and (own := actual[name].slice_intersect(middle)).n_timesteps:
        axis.plot(own.time_index, own.values()[:, 0], color="black", linewidth=1, linestyle=":", label="actual")
    axis.legend(loc="best", fontsize="small")
    return axis


def draw_forecast(axis: Axes, past: TimeSeries, middle: TimeSeries, band: list[TimeSeries], label: str) -> None:
    """The end of a component, its forecast's median and the ends of the 80 % interval."""
    past = past[-min(len(past), SHOWN * len(middle)) :]
    axis.plot(past.time_index, past.values()[:, 0], color="black", linewidth=1, label=label)
    axis.plot(middle.time_index, middle.values()[:, 0], color="C0", label="median")
    if band:
        low, high = (one.values()[:, 0] for one in band)
        axis.fill_between(middle.time_index, low, high, color="C0", alpha=0.25, label="80 %")


def plot_scales(
    model: Any, series: TimeSeries, covariates: dict[str, TimeSeries], component: str | None, axes: Any
) -> np.ndarray:
    """`MSFTFoundationModel.plot_scales`."""
    name = _component(series, component)
    told = explain(model, series, covariates)
    told = told[told["component"] == name]
    plan = plan_of(model)
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(12, 3.8), width_ratios=(3, 2), layout="constrained")[1]
    past = series[name][-min(len(series), plan.context) :]
    values, times = torch.tensor(past.values()[:, 0], dtype=torch.float64), past.time_index
    spread = float(np.nanmax(past.values()) - np.nanmin(past.values())) or 1.0
    for scale, means in zip(plan.scales, plan.pool_context(values), strict=True):  # each below the one before
        step = FACTOR**scale
        places = len(times) - step * np.arange(len(means), 0, -1)
        label = f"scale {scale}: {len(means)} means of {step}" if scale else f"scale 0: {len(means)} steps"
        axes[0].plot(times[places.clip(0)], means.numpy() - 1.1 * scale * spread, color=f"C{scale}", label=label)
    axes[0].set(title="what each scale sees, one below the other", yticks=[])
    for number, (member, of) in enumerate(told.groupby("member", sort=False)):
        weight = float(of["weight"].iloc[0])
        axes[1].plot(of["time"], of["forecast"], color=f"C{number}", linewidth=1, label=f"{member}: {weight:.0%}")
    mixed = told.assign(part=told["weight"] * told["forecast"].fillna(0)).groupby("time", sort=False)["part"].sum()
    axes[1].plot(mixed.index, mixed, color="black", linewidth=2, label="the forecast")
    axes[1].set_title("what each says, with its weight")
    for axis in axes:
        axis.legend(loc="best", fontsize="small")
        axis.tick_params(axis="x", rotation=30)
    return np.asarray(axes)


def plot_fit(model: Any, axes: Any) -> np.ndarray:
    """`MSFTFoundationModel.plot_fit`."""
    report = model.fit_report
    if report is None or not report.candidates:
        raise ValueError("there are no scores to draw: call fit() with a val_series first")
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(3, 2), layout="constrained")[1]
    states = [(one.label, one.score, "C0" if one.step else "C7") for one in report.candidates]
    if report.naive is not None:
        states.insert(0, ("seasonal naive", report.naive, "black"))
    labels = [f"{label} (kept)" if label == report.kept else label for label, _, _ in states]
    axes[0].barh(labels[::-1], [score for _, score, _ in states][::-1], color=[colour for *_, colour in states][::-1])
    axes[0].set_xlabel("validation score (lower is better)")
    if not report.moved:
        axes[1].axis("off")  # but for the title
    axes[1].barh(list(report.moved)[::-1], [100 * part for part in report.moved.values()][::-1], color="C1")
    axes[1].set(xlabel="% of its norm", title="how far each group moved" if report.moved else "nothing was trained")
    return np.asarray(axes)


def _component(series: TimeSeries, asked: str | None) -> str:
    names = [str(name) for name in series.components]
    if asked is not None and asked not in names:
        raise ValueError(f"component={asked!r} is not in the series; take one of {', '.join(names)}")
    return names[0] if asked is None else asked


def _told(
    model: Any, series: TimeSeries, covariates: dict[str, TimeSeries], steps: int, name: str
) -> tuple[TimeSeries, list[TimeSeries]]:
    """The median, and the ends of the 80 % interval; no ends of a model that forecasts points."""
    if model.likelihood is None:
        return model.predict(steps, series, **covariates)[name], []
    own = model.likelihood.quantiles if isinstance(model.likelihood, QuantileRegression) else BAND
    if steps <= model.output_chunk_length and set(BAND) <= set(own):
        found = model.predict_quantiles(steps, series, BAND, **covariates)
        low, middle, high = (found[f"{name}_q{level:.3f}"] for level in BAND)
    else:
        drawn = model.predict(steps, series, num_samples=SAMPLES, **covariates)[name]
        low, middle, high = (drawn.quantile(level) for level in BAND)
    return middle, [low, high]
