"""`merge()`: LoRA folded into the weights, where that is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_fixtures import HORIZON, TRAINER, changed, make_model, parameters_snapshot, values_of, wave

from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS

LEARNS: dict[str, Any] = {"num_scales": None, "lr_new": 3e-2, "n_epochs": 2}
FOLDS = ("adalora", "lora")


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON, wave(), num_samples=1))


@pytest.mark.parametrize("method", FOLDS)
@pytest.mark.parametrize("validated", [False, True])
def test_forecasts_stay(tiny_moirai: str, tmp_path: Path, method: str, validated: bool) -> None:
    model = make_model(tiny_moirai, method=method, likelihood=None, **LEARNS)
    model.fit(wave(), val_series=wave(60, seed=1) if validated else None)
    zero_shot = make_model(tiny_moirai, likelihood=None)
    expected, report = forecast_of(model), model.fit_report
    assert validated or not np.allclose(expected, forecast_of(zero_shot), rtol=1e-3, atol=1e-3)
    assert model.merge() is model
    assert np.allclose(forecast_of(model), expected, rtol=1e-5, atol=1e-5)
    assert model.fit_report == report
    full = make_model(tiny_moirai, method="full", likelihood=None, num_scales=None)
    full.predict(HORIZON, wave())
    assert set(parameters_snapshot(model)) == set(parameters_snapshot(full))
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(loaded), forecast_of(model))
    model.save_adapter(tmp_path / "adapter")
    full.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(full), forecast_of(model))


def test_merged_model_trains_on_as_full(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, method="lora", **LEARNS).fit(wave()).merge()
    before = parameters_snapshot(model)
    trainable = {name for name, value in model.model.named_parameters() if value.requires_grad}
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "before this fit"
    assert changed(before, parameters_snapshot(model)) <= trainable
    assert any("q_proj" in name for name in trainable)
    with pytest.raises(ValueError, match="Full adds nothing"):
        model.merge()


def test_merging_ends_a_resume(tiny_moirai: str, tmp_path: Path) -> None:
    """The checkpoint that was to be resumed has weights that the merged model lacks."""
    run = {"work_dir": str(tmp_path), "model_name": "run"}
    trainer = {name: value for name, value in TRAINER.items() if name != "enable_checkpointing"}
    arguments = {**LEARNS, **run, "save_checkpoints": True, "pl_trainer_kwargs": trainer, "likelihood": None}
    make_model(tiny_moirai, method="lora", **arguments).fit(wave(), val_series=wave(60, seed=1))
    model = MSFTFoundationModel.load_from_checkpoint(**run, best=False).merge()
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(loaded), forecast_of(model))
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "before this fit"


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(FOLDS)))
def test_the_others_have_nothing_to_fold(tiny_moirai: str, method: str) -> None:
    model = make_model(tiny_moirai, method=method, num_scales=None).fit(wave(60))
    before = parameters_snapshot(model)
    with pytest.raises(ValueError, match=r"adds nothing to the pretrained weights that folds.*'lora' and 'adalora'"):
        model.merge()
    assert changed(before, parameters_snapshot(model)) == set()


def test_never_fitted_is_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"merge\(\) needs a model that was finetuned"):
        make_model(tiny_moirai, method="lora", num_scales=None).merge()
