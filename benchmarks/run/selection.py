"""Which results `table`, `plot` and `report` are of: their arguments, the reading, and the way back to a command."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse, misuse
from benchmarks.run import store as results
from benchmarks.run import suites
from benchmarks.run.experiments import PROTOCOL
from benchmarks.summary import FAMILIES, Run, Table, tables

FIELDS = {"family": "family", "datasets": "dataset", "horizons": "horizon", "only": "model"}  # option -> of what
OPTIONS = ("suite", *FIELDS, "weights", "protocol")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which results count and where the output goes; `table`, `plot` and `report` share them."""
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the results (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="folder to write into (default: the folder of the results)")
    parser.add_argument("--suite", nargs="+", choices=sorted(suites.SUITES), help="only what belongs to these suites")
    parser.add_argument("--family", nargs="+", choices=list(FAMILIES), help="only this family")
    parser.add_argument("--datasets", nargs="+", help="only these data sets")
    parser.add_argument("--horizons", nargs="+", type=int, help="only these horizons")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="only these models")
    parser.add_argument("--weights", metavar="HASH", help="rows of these weights (first digits), not of the newest")
    parser.add_argument("--protocol", type=int, default=PROTOCOL, help="results of this one (default: %(default)s)")


def select(arguments: argparse.Namespace) -> list[Table]:
    """The tables of the results that the arguments ask for; a Misuse where there are none."""
    everything = read(arguments.results)
    runs = [run for run in everything if run.result["protocol"] == arguments.protocol]
    others = Counter(run.result["protocol"] for run in everything if run.result["protocol"] != arguments.protocol)
    counts = ", ".join(f"{count} of protocol {protocol}" for protocol, count in sorted(others.items()))
    if not runs:
        raise Misuse(
            f"no result in {arguments.results} is of protocol {arguments.protocol}; there are {counts}, which "
            "--protocol shows"
        )
    if arguments.suite is not None:
        runs = _of_suites(runs, arguments.suite)
        if not runs:
            raise Misuse(
                f"no result in {arguments.results} belongs to the suite {' or '.join(arguments.suite)}; run it first"
            )
    weights = arguments.weights
    if weights is not None and not any((run.result["weights"] or "").startswith(weights) for run in runs):
        found = sorted({run.result["weights"][:8] for run in runs if run.result["weights"]})
        raise Misuse(f"no result is of --weights {weights}; there are {', '.join(found) or 'none with weights'}")
    remarks = [f"Left out, since figures of other protocols can't stand beside these: {counts}."] if others else []
    return tables(_of_fields(runs, arguments), weights, remarks)


def selects(arguments: argparse.Namespace) -> bool:
    """Whether they ask for less than all results of the present protocol and the newest weights."""
    usual = {"protocol": PROTOCOL}
    return any(getattr(arguments, name) != usual.get(name) for name in OPTIONS)


def read(folder: str | Path) -> list[Run]:
    """Every measured result in the store, by file name; a Misuse where there is none."""
    runs = [Run(path, result) for path, result in results.entries(folder, "run")]
    if not runs:
        raise Misuse(f"no results in {folder}; make some first: python -m benchmarks run --suite smoke")
    return runs


def _of_suites(runs: list[Run], names: list[str]) -> list[Run]:
    """Results that a run of these suites made, or whose experiment is also one of theirs."""
    keys = {experiment.key for name in names for experiment in suites.load(name)}
    return [run for run in runs if run.result["suite"] in names or run.result["key"] in keys]


def _of_fields(runs: list[Run], arguments: argparse.Namespace) -> Iterable[Run]:
    chosen = runs
    for option, field in FIELDS.items():
        wanted = getattr(arguments, option)
        if wanted is None:
            continue
        known = {run.experiment[field] for run in runs}
        if missing := [name for name in wanted if name not in known]:
            raise Misuse(f"no result has {field} {missing}; there are {', '.join(map(str, sorted(known)))}")
        chosen = [run for run in chosen if run.experiment[field] in wanted]
    if not chosen:
        raise Misuse(f"none of the {len(runs)} results in {arguments.results} fits all of the selection; ask for less")
    return chosen


def output(arguments: argparse.Namespace) -> Path:
    folder: Path = arguments.results if arguments.output is None else arguments.output
    with misuse("--output is no folder that can be written into: ", OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def command(name: str, arguments: argparse.Namespace, **more: Any) -> str:
    """The command line that gives the same again."""
    words = ["python", "-m", "benchmarks", name]
    usual = {"results": results.FOLDER, "protocol": PROTOCOL}
    given = {key: getattr(arguments, key) for key in ("results", "output", *OPTIONS)}
    for option, value in {**given, **more}.items():
        if value is not None and value != usual.get(option):
            words += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)
