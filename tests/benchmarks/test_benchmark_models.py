"""The rows of the results table: options, candidates, windows, best epoch, and every trained model once."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from safetensors.torch import load_file, save_file
from three_waves import BUDGET, HORIZON, LEVELS, LOOK_BACK, backtest, our_options, waves

from benchmarks.data.datasets import Dataset
from benchmarks.models import MODELS, classical, load_forecaster, ours
from benchmarks.models.base import FOLLOWED
from benchmarks.models.classical import RATES
from benchmarks.models.ours import arguments_of
from benchmarks.models.papers import RECIPES
from benchmarks.run.experiments import Budget
from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method
from darts_msft.methods.linear_probe import LinearProbe
from darts_msft.options import LearningRates
from darts_msft.storage.weights import state_hash

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
    with pytest.raises(ModuleNotFoundError, match=r"the package 'fracast'.*pip install 'darts-msft\[baselines\]'"):
        load_forecaster("fracast", {}, BUDGET)


def test_our_options_are_the_models_arguments_with_its_defaults() -> None:
    signature = inspect.signature(MSFTFoundationModel.__init__).parameters
    elsewhere = {"self", "input_chunk_length", "output_chunk_length", "output_chunk_shift", "method", "likelihood"}
    options = {name: value for method in OURS for name, value in arguments_of(method).items()}
    assert options.keys() == signature.keys() - elsewhere - {"kwargs"}
    for name, value in options.items():
        assert value == signature[name].default, name
    assert arguments_of("zero_shot").keys() == {"backbone", "revision", "patch_size"}
    assert arguments_of("msft").keys() > {"mixing", "num_scales", "lora_rank"}


@pytest.mark.parametrize(("method", "name"), [("full", "lora_rank"), ("lora", "mixing"), ("zero_shot", "lr_head")])
def test_options_without_effect_on_a_method_are_refused(method: str, name: str) -> None:
    with pytest.raises(ValueError, match=f"has no option '{name}'"):
        load_forecaster(method, {name: 4}, BUDGET)


# -------------------------------------------------------------------------------------------------------- candidates


def test_candidates_are_all_pairs_of_what_is_chosen() -> None:
    asked = {"look_back": [64, 96], "patch_size": [16, 32]}
    found = load_forecaster("msft", asked, BUDGET).candidates(waves(), HORIZON)
    pairs = [(settings["look_back"], settings["patch_size"]) for settings in found]
    assert pairs == [(64, 16), (64, 32), (96, 16), (96, 32)]
    assert found[0].keys() == {"look_back", *arguments_of("msft")} - {"backbone", "revision", "weight_init"}


def long(name: str = "waves") -> Dataset:
    """5000 training steps as far as candidates ask."""
    return replace(waves(name), bounds={"train": (0, 5000), "validation": (5000, 5500), "test": (5500, 6000)})


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("chronos2", "seasonal_naive")])
def test_look_backs_are_the_budgets_for_every_model(name: str) -> None:
    if name == "fracast":
        pytest.importorskip("fracast")
    for grid in (Budget().look_backs, (48, 64)):
        found = load_forecaster(name, {}, replace(BUDGET, look_backs=grid)).candidates(long(), HORIZON)
        assert sorted({settings["look_back"] for settings in found}) == list(grid)


def test_look_backs_that_do_not_fit_the_training_part() -> None:
    """400 steps: 336 and a horizon of 64 just fit. What was asked for by name is not left out in silence."""
    dlinear = load_forecaster("dlinear", {}, BUDGET)
    assert {s["look_back"] for s in dlinear.candidates(waves(), 64)} == {96, 336}
    assert {s["look_back"] for s in dlinear.candidates(waves(), 65)} == {96}
    dropped = dlinear.dropped(waves(), 65)
    assert [entry["look_back"] for entry in dropped] == [336, 512, 1024, 2048]
    assert "336 and a horizon of 65 steps don't fit into the 400 training steps of waves" in dropped[0]["reason"]
    with pytest.raises(ValueError, match=r"look_back=\[96, 336\]: .* at most 335 steps"):
        load_forecaster("dlinear", {"look_back": [96, 336]}, BUDGET).candidates(waves(), 65)
    with pytest.raises(ValueError, match=r"look_back=\[512, 1024\]: .*don't fit into the 400 training steps of waves"):
        load_forecaster("msft", {}, replace(BUDGET, look_backs=(512, 1024))).candidates(waves(), HORIZON)


def test_contexts_that_a_backbone_was_not_made_for_are_left_out(tiny_moirai: str) -> None:
    """512 tokens: 2048 steps and a horizon of 12 are 515 of 4 steps and 258 of 8; eight prompt tokens count too."""
    options = {"backbone": tiny_moirai, "patch_size": [4, 8]}
    for method, longest in (("msft", 2036), ("prompt", 2004)):
        budget = replace(BUDGET, look_backs=(longest, longest + 4))
        forecaster = load_forecaster(method, options, budget)
        found = [(s["look_back"], s["patch_size"]) for s in forecaster.candidates(long(), HORIZON)]
        assert found == [(longest, 4), (longest, 8), (longest + 4, 8)]
        (dropped,) = forecaster.dropped(long(), HORIZON)
        assert (dropped["look_back"], dropped["patch_size"]) == (longest + 4, 4)
        assert "more than the 512 of backbone" in dropped["reason"]
    with pytest.raises(ValueError, match="patch_size=7 is not one that the backbone's weights know"):
        load_forecaster("msft", {**options, "patch_size": [7, 8]}, BUDGET).candidates(long(), HORIZON)


@pytest.mark.parametrize(("name", "rates"), [("ETTh2", (*RATES, 5e-2)), ("ETTm1", RATES), ("waves", RATES)])
def test_dlinear_tries_its_authors_rate_too(name: str, rates: tuple[float, ...]) -> None:
    budget = replace(BUDGET, look_backs=(96,))
    found = load_forecaster("dlinear", {}, budget).candidates(waves(name), 96)
    assert sorted((s["look_back"], s["lr"]) for s in found) == [(96, rate) for rate in rates]
    only = load_forecaster("dlinear", {"lr": 1e-3}, budget).candidates(waves(name), 96)
    assert only == [{"look_back": 96, "lr": 1e-3}]


def test_dlinear_at_its_papers_rate() -> None:
    forecaster = load_forecaster("dlinear", {"lr": "paper", "look_back": 96}, BUDGET)
    assert forecaster.candidates(waves("ETTh1"), 96) == [{"look_back": 96, "lr": 5e-3}]
    with pytest.raises(ValueError, match="lr='paper' is not known for waves at horizon 96; give a number"):
        forecaster.candidates(waves(), 96)


# ------------------------------------------------------------------------------- what a choice and a result hold of it


@pytest.mark.parametrize("name", OURS)
def test_trained_methods_follow_the_zero_shot_choice_where_the_budget_says_so(name: str) -> None:
    options = {"patch_size": [16, 32], "num_samples": 7}
    follows = replace(BUDGET, zero_shot_choice=True, look_backs=(96, 336))
    more = {} if name == "zero_shot" else {"lr_head": 0.1}  # of no concern to the leader
    leader = load_forecaster(name, {**options, **more}, follows).leader()
    assert leader == (None if name == "zero_shot" else ("zero_shot", options))
    assert load_forecaster(name, options, BUDGET).leader() is None
    if leader is not None:  # with its patch size one candidate is left for each look-back
        own = load_forecaster(name, options, follows).candidates(waves(), HORIZON)
        for first in load_forecaster(*leader, follows).candidates(waves(), HORIZON):
            left = [settings for settings in own if all(settings[key] == first[key] for key in FOLLOWED)]
            assert [settings["look_back"] for settings in left] == [96, 336]


def test_others_follow_nobody() -> None:
    follows = replace(BUDGET, zero_shot_choice=True)
    assert all(load_forecaster(name, {}, follows).leader() is None for name in ("dlinear", "seasonal_naive"))


def test_defaults_hash_tells_recipes_apart_and_not_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def hash_of(name: str, **options: Any) -> str:
        return load_forecaster(name, options, BUDGET).defaults_hash()

    names = ("msft", "full", "dlinear", "patchtst", "itransformer")
    before = {name: hash_of(name) for name in names}
    assert len({value for name, value in before.items() if name != "full"}) == 4
    assert hash_of("msft", lora_rank=3) == before["msft"]
    monkeypatch.setitem(classical.DLINEAR_RATES, ("ETTh1", 96), 0.1)
    monkeypatch.setitem(RECIPES["PatchTST"], "ETTh1", RECIPES["PatchTST"]["ETTm1"])
    monkeypatch.setattr(LinearProbe, "rates", LearningRates(1.0, 1.0, 1.0, 1.0))
    changed = {name for name in names if hash_of(name) != before[name]}
    assert changed == {"dlinear", "patchtst"}
    before_probe = hash_of("linear_probe")
    monkeypatch.setattr(LinearProbe, "rates", LearningRates(1.0, 3.0, 1.0, 1.0))
    assert hash_of("linear_probe") == before_probe  # it has nothing new to train
    monkeypatch.setattr(LinearProbe, "rates", LearningRates(1.0, 1.0, 2.0, 1.0))
    assert hash_of("linear_probe") != before_probe


def test_defaults_hash_has_what_the_method_uses_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {name: load_forecaster(name, {}, BUDGET).defaults_hash() for name in (*OURS, "dlinear")}

    def changed() -> set[str]:
        return {name for name in before if load_forecaster(name, {}, BUDGET).defaults_hash() != before[name]}

    with monkeypatch.context() as patch:  # another default of the rank
        found = {method: {**arguments_of(method)} for method in OURS}
        for options in found.values():
            options.update({"lora_rank": 99} if "lora_rank" in options else {})
        patch.setattr(ours, "arguments_of", found.__getitem__)
        assert changed() == {"msft", "lora", "adalora"}
    monkeypatch.setattr(ours.MSFT, "version", 99)
    monkeypatch.setattr(classical.DLinear, "version", 2)
    assert changed() == {"msft", "dlinear"}


def test_resolved_is_what_the_model_has(tiny_moirai: str) -> None:
    options = {"backbone": tiny_moirai, "look_back": LOOK_BACK, "lr_head": 0.25}
    model, _, _ = backtest("msft", options, STARTS)
    found = resolved_of("msft", options, model)
    own = model.model
    assert (found["look_back"], found["patch_size"], found["num_scales"]) == (LOOK_BACK, 4, own.plan.num_scales)
    assert own.plan.patch_size == 4
    assert (found["lr_head"], found["lr_new"]) == (0.25, find_method("msft").rates.new)
    assert found["num_scales"] > 0
    model, _, _ = backtest("dlinear", {"look_back": LOOK_BACK, "lr": 0.01}, STARTS)
    expected = {"look_back": LOOK_BACK, "max_epochs": BUDGET.epochs, "lr": 0.01, "schedule": "halved"}
    assert resolved_of("dlinear", {}, model) == expected


def resolved_of(name: str, options: dict[str, Any], model: Any) -> dict[str, Any]:
    """After a way through JSON."""
    found: dict[str, Any] = json.loads(json.dumps(load_forecaster(name, options, BUDGET).resolved(model)))
    return found


def test_weights_of_scratch_are_the_architecture(tiny_moirai: str, tmp_path: Path) -> None:
    """Other trained weights of the same architecture are the same; another architecture isn't."""
    one = load_forecaster("scratch", {"backbone": tiny_moirai}, BUDGET).weights()
    shutil.copytree(tiny_moirai, tmp_path / "other")
    state = load_file(tmp_path / "other" / "model.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, tmp_path / "other" / "model.safetensors")
    options = {"backbone": str(tmp_path / "other")}
    assert load_forecaster("scratch", options, BUDGET).weights() == one
    assert load_forecaster("msft", options, BUDGET).weights() != load_forecaster("scratch", options, BUDGET).weights()
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps({**config, "num_layers": 2}))
    assert load_forecaster("scratch", options, BUDGET).weights() != one


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
    pretrained = state_hash(load_file(Path(tiny_moirai) / "model.safetensors"))
    assert (described["weights"] == pretrained) == (method != "scratch")
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
