"""`python -m benchmarks run`: every experiment of a suite that has no result yet, each in a process of its own.

Settings are chosen on the validation part first, once for all seeds and test strides. What is finished is in the
results folder, whole; the same command goes on where a stopped one ended. An experiment that fails doesn't stop the
others. Seconds are wall time; the peak memory is that of the process which fits and forecasts, imports included.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import results, suites
from benchmarks.experiments import Budget, Experiment
from benchmarks.processes import ProcessFailed, isolated

FAILED, MISUSED, STOPPED = 1, 2, 130  # exit codes
SELECTORS = {"only": "model", "datasets": "dataset", "horizons": "horizon", "seeds": "seed"}  # option -> of what
Failures = list[tuple[Experiment, str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", required=True, choices=sorted(suites.SUITES), help="what to run, see suites.py")
    parser.add_argument("--data", help="folder with the data files; default: DARTS_MSFT_DATA, then Darts' cache")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder that the results are added to")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="these models of the suite alone")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="these alone, or the suite on a .toml's data")
    parser.add_argument("--horizons", nargs="+", type=int, metavar="STEPS", help="these horizons of the suite alone")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these seeds of the suite alone")
    parser.add_argument("--stride", type=int, help="steps between LSF's test windows, for a quick look (see `table`)")
    parser.add_argument("--dry-run", action="store_true", help="show what would be run, and run nothing")


def main(arguments: argparse.Namespace) -> int:
    """Runs what is missing; the exit code is 0 where every experiment of the selection has its result then."""
    try:
        chosen = select(suites.load(arguments.suite), arguments)
    except ValueError as error:
        print(f"python -m benchmarks run: {error}", file=sys.stderr)
        return MISUSED
    pending, failures = split(chosen, arguments)
    if arguments.dry_run:
        for experiment in pending:
            print(f"to run  {experiment.key[:10]}  {experiment}")
        print(f"{len(chosen)} experiments, {len(pending)} of them to run")
        return report(failures)
    print(f"{len(chosen)} experiments, {len(chosen) - len(pending) - len(failures)} of them done before", flush=True)
    return run_all(pending, arguments, failures)


def select(experiments: Sequence[Experiment], arguments: argparse.Namespace) -> list[Experiment]:
    """The part of a suite that was asked for; a name that selects nothing is a ValueError.

    The path of a TOML takes the place of the suite's data sets: its experiments with those of the user.
    """
    own = [name for name in arguments.datasets or () if name.endswith(".toml")]
    on_own = [replace(experiment, dataset=name) for name in own for experiment in experiments]
    everything = [*experiments, *{experiment.key: experiment for experiment in on_own}.values()]
    chosen = everything
    for option, name in SELECTORS.items():
        wanted = getattr(arguments, option)
        if wanted is None:
            continue
        present = {getattr(experiment, name) for experiment in everything}
        if missing := [value for value in wanted if value not in present]:
            raise ValueError(
                f"--{option} {' '.join(map(str, missing))}: the suite {arguments.suite!r} has "
                f"{', '.join(map(str, sorted(present)))} alone"
            )
        chosen = [experiment for experiment in chosen if getattr(experiment, name) in wanted]
    if not chosen:
        raise ValueError(f"no experiment of the suite fits all of --{', --'.join(SELECTORS)}; ask for fewer of them")
    if arguments.stride is None:
        return chosen
    return [replace(each, test_stride=arguments.stride) if each.family == "lsf" else each for each in chosen]


def split(experiments: Sequence[Experiment], arguments: argparse.Namespace) -> tuple[list[Experiment], Failures]:
    """What has no result yet, and what can't be told (the data that a result is of are not there) with the reason."""
    pending, failures = [], []
    for experiment in experiments:
        try:
            if find_result(arguments, experiment) is None:
                pending.append(experiment)
        except Exception as error:
            failures.append((experiment, reason_of(error)))
    return pending, failures


def run_all(experiments: Sequence[Experiment], arguments: argparse.Namespace, failures: Failures) -> int:
    """Runs one after the other; reports what failed, here or before, at the end, and returns the exit code."""
    failures, stopped = list(failures), False
    with tqdm(total=len(experiments), unit="experiment", smoothing=0, file=sys.stderr) as bar:
        try:
            for experiment in experiments:
                bar.set_description(str(experiment))
                try:
                    bar.write(line_of(run_one(experiment, arguments)))
                except Exception as error:
                    failures.append((experiment, reason_of(error)))
                    bar.write(f"FAILED {experiment}")
                bar.update()
        except KeyboardInterrupt:
            stopped = True
    code = report(failures)
    if stopped:
        print("stopped; what is finished is stored, and the same command goes on from there", file=sys.stderr)
    return STOPPED if stopped else code


def report(failures: Failures) -> int:
    """Prints what failed and why; returns the exit code."""
    for experiment, reason in failures:
        print(f"\nFAILED {experiment}\n{reason.rstrip()}", file=sys.stderr)
    if failures:
        print(f"\n{len(failures)} experiments failed, see above; the same command tries them again", file=sys.stderr)
    return FAILED if failures else 0


def reason_of(error: Exception) -> str:
    return str(error) if isinstance(error, ProcessFailed) else f"{type(error).__name__}: {error}"


def run_one(experiment: Experiment, arguments: argparse.Namespace) -> dict[str, Any]:
    """Chooses where nothing is chosen yet, measures, and stores both."""
    from benchmarks import jobs

    choice = find_choice(arguments, experiment)
    if choice is None:
        choice = jobs.only_choice(experiment, arguments.data)
        if choice is None:
            choice = isolated(jobs.choose, experiment, arguments.data)
        results.add(arguments.results, choice)
    result: dict[str, Any] = isolated(jobs.test, experiment, choice["chosen"], arguments.data)
    results.add(arguments.results, result)
    return result


def line_of(result: Mapping[str, Any]) -> str:
    figures = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    seconds = sum(result["seconds"].values())
    return f"{Experiment.from_dict(result['experiment'])}  {figures}  {seconds:.0f} s"


# --------------------------------------------------------------------------------------------------- what is there


def find_result(arguments: argparse.Namespace, experiment: Experiment) -> dict[str, Any] | None:
    return _find("run", experiment.key, arguments, experiment)


def find_choice(arguments: argparse.Namespace, experiment: Experiment) -> dict[str, Any] | None:
    return _find("choice", experiment.choice_key, arguments, experiment)


def _find(kind: str, key: str, arguments: argparse.Namespace, experiment: Experiment) -> dict[str, Any] | None:
    """The result of the key from the data and weights at hand; these are read only where the key has a result."""
    if results.find(arguments.results, kind, key) is None:
        return None
    data = _data_hash(experiment.dataset, experiment.family, arguments.data)
    weights = _weights_hash(experiment.model, json.dumps(dict(experiment.options)))
    return results.find(arguments.results, kind, key, data_hash=data, weights=weights)


@functools.cache
def _data_hash(name: str, family: str, folder: str | None) -> str:
    from benchmarks import datasets

    return datasets.load(name, family, folder).hash


@functools.cache
def _weights_hash(model: str, options: str) -> str | None:
    from benchmarks.models import load_forecaster

    return load_forecaster(model, json.loads(options), Budget()).weights()
