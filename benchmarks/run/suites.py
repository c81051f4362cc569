"""The suites: lists of experiments by name; and what the suite "harness" must give.

- smoke: both families with five models, in minutes, on the bundled series; its figures mean nothing.
- harness: DLinear and PatchTST as their papers train them, whose figures a right harness gives again
  (`python -m benchmarks check`).
- card: what stands beside the bundled checkpoint's zero-shot figures on its model card: DLinear as its paper trains it
  (at horizon 96 these are experiments of "harness", so what that measured isn't measured again) and seasonal naive.
- first: the bundled checkpoint against all that two processor cores can train, with a sampled budget;
  what begins from random weights may train four times as long. Every trained model chooses its look-back.
- fracast: Fracast-0 at the places of "first". It takes days on two cores; `--stride` gives a quick look.
- ablations: MSFT on ETTm1 at horizon 96, each switch and rate a diff against one base; the budget is that of "first".
- lsf, pf: the paper's two families in full, every model.

A suite begins with seed 0 of everything, so a run that is stopped early has at least one seed of most models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse
from benchmarks.models import Budget
from benchmarks.run import store
from benchmarks.run.experiments import Experiment

SEEDS = (0, 1, 2)
UNSEEDED = ("zero_shot", "chronos2", "fracast", "seasonal_naive")  # nothing random is in them: one seed is all
OURS = ("msft", "full", "linear_probe", "prompt", "lora", "adalora", "zero_shot", "scratch")
BASELINES = ("dlinear", "patchtst", "itransformer", "timemixer", "fracast", "chronos2", "seasonal_naive")

HORIZONS = (96, 192, 336, 720)
LSF = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Electricity")
PF = {"Electricity": 24, "Solar": 24, "TurkeyPower": 24, "IstanbulTraffic": 24, "JenaWeather": 144}  # a day, in steps

SMOKE_BUDGET = Budget(epochs=1, train_windows=64, validation_windows=16, look_backs=(96, 336), zero_shot_choice=True)
SMOKE_MODELS = ("seasonal_naive", "dlinear", "zero_shot", "msft", "full")
SMALL_BUDGET = Budget(
    epochs=5,
    baseline_epochs=20,
    train_windows=512,
    validation_windows=200,
    look_backs=(336, 512, 1024),
    zero_shot_choice=True,
)
# Weather has 21 variables where ETT has 7, and a window is a window of all: a third of the windows in as many batches
# are about as many series to learn from (16 batches of 11 x 21 = 231 an epoch; of ETT 32 x 7 = 224).
WIDE_BUDGET = replace(SMALL_BUDGET, batch_size=11, train_windows=16 * 11)
WIDE = ("Weather", "JenaWeather")
FIRST_OURS = ("zero_shot", "msft", "full", "lora", "linear_probe", "scratch")
FIRST_BASELINES = ("seasonal_naive", "dlinear", "patchtst", "itransformer", "timemixer")
FIRST_OPTIONS = {"patch_size": [16, 32]}  # of ours
FIRST_LSF = [(name, horizon) for name in ("ETTh1", "ETTm1", "Weather") for horizon in (96, 336)]
FIRST_PF = [("ETTm1", 96), ("JenaWeather", 144)]
# Epochs and batch sizes of the papers' scripts (models/trained.py says where they are), DLinear's the same at every
# horizon. No fit ends early: PatchTST's one-cycle rate rises for 40 of its 100 epochs.
HARNESS_BUDGETS = {
    ("dlinear", "ETTh1"): Budget(epochs=10, patience=10, batch_size=32),
    ("dlinear", "ETTm1"): Budget(epochs=10, patience=10, batch_size=8),
    ("dlinear", "Weather"): Budget(epochs=10, patience=10, batch_size=16),
    **{("patchtst", name): Budget(epochs=100, patience=100, batch_size=128) for name in ("ETTh1", "ETTm1", "Weather")},
}
HARNESS_SEEDS = {"dlinear": SEEDS, "patchtst": (0,)}  # DLinear's differ by up to 5 %; one of PatchTST takes hours
HARNESS_OPTIONS = {"look_back": 336, "lr": "paper"}
# MSE at horizon 96 and look-back 336 as the papers print them (Zeng et al., AAAI 2023, table 2; Nie et al., ICLR 2023,
# table 3), and how far the mean over the seeds may be away, relatively.
REFERENCES = {
    ("dlinear", "ETTh1"): (0.375, 0.02),
    ("dlinear", "ETTm1"): (0.299, 0.02),
    ("dlinear", "Weather"): (0.176, 0.02),
    ("patchtst", "ETTh1"): (0.375, 0.03),
    ("patchtst", "ETTm1"): (0.290, 0.03),
    ("patchtst", "Weather"): (0.152, 0.03),
}
ABLATION_BASE = {"look_back": 512, "patch_size": 32}  # K is 2 by default here, and 3 at most
SWITCHES: tuple[dict[str, Any], ...] = (
    {},
    {"lr_pretrained": 1e-5, "lr_new": 1e-4, "lr_head": 1e-5},  # a third of the defaults
    {"lr_pretrained": 1e-4, "lr_new": 1e-3, "lr_head": 1e-4},
    {"shared_adapters": True},
    {"shared_lora": True},
    *({"aggregator": aggregator} for aggregator in (None, "c2f", "f2c")),
    *({"weight_learning": way} for way in ("scale_loss", "mixed_loss", "uniform")),
    {"weight_init": "first"},
    {"mixing": "first"},
    {"upsampling": "linear"},
    {"attention": "full"},
    {"attention": "one_sequence"},
    *({"num_scales": scales} for scales in (0, 1, 3)),
)
PROBABILISTIC_SWITCHES: tuple[dict[str, Any], ...] = ({}, {"mixing": "quantile"}, {"mixing": "samples"})


def load(name: str) -> list[Experiment]:
    """A suite's experiments, in the order in which they run."""
    if name not in SUITES:
        raise Misuse(f"suite {name!r} is not known; choose one of {', '.join(SUITES)}")
    return SUITES[name]()


def grid(
    family: str,
    places: Iterable[tuple[str, int]],
    models: Iterable[str],
    seeds: Iterable[int],
    options: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
    test_stride: int = 1,
) -> list[Experiment]:
    """Every model on every (data set, horizon), seed by seed; what has nothing random in it with the first alone."""
    places, models, seeds = list(places), list(models), list(seeds)
    return [
        Experiment(family, dataset, horizon, model, seed, options or {}, budget or Budget(), test_stride)
        for seed in seeds
        for dataset, horizon in places
        for model in models
        if seed == seeds[0] or model not in UNSEEDED
    ]


def smoke() -> list[Experiment]:
    """A day of half hours, few test windows and few samples: a quick look."""
    place, few = [("sea_temperature", 48)], {"num_samples": 100}
    lsf = grid("lsf", place, SMOKE_MODELS, [0], budget=SMOKE_BUDGET, test_stride=4 * 48)
    pf = grid("pf", place, SMOKE_MODELS[:2], [0], budget=SMOKE_BUDGET)
    return lsf + pf + grid("pf", place, SMOKE_MODELS[2:], [0], few, SMOKE_BUDGET)


def harness() -> list[Experiment]:
    return [
        Experiment("lsf", dataset, 96, model, seed, HARNESS_OPTIONS, budget)
        for seed in SEEDS
        for (model, dataset), budget in HARNESS_BUDGETS.items()
        if seed in HARNESS_SEEDS[model]
    ]


def card() -> list[Experiment]:
    dlinear = [
        Experiment("lsf", dataset, horizon, "dlinear", seed, HARNESS_OPTIONS, HARNESS_BUDGETS["dlinear", dataset])
        for seed in SEEDS
        for dataset, horizon in FIRST_LSF
    ]
    return grid("lsf", FIRST_LSF, ["seasonal_naive"], SEEDS) + dlinear


def first_budget(dataset: str) -> Budget:
    return WIDE_BUDGET if dataset in WIDE else SMALL_BUDGET


def first() -> list[Experiment]:
    """Place after place, all models of each."""
    found = [
        experiment
        for family, places in (("lsf", FIRST_LSF), ("pf", FIRST_PF))
        for place in places
        for models, options in ((FIRST_OURS, FIRST_OPTIONS), (FIRST_BASELINES, {}))
        for experiment in grid(family, [place], models, SEEDS, options, first_budget(place[0]))
    ]
    return sorted(found, key=lambda experiment: experiment.seed)


def fracast() -> list[Experiment]:
    """One look-back, its longest: a shorter context costs it as much, and a choice three times as much."""
    look_back = {"look_back": [2048]}  # a list of one: a row of the same table as the models that chose theirs
    return [
        experiment
        for family, places in (("lsf", FIRST_LSF), ("pf", FIRST_PF))
        for place in places
        for experiment in grid(family, [place], ["fracast"], [0], look_back, first_budget(place[0]))
    ]


def ablations() -> list[Experiment]:
    return [
        Experiment(family, "ETTm1", 96, "msft", seed, {**ABLATION_BASE, **switches}, SMALL_BUDGET)
        for seed in SEEDS
        for family, sets in (("lsf", SWITCHES), ("pf", PROBABILISTIC_SWITCHES))
        for switches in sets
    ]


def lsf() -> list[Experiment]:
    return grid("lsf", [(name, horizon) for name in LSF for horizon in HORIZONS], (*OURS, *BASELINES), SEEDS)


def pf() -> list[Experiment]:
    return grid("pf", PF.items(), (*OURS, *BASELINES), SEEDS)


SUITES: dict[str, Callable[[], list[Experiment]]] = {
    "smoke": smoke,
    "harness": harness,
    "card": card,
    "first": first,
    "fracast": fracast,
    "ablations": ablations,
    "lsf": lsf,
    "pf": pf,
}


def check(folder: Path) -> int:
    """Prints a line for each reference; 0 where all are met by results of all seeds.

    Of a key the newest result counts that was measured on the published file, with today's protocol and recipe.
    """
    from benchmarks.data.files import REGISTRY
    from benchmarks.run.measures import standing

    failed, entries = False, [entry for _, entry in store.entries(folder, "run")]
    for (model, dataset), (reference, most) in REFERENCES.items():
        published = {"file_hash": REGISTRY["lsf"][dataset][0].digest}
        found, missing = [], []
        for each in harness():
            if (each.model, each.dataset) != (model, dataset):
                continue
            wanted = {"key": each.key, **published, **standing(each)}
            own = [entry for entry in entries if wanted.items() <= entry.items()]
            newest = max(own, key=lambda entry: entry["provenance"]["made"], default=None)
            found += [] if newest is None else [newest["metrics"]["mse"]]
            missing += [each.seed] if newest is None else []
        away = sum(found) / len(found) / reference - 1 if found else float("nan")
        passed = not missing and abs(away) <= most
        absent = f", no result of seed {', '.join(map(str, missing))}" if missing else ""
        print(
            f"{model} {dataset}: MSE {', '.join(f'{mse:.4f}' for mse in found) or 'not measured'}, reference "
            f"{reference:.3f}, {away:+.1%} of at most {most:.0%}{absent}: {'passed' if passed else 'FAILED'}"
        )
        failed |= not passed
    return int(failed)
