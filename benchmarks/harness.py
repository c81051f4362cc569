"""`python -m benchmarks check`: does the suite "harness" give the figures that the papers print?

Before it does, no other figure is to be believed. References: MSE at horizon 96 and look-back 336 of DLinear (Zeng et
al., AAAI 2023, table 2) and of PatchTST/42 (Nie et al., ICLR 2023, table 3); tolerances are relative.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import results, suites
from benchmarks.experiments import PROTOCOL

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
        """`DLinear ETTh1: 0.371, reference 0.375, -1.1 % of at most 2 %: passed`."""
        name = f"{self.model} {self.dataset}"
        absent = f"no result of seed {', '.join(map(str, self.missing))}" if self.missing else ""
        if not self.found:
            return f"{name}: FAILED, {absent}; python -m benchmarks run --suite harness measures it"
        mean, reference = np.mean(list(self.found.values())), REFERENCES[self.model, self.dataset]
        verdict = "passed" if self.passed else f"FAILED{', ' if absent else ''}{absent}"
        return (
            f"{name}: {mean:.4f} (seeds {', '.join(map(str, self.found))}), reference {reference:.3f}, "
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
    """Every reference against the newest results of its experiments, of the present protocol."""
    measured: dict[str, tuple[str, float]] = {}
    for _, result in results.entries(folder, "run"):
        made = result["provenance"]["made"]
        if result["protocol"] == PROTOCOL and made >= measured.get(result["key"], ("", 0.0))[0]:
            measured[result["key"]] = made, result["metrics"]["mse"]
    seeds: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for experiment in suites.load("harness"):
        seeds[experiment.model, experiment.dataset][experiment.seed] = experiment.key
    return [
        Check(
            *place,
            {seed: measured[key][1] for seed, key in seeds[place].items() if key in measured},
            tuple(seed for seed, key in seeds[place].items() if key not in measured),
        )
        for place in REFERENCES
    ]
