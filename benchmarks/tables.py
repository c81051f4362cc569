"""`python -m benchmarks table`: the results as Markdown and CSV, and the part of a README that shows them."""

from __future__ import annotations

import argparse
import csv
import html
import io
import json
import os
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import results, suites
from benchmarks.origin import in_suite
from benchmarks.summary import (
    FAMILIES,
    METRIC_NAMES,
    Column,
    Row,
    Run,
    Table,
    budget_text,
    dataset_name,
    read,
    tables,
)

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SELECTION = ("suite", "family", "datasets", "horizons", "only")
CSV_FIELDS = (
    *(
        "family",
        "model",
        "options",
        "fixed",
        "weights",
        "dataset",
        "horizon",
        "data_hash",
        "test_stride",
        "windows",
        "budget",
    ),
    *("variants_table", "metric", "mean", "spread", "seeds", "place", "mean_rank", "look_back", "trained_parameters"),
    *("fit_seconds", "files"),
)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which results count and where the output goes; `table`, `plot` and `report` share them."""
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the results (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="folder to write into (default: the folder of the results)")
    parser.add_argument("--suite", choices=sorted(suites.SUITES), help="only the experiments of this suite")
    parser.add_argument("--family", choices=list(FAMILIES), help="only this family")
    parser.add_argument("--datasets", nargs="+", help="only these data sets")
    parser.add_argument("--horizons", nargs="+", type=int, help="only these horizons")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="only these models")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)
    parser.add_argument("--readme", type=Path, help=f"also put the tables into this file, between {BEGIN} and {END}")


def main(arguments: argparse.Namespace) -> None:
    """Prints the Markdown and writes it to `tables.md`, the figures in full to `tables.csv`."""
    found = select(arguments)
    text = markdown(found)
    folder = output(arguments)
    write(folder / "tables.md", text)
    write(folder / "tables.csv", as_csv(found))
    if arguments.readme is not None:
        put_into(arguments.readme, f"Made by `{command('table', arguments, readme=arguments.readme)}`.\n\n{text}")
    print(text)
    print(f"written: {folder / 'tables.md'}, {folder / 'tables.csv'}, {arguments.readme or 'no README'}")


def select(arguments: argparse.Namespace) -> list[Table]:
    """The tables of the results that the arguments ask for; a ValueError where there are none."""
    runs = [run for run in read(arguments.results) if arguments.suite is None or in_suite(run, arguments.suite)]
    if not runs:
        raise ValueError(f"no result in {arguments.results} is of the suite {arguments.suite!r}; run it first")
    wanted = {
        "family": arguments.family and [arguments.family],
        "dataset": arguments.datasets,
        "horizon": arguments.horizons,
        "model": arguments.only,
    }

    def matches(run: Run) -> bool:
        return all(names is None or run.experiment[field] in names for field, names in wanted.items())

    chosen = [run for run in runs if matches(run)]
    for field, names in wanted.items():
        known = {run.experiment[field] for run in runs}
        if missing := [name for name in names or () if name not in known]:
            raise ValueError(f"no result has {field} {missing}; there are {', '.join(map(str, sorted(known)))}")
    if not chosen:
        raise ValueError(
            f"none of the {len(runs)} results in {arguments.results} fits all of the selection; ask for less"
        )
    return tables(chosen)


def output(arguments: argparse.Namespace) -> Path:
    folder = arguments.results if arguments.output is None else arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def command(name: str, arguments: argparse.Namespace, **more: Any) -> str:
    """The command line that gives the same again."""
    words = ["python", "-m", "benchmarks", name]
    given = {"results": arguments.results if arguments.results != results.FOLDER else None, "output": arguments.output}
    for option, value in {**given, **{key: getattr(arguments, key) for key in SELECTION}, **more}.items():
        if value is not None:
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


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


# --------------------------------------------------------------------------------------------------------------- notes


def notes(table: Table) -> list[str]:
    """What a reader has to know beside the figures: one line each, without mark-up."""
    metrics = [metric for metric in table.metrics if metric != "coverage"]
    better = "Lower is better" + ("; the coverage should be 0.8" if "coverage" in table.metrics else "")
    lines = [f"{better}. Bold: best, underlined: second. Empty: no result."]
    if table.family == "lsf":
        lines.append("MSE and MAE are on data standardised with training statistics.")
    if table.stride is not None:
        lines.append(f"A quick look: test windows are {table.stride} steps apart, so this is no row of the full table.")
    windows = _grouped({table.column_names[column]: str(column.windows) for column in table.columns})
    lines.append(f"Budget of every model: {budget_text(table.budget)}.")
    lines.append(f"Test windows: {windows}.")
    spread = any(len(runs) > 1 for runs in table.cells.values())
    lines.append(f"Seeds: {_seeds(table)}.{' ± is the sample standard deviation over seeds.' if spread else ''}")
    lines.append(
        f"Look-back {'as given' if 'look_back' in table.fixed else 'chosen on validation data'}: {_look_backs(table)}."
    )
    lines.append(_rank_note(table, metrics))
    if kept := [
        _named(table, run) for run in table.runs() if (run.result.get("fit_report") or {}).get("kept") == "zero-shot"
    ]:
        lines.append(
            f"Finetuning was no better on validation data, so the pretrained model was kept: {', '.join(kept)}."
        )
    if without := [_without_msis(table, column) for column in table.columns if _without_msis(table, column)]:
        lines.append(f"MSIS leaves out variables that never change from season to season: {'; '.join(without)}.")
    return [*lines, _commits(table)]


def _named(table: Table, run: Run) -> str:
    names = f"{table.row_names[Row.of(run)]} on {table.column_names[Column.of(run)]}"
    return f"{names} (seed {run.experiment['seed']})"


def _without_msis(table: Table, column: Column) -> str:
    names = {name: None for run in table.runs(column=column) for name in run.result.get("without_msis") or ()}
    return f"{', '.join(names)} of {table.column_names[column]}" if names else ""


def _rank_note(table: Table, metrics: list[str]) -> str:
    ranking = table.ranking()
    what = " and ".join(METRIC_NAMES[metric] for metric in metrics)
    if len(ranking.means) < 2:
        return f"No mean rank: no data set and horizon has {what} of at least two models."
    text = (
        f"Mean rank: of {len(ranking.rows)} models over the {what} of {len(ranking.columns)} of "
        f"{len(table.columns)} data sets and horizons, those where each of these models has a figure"
    )
    unranked = [table.row_names[row] for row in table.rows if row not in ranking.rows]
    return text + (f"; not ranked, in fewer than half of the columns: {', '.join(unranked)}." if unranked else ".")


def _seeds(table: Table) -> str:
    counts = {}
    for row in table.rows:
        found = sorted({len(runs) for (r, _), runs in table.cells.items() if r == row})
        counts[table.row_names[row]] = " to ".join(str(count) for count in dict.fromkeys((found[0], found[-1])))
    return _grouped(counts)


def _look_backs(table: Table) -> str:
    """By model: one number where it is the same everywhere, else a number for each data set and horizon."""
    found = {}
    for row in table.rows:
        cells = {column: table.cells[row, column] for column in table.columns if (row, column) in table.cells}
        groups = defaultdict(list)
        for column, runs in cells.items():
            groups[look_back(runs)].append(table.column_names[column])
        text = ", ".join(f"{steps} ({', '.join(names)})" for steps, names in groups.items())
        found[table.row_names[row]] = next(iter(groups)) if len(groups) == 1 else text
    return _grouped(found)


def look_back(runs: tuple[Run, ...]) -> str:
    """The context that was chosen, in steps; "none" of a model that has no such setting."""
    found = dict.fromkeys(str(run.result["settings"].get("look_back", "none")) for run in runs)
    return " or ".join(found)


def _commits(table: Table) -> str:
    found = set()
    for run in table.runs():
        source = run.result["provenance"]
        found.add(source["commit"][:7] + (" with uncommitted changes" if source["dirty"] else ""))
    return f"Code: commit {', '.join(sorted(found))}."


def _grouped(values: dict[str, str]) -> str:
    """`512` where all are equal, else `512 for ETTh1 96, ETTh1 336; 1024 for ETTm1 96`."""
    groups = defaultdict(list)
    for name, value in values.items():
        groups[value].append(name)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{value} for {', '.join(names)}" for value, names in groups.items())


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
            "files": " ".join(run.path.name for run in runs),
        }
    ]


# ------------------------------------------------------------------------------------------------------------- writing


def put_into(path: Path, text: str) -> None:
    """Replaces what stands between the two marker comments; all else stays as it is, to the byte.

    Raises
    ------
    ValueError
        The file doesn't have each marker once, in this order.
    """
    path = path.resolve()
    old = path.read_bytes().decode()
    if old.count(BEGIN) != 1 or old.count(END) != 1 or old.index(BEGIN) > old.index(END):
        raise ValueError(
            f"{path} needs the line {BEGIN} once and after it {END} once; add them where the tables belong"
        )
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    write(path, f"{before}{BEGIN}\n{text.strip()}\n{END}{after}")


def write(path: Path, content: str | bytes) -> None:
    """Whole or not at all: into a file beside it, then renamed."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content.encode() if isinstance(content, str) else content)
        if path.exists():
            shutil.copymode(path, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
