"""`python -m benchmarks check`: does the suite "harness" give the figures that the papers print?

Before it does, no other figure is to be believed. References: MSE at horizon 96 and look-back 336 of DLinear (Zeng et
al., AAAI 2023, table 2) and of PatchTST/42 (Nie et al., ICLR 2023, table 3); tolerances are relative.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data.registry import REGISTRY
from benchmarks.run import jobs, suites
from benchmarks.run import store as results
from benchmarks.run.experiments import Experiment

REFERENCES = {
    ("dlinear", "ETTh1"): 0.375,
    ("dlinear", "ETTm1"): 0.299,
    ("dlinear", "Weather"): 0.176,
    ("patchtst", "ETTh1"): 0.375,
    ("patchtst", "ETTm1"): 0.290,
    ("patchtst", "Weather"): 0.152,
}
TOLERANCES = {"dlinear": 0.02, "patchtst": 0.03}


@dataclass(frozen=True)
class Check:
    """The mean MSE over the seeds that were measured, beside its reference."""

    model: str
    dataset: str
    found: Mapping[int, float]
    missing: tuple[int, ...]

    @property
    def deviation(self) -> float:
        """Relative to the reference."""
        return float(np.mean(list(self.found.values()))) / REFERENCES[self.model, self.dataset] - 1

    @property
    def passed(self) -> bool:
        return not self.missing and abs(self.deviation) <= TOLERANCES[self.model]

    def __str__(self) -> str:
        """`dlinear ETTh1: 0.3710 (0.3700, 0.3720 of seeds 0, 1), reference 0.375, -1.1% of at most 2%: passed`."""
        name = f"{self.model} {self.dataset}"
        absent = f"no result of seed {', '.join(map(str, self.missing))}" if self.missing else ""
        if not self.found:
            return f"{name}: FAILED, {absent}; python -m benchmarks run --suite harness measures it"
        mean, reference = np.mean(list(self.found.values())), REFERENCES[self.model, self.dataset]
        seeds = f"seed{'s' if len(self.found) > 1 else ''} {', '.join(map(str, self.found))}"
        if len(self.found) > 1:
            seeds = f"{', '.join(f'{mse:.4f}' for mse in self.found.values())} of {seeds}"
        verdict = "passed" if self.passed else f"FAILED{', ' if absent else ''}{absent}"
        return (
            f"{name}: {mean:.4f} ({seeds}), reference {reference:.3f}, "
            f"{self.deviation:+.1%} of at most {TOLERANCES[self.model]:.0%}: {verdict}"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results", type=Path, default=results.FOLDER, help="folder of the results (default: %(default)s)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Prints a line for each reference; 0 where all are met."""
    found = checks(arguments.results)
    print("\n".join(map(str, found)))
    return 0 if all(check.passed for check in found) else 1


def checks(folder: Path) -> list[Check]:
    """Every reference against the newest results of its experiments that present code would make of the data."""
    made: dict[str, str] = {}
    found = {place: dict[int, float]() for place in REFERENCES}
    experiments = {experiment.key: experiment for experiment in suites.load("harness")}
    for _, result in results.entries(folder, "run"):
        experiment, when = experiments.get(result["key"]), result["provenance"]["made"]
        if experiment is not None and when >= made.get(experiment.key, "") and _holds(result, experiment):
            made[experiment.key] = when
            found[experiment.model, experiment.dataset][experiment.seed] = result["metrics"]["mse"]
    seeds = {place: [e.seed for e in experiments.values() if (e.model, e.dataset) == place] for place in REFERENCES}
    return [
        Check(
            *place, dict(sorted(found[place].items())), tuple(seed for seed in seeds[place] if seed not in found[place])
        )
        for place in REFERENCES
    ]


def _holds(result: Mapping[str, Any], experiment: Experiment) -> bool:
    """Whether it is of the published data file, and of the protocol, defaults and recipe of today."""
    published = REGISTRY[experiment.family][experiment.dataset].file.digest
    now = jobs.standing(jobs.forecaster_of(experiment))
    return result.get("file_hash") == published and all(result[name] == value for name, value in now.items())
