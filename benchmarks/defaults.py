"""Which defaults: learning rates of every method, and MSFT's weights, mixing and scales, on validation data alone.

    python -m benchmarks defaults --data ../shared/data [--groups msft lora weights --datasets ETTh1 ETTm1 --seeds 0]

A group is a list of settings that are compared with each other; what they leave out is today's default. For each
method the rate of the parameters that it is about is varied; MSFT's pretrained and head rates are a tenth of that of
its new modules. Where methods, or the ways of learning MSFT's weights, are compared, a fit sees the first half of the
validation part and the second half is the judge: stacking solves for the weights on what a fit sees, which flatters
MSFT's score there. The test parts are not read. Runs that have an entry in
`results/defaults/<data set>.json` for the same weights and settings are skipped, so an interrupted command goes on
where it stopped; a file with runs on other data than those given is refused.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.metrics import mcrps

from benchmarks.arguments import seed, whole
from benchmarks.data.datasets import load
from benchmarks.errors import Misuse, misuse
from benchmarks.run.listings import append, read
from benchmarks.run.provenance import provenance
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.methods import find_method
from darts_msft.storage.weights import load_state, state_hash

RESULTS = Path(__file__).parent / "results" / "defaults"
STRIDES = {"ETTh1": 24, "ETTm1": 96}  # steps between training (and validation) windows: a day
CONTEXT, HORIZON = 512, 96
Settings = dict[str, Any]


def _rates(method: str, *rates: float) -> list[Settings]:
    """The method's settings where its main rate is each of `rates`."""
    names = {"full": ("pretrained", "head"), "scratch": ("pretrained", "head"), "linear_probe": ("head",)}
    main = names.get(method, ("new",))
    found = [{"method": method, **{f"lr_{name}": rate for name in main}} for rate in rates]
    if method == "msft":
        return [{**one, **dict.fromkeys(("lr_pretrained", "lr_head"), round(one["lr_new"] / 10, 9))} for one in found]
    return found


OMEGA_RATES = ({"lr_omega": 1e-2}, {"lr_omega": 1e-1})
GROUPS: dict[str, list[Settings]] = {
    "msft": _rates("msft", 1e-4, 3e-4, 1e-3, 3e-3),
    "full": _rates("full", 3e-5, 1e-4, 3e-4, 1e-3),
    "linear_probe": _rates("linear_probe", 3e-4, 1e-3, 3e-3, 1e-2),
    "prompt": _rates("prompt", 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "lora": _rates("lora", 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    "adalora": _rates("adalora", 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    "scratch": _rates("scratch", 3e-4, 1e-3, 3e-3, 1e-2),
    "weights": [
        {"method": "msft", "weight_learning": way, "validation_share": 0.5, **rate}
        for way, *rates in (
            ("stacking", {}),
            ("mixed_loss", *OMEGA_RATES),
            ("scale_loss", *OMEGA_RATES),
            ("uniform", {}),
        )
        for rate in rates
    ],
    "methods": [
        {"validation_share": 0.5, **settings}
        for settings in (
            {"method": "zero_shot"},
            {"method": "msft"},
            {"method": "full"},
            {"method": "lora"},
            {"method": "msft", "mixing": "quantile"},
            {"method": "msft", "num_scales": 0},
            {"method": "linear_probe"},
            {"method": "adalora"},
            {"method": "prompt"},
            {"method": "scratch"},
        )
    ],
    "mixing": [{"method": "msft", "mixing": way} for way in ("mixture", "quantile", "samples", "first")],
    "scales": [{"method": "msft", "num_scales": scales} for scales in (0, 1, 2, 3)],
}


def parts(name: str, folder: str | None) -> tuple[TimeSeries, TimeSeries]:
    """Training and validation series, standardised with training statistics; the latter looks back CONTEXT steps."""
    data = load(name, "lsf", folder)
    return data.series("train"), data.series("validation", CONTEXT)


def fit(run: dict[str, Any], folder: str | None) -> dict[str, Any]:
    """Validation scores (CRPS) of every state that the fit compared, the one before training first.

    With a `validation_share` below one the fit sees only so much of the validation part, from its beginning on;
    `held_back` is the CRPS of the rest.
    """
    train, validation = parts(run["dataset"], folder)
    settings = dict(run["settings"])
    share = settings.pop("validation_share", 1)
    end = CONTEXT + round(share * (len(validation) - CONTEXT))
    model = MSFTFoundationModel(
        CONTEXT,
        HORIZON,
        backbone=run["backbone"],
        n_epochs=run["epochs"],
        random_state=run["seed"],
        pl_trainer_kwargs={"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False},
        **settings,
    )
    begin = time.perf_counter()
    model.fit(train, val_series=validation[:end], stride=run["stride"])
    found = {"seconds": time.perf_counter() - begin}
    if end < len(validation):
        found["held_back"] = held_back(model, validation[end - CONTEXT :], run["stride"])
    scores = {candidate.label: candidate.score for candidate in model.candidates}
    best = min(scores.values(), default=None)  # zero-shot has none
    return {"scores": scores, "best": best, "scale_weights": model.scale_weights.tolist(), **found}


def held_back(model: MSFTFoundationModel, series: TimeSeries, stride: int) -> float:
    """CRPS, from 100 samples, of forecasts `stride` steps apart after the first CONTEXT steps of `series`."""
    found = model.historical_forecasts(
        series,
        start=CONTEXT,
        stride=stride,
        forecast_horizon=HORIZON,
        retrain=False,
        last_points_only=False,
        num_samples=100,
        verbose=False,
    )
    return float(np.mean(mcrps([series] * len(found), found)))


def plan(arguments: argparse.Namespace, dataset: str) -> list[dict[str, Any]]:
    """Every run on a data set, as what tells it from others: settings that two groups share are one run."""
    shared = {"backbone": arguments.backbone, "weights": state_hash(load_state(describe(arguments.backbone)[0]))}
    shared |= {"context": CONTEXT, "horizon": HORIZON, "epochs": arguments.epochs}
    shared |= {"dataset": dataset, "stride": STRIDES[dataset]}
    runs = [
        {**shared, "settings": resolved(settings), "seed": seed}
        for group in arguments.groups
        for settings in GROUPS[group]
        for seed in arguments.seeds
    ]
    return [run for index, run in enumerate(runs) if run not in runs[:index]]


def resolved(settings: Settings) -> Settings:
    """The settings with the rates that the method has by default today, and MSFT's compared switches likewise."""
    found = {f"lr_{name}": rate for name, rate in find_method(settings["method"]).rates.to_dict().items()}
    if settings["method"] == "msft":
        found |= {"weight_learning": "stacking", "mixing": "mixture", "num_scales": None}
    return used({**found, **settings})


def used(settings: Settings) -> Settings:
    """Without the rates of groups of parameters that the method does not train; older entries name them."""
    rates = {f"lr_{name}" for name in find_method(settings["method"]).groups}
    return {name: value for name, value in settings.items() if not name.startswith("lr_") or name in rates}


def settings_of(entry: dict[str, Any]) -> dict[str, Any]:
    """What was run, as `plan` says it."""
    return {**entry["run"], "settings": used(entry["run"]["settings"])}


def run_missing(arguments: argparse.Namespace, dataset: str) -> None:
    """Measures what has no entry, and says how much has one."""
    path, runs = arguments.results / f"{dataset}.json", plan(arguments, dataset)
    stored = [entry for entry in read(path) if settings_of(entry) in runs]
    missing = [run for run in runs if run not in map(settings_of, stored)]
    rest = "" if missing else ", nothing is measured"
    print(f"{dataset}: {len(runs) - len(missing)} of {len(runs)} runs are in {path}{rest}", flush=True)
    try:
        data_hash = load(dataset, "lsf", arguments.data).hash
    except FileNotFoundError as error:
        if missing:
            raise
        print(f"{dataset}: whether they are of the data given can't be told: {error}", flush=True)
        return
    check_data(path, stored, data_hash)
    for run in missing:
        if any(settings_of(entry) == run for entry in read(path)):  # another process has come first
            continue
        entry = {"run": run, **provenance(), "data_hash": data_hash, **fit(run, arguments.data)}
        append(path, entry)
        score = entry.get("held_back", entry["best"])
        print(dataset, run["settings"], f"{score:.4f}", f"{entry['seconds']:.0f} s", flush=True)


def check_data(path: Path, stored: Sequence[dict[str, Any]], data_hash: str) -> None:
    """Misuse where an entry is of other data; the oldest don't say of which they are."""
    if others := sorted({entry["data_hash"] for entry in stored if entry.get("data_hash", data_hash) != data_hash}):
        raise Misuse(
            f"{path} has runs on data with the hash {others[0][:12]}..., and those given have {data_hash[:12]}...; "
            "give the same data by --data, or another folder by --results"
        )


def table(arguments: argparse.Namespace) -> None:
    """Prints each setting's best validation score and its ratio to that before training (zero-shot); where a
    part was held back, the score there.

    For "scratch" the untrained state is no measure: there the score alone counts.
    """
    print("\nbest validation CRPS (over that before training), mean over seeds")
    entries = {name: read(arguments.results / f"{name}.json") for name in arguments.datasets}
    for group in arguments.groups:
        for settings in GROUPS[group]:
            cells, apart = "", "validation_share" in settings
            for name in arguments.datasets:
                wanted = [run for run in plan(arguments, name) if run["settings"] == resolved(settings)]
                own = [entry for entry in entries[name] if settings_of(entry) in wanted]
                if own:
                    cells += f"  {name} {np.mean([entry.get('held_back', entry['best']) for entry in own]):.4f}"
                if own and group != "scratch" and not apart:
                    ratio = np.mean([entry["best"] / next(iter(entry["scores"].values())) for entry in own])
                    cells += f" ({ratio:.4f})"
            changes = " ".join(f"{key}={value}" for key, value in settings.items() if key != "method")
            changes += "" if settings["method"] == group else f" method={settings['method']}"
            print(f"{group:<14}{changes:<60}{cells}")


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks defaults", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", help="folder with the ETT files")
    parser.add_argument("--backbone", default="moirai-tiny")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--datasets", nargs="+", default=list(STRIDES), choices=list(STRIDES))
    parser.add_argument("--seeds", nargs="+", type=seed, default=[0])
    parser.add_argument("--epochs", type=whole, default=4)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the entries")
    arguments = parser.parse_args(words)
    with misuse("--backbone: ", OSError, ValueError):
        describe(arguments.backbone)
    with misuse("", FileNotFoundError):  # of the data
        for dataset in arguments.datasets:
            run_missing(arguments, dataset)
        table(arguments)
