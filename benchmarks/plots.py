"""`python -m benchmarks plot`: pictures of the results, as PNG and SVG.

Of every table: accuracy against training time and against trained parameters, the learned weights of the scales, and
forecasts of the best models; with the first of those that differ in budget alone, a diagram of critical differences.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Sequence

import matplotlib

from benchmarks.charts import TRAINING_TIME, accuracy, critical_difference, kin, scale_weights
from benchmarks.gallery import gallery
from benchmarks.picture import STYLE, Picture
from benchmarks.run.selection import add_selection, output, select
from benchmarks.run.store import write
from benchmarks.summary import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_selection(parser)


def main(arguments: argparse.Namespace) -> None:
    """Writes every picture into the folder `pictures`, and says which were left out and why."""
    found = select(arguments)
    folder = output(arguments) / "pictures"
    folder.mkdir(exist_ok=True)
    for table in found:
        for picture in pictures(table, found):
            if picture.figure is None:
                print(f"{picture.name}: left out. {picture.caption}")
                continue
            for kind in ("png", "svg"):
                write(folder / f"{picture.name}.{kind}", picture.data(kind))
            print(f"written: {folder / picture.name}.png and .svg")


def pictures(table: Table, found: Sequence[Table]) -> Iterator[Picture]:
    """All pictures of a table that was `found` beside others, one at a time."""
    name, related = file_name(table), kin(table, found)
    makers = [
        lambda: accuracy(
            table, f"{name}-seconds", TRAINING_TIME, "s", lambda run: run.result["processor_seconds"]["fit"]
        ),
        lambda: accuracy(
            table, f"{name}-parameters", "trained parameters", "", lambda run: run.result["trained_parameters"]
        ),
        *([lambda: critical_difference(related, f"{name}-ranks")] if related[0] is table else []),
        lambda: scale_weights(table, f"{name}-scales"),
        *(
            lambda column=column: gallery(table, column, f"{name}-forecasts-{_safe(table.column_names[column])}")
            for column in table.columns
        ),
    ]
    for make in makers:
        with matplotlib.rc_context(STYLE):
            picture = make()
        yield picture


def file_name(table: Table) -> str:
    """Says which table, and stays the same when others come to it."""
    budget = hashlib.sha256(json.dumps(table.budget, sort_keys=True).encode()).hexdigest()[:6]
    quick = "" if table.stride is None else f"-stride{table.stride}"
    fixed = "".join(f"-{_safe(f'{name}-{value}')}" for name, value in table.fixed.items())
    variants = "" if table.variants_of is None else f"-{_safe(table.variants_of)}-variants"
    return f"{table.family}{quick}{variants}{fixed}-{budget}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
