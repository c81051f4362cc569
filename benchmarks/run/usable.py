"""Which data sets can be used: each is read once, before an experiment begins."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from benchmarks.errors import Misuse
from benchmarks.run.experiments import Experiment


def unusable(experiments: Sequence[Experiment], folder: str | None) -> dict[tuple[str, str], Exception]:
    """What is wrong with data sets of the experiments, by name and family; it is printed, too.

    Raises
    ------
    Misuse
        If none of their data sets can be used.
    """
    places = dict.fromkeys((each.dataset, each.family) for each in experiments)
    wrong = dict[tuple[str, str], Exception]()
    for name, family in places:
        try:
            data_hash(name, family, folder)
        except (OSError, ValueError) as error:
            wrong[name, family] = error
    lines = list(dict.fromkeys(f"{name}: {error}" for (name, _), error in wrong.items()))  # once, not by family
    if lines and len(wrong) == len(places):
        raise Misuse(f"no data set can be used; {'; '.join(lines)}")
    for line in lines:
        print(f"can't be used: {line}", file=sys.stderr, flush=True)
    return wrong


@functools.cache
def data_hash(name: str, family: str, folder: str | None) -> str:
    from benchmarks.data import datasets

    return datasets.load(name, family, folder).hash
