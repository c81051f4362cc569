"""The bundled checkpoint's figures beside seasonal naive and DLinear, on ETTh1, ETTm1 and Weather.

    python -m benchmarks.checkpoint choose   --data ../shared/data   # context and patch size, on the validation part
    python -m benchmarks.checkpoint test     --data ../shared/data   # zero-shot and the baselines, on the test part
    python -m benchmarks.checkpoint finetune --data ../shared/data   # methods with the same budget, by seed
    python -m benchmarks.checkpoint speed                            # seconds for 256 forecasts, size of the weights

`--checkpoint DIR` takes another checkpoint. `test` and `finetune` read context and patch size from the newest entry
that `choose` wrote for the same weights, so nothing is ever chosen on the test part. Every data set and horizon adds
an entry to `results/checkpoint.json`. How the data are split and scaled: `parts.py`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression

from benchmarks import dlinear
from benchmarks.listings import append, read
from benchmarks.parts import QUANTILES, STEPS_PER_DAY, VALIDATION_STRIDE, Data, load, naive_score, score
from benchmarks.provenance import provenance
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe, load_class
from darts_msft.methods import METHODS
from darts_msft.pyramid import ScalePlan
from darts_msft.weights import WEIGHTS_FILE, load_state, state_hash

RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
MODELS = ("zero-shot", "seasonal naive", "DLinear")
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
    sizes = [size for size in cls.patch_sizes(config) if size <= context]
    return [p for p in sizes if limit is None or ScalePlan(context, horizon, p, 0).token_counts[0] <= limit]


# ------------------------------------------------------------------------------------------------------------ measures


def choose(
    data: Data, checkpoint: str, contexts: list[int], horizon: int, stride: int, accelerator: str = "cpu"
) -> dict[str, Any]:
    """Zero-shot on the validation part by context and patch size, and the pair with the lowest MSE."""
    rows = []
    for context in contexts:
        for patch in fitting_patches(checkpoint, context, horizon):
            begin = time.perf_counter()
            quantiles = QuantileRegression(list(QUANTILES))
            model = make_model(checkpoint, context, horizon, patch, accelerator, likelihood=quantiles)
            row = {"context": context, "patch_size": patch}
            row |= score(model, data, "validation", horizon, stride, QUANTILES)
            rows.append({**row, "seconds": time.perf_counter() - begin})
            _print_row(data, horizon, f"context {context} patch {patch}", rows[-1])
    if not rows:
        raise ValueError(f"no patch size of {checkpoint!r} fits any context of {contexts}; give other contexts")
    return {"rows": rows, "chosen": min(rows, key=lambda row: row["mse"])}


def find_choice(entries: list[dict[str, Any]], weights: str, dataset: str) -> tuple[int, int]:
    """Context and patch size of the newest `choose` entry for these weights and data set."""
    wanted = {"command": "choose", "weights": weights, "dataset": dataset}
    for entry in reversed(entries):
        if wanted.items() <= entry.items():
            return entry["chosen"]["context"], entry["chosen"]["patch_size"]
    raise ValueError(
        f"no context and patch size were chosen for weights {weights[:12]}... on {dataset}; run first: "
        f"python -m benchmarks.checkpoint choose --datasets {dataset}, with the same --checkpoint"
    )


def test(data: Data, horizon: int, context: int, patch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Errors of zero-shot and of the baselines over the test part."""
    where = (data, "test", horizon, arguments.stride)
    rows: dict[str, dict[str, Any]] = {}
    for name in arguments.models:
        begin = time.perf_counter()
        settings: dict[str, Any]
        if name == "zero-shot":
            settings = {"context": context, "patch_size": patch_size}
            model = make_model(arguments.checkpoint, context, horizon, patch_size, arguments.accelerator)
            found = score(model, *where)
        elif name == "DLinear":
            model, settings = dlinear.best(data, horizon, VALIDATION_STRIDE[data.name])
            found = score(model, *where)
        else:
            settings, found = {"steps_per_day": data.day}, naive_score(*where)
        rows[name] = {**found, "seconds": time.perf_counter() - begin, "settings": settings}
        _print_row(data, horizon, name, rows[name])
    return {"rows": rows}


def finetune(data: Data, horizon: int, context: int, patch_size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Errors after finetuning, by method and seed, all with the same epochs and windows; zero-shot beside them.

    The validation part picks each run's best epoch, so its own errors flatter all methods a little.
    """
    where = (data, arguments.part, horizon, arguments.stride)
    rows = []
    for method in arguments.methods:
        for seed in arguments.seeds:
            model = make_model(
                arguments.checkpoint,
                context,
                horizon,
                patch_size,
                arguments.accelerator,
                method=method,
                n_epochs=arguments.epochs,
                random_state=seed,
            )
            begin = time.perf_counter()
            validation = data.series("validation", context)
            model.fit(data.series("train"), val_series=validation, stride=arguments.train_stride)
            row = {"method": method, "seed": seed, "fit_seconds": time.perf_counter() - begin}
            row |= score(model, *where)
            row["trainable_parameters"] = sum(p.numel() for p in model.model.parameters() if p.requires_grad)
            row["scale_weights"] = model.scale_weights.tolist()
            row["candidates"] = [[state.label, state.score] for state in model.candidates]
            rows.append(row)
            _print_row(data, horizon, f"{method} seed {seed}", row)
    zero_shot = score(make_model(arguments.checkpoint, context, horizon, patch_size, arguments.accelerator), *where)
    _print_row(data, horizon, "zero-shot", zero_shot)
    return {"context": context, "patch_size": patch_size, "rows": rows, "zero-shot": zero_shot}


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


def entry_of(arguments: argparse.Namespace, data: Data | None = None) -> dict[str, Any]:
    """What an entry says beside its figures."""
    entry: dict[str, Any] = {
        **provenance(),
        "command": arguments.command,
        "weights": weights_hash(arguments.checkpoint),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()},
    }
    return entry if data is None else {**entry, "dataset": data.name, "data_hash": data.hash}


def weights_hash(checkpoint: str) -> str:
    return state_hash(load_state(describe(checkpoint)[0]))


def _print_row(data: Data, horizon: int, label: str, row: dict[str, Any]) -> None:
    names = [name for name in ("mse", "mae", "pinball", "coverage") if name in row]
    seconds = row.get("seconds", row.get("fit_seconds"))
    figures = "  ".join(f"{name} {row[name]:.4f}" for name in names)
    end = "" if seconds is None else f"  {seconds:.0f} s"
    print(f"{data.name}-{horizon:<4d} {label:24s} {figures}{end}", flush=True)


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
        data = load(name, arguments.data)
        for horizon in arguments.horizons:
            entry = {**entry_of(arguments, data), "horizon": horizon}
            if arguments.command == "choose":
                stride = arguments.stride or VALIDATION_STRIDE[name]
                found = choose(data, arguments.checkpoint, arguments.contexts, horizon, stride, arguments.accelerator)
                print("chosen: context {context}, patch size {patch_size}".format(**found["chosen"]), flush=True)
                found = {"stride": stride, **found}
            else:
                measure = test if arguments.command == "test" else finetune
                found = measure(data, horizon, *_window(arguments, name, entry["weights"]), arguments)
            append(arguments.results, {**entry, **found})


def _window(arguments: argparse.Namespace, dataset: str, weights: str) -> tuple[int, int]:
    """Context and patch size: as given, else as chosen on validation; zeros where only baselines are asked for."""
    given = getattr(arguments, "context", None), getattr(arguments, "patch_size", None)
    if all(given):
        return given
    if arguments.command == "test" and "zero-shot" not in arguments.models:
        return 0, 0
    context, patch_size = find_choice(read(arguments.results), weights, dataset)
    return given[0] or context, given[1] or patch_size


def parse(words: list[str] | None = None) -> argparse.Namespace:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--checkpoint", default="moirai-tiny", help="directory of a checkpoint; default: the bundled")
    shared.add_argument("--results", type=Path, default=RESULTS, help="file that the entries are added to")
    sets = argparse.ArgumentParser(add_help=False)
    sets.add_argument("--data", help="folder with ETTh1.csv, ETTm1.csv and weather.csv")
    sets.add_argument("--datasets", nargs="+", default=list(STEPS_PER_DAY), choices=STEPS_PER_DAY)
    sets.add_argument("--accelerator", default="cpu", help="Lightning's, for the checkpoint's model")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.checkpoint", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    choosing = commands.add_parser("choose", parents=[shared, sets])
    choosing.add_argument("--contexts", nargs="+", type=int, default=[256, 512, 1024, 2048])
    choosing.add_argument("--stride", type=int, help=f"steps between windows; default: {VALIDATION_STRIDE}")
    choosing.add_argument("--horizon", dest="horizons", nargs=1, type=int, default=[96], metavar="H")
    testing = commands.add_parser("test", parents=[shared, sets])
    testing.add_argument("--horizons", nargs="+", type=int, default=[96, 336])
    testing.add_argument("--stride", type=int, default=1, help="steps between test windows")
    testing.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    tuning = commands.add_parser("finetune", parents=[shared, sets])
    tuning.add_argument("--horizons", nargs="+", type=int, default=[96])
    tuning.add_argument("--methods", nargs="+", default=["msft"], choices=sorted(METHODS))
    tuning.add_argument("--seeds", nargs="+", type=int, default=[0])
    tuning.add_argument("--epochs", type=int, default=8)
    tuning.add_argument("--train-stride", type=int, default=8, help="steps between training (and validation) windows")
    tuning.add_argument("--part", default="test", choices=("validation", "test"))
    tuning.add_argument("--stride", type=int, default=1, help="steps between the windows that are measured")
    tuning.add_argument("--context", type=int, help="steps; default: the chosen")
    tuning.add_argument("--patch-size", type=int, help="default: the chosen")
    timing = commands.add_parser("speed", parents=[shared])
    timing.add_argument("--threads", type=int, default=2)
    return parser.parse_args(words)


def be_quiet() -> None:
    logging.disable(logging.INFO)  # Lightning's, at every forecast
    warnings.filterwarnings("ignore", message=".*('pin_memory'|LeafSpec).*")


def main() -> None:
    be_quiet()
    run(parse())


if __name__ == "__main__":
    main()
