"""The store as one DataFrame, a row a run and metric, and the names that readers see."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.errors import Misuse
from benchmarks.models import MODELS, OURS, Budget
from benchmarks.run import suites
from benchmarks.run.experiments import LOCATION, PROTOCOL
from benchmarks.run.store import METRICS, entries

FAMILIES = {"lsf": "Long-sequence forecasting", "pf": "Probabilistic forecasting"}
METRIC_NAMES = {"mse": "MSE", "mae": "MAE", "crps": "CRPS", "msis": "MSIS", "coverage": "coverage of 80 %"}
CAVEATS = {"fracast": "Fracast-0 was pretrained on ETT and Jena weather configurations, says its own card"}
SETTINGS = ("look_back", "patch_size", "lr")  # options that are chosen on validation data, or given


def read(folder: Path, suite_names: Sequence[str] = ()) -> pd.DataFrame:
    """Every run in the store, or those of the suites, of the present protocol; a row a run and metric.

    `options` are those that name a row, `fixed` the settings that were given and not chosen (both JSON, as `budget`),
    `state` is all else that runs of one row must share: weights, defaults, and the lists that were chosen from.
    """
    runs = [(path, run) for path, run in entries(folder, "run") if run["protocol"] == PROTOCOL]
    if not runs:
        raise Misuse(f"no results of protocol {PROTOCOL} in {folder}; make some by python -m benchmarks run")
    if suite_names:
        keys = {experiment.key for name in suite_names for experiment in suites.load(name)}
        runs = [(path, run) for path, run in runs if run["suite"] in suite_names or run["key"] in keys]
        if not runs:
            raise Misuse(f"no result in {folder} belongs to the suite {' or '.join(suite_names)}; run it first")
    rows = [(_row(path, run), run["metrics"], METRICS[run["experiment"]["family"]]) for path, run in runs]
    return pd.DataFrame([{**row, "metric": name, "value": found[name]} for row, found, names in rows for name in names])


def _options(run: Mapping[str, Any]) -> dict[str, Any]:
    """Its options, with the defaults from before `finest_context` was one: one scale, and for MSFT the paper's form."""
    options, model = run["experiment"]["options"], run["experiment"]["model"]
    if model not in OURS or "finest_context" in run["settings"]:
        return dict(options)
    before = {"finest_context": "look_back", "upsampling": "repeat"} if model == "msft" else {"num_scales": 0}
    return {**before, **options}


def _row(path: Path, run: Mapping[str, Any]) -> dict[str, Any]:
    experiment, provenance = run["experiment"], run["provenance"]
    given = {name: experiment["options"][name] for name in SETTINGS if name in experiment["options"]}
    lists = {name: value for name, value in given.items() if isinstance(value, list)}
    return {
        "family": experiment["family"],
        "stride": experiment["test_stride"] if experiment["family"] == "lsf" else 1,  # "pf" has no quick look
        "test_stride": experiment["test_stride"],
        "budget": canonical({**asdict(Budget()), **experiment["budget"]}),
        "fixed": canonical({name: value for name, value in given.items() if name not in lists}),
        "model": experiment["model"],
        "caveat": CAVEATS.get(experiment["model"], ""),
        "options": canonical(_naming(_options(run))),
        "state": canonical([run["weights"], run["defaults"], lists]),
        "weights": run["weights"] or "",
        "dataset": Path(experiment["dataset"]).name,
        "horizon": experiment["horizon"],
        "data_hash": run["data_hash"],
        "windows": run["windows"],
        "seed": experiment["seed"],
        "look_back": run["settings"]["look_back"],
        "trained_parameters": run["trained_parameters"],
        "fit_seconds": run["seconds"]["fit"],
        "fit_processor_seconds": run["processor_seconds"]["fit"],
        "made": provenance["made"],
        "commit": provenance["commit"][:7] + (" and changes" if provenance["dirty"] else ""),
        "file": path.name,
    }


def _naming(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that name a row; a backbone goes by its name, wherever it lies."""
    found = {name: value for name, value in options.items() if name not in (*SETTINGS, LOCATION)}
    place = options.get("backbone")
    local = place is not None and place.startswith((".", "/", "~"))
    return found if place is None else {**found, "backbone": Path(place).name if local else place}


def model_name(model: str) -> str:
    """As readers see it; one that is no more goes by its own name."""
    return MODELS[model][0] if model in MODELS else model


def row_name(model: str, options: str) -> str:
    text = options_text(json.loads(options))
    return f"{model_name(model)} ({text})" if text else model_name(model)


def options_text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def budget_text(budget: Mapping[str, Any]) -> str:
    """All of a budget in few words."""
    longer = "" if budget["baseline_epochs"] is None else f" ({budget['baseline_epochs']} for baselines)"
    windows = {name: budget[f"{name}_windows"] or "all" for name in ("train", "validation")}
    follows = "; patch size as chosen for zero-shot" if budget["zero_shot_choice"] else ""
    follows += ", at several scales the look-back too" if budget["zero_shot_look_back"] else ""
    return (
        f"{budget['epochs']} epochs{longer}, patience {budget['patience']}, batches of {budget['batch_size']}; "
        f"{windows['train']} training and {windows['validation']} validation windows; "
        f"look-backs {', '.join(map(str, budget['look_backs']))}{follows}"
    )


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
