"""The suites of `suites.yaml`, lists of experiments by name; and the check of "harness" against published figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.errors import Misuse
from benchmarks.models import Budget
from benchmarks.run import store
from benchmarks.run.experiments import Experiment

SEEDS = (0, 1, 2)
UNSEEDED = ("zero_shot", "chronos2", "fracast", "seasonal_naive")  # nothing random is in them: one seed is all
_TOLD = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
SUITES = tuple(_TOLD["suites"])


def load(name: str) -> list[Experiment]:
    """Seed by seed and place by place, so a run that is stopped early has most models with at least one seed."""
    if name not in SUITES:
        raise Misuse(f"suite {name!r} is not known; choose one of {', '.join(SUITES)}")
    found = [
        Experiment(
            grid["family"],
            dataset,
            horizon,
            model,
            seed,
            {**grid.get("base", {}), **options},
            Budget(**_TOLD["budgets"][grid["budget"]]) if "budget" in grid else Budget(),
            grid.get("test_stride", 1),
        )
        for grid in _TOLD["suites"][name]
        for dataset, horizons in grid["places"].items()
        for horizon in horizons
        for model, options in _rows(grid)
        for seed in grid.get("seeds", SEEDS)
        if seed == 0 or model not in UNSEEDED
    ]
    places = list(dict.fromkeys((each.family, each.dataset, each.horizon) for each in found))
    return sorted(found, key=lambda each: (each.seed, places.index((each.family, each.dataset, each.horizon))))


def _rows(grid: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Models with their options: each of `rows` with its own, or all `models` with the same."""
    if "rows" in grid:
        return [(model, options) for model, several in grid["rows"].items() for options in several]
    return [(model, options) for options in grid.get("options", [{}]) for model in grid["models"]]


def check(folder: Path) -> int:
    """Prints a line for each reference; 0 where all are met by the newest results of all seeds on published files."""
    from benchmarks.data.files import REGISTRY
    from benchmarks.run.measures import standing

    failed, entries = False, [entry for _, entry in store.entries(folder, "run")]
    entries.sort(key=lambda entry: entry["provenance"]["made"])
    for model, references in _TOLD["references"].items():
        for dataset, (reference, most) in references.items():
            found = {}  # by seed, NaN where there is no result
            for each in load("harness"):
                if (each.model, each.dataset) == (model, dataset):
                    wanted = {"key": each.key, "file_hash": REGISTRY["lsf"][dataset][0].digest, **standing(each)}
                    own = [entry["metrics"]["mse"] for entry in entries if wanted.items() <= entry.items()]
                    found[each.seed] = own[-1] if own else math.nan
            away = sum(found.values()) / len(found) / reference - 1
            failed |= not abs(away) <= most
            figures = ", ".join(f"{mse:.4f} (seed {seed})" for seed, mse in found.items()).replace("nan", "missing")
            told = f"{model} {dataset}: MSE {figures}, reference {reference:.3f}, {away:+.1%} of at most {most:.0%}"
            print(f"{told}: {'passed' if abs(away) <= most else 'FAILED'}")
    return int(failed)
