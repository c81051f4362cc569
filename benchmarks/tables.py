"""`python -m benchmarks table`: the results as Markdown and CSV, and the part of a README that shows them."""

from __future__ import annotations

import argparse
import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse, misuse
from benchmarks.notes import look_back, notes
from benchmarks.run.selection import add_selection, command, output, select, selects
from benchmarks.run.store import write
from benchmarks.summary import METRIC_NAMES, Column, Row, Table, dataset_name

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
CSV_FIELDS = (
    *(
        "family",
        "model",
        "options",
        "fixed",
        "shared",
        "weights",
        "dataset",
        "horizon",
        "data_hash",
        "test_stride",
        "windows",
        "budget",
    ),
    *("variants_table", "metric", "mean", "spread", "seeds", "place", "mean_rank", "look_back", "trained_parameters"),
    *("fit_seconds", "fit_processor_seconds", "files"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument("--readme", type=Path, help=f"also put the tables into this file, between {BEGIN} and {END}")


def main(arguments: argparse.Namespace) -> None:
    """Prints the Markdown and writes it to `tables.md`, the figures in full to `tables.csv`.

    Beside the results these two are of everything: a selection goes there by `--output` alone.
    """
    found = select(arguments)
    text = markdown(found)
    written = []
    if arguments.readme is not None:
        put_into(arguments.readme, f"Made by `{command('table', arguments, readme=arguments.readme)}`.\n\n{text}")
        written.append(arguments.readme)
    if arguments.output is not None or not selects(arguments):
        folder = output(arguments)
        for name, content in (("tables.md", text), ("tables.csv", as_csv(found))):
            write(folder / name, content)
            written.append(folder / name)
    print(text)
    print(f"written: {', '.join(map(str, written)) or 'nothing; --output FOLDER writes tables of a selection'}")


# ------------------------------------------------------------------------------------------------------------ Markdown


def markdown(found: list[Table]) -> str:
    """Every table under its title, with its notes."""
    return "\n\n".join(_markdown_table(table) for table in found) + "\n"


def _markdown_table(table: Table) -> str:
    names = [table.column_names[column] for column in table.columns]
    ranks = mean_ranks(table)
    head = ["", *(f"{escape(name)}<br>{METRIC_NAMES[metric]}" for name in names for metric in table.metrics)]
    lines = [[*head, "mean rank"], ["---", *["---:"] * len(head)]]
    marks = {(c, metric): table.marks(c, metric) for c in table.columns for metric in table.metrics}
    for row in table.rows:
        cells = [_marked(table.text(row, *place), marks[place].get(row)) for place in marks]
        lines.append([escape(table.row_names[row]), *cells, ranks.get(row, "")])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"### {escape(table.title)}\n\n{text}\n\n" + "\n".join(f"- {escape(note)}" for note in notes(table))


def _marked(text: str, place: int | None) -> str:
    return {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(place or 0, text)


def mean_ranks(table: Table) -> dict[Row, str]:
    """The mean rank as shown, of the rows that have one; a row alone has none."""
    means = table.ranking().means
    return {row: f"{mean:.2f}" for row, mean in means.items()} if len(means) > 1 else {}


def escape(text: str) -> str:
    """The text as Markdown and HTML show it literally, on one line and within one cell."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


# ----------------------------------------------------------------------------------------------------------------- CSV


def as_csv(found: list[Table]) -> str:
    """One line for each figure, unrounded, with the files that it came from."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for table in found:
        ranks = mean_ranks(table)
        for row in table.rows:
            for column in table.columns:
                for metric in table.metrics:
                    writer.writerows(_csv_line(table, row, column, metric, ranks.get(row, "")))
    return text.getvalue()


def _csv_line(table: Table, row: Row, column: Column, metric: str, rank: str) -> list[dict[str, Any]]:
    figure = table.figure(row, column, metric)
    if figure is None:
        return []
    runs = table.cells[row, column]
    return [
        {
            "family": table.family,
            "model": row.model,
            "options": row.options,
            "fixed": json.dumps(table.fixed, sort_keys=True),
            "shared": json.dumps(table.shared, sort_keys=True),
            "weights": row.weights or "",
            "dataset": dataset_name(column.dataset),
            "horizon": column.horizon,
            "data_hash": column.data_hash,
            "test_stride": runs[0].experiment["test_stride"],
            "windows": column.windows,
            "budget": json.dumps(table.budget, sort_keys=True),
            "variants_table": table.variants_of or "",
            "metric": metric,
            "mean": figure.mean,
            "spread": "" if figure.spread is None else figure.spread,
            "seeds": " ".join(str(run.experiment["seed"]) for run in runs),
            "place": table.marks(column, metric).get(row, ""),
            "mean_rank": rank,
            "look_back": look_back(runs),
            "trained_parameters": " ".join(dict.fromkeys(str(run.result["trained_parameters"]) for run in runs)),
            "fit_seconds": " ".join(str(run.result["seconds"]["fit"]) for run in runs),
            "fit_processor_seconds": " ".join(str(run.result["processor_seconds"]["fit"]) for run in runs),
            "files": " ".join(run.path.name for run in runs),
        }
    ]


# ------------------------------------------------------------------------------------------------------------- writing


def put_into(path: Path, text: str) -> None:
    """Replaces what stands between the two marker comments; all else stays as it is, to the byte.

    Raises
    ------
    Misuse
        The file can't be read, or doesn't have each marker once, in this order.
    """
    path = path.resolve()
    with misuse("--readme: ", OSError):
        old = path.read_bytes().decode()
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise Misuse(f"{path} needs the line {BEGIN} once and after it {END} once; add them where the tables belong")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    write(path, f"{before}{BEGIN}\n{text.strip()}\n{END}{after}")
