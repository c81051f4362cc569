"""Adapters on disk: settings, width and precision, how they are written, and broken files.

The round trip of every method on every backbone is in `test_method_contract.py`, what an adapter fits in
`test_adapter_identity.py`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, TRAINER, changed, make_model, parameters_snapshot, values_of, wave
from safetensors.torch import load_file, save_file

from darts_msft import MSFTFoundationModel
from darts_msft.storage.weights import state_hash

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2, "lr_pretrained": 1e-3, "num_scales": None}


def tuned(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    return make_model(checkpoint, **{**LEARNS, **changes}).fit(wave())


def forecast_of(model: MSFTFoundationModel, **options: Any) -> np.ndarray:
    return values_of(model.predict(HORIZON + 4, wave(), **{"num_samples": 5, "random_state": 0, **options}))


def loaded(checkpoint: str, path: Path, **changes: Any) -> MSFTFoundationModel:
    model = make_model(checkpoint, **{**LEARNS, **changes})
    model.load_adapter(path)
    return model


@pytest.fixture(scope="module")
def model(tiny_moirai: str) -> MSFTFoundationModel:
    return tuned(tiny_moirai)


@pytest.fixture
def adapter(model: MSFTFoundationModel, tmp_path: Path) -> Path:
    """Alone in its directory."""
    model.save_adapter(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "settings",
    [
        {"likelihood": QuantileRegression([0.1, 0.5, 0.9])},
        {"enable_finetuning": {"unfreeze": ["method.*"]}},
        {"input_chunk_length": (8, 32)},
    ],
)
def test_round_trip_with_other_settings(tiny_moirai: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = tuned(tiny_moirai, **settings)
    model.save_adapter(tmp_path / "adapter")
    other = loaded(tiny_moirai, tmp_path / "adapter", **settings)
    assert np.array_equal(forecast_of(other), forecast_of(model))


@pytest.mark.parametrize(("components", "dtype"), [(3, np.float32), (1, np.float64)])
def test_width_and_precision_come_from_the_file(tiny_moirai: str, tmp_path: Path, components: int, dtype: Any) -> None:
    series = wave(components=components, dtype=dtype)
    model = make_model(tiny_moirai, **LEARNS).fit(series)
    model.save_adapter(tmp_path / "adapter")
    other = loaded(tiny_moirai, tmp_path / "adapter")
    forecast, expected = (one.predict(HORIZON, series, num_samples=3, random_state=0) for one in (other, model))
    assert forecast.dtype == dtype
    assert np.array_equal(values_of(forecast), values_of(expected))


def test_what_is_in_it(adapter: Path, model: MSFTFoundationModel, tiny_moirai: str) -> None:
    """What trains, and nothing of the frozen backbone; plain JSON beside it."""
    trainable = {name for name, value in model.model.named_parameters() if value.requires_grad}
    names = set(load_file(adapter / "adapter.safetensors"))
    assert trainable <= names
    assert {name for name in names if name.startswith("backbone.")} <= trainable
    description = json.loads((adapter / "adapter.json").read_text())
    expected = {"method": "msft", "backbone": tiny_moirai, "n_components": 1, "likelihood": "native"}
    assert description.items() >= expected.items()
    assert len(description["frozen_sha256"]) == 64
    assert sorted(file.name for file in adapter.parent.rglob("*")) == ["adapter", "adapter.json", "adapter.safetensors"]


def test_loading_ends_a_resume(tiny_moirai: str, tmp_path: Path) -> None:
    """The next fit starts from the adapter, and a save writes it, not the checkpoint that was to be resumed."""
    probe = {"method": "linear_probe", "lr_new": None, "lr_pretrained": None}
    tuned(tiny_moirai, **probe).save_adapter(tmp_path / "adapter")
    run = {"work_dir": str(tmp_path), "model_name": "run"}
    trainer = {name: value for name, value in TRAINER.items() if name != "enable_checkpointing"}
    saving = {**run, **probe, "save_checkpoints": True, "pl_trainer_kwargs": trainer}
    make_model(tiny_moirai, **{**LEARNS, **saving}).fit(wave(), val_series=wave(44, seed=1))
    model = MSFTFoundationModel.load_from_checkpoint(**run, best=False)
    model.predict(HORIZON, wave())
    model.load_adapter(tmp_path / "adapter")
    model.save(str(tmp_path / "model.pt"))
    expected = loaded(tiny_moirai, tmp_path / "adapter", **probe)
    assert np.array_equal(forecast_of(MSFTFoundationModel.load(str(tmp_path / "model.pt"))), forecast_of(expected))
    for one in (model, expected):
        one.fit(wave(), val_series=wave(44, seed=1))
    assert model.candidates[0].label == "before this fit"
    assert model.candidates[0] == expected.candidates[0]
    assert len(model.candidates) == 2


# ------------------------------------------------------------------------------------------------ where it is written


def test_an_adapter_is_replaced_only_when_asked(
    adapter: Path, model: MSFTFoundationModel, tiny_moirai: str, tmp_path: Path
) -> None:
    second = tuned(tiny_moirai, random_state=3)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        second.save_adapter(adapter)
    assert np.array_equal(forecast_of(loaded(tiny_moirai, adapter)), forecast_of(model))
    second.save_adapter(adapter, overwrite=True)
    assert np.array_equal(forecast_of(loaded(tiny_moirai, adapter)), forecast_of(second))
    second.save_adapter(tmp_path / "deep" / "new")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter", "deep"]


@pytest.mark.parametrize("kind", ["file", "empty", "more"])
def test_what_is_no_adapter_is_never_replaced(model: MSFTFoundationModel, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "mine"
    if kind == "file":
        path.write_text("mine")
    elif kind == "empty":
        path.mkdir()
    else:
        model.save_adapter(path)
        (path / "notes.txt").write_text("mine")
    before = sorted(file.name for file in tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="mine"):
        model.save_adapter(path, overwrite=True)
    assert sorted(file.name for file in tmp_path.rglob("*")) == before


def test_a_write_that_fails_leaves_the_old_one(
    adapter: Path, model: MSFTFoundationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file.name: file.read_bytes() for file in adapter.iterdir()}
    replace = os.replace

    def fails(source: Any, target: Any) -> None:
        if str(source).endswith(".new"):
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        model.save_adapter(adapter, overwrite=True)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == before
    assert [file.name for file in adapter.parent.iterdir()] == ["adapter"]


# ---------------------------------------------------------------------------------------------------- broken files


@pytest.mark.parametrize(
    ("fault", "fitted"), [("missing", True), ("missing", False), ("unexpected", False), ("shape", True)]
)
def test_other_tensors_are_refused(tiny_moirai: str, adapter: Path, fault: str, fitted: bool) -> None:
    tensors = {name: one.clone() for name, one in load_file(adapter / "adapter.safetensors").items()}  # not mapped
    if fault == "missing":
        del tensors["scale_weights.omega"]
    else:
        tensors["scale_weights.omega" if fault == "shape" else "backbone.more"] = torch.zeros(7)
    save_file(tensors, adapter / "adapter.safetensors")
    model = make_model(tiny_moirai, **LEARNS)
    if fitted:
        model.fit(wave())
        before = parameters_snapshot(model)
    with pytest.raises(ValueError, match=r"does not belong to its adapter\.json"):
        model.load_adapter(adapter)
    file = adapter / "adapter.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "tensors_sha256": state_hash(tensors)}))
    with pytest.raises(ValueError, match=f"1 .*{fault}.*(omega|backbone.more)"):
        model.load_adapter(adapter)
    if fitted:
        assert changed(before, parameters_snapshot(model)) == set()
    else:
        assert model.model is None


@pytest.mark.parametrize(
    ("broken", "kind", "message"),
    [
        ("no directory", FileNotFoundError, "deeper"),
        ("no tensors", FileNotFoundError, "adapter"),
        ("json", ValueError, "JSON"),
        ("list", ValueError, "None"),
        ("version", ValueError, "99.*1"),
        ("tensors", ValueError, "adapter.safetensors is not"),
    ],
)
def test_broken_files_are_named(
    tiny_moirai: str, adapter: Path, broken: str, kind: type[Exception], message: str
) -> None:
    description, tensors = adapter / "adapter.json", adapter / "adapter.safetensors"
    if broken == "no directory":
        shutil.move(adapter, adapter.with_name("away"))
    elif broken == "no tensors":
        tensors.unlink()
    elif broken == "tensors":
        tensors.write_bytes(b"not safetensors")
    else:
        newer = description.read_text().replace('"format_version": 1', '"format_version": 99')
        description.write_text({"json": "{", "list": "[]", "version": newer}[broken])
    with pytest.raises(kind, match=message):
        loaded(tiny_moirai, adapter / "deeper" if broken == "no directory" else adapter)
