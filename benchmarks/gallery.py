"""The gallery of forecasts: the first, the middle and the last test window as the best models forecast them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from benchmarks.picture import COLOURS, OURS, Picture, looks, plain
from benchmarks.summary import METRIC_NAMES, Column, Row, Run, Table

SHOWN = 4  # models side by side


def gallery(table: Table, column: Column, name: str) -> Picture:
    """Forecasts of the first, the middle and the last test window: a row a window, a column a model, the best first."""
    metric = table.metrics[0]
    chosen = _best_with_examples(table, column, metric)
    if not chosen:
        return Picture(name, "No result here holds examples.", [])
    count = max(len(run.result["examples"]) for run in chosen.values())
    size = (1.75 * len(chosen) + 0.5, 1.25 * count + 0.7)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(count, len(chosen), sharex=True, sharey="row", squeeze=False)
    unit = "standardised" if table.family == "lsf" else "in the data's unit"
    for place, (row, run) in enumerate(chosen.items()):
        look = looks(table)[row]
        panels[0, place].set_title(
            f"{plain(table.row_names[row])}\n{METRIC_NAMES[metric]} {table.text(row, column, metric)}"
        )
        for axes, example in zip(panels[:, place], run.result["examples"], strict=False):
            _forecast_panel(axes, example, look.colour)
            if place == 0:
                variable = textwrap.shorten(plain(example["variable"]), 24, placeholder="…")
                axes.set_ylabel(f"{variable}\n({unit})\nfrom step {example['start']}", fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("steps after the origin")
    figure.legend(handles=_gallery_legend(chosen.values()), loc="outside lower center", ncols=4)
    caption = (
        f"{table.column_names[column]}: forecasts of the first, the middle and the last test window by the best "
        f"{len(chosen)} models that kept examples{_ours_too(chosen, metric)}."
    )
    return Picture(name, caption, list(chosen.values()), figure)


def _best_with_examples(table: Table, column: Column, metric: str) -> dict[Row, Run]:
    """The first seed's run of the best models, and of the best MSFT in any case."""
    found: list[tuple[float, Row, Run]] = []
    for row in table.rows:
        figure = table.figure(row, column, metric)
        runs = [run for run in table.cells.get((row, column), ()) if run.result.get("examples")]
        if figure is not None and runs:
            found.append((figure.mean, row, runs[0]))
    found.sort(key=lambda entry: entry[0])
    shown = found[:SHOWN]
    ours = [entry for entry in found if entry[1].model == OURS]
    if ours and ours[0] not in shown:
        shown[-1] = ours[0]
    return {row: run for _, row, run in shown}


def _ours_too(chosen: Mapping[Row, Run], metric: str) -> str:
    ours = any(row.model == OURS for row in chosen)
    return f" (by {METRIC_NAMES[metric]}{'; MSFT in any case' if ours else ''})"


def _forecast_panel(axes: Axes, example: Mapping[str, Any], colour: str) -> None:
    target = example["target"]
    context = example["context"][-len(target) :]
    levels, quantiles = example["levels"], np.array(example["quantiles"])
    ahead = np.arange(1, len(target) + 1)
    axes.plot(np.arange(1 - len(context), 1), context, color="#888888", linewidth=0.8)
    for low in range(len(levels) // 2):
        axes.fill_between(ahead, quantiles[low], quantiles[-1 - low], color=colour, alpha=0.14, linewidth=0)
    axes.plot(ahead, quantiles[int(np.argmin(np.abs(np.array(levels) - 0.5)))], color=colour, linewidth=1.5)
    axes.plot(ahead, target, color="black", linewidth=0.7)
    axes.axvline(0.5, color="#888888", linewidth=0.6, linestyle=":")
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(False)


def _gallery_legend(runs: Iterable[Run]) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color="#888888", label="context"),
        Line2D([], [], color="black", label="truth"),
        Line2D([], [], color=COLOURS[0], label="median forecast (each model its colour)"),
    ]
    pairs = {
        (levels[0], levels[-1]) for run in runs for levels in [run.result["examples"][0]["levels"]] if len(levels) > 1
    }
    if pairs:
        label = " or ".join(f"{low:g} to {high:g}" for low, high in sorted(pairs))
        handles.append(Patch(color=COLOURS[0], alpha=0.3, label=f"quantiles {label}"))
    return handles
