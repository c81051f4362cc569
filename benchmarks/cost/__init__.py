"""What MSFT costs: training steps, forecasts, backtests and imports, on this machine, in one run.

    python -m benchmarks efficiency --data ../shared/data
    python -m benchmarks efficiency --contexts 512 --rounds 3 --models moirai-tiny --cases step forecast   # short

`moirai-tiny` is the bundled model, `moirai-small` random weights of MOIRAI small's size. Each takes the smallest of its
patch sizes at which a context fits; what fits at none is listed as left out.

- step: forward, loss, backward, clipping and AdamW on one batch. `full_uni2ts` is full finetuning through uni2ts' own
  forward and loss, `full` through this package's.
- forecast: sample paths for a list of series, end to end. `uni2ts` is its own predictor, `full` a finetuned model.
- memory: `historical_forecasts` over a quarter of ETTm1's test part and over the whole, at stride 1, by the first of
  the models; `beyond` is the peak without the result itself.
- import: seconds of imports in fresh processes.

`one_sequence` is MSFT's ablation that joins all scales' tokens in one attention, without aggregator. The cases of one
model and context take turns, `--rounds` times there and back, each time in a fresh process that runs once to warm up
and then for the clock: what slows the machine for a while slows all of them. A ratio is of medians over the runs.
Each call adds an entry to `results/efficiency.json`; its profiles (a step and a forecast of MSFT, K = 2, at the middle
context that fits) are in `results/efficiency/`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import efficiency_report as report
from benchmarks.efficiency_cases import (
    ETTM1_TEST,
    Case,
    Settings,
    import_seconds,
    measure,
    measure_backtest,
    profile,
    refusal,
    save_random_small,
)
from benchmarks.errors import Misuse
from benchmarks.run.listings import append, read
from benchmarks.run.processes import ProcessFailed, isolated
from benchmarks.run.provenance import provenance
from benchmarks.run.store import write
from darts_msft.datasets import DATA_DIR_VARIABLE, load_dataset

RESULTS = Path(__file__).parent / "results" / "efficiency.json"
PATCHES = {"moirai-tiny": (32,), "moirai-small": (32, 64)}  # steps, the first that fits is taken
CASES = ("step", "forecast", "memory", "import")
SCALES = range(5)  # K of MSFT
MIDDLE_K = 2  # of what is measured at one K alone
METHODS = {"step": ("full", "full_uni2ts"), "forecast": ("zero_shot", "full", "uni2ts")}  # beside MSFT's
BACKTEST_BATCHES = (32, 256)
IMPORTS = {
    "darts_msft": "import darts_msft",
    "darts and torch": "import darts, torch",
    "darts' foundation models": "import darts.models.forecasting.foundation_model",
}
PRELOADED = ["benchmarks.efficiency_cases", "darts_msft.backbones.moirai"]  # once, for the processes of all cases
FAILED = 1  # exit code


@dataclass(frozen=True)
class Model:
    """A model by name, what it is loaded from, and the patch sizes (steps) that it may take."""

    name: str
    backbone: str
    patches: tuple[int, ...]


@dataclass
class Record:
    """What a run has found so far: whole rows, what does not fit its model, what failed, and the profiles' texts."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    profiles: dict[str, str] = field(default_factory=dict)

    def fail(self, case: Case, error: Exception) -> None:
        reason = str(error).strip().splitlines()[-1]
        print(f"{case} failed: {error}", file=sys.stderr, flush=True)
        self.failed.append({"case": str(case), "reason": reason})


# ------------------------------------------------------------------------------------------------------ what is asked


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks efficiency", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(PATCHES), choices=PATCHES)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--contexts", nargs="+", type=int, default=[512, 2048, 8192], metavar="STEPS")
    numbers = {
        "horizon": (96, "steps that are forecast"),
        "batch": (32, "series of a training step, and of a batch that is forecast"),
        "series": (32, "series that are forecast"),
        "samples": (100, "sample paths of each"),
        "rounds": (3, "processes of each case"),
        "threads": (torch.get_num_threads(), "torch's threads"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}; default: %(default)s")
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "cuda"), help="cuda: one GPU; default: cpu")
    parser.add_argument("--data", help=f"folder with ETTm1.csv, for the memory; default: {DATA_DIR_VARIABLE}")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that the entry is added to")
    asked = parser.parse_args(words)
    asked.contexts = sorted(set(asked.contexts))
    return asked


def check(asked: argparse.Namespace) -> None:
    """Refuses what can't be measured, before anything is.

    Raises
    ------
    Misuse
        If a number is below 1, there is no such accelerator, ETTm1 can't be read, or the results' file is none.
    """
    for name in ("horizon", "batch", "series", "samples", "rounds", "threads"):
        if getattr(asked, name) < 1:
            raise Misuse(f"--{name} {getattr(asked, name)} is not allowed; give an integer of at least 1")
    if asked.contexts[0] < 1:
        raise Misuse(f"--contexts {asked.contexts[0]} is not allowed; give numbers of steps of at least 1")
    if asked.accelerator == "cuda" and not torch.cuda.is_available():
        raise Misuse("--accelerator cuda: torch sees no CUDA device here; take cpu, or a build of torch for CUDA")
    if "memory" in asked.cases:
        if not (asked.data or os.environ.get(DATA_DIR_VARIABLE)):
            raise Misuse(
                f"--cases memory needs ETTm1.csv: give its folder by --data, or set {DATA_DIR_VARIABLE}, or leave "
                f"memory out of --cases ({' '.join(CASES)})"
            )
        try:
            load_dataset("ETTm1", asked.data)
        except (OSError, ValueError) as error:
            raise Misuse(f"--cases memory: {error}") from error
    read(asked.results)


def settings_of(asked: argparse.Namespace) -> Settings:
    return Settings(asked.horizon, asked.samples, asked.series, asked.threads, asked.accelerator)


def plan(asked: argparse.Namespace, models: Sequence[Model], record: Record) -> Iterator[list[Case]]:
    """The cases of each model, context and kind, references first; `record` gets what does not fit."""
    settings, kinds = settings_of(asked), [what for what in METHODS if what in asked.cases]
    for model, context in product(models, asked.contexts if kinds else ()):
        first = _patched(model, context, asked)
        if (reason := refusal(first, settings)) is not None:
            record.left_out.append({"model": model.name, "context": context, "reason": reason})
            continue
        for what in kinds:
            yield _fitting(_group(first, what), settings, record)


def _patched(model: Model, context: int, asked: argparse.Namespace) -> Case:
    """Full finetuning at the first patch size at which the context fits, else at the last."""
    cases = [Case(model.name, model.backbone, "step", "full", 0, context, p, asked.batch) for p in model.patches]
    return next((case for case in cases if refusal(case, settings_of(asked)) is None), cases[-1])


def _group(first: Case, what: str) -> list[Case]:
    """One model's and context's cases: what MSFT is compared with, MSFT at every K, and its one-sequence form."""
    scaled = [*(("msft", scales) for scales in SCALES), ("one_sequence", MIDDLE_K)]
    methods = [*((method, 0) for method in METHODS[what]), *scaled]
    return [replace(first, what=what, method=method, scales=scales) for method, scales in methods]


def _fitting(cases: Sequence[Case], settings: Settings, record: Record) -> list[Case]:
    """Those that the model takes; the others are noted."""
    reasons = {case: refusal(case, settings) for case in cases}
    for case, reason in reasons.items():
        if reason is not None:
            where = {"model": case.model, "what": case.what, "method": case.method, "K": case.scales}
            record.left_out.append({**where, "context": case.context, "reason": reason})
    return [case for case, reason in reasons.items() if reason is None]


# ------------------------------------------------------------------------------------------------------- measurements


def measure_all(asked: argparse.Namespace, models: Sequence[Model], record: Record) -> None:
    """Fills `record`, case by case."""
    settings, groups = settings_of(asked), []
    for group in plan(asked, models, record):
        groups.append(group)
        measure_group(group, asked.rounds, settings, record)
    for model in models:
        profile_model([group for group in groups if group[0].model == model.name], settings, record)
    if "memory" in asked.cases:
        backtest(asked, models[0], record)
    if "import" in asked.cases:
        record.rows += import_rows()


def measure_group(group: Sequence[Case], rounds: int, settings: Settings, record: Record) -> None:
    """The cases in turn, there and back; one that fails in any round has no row."""
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in group}
    for number in range(rounds):
        order = list(found)
        for case in reversed(order) if number % 2 else order:
            try:
                found[case].append(isolated(measure, case, settings))
            except ProcessFailed as error:
                record.fail(case, error)
                del found[case]
                continue
            print(f"{case}: {np.median(found[case][-1]['seconds']):.3f} s", file=sys.stderr, flush=True)
    rows = [row_of(case, parts) for case, parts in found.items()]
    record.rows += report.with_ratios(rows)


def row_of(case: Case, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A case's line, from what its processes found; all their runs count alike, and the larger peak.

    peak_restarted: see `efficiency_cases.Memory`.
    """
    seconds = [value for part in parts for value in part["seconds"]]
    low, high = np.quantile(seconds, [0.25, 0.75])
    return {
        "model": case.model,
        "what": case.what,
        "method": case.method,
        "K": case.scales,
        "context": case.context,
        "patch": case.patch,
        "batch": case.batch,
        "seconds": float(np.median(seconds)),
        "iqr": float(high - low),
        "runs": len(seconds),
        "peak_memory_bytes": max(part["peak_memory_bytes"] for part in parts),
        "peak_restarted": all(part["peak_restarted"] for part in parts),
        "ratio": {},
    }


def profile_model(groups: Sequence[Sequence[Case]], settings: Settings, record: Record) -> None:
    """Profiles of MSFT at the middle context of those measured, of each kind."""
    for what in METHODS:
        chosen = [case for group in groups for case in group if (case.what, case.method) == (what, "msft")]
        chosen = [case for case in chosen if case.scales == MIDDLE_K]
        if chosen:
            case = chosen[len(chosen) // 2]
            try:
                record.profiles[f"{case.model}_{what}"] = f"{case}\n{isolated(profile, case, settings)}"
            except ProcessFailed as error:
                record.fail(case, error)


def backtest(asked: argparse.Namespace, model: Model, record: Record) -> None:
    """Memory of `historical_forecasts` at two lengths and two batch sizes, zero-shot and MSFT."""
    settings, whole = settings_of(asked), ETTM1_TEST[1] - ETTM1_TEST[0]
    first = replace(_patched(model, asked.contexts[0], asked), what="memory", method="zero_shot")
    methods = _fitting([first, replace(first, method="msft", scales=MIDDLE_K)], settings, record)
    for case, batch, length in product(methods, BACKTEST_BATCHES, (whole // 4, whole)):
        each = replace(case, batch=batch, length=length)
        try:
            found = isolated(measure_backtest, each, settings, asked.data)
        except ProcessFailed as error:
            record.fail(each, error)
            continue
        more = {name: found[name] for name in ("windows", "result_bytes", "beyond_result_bytes")}
        record.rows.append({**row_of(each, [found]), "length": each.length, **more})
        print(f"{each}: {found['seconds'][0]:.1f} s", file=sys.stderr, flush=True)


def import_rows(rounds: int = 3) -> list[dict[str, Any]]:
    """Seconds of imports, in turn."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            found[name].append(import_seconds(statement))
    rows = []
    for name, seconds in found.items():
        low, high = np.quantile(seconds, [0.25, 0.75])
        middle = {"seconds": float(np.median(seconds)), "iqr": float(high - low), "runs": rounds}
        rows.append({"what": "import", "method": name, **middle, "ratio": {}})
    return report.with_ratios(rows)


# ------------------------------------------------------------------------------------------------------------ results


def keep(path: Path, asked: argparse.Namespace, record: Record) -> dict[str, Any]:
    """Adds the run's entry to the file, at once or not at all, and writes its profiles; returns the entry."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}
    device = "cpu" if asked.accelerator == "cpu" else torch.cuda.get_device_name()
    entry = {
        **provenance(),
        "device": device,
        "settings": settings,
        "goals": report.verdicts(record.rows),
        "rows": record.rows,
    }
    entry |= {"left_out": record.left_out, "failed": record.failed, "profiles": []}
    folder, stamp = path.parent / path.stem, entry["made"].replace(":", "")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in record.profiles.items():
        file = folder / f"profile_{name}_{stamp}.txt"
        write(file, text)
        entry["profiles"].append(file.name)
    append(path, entry)
    return entry


def run(asked: argparse.Namespace, preload: bool = False) -> int:
    """Measures what is asked for and keeps it; what was whole before an interruption is kept too."""
    check(asked)
    torch.set_num_threads(asked.threads)
    if preload and asked.accelerator == "cpu":  # a process that has begun to use CUDA must not be forked
        multiprocessing.set_forkserver_preload(PRELOADED)
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        if "moirai-small" in asked.models:
            save_random_small(folder)
        try:
            places = {"moirai-tiny": "moirai-tiny", "moirai-small": folder}
            measure_all(asked, [Model(name, places[name], PATCHES[name]) for name in asked.models], record)
        finally:
            if record.rows:
                print(report.render(keep(asked.results, asked, record)))
    if not record.rows:
        reasons = [part["reason"] for part in [*record.left_out, *record.failed]]
        raise Misuse(f"nothing was measured: {reasons[0]}")
    return FAILED if record.failed else 0


def main(words: Sequence[str]) -> int:
    return run(parse(words), preload=True)
