"""`python -m benchmarks run`: every experiment of a suite that has no result yet, each in a process of its own."""

from __future__ import annotations

import functools
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.errors import Misuse, WeightsMissing, misuse
from benchmarks.models import Budget, load_forecaster
from benchmarks.run import store, suites
from benchmarks.run.experiments import Experiment
from benchmarks.run.provenance import ProcessFailed, commit, is_dirty, isolated, preload, same_code

FAILED, STOPPED = 1, 130  # exit codes
_MODELS = (f"benchmarks.models.{name}" for name in ("ours", "trained", "untrained"))
PRELOADED = ("benchmarks.run.measures", "darts_msft.backbones.moirai", *_MODELS)  # all code that a figure rests on
Undone = list[tuple[Experiment, Exception]]  # experiments without a result, and why


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes, and what its results say of it."""

    results: Path
    data: str | None
    dirty: bool
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
    option: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="for every model that has it")] = None,
    dirty: Annotated[bool, typer.Option(help="keep results of uncommitted code beside the others")] = False,
    dry_run: Annotated[bool, typer.Option(help="show what would be run, and run nothing")] = False,
) -> None:
    """Measure what has no result yet.

    Settings are chosen on the validation part first, once for all seeds. The same command goes on where a stopped one
    ended, and several at once share the work. What needs weights that can't be had is skipped.

    A .toml describes data of your own (the head of benchmarks/data/__init__.py shows one):
    python -m benchmarks run --suite lsf --datasets sales.toml --horizons 28 --results results
    """
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    place = Place(results, data, dirty, suite, command, "" if dry_run else commit())
    wanted = {"family": family, "model": only, "dataset": datasets, "horizon": horizons, "seed": seeds}
    chosen = select(with_options(suites.load(suite), option or []), wanted, stride)
    if dry_run:
        pending, undone = split(chosen, place)
        for experiment in pending:
            print(f"to run  {experiment.key[:10]}  {experiment}")
        print(f"{len(chosen)} experiments, {len(pending)} of them to run")
        raise typer.Exit(report(undone))
    check_folder(chosen, place)
    check_clean(place)
    preload(PRELOADED)
    pending, undone = split(chosen, place)
    print(f"{len(chosen)} experiments, {len(chosen) - len(pending) - len(undone)} of them done before", flush=True)
    raise typer.Exit(run_all(pending, place, undone))


def check_folder(chosen: Sequence[Experiment], place: Place) -> None:
    """A Misuse where it can't be one, or is the repository's own and the data are a user's."""
    own = [each.dataset for each in chosen if each.dataset.endswith(".toml")]
    if own and store.is_own(place.results):
        raise Misuse(f"--datasets {own[0]}: your own data's results don't belong to the published ones; give --results")
    with misuse("--results is no folder that can be written into: ", OSError):
        place.results.mkdir(parents=True, exist_ok=True)


def check_clean(place: Place) -> None:
    """A Misuse where the code isn't that of the beginning, or is uncommitted and the results are to be published."""
    if not same_code(place.commit, commit()):
        raise Misuse("the code is of another commit than at the beginning; start again")
    if is_dirty() and store.is_own(place.results) and not place.dirty:
        raise Misuse("the tree has uncommitted changes; commit them, or give another folder by --results, or --dirty")


def with_options(experiments: Sequence[Experiment], words: Sequence[str]) -> list[Experiment]:
    """The suite with these options ("name=value"), each given to all models that know it."""
    given = dict(option_of(word) for word in words)
    known = {each.model: list(load_forecaster(each.model, {}, Budget()).defaults) for each in experiments if given}
    if useless := [name for name in given if not any(name in options for options in known.values())]:
        names = dict.fromkeys(name for options in known.values() for name in options)
        raise Misuse(f"--option {', '.join(useless)}: no model of the suite takes it; they take {', '.join(names)}")
    own = {model: {n: v for n, v in given.items() if n in options} for model, options in known.items()}
    return _once(replace(each, options={**each.options, **own.get(each.model, {})}) for each in experiments)


def option_of(word: str) -> tuple[str, Any]:
    """`rank=4` as ("rank", 4): a value is JSON; one that doesn't look like it is a string."""
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise Misuse(f"--option {word} is not allowed; give NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError as error:
        if not value or value[0] in '[{"':
            raise Misuse(f"--option {word}: {value!r} is no JSON ({error}); give a list as [1,2] in quotes") from error
        return name, value


def select(
    experiments: Sequence[Experiment], wanted: Mapping[str, Sequence[Any] | None], stride: int | None
) -> list[Experiment]:
    """The part of a suite that was asked for, by fields of experiments; a .toml's path stands for its data sets."""
    tomls = [name for name in wanted["dataset"] or () if name.endswith(".toml")]
    own = _once(
        replace(each, dataset=toml, horizon=horizon, test_stride=1 if each.family == "pf" else each.test_stride)
        for toml in tomls
        for each in experiments
        for horizon in wanted["horizon"] or [each.horizon]
    )
    chosen = [*experiments, *own]
    for field, values in wanted.items():
        for value in values or ():
            if not any(getattr(each, field) == value for each in chosen):
                there = sorted({getattr(each, field) for each in chosen})
                raise Misuse(f"{field} {value} is not in the suite; it has {', '.join(map(str, there))}")
        chosen = [each for each in chosen if not values or getattr(each, field) in values]
    if stride is None:
        return chosen
    if all(each.family != "lsf" for each in chosen):
        raise Misuse(f"--stride {stride} is for the family lsf; windows of pf follow one another; leave it out")
    return [replace(each, test_stride=stride) if each.family == "lsf" else each for each in chosen]


def _once(experiments: Iterable[Experiment]) -> list[Experiment]:
    """By all that they have: keys don't tell places apart."""
    return list({json.dumps(each.to_dict(), sort_keys=True): each for each in experiments}.values())


def split(experiments: Sequence[Experiment], place: Place) -> tuple[list[Experiment], Undone]:
    """What has no result yet, and what can't have one or be told (data or weights are not there, or not as needed)."""
    pending, undone, wrong = list[Experiment](), Undone(), dict[tuple[str, str], Exception]()
    places = dict.fromkeys((each.dataset, each.family) for each in experiments)
    for name, family in places:
        try:
            data_hash(name, family, place.data)
        except (OSError, ValueError) as error:
            wrong[name, family] = error
    if len(wrong) == len(places):
        raise Misuse(f"no data set can be used; {'; '.join(dict.fromkeys(map(str, wrong.values())))}")
    for experiment in experiments:
        try:
            if (experiment.dataset, experiment.family) in wrong:
                raise wrong[experiment.dataset, experiment.family]
            if find("run", experiment.key, place, experiment) is None:
                pending.append(experiment)
        except Exception as error:
            undone.append((experiment, error))
    return pending, undone


def run_all(experiments: Sequence[Experiment], place: Place, undone: Undone) -> int:
    """Runs one after the other, what another process is at last; reports what is undone, and returns the exit code."""
    queue, code, why = [(experiment, False) for experiment in experiments], 0, "stopped"
    try:
        for position, (experiment, wait) in enumerate(queue, 1):  # grows meanwhile
            check_clean(place)
            print(f"[{position}/{len(queue)}] {experiment}", file=sys.stderr, flush=True)
            try:
                result = run_one(experiment, place, wait)
            except Exception as error:
                undone.append((experiment, error))
                continue
            if result is None:
                queue.append((experiment, True))
                continue
            figures = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
            print(f"{experiment}  {figures}  {sum(result['seconds'].values()):.0f} s", flush=True)
    except KeyboardInterrupt:
        code = STOPPED
    except Misuse as error:  # of `check_clean`: those of an experiment are failures
        code, why = FAILED, f"stopped: {error}"
    failed = report(undone)
    if code:
        print(f"{why}; what is finished is stored, and the same command goes on from there", file=sys.stderr)
    return code or failed


def report(undone: Undone) -> int:
    """Prints what failed or was skipped for want of weights, and why; returns the exit code."""
    for experiment, error in undone:
        what = "skipped" if isinstance(error, WeightsMissing) else "FAILED"
        own = isinstance(error, ProcessFailed | WeightsMissing)  # whose text says it all
        print(f"{what} {experiment}: {'' if own else f'{type(error).__name__}: '}{error}", file=sys.stderr)
    if failures := sum(not isinstance(error, WeightsMissing) for _, error in undone):
        print(f"{failures} experiments failed, see above; the same command tries them again", file=sys.stderr)
    return FAILED if failures else 0


def run_one(experiment: Experiment, place: Place, wait: bool) -> dict[str, Any] | None:
    """The result, made and stored where there is none; None where another process is at it and `wait` is False."""
    from benchmarks.run import measures

    with store.claim(place.results, "run", experiment.key, wait) as ours:
        result = find("run", experiment.key, place, experiment) if ours else None
        if ours and result is None and (choice := choice_of(experiment, place, wait)) is not None:
            result = isolated(measures.test, experiment, choice, place.data)
            result |= {"suite": place.suite, "command": place.command}
            store.add(place.results, result, place.dirty)
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
            choice = isolated(measures.choose, experiment, place.data, led_by, place.results, place.dirty)
            store.add(place.results, choice, place.dirty)
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
