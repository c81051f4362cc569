"""The quickstart's table and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from darts import TimeSeries
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter, DayLocator

from darts_msft import MSFTFoundationModel


def print_table(rows: Mapping[str, Sequence[float]]) -> None:
    """Prints model, MSE, MAE and CRPS (the series' units, lower is better; the best is starred), and the fit's time."""
    best = [min(column) for column in zip(*rows.values(), strict=True)][:3]
    print(f"\n{'model':<16}{'MSE':>9}{'MAE':>9}{'CRPS':>9}{'seconds':>9}")
    for name, (*scores, seconds) in rows.items():
        cells = "".join(f"{value:8.4f}{'*' if value == top else ' '}" for value, top in zip(scores, best, strict=True))
        print(f"{name:<16}{cells}{seconds:9.1f}")


def plot_report(
    path: str,
    test: TimeSeries,
    history: TimeSeries,
    zero_shot: MSFTFoundationModel,
    fitted: MSFTFoundationModel,
    day: int,
) -> None:
    """Saves three panels: the last week with forecast and 80 % band, each member's forecast, the members' weights.

    What follows `history`, the beginning of `test`, is forecast. The first component is drawn; `day` is the number of
    steps in one. The members are the scales and the linear one.
    """
    component, horizon = test.components[0], fitted.output_chunk_length
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), width_ratios=(3, 3, 1), layout="constrained")
    for axis in axes[:2]:
        _draw(axis, test[component][-7 * day :], "black", "observed")
    _draw_forecast(axes[0], fitted, history)
    _draw(axes[0], zero_shot.predict(horizon, history)[component], "C1", "zero-shot")
    axes[0].set_title(f"{component}: last week")
    members, weights = fitted.scale_forecasts(history), fitted.scale_weights
    names = [f"scale {scale} (averages {2**scale} steps)" for scale in range(len(members))]
    if weights is not None and len(members) == len(weights):
        names[-1] = "linear member"
    for number, (name, forecast) in enumerate(zip(names, members, strict=True)):
        _draw(axes[1], forecast[component], f"C{number}", name)
    axes[1].set_title("each member's forecast")
    if weights is not None:  # else each window has its own
        axes[2].bar([*(f"scale {scale}" for scale in range(len(weights) - 1)), "linear"], weights)
    axes[2].set(title="weights of the members", ylim=(0, 1))
    for axis in axes[:2]:
        axis.legend(loc="best", fontsize="small")
        axis.tick_params(axis="x", rotation=30)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture: {path}")


def plot_forecast(path: str, test: TimeSeries, context: int, model: MSFTFoundationModel, day: int, unit: str) -> None:
    """Saves one panel: a week of the first component, in its `unit`, and what is forecast after `context` steps."""
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    shown = test[: context + model.output_chunk_length][-7 * day :]
    _draw(axis, shown[test.components[0]], "black", "observed")
    _draw_forecast(axis, model, test[:context])
    axis.axvline(test.time_index[context], color="grey", linewidth=0.8, linestyle="--")
    axis.set_ylabel(unit)
    axis.xaxis.set_major_locator(DayLocator())
    axis.xaxis.set_major_formatter(DateFormatter("%d %b"))
    axis.legend(loc="upper left", ncols=3, fontsize="small", frameon=False)
    axis.margins(x=0, y=0.2)
    figure.savefig(path, dpi=200)
    plt.close(figure)
    print(f"picture: {path}")


def _draw_forecast(axis: Axes, model: MSFTFoundationModel, history: TimeSeries) -> None:
    """The median and the central 80 % of what follows `history`."""
    forecast = model.predict_quantiles(model.output_chunk_length, history, (0.1, 0.5, 0.9))
    low, median, high = (forecast[f"{history.components[0]}_q{level}"] for level in ("0.100", "0.500", "0.900"))
    axis.fill_between(low.time_index, low.values()[:, 0], high.values()[:, 0], alpha=0.3, label="ours, 80 %")
    _draw(axis, median, "C0", "ours, median")


def _draw(axis: Axes, series: TimeSeries, colour: str, label: str) -> None:
    axis.plot(series.time_index, series.values()[:, 0], color=colour, label=label, linewidth=1.3)
