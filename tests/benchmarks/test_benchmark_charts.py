"""The chart's bars, and what `show` writes where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from fake_results import of, store, tables_of
from matplotlib.axes import Axes
from typer.testing import CliRunner

from benchmarks import show
from benchmarks.errors import Misuse
from benchmarks.show import charts

PLACES = [("ETTh1", 96), ("ETTh1", 336), ("ETTm1", 96), ("ETTm1", 336), ("Weather", 96)]


def ends(axes: Axes) -> dict[str, float]:
    """Where each model's bar ends, by its name in the first panel of the row."""
    names = [label.get_text() for label in axes.figure.axes[0].get_yticklabels()]
    return dict(zip(names, [patch.get_x() + patch.get_width() for patch in axes.patches], strict=True))


def measured(*models: str) -> list[dict[str, Any]]:
    """Every model in all places, the first the best; Weather has a budget of its own."""
    wide = {"Weather": {"budget": {"batch_size": 11}}}
    return [
        of(model, 0.2 + 0.1 * rank, *place, **wide.get(place[0], {}))
        for place in PLACES
        for rank, model in enumerate(models)
    ]


def test_the_readme_chart_is_relative_to_zero_shot_over_all_budgets(tmp_path: Path) -> None:
    runs = [*measured("msft", "zero_shot", "dlinear"), of("full", 0.1), of("lora", 0.1, test_stride=9)]
    runs.append(of("msft", 0.9, seed=1))
    figure = charts.relative_to_zero_shot(tables_of(tmp_path, *runs))
    panels = {axes.get_title(): ends(axes) for axes in figure.axes if axes.get_visible()}
    assert list(panels) == ["ETTh1 96", "ETTh1 336", "ETTm1 96", "ETTm1 336", "Weather 96"]
    assert panels["Weather 96"] == pytest.approx({"MSFT": 0.2 / 0.3, "DLinear": 0.4 / 0.3})
    assert panels["ETTh1 96"]["MSFT"] == pytest.approx(0.55 / 0.3)
    with pytest.raises(Misuse, match="zero_shot"):
        charts.relative_to_zero_shot(tables_of(tmp_path / "without", *measured("msft", "full")))


def test_a_suite_is_only_printed_without_a_place(tmp_path: Path) -> None:
    folder = store(tmp_path, of("msft", 0.3), of("full", 0.4, suite="mine"), of("zero_shot", 0.4))
    app = typer.Typer()
    app.command()(show.main)
    words = ["--results", str(folder), "--suite", "first", "--chart", str(tmp_path / "new" / "chart.png")]
    out = CliRunner().invoke(app, words).output
    assert "MSFT" in out
    assert "full finetuning" not in out
    assert [path.name for path in folder.iterdir() if path.is_file()] == []
    assert (tmp_path / "new" / "chart.png").read_bytes().startswith(b"\x89PNG")
