"""`python -m benchmarks report`: one HTML page with all tables and pictures, and where each figure came from.

It needs nothing but itself: pictures are inside, there is no script, and the browser is told to load nothing else.
"""

from __future__ import annotations

import argparse
import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.notes import notes
from benchmarks.picture import Picture
from benchmarks.plots import file_name, pictures
from benchmarks.run import store as results
from benchmarks.run.selection import add_selection, command, output, select
from benchmarks.run.store import write
from benchmarks.summary import METRIC_NAMES, Column, Row, Run, Table, options_text
from benchmarks.tables import mean_ranks

TEMPLATE = Path(__file__).parent / "report.html.jinja"
SAME = ("data_hash", "weights", "protocol", "defaults")  # what a result shares with the choice that it came from
Choices = Mapping[tuple[Any, ...], Path]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)


def main(arguments: argparse.Namespace) -> None:
    """Writes the page to `report.html`."""
    found = select(arguments)  # before the folder is made: a wrong one has no results
    path = output(arguments) / "report.html"
    choices = choice_files(arguments.results)
    commands = command("report", arguments), command("plot", arguments)
    write(path, page(found, choices, path.parent, *commands))
    print(f"written: {path}")


def choice_files(store: Path) -> Choices:
    """The file of every choice, by its key, data, weights and defaults."""
    return {tuple(found[name] for name in ("key", *SAME)): path for path, found in results.entries(store, "choice")}


def page(found: list[Table], choices: Choices, folder: Path, own_command: str, plot_command: str) -> str:
    """The whole page, for a file in `folder`: links to results are relative to it."""
    runs = list({run.path: run for table in found for run in table.runs()}.values())
    made = sorted(run.result["provenance"]["made"] for run in runs)
    # autoescape: a data set's, a variable's or a model's name is never mark-up
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(TEMPLATE.name).render(
        count=len(runs),
        first=made[0],
        last=made[-1],
        command=own_command,
        sections=[_section(table, found, plot_command) for table in found],
        sources=[_source(run, choices, folder) for run in runs],
    )


def _section(table: Table, found: list[Table], plot_command: str) -> dict[str, Any]:
    marks = {(column, metric): table.marks(column, metric) for column in table.columns for metric in table.metrics}
    ranks = mean_ranks(table)
    rows = [
        {
            "name": table.row_names[row],
            "cells": [_cell(table, row, *place, marks[place].get(row)) for place in marks],
            "rank": ranks.get(row, ""),
        }
        for row in table.rows
    ]
    return {
        "name": file_name(table),
        "title": table.title,
        "columns": [table.column_names[column] for column in table.columns],
        "metrics": [METRIC_NAMES[metric] for metric in table.metrics],
        "rows": rows,
        "notes": notes(table),
        "pictures": [_picture(picture, plot_command) for picture in pictures(table, found)],
    }


def _cell(table: Table, row: Row, column: Column, metric: str, place: int | None) -> dict[str, Any]:
    """The figure, its mark, and the line of its first seed among the sources; other seeds follow there."""
    runs = table.runs(row, column)
    return {
        "text": table.text(row, column, metric),
        "place": place,
        "source": _anchor(runs[0]) if runs else "",
        "files": ", ".join(run.path.name for run in runs),
    }


def _picture(picture: Picture, plot_command: str) -> dict[str, Any]:
    image = ""
    if picture.figure is not None:
        image = f"data:image/svg+xml;base64,{base64.b64encode(picture.data('svg')).decode()}"
    return {
        "name": picture.name,
        "caption": picture.caption,
        "image": image,
        "command": plot_command,
        "sources": [{"name": _anchor(run), "file": run.path.name} for run in picture.runs],
    }


def _source(run: Run, choices: Choices, folder: Path) -> dict[str, Any]:
    result, provenance = run.result, run.result["provenance"]
    choice = choices.get(tuple(result[name] for name in ("choice_key", *SAME)))
    return {
        "name": _anchor(run),
        "file": run.path.name,
        "link": _link(run.path, folder),
        "settings": options_text({**result["settings"], **result["resolved"]}),
        "choice": "" if choice is None else choice.name,
        "choice_link": "" if choice is None else _link(choice, folder),
        "fit": f"{result['seconds']['fit']:.1f} s ({result['processor_seconds']['fit']:.1f} s of processors)",
        "forecast": f"{result['seconds']['forecast']:.1f} s",
        "memory": f"{result['peak_memory_mb']:.0f} MB",
        "trained": f"{result['trained_parameters']:,}",
        "commit": provenance["commit"][:7] + (" and changes" if provenance["dirty"] else ""),
        "data": result["data_hash"][:8],
        "weights": (result["weights"] or "none")[:8],
        "command": result["command"],
    }


def _link(path: Path, folder: Path) -> str:
    return quote(os.path.relpath(path, folder))


def _anchor(run: Run) -> str:
    return f"result-{run.path.stem}"
