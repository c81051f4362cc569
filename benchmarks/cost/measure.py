"""Which cases are measured, in turns, and what is kept of them and shown."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.cost.cases import ETTM1_TEST, Case, create, measure, save_random
from benchmarks.errors import Misuse, misuse
from benchmarks.run.provenance import ProcessFailed, isolated, preload, provenance
from benchmarks.run.store import append, read_list
from darts_msft.datasets import load_dataset

METHODS = {"step": ["full", "full_uni2ts"], "forecast": ["zero_shot", "full", "uni2ts"]}  # beside MSFT's
LONG = {"step": ["full", "msft", "msft_full"], "forecast": ["zero_shot", "msft"]}  # the first also at one scale
FINEST = 512  # steps that scale 0 sees where coarser scales look further back
REFERENCES = {"step": ["full", "full_uni2ts"], "forecast": ["zero_shot", "uni2ts"]}
PATCHES = (32, 64)  # steps; the first at which a context fits is taken
SCALES, MIDDLE_K = range(5), 2  # K of MSFT, and of what is measured at one K alone
BACKTEST_BATCHES = (32, 256)
SHARED = ("batch", "horizon", "series", "samples", "threads", "accelerator", "data")  # settings of all cases


@dataclass
class Record:
    """What was found: whole rows, what does not fit its model, and what failed."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)


def run(asked: Mapping[str, Any], results: Path) -> Record:
    """Measures what is asked for, adds it to the file of results and prints it; if interrupted, what is whole."""
    if asked["accelerator"] == "cuda" and not torch.cuda.is_available():
        raise Misuse("--accelerator cuda: torch sees no CUDA device here; take cpu, or a build of torch for CUDA")
    if "memory" in asked["cases"]:
        with misuse("--case memory: ", OSError, ValueError):
            load_dataset("ETTm1", asked["data"])
    read_list(results)
    if asked["accelerator"] == "cpu":  # a process that has begun to use CUDA must not be forked
        preload(["benchmarks.cost.cases", "darts_msft.backbones.moirai"])
    record = Record()
    with tempfile.TemporaryDirectory() as folder:
        if "moirai-small" in asked["models"]:
            save_random(folder)
        places = {"moirai-tiny": "moirai-tiny", "moirai-small": folder}
        try:
            for group in plan(asked, {name: places[name] for name in asked["models"]}, record):
                measure_group(group, asked["rounds"], record)
        finally:
            if record.rows:
                device = "cpu" if asked["accelerator"] == "cpu" else torch.cuda.get_device_name()
                entry = {**provenance(), "device": device, "settings": dict(asked), **asdict(record)}
                append(results, entry)
                print(table(entry))
    if not record.rows:
        raise Misuse(f"nothing was measured: {[*record.left_out, *record.failed][0]['reason']}")
    return record


def plan(asked: Mapping[str, Any], backbones: Mapping[str, str], record: Record) -> list[list[Case]]:
    """Groups of cases that take turns; `backbones` are places of checkpoints, `record` gets what doesn't fit."""
    shared, contexts = {name: asked[name] for name in SHARED}, sorted(set(asked["contexts"]))
    scaled = [*(("msft", scales) for scales in SCALES), ("one_sequence", MIDDLE_K)]
    groups = []
    for (model, backbone), context, (what, methods) in product(backbones.items(), contexts, METHODS.items()):
        if what in asked["cases"]:
            each = [*((method, 0) for method in methods), *scaled]
            cases = [Case(model, backbone, what, *one, context, PATCHES[0], **shared) for one in each]
            groups.append(_fitting(cases, record))
        if "long" in asked["cases"] and context > FINEST:
            of = partial(Case, model, backbone, what, context=context, patch=PATCHES[0], **shared)
            cases = [of(LONG[what][0], 0), *(of(method, MIDDLE_K, finest=FINEST) for method in LONG[what])]
            groups.append(_fitting(cases, record))
    if "memory" in asked["cases"]:  # of the first model at the least context
        model, backbone = next(iter(backbones.items()))
        pair = (("zero_shot", 0), ("msft", MIDDLE_K))
        cases = [Case(model, backbone, "memory", *one, contexts[0], PATCHES[0], **shared) for one in pair]
        whole = ETTM1_TEST[1] - ETTM1_TEST[0]
        for case, batch, length in product(_fitting(cases, record), BACKTEST_BATCHES, (whole // 4, whole)):
            groups.append([replace(case, batch=batch, length=length)])
    return groups


def _fitting(cases: Sequence[Case], record: Record) -> list[Case]:
    """The cases at the first patch size that fits the first of them; those that the model doesn't take are noted."""
    sizes = [patch for patch in PATCHES if _refusal(replace(cases[0], patch=patch)) is None]
    reasons = {case: _refusal(case) for case in (replace(case, patch=(sizes or PATCHES)[0]) for case in cases)}
    record.left_out += [{**_place(case), "reason": reason} for case, reason in reasons.items() if reason is not None]
    return [case for case, reason in reasons.items() if reason is None]


def _refusal(case: Case) -> str | None:
    """Why the model can't have this context, patch size or K; None where it can."""
    try:
        create(case)
    except ValueError as error:
        return str(error)
    return None


def measure_group(group: Sequence[Case], rounds: int, record: Record) -> None:
    """The cases in turn, there and back, each time in a fresh process; a backtest once. What fails once has no row."""
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in group}
    for number in range(rounds):
        order = [case for case in found if number == 0 or not case.length]
        for case in reversed(order) if number % 2 else order:
            try:
                found[case].append(isolated(measure, case))
                print(f"{_place(case)}: {np.median(found[case][-1]['seconds']):.3f} s", file=sys.stderr, flush=True)
            except ProcessFailed as error:
                print(error, file=sys.stderr, flush=True)
                record.failed.append({**_place(case), "reason": str(error).strip().splitlines()[-1]})
                del found[case]
    rows = [row_of(case, parts) for case, parts in found.items()]
    seconds = {row["method"]: row["seconds"] for row in rows if not row["K"]}
    for row in rows:
        names = [name for name in REFERENCES.get(row["what"], ()) if name in seconds]
        record.rows.append({**row, "ratio": {name: row["seconds"] / seconds[name] for name in names}})


def row_of(case: Case, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A case's row, from what its processes found; all their runs count alike, and the largest peak."""
    seconds = [value for part in parts for value in part["seconds"]]
    low, high = np.quantile(seconds, [0.25, 0.75])
    peaks = [part["peak_memory_bytes"] for part in parts]
    middle = {"seconds": float(np.median(seconds)), "iqr": float(high - low), "runs": len(seconds)}
    peak = {"peak_memory_bytes": None if None in peaks else max(peaks)}
    return {**_place(case), "patch": case.patch, "batch": case.batch, **parts[0], **middle, **peak}


def _place(case: Case) -> dict[str, Any]:
    names = {"model": case.model, "what": case.what, "method": case.method, "K": case.scales, "context": case.context}
    return names | {"finest": case.finest or case.context} | ({"length": case.length} if case.length else {})


def table(entry: Mapping[str, Any]) -> str:
    """An entry as Markdown: a table for each kind of case, seconds also as multiples of the references', and gaps."""
    rows, parts = pd.json_normalize(entry["rows"]), []
    for name in [name for name in rows if name.endswith("_bytes")]:
        rows[name] /= 1e6
    rows.columns = [name.replace("ratio.", "over ").replace("_bytes", " MB").replace("_", " ") for name in rows]
    for what, some in rows.groupby("what", sort=False):
        shown = some.drop(columns="what").dropna(axis=1, how="all").convert_dtypes()
        parts.append(f"### {what}\n\n{shown.to_markdown(index=False, floatfmt='.3g', missingval='')}")
    gaps = [", ".join(f"{name}: {value}" for name, value in gap.items()) for gap in entry["left_out"] + entry["failed"]]
    return "\n\n".join([*parts, *(f"Not measured: {gap}" for gap in gaps)])
