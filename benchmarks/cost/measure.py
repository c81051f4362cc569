"""Which cases are measured, in turns, and what is kept of them and shown."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.cost.cases import Case, measure, save_random, save_random_chronos2
from benchmarks.errors import Misuse
from benchmarks.run.provenance import isolated, preload, provenance
from benchmarks.run.store import add_rows, read_list

SCALES = 2  # K; the finest sees a quarter of the context
DARTS = (("darts", 0), ("msft", SCALES))
METHODS = {  # by kind of model and what is measured; the first is the others' reference
    "moirai": {
        "step": (("full", 0), ("full", SCALES), ("msft", SCALES), ("msft_full", SCALES)),
        "forecast": (("zero_shot", 0), ("zero_shot", SCALES), ("msft", SCALES)),
    },
    "chronos": {"step": DARTS, "forecast": DARTS},
}
PATCH = {"moirai": 32, "chronos": 16}  # steps
SHARED = ("batch", "horizon", "samples", "threads", "accelerator")  # settings of all cases


def run(asked: Mapping[str, Any], results: Path) -> dict[str, Any]:
    """Measures what is asked for, adds it to the file of results and prints it; if interrupted, what is whole."""
    if asked["accelerator"] == "cuda" and not torch.cuda.is_available():
        raise Misuse("--accelerator cuda: torch sees no CUDA device here; take cpu, or a build of torch for CUDA")
    read_list(results)
    if asked["accelerator"] == "cpu":  # a process that has begun to use CUDA must not be forked
        preload(["benchmarks.cost.cases", "darts_msft.backbones.moirai"])
    found: dict[str, Any] = {"rows": [], "failed": []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for model in map(str, asked["models"]):
                for group in groups_of(asked, model, checkpoint(model, Path(folder, model))):
                    measure_group(group, asked["rounds"], found)
        finally:
            if found["rows"]:
                device = "cpu" if asked["accelerator"] == "cpu" else torch.cuda.get_device_name()
                entry = {**provenance(), "device": device, "settings": dict(asked), **found}
                add_rows(results, [entry])
                print(table(entry))
    return found


def checkpoint(model: str, folder: Path) -> str:
    """What the model is loaded from: the bundled checkpoint's name, or a folder of random weights."""
    if model == "moirai-tiny":
        return model
    folder.mkdir()
    save_random(folder) if model == "moirai-small" else save_random_chronos2(folder, model)
    return str(folder)


def groups_of(asked: Mapping[str, Any], model: str, backbone: str) -> list[list[Case]]:
    """Cases that take turns, the reference first."""
    kind, shared = model.partition("-")[0], {name: asked[name] for name in SHARED}
    groups = []
    for context, (what, methods) in product(sorted(set(asked["contexts"])), METHODS[kind].items()):
        of = partial(Case, model, backbone, what, context=context, patch=PATCH[kind], series=asked["batch"], **shared)
        groups.append([of(method, scales, finest=context // 2**scales) for method, scales in methods])
    return groups


def measure_group(group: Sequence[Case], rounds: int, record: Mapping[str, list[dict[str, Any]]]) -> None:
    """The cases in turn, there and back, each time in a fresh process. What fails once has no row."""
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in group}
    for number in range(rounds):
        for case in list(found)[:: -1 if number % 2 else 1]:
            try:
                found[case].append(isolated(measure, case))
                print(f"{_place(case)}: {np.median(found[case][-1]['seconds']):.3f} s", file=sys.stderr, flush=True)
            except Exception as error:
                print(error, file=sys.stderr, flush=True)
                record["failed"].append({**_place(case), "reason": str(error).strip().splitlines()[-1]})
                del found[case]
    rows = {case: row_of(case, parts) for case, parts in found.items()}
    reference = rows.get(group[0])
    for row in rows.values():
        ratio = {} if reference is None else {group[0].method: row["seconds"] / reference["seconds"]}
        record["rows"].append({**row, "ratio": ratio})


def row_of(case: Case, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A case's row, from what its processes found; all their runs count alike, and the largest peak."""
    seconds = [value for part in parts for value in part["seconds"]]
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
    peaks = [part["peak_memory_bytes"] for part in parts]
    sizes = {"patch": case.patch, "batch": case.batch}
    times = {"seconds": middle, "iqr": high - low, "runs": len(seconds)}
    return {**_place(case), **sizes, **times, "peak_memory_bytes": None if None in peaks else max(peaks)}


def _place(case: Case) -> dict[str, Any]:
    names = {"model": case.model, "what": case.what, "method": case.method, "K": case.scales}
    return {**names, "context": case.context, "finest": case.finest}


def table(entry: Mapping[str, Any]) -> str:
    """An entry as Markdown: a table of each kind of case, with seconds also as multiples of the references'."""
    rows, parts = pd.json_normalize(entry["rows"]), []
    for name in [name for name in rows if name.endswith("_bytes")]:
        rows[name] /= 1e6
    rows.columns = [name.replace("ratio.", "over ").replace("_bytes", " MB").replace("_", " ") for name in rows]
    for what, some in rows.groupby("what", sort=False):
        shown = some.drop(columns="what").dropna(axis=1, how="all").convert_dtypes()
        parts.append(f"### {what}\n\n{shown.to_markdown(index=False, floatfmt='.3g', missingval='')}")
    return "\n\n".join([*parts, *(f"Not measured: {failed}" for failed in entry["failed"])])
