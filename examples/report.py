"""The quickstart's table and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from darts import TimeSeries
from darts.dataprocessing.transformers import Scaler
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, DayLocator

from darts_msft import MSFTFoundationModel


def print_table(rows: Mapping[str, Sequence[float]]) -> None:
    """Prints model, MSE, MAE and CRPS (standardised units, lower is better); the best of each column is starred."""
    best = [min(column) for column in zip(*rows.values(), strict=True)]
    print(f"\n{'model':<16}{'MSE':>9}{'MAE':>9}{'CRPS':>9}")
    for name, values in rows.items():
        cells = "".join(f"{value:8.4f}{'*' if value == top else ' '}" for value, top in zip(values, best, strict=True))
        print(f"{name:<16}{cells}")


def plot_report(
    path: str,
    scaler: Scaler,
    test: TimeSeries,
    history: TimeSeries,
    zero_shot: MSFTFoundationModel,
    msft: MSFTFoundationModel,
    day: int,
) -> None:
    """Saves three panels: the last week with forecast and 80 % band, each scale's forecast, the scales' weights.

    What follows `history`, the beginning of `test`, is forecast. The first component is drawn, in its own units; `day`
    is the number of steps in one.
    """
    component, horizon = test.components[0], msft.output_chunk_length
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), width_ratios=(3, 3, 1), layout="constrained")
    for axis in axes[:2]:
        _draw(axis, scaler.inverse_transform(test)[component][-7 * day :], "black", "observed")
    _draw_forecast(axes[0], scaler, msft, history)
    _draw(axes[0], scaler.inverse_transform(zero_shot.predict(horizon, history))[component], "C1", "zero-shot")
    axes[0].set_title(f"{component}: last week")
    for scale, forecast in enumerate(msft.scale_forecasts(history)):
        in_units = scaler.inverse_transform(forecast)[component]
        _draw(axes[1], in_units, f"C{scale}", f"scale {scale} (averages {2**scale} steps)")
    axes[1].set_title("each scale's forecast")
    weights = msft.scale_weights
    if weights is not None:  # else each window has its own
        axes[2].bar([f"scale {scale}" for scale in range(len(weights))], weights)
    axes[2].set(title="weights of the scales", ylim=(0, 1))
    for axis in axes[:2]:
        axis.legend(loc="best", fontsize="small")
        axis.tick_params(axis="x", rotation=30)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture: {path}")


def plot_forecast(
    path: str, scaler: Scaler, test: TimeSeries, context: int, msft: MSFTFoundationModel, day: int, unit: str
) -> None:
    """Saves one panel: a week of the first component, in its `unit`, and what is forecast after `context` steps."""
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    shown = test[: context + msft.output_chunk_length][-7 * day :]
    _draw(axis, scaler.inverse_transform(shown)[test.components[0]], "black", "observed")
    _draw_forecast(axis, scaler, msft, test[:context])
    axis.axvline(test.time_index[context], color="grey", linewidth=0.8, linestyle="--")
    axis.set_ylabel(unit)
    axis.xaxis.set_major_locator(DayLocator())
    axis.xaxis.set_major_formatter(DateFormatter("%d %b"))
    axis.legend(loc="upper left", ncols=3, fontsize="small", frameon=False)
    axis.margins(x=0, y=0.15)
    figure.savefig(path, dpi=200)
    plt.close(figure)
    print(f"picture: {path}")


def _draw_forecast(axis: Axes, scaler: Scaler, msft: MSFTFoundationModel, history: TimeSeries) -> None:
    """The median and the central 80 % of what follows `history`."""
    forecast = msft.predict_quantiles(msft.output_chunk_length, history, (0.1, 0.5, 0.9))
    low, median, high = (
        scaler.inverse_transform(forecast[[f"{name}_q{level}" for name in history.components]])
        for level in ("0.100", "0.500", "0.900")
    )
    axis.fill_between(low.time_index, low.values()[:, 0], high.values()[:, 0], alpha=0.3, label="MSFT 80 %")
    _draw(axis, median, "C0", "MSFT median")


def _draw(axis: Axes, series: TimeSeries, colour: str, label: str) -> None:
    axis.plot(series.time_index, series.values()[:, 0], color=colour, label=label, linewidth=1.3)
