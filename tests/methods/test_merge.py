"""`merge()`: LoRA folded into the weights, where that is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_fixtures import HORIZON, TRAINER, changed, make_model, parameters_snapshot, values_of, wave

from darts_msft import MSFTFoundationModel

LEARNS: dict[str, Any] = {"num_scales": 1, "upsampling": "linear", "lr_lora": 3e-2, "n_epochs": 2}
LATER = wave(44, seed=1)


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON, wave(), num_samples=1))


def saved_and_loaded(model: MSFTFoundationModel, folder: Path) -> MSFTFoundationModel:
    model.save(str(folder / "model.pt"))
    return MSFTFoundationModel.load(str(folder / "model.pt"))


@pytest.mark.parametrize(("method", "validated"), [("lora", False), ("adalora", True)])
def test_forecasts_stay_and_the_merged_model_trains_on_as_full(
    tiny_moirai: str, tmp_path: Path, method: str, validated: bool
) -> None:
    model = make_model(tiny_moirai, method=method, likelihood=None, **LEARNS)
    model.fit(wave(), val_series=LATER if validated else None)
    zero_shot = make_model(tiny_moirai, likelihood=None)
    expected, report = forecast_of(model), model.fit_report
    assert validated or not np.allclose(expected, forecast_of(zero_shot), rtol=1e-3, atol=1e-3)
    assert model.merge() is model
    assert np.allclose(forecast_of(model), expected, rtol=1e-5, atol=1e-5)
    assert model.fit_report == report
    full = make_model(tiny_moirai, method="full", likelihood=None, num_scales=1, upsampling="linear")
    full.predict(HORIZON, wave())
    assert set(parameters_snapshot(model)) == set(parameters_snapshot(full))
    assert np.array_equal(forecast_of(saved_and_loaded(model, tmp_path)), forecast_of(model))
    model.save_adapter(tmp_path / "adapter")
    full.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(full), forecast_of(model))
    before = parameters_snapshot(model)
    trainable = {name for name, value in model.model.named_parameters() if value.requires_grad}
    model.fit(wave(), val_series=LATER)
    assert model.candidates[0].label == ("zero-shot" if report.kept.startswith("zero-shot") else "before this fit")
    assert changed(before, parameters_snapshot(model)) <= trainable
    assert any("q_proj" in name for name in trainable)
    with pytest.raises(ValueError, match="Full"):
        model.merge()


def test_merging_ends_a_resume(tiny_moirai: str, tmp_path: Path) -> None:
    """The checkpoint that was to be resumed has weights that the merged model lacks."""
    run = {"work_dir": str(tmp_path), "model_name": "run"}
    trainer = {name: value for name, value in TRAINER.items() if name != "enable_checkpointing"}
    arguments = {**LEARNS, **run, "save_checkpoints": True, "pl_trainer_kwargs": trainer, "likelihood": None}
    make_model(tiny_moirai, method="lora", **arguments).fit(wave(), val_series=LATER)
    model = MSFTFoundationModel.load_from_checkpoint(**run, best=False).merge()
    assert np.array_equal(forecast_of(saved_and_loaded(model, tmp_path)), forecast_of(model))
    model.fit(wave(), val_series=LATER)
    assert model.candidates[0].label == "before this fit"


@pytest.mark.parametrize(
    ("method", "settings"), [("msft", {"num_scales": 0}), ("msft_full", {"num_scales": 1, "shared_lora": True})]
)
def test_one_lora_of_msft_folds(tmp_path: Path, settings: dict[str, Any], method: str) -> None:
    """On more than one layer; adapters and aggregator stay as they are."""
    asked = {"method": method, "input_chunk_length": 64, "patch_size": 16, "likelihood": None}
    learns = {"lr_lora": 3e-2, "enable_finetuning": {"unfreeze": ["method.lora.*"]}}
    model = make_model("moirai-tiny", **asked, **learns, **settings).fit(wave())
    expected, names = forecast_of(model), set(parameters_snapshot(model))
    unmoved = make_model("moirai-tiny", **asked, num_scales=0)
    assert model.model.backbone.spec.num_layers > 1
    assert not np.allclose(expected, forecast_of(unmoved), rtol=1e-3, atol=1e-3)
    assert model.merge() is model
    assert np.allclose(forecast_of(model), expected, rtol=1e-5, atol=1e-5)
    assert names - set(parameters_snapshot(model)) == {name for name in names if name.startswith("method.lora.")}
    assert np.array_equal(forecast_of(saved_and_loaded(model, tmp_path)), forecast_of(model))
    with pytest.raises(ValueError, match="lora_rank=0"):
        model.merge()
    model.fit(wave())  # all that MSFT trains but LoRA


@pytest.mark.parametrize("method", ["msft", "full", "prompt"])
def test_the_others_say_why_not(tiny_moirai: str, method: str) -> None:
    model = make_model(tiny_moirai, method=method, num_scales=None).fit(wave(50))
    before = parameters_snapshot(model)
    name = type(model.model.method).__name__
    with pytest.raises(ValueError, match=rf"but {name} \w+.*'msft_full' .*shared_lora=True"):
        model.merge()
    assert changed(before, parameters_snapshot(model)) == set()


def test_merging_ends_what_named_the_adapters(tiny_moirai: str, tmp_path: Path) -> None:
    """The names that the user let train are gone: the merged model can be loaded, and trains all of its weights."""
    own = {"enable_finetuning": {"unfreeze": ["*.lora_*"]}}
    model = make_model(tiny_moirai, method="lora", num_scales=None, lora_rank=2, **own).fit(wave(50)).merge()
    loaded = saved_and_loaded(model, tmp_path)
    assert (loaded.enable_finetuning, loaded.model_params["lora_rank"]) == (True, 16)


def test_never_fitted_is_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"merge\(\)"):
        make_model(tiny_moirai, method="lora", num_scales=None).merge()
