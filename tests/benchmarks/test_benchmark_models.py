"""The rows of the results table: options, candidates, windows, best epoch, and every trained model once."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.models import DLinearModel
from safetensors.torch import load_file
from three_waves import BUDGET, HORIZON, LEVELS, LOOK_BACK, backtest, waves

from benchmarks.measures import forecast
from benchmarks.models import MODELS, classical, load_forecaster
from benchmarks.models.base import CONTEXTS, LOOK_BACKS, BestEpoch
from benchmarks.models.classical import RATES
from benchmarks.models.ours import FIXED_OPTIONS, METHOD_OPTIONS
from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS
from darts_msft.weights import state_hash

STARTS = range(490, 520, 9)
OURS = ("msft", "full", "linear_probe", "prompt", "lora", "adalora", "zero_shot", "scratch")


# ------------------------------------------------------------------------------------------------- names and options


def test_every_method_of_ours_is_a_model() -> None:
    assert set(OURS) == set(METHODS)
    assert set(OURS) < set(MODELS)


@pytest.mark.parametrize("name", list(MODELS))
def test_unknown_options_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match="has no option 'colour'"):
        load_forecaster(name, {"colour": 3}, BUDGET)


def test_unknown_name_and_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="model 'prophet' is not known; choose one of msft, full"):
        load_forecaster("prophet", {}, BUDGET)
    monkeypatch.delitem(sys.modules, "benchmarks.models.fracast", raising=False)
    monkeypatch.setitem(sys.modules, "fracast", None)
    with pytest.raises(ModuleNotFoundError, match=r"the package 'fracast'.*pip install --no-deps fracast==0\.1\.0"):
        load_forecaster("fracast", {}, BUDGET)


def test_our_options_are_the_models_arguments_with_its_defaults() -> None:
    signature = inspect.signature(MSFTFoundationModel.__init__).parameters
    elsewhere = {"self", "input_chunk_length", "output_chunk_length", "output_chunk_shift", "method", "likelihood"}
    options = FIXED_OPTIONS | METHOD_OPTIONS
    assert options.keys() == signature.keys() - elsewhere - {"kwargs"}
    for name, value in options.items():
        assert value == signature[name].default, name


# -------------------------------------------------------------------------------------------------------- candidates


def test_candidates_are_all_pairs_of_what_is_chosen() -> None:
    found = load_forecaster("msft", {"look_back": [32, 64], "patch_size": [4, 8]}, BUDGET).candidates(waves(), HORIZON)
    pairs = [(settings["look_back"], settings["patch_size"]) for settings in found]
    assert pairs == [(32, 4), (32, 8), (64, 4), (64, 8)]
    assert found[0].keys() == {"look_back", *METHOD_OPTIONS}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("msft", CONTEXTS),
        ("chronos2", CONTEXTS),
        ("fracast", CONTEXTS),
        ("patchtst", LOOK_BACKS),
        ("dlinear", LOOK_BACKS),
    ],
)
def test_look_backs_are_the_same_for_a_kind(name: str, expected: tuple[int, ...]) -> None:
    data = replace(waves(), bounds={"train": (0, 5000), "validation": (5000, 5500), "test": (5500, 6000)})
    if name == "fracast":
        pytest.importorskip("fracast")
    found = load_forecaster(name, {}, BUDGET).candidates(data, HORIZON)
    assert sorted({settings["look_back"] for settings in found}) == list(expected)


def test_look_backs_that_do_not_fit_the_training_part() -> None:
    """400 steps: 336 and a horizon of 64 just fit. What was asked for by name is not left out in silence."""
    assert {s["look_back"] for s in load_forecaster("dlinear", {}, BUDGET).candidates(waves(), 64)} == {96, 336}
    assert {s["look_back"] for s in load_forecaster("dlinear", {}, BUDGET).candidates(waves(), 65)} == {96}
    with pytest.raises(ValueError, match=r"look_back=\[96, 336\] .* at most 335 steps"):
        load_forecaster("dlinear", {"look_back": [96, 336]}, BUDGET).candidates(waves(), 65)
    with pytest.raises(ValueError, match="don't fit into the 400 training steps of waves"):
        load_forecaster("msft", {}, BUDGET).candidates(waves(), HORIZON)


@pytest.mark.parametrize(("name", "rates"), [("ETTh2", (*RATES, 5e-2)), ("ETTm1", RATES), ("waves", RATES)])
def test_dlinear_tries_its_authors_rate_too(name: str, rates: tuple[float, ...]) -> None:
    found = load_forecaster("dlinear", {}, BUDGET).candidates(waves(name), 96)
    assert sorted((s["look_back"], s["lr"]) for s in found) == [(96, rate) for rate in rates]
    only = load_forecaster("dlinear", {"lr": 1e-3}, BUDGET).candidates(waves(name), 96)
    assert only == [{"look_back": 96, "lr": 1e-3}]


# --------------------------------------------------------------------------------------------------------------- fit


def test_windows_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """400 - 48 - 12 + 1 = 341 training windows of which at most 40 are wanted: every 9th, counted from the end."""
    seen: list[Any] = []
    monkeypatch.setattr(DLinearModel, "fit_from_dataset", lambda self, *datasets: seen.extend(datasets))
    data, forecaster = waves(), load_forecaster("dlinear", {"look_back": LOOK_BACK}, BUDGET)
    settings = forecaster.candidates(data, HORIZON)[0]
    model = forecaster.build(settings, data, HORIZON, 0, None)
    forecaster.fit(model, data, settings)
    scaled = (data.values - data.values[:400].mean(axis=0)) / data.values[:400].std(axis=0)
    ends = [range(400, 400 - 341, -9), range(480, 480 - 69, -7)]  # the validation part: 69 windows, at most 10
    for dataset, expected in zip(seen, ends, strict=True):
        assert len(dataset) == len(expected)
        samples = sorted((dataset[index] for index in range(len(dataset))), key=lambda sample: sample.past_target[0, 2])
        windows = [scaled[end - HORIZON - LOOK_BACK : end] for end in expected]
        windows.sort(key=lambda window: window[0, 2])
        for sample, window in zip(samples, windows, strict=True):
            np.testing.assert_allclose(np.concatenate([sample.past_target, sample.future_target]), window, atol=1e-4)
    assert forecaster.steps(data, LOOK_BACK, HORIZON) == 2 * 3  # 38 windows in batches of 16, twice


def validation_loss(model: Any, stride: int) -> float:
    """The mean squared error, in the model's units, of the validation windows that the fit looked at."""
    data = waves()
    starts = range((480 - HORIZON - 400) % stride + 400, 480 - HORIZON + 1, stride)
    found = forecast(model, data, starts, HORIZON, LOOK_BACK, None)[..., 0]
    target = data.values[np.asarray(starts)[:, None] + np.arange(HORIZON)]
    return float(np.mean(((found - target) / model.scale) ** 2))


def ruined(epoch: int) -> float:
    return 1.0 if epoch < 3 else 1000.0


def test_the_best_epoch_is_kept_and_the_fit_ends_when_none_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is a thousand times higher from the fourth epoch on, which ruins all that was learned."""
    monkeypatch.setattr(classical, "halved", ruined)
    budget = replace(BUDGET, epochs=30, patience=2)
    model, _, described = backtest("dlinear", {"look_back": LOOK_BACK, "lr": 1e-3}, STARTS, budget=budget)
    report = described["fit_report"]
    assert report["kept"] == "epoch 2"
    assert report["epochs"] == len(report["losses"]) == 3 + 2
    assert validation_loss(model, 7) == pytest.approx(report["losses"][2], rel=1e-3)
    assert 2 * report["losses"][2] < min(report["losses"][3:])


def test_a_fit_without_a_finite_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="no epoch had a finite validation loss"):
        backtest("dlinear", {"look_back": LOOK_BACK, "lr": 1e30}, STARTS)
    best = BestEpoch()
    best.losses = [float("nan"), 2.0, float("inf"), 1.0, 1.0]
    assert best.best == 3


# -------------------------------------------------------------------------------------------- trained from scratch


@pytest.mark.parametrize("levels", [None, LEVELS])
@pytest.mark.parametrize("name", ["dlinear", "patchtst", "itransformer", "timemixer"])
def test_baselines_fit_and_forecast(name: str, levels: Sequence[float] | None) -> None:
    """Each window's forecast is that of the inner model on the scaled context, in the data's units and order."""
    options: dict[str, Any] = {"look_back": LOOK_BACK, "lr": 1e-3}
    if name in ("patchtst", "itransformer"):
        options["network"] = {"hidden_size": 16, "n_heads": 2}
    data = waves()
    model, found, described = backtest(name, options, STARTS, levels)
    assert found.shape == (len(STARTS), HORIZON, 3, len(levels or [1]))
    for index, start in enumerate(STARTS):
        scaled = (data.values[:start] - data.values[:400].mean(axis=0)) / data.values[:400].std(axis=0)
        context = TimeSeries(times=data.times[:start], values=scaled.astype(np.float32))
        single = model.inner.predict(HORIZON, context, predict_likelihood_parameters=levels is not None).values()
        expected = single.reshape(HORIZON, 3, -1) * data.values[:400].std(axis=0)[:, None]
        expected += data.values[:400].mean(axis=0)[:, None]
        np.testing.assert_allclose(found[index], expected, rtol=1e-3, atol=1e-2)
    assert 0 < described["trained_parameters"] <= described["parameters"]
    assert described["weights"] is described["scale_weights"] is None
    assert described["fit_report"]["epochs"] == BUDGET.epochs


# -------------------------------------------------------------------------------------------------------------- ours


def our_options(checkpoint: str, **changes: Any) -> dict[str, Any]:
    return {"backbone": checkpoint, "look_back": LOOK_BACK, "patch_size": 4, **changes}


@pytest.mark.parametrize("method", OURS)
def test_our_methods_fit_and_forecast(tiny_moirai: str, method: str) -> None:
    options = our_options(tiny_moirai)
    model, found, described = backtest(method, options, STARTS)
    assert found.shape == (len(STARTS), HORIZON, 3, 1)
    assert model.model_params["method"] == method
    trained = method != "zero_shot"
    assert (described["trained_parameters"] > 0) == (described["fit_report"] is not None) == trained
    assert described["trained_parameters"] <= described["parameters"]
    assert sum(described["scale_weights"]) == pytest.approx(1)
    expected = None if method == "scratch" else state_hash(load_file(Path(tiny_moirai) / "model.safetensors"))
    assert described["weights"] == expected
    if trained:
        assert described["fit_report"]["best"] <= described["fit_report"]["before"]
        assert described["fit_report"]["candidates"][0]["step"] == 0


def test_our_options_reach_the_model(tiny_moirai: str) -> None:
    changes = {"num_scales": 1, "aggregator": "c2f", "shared_lora": True, "lr_new": 0.25, "weight_init": [1.0, 2.0]}
    model, _, described = backtest("msft", our_options(tiny_moirai, **changes), STARTS)
    assert changes.items() <= model.model_params.items()
    assert (model.input_chunk_length, model.output_chunk_length) == (LOOK_BACK, HORIZON)
    assert (model.n_epochs, model.batch_size, model.model_params["random_state"]) == (2, 16, 0)
    assert len(described["scale_weights"]) == 2


def test_our_zero_shot_point_forecast_is_the_models_own(tiny_moirai: str) -> None:
    _, found, _ = backtest("zero_shot", our_options(tiny_moirai), STARTS)
    own = MSFTFoundationModel(LOOK_BACK, HORIZON, backbone=tiny_moirai, patch_size=4, likelihood=None)
    for index, start in enumerate(STARTS):
        expected = own.predict(HORIZON, waves().series("test", 100)[: start - 380])
        np.testing.assert_allclose(found[index, ..., 0], expected.values(), rtol=1e-4, atol=1e-4)


def test_our_quantiles_from_samples_are_those_of_the_distribution(tiny_moirai: str) -> None:
    """Zero-shot, the quantile likelihood gives the native distribution's own quantiles; samples come near them."""
    sampled = our_options(tiny_moirai, num_samples=2000)
    _, found, _ = backtest("zero_shot", sampled, STARTS, LEVELS)
    _, again, _ = backtest("zero_shot", sampled, STARTS, LEVELS)
    _, exact, _ = backtest("zero_shot", our_options(tiny_moirai, likelihood="quantile"), STARTS, LEVELS)
    np.testing.assert_array_equal(found, again)
    spread = exact[..., 3] - exact[..., 1]  # of the central 80 %
    assert (np.abs(found - exact)[..., 1:4].max(axis=-1) < 0.2 * spread).mean() > 0.95
    assert np.abs(found[..., 2] - exact[..., 2]).mean() < 0.05 * spread.mean()


@pytest.mark.parametrize("likelihood", ["native", "quantile"])
def test_our_quantiles_after_a_fit(tiny_moirai: str, likelihood: str) -> None:
    options = our_options(tiny_moirai, likelihood=likelihood, num_scales=1)
    _, found, described = backtest("msft", options, STARTS, LEVELS)
    assert found.shape == (len(STARTS), HORIZON, 3, len(LEVELS))
    assert (np.abs(found[..., 2] - [0, 100, 1000]) < [5, 25, 100]).all()  # each variable around its own level
    assert described["fit_report"]["best"] <= described["fit_report"]["before"]


def test_unknown_likelihood_is_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match="likelihood='gaussian' is not known; choose 'native' or 'quantile'"):
        backtest("msft", our_options(tiny_moirai, likelihood="gaussian"), STARTS, LEVELS)


def test_early_stopping_is_the_same_for_ours(tiny_moirai: str) -> None:
    """With rates that ruin the model no epoch is better than the first: the fit ends after `patience` more."""
    budget = replace(BUDGET, epochs=12, patience=2)
    options = our_options(tiny_moirai, lr_pretrained=0.5, lr_head=0.5)
    _, _, described = backtest("full", options, STARTS, budget=budget)
    scores = [candidate["score"] for candidate in described["fit_report"]["candidates"][1:]]
    assert len(described["fit_report"]["epoch_seconds"]) == int(np.argmin(scores)) + 1 + 2 < 12
    assert torch.tensor(scores).isfinite().all()
