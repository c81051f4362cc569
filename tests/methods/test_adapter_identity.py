"""What an adapter rests on: the weights that were frozen below it, and the options of its method."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, make_model, values_of, wave
from safetensors.torch import load_file, save_file

from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method
from darts_msft.options import MethodConfig, MixingConfig

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2, "lr_pretrained": 1e-3, "num_scales": None}


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON + 4, wave(), num_samples=5, random_state=0))


@pytest.fixture
def other_weights(tiny_moirai: str, tmp_path: Path) -> str:
    """A checkpoint of the same shape, all of whose weights are a little different."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "config.json").write_bytes((Path(tiny_moirai) / "config.json").read_bytes())
    weights = load_file(Path(tiny_moirai) / "model.safetensors")
    save_file({name: value * 1.01 + 1e-3 for name, value in weights.items()}, folder / "model.safetensors")
    return str(folder)


OTHER_WEIGHTS = (
    r"another model: the pretrained weights differ; frozen_sha256: saved '[0-9a-f]{64}', here '[0-9a-f]{64}'"
    r".*Nothing was loaded"
)


@pytest.mark.parametrize("fitted", [False, True])
def test_other_weights_are_refused(tiny_moirai: str, other_weights: str, tmp_path: Path, fitted: bool) -> None:
    make_model(tiny_moirai, **LEARNS).fit(wave()).save_adapter(tmp_path / "adapter")
    model = make_model(other_weights, **LEARNS)
    if fitted:
        model.fit(wave())
    with pytest.raises(ValueError, match=OTHER_WEIGHTS):
        model.load_adapter(tmp_path / "adapter")
    assert (model.model is not None) is fitted


@pytest.mark.parametrize("method", ["lora", "msft"])
def test_the_weights_below_count_not_their_name(
    tiny_moirai: str, other_weights: str, tmp_path: Path, method: str
) -> None:
    """`load_weights` brings in other frozen weights than `backbone` names."""
    settings = {"method": method, "lr_new": 1e-2, "num_scales": None}
    source = make_model(other_weights, **settings).fit(wave())
    source.save(str(tmp_path / "source.pt"))
    model = make_model(tiny_moirai, **settings)
    model.load_weights(str(tmp_path / "source.pt"))
    model.save_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=OTHER_WEIGHTS):
        make_model(tiny_moirai, **settings).load_adapter(tmp_path / "adapter")
    fitting = make_model(other_weights, **settings)
    fitting.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(fitting), forecast_of(source))


@pytest.mark.parametrize("method", ["full", "scratch"])
def test_where_all_trains_the_weights_below_are_indifferent(
    tiny_moirai: str, other_weights: str, tmp_path: Path, method: str
) -> None:
    settings = {"method": method, "num_scales": None}
    model = make_model(tiny_moirai, **settings, lr_pretrained=1e-3).fit(wave())
    model.save_adapter(tmp_path / "adapter")
    loaded = make_model(other_weights, **settings)
    loaded.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(model))


def test_saving_needs_no_pretrained_weights(tiny_moirai: str, tmp_path: Path) -> None:
    """They may have gone, or changed, since the fit."""
    shutil.copytree(tiny_moirai, tmp_path / "below")
    model = make_model(str(tmp_path / "below"), **LEARNS).fit(wave())
    shutil.rmtree(tmp_path / "below")
    model.save_adapter(tmp_path / "adapter")
    loaded = make_model(tiny_moirai, **LEARNS)
    loaded.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(model))


def test_random_weights_are_all_saved(tiny_moirai: str, tmp_path: Path) -> None:
    """Where the untrained state of "scratch" is the best one, its forecast rests on a head that doesn't train."""
    settings = {"method": "scratch", "num_scales": None, "likelihood": QuantileRegression([0.1, 0.5, 0.9])}
    model = make_model(tiny_moirai, **settings, lr_head=1.0, lr_pretrained=1.0)
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.fit_report is not None
    assert model.fit_report.kept == "untrained"
    model.save_adapter(tmp_path / "adapter")
    loaded = make_model(tiny_moirai, **settings, random_state=5)
    loaded.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(model))


OTHER_OPTIONS: dict[str, Any] = {
    "lora_rank": 4,
    "lora_alpha": 8.0,
    "aggregator": "f2c",
    "shared_adapters": True,
    "shared_lora": True,
    "attention": "full",
    "prompt_length": 3,
    "mixing": "quantile",
    "upsampling": "linear",
}
HOW_OMEGA_WAS_LEARNED = {"weight_learning": "scale_loss", "weight_init": "first"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_only_the_options_of_the_method_count(tiny_moirai: str, tmp_path: Path, method: str) -> None:
    every = {field.name for config in (MethodConfig, MixingConfig) for field in fields(config)}
    assert OTHER_OPTIONS.keys() | HOW_OMEGA_WAS_LEARNED.keys() == every
    model = make_model(tiny_moirai, method=method, num_scales=None).fit(wave())
    model.save_adapter(tmp_path / "adapter")
    used = set(find_method(method).options)
    description = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
    counting = description["method_config"].keys() | description["mixing_config"].keys()
    assert counting == used - HOW_OMEGA_WAS_LEARNED.keys()
    loaded = make_model(
        tiny_moirai, method=method, num_scales=None, **{k: v for k, v in HOW_OMEGA_WAS_LEARNED.items() if k in used}
    )
    loaded.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(model))
    for name in counting:
        other = make_model(tiny_moirai, method=method, num_scales=None, **{name: OTHER_OPTIONS[name]})
        with pytest.raises(ValueError, match=rf"_config\.{name}: saved .*, here {OTHER_OPTIONS[name]!r}"):
            other.load_adapter(tmp_path / "adapter")


def test_other_settings_are_not_taken_for_other_weights(tiny_moirai: str, tmp_path: Path) -> None:
    """The hash is of what is frozen in the series' precision: with the settings it differs on the same weights too."""
    make_model(tiny_moirai, **LEARNS).fit(wave()).save_adapter(tmp_path / "adapter")
    model = make_model(tiny_moirai, **LEARNS).fit(wave(dtype=np.float64))
    with pytest.raises(ValueError, match="for another model; dtype: saved 'float32', here 'float64'; frozen_sha256"):
        model.load_adapter(tmp_path / "adapter")
