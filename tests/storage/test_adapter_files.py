"""Adapters on disk: settings, width and precision, how they are written, and what is refused.

The round trip of every method on every backbone is in `test_method_contract.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, TRAINER, changed, make_model, parameters_snapshot, values_of, wave
from safetensors.torch import load_file, save_file

from darts_msft import MSFTFoundationModel

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2, "lr_pretrained": 1e-3, "num_scales": None, "n_epochs": 2}


def tuned(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    return make_model(checkpoint, **{**LEARNS, **changes}).fit(wave())


def forecast_of(model: MSFTFoundationModel, **options: Any) -> np.ndarray:
    return values_of(model.predict(HORIZON + 4, wave(), **{"num_samples": 5, "random_state": 0, **options}))


@pytest.fixture(scope="module")
def adapter(tiny_moirai: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The adapter of an MSFT model, and that model's forecast."""
    path, model = tmp_path_factory.mktemp("adapter") / "msft", tuned(tiny_moirai)
    model.save_adapter(path)
    return path, forecast_of(model)


@pytest.mark.parametrize(
    "settings",
    [
        {"likelihood": QuantileRegression([0.1, 0.5, 0.9])},
        {"likelihood": None},
        {"enable_finetuning": {"unfreeze": ["method.*"]}},
        {"input_chunk_length": (8, 32)},
    ],
)
def test_round_trip_with_other_settings(tiny_moirai: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    samples = {"num_samples": 1} if settings.get("likelihood", "") is None else {}
    model = tuned(tiny_moirai, **settings)
    model.save_adapter(tmp_path / "adapter")
    other = make_model(tiny_moirai, **{**LEARNS, **settings})
    other.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(other, **samples), forecast_of(model, **samples))


@pytest.mark.parametrize(("components", "dtype"), [(3, np.float32), (1, np.float64)])
def test_width_and_precision_come_from_the_file(tiny_moirai: str, tmp_path: Path, components: int, dtype: Any) -> None:
    series = wave(components=components, dtype=dtype)
    model = make_model(tiny_moirai, **LEARNS).fit(series)
    model.save_adapter(tmp_path / "adapter")
    other = make_model(tiny_moirai, **LEARNS)
    other.load_adapter(tmp_path / "adapter")
    forecast, expected = (one.predict(HORIZON, series, num_samples=3, random_state=0) for one in (other, model))
    assert forecast.dtype == dtype
    assert np.array_equal(values_of(forecast), values_of(expected))


def test_what_is_in_it(adapter: tuple[Path, np.ndarray], tiny_moirai: str) -> None:
    """What trains, and nothing of the frozen backbone; plain JSON beside it."""
    path, _ = adapter
    model = tuned(tiny_moirai)
    trainable = {name for name, value in model.model.named_parameters() if value.requires_grad}
    names = set(load_file(path / "adapter.safetensors"))
    assert trainable <= names
    assert {name for name in names if name.startswith("backbone.")} <= trainable
    assert names - trainable == {"trained"} | ({"scale_weights.omega"} - trainable)
    description = json.loads((path / "adapter.json").read_text())
    assert description["method"] == "msft"
    assert description["backbone"] == tiny_moirai
    assert description["n_components"] == 1
    assert description["likelihood"] == "native"
    assert len(description["frozen_sha256"]) == 64
    assert sorted(file.name for file in path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    assert sorted(file.name for file in path.parent.iterdir()) == ["msft"]


def test_after_loading_all_goes_on(adapter: tuple[Path, np.ndarray], tiny_moirai: str, tmp_path: Path) -> None:
    path, expected = adapter
    model = make_model(tiny_moirai, **LEARNS)
    model.load_adapter(path)
    model.save(str(tmp_path / "model.pt"))
    assert np.array_equal(forecast_of(MSFTFoundationModel.load(str(tmp_path / "model.pt"))), expected)
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "before this fit"


# ------------------------------------------------------------------------------------------------ where it is written


def test_an_adapter_is_replaced_only_when_asked(tiny_moirai: str, tmp_path: Path) -> None:
    first, second = tuned(tiny_moirai), tuned(tiny_moirai, random_state=3)
    first.save_adapter(tmp_path / "deep" / "adapter")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        second.save_adapter(tmp_path / "deep" / "adapter")
    loaded = make_model(tiny_moirai, **LEARNS)
    loaded.load_adapter(tmp_path / "deep" / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(first))
    second.save_adapter(tmp_path / "deep" / "adapter", overwrite=True)
    loaded.load_adapter(tmp_path / "deep" / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(second))
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["adapter"]


@pytest.mark.parametrize("kind", ["file", "empty", "more"])
def test_what_is_no_adapter_is_never_replaced(tiny_moirai: str, tmp_path: Path, kind: str) -> None:
    model, path = tuned(tiny_moirai), tmp_path / "mine"
    if kind == "file":
        path.write_text("mine")
    elif kind == "empty":
        path.mkdir()
    else:
        model.save_adapter(path)
        (path / "notes.txt").write_text("mine")
    before = sorted(file.name for file in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="is not an adapter directory"):
        model.save_adapter(path, overwrite=True)
    assert sorted(file.name for file in tmp_path.rglob("*")) == before


def test_a_write_that_fails_leaves_the_old_one(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = tuned(tiny_moirai), tmp_path / "adapter"
    model.save_adapter(path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    replace = os.replace

    def fails(source: Any, target: Any) -> None:
        if str(source).endswith(".new"):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        model.save_adapter(path, overwrite=True)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [file.name for file in tmp_path.iterdir()] == ["adapter"]


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_rank": 4}, "method_config.lora_rank: saved 16, here 4"),
        ({"num_scales": 0}, "num_scales: saved 1, here 0"),
        ({"patch_size": 8, "num_scales": 1}, "patch_size: saved 4, here 8"),
        ({"mixing": "quantile"}, "mixing_config.mixing: saved 'mixture', here 'quantile'"),
        ({"method": "full", "lr_new": None, "num_scales": None}, "method: saved 'msft', here 'full'"),
        ({"likelihood": None}, "likelihood: saved .*, here 'None'"),
        ({"output_chunk_length": 6}, "output_chunk_length: saved 8, here 6"),
        ({"input_chunk_length": 40}, "input_chunk_length: saved 32, here 40"),
    ],
)
def test_other_settings_are_named(
    adapter: tuple[Path, np.ndarray], tiny_moirai: str, change: dict[str, Any], message: str, fitted: bool
) -> None:
    model = make_model(tiny_moirai, **{**LEARNS, **change})
    if fitted:
        model.fit(wave())
        before = parameters_snapshot(model)
    with pytest.raises(ValueError, match=f"(?s)is for another model.*{message}.*Nothing was loaded"):
        model.load_adapter(adapter[0])
    if fitted:
        assert changed(before, parameters_snapshot(model)) == set()
    else:
        assert model.model is None


@pytest.mark.parametrize("forecast_first", [False, True])
def test_loading_ends_a_resume(tiny_moirai: str, tmp_path: Path, forecast_first: bool) -> None:
    """The next fit starts from the adapter, and a save writes it, not the checkpoint that was to be resumed."""
    tuned(tiny_moirai, method="linear_probe", lr_new=None, lr_pretrained=None).save_adapter(tmp_path / "adapter")
    run = {"work_dir": str(tmp_path), "model_name": "run"}
    trainer = {name: value for name, value in TRAINER.items() if name != "enable_checkpointing"}
    settings = {"method": "linear_probe", "num_scales": None, "lr_head": 1e-2, "pl_trainer_kwargs": trainer}
    make_model(tiny_moirai, **run, **settings, save_checkpoints=True).fit(wave(), val_series=wave(60, seed=1))
    model = MSFTFoundationModel.load_from_checkpoint(**run, best=False)
    if forecast_first:
        model.predict(HORIZON, wave())
    model.load_adapter(tmp_path / "adapter")
    model.save(str(tmp_path / "model.pt"))
    expected = make_model(tiny_moirai, method="linear_probe", num_scales=None)
    expected.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(MSFTFoundationModel.load(str(tmp_path / "model.pt"))), forecast_of(expected))
    model.fit(wave(), val_series=wave(60, seed=1))
    expected.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "before this fit"
    assert model.candidates[0] == expected.candidates[0]
    assert len(model.candidates) == 2


def test_same_weights_elsewhere_are_welcome(adapter: tuple[Path, np.ndarray], tiny_moirai: str, tmp_path: Path) -> None:
    for file in Path(tiny_moirai).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    model = make_model(str(tmp_path), **LEARNS)
    model.load_adapter(adapter[0])
    assert np.array_equal(forecast_of(model), adapter[1])


def test_another_width_is_refused(adapter: tuple[Path, np.ndarray], tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, **LEARNS).fit(wave(components=2))
    with pytest.raises(ValueError, match="n_components: saved 1, here 2"):
        model.load_adapter(adapter[0])


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("fault", ["missing", "unexpected", "shape"])
def test_other_tensors_are_refused(tiny_moirai: str, tmp_path: Path, fault: str, fitted: bool) -> None:
    from darts_msft.storage.weights import state_hash

    tuned(tiny_moirai).save_adapter(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / "adapter.safetensors")
    if fault == "missing":
        del tensors["scale_weights.omega"]
    else:
        tensors["scale_weights.omega" if fault == "shape" else "backbone.more"] = torch.zeros(7)
    save_file(tensors, tmp_path / "adapter" / "adapter.safetensors")
    model = make_model(tiny_moirai, **LEARNS)
    if fitted:
        model.fit(wave())
        before = parameters_snapshot(model)
    with pytest.raises(ValueError, match=r"does not belong to its adapter\.json"):
        model.load_adapter(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tensors_sha256": state_hash(tensors)}))
    with pytest.raises(ValueError, match=f"1 .*{fault}.*(omega|backbone.more).*Nothing was loaded"):
        model.load_adapter(tmp_path / "adapter")
    if fitted:
        assert changed(before, parameters_snapshot(model)) == set()
    else:
        assert model.model is None


@pytest.mark.parametrize("broken", ["no directory", "json", "version", "tensors"])
def test_broken_files_are_named(tiny_moirai: str, tmp_path: Path, broken: str) -> None:
    path = tmp_path / "adapter"
    tuned(tiny_moirai).save_adapter(path)
    description = path / "adapter.json"
    if broken == "json":
        description.write_text("{")
    elif broken == "version":
        description.write_text(description.read_text().replace('"format_version": 1', '"format_version": 99'))
    elif broken == "tensors":
        (path / "adapter.safetensors").write_bytes(b"not safetensors")
    kind, message = {
        "no directory": (FileNotFoundError, "is no adapter directory"),
        "json": (ValueError, "is not valid JSON"),
        "version": (ValueError, "99.*reads.*1"),
        "tensors": (ValueError, "not a readable safetensors file"),
    }[broken]
    with pytest.raises(kind, match=message):
        make_model(tiny_moirai, **LEARNS).load_adapter(path / "deeper" if broken == "no directory" else path)
