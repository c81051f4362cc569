"""The chart of the documentation: every model's error beside that of the pretrained one, as a matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.errors import Misuse
from benchmarks.models import OURS
from benchmarks.show.frame import MODEL_NAMES, row_name
from benchmarks.show.tables import Table, joined

SHOWN = 6  # models of the chart, beside zero-shot
RELATIVE = "MSE as a multiple of zero-shot's (line): left is better; whiskers are standard deviations over seeds"
MSFT, FINETUNED, OTHER = "#D55E00", "#0072B2", "#8A8A8A"
STYLE: dict[Any, Any] = {"font.size": 8, "axes.titlesize": 9, "axes.axisbelow": True, "grid.color": "#e3e3e3"}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False}


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
    return buffer.getvalue()


def relative_to_zero_shot(found: Sequence[Table]) -> Figure:
    """MSE over that of the pretrained model at one scale without finetuning, of the best models in every column."""
    plain = [table for table in found if table.kind == ("lsf", 1, "{}", "{}", "")]
    means = joined(plain).means.xs("mse", axis=1, level="metric").dropna() if plain else pd.DataFrame()
    names = [row_name("zero_shot", options) for options in ('{"num_scales": 0}', "{}")]
    zero_shot = next((name for name in names if name in means.index), None)
    if zero_shot is None or len(means) < 2:
        raise Misuse("the chart needs figures of zero_shot and another model in all columns of 'lsf'")
    spreads = joined(plain).spreads.xs("mse", axis=1, level="metric") / means.loc[zero_shot]
    ratios = means.drop(zero_shot) / means.loc[zero_shot]
    best = ratios.mean(axis=1).nsmallest(SHOWN).index
    figure = _panels(ratios.loc[best], spreads.loc[best], min(3, len(ratios.columns)))
    for axes, column in zip(figure.axes, ratios, strict=False):
        for place, ratio in enumerate(ratios.loc[best, column]):
            where: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center_baseline"}
            axes.text(1.0, place, f"{ratio:.2f}", color="#555555", fontsize=7, **where)
    figure.axes[0].set_xlim(right=figure.axes[0].get_xlim()[1] + 0.05)
    return figure


def _panels(means: pd.DataFrame, spreads: pd.DataFrame, across: int) -> Figure:
    """A panel a column of `means`, a horizontal bar a row, from the line at 1 to its mean."""
    down = -(-len(means.columns) // across)
    width = 0.3 + 0.07 * max(map(len, means.index)) + 2.1 * across
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, (0.7 + 0.19 * len(means)) * down + 0.3), layout="constrained")
        panels = figure.subplots(down, across, sharey=True, sharex=True, squeeze=False)
        for axes, column in zip(panels.flat, means.columns, strict=False):
            lengths, colours = means[column] - 1, [_colour(row) for row in means.index]
            axes.barh(means.index, lengths, left=1, color=colours, height=0.7)
            axes.errorbar(means[column], means.index, xerr=spreads[column], fmt="none", ecolor="black", elinewidth=0.8)
            axes.set_title(column.replace("$", r"\$"))
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.axvline(1, color="black", linewidth=0.9)
        panels[0, 0].invert_yaxis()
        for axes in panels.flat[len(means.columns) :]:
            axes.set_visible(False)
        figure.supxlabel(RELATIVE, fontsize=8)
    return figure


def _colour(row: str) -> str:
    """MSFT and its variants, other ways to finetune, all else."""
    if row.startswith(MODEL_NAMES["msft"]):
        return MSFT
    finetuned = tuple(MODEL_NAMES[model] for model in OURS if model not in ("zero_shot", "scratch"))
    return FINETUNED if row.startswith(finetuned) else OTHER
