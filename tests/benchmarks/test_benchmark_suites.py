"""The suites: names that exist, and what each is for."""

from __future__ import annotations

import inspect
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.data import datasets
from benchmarks.data.datasets import Dataset
from benchmarks.models import MODELS, load_forecaster
from benchmarks.models.papers import DLINEAR_RATES
from benchmarks.run import suites
from benchmarks.run.experiments import Budget
from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method
from darts_msft.scales.pyramid import largest_num_scales


@pytest.mark.parametrize("name", suites.SUITES)
def test_names_are_registered_and_nothing_is_there_twice(name: str) -> None:
    experiments = suites.load(name)
    for experiment in experiments:
        assert experiment.dataset in datasets.known(experiment.family)
        assert experiment.model in MODELS
    assert max(Counter(experiment.key for experiment in experiments).values()) == 1
    seeds = [experiment.seed for experiment in experiments]
    assert seeds == sorted(seeds)


def test_unknown_suite() -> None:
    with pytest.raises(ValueError, match="suite 'fast' is not known; choose one of smoke, harness, card, first"):
        suites.load("fast")


def test_the_lists_are_the_registry_s() -> None:
    assert {*suites.OURS, *suites.BASELINES} == set(MODELS)
    assert set(suites.OURS) == set(METHODS)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_not_trained_has_one_seed(name: str) -> None:
    try:
        trains = load_forecaster(name, {}, suites.SMALL_BUDGET).trains
    except ModuleNotFoundError as error:
        pytest.skip(str(error))
    assert trains == (name not in suites.UNSEEDED)
    for suite in ("lsf", "pf", "first"):
        places = Counter((e.family, e.dataset, e.horizon) for e in suites.load(suite) if e.model == name)
        assert set(places.values()) <= {3 if trains else 1}


def test_lsf_is_the_paper_s_grid() -> None:
    found = {(e.dataset, e.horizon, e.model) for e in suites.load("lsf")}
    sets = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Electricity")
    assert found == {(s, h, m) for s in sets for h in (96, 192, 336, 720) for m in MODELS}
    assert {(e.family, e.test_stride) for e in suites.load("lsf")} == {("lsf", 1)}
    assert {e.budget for e in suites.load("lsf")} == {Budget()}
    assert all(e.options == {} for e in suites.load("lsf"))


def test_pf_is_the_paper_s_grid() -> None:
    assert {e.dataset for e in suites.load("pf")} == set(suites.PF)
    for experiment in suites.load("pf"):
        assert experiment.horizon == datasets.prediction_length(experiment.dataset) == experiment.test_stride
        assert experiment.family == "pf"


def test_first_is_what_the_issue_asks_for() -> None:
    lsf = [e for e in suites.load("first") if e.family == "lsf"]
    assert {(e.dataset, e.horizon) for e in lsf} == {(s, h) for s in ("ETTh1", "ETTm1", "Weather") for h in (96, 336)}
    assert {e.test_stride for e in lsf} == {1}
    assert {e.model for e in lsf} == {
        *("zero_shot", "msft", "full", "lora", "linear_probe", "scratch"),
        *("dlinear", "seasonal_naive", "patchtst", "itransformer", "timemixer"),
    }
    seeds_and_places = [(e.seed, e.family, e.dataset, e.horizon) for e in suites.load("first")]
    assert len([one for one, _ in itertools.groupby(seeds_and_places)]) == len(set(seeds_and_places)) == 3 * 8
    for budget in {e.budget for e in suites.load("first")}:
        assert budget.zero_shot_choice
        assert budget.look_backs == (336, 512, 1024)
        assert (budget.epochs, budget.baseline_epochs, budget.train_batches) == (5, 20, 16)
    pf = [e for e in suites.load("first") if e.family == "pf"]
    assert {(e.dataset, e.horizon) for e in pf} == {("JenaWeather", 144), ("ETTm1", 96)}


@pytest.mark.parametrize("suite", ["first", "fracast"])
def test_first_trains_on_about_as_many_series_whatever_the_number_of_variables(suite: str) -> None:
    variables = {"ETTh1": 7, "ETTm1": 7, "Weather": 21, "JenaWeather": 21}
    series = {e.dataset: e.budget.train_windows * variables[e.dataset] for e in suites.load(suite)}
    assert series.keys() == variables.keys()
    assert max(series.values()) < 1.05 * min(series.values())
    assert {e.budget.batch_size * variables[e.dataset] for e in suites.load(suite)} == {224, 231}


def test_first_offers_all_of_ours_the_same_places() -> None:
    """Two patch sizes and three contexts; the patch size is chosen for the zero-shot model and then for all."""
    places = {"train": (0, 9000), "validation": (9000, 9500), "test": (9500, 9999)}
    data = Dataset("ETTh1", "lsf", "h", 24, np.zeros((9999, 1), np.float32), ("a",), pd.DatetimeIndex([]), places)
    ours = {e.model: e for e in suites.load("first") if e.model in suites.OURS}
    first = load_forecaster("zero_shot", ours["zero_shot"].options, suites.SMALL_BUDGET).candidates(data, 96)
    chosen = [(settings["look_back"], settings["patch_size"]) for settings in first]
    assert chosen == [(steps, patch) for steps in (336, 512, 1024) for patch in (16, 32)]
    for model in ours.keys() - {"zero_shot"}:
        forecaster = load_forecaster(model, ours[model].options, suites.SMALL_BUDGET)
        assert forecaster.leader() == ("zero_shot", ours["zero_shot"].options)
        own = [(settings["look_back"], settings["patch_size"]) for settings in forecaster.candidates(data, 96)]
        assert own == chosen


def test_fracast_is_at_the_places_of_first_with_one_context() -> None:
    def places(suite: str) -> set[tuple[str, str, int]]:
        return {(e.family, e.dataset, e.horizon) for e in suites.load(suite)}

    assert places("fracast") == places("first")
    assert "fracast" not in {e.model for e in suites.load("first")}
    for experiment in suites.load("fracast"):
        assert experiment.budget == suites.first_budget(experiment.dataset)
        assert experiment.options == {"look_back": [2048]}
        assert experiment.test_stride == (1 if experiment.family == "lsf" else experiment.horizon)


def test_ablations_are_switches_of_the_model_with_all_else_equal() -> None:
    experiments = suites.load("ablations")
    arguments = inspect.signature(MSFTFoundationModel.__init__).parameters
    base = suites.ABLATION_BASE
    horizon = {e.horizon for e in experiments}.pop()
    assert {(e.dataset, e.horizon, e.model) for e in experiments} == {("ETTm1", horizon, "msft")}
    assert set(Counter((e.family, str(e.options)) for e in experiments).values()) == {3}
    assert {e.seed for e in experiments} == {0, 1, 2}
    assert len({e.budget for e in experiments}) == 1
    switched = set()
    for experiment in experiments[: len(experiments) // 3]:
        assert base.items() <= experiment.options.items()
        for name, value in experiment.options.items() - base.items():
            assert arguments[name].default != value
            switched.add(name)
        load_forecaster("msft", experiment.options, experiment.budget)  # knows the options
        MSFTFoundationModel(
            base["look_back"], horizon, **{k: v for k, v in experiment.options.items() if k in arguments}
        )
    assert {e.family for e in experiments if e.options == base} == {"lsf", "pf"}
    expected = {"shared_adapters", "shared_lora", "aggregator", "attention", "mixing", "upsampling"}
    rates = {"lr_pretrained", "lr_new", "lr_head"}
    assert switched == expected | rates | {"weight_learning", "weight_init", "num_scales"}
    defaults = find_method("msft").rates.to_dict()
    factors = [
        [e.options[name] / defaults[name.removeprefix("lr_")] for name in sorted(rates)]
        for e in experiments
        if rates <= e.options.keys()
    ]
    assert sorted(factors) == [[pytest.approx(1 / 3)] * 3] * 3 + [[pytest.approx(10 / 3)] * 3] * 3


def test_ablations_have_every_number_of_scales() -> None:
    context, patch = suites.ABLATION_BASE["look_back"], suites.ABLATION_BASE["patch_size"]
    largest = largest_num_scales(context, 96, patch)
    default = MSFTFoundationModel(context, 96, patch_size=patch)._module_settings["num_scales"]
    asked = {e.options["num_scales"] for e in suites.load("ablations") if "num_scales" in e.options}
    assert sorted([*asked, default]) == list(range(largest + 1))


def test_the_harness_check_trains_as_the_papers_do() -> None:
    experiments = suites.load("harness")
    names = ("ETTh1", "ETTm1", "Weather")
    assert {(e.model, e.dataset, e.seed) for e in experiments} == {
        (model, name, seed)
        for model, seeds in (("dlinear", (0, 1, 2)), ("patchtst", (0,)))
        for name in names
        for seed in seeds
    }
    for experiment in experiments:
        assert (experiment.horizon, experiment.test_stride) == (96, 1)
        assert experiment.options == {"look_back": 336, "lr": "paper"}
        assert experiment.budget.train_windows is None
        assert experiment.budget.patience == experiment.budget.epochs  # no fit ends before the rates have gone down
        (settings,) = load_forecaster(experiment.model, experiment.options, experiment.budget).candidates(
            Dataset(
                experiment.dataset, "lsf", "h", 24, np.zeros((9, 1)), ("a",), pd.DatetimeIndex([]), {"train": (0, 999)}
            ),
            96,
        )
        dlinear = {"ETTh1": (5e-3, 32, 10), "ETTm1": (1e-4, 8, 10), "Weather": (1e-4, 16, 10)}[experiment.dataset]
        expected = dlinear if experiment.model == "dlinear" else (1e-4, 128, 100)
        assert (settings["lr"], experiment.budget.batch_size, experiment.budget.epochs) == expected


def test_the_card_s_baselines_are_dlinear_as_its_paper_trains_it_and_seasonal_naive() -> None:
    experiments = suites.load("card")
    places = {(name, horizon) for name in ("ETTh1", "ETTm1", "Weather") for horizon in (96, 336)}
    dlinear = [e for e in experiments if e.model == "dlinear"]
    naive = [e for e in experiments if e.model == "seasonal_naive"]
    assert len(dlinear) + len(naive) == len(experiments)
    assert {(e.dataset, e.horizon, e.seed) for e in dlinear} == {
        (*place, seed) for place in places for seed in range(3)
    }
    assert {(e.dataset, e.horizon, e.seed) for e in naive} == {(*place, 0) for place in places}
    assert {(e.family, e.test_stride) for e in experiments} == {("lsf", 1)}
    assert all((e.options, e.budget) == ({}, Budget()) for e in naive)
    measured = {e.key for e in suites.load("harness") if e.model == "dlinear"}
    assert {e.key for e in dlinear if e.horizon == 96} == measured
    for experiment in dlinear:
        assert experiment.options == {"look_back": 336, "lr": "paper"}
        assert (experiment.dataset, experiment.horizon) in DLINEAR_RATES
        batch = {"ETTh1": 32, "ETTm1": 8, "Weather": 16}[experiment.dataset]  # the authors' at every horizon
        assert experiment.budget == Budget(epochs=10, patience=10, batch_size=batch)


def test_smoke_needs_no_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DARTS_MSFT_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for experiment in suites.load("smoke"):
        data = datasets.load(experiment.dataset, experiment.family, None)
        assert len(data.starts("test", experiment.horizon, experiment.test_stride)) > 50
    assert {e.family for e in suites.load("smoke")} == {"lsf", "pf"}
