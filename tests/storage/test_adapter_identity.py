"""What an adapter is for: the settings, the weights that were frozen below it, and the options of its method."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, changed, make_model, parameters_snapshot, values_of, wave
from safetensors.torch import load_file, save_file

from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method
from darts_msft.options import MethodConfig, MixingConfig

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2, "lr_pretrained": 1e-3, "num_scales": None}
OTHER_WEIGHTS = "another model: .*weights.*frozen_sha256: saved '[0-9a-f]{64}', here '[0-9a-f]{64}'"


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON + 4, wave(), num_samples=5, random_state=0))


@pytest.fixture(scope="module")
def adapter(tiny_moirai: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """The adapter of an MSFT model, and that model's forecast; the weights below it were gone before it was saved."""
    folder = tmp_path_factory.mktemp("adapter")
    below = shutil.copytree(tiny_moirai, folder / "below")
    model = make_model(str(below), **LEARNS).fit(wave())
    shutil.rmtree(below)
    model.save_adapter(folder / "msft")
    return folder / "msft", forecast_of(model)


@pytest.fixture(scope="module")
def other_weights(tiny_moirai: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of the same shape, all of whose weights are a little different."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "config.json").write_bytes((Path(tiny_moirai) / "config.json").read_bytes())
    weights = load_file(Path(tiny_moirai) / "model.safetensors")
    save_file({name: value * 1.01 + 1e-3 for name, value in weights.items()}, folder / "model.safetensors")
    return str(folder)


def test_the_same_weights_elsewhere_are_welcome(adapter: tuple[Path, np.ndarray], tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, **LEARNS)
    model.load_adapter(adapter[0])
    assert np.array_equal(forecast_of(model), adapter[1])


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
        ({"finest_context": 16}, "finest_context: saved 32, here 16"),
    ],
)
def test_other_settings_are_named(
    adapter: tuple[Path, np.ndarray], tiny_moirai: str, change: dict[str, Any], message: str
) -> None:
    model = make_model(tiny_moirai, **{**LEARNS, **change})
    with pytest.raises(ValueError, match=f"another model.*{message}"):
        model.load_adapter(adapter[0])
    assert model.model is None


@pytest.mark.parametrize("fitted", [False, True])
def test_an_unfitted_model_takes_the_scales_that_it_leaves_open(tiny_moirai: str, tmp_path: Path, fitted: bool) -> None:
    model = make_model(tiny_moirai, **{**LEARNS, "num_scales": 2, "finest_context": 12}).fit(wave())
    model.save_adapter(tmp_path / "adapter")
    other = make_model(tiny_moirai, **LEARNS)
    if fitted:
        with pytest.raises(ValueError, match="finest_context: saved 12, here 32; num_scales: saved 2, here 1"):
            other.fit(wave()).load_adapter(tmp_path / "adapter")
        return
    other.load_adapter(tmp_path / "adapter")
    assert (other.model.plan, other.model_params["finest_context"]) == (model.model.plan, 12)
    assert np.array_equal(forecast_of(other), forecast_of(model))
    other.save(str(tmp_path / "model.pt"))
    later = make_model(tiny_moirai, **{**LEARNS, "num_scales": 2, "finest_context": 12})
    later.load_weights(str(tmp_path / "model.pt"))  # so it is one of these settings
    assert np.array_equal(forecast_of(later), forecast_of(model))


@pytest.mark.parametrize("fault", ["settings", "width", "precision", "weights"])
def test_a_fitted_model_stays_as_it_is(
    adapter: tuple[Path, np.ndarray], tiny_moirai: str, other_weights: str, fault: str
) -> None:
    """The hash is of what is frozen in the series' precision: with that it differs on the same weights too."""
    change, series, message = {
        "settings": ({"lora_rank": 4}, wave(), "lora_rank: saved 16, here 4"),
        "width": ({}, wave(components=2), "n_components: saved 1, here 2"),
        "precision": ({}, wave(dtype=np.float64), "another model; dtype: saved 'float32', here 'float64'; frozen"),
        "weights": ({}, wave(), OTHER_WEIGHTS),
    }[fault]
    model = make_model(other_weights if fault == "weights" else tiny_moirai, **LEARNS, **change).fit(series)
    before = parameters_snapshot(model)
    with pytest.raises(ValueError, match=message):
        model.load_adapter(adapter[0])
    assert changed(before, parameters_snapshot(model)) == set()


def test_other_weights_are_refused(adapter: tuple[Path, np.ndarray], other_weights: str) -> None:
    model = make_model(other_weights, **LEARNS)
    with pytest.raises(ValueError, match=OTHER_WEIGHTS):
        model.load_adapter(adapter[0])
    assert model.model is None


@pytest.mark.parametrize("method", ["lora", "msft"])
def test_the_weights_below_count_not_their_name(
    tiny_moirai: str, other_weights: str, tmp_path: Path, method: str
) -> None:
    """`load_weights` brings in other frozen weights than `backbone` names."""
    settings = {"method": method, "lr_lora": 1e-2, "num_scales": None}
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


def test_random_weights_are_all_saved(tiny_moirai: str, tmp_path: Path) -> None:
    """Where the untrained state of "scratch" is the best one, its forecast rests on a head that doesn't train."""
    settings = {"method": "scratch", "num_scales": None, "likelihood": QuantileRegression([0.1, 0.5, 0.9])}
    model = make_model(tiny_moirai, **settings, lr_head=1.0, lr_pretrained=1.0)
    model.fit(wave(), val_series=wave(44, seed=1))
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
    "upsampling": "repeat",
    "linear_member": True,
}
HOW_OMEGA_WAS_LEARNED = {"weight_learning": "scale_loss", "weight_init": "first"}


@pytest.mark.parametrize("method", sorted(METHODS))
def test_only_the_options_of_the_method_count(tiny_moirai: str, tmp_path: Path, method: str) -> None:
    every = {field.name for config in (MethodConfig, MixingConfig) for field in fields(config)}
    assert OTHER_OPTIONS.keys() | HOW_OMEGA_WAS_LEARNED.keys() == every
    model = make_model(tiny_moirai, method=method, num_scales=None).fit(wave(60))
    model.save_adapter(tmp_path / "adapter")
    used = set(find_method(method).options)
    description = json.loads((tmp_path / "adapter" / "adapter.json").read_text())
    counting = description["method_config"].keys() | description["mixing_config"].keys()
    assert counting == used - HOW_OMEGA_WAS_LEARNED.keys()
    indifferent = {name: value for name, value in HOW_OMEGA_WAS_LEARNED.items() if name in used}
    loaded = make_model(tiny_moirai, method=method, num_scales=None, **indifferent)
    loaded.load_adapter(tmp_path / "adapter")
    assert np.array_equal(forecast_of(loaded), forecast_of(model))
    for name in counting:
        other = make_model(tiny_moirai, method=method, num_scales=None, **{name: OTHER_OPTIONS[name]})
        with pytest.raises(ValueError, match=rf"_config\.{name}: saved .*, here {OTHER_OPTIONS[name]!r}"):
            other.load_adapter(tmp_path / "adapter")
