"""The bundled checkpoint's zero-shot figures on ETTh1, ETTm1 and Weather, and the speed of its forecasts.

    python -m benchmarks checkpoint choose --data ../shared/data   # context and patch size, on the validation part
    python -m benchmarks checkpoint test   --data ../shared/data   # zero-shot, on the test part
    python -m benchmarks checkpoint speed                          # seconds for 256 forecasts, size of the weights

`--checkpoint DIR` takes another checkpoint. Context and patch size are chosen at horizon 96 for all horizons: `test`
reads them from the newest entry that `choose` wrote for the same weights and data, so nothing is ever chosen on the
test part. Every data set and horizon adds an entry to `results/checkpoint.json`, whose `data_hash` is the sha256 of
the values alone. Data and errors are those of the family "lsf" (`datasets.py`, `measures.py`); what stands beside the
figures is measured by `python -m benchmarks run --suite card`.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression

from benchmarks.arguments import whole
from benchmarks.data.datasets import Dataset, load
from benchmarks.errors import Misuse, misuse
from benchmarks.run.listings import append, read
from benchmarks.run.measures import LEVELS, measure
from benchmarks.run.processes import quiet
from benchmarks.run.provenance import provenance
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe, load_class
from darts_msft.scales.pyramid import MIN_CONTEXT_TOKENS, ScalePlan
from darts_msft.storage.weights import WEIGHTS_FILE, load_state, state_hash

RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
VALIDATION_STRIDE = {"ETTh1": 8, "ETTm1": 32, "Weather": 32}  # of the data sets; a few hundred windows each
CHOICE_HORIZON = 96  # at which context and patch size are chosen, for all horizons
SPEED = {"forecasts": 256, "context": 512, "horizon": 96, "samples": 100, "rounds": 3}


# -------------------------------------------------------------------------------------------------------------- models


def make_model(
    checkpoint: str, context: int, horizon: int, patch_size: int | str, accelerator: str = "cpu", **changes: Any
) -> MSFTFoundationModel:
    """A model of the checkpoint that forecasts medians, quietly; zero-shot until it is fitted."""
    trainer = {"accelerator": accelerator, "enable_model_summary": False, "enable_progress_bar": False}
    trainer |= {"logger": False, "enable_checkpointing": False}
    settings = {"likelihood": None, "random_state": 0, "pl_trainer_kwargs": trainer, **changes}
    return MSFTFoundationModel(context, horizon, backbone=checkpoint, patch_size=patch_size, **settings)


def fitting_patches(checkpoint: str, context: int, horizon: int) -> list[int]:
    """The checkpoint's patch sizes at which the context and horizon are no longer than it was made for."""
    _, architecture, config = describe(checkpoint)
    cls = load_class(architecture)
    limit = cls.max_tokens(config)
    sizes = [size for size in cls.patch_sizes(config) if math.ceil(context / size) >= MIN_CONTEXT_TOKENS]
    return [p for p in sizes if limit is None or ScalePlan(context, horizon, p, 0).token_counts[0] <= limit]


# ------------------------------------------------------------------------------------------------------------ measures


def choose(data: Dataset, checkpoint: str, contexts: list[int], stride: int, accelerator: str) -> dict[str, Any]:
    """Zero-shot on the validation part by context and patch size, and the pair with the lowest MSE."""
    rows = []
    for context in contexts:
        for patch in fitting_patches(checkpoint, context, CHOICE_HORIZON):
            quantiles = QuantileRegression(list(LEVELS))
            model = make_model(checkpoint, context, CHOICE_HORIZON, patch, accelerator, likelihood=quantiles)
            found = measure(model, data, "validation", CHOICE_HORIZON, stride, context, LEVELS)
            rows.append({"context": context, "patch_size": patch, **found.metrics, "seconds": found.seconds})
            _print_row(data, CHOICE_HORIZON, f"context {context} patch {patch}", rows[-1])
    if not rows:
        raise Misuse(f"no patch size of {checkpoint!r} fits any context of {contexts}; give other contexts")
    return {"stride": stride, "rows": rows, "chosen": min(rows, key=lambda row: row["mse"])}


def find_choice(entries: list[dict[str, Any]], weights: str, dataset: str, data_hash: str) -> tuple[int, int]:
    """Context and patch size of the newest `choose` entry for these weights and these values of the data set."""
    wanted = {"command": "choose", "weights": weights, "dataset": dataset, "data_hash": data_hash}
    wanted |= {"horizon": CHOICE_HORIZON}
    for entry in reversed(entries):
        if wanted.items() <= entry.items():
            return entry["chosen"]["context"], entry["chosen"]["patch_size"]
    raise Misuse(
        f"no context and patch size were chosen for weights {weights[:12]}... on {dataset} with the values "
        f"{data_hash[:12]}... at horizon {CHOICE_HORIZON}; run first: python -m benchmarks checkpoint choose "
        f"--datasets {dataset}, with the same --checkpoint and --data"
    )


def test(
    data: Dataset, checkpoint: str, context: int, patch_size: int, horizon: int, stride: int, accelerator: str
) -> dict[str, Any]:
    """Errors of zero-shot over the test part."""
    model = make_model(checkpoint, context, horizon, patch_size, accelerator)
    found = measure(model, data, "test", horizon, stride, context, None)
    settings = {"context": context, "patch_size": patch_size}
    row = {**found.metrics, "seconds": found.seconds, "settings": settings}
    _print_row(data, horizon, "zero-shot", row)
    return {"rows": {"zero-shot": row}}


def speed(checkpoint: str, threads: int) -> dict[str, Any]:
    """Median seconds of sampled forecasts of random walks, by patch size, and the size of the weights' file."""
    count, context, horizon, samples = (SPEED[name] for name in ("forecasts", "context", "horizon", "samples"))
    walks = np.random.default_rng(0).standard_normal((count, context)).cumsum(axis=1).astype(np.float32)
    series = [TimeSeries.from_values(walk) for walk in walks]
    before, seconds = torch.get_num_threads(), {}
    torch.set_num_threads(threads)
    try:
        for patch in fitting_patches(checkpoint, context, horizon):
            model = make_model(checkpoint, context, horizon, patch, likelihood="native")
            model.predict(horizon, series[:2], num_samples=2)  # loads the weights
            runs = []
            for _ in range(SPEED["rounds"]):
                begin = time.perf_counter()
                model.predict(horizon, series, num_samples=samples)
                runs.append(time.perf_counter() - begin)
            seconds[str(patch)] = statistics.median(runs)
    finally:
        torch.set_num_threads(before)
    file = Path(describe(checkpoint)[0].location).expanduser() / WEIGHTS_FILE
    return {"threads": threads, **SPEED, "seconds_by_patch_size": seconds, "weight_file_bytes": file.stat().st_size}


# ------------------------------------------------------------------------------------------------------------- results


def entry_of(arguments: argparse.Namespace, data: Dataset | None = None) -> dict[str, Any]:
    """What an entry says beside its figures."""
    entry: dict[str, Any] = {
        **provenance(),
        "command": arguments.command,
        "weights": weights_hash(arguments.checkpoint),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()},
    }
    return entry if data is None else {**entry, "dataset": data.name, "data_hash": values_hash(data)}


def values_hash(data: Dataset) -> str:
    """sha256 of the values' bytes alone; `Dataset.hash` also covers times, names and parts."""
    return hashlib.sha256(np.ascontiguousarray(data.values).data).hexdigest()


def weights_hash(checkpoint: str) -> str:
    return state_hash(load_state(describe(checkpoint)[0]))


def _print_row(data: Dataset, horizon: int, label: str, row: dict[str, Any]) -> None:
    figures = "  ".join(f"{name} {row[name]:.4f}" for name in ("mse", "mae", "crps", "coverage") if name in row)
    print(f"{data.name}-{horizon:<4d} {label:24s} {figures}  {row['seconds']:.0f} s", flush=True)


# ------------------------------------------------------------------------------------------------------- command line


def run(arguments: argparse.Namespace) -> None:
    """Measures what the command asks for, and keeps each data set's and horizon's figures as soon as they are there."""
    read(arguments.results)  # a file that can't be added to is noticed before hours of work
    if arguments.command == "speed":
        found = speed(arguments.checkpoint, arguments.threads)
        append(arguments.results, {**entry_of(arguments), **found})
        print(f"weights {found['weight_file_bytes'] / 1e6:.2f} MB; seconds by patch size:", end=" ")
        print(", ".join(f"{patch}: {value:.2f}" for patch, value in found["seconds_by_patch_size"].items()))
        return
    for name in arguments.datasets:
        data = load(name, "lsf", arguments.data)
        for horizon in [CHOICE_HORIZON] if arguments.command == "choose" else arguments.horizons:
            entry = {**entry_of(arguments, data), "horizon": horizon}
            if arguments.command == "choose":
                stride = arguments.stride or VALIDATION_STRIDE[name]
                found = choose(data, arguments.checkpoint, arguments.contexts, stride, arguments.accelerator)
                print("chosen: context {context}, patch size {patch_size}".format(**found["chosen"]), flush=True)
            else:
                pair = find_choice(read(arguments.results), entry["weights"], name, entry["data_hash"])
                found = test(data, arguments.checkpoint, *pair, horizon, arguments.stride, arguments.accelerator)
            append(arguments.results, {**entry, **found})


def parse(words: Sequence[str]) -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--checkpoint", default="moirai-tiny", help="directory of a checkpoint; default: the bundled")
    shared.add_argument("--results", type=Path, default=RESULTS, help="file that the entries are added to")
    sets = argparse.ArgumentParser(add_help=False)
    sets.add_argument("--data", help="folder with the data files; default: DARTS_MSFT_DATA, then Darts' cache")
    sets.add_argument("--datasets", nargs="+", default=list(VALIDATION_STRIDE), choices=VALIDATION_STRIDE)
    sets.add_argument("--accelerator", default="cpu", help="Lightning's, for the checkpoint's model")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks checkpoint", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    choosing = commands.add_parser("choose", parents=[shared, sets])
    choosing.add_argument("--contexts", nargs="+", type=whole, default=[512, 1024, 2048])
    choosing.add_argument("--stride", type=whole, help=f"steps between windows; default: {VALIDATION_STRIDE}")
    testing = commands.add_parser("test", parents=[shared, sets])
    testing.add_argument("--horizons", nargs="+", type=whole, default=[96, 336])
    testing.add_argument("--stride", type=whole, default=1, help="steps between test windows")
    timing = commands.add_parser("speed", parents=[shared])
    timing.add_argument("--threads", type=whole, default=2)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    quiet()
    arguments = parse(words)
    with misuse("--checkpoint: ", OSError, ValueError):
        describe(arguments.checkpoint)
    with misuse("", FileNotFoundError):  # of the data
        run(arguments)
