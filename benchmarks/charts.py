"""Charts of a table: accuracy against cost, the weights of the scales, and critical differences.

Each takes a table and gives a `Picture`; nothing is written here.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.picture import OURS, Picture, looks, plain
from benchmarks.significance import Comparison, compare
from benchmarks.summary import METRIC_NAMES, Column, Row, Run, Table

ALPHA = 0.05
TRAINING_TIME = "processor time of training"  # of all threads: other work on the machine hardly changes it

# ------------------------------------------------------------------------------------------------------------ accuracy


def accuracy(table: Table, name: str, label: str, unit: str, cost: Callable[[Run], float]) -> Picture:
    """The first metric against a cost (logarithmic), a panel for each column; what isn't trained is a dashed line."""
    metric = table.metrics[0]
    runs = [run for run in table.runs() if run.result["trained_parameters"] > 0]
    if not runs or len(table.rows) < 2:
        return Picture(name, f"No picture of the {label}: it takes two models, one of them trained.", [])
    figure, panels = _grid(table.columns, 2.5, 2.0)
    for column, axes in panels.items():
        _accuracy_panel(axes, table, column, metric, cost)
        axes.set_title(plain(table.column_names[column]))
        axes.set_xlabel(label + (f" ({unit})" if unit else ""))
        axes.xaxis.set_major_formatter(FuncFormatter(_plain_number) if unit else EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel(METRIC_NAMES[metric] + (" (standardised)" if table.family == "lsf" else ""))
        axes.yaxis.set_major_locator(MaxNLocator(5))
    handles = [
        Line2D(
            [], [], label=plain(table.row_names[row]), **look.line(linestyle="--" if _untrained(table, row) else "none")
        )
        for row, look in looks(table).items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
    caption = (
        f"{METRIC_NAMES[metric]} on the test part (mean over seeds; bars: standard deviation) against {label}; further "
        "left and lower is better. Dashed: models that were not trained. Models far above the others are only named."
    )
    return Picture(name, caption + _machines(label, runs), table.runs(), figure)


def _accuracy_panel(axes: Axes, table: Table, column: Column, metric: str, cost: Callable[[Run], float]) -> None:
    """What lies so far above that it would press all else together is only named."""
    axes.set_xscale("log")
    figures = {row: figure for row in table.rows if (figure := table.figure(row, column, metric)) is not None}
    if not figures:
        return
    means = [figure.mean for figure in figures.values()]
    best = min(means)
    limit = best + 4 * max(float(np.median(means)) - best, 0.02 * best)
    spent, beyond = [], []
    for row, figure in figures.items():
        look = looks(table)[row]
        if figure.mean > limit:
            beyond.append(f"{plain(table.row_names[row])}: {table.text(row, column, metric)} ↑")
        elif _untrained(table, row):
            edge = axes.get_yaxis_transform()
            axes.axhline(figure.mean, color=look.colour, linestyle="--", linewidth=0.8)
            axes.plot([0], [figure.mean], transform=edge, clip_on=False, zorder=3, **look.line())
        else:
            spent.append(float(np.mean([cost(run) for run in table.cells[row, column]])))
            place = 4 if row.model == OURS else 3
            axes.errorbar(spent[-1], figure.mean, figure.spread, zorder=place, elinewidth=0.8, **look.line())
    if spent:
        _limit_cost(axes, min(spent), max(spent))
    if beyond:
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom, top + (0.08 + 0.09 * len(beyond)) * (top - bottom))
        text = "\n".join(beyond)
        axes.text(0.99, 0.99, text, transform=axes.transAxes, ha="right", va="top", fontsize=7, color="#555555")


def _limit_cost(axes: Axes, low: float, high: float) -> None:
    """At least one decade, with room at both ends and few enough labels."""
    margin = max(1.6, (10 * low / high) ** 0.5)
    axes.set_xlim(low / margin, high * margin)
    decades = math.log10(high / low * margin**2)
    steps = (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    axes.xaxis.set_major_locator(LogLocator(subs=steps))


def _plain_number(value: float, _: object) -> str:
    return f"{value:g}"


def _untrained(table: Table, row: Row) -> bool:
    return all(run.result["trained_parameters"] == 0 for run in table.runs(row))


def _machines(label: str, runs: Iterable[Run]) -> str:
    if label != TRAINING_TIME:
        return ""
    sources = [run.result["provenance"] for run in runs]
    found = sorted({f"{one['machine']} with {one['threads']} threads, device {one['device']}" for one in sources})
    return f" Times of {' and of '.join(found)}" + ("." if len(found) == 1 else ": compare them with care.")


# ------------------------------------------------------------------------------------------------------ scale weights


def scale_weights(table: Table, name: str) -> Picture:
    """Stacked bars of the weights of the scales, one for each model and column; whichever is fewer are the panels."""
    found = {row: _weights(table, row) for row in table.rows if not _untrained(table, row)}
    found = {row: weights for row, weights in found.items() if weights}
    if not found:
        return Picture(name, "No model of this table mixes scales.", [])
    panels: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    columns = dict.fromkeys(column for weights in found.values() for column in weights)
    for row, weights in found.items():
        for column, mean in weights.items():
            names = (table.row_names[row], table.column_names[column])
            panel, bar = names if len(found) <= len(columns) else names[::-1]
            panels[panel][bar] = mean
    caption = "Learned weights of the scales in the forecast, mean over seeds; higher scales are coarser."
    return Picture(name, caption, [run for row in found for run in table.runs(row)], _weight_figure(panels))


def _weight_figure(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    heights = [len(bars) + 0.2 for bars in panels.values()]
    figure = Figure(figsize=(5.2, 0.24 * sum(heights) + 0.45 * len(panels) + 0.6), layout="constrained")
    places = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    count = max(len(mean) for bars in panels.values() for mean in bars.values())
    shades = matplotlib.colormaps["cividis"](np.linspace(0.1, 0.95, count))
    for axes, (name, bars) in zip(places, panels.items(), strict=True):
        _weight_bars(axes, bars, shades)
        axes.set_title(plain(name), loc="left")
    places[-1].set_xlabel("weight in the forecast")
    for scale, shade in enumerate(shades):
        label = f"scale {scale}" + (" (the data's own rate)" if scale == 0 else "")
        places[0].plot([], [], marker="s", linestyle="none", color=shade, label=label)
    figure.legend(loc="outside lower center", ncols=min(4, count))
    return figure


def _weights(table: Table, row: Row) -> dict[Column, np.ndarray]:
    """The mean over seeds in each column, (scales,); a scale that a seed didn't have counts as 0."""
    found = {}
    for column in table.columns:
        lists = [run.result["scale_weights"] for run in table.cells.get((row, column), ())]
        lists = [weights for weights in lists if weights is not None and len(weights) > 1]
        if lists:
            longest = max(map(len, lists))
            found[column] = np.mean([weights + [0.0] * (longest - len(weights)) for weights in lists], axis=0)
    return found


def _weight_bars(axes: Axes, bars: Mapping[str, np.ndarray], shades: np.ndarray) -> None:
    for place, mean in enumerate(bars.values()):
        for scale, (left, width) in enumerate(zip(np.cumsum(mean) - mean, mean, strict=True)):
            axes.barh(place, width, left=left, color=shades[scale], edgecolor="white", linewidth=0.5, height=0.8)
            if width >= 0.08:
                ink = "white" if matplotlib.colors.rgb_to_hsv(shades[scale][:3])[2] < 0.55 else "black"
                axes.text(
                    left + width / 2, place, f"{width:.2f}", ha="center", va="center_baseline", color=ink, fontsize=7
                )
    axes.set_yticks(range(len(bars)), [plain(name) for name in bars])
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.4, -0.6))
    axes.grid(False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


# ------------------------------------------------------------------------------------------------- critical difference


def kin(table: Table, found: Sequence[Table]) -> list[Table]:
    """Those of the tables that differ from this one in the budget at most."""

    def kind(one: Table) -> tuple[Any, ...]:
        return one.family, one.stride, one.fixed, one.shared, one.variants_of

    return [other for other in found if kind(other) == kind(table)]


def joined(found: Sequence[Table]) -> Table:
    """The columns of all tables; one that several have is that with the most models, so each is of one budget."""
    best: dict[Column, Table] = {}
    for table in found:
        for column in table.columns:
            sizes = [sum(place == column for _, place in one.cells) for one in (table, best.get(column, table))]
            if column not in best or sizes[0] > sizes[1]:
                best[column] = table
    cells = {place: runs for table in found for place, runs in table.cells.items() if best[place[1]] is table}
    return replace(found[0], cells=cells)


def critical_difference(tables: Sequence[Table], name: str) -> Picture:
    """Mean ranks on a line, with a bar under those that don't differ by more than Nemenyi's critical distance.

    `tables` are `kin`: models are ranked within a column, so columns may have different budgets.
    """
    table = joined(tables)
    metric = table.metrics[0]
    ranking = table.ranking([metric])
    try:
        comparison = compare(ranking.places, ALPHA)
    except ValueError as error:
        return Picture(name, f"No diagram of critical differences: {error}.", [])
    names = [plain(table.row_names[row]) for row in ranking.rows]
    means = [ranking.means[row] for row in ranking.rows]
    figure = _rank_diagram([(names[i], means[i]) for i in comparison.order], comparison)
    ranked = {place: table.cells[place] for place in product(ranking.rows, ranking.columns)}
    own = [one for one in tables if any(one.cells.get(place) is runs for place, runs in ranked.items())]
    budgets = f", of {len(own)} tables with budgets of their own" if len(own) > 1 else ""
    finding = "Bars join" if comparison.p_value < ALPHA else "That is no evidence of any difference; bars join"
    caption = (
        f"Mean ranks of {METRIC_NAMES[metric]} (1 is best) over {len(ranking.columns)} data sets and horizons"
        f"{budgets}. "
        f"Friedman's test that all are equal: p = {comparison.p_value:.2g}. {finding} models whose mean ranks are "
        f"nearer than Nemenyi's critical distance at the level {ALPHA}. Horizons of one data set are not independent, "
        "so the test is a little too sure."
    )
    runs = [run for row in ranking.rows for column in ranking.columns for run in table.runs(row, column)]
    return Picture(name, caption, runs, figure)


def _rank_diagram(models: Sequence[tuple[str, float]], comparison: Comparison) -> Figure:
    """`models`: names and mean ranks, the best first; the labels of the better half stand left of the line."""
    count = len(models)
    half = (count + 1) // 2
    step, top = 0.32, 0.3 + 0.16 * len(comparison.groups)
    depth = top + step * half
    right = max(float(count), 1 + comparison.distance)
    figure = Figure(figsize=(6.5, 0.75 * (depth + 0.95)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0.8, right + 0.2), ylim=(-depth, 0.95))
    axes.axis("off")
    ink: dict[str, Any] = {"color": "black", "linewidth": 0.8, "clip_on": False}
    axes.plot([1, count], [0, 0], **ink)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.1], **ink)
        axes.text(rank, 0.16, str(rank), ha="center", va="bottom")
    axes.plot(
        [1, 1, 1, 1 + comparison.distance, 1 + comparison.distance, 1 + comparison.distance],
        [0.55, 0.65, 0.6, 0.6, 0.65, 0.55],
        **ink,
    )
    axes.text(
        1 + comparison.distance / 2, 0.67, f"critical distance {comparison.distance:.2f}", ha="center", va="bottom"
    )
    for place, (name, mean) in enumerate(models):
        left = place < half
        y = -(top + step * (place if left else count - 1 - place))
        edge = 0.8 if left else right + 0.2
        axes.plot([mean, mean, edge], [0, y, y], **ink)
        label = f"{name}  ({mean:.2f}) " if left else f" ({mean:.2f})  {name}"
        axes.text(edge, y, label, ha="right" if left else "left", va="center", clip_on=False)
    for place, (first, last) in enumerate(comparison.groups):
        y = -0.16 * (place + 1)
        axes.plot([models[first][1] - 0.04, models[last][1] + 0.04], [y, y], color="black", linewidth=2.5)
    return figure


def _grid(columns: Sequence[Column], width: float, height: float) -> tuple[Figure, dict[Column, Axes]]:
    """A panel for each column of the table: horizons side by side, else up to three data sets."""
    horizons = len({column.horizon for column in columns})
    across = min(len(columns), max(horizons, 2) if horizons > 1 else 3)
    down = -(-len(columns) // across)
    figure = Figure(figsize=(width * max(across, 2), height * down + 0.8), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    found = dict(zip(columns, panels, strict=False))
    for axes in panels:
        if axes not in found.values():
            axes.set_visible(False)
    return figure, found
