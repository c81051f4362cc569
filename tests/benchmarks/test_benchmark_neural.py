"""What neuralforecast's networks do behind Darts: order of quantiles, units, schedules, and the authors' recipes."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from math import ceil
from typing import Any

import neuralforecast.models
import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.models import NeuralForecastModel
from darts.utils.likelihood_models.torch import QuantileRegression
from three_waves import BUDGET, HORIZON, LEVELS, LOOK_BACK, backtest, fitted, waves

from benchmarks.models import load_forecaster
from benchmarks.models.base import QUIET
from benchmarks.models.neural import OrderedITransformer
from benchmarks.models.papers import FACTORS, RECIPES, recipe
from benchmarks.run.experiments import Budget

STARTS = range(490, 520, 9)
LSF = ("ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Electricity")
SMALL: dict[str, dict[str, Any]] = {
    "patchtst": {"hidden_size": 16, "n_heads": 2},
    "itransformer": {"hidden_size": 16, "n_heads": 2},
    "timemixer": {},
}


# ------------------------------------------------------------------------------------------------------------ recipes


def test_every_network_has_a_recipe_for_every_data_set() -> None:
    for network, found in RECIPES.items():
        arguments = set(inspect.signature(getattr(neuralforecast.models, network)).parameters)
        names = {key if isinstance(key, str) else key[0] for key in found}
        assert names == set(LSF)
        for entry in found.values():
            assert set(entry.network) <= arguments
            assert entry.schedule in (*FACTORS, "one_cycle")
            assert entry.source.endswith(".sh")


def test_recipes_by_data_set_and_horizon() -> None:
    assert [recipe("iTransformer", "ETTh1", steps).network["d_ff"] for steps in (96, 192, 336, 720)] == [
        256,
        256,
        512,
        512,
    ]
    assert recipe("PatchTST", "sales", 24) is RECIPES["PatchTST"]["Weather"]
    assert recipe("iTransformer", "Electricity", 96).lr == 5e-4


@pytest.mark.parametrize(
    ("name", "expected"),
    [("halved", [1, 1, 0.5, 0.25, 0.125]), ("late_decay", [1, 1, 1, 1, 0.9, 0.81])],
)
def test_rate_factors_by_epoch(name: str, expected: list[float]) -> None:
    """What the scripts' loop gives: after epoch e, counted from 1, the rate is set for the next one."""
    assert [FACTORS[name](epoch) for epoch in range(len(expected))] == pytest.approx(expected)


def test_options_go_over_the_recipe() -> None:
    forecaster = load_forecaster("patchtst", {"look_back": LOOK_BACK, "network": {"dropout": 0.5}}, BUDGET)
    data = waves("ETTh1")
    rates = [{"look_back": LOOK_BACK, "lr": rate} for rate in (1e-4, 3e-4, 1e-3)]
    assert forecaster.candidates(data, HORIZON) == rates
    model = forecaster.build({"look_back": LOOK_BACK, "lr": 1e-4}, data, HORIZON, 0, None)
    found = model.inner.nf_model_params
    assert (found["dropout"], found["hidden_size"], found["n_heads"]) == (0.5, 16, 4)
    assert found["revin_subtract_last"] is False
    resolved = json.loads(json.dumps(forecaster.resolved(model)))
    assert (resolved["lr"], resolved["schedule"], resolved["look_back"]) == (1e-4, "LambdaLR", LOOK_BACK)
    assert (resolved["network"]["dropout"], resolved["network"]["hidden_size"]) == (0.5, 16)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("patchtst", [1e-4, 3e-4, 1e-3]),
        ("itransformer", [5e-4, 1.5e-3, 5e-3]),
        ("timemixer", [0.00333, 0.01, 0.03]),
    ],
)
def test_the_authors_rate_is_tried_and_others(name: str, rates: list[float]) -> None:
    """A budget of a few epochs wants more than a rate for a hundred; TimeMixer's is for ten, and high.

    "paper" is the authors' own alone.
    """
    authors = 0.01 if name == "timemixer" else rates[0]

    def tried(**options: object) -> list[float]:
        forecaster = load_forecaster(name, {"look_back": LOOK_BACK, **options}, BUDGET)
        return [settings["lr"] for settings in forecaster.candidates(waves("Electricity"), HORIZON)]

    assert tried() == rates
    assert tried(lr="paper") == [authors]
    assert tried(lr=[0.5, 0.25]) == [0.5, 0.25]


# ---------------------------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("name", "dataset", "factor"),
    [("patchtst", "ETTh1", FACTORS["late_decay"](2)), ("itransformer", "ETTm1", FACTORS["halved"](2))],
)
def test_rates_go_down_by_epoch(name: str, dataset: str, factor: float) -> None:
    options = {"look_back": LOOK_BACK, "lr": 1e-3, "network": SMALL[name]}
    _, model, _ = fitted(name, options, None, waves(dataset), replace(BUDGET, train_windows=None))
    scheduler = model.inner.trainer.lr_scheduler_configs[0].scheduler
    assert scheduler.last_epoch == BUDGET.epochs == 2
    assert scheduler.get_last_lr() == pytest.approx([1e-3 * factor])


@pytest.mark.parametrize("name", ["dlinear", "itransformer"])
def test_rates_of_a_sampled_budget_go_down_by_passes_over_all_windows(name: str) -> None:
    """An epoch of one batch in three: after seven of them two passes are whole, and the rate is halved once."""
    data = waves("ETTm1")
    options = {"look_back": LOOK_BACK, "lr": 1e-3, **({"network": SMALL[name]} if name in SMALL else {})}
    begin, end = data.bounds["train"]
    windows = end - begin - LOOK_BACK - HORIZON + 1
    budget = Budget(epochs=7, patience=7, batch_size=ceil(windows / 3), train_windows=ceil(windows / 3))
    _, model, _ = fitted(name, options, None, data, budget)
    trainer = model.inner.trainer
    assert trainer.global_step == 7
    assert trainer.lr_scheduler_configs[0].scheduler.get_last_lr() == pytest.approx([0.5e-3])


@pytest.mark.parametrize("name", ["patchtst", "timemixer"])
def test_one_cycle_is_as_long_as_the_fit(name: str) -> None:
    options = {"look_back": LOOK_BACK, "lr": 1e-3, "network": SMALL[name]}
    _, model, _ = fitted(name, options, None, waves("ETTm1"), BUDGET)
    trainer = model.inner.trainer
    scheduler = trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR)
    assert scheduler.total_steps == trainer.global_step == 2 * 3
    assert scheduler.last_epoch in (5, 6)
    assert max(group["max_lr"] for group in scheduler.optimizer.param_groups) == 1e-3


@pytest.mark.parametrize(("network", "epochs"), [("timemixer", 6), ("itransformer", 2)])
def test_a_one_cycle_fit_is_not_ended_early(network: str, epochs: int) -> None:
    """At a rate of 0 no epoch is better than the first: a patience of 1 ends what has another schedule after two."""
    budget = replace(BUDGET, epochs=6, patience=1)
    options = {"look_back": LOOK_BACK, "lr": 0.0, "network": SMALL[network]}
    forecaster, model, _ = fitted(network, options, None, waves("ETTm1"), budget)
    report = forecaster.describe(model)["fit_report"]
    assert report["epochs"] == epochs


# ------------------------------------------------------------------------------------------------- quantiles and units


def quantiles_at_the_start(model: Any, **arguments: Any) -> np.ndarray:
    """(H, V, Q) of a network that has not learned anything, which undoes its own normalisation: levels 0, 100, 1000."""
    network = NeuralForecastModel(
        32, 4, model=model, model_kwargs=arguments, likelihood=QuantileRegression([0.1, 0.5, 0.9]), n_epochs=1,
        optimizer_kwargs={"lr": 1e-12}, random_state=0, pl_trainer_kwargs={**QUIET, "accelerator": "cpu"},
    )  # fmt: skip
    values = np.random.default_rng(0).standard_normal((100, 3)) + np.array([0, 100, 1000])
    series = TimeSeries.from_values(values.astype(np.float32))
    network.fit(series)
    return network.predict(4, series, predict_likelihood_parameters=True).values().reshape(4, 3, 3)


def test_itransformers_quantiles_belong_to_their_variable() -> None:
    """The package's own network hands them to others, which is why ours puts them in order."""
    small = {"hidden_size": 16, "n_heads": 2, "e_layers": 1, "d_ff": 16}
    levels = np.array([0, 100, 1000])[:, None]
    assert (np.abs(quantiles_at_the_start(OrderedITransformer, **small) - levels) < 10).all()
    assert (np.abs(quantiles_at_the_start("iTransformer", **small) - levels) > 90).any()


@pytest.mark.parametrize("levels", [None, LEVELS])
@pytest.mark.parametrize("name", ["patchtst", "itransformer", "timemixer"])
def test_forecasts_move_with_their_context(name: str, levels: tuple[float, ...] | None) -> None:
    """A context shifted and scaled by powers of ten gives the forecast shifted and scaled, variable by variable."""
    options = {"look_back": LOOK_BACK, "lr": 1e-3, "network": SMALL[name]}
    model, _, _ = backtest(name, options, STARTS, levels)
    context = model.prepare(waves().series("test", 100)[:150])
    asked = {"n": HORIZON, "predict_likelihood_parameters": levels is not None}
    found = model.inner.predict(series=context, **asked).values().reshape(HORIZON, 3, -1)
    loc, scale = np.array([10.0, -100.0, 0.0]), np.array([1.0, 10.0, 100.0])
    moved = context.with_values((context.values() * scale + loc).astype(np.float32))
    again = model.inner.predict(series=moved, **asked).values().reshape(HORIZON, 3, -1)
    np.testing.assert_allclose(again, found * scale[:, None] + loc[:, None], rtol=5e-3, atol=5e-2)


def test_timemixer_wants_look_backs_that_it_can_halve() -> None:
    with pytest.raises(ValueError, match=r"a look-back of 50 steps .* multiple of 8"):
        backtest("timemixer", {"look_back": 50}, STARTS)
