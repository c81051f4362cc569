"""Saving, loading, checkpoints and going on from them; never with the hub, nor with the original weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import GaussianLikelihood, QuantileRegression
from model_fixtures import (
    HORIZON,
    TRAINER,
    changed,
    make_model,
    parameters_snapshot,
    validation_scores,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2}


@pytest.fixture
def own_weights(tiny_moirai: str, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may delete."""
    return Path(shutil.copytree(tiny_moirai, tmp_path / "weights"))


def forecast_of(model: MSFTFoundationModel, likelihood: Any = "native") -> np.ndarray:
    samples = 1 if likelihood is None else 10
    return values_of(model.predict(HORIZON + 4, wave(), num_samples=samples, random_state=0))


def trainable(model: MSFTFoundationModel) -> set[str]:
    return {name for name, value in model.model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("likelihood", ["native", None, QuantileRegression([0.1, 0.5, 0.9]), GaussianLikelihood()])
def test_round_trip(own_weights: Path, tmp_path: Path, likelihood: Any, clean: bool) -> None:
    model = make_model(str(own_weights), likelihood=likelihood, **LEARNS).fit(wave())
    model.save(str(tmp_path / "model.pt"), clean=clean)
    shutil.rmtree(own_weights)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"), pl_trainer_kwargs=TRAINER)
    assert np.array_equal(forecast_of(model, likelihood), forecast_of(loaded, likelihood))
    assert changed(parameters_snapshot(model), parameters_snapshot(loaded)) == set()
    assert trainable(loaded) == trainable(model)


def test_zero_shot_round_trip(own_weights: Path, tmp_path: Path) -> None:
    model = make_model(str(own_weights))
    expected = forecast_of(model)
    model.save(str(tmp_path / "model.pt"))
    shutil.rmtree(own_weights)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(loaded), expected)
    assert loaded.scale_weights.tolist() == [1, 0, 0]
    loaded.fit(wave(), val_series=wave(seed=1))  # the saved weights are all that it needs
    assert loaded.candidates[0].label == "zero-shot"


def test_never_used_round_trip(tiny_moirai: str, tmp_path: Path) -> None:
    model = make_model(tiny_moirai)
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(loaded), forecast_of(model))


def test_state_that_won_is_the_one_saved(tiny_moirai: str, tmp_path: Path) -> None:
    """Training that made things worse: the pretrained model was returned, and comes back from the file."""
    rates = {"lr_new": 0.3, "lr_head": 0.3, "lr_pretrained": 0.0}
    model = make_model(tiny_moirai, likelihood=None, **rates).fit(wave(), val_series=wave(seed=1))
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(loaded, None), forecast_of(model, None))


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_precision_survives(tiny_moirai: str, tmp_path: Path, precision: Any) -> None:
    series = wave(dtype=precision)
    model = make_model(tiny_moirai).fit(series)
    model.save(str(tmp_path / "model.pt"))
    forecast = MSFTFoundationModel.load(str(tmp_path / "model.pt")).predict(HORIZON, series)
    assert forecast.dtype == precision


def test_fit_goes_on_after_load(own_weights: Path, tmp_path: Path) -> None:
    model = make_model(str(own_weights), **LEARNS).fit(wave(), val_series=wave(60, seed=1))
    model.save(str(tmp_path / "model.pt"))
    shutil.rmtree(own_weights)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    before, frozen = parameters_snapshot(loaded), set(parameters_snapshot(loaded)) - trainable(loaded)
    loaded.fit(wave(seed=3), val_series=wave(60, seed=1))
    start, end = validation_scores(loaded)
    assert start == validation_scores(model)[1]
    assert end <= start
    assert not changed(before, parameters_snapshot(loaded)) & frozen


@pytest.mark.parametrize("how", ["load", "clean"])
def test_gradient_clipping_outlives_saving(tiny_moirai: str, tmp_path: Path, how: str) -> None:
    path = str(tmp_path / "model.pt")
    make_model(tiny_moirai).fit(wave(50)).save(path, clean=how == "clean")
    loaded = MSFTFoundationModel.load(path, pl_trainer_kwargs=TRAINER)
    loaded.fit(wave(50))
    assert loaded.trainer.gradient_clip_val == 1.0


def test_choice_of_names_survives_loading(tiny_moirai: str, tmp_path: Path) -> None:
    model = make_model(tiny_moirai, enable_finetuning={"unfreeze": ["method.lora.*"]}).fit(wave(50))
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert trainable(loaded) == trainable(model) == {name for name in trainable(model) if ".lora." in name}
    before = parameters_snapshot(loaded)
    assert changed(before, parameters_snapshot(loaded.fit(wave(50)))) <= trainable(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer_cls": torch.optim.Adam, "optimizer_kwargs": {"lr": 1e-2}},
        {
            "lr_scheduler_cls": torch.optim.lr_scheduler.ExponentialLR,
            "lr_scheduler_kwargs": {"gamma": 0.5},
        },
    ],
)
def test_training_settings_load_without_trust(tiny_moirai: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make_model(tiny_moirai, **settings).fit(wave(50))
    model.save(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(MSFTFoundationModel.load(str(tmp_path / "model.pt"))), forecast_of(model))


# ------------------------------------------------------------------------------------------------ checkpoints


def checkpointed(weights: Path, work_dir: Path, **changes: Any) -> MSFTFoundationModel:
    settings = {"work_dir": str(work_dir), "model_name": "run", "save_checkpoints": True, "force_reset": True}
    return make_model(str(weights), trainer={"enable_checkpointing": True}, **{**settings, **LEARNS, **changes})


@pytest.mark.parametrize("best", [False, True])
def test_load_from_checkpoint(own_weights: Path, tmp_path: Path, best: bool) -> None:
    model = checkpointed(own_weights, tmp_path, n_epochs=2).fit(wave(), val_series=wave(60, seed=1))
    shutil.rmtree(own_weights)
    loaded = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path), best=best)
    assert trainable(loaded) == trainable(model)
    assert model.fit_report.kept == "epoch 1"  # the last and the best are the same here
    assert np.array_equal(forecast_of(loaded), forecast_of(model))


def test_training_resumes_from_a_checkpoint(own_weights: Path, tmp_path: Path) -> None:
    """Two epochs, then two more, are four; the optimiser's state and its groups come from the file."""
    val = wave(60, seed=1)
    model = checkpointed(own_weights, tmp_path, n_epochs=2).fit(wave(), val_series=val)
    shutil.rmtree(own_weights)
    loaded = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path), best=False)
    before, frozen = parameters_snapshot(loaded), set(parameters_snapshot(loaded)) - trainable(loaded)
    loaded.fit(wave(), val_series=val, epochs=4)
    assert loaded.epochs_trained == 4
    assert loaded.trainer.global_step == 2 * model.trainer.global_step
    groups = {group["name"]: group["lr"] for group in loaded.trainer.optimizers[0].param_groups}
    assert groups == {group["name"]: group["lr"] for group in model.trainer.optimizers[0].param_groups}
    steps = {int(state["step"]) for state in loaded.trainer.optimizers[0].state.values()}
    assert steps == {loaded.trainer.global_step}
    assert not changed(before, parameters_snapshot(loaded)) & frozen


def test_resumed_training_is_never_worse(own_weights: Path, tmp_path: Path) -> None:
    val = wave(60, seed=1)
    checkpointed(own_weights, tmp_path, n_epochs=1).fit(wave(), val_series=val)
    loaded = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path), best=False)
    loaded.fit(wave(), val_series=val, epochs=2)
    start, end = validation_scores(loaded)
    assert end <= start


# ---------------------------------------------------------------------------------------------- load_weights


def test_load_weights(tiny_moirai: str, tmp_path: Path) -> None:
    model = make_model(tiny_moirai, **LEARNS).fit(wave())
    model.save(str(tmp_path / "model.pt"))
    other = make_model(tiny_moirai, lr_new=1e-4, weight_init="first", n_epochs=3)
    other.load_weights(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(other), forecast_of(model))
    assert trainable(other) == trainable(model)


@pytest.mark.parametrize("forecast_first", [False, True])
def test_fit_goes_on_from_loaded_weights(tiny_moirai: str, tmp_path: Path, forecast_first: bool) -> None:
    make_model(tiny_moirai, **LEARNS).fit(wave()).save(str(tmp_path / "model.pt"))
    other = make_model(tiny_moirai, lr_new=0.0, lr_head=0.0, lr_pretrained=0.0, lr_omega=0.0)
    if forecast_first:
        other.predict(HORIZON, wave())
    other.load_weights(str(tmp_path / "model.pt"))
    loaded = parameters_snapshot(other)
    other.fit(wave())
    assert changed(loaded, parameters_snapshot(other)) == set()


@pytest.mark.parametrize("change", [{"lora_rank": 4}, {"num_scales": 1}, {"aggregator": None}, {"patch_size": 8}])
def test_weights_of_another_model_are_refused(tiny_moirai: str, tmp_path: Path, change: dict[str, Any]) -> None:
    make_model(tiny_moirai).fit(wave()).save(str(tmp_path / "model.pt"))
    name = next(iter(change))
    settings = {"input_chunk_length": 64, **change}
    with pytest.raises(ValueError, match=f"(?s)should be identical.*{name}"):
        make_model(tiny_moirai, **settings).load_weights(str(tmp_path / "model.pt"))


def test_weights_for_another_resolved_patch_size_are_refused(tiny_moirai: str, tmp_path: Path) -> None:
    """Both models ask for "auto", which is 4 for one context and 8 for the other: the adapters do not fit."""
    short = make_model(tiny_moirai, patch_size="auto", num_scales=1).fit(wave())
    short.save(str(tmp_path / "model.pt"))
    long = make_model(tiny_moirai, patch_size="auto", num_scales=1, input_chunk_length=128)
    with pytest.raises(ValueError, match="patch_size"):
        long.load_weights(str(tmp_path / "model.pt"))
