"""`python -m benchmarks run`: every experiment of a suite that has no result yet, each in a process of its own.

Settings are chosen on the validation part first, once for all seeds and test strides. What is finished is in the
results folder, whole; the same command goes on where a stopped one ended, and several at once share the work. An
experiment that fails doesn't stop the others; one whose pretrained weights can't be had on this machine is skipped.
Seconds are wall time, processor seconds those of all threads; the peak memory is that of the process which fits and
forecasts, imports included.

A user's own data (a .toml) take the place of the suite's, and `--horizons` that of its horizons:

    python -m benchmarks run --suite lsf --datasets sales.toml --horizons 28 --results results

where sales.toml says, at the least (the head of benchmarks/data/datasets.py has the rest):

    csv = "sales.csv"       # relative to the .toml
    time = "date"           # column; all others are forecast
    frequency = "h"         # pandas' alias
    season = 24             # steps
    split = {train = 0.7, validation = 0.1, test = 0.2}
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.arguments import seed, whole
from benchmarks.data.registry import REGISTRY
from benchmarks.errors import Misuse, WeightsMissing, misuse
from benchmarks.run import store as results
from benchmarks.run import suites
from benchmarks.run.experiments import Budget, Experiment
from benchmarks.run.processes import ProcessFailed, isolated
from benchmarks.run.provenance import is_dirty
from benchmarks.run.usable import data_hash, unusable

FAILED, STOPPED = 1, 130  # exit codes
SELECTORS = {  # option -> of what
    "family": "family",
    "only": "model",
    "datasets": "dataset",
    "horizons": "horizon",
    "seeds": "seed",
}


@dataclass(frozen=True)
class Undone:
    """An experiment without a result, and why. Being skipped is no failure."""

    experiment: Experiment
    reason: str
    skipped: bool

    @classmethod
    def of(cls, experiment: Experiment, error: Exception) -> Undone:
        if isinstance(error, WeightsMissing):
            return cls(experiment, str(error), skipped=True)
        own_account = isinstance(error, ProcessFailed)
        return cls(experiment, str(error) if own_account else f"{type(error).__name__}: {error}", skipped=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", required=True, choices=sorted(suites.SUITES), help="what to run, see suites.py")
    parser.add_argument("--data", help="folder with the data files; default: DARTS_MSFT_DATA, then Darts' cache")
    parser.add_argument("--results", type=Path, default=results.FOLDER, help="folder that the results are added to")
    parser.add_argument("--family", nargs="+", choices=list(REGISTRY), help="this family of the suite alone")
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="these models of the suite alone")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="these alone, or the suite on a .toml's data")
    parser.add_argument(
        "--horizons",
        nargs="+",
        type=whole,
        metavar="STEPS",
        help="these horizons of the suite alone; on a .toml's data any, in place of the suite's",
    )
    parser.add_argument("--seeds", nargs="+", type=seed, metavar="SEED", help="these seeds of the suite alone")
    parser.add_argument("--stride", type=whole, help="steps between LSF's test windows, for a quick look (see `table`)")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option for every model of the suite that has one of this name, ours and the baselines alike (--only "
        "narrows them), as JSON or as it stands, say backbone=my/checkpoint; repeatable",
    )
    parser.add_argument("--dirty", action="store_true", help="keep results of uncommitted code beside the others")
    parser.add_argument("--dry-run", action="store_true", help="show what would be run, and run nothing")


def main(arguments: argparse.Namespace) -> int:
    """Runs what is missing; the exit code is 0 where every experiment of the selection has its result then.

    Those that had to be skipped don't change it.
    """
    chosen = select(with_options(suites.load(arguments.suite), arguments.option), arguments)
    if not arguments.dry_run:
        check_folder(chosen, arguments)
        check_clean(arguments)
    pending, undone = split(chosen, arguments)
    if arguments.dry_run:
        for experiment in pending:
            print(f"to run  {experiment.key[:10]}  {experiment}")
        print(f"{len(chosen)} experiments, {len(pending)} of them to run")
        return report(undone)
    print(f"{len(chosen)} experiments, {len(chosen) - len(pending) - len(undone)} of them done before", flush=True)
    return run_all(pending, arguments, undone)


def check_folder(chosen: Sequence[Experiment], arguments: argparse.Namespace) -> None:
    """A Misuse where the results' folder can't be one, or is the repository's own and the data are a user's."""
    own = [each.dataset for each in chosen if each.dataset.endswith(".toml")]
    if own and results.is_own(arguments.results):
        raise Misuse(
            f"--datasets {own[0]}: results of your own data have no place in {results.FOLDER}, whose tables are "
            "published; give another folder by --results, to `table`, `plot` and `report` as well"
        )
    with misuse("--results is no folder that can be written into: ", OSError):
        arguments.results.mkdir(parents=True, exist_ok=True)


def check_clean(arguments: argparse.Namespace) -> None:
    """A Misuse without a git checkout, or where the store would refuse what is measured now, as of uncommitted code."""
    if is_dirty() and results.is_own(arguments.results) and not arguments.dirty:
        raise Misuse("the tree has uncommitted changes; commit them, or give another folder by --results, or --dirty")


# ------------------------------------------------------------------------------------------------- what is asked for


def with_options(experiments: Sequence[Experiment], words: Sequence[str]) -> list[Experiment]:
    """The suite with these options ("name=value"), each given to all models that know it.

    What that makes equal is there once; an option that no model of the suite takes is a Misuse.
    """
    given = dict(option_of(word) for word in words)
    if not given:
        return list(experiments)
    known = {model: _options_of(model) for model in dict.fromkeys(each.model for each in experiments)}
    if useless := [name for name in given if not any(name in options for options in known.values())]:
        raise Misuse(
            f"--option {', '.join(useless)}: no model of the suite takes it; they take "
            f"{', '.join(dict.fromkeys(name for options in known.values() for name in options)) or 'none'}"
        )
    return _once(
        replace(each, options={**each.options, **{n: v for n, v in given.items() if n in known[each.model]}})
        for each in experiments
    )


def _options_of(model: str) -> Sequence[str]:
    """None where the model's package is missing: its experiments fail and say so."""
    from benchmarks.models import load_forecaster

    try:
        return tuple(load_forecaster(model, {}, Budget()).defaults)
    except ModuleNotFoundError:
        return ()


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


def select(experiments: Sequence[Experiment], arguments: argparse.Namespace) -> list[Experiment]:
    """The part of a suite that was asked for; a name that selects nothing is a Misuse.

    The path of a TOML takes the place of the suite's data sets: its experiments with those of the user, at whatever
    horizons are asked for. Only beside registered data sets these have to be the suite's.
    """
    own = [name for name in arguments.datasets or () if name.endswith(".toml")]
    present = {name: {getattr(each, name) for each in experiments} for name in SELECTORS.values()}
    present["dataset"] |= set(own)
    if own == arguments.datasets:
        present["horizon"] |= set(arguments.horizons or ())
    chosen = [*experiments, *_on_own_data(experiments, own, arguments.horizons)]
    for option, name in SELECTORS.items():
        wanted = getattr(arguments, option)
        if wanted is None:
            continue
        if missing := [value for value in wanted if value not in present[name]]:
            hint = "; others are for --datasets that are all a .toml" if option == "horizons" else ""
            raise Misuse(
                f"--{option} {' '.join(map(str, missing))}: the suite {arguments.suite!r} has "
                f"{', '.join(map(str, sorted(present[name])))} alone{hint}"
            )
        chosen = [experiment for experiment in chosen if getattr(experiment, name) in wanted]
    if not chosen:
        raise Misuse(f"no experiment of the suite fits all of --{', --'.join(SELECTORS)}; ask for fewer of them")
    if arguments.stride is None:
        return chosen
    if all(each.family != "lsf" for each in chosen):
        raise Misuse(
            f"--stride {arguments.stride}: nothing that was asked for is of the family lsf; windows of pf always "
            "follow one another without overlap; leave --stride out"
        )
    return [replace(each, test_stride=arguments.stride) if each.family == "lsf" else each for each in chosen]


def _on_own_data(
    experiments: Sequence[Experiment], tomls: Sequence[str], horizons: Sequence[int] | None
) -> list[Experiment]:
    """The suite's experiments on a user's data sets, each at all of these horizons (None: at the suite's)."""
    return _once(
        replace(
            each,
            dataset=toml,
            horizon=horizon,
            test_stride=1 if each.family == "pf" else each.test_stride,  # of "pf" it becomes the horizon
        )
        for toml in tomls
        for each in experiments
        for horizon in horizons or [each.horizon]
    )


def command(experiment: Experiment, arguments: argparse.Namespace) -> str:
    """The command line that measures it again, into a folder of its own.

    It may measure more than this experiment: the selectors don't tell a suite's own options apart.
    """
    words = ["--results", "again", "--suite", arguments.suite]
    words += ["--family", experiment.family, "--only", experiment.model]
    words += ["--datasets", experiment.dataset, "--horizons", experiment.horizon, "--seeds", experiment.seed]
    words += [] if arguments.stride is None or experiment.family == "pf" else ["--stride", arguments.stride]
    for word in arguments.option:
        words += ["--option", word]
    return shlex.join(["python", "-m", "benchmarks", "run", *map(str, words)])


def _once(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Keys don't tell places apart, so they are no help here."""
    return list({json.dumps(each.to_dict(), sort_keys=True): each for each in experiments}.values())


def split(experiments: Sequence[Experiment], arguments: argparse.Namespace) -> tuple[list[Experiment], list[Undone]]:
    """What has no result yet, and what can't have one or be told (data or weights are not there, or not as needed)."""
    pending, undone, wrong = [], [], unusable(experiments, arguments.data)
    for experiment in experiments:
        try:
            if (error := wrong.get((experiment.dataset, experiment.family))) is not None:
                raise error
            if find_result(arguments, experiment) is None:
                pending.append(experiment)
        except Exception as error:
            undone.append(Undone.of(experiment, error))
    return pending, undone


# ------------------------------------------------------------------------------------------------------- what is done


def run_all(experiments: Sequence[Experiment], arguments: argparse.Namespace, before: Sequence[Undone]) -> int:
    """Runs one after the other; reports what is left undone, here or before, at the end, and returns the exit code.

    What another process is at comes last: then there is nothing else to do but wait for it. Code that changes meanwhile
    ends the run before the next experiment.
    """
    undone, code, elsewhere = list(before), 0, list[Experiment]()
    shown = {"unit": "experiment", "smoothing": 0, "file": sys.stderr, "disable": not experiments}
    with tqdm(total=len(experiments), **shown) as bar:

        def attempt(experiment: Experiment, wait: bool) -> None:
            check_clean(arguments)
            bar.set_description(str(experiment))
            try:
                result = run_one(experiment, arguments, wait)
            except Exception as error:
                undone.append(Undone.of(experiment, error))
                bar.write(f"{'skipped' if undone[-1].skipped else 'FAILED'} {experiment}")
            else:
                if result is None:
                    elsewhere.append(experiment)
                    return
                bar.write(line_of(result))
            bar.update()

        try:
            for experiment in experiments:
                attempt(experiment, wait=False)
            for experiment in list(elsewhere):
                attempt(experiment, wait=True)
        except KeyboardInterrupt:
            code, why = STOPPED, "stopped"
        except Misuse as error:  # of `check_clean`: those of an experiment are failures
            code, why = FAILED, f"stopped: {error}"
    failed = report(undone)
    if code:
        print(f"{why}; what is finished is stored, and the same command goes on from there", file=sys.stderr)
    return code or failed


def report(undone: Sequence[Undone]) -> int:
    """Prints what was skipped, what failed, and why; returns the exit code."""
    for each in undone:
        if each.skipped:
            print(f"{each.experiment}  skipped: {each.reason}", file=sys.stderr)
    failures = [each for each in undone if not each.skipped]
    for each in failures:
        print(f"\nFAILED {each.experiment}\n{each.reason.rstrip()}", file=sys.stderr)
    if failures:
        print(f"\n{len(failures)} experiments failed, see above; the same command tries them again", file=sys.stderr)
    return FAILED if failures else 0


def run_one(experiment: Experiment, arguments: argparse.Namespace, wait: bool) -> dict[str, Any] | None:
    """Chooses where nothing is chosen yet, measures, and stores both; a result that has come meanwhile is taken.

    None where another process is at it or at its choice; with `wait` that one's end is waited for.
    """
    from benchmarks.run import jobs

    with results.claim(arguments.results, "run", experiment.key, wait) as ours:
        if not ours:
            return None
        result = find_result(arguments, experiment)
        if result is None:
            choice = choice_of(experiment, arguments, wait)
            if choice is None:
                return None
            result = isolated(jobs.test, experiment, choice, arguments.data)
            result |= {"suite": arguments.suite, "command": command(experiment, arguments)}
            results.add(arguments.results, result, arguments.dirty)
        return result


def choice_of(experiment: Experiment, arguments: argparse.Namespace, wait: bool) -> dict[str, Any] | None:
    """The experiment's choice, and first the one that it follows; made where it isn't in the store.

    None where another process is at one of them, unless `wait` says to wait for it.
    """
    from benchmarks.run import jobs

    leader = jobs.leader_of(experiment)
    led_by = None if leader is None else choice_of(leader, arguments, wait)
    if leader is not None and led_by is None:
        return None
    with results.claim(arguments.results, "choice", experiment.choice_key, wait) as ours:
        if not ours:
            return None
        choice = find_choice(arguments, experiment, led_by)
        if choice is None:
            choice = jobs.only_choice(experiment, arguments.data, led_by)
            if choice is None:
                place = (arguments.results, arguments.dirty)
                choice = isolated(jobs.choose, experiment, arguments.data, led_by, *place)
            results.add(arguments.results, choice, arguments.dirty)
    return choice


def line_of(result: Mapping[str, Any]) -> str:
    figures = "  ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items())
    seconds = sum(result["seconds"].values())
    return f"{Experiment.from_dict(result['experiment'])}  {figures}  {seconds:.0f} s"


# --------------------------------------------------------------------------------------------------- what is there


def find_result(arguments: argparse.Namespace, experiment: Experiment) -> dict[str, Any] | None:
    return _find("run", experiment.key, arguments, experiment)


def find_choice(
    arguments: argparse.Namespace, experiment: Experiment, leader: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    from benchmarks.run import jobs

    return _find("choice", experiment.choice_key, arguments, experiment, followed=jobs.followed(leader))


def _find(
    kind: str, key: str, arguments: argparse.Namespace, experiment: Experiment, **same: Any
) -> dict[str, Any] | None:
    """The entry of the key from what is at hand: data, weights, protocol, defaults; read only where the key has one."""
    if results.find(arguments.results, kind, key) is None:
        return None
    from benchmarks.run import jobs

    data = data_hash(experiment.dataset, experiment.family, arguments.data)
    same |= {"data_hash": data, **jobs.standing(jobs.forecaster_of(experiment))}
    return results.find(arguments.results, kind, key, **same)
