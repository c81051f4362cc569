"""The suites: lists of experiments by name.

- smoke: everything once, in minutes, on the bundled series; its figures mean nothing.
- harness: DLinear and PatchTST at the look-back of their papers, whose figures a right harness gives again.
- first: the bundled checkpoint against all that two processor cores can train, with a sampled budget.
- ablations: MSFT on ETTm1 at horizon 96, each switch a diff against one base; the budget is that of "first".
- lsf, pf: the paper's two families in full, every model.

A suite begins with seed 0 of everything, so a run that is stopped early has at least one seed of most models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.experiments import Budget, Experiment

SEEDS = (0, 1, 2)
UNSEEDED = ("zero_shot", "chronos2", "fracast", "seasonal_naive")  # nothing random is in them: one seed is all
OURS = ("msft", "full", "linear_probe", "prompt", "lora", "adalora", "zero_shot", "scratch")
BASELINES = ("dlinear", "patchtst", "itransformer", "timemixer", "fracast", "chronos2", "seasonal_naive")

HORIZONS = (96, 192, 336, 720)
LSF = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Electricity")
PF = {
    "Electricity": 24,
    "Solar": 24,
    "TurkeyPower": 24,
    "IstanbulTraffic": 24,
    "JenaWeather": 144,
}  # with their horizons

SMOKE_BUDGET = Budget(epochs=1, train_windows=64, validation_windows=16)
SMOKE_MODELS = ("seasonal_naive", "dlinear", "zero_shot", "msft", "full")
SMALL_BUDGET = Budget(epochs=8, train_windows=1000, validation_windows=200)
FIRST_MODELS = (
    *("zero_shot", "msft", "full", "lora", "linear_probe", "scratch"),
    *("dlinear", "fracast", "seasonal_naive", "patchtst"),
)
ABLATION_BASE = {"look_back": 512, "patch_size": 32}  # K is 2 by default here, and 3 at most
SWITCHES: tuple[dict[str, Any], ...] = (
    {},
    {"shared_adapters": True},
    {"shared_lora": True},
    *({"aggregator": aggregator} for aggregator in (None, "c2f", "f2c")),
    *({"weight_learning": way} for way in ("scale_loss", "mixed_loss", "uniform")),
    {"weight_init": "first"},
    {"mixing": "first"},
    {"upsampling": "linear"},
    {"attention": "full"},
    {"attention": "full", "aggregator": None},
    *({"num_scales": scales} for scales in (0, 1, 3)),
)
PROBABILISTIC_SWITCHES: tuple[dict[str, Any], ...] = ({}, {"mixing": "quantile"}, {"mixing": "samples"})


def load(name: str) -> list[Experiment]:
    """A suite's experiments, in the order in which they run."""
    if name not in SUITES:
        raise ValueError(f"suite {name!r} is not known; choose one of {', '.join(SUITES)}")
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
    """A day of half hours; the test windows of LSF are a day apart, so it is a quick look."""
    place = [("sea_temperature", 48)]
    lsf = grid("lsf", place, SMOKE_MODELS, [0], budget=SMOKE_BUDGET, test_stride=48)
    return lsf + grid("pf", place, SMOKE_MODELS, [0], budget=SMOKE_BUDGET)


def harness() -> list[Experiment]:
    places = [(name, 96) for name in ("ETTh1", "ETTm1", "Weather")]
    return grid("lsf", places, ("dlinear", "patchtst"), [0], {"look_back": 336})


def first() -> list[Experiment]:
    places = [(name, horizon) for name in ("ETTh1", "ETTm1", "Weather") for horizon in (96, 336)]
    lsf = grid("lsf", places, FIRST_MODELS, SEEDS, budget=SMALL_BUDGET)
    pf = grid("pf", [("ETTm1", 96), ("JenaWeather", 144)], FIRST_MODELS, SEEDS, budget=SMALL_BUDGET)
    return sorted(lsf + pf, key=lambda experiment: experiment.seed)


def ablations() -> list[Experiment]:
    return [
        Experiment(family, "ETTm1", 96, "msft", 0, {**ABLATION_BASE, **switches}, SMALL_BUDGET)
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
    "first": first,
    "ablations": ablations,
    "lsf": lsf,
    "pf": pf,
}
