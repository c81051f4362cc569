"""Saving, loading, checkpoints and going on from them; never with the hub, nor with the original weights."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import (
    CONTEXT,
    HORIZON,
    LEARNS,
    LONG,
    STILL,
    TRAINER,
    ZERO_SHOT,
    differing,
    fitted,
    make_model,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel


class Subclass(MSFTFoundationModel):
    """A user's own subclass."""


@pytest.fixture
def own_weights(tiny_moirai: str, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may delete."""
    return Path(shutil.copytree(tiny_moirai, tmp_path / "weights"))


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    samples = 10 if model.supports_probabilistic_prediction else 1
    return values_of(model.predict(HORIZON + 4, wave(), num_samples=samples, random_state=0))


def trainable(model: MSFTFoundationModel) -> set[str]:
    return {name for name, value in model.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(
    "settings",
    [
        {"likelihood": None, "lr_new": 0.3, "lr_head": 0.3},  # worse than zero-shot, which is what was kept
        {"likelihood": GaussianLikelihood()},
        {
            "optimizer_cls": torch.optim.SGD,  # which takes none of the default's arguments
            "optimizer_kwargs": {"lr": 1e-2},
            "lr_scheduler_cls": torch.optim.lr_scheduler.ExponentialLR,
            "lr_scheduler_kwargs": {"gamma": 0.5},
        },
    ],
)
def test_round_trip(own_weights: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = Subclass(**make_model(str(own_weights), **settings).model_params)
    model.fit(wave(60), val_series=wave(50, seed=1))
    shutil.rmtree(own_weights)
    for clean in (False, True):
        model.save(str(tmp_path / "model.pt"), clean=clean)
        loaded = Subclass.load(str(tmp_path / "model.pt"), pl_trainer_kwargs=TRAINER)
        assert type(loaded) is Subclass
        assert np.array_equal(forecast_of(loaded), forecast_of(model))
        assert differing(model, loaded) == set()
        assert trainable(loaded) == trainable(model)
        assert loaded.fit_report == model.fit_report


@pytest.mark.parametrize("method", ["zero_shot", "msft", "full"])
def test_all_that_a_fit_finds_is_in_every_file(tiny_moirai: str, tmp_path: Path, method: str) -> None:
    """Bounds, the linear member and what covariates tell it, the scales' weights, how errors hang together."""
    settings: dict[str, Any] = {"method": method, "linear_member": True, "sample_dependence": "copula", **LONG}
    settings |= {"lower": "auto", "upper": 6.0}
    known = wave(400).with_values(np.random.default_rng(0).standard_normal((400, 1)).astype(np.float32))
    series = wave(300) + known[:300]
    model = make_model(tiny_moirai, **settings)
    model.fit(series[:200], future_covariates=known, val_series=series[150:], val_future_covariates=known)
    found = model.model
    assert (found.bounds.lower.item(), found.paths.trust > 0, found.has_linear) == (0, True, True)
    assert found.linear.effects.numel() == 1
    model.save(str(tmp_path / "model.pt"))
    model.save_adapter(tmp_path / "adapter")
    adapted, weighted = (make_model(tiny_moirai, **settings) for _ in range(2))
    adapted.load_adapter(tmp_path / "adapter")
    weighted.load_weights(str(tmp_path / "model.pt"))
    samples, expected = {"num_samples": 20, "random_state": 0, "future_covariates": known}, found.state_dict()
    for other in (MSFTFoundationModel.load(str(tmp_path / "model.pt"), TRAINER), adapted, weighted):
        state = other.model.state_dict()
        assert state.keys() == expected.keys()
        assert [name for name in state if not torch.equal(state[name], expected[name])] == []
        assert other.predict(HORIZON, series, **samples) == model.predict(HORIZON, series, **samples)


@pytest.mark.parametrize("used", [False, True])
def test_zero_shot_round_trip(own_weights: Path, tmp_path: Path, used: bool) -> None:
    model = make_model(str(own_weights), **LONG)
    expected = forecast_of(make_model(str(own_weights), **LONG))
    if used:
        model.predict(HORIZON, wave(seed=5))
    model.save(str(tmp_path / "model.pt"))
    if used:
        shutil.rmtree(own_weights)  # the saved weights are all that it needs
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(loaded), expected)
    assert loaded.scale_weights is None  # each window has its own
    loaded.fit(wave(60), val_series=wave(50, seed=1))
    assert [candidate.label for candidate in loaded.candidates[:3]] == ZERO_SHOT


def test_fit_goes_on_after_load(own_weights: Path, tmp_path: Path) -> None:
    """As a new fit, which starts from the saved state."""
    model = make_model(str(own_weights), **LEARNS).fit(wave(), val_series=wave(60, seed=1))
    model.save(str(tmp_path / "model.pt"), clean=True)
    shutil.rmtree(own_weights)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"), pl_trainer_kwargs=TRAINER)
    loaded.fit(wave(), val_series=wave(60, seed=1))
    assert loaded.trainer.gradient_clip_val == 1.0
    assert len(loaded.candidates) == 2
    assert loaded.fit_report.before == pytest.approx(model.fit_report.best, rel=1e-9)
    assert differing(model, loaded) <= trainable(model) | {"scale_weights.omega"}


def test_checkpoints(own_weights: Path, tmp_path: Path) -> None:
    """Two epochs, then two more, are four; the optimiser's state and its groups come from the file."""
    settings = {"work_dir": str(tmp_path), "model_name": "run", "save_checkpoints": True, "n_epochs": 2, **LEARNS}
    model = make_model(str(own_weights), trainer={"enable_checkpointing": True}, **settings)
    model.fit(wave(), val_series=wave(60, seed=1))
    shutil.rmtree(own_weights)
    steps, groups = model.trainer.global_step, model.trainer.optimizers[0].param_groups
    assert model.fit_report.kept == "epoch 2"  # the last and the best are the same here
    for best in (True, False):
        loaded = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path), best=best)
        assert np.array_equal(forecast_of(loaded), forecast_of(model))
    loaded.fit(wave(), val_series=wave(60, seed=1), epochs=4)
    assert (loaded.epochs_trained, loaded.trainer.global_step) == (4, 2 * steps)
    again = loaded.trainer.optimizers[0]
    assert [(group["name"], group["lr"]) for group in again.param_groups] == [(g["name"], g["lr"]) for g in groups]
    assert {int(state["step"]) for state in again.state.values()} == {2 * steps}
    assert differing(model, loaded) <= trainable(model) | {"scale_weights.omega"}
    assert loaded.fit_report.best <= model.fit_report.best


@pytest.fixture(scope="module")
def saved(tiny_moirai: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of the model `fitted(tiny_moirai, **LEARNS)`."""
    path = str(tmp_path_factory.mktemp("saved") / "model.pt")
    fitted(tiny_moirai, **LEARNS).save(path)
    return path


@pytest.mark.parametrize("first", ["nothing", "predict", "fit"])
def test_load_weights(tiny_moirai: str, saved: str, first: str) -> None:
    """The next fit goes on from them."""
    source, model = fitted(tiny_moirai, **LEARNS), make_model(tiny_moirai, weight_init="first", n_epochs=2, **STILL)
    if first == "predict":
        model.predict(HORIZON, wave())
    if first == "fit":
        model.fit(wave()).model = None  # Darts loads into models without weights alone
    model.load_weights(saved)
    assert model.fit_report is None
    assert np.array_equal(forecast_of(model), forecast_of(source))
    assert trainable(model) == trainable(source)
    assert differing(source, model.fit(wave())) == set()


@pytest.mark.parametrize("change", [{"lora_rank": 4}, {"num_scales": 1}, {"aggregator": None}, {"patch_size": 8}])
def test_weights_of_another_model_are_refused(tiny_moirai: str, saved: str, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        make_model(tiny_moirai, **{"input_chunk_length": 64, **change}).load_weights(saved)


def test_weights_for_another_memory_are_refused(tiny_moirai: str, saved: str) -> None:
    """They would fit; the default was the whole context there."""
    make_model(tiny_moirai, finest_context=CONTEXT).load_weights(saved)
    with pytest.raises(ValueError, match=f"finest_context is 16 here but {CONTEXT} in the saved model"):
        make_model(tiny_moirai, finest_context=16).load_weights(saved)


def test_weights_bring_the_patch_size_that_was_left_open(tiny_moirai: str, tmp_path: Path) -> None:
    """Both models ask for "auto", which is 4 for one context and 8 for the other: the adapters fit one alone."""
    fitted(tiny_moirai, patch_size="auto", num_scales=1).save(str(tmp_path / "model.pt"))
    long = make_model(tiny_moirai, patch_size="auto", num_scales=1, input_chunk_length=128)
    assert long._module_settings["patch_size"] == 8
    long.load_weights(str(tmp_path / "model.pt"))
    assert long._module_settings["patch_size"] == 4


BEFORE = Path(__file__).parents[1] / "fixtures" / "v0_1"
OPTIONS_BEFORE: dict[str, dict[str, Any]] = {
    "msft": {"num_scales": 1, "lora_rank": 2, "aggregator": "f2c", "upsampling": "repeat"},
    "lora": {"num_scales": 0, "lora_rank": 2, "method": "lora"},
}


def assert_as_saved(model: MSFTFoundationModel, name: str) -> None:
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    with np.load(BEFORE / "forecasts.npz") as saved:
        np.testing.assert_allclose(values_of(forecast)[:, :, 0], saved[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["msft", "zero_shot"])
@pytest.mark.parametrize("trusted", [False, True])
def test_models_saved_by_0_1(name: str, trusted: bool) -> None:
    model = MSFTFoundationModel.load(str(BEFORE / f"{name}.pt"), TRAINER, trusted=trusted)
    assert_as_saved(model, name)
    labels = [state.label for state in model.candidates]
    assert labels == (["zero-shot", "epoch 0", "epoch 1"] if name == "msft" else [])
    assert name == "zero_shot" or model.fit_report.moved == {}
    if not trusted:
        before = model.fit(wave(60), val_series=wave(50, seed=1), epochs=1).candidates[0].label
        assert before == ("before this fit" if name == "msft" else "zero-shot")
    assert "precision" not in TRAINER  # the caller's own dictionary


def test_weights_saved_by_0_1() -> None:
    model = make_model(str(BEFORE / "checkpoint"), weight_learning="mixed_loss", **OPTIONS_BEFORE["msft"])
    model.load_weights(str(BEFORE / "msft.pt"))
    assert_as_saved(model, "msft")


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("name", ["msft", "lora"])
def test_adapters_saved_by_0_1(name: str, given: bool, tmp_path: Path) -> None:
    """K and the finest context are as they were then, where the user leaves them open."""
    settings = {**OPTIONS_BEFORE[name], **({"finest_context": CONTEXT} if given else {"num_scales": None})}
    model = make_model(str(BEFORE / "checkpoint"), **settings)
    model.load_adapter(BEFORE / f"{name}_adapter")
    assert_as_saved(model, name)
    model.save_adapter(tmp_path / "adapter")
    again = make_model(str(BEFORE / "checkpoint"), **settings)
    again.load_adapter(tmp_path / "adapter")
    assert_as_saved(again, name)
    other = make_model(str(BEFORE / "checkpoint"), **settings | {"finest_context": 16})
    with pytest.raises(ValueError, match=f"finest_context: saved {CONTEXT}, here 16"):
        other.load_adapter(BEFORE / f"{name}_adapter")


def test_adapters_of_a_model_loaded_from_0_1(tmp_path: Path) -> None:
    """Its settings have no finest context."""
    loaded = MSFTFoundationModel.load(str(BEFORE / "msft.pt"), TRAINER)
    loaded.save_adapter(tmp_path / "adapter")
    for model in (loaded, make_model(str(BEFORE / "checkpoint"), **OPTIONS_BEFORE["msft"])):
        model.load_adapter(tmp_path / "adapter")
        assert_as_saved(model, "msft")


def test_a_model_of_0_1_merges_as_it_was(tiny_moirai: str) -> None:
    """With its K, and all of the input at scale 0, whatever today's defaults are."""
    model = make_model(tiny_moirai, method="lora", num_scales=1, lr_lora=1e-2, likelihood=None).fit(wave())
    expected, plan = forecast_of(model), model.model.plan
    del model._module_settings["finest_context"]
    for name in ("finest_context", "lr_lora"):
        del model._model_params[name]
    model._model_params["num_scales"] = None
    model.merge()
    assert model.model.plan == plan
    np.testing.assert_allclose(forecast_of(model), expected, rtol=1e-5)


def test_weights_of_chosen_settings_load_into_a_model_made_alike(tiny_moirai: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"patch_size": "auto", "num_scales": None, "finest_context": None, "method": "zero_shot"}
    model = make_model(tiny_moirai, **settings, linear_member=True).fit(wave(200), val_series=wave(90, seed=1))
    model.save(str(tmp_path / "model.pt"))
    other = make_model(tiny_moirai, **settings, linear_member=True)
    other.load_weights(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(other), forecast_of(model))


def test_a_copy_of_a_fitted_model_does_not_forecast_zero_shot(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, lr_head=1e-2).fit(wave())
    with pytest.raises(ValueError, match="no weights"):
        copy.deepcopy(model).predict(HORIZON, wave())
    assert copy.deepcopy(make_model(tiny_moirai)).predict(HORIZON, wave()).values().shape == (HORIZON, 1)
