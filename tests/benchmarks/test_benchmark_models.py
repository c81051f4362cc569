"""The rows of the results table: laws that hold for all, candidates, fits, recipes, and each family's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from scipy.stats import norm
from three_waves import BUDGET, HORIZON, LEVELS, LOOK_BACK, STARTS, fitted, forecasts, options_of, told, waves

from benchmarks import data
from benchmarks.data import Dataset
from benchmarks.models import MODELS, OURS, load_forecaster, ours, trained
from benchmarks.models.base import at_levels
from benchmarks.models.trained import RATES, RECIPES
from benchmarks.run.measures import measure
from darts_msft import MSFTFoundationModel
from darts_msft.methods import find_method
from darts_msft.storage.weights import state_hash

ROWS = [name for name in MODELS if name not in OURS or name in ("zero_shot", "msft", "scratch", "chronos2")]
"""Ours are one class."""


# ---- all models


@pytest.mark.parametrize(
    ("name", "levels"), [*((name, LEVELS) for name in ROWS), *((name, None) for name in ("msft", "patchtst"))]
)
def test_all_models_forecast(checkpoint_of: Callable[[str], Path], name: str, levels: tuple[float, ...] | None) -> None:
    """Around each variable's own level, in the order of variables and levels, and from the context alone."""
    checkpoint = str(checkpoint_of("chronos2" if name == "chronos2" else "moirai"))
    forecaster, model = fitted(name, options_of(name, checkpoint), levels)
    found = forecasts(forecaster, model, levels)
    assert found.shape == (len(STARTS), HORIZON, 3, len(levels or [0]))
    if name != "scratch":
        assert (np.abs(np.median(found, axis=(0, 1)).mean(axis=-1) - [0, 100, 1000]) < [5, 25, 100]).all()
    values = waves().values.copy()
    values[STARTS[0] :] = 1e6
    cut = replace(waves(), values=values)
    alone = forecaster.forecast(model, cut, STARTS[:1], levels)
    if forecaster.held(levels) == len(levels or [0]):  # no draws, which are others for other windows
        np.testing.assert_allclose(alone[0], found[0], rtol=1e-3, atol=1e-3)
    described = told(forecaster, model)
    assert 0 <= described["trained_parameters"] <= described["parameters"]
    assert (described["trained_parameters"] > 0) == forecaster.trains
    assert (described["fit_report"] is not None) == (forecaster.trains or name == "zero_shot")  # which weighs scales
    assert described["weights"] == forecaster.weights()
    assert described["look_back"] == model.input_chunk_length
    assert described.get("max_epochs") == (BUDGET.epochs if forecaster.trains else None)


def test_options_are_known_or_refused_by_name() -> None:
    for name in MODELS:
        with pytest.raises(ValueError, match="colour"):
            load_forecaster(name, {"colour": 3}, BUDGET)
    with pytest.raises(ValueError, match="prophet"):
        load_forecaster("prophet", {}, BUDGET)


# ---- candidates


def long(name: str = "waves") -> Dataset:
    """5000 training steps as far as candidates ask."""
    return replace(waves(name), bounds={"train": (0, 5000), "validation": (5000, 5500), "test": (5500, 6000)})


def test_look_backs_that_do_not_fit_the_training_part() -> None:
    """400 steps: 336 and a horizon of 64 just fit. What was asked for by name is not left out in silence."""
    every = load_forecaster("dlinear", {}, BUDGET).candidates(long(), HORIZON)
    assert ({settings["look_back"] for settings in every[0]}, every[1]) == (set(BUDGET.look_backs), [])
    dlinear = load_forecaster("dlinear", {}, BUDGET)
    assert {s["look_back"] for s in dlinear.candidates(waves(), 64)[0]} == {96, 336}
    kept, dropped = dlinear.candidates(waves(), 65)
    assert {s["look_back"] for s in kept} == {96}
    assert [entry["look_back"] for entry in dropped] == [336, 512, 1024, 2048]
    with pytest.raises(ValueError, match="at most 335"):
        load_forecaster("dlinear", {"look_back": [96, 336]}, BUDGET).candidates(waves(), 65)
    with pytest.raises(ValueError, match="400 training steps"):
        load_forecaster("msft", {}, replace(BUDGET, look_backs=(512, 1024))).candidates(waves(), HORIZON)


def test_contexts_that_a_model_was_not_made_for_are_left_out(tiny_moirai: str) -> None:
    """512 tokens: 2048 steps and a horizon of 12 are 515 of 4 steps and 258 of 8; eight prompt tokens count too."""
    options = {"backbone": tiny_moirai, "patch_size": [4, 8], "num_scales": 0}
    for method, longest in (("msft", 2036), ("prompt", 2004)):
        forecaster = load_forecaster(method, options, replace(BUDGET, look_backs=(longest, longest + 4)))
        kept, (dropped,) = forecaster.candidates(long(), HORIZON)
        pairs = [(s["look_back"], s["patch_size"]) for s in kept]
        assert pairs == [(longest, 4), (longest, 8), (longest + 4, 8)]
        assert (dropped["look_back"], dropped["patch_size"]) == (longest + 4, 4)
    with pytest.raises(ValueError, match="patch_size=7"):
        load_forecaster("msft", {**options, "patch_size": [7]}, BUDGET).candidates(waves(), HORIZON)
    for name, longest, why in (("fracast", 4096, "at most 2048"), ("timemixer", 50, "multiple of 8")):
        with pytest.raises(ValueError, match=why):
            load_forecaster(name, {"look_back": longest}, BUDGET).candidates(long(), HORIZON)


@pytest.mark.parametrize(
    ("name", "dataset", "paper", "rates"),
    [
        ("dlinear", "ETTh2", 5e-2, [*RATES, 5e-2]),
        ("dlinear", "ETTm1", 1e-4, list(RATES)),
        ("patchtst", "Electricity", 1e-4, [1e-4, 3e-4, 1e-3]),
        ("timemixer", "Electricity", 0.01, [0.00333, 0.01, 0.03]),
    ],
)
def test_the_authors_rate_is_tried_and_others(name: str, dataset: str, paper: float, rates: list[float]) -> None:
    for lr, expected in ((None, rates), ("paper", [paper]), ([0.5, 0.25], [0.5, 0.25])):
        forecaster = load_forecaster(name, {"look_back": LOOK_BACK, "lr": lr}, BUDGET)
        assert [settings["lr"] for settings in forecaster.candidates(waves(dataset), 96)[0]] == expected
    with pytest.raises(ValueError, match="give a number"):
        load_forecaster("dlinear", {"lr": "paper"}, BUDGET).candidates(waves(), 96)


# ---- what tells results of other code apart


def test_defaults_hash_tells_recipes_apart_and_not_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def hashes() -> dict[str, str]:
        return {name: load_forecaster(name, {}, BUDGET).defaults_hash() for name in MODELS}

    before = hashes()
    assert len(set(before.values())) == len(MODELS)
    assert load_forecaster("msft", {"lora_rank": 3}, BUDGET).defaults_hash() == before["msft"]
    monkeypatch.setitem(trained.DLINEAR_RATES, ("ETTh1", 96), 0.1)
    monkeypatch.setitem(RECIPES["PatchTST"], "ETTh1", RECIPES["PatchTST"]["ETTm1"])
    monkeypatch.setattr(find_method("linear_probe"), "rates", find_method("linear_probe").rates.replaced(head=2.0))
    monkeypatch.setitem(ours.ARGUMENTS, "prompt_length", 99)
    monkeypatch.setattr(ours.MSFT, "version", 99)
    assert {name for name, value in hashes().items() if value != before[name]} == {
        *("dlinear", "patchtst", "linear_probe", "prompt", "msft")
    }


# ---- ours


def test_our_options_reach_the_model(tiny_moirai: str) -> None:
    changes = {"num_scales": 1, "aggregator": "c2f", "shared_lora": True, "lr_new": 0.25, "weight_init": [1.0, 2.0]}
    changes["finest_context"] = 24
    forecaster, model = fitted("msft", options_of("msft", tiny_moirai, **changes))
    assert changes.items() <= model.model_params.items()
    assert (model.n_epochs, model.batch_size, model.model_params["random_state"]) == (2, 16, 0)
    found = told(forecaster, model)
    assert sum(found["scale_weights"]) == pytest.approx(1)
    assert (found["patch_size"], found["num_scales"], found["finest_context"], found["lr_new"]) == (4, 1, 24, 0.25)
    assert found["lr_head"] == find_method("msft").rates.head
    pretrained = state_hash(load_file(Path(tiny_moirai) / "model.safetensors"))
    assert found["weights"] == pretrained != load_forecaster("scratch", {"backbone": tiny_moirai}, BUDGET).weights()
    with pytest.raises(ValueError, match="gaussian"):
        fitted("msft", options_of("msft", tiny_moirai, likelihood="gaussian"), LEVELS)


def test_our_zero_shot_forecast_is_the_models_own_and_samples_are_its_distribution_s(tiny_moirai: str) -> None:
    """At one scale the quantile likelihood gives the native distribution's own quantiles; samples come near them."""
    own = MSFTFoundationModel(LOOK_BACK, HORIZON, backbone=tiny_moirai, patch_size=4, num_scales=0, likelihood=None)
    points = forecasts(*fitted("zero_shot", options_of("msft", tiny_moirai, num_scales=0)))
    for index, start in enumerate(STARTS):
        expected = own.predict(HORIZON, waves().series("test", 100)[: start - 380]).values()
        np.testing.assert_allclose(points[index, ..., 0], expected, rtol=1e-4, atol=1e-4)
    sampled = options_of("msft", tiny_moirai, num_scales=0, num_samples=2000)
    forecaster, model = fitted("zero_shot", sampled, LEVELS)
    found = forecasts(forecaster, model, LEVELS)
    np.testing.assert_array_equal(found, forecasts(forecaster, model, LEVELS))
    assert (forecaster.held(LEVELS), forecaster.held(None)) == (2000, 1)
    quantiles = options_of("msft", tiny_moirai, num_scales=0, likelihood="quantile")
    exact = forecasts(*fitted("zero_shot", quantiles, LEVELS), LEVELS)
    spread = exact[..., 3] - exact[..., 1]  # of the central 80 %
    assert (np.abs(found - exact)[..., 1:4].max(axis=-1) < 0.2 * spread).mean() > 0.95


# ---- what isn't trained


def test_quantiles_at_other_levels() -> None:
    """Of a normal distribution exact, between the known levels and beyond them; known levels stay as they are."""
    known, wanted = (0.1, 0.2, 0.5, 0.8, 0.9), (0.001, 0.025, 0.1, 0.15, 0.5, 0.6, 0.9, 0.975)
    loc, scale = np.array([[3.0], [-100.0]]), np.array([[2.0], [30.0]])
    found = at_levels(loc + scale * norm.ppf(known), known, wanted)
    np.testing.assert_allclose(found, loc + scale * norm.ppf(wanted), atol=1e-9)
    quantiles = np.random.default_rng(0).standard_normal((5, 2, 5))
    np.testing.assert_allclose(at_levels(quantiles, known, known[1:]), quantiles[..., 1:], atol=1e-12)


def test_seasonal_naive_has_the_published_figure(ett_dir: Path) -> None:
    loaded, naive = data.load("ETTh1", "lsf", ett_dir), load_forecaster("seasonal_naive", {}, BUDGET)
    assert naive.candidates(loaded, 96) == ([{"look_back": 24}], [])
    model = naive.build({"look_back": 24}, loaded, 96, 0, None)
    errors = measure(naive, model, loaded, "test", 1, None)["metrics"]
    assert errors == pytest.approx({"mse": 0.512, "mae": 0.433}, abs=1e-3)


def test_seasonal_naives_quantiles_against_a_loop() -> None:
    """Horizon 30 is longer than the season; windows begin at any hour."""
    seen, horizon, starts = waves(), 30, range(485, 570, 11)
    naive = load_forecaster("seasonal_naive", {}, BUDGET)
    found, points = (
        naive.forecast(naive.build({}, seen, horizon, 0, levels), seen, starts, levels) for levels in (LEVELS, None)
    )
    train = seen.values[:400].astype(np.float64)
    for index, start in enumerate(starts):
        for step in (0, 5, 23, 24, 29):
            lag = 24 if step < 24 else 2 * 24
            same_hour = [t for t in range(lag, 400) if t % 24 == (start + step) % 24]
            errors = np.array([train[t] - train[t - lag] for t in same_hour])
            expected = seen.values[start + step - lag] + np.quantile(errors, LEVELS, axis=0)
            np.testing.assert_allclose(found[index, step], expected.T, rtol=1e-6)
            np.testing.assert_array_equal(points[index, step, :, 0], seen.values[start + step - lag])


def test_fracast_forecasts_each_window_and_variable_alone() -> None:
    """As its own class does it, one series after the other; the horizon takes a second block of 48 steps."""
    fracast = pytest.importorskip("fracast")
    seen, horizon, starts = waves(), 50, range(500, 540, 29)
    forecaster = load_forecaster("fracast", {"look_back": 60}, BUDGET)
    model = forecaster.build({"look_back": 60}, seen, horizon, 0, LEVELS)
    found = forecaster.forecast(model, seen, starts, LEVELS)
    own = fracast.FracastModel.from_pretrained(weights="fp32")
    for index, start in enumerate(starts):
        for variable in range(3):
            expected = own.forecast(seen.values[start - 60 : start, variable], horizon=horizon)[:, [0, 4, 8]]
            np.testing.assert_allclose(found[index, :, variable, 1:4], expected, rtol=1e-4, atol=1e-3)
    assert (np.diff(found, axis=-1) > 0).all()
    with pytest.raises(ValueError, match="int4"):
        load_forecaster("fracast", {"weights": "int4"}, BUDGET).weights()
