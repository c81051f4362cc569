"""Where a result comes from: the suite that has its experiment, and the command that makes it again."""

from __future__ import annotations

import functools
import json
import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from benchmarks import suites
from benchmarks.experiments import Experiment
from benchmarks.summary import Run


def in_suite(run: Run, suite: str) -> bool:
    """Whether the suite has this experiment, with the same test stride."""
    place = (suite, run.experiment["dataset"], run.experiment["test_stride"])
    return place in _places().get(_rest(run.experiment), ())


def command(run: Run) -> str:
    """The command line that measures it again, into a folder of its own; empty where no suite has the experiment.

    It may measure more than this result: a suite's selectors don't tell families and options apart.
    """
    experiment = run.experiment
    found = _places().get(_rest(experiment), [])
    same_data = [
        place for place in found if place[1] == experiment["dataset"] or experiment["dataset"].endswith(".toml")
    ]
    if not same_data:
        return ""
    suite, _, stride = same_data[0]
    words = ["python", "-m", "benchmarks", "run", "--results", "again", "--suite", suite, "--only", experiment["model"]]
    words += ["--datasets", experiment["dataset"], "--horizons", experiment["horizon"], "--seeds", experiment["seed"]]
    words += ["--stride", experiment["test_stride"]] if stride != experiment["test_stride"] else []
    return shlex.join(map(str, words))


@functools.cache
def _places() -> Mapping[str, list[tuple[str, str, int]]]:
    """(suite, data set, test stride) of the experiments by all that they are besides."""
    found = defaultdict(list)
    for suite in suites.SUITES:
        for experiment in suites.load(suite):
            found[_rest(experiment.to_dict())].append((suite, experiment.dataset, experiment.test_stride))
    return found


def _rest(experiment: Mapping[str, Any]) -> str:
    whole = Experiment.from_dict(experiment).to_dict()
    return json.dumps({name: whole[name] for name in whole.keys() - {"dataset", "test_stride"}}, sort_keys=True)
