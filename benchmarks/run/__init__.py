"""`python -m benchmarks run`: every experiment of a suite that has no result yet, each in a process of its own."""

from __future__ import annotations

import functools
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.errors import Misuse
from benchmarks.run import store, suites
from benchmarks.run.experiments import Experiment
from benchmarks.run.provenance import commit, is_dirty, isolated, preload, same_code

FAILED, STOPPED = 1, 130  # exit codes
INSTALL = "; pip install 'darts-msft[baselines,benchmarks,peft]'"
_MODELS = (f"benchmarks.models.{name}" for name in ("ours", "trained", "untrained"))
PRELOADED = ("benchmarks.run.measures", "darts_msft.backbones.moirai", *_MODELS)  # all code that a figure rests on


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes, and what its results say of it."""

    results: Path
    data: str | None
    suite: str
    command: str
    commit: str


def main(
    suite: Annotated[str, typer.Option(help=f"what to run: {', '.join(suites.SUITES)}")],
    data: Annotated[str | None, typer.Option(help="folder of data files; else DARTS_MSFT_DATA, Darts' cache")] = None,
    results: Annotated[Path, typer.Option(help="folder that the results are added to")] = store.FOLDER,
    family: Annotated[list[str] | None, typer.Option(help="this family alone; like the next four repeatable")] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="MODEL", help="this model alone")] = None,
    datasets: Annotated[list[str] | None, typer.Option(help="this data set alone, or a .toml in their place")] = None,
    horizons: Annotated[list[int] | None, typer.Option(min=1, help="this horizon alone; on a .toml's data any")] = None,
    seeds: Annotated[list[int] | None, typer.Option(min=0, help="this seed alone")] = None,
    stride: Annotated[int | None, typer.Option(min=1, help="steps between lsf's test windows: a quick look")] = None,
    dry_run: Annotated[bool, typer.Option(help="show what would be run, and run nothing")] = False,
) -> None:
    """Measure what has no result yet.

    Settings are chosen on the validation part first, once for all seeds. The same command goes on where a stopped one
    ended, and several at once share the work.

    A .toml describes data of your own (the head of benchmarks/data/__init__.py shows one):
    python -m benchmarks run --suite lsf --datasets sales.toml --horizons 28 --results results
    """
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    place = Place(results, data, suite, command, "" if dry_run else commit())
    wanted = {"family": family, "model": only, "dataset": datasets, "horizon": horizons, "seed": seeds}
    chosen = select(suites.load(suite), wanted, stride)
    if dry_run:
        pending = [each for each in chosen if find("run", each.key, place, each) is None]
        for experiment in pending:
            print(f"to run  {experiment.key[:10]}  {experiment}")
        print(f"{len(chosen)} experiments, {len(pending)} of them to run")
        return
    if store.is_own(results) and any(each.dataset.endswith(".toml") for each in chosen):
        raise Misuse("your own data's results don't belong to the published ones; give --results")
    results.mkdir(parents=True, exist_ok=True)
    check_clean(place)
    preload(PRELOADED)
    raise typer.Exit(run_all(chosen, place))


def check_clean(place: Place) -> None:
    """A Misuse where the code isn't that of the beginning, or is uncommitted and the results are to be published."""
    if not same_code(place.commit, commit()):
        raise Misuse("the code is of another commit than at the beginning; start again")
    if is_dirty() and store.is_own(place.results):
        raise Misuse("the tree has uncommitted changes; commit them, or give another folder by --results")


def select(
    experiments: Sequence[Experiment], wanted: Mapping[str, Sequence[Any] | None], stride: int | None
) -> list[Experiment]:
    """The part of a suite that was asked for, by fields of experiments; a .toml's path stands for its data sets."""
    own = [
        replace(each, dataset=toml, horizon=horizon)
        for toml in wanted["dataset"] or ()
        if toml.endswith(".toml")
        for each in experiments
        for horizon in wanted["horizon"] or [each.horizon]
    ]
    chosen = [*experiments, *{str(each.to_dict()): each for each in own}.values()]  # keys don't tell places apart
    for field, values in wanted.items():
        there = {getattr(each, field) for each in chosen}
        if unknown := set(values or ()) - there:
            names = ", ".join(map(str, sorted(there)))
            raise Misuse(f"{field} {', '.join(map(str, unknown))} is not in the suite; it has {names}")
        chosen = [each for each in chosen if not values or getattr(each, field) in values]
    if stride is not None and all(each.family == "pf" for each in chosen):
        raise Misuse("--stride is of the family lsf; the test windows of pf are those of its papers: leave it out")
    return chosen if stride is None else [replace(each, test_stride=stride) for each in chosen]


def run_all(experiments: Sequence[Experiment], place: Place) -> int:
    """Runs one after the other, what another process is at last; says at the end what failed; returns the exit code."""
    queue, failed, code = [(experiment, False) for experiment in experiments], list[str](), 0
    try:
        for position, (experiment, wait) in enumerate(queue, 1):  # grows meanwhile
            check_clean(place)
            print(f"[{position}/{len(queue)}] {experiment}", file=sys.stderr, flush=True)
            try:
                result = run_one(experiment, place, wait)
            except Exception as error:
                if not isinstance(error, OSError):  # whose text says it all
                    traceback.print_exc()
                remedy = INSTALL if isinstance(error, ModuleNotFoundError) else ""
                failed.append(f"FAILED {experiment}: {type(error).__name__}: {error}{remedy}")
                continue
            if result is None:
                queue.append((experiment, True))
                continue
            figures = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
            print(f"{experiment}  {figures}  {sum(result['seconds'].values()):.0f} s", flush=True)
    except (KeyboardInterrupt, Misuse) as error:  # the latter of `check_clean`
        code = STOPPED if isinstance(error, KeyboardInterrupt) else FAILED
        failed.append(f"stopped {error}; what is finished is stored, and the same command goes on from there")
    for line in failed:
        print(line, file=sys.stderr)
    return code or (FAILED if failed else 0)


def run_one(experiment: Experiment, place: Place, wait: bool) -> dict[str, Any] | None:
    """The result, made and stored where there is none; None where another process is at it and `wait` is False."""
    from benchmarks.run import measures

    with store.claim(place.results, "run", experiment.key, wait) as ours:
        result = find("run", experiment.key, place, experiment) if ours else None
        if ours and result is None and (choice := choice_of(experiment, place, wait)) is not None:
            result = isolated(measures.test, experiment, choice, place.data)
            result |= {"suite": place.suite, "command": place.command}
            store.add(place.results, result)
    return result


def choice_of(experiment: Experiment, place: Place, wait: bool) -> dict[str, Any] | None:
    """The experiment's choice, and first the one that it follows; made where it isn't in the store. None as above."""
    from benchmarks.run import measures

    leader = measures.leader_of(experiment)
    led_by = None if leader is None else choice_of(leader, place, wait)
    if leader is not None and led_by is None:
        return None
    key, same = experiment.choice_key, {"followed": measures.followed(experiment, led_by)}
    with store.claim(place.results, "choice", key, wait) as ours:
        choice = find("choice", key, place, experiment, **same) if ours else None
        if ours and choice is None:
            choice = isolated(measures.choose, experiment, place.data, led_by, place.results)
            store.add(place.results, choice)
    return choice


def find(kind: str, key: str, place: Place, experiment: Experiment, **same: Any) -> dict[str, Any] | None:
    """The entry of the key from what is at hand: data, weights, protocol, defaults; read only where the key has one."""
    if store.find(place.results, kind, key) is None:
        return None
    from benchmarks.run import measures

    data = data_hash(experiment.dataset, experiment.family, place.data)
    return store.find(place.results, kind, key, data_hash=data, **measures.standing(experiment), **same)


@functools.cache
def data_hash(name: str, family: str, folder: str | None) -> str:
    from benchmarks import data

    return data.load(name, family, folder).hash
