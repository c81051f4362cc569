"""One HTML page with all tables and charts, and where each figure came from; it needs no other file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.show.frame import METRIC_NAMES
from benchmarks.show.tables import Table

TEMPLATE = Path(__file__).parent / "report.html.jinja"
MARKS = {1: "font-weight: bold", 2: "text-decoration: underline"}
SOURCES = {"row": "model", "column": "data", "seed": "seed", "link": "result", "settings": "settings"}
SOURCES |= {"fit_seconds": "fit, s", "trained_parameters": "trained", "commit": "commit", "command": "command"}


def page(found: Sequence[Table], charts: Mapping[str, Mapping[str, bytes]], folder: Path) -> str:
    """The page for a file in `folder`, to which links are relative; `charts` are PNG files by a table's `file_name`."""
    # autoescape: a data set's or a model's name is never mark-up
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined)
    runs = pd.concat([table.runs for table in found])
    return environment.get_template(TEMPLATE.name).render(
        count=runs.file.nunique(),
        first=runs.made.min(),
        last=runs.made.max(),
        sections=[
            {
                "name": table.file_name,
                "title": table.title,
                "table": _styled(table),
                "notes": table.notes,
                "pictures": [base64.b64encode(chart).decode() for chart in charts[table.file_name].values()],
                "sources": _sources(table, folder),
            }
            for table in found
        ],
    )


def _styled(table: Table) -> str:
    """The figures as an HTML table, the best bold and the second underlined."""
    shown, places = table.text.rename(columns=METRIC_NAMES, level="metric"), table.places
    styles = pd.DataFrame({place: places[place].map(MARKS).fillna("") for place in places}, places.index)
    styles.columns = shown.columns
    shown["mean rank", ""] = table.mean_ranks
    styles["mean rank", ""] = ""
    styler = shown.rename_axis(index=None, columns=(None, None)).style.apply(lambda _: styles, axis=None)
    styler = styler.format(escape="html").format_index(escape="html").format_index(escape="html", axis=1)
    return str(styler.to_html())


def _sources(table: Table, folder: Path) -> str:
    """A line for each result: its file, settings, costs, commit, and the command that measured it."""
    runs = table.labelled.drop_duplicates("path")
    runs = runs.assign(link=[os.path.relpath(path, folder) for path in runs.path])
    shown = runs[list(SOURCES)].rename(columns=SOURCES)
    styler = shown.style.format(precision=1, escape="html").hide(axis="index")
    link = '<a href="{}">{}</a>'.format
    styler = styler.format(lambda path: link(quote(path), html.escape(Path(path).name)), subset=["result"])
    return str(styler.to_html())
