"""Fracast and Chronos-2 as rows of the results table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.models import Chronos2Model
from darts.models.forecasting.chronos2_model import _Chronos2Module
from darts.utils.likelihood_models.torch import QuantileRegression
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file
from three_waves import BUDGET, HORIZON, LEVELS, backtest, waves

from benchmarks.errors import WeightsMissing
from benchmarks.models import chronos2, load_forecaster
from benchmarks.run.measures import forecast

STARTS = range(490, 520, 9)

# ------------------------------------------------------------------------------------------------------------- Fracast


@pytest.mark.parametrize("levels", [None, LEVELS])
def test_fracast_forecasts_each_window_and_variable_alone(levels: tuple[float, ...] | None) -> None:
    """As its own class does it, one series after the other; the horizon takes a second block of 48 steps."""
    fracast = pytest.importorskip("fracast")
    data, horizon, starts = waves(), 50, range(500, 540, 29)
    forecaster = load_forecaster("fracast", {"look_back": 60}, BUDGET)
    model = forecaster.build({"look_back": 60}, data, horizon, 0, levels)
    found = forecast(model, data, starts, horizon, 60, levels)
    own = fracast.FracastModel.from_pretrained(weights="fp32")
    for index, start in enumerate(starts):
        for variable in range(3):
            quantiles = own.forecast(data.values[start - 60 : start, variable], horizon=horizon)
            places = [0] if levels is None else [1, 2, 3]  # of 0.1, 0.5 and 0.9
            expected = quantiles[:, [4] if levels is None else [0, 4, 8]]
            np.testing.assert_allclose(found[index, :, variable, places].T, expected, rtol=1e-4, atol=1e-3)
    if levels is not None:
        assert (np.diff(found[..., [0, 1, 3, 4]], axis=-1) > 0).all()


def test_fracast_is_described_and_refuses_what_it_lacks() -> None:
    pytest.importorskip("fracast")
    from benchmarks.models.fracast import LONGEST

    forecaster = load_forecaster("fracast", {}, BUDGET)
    model = forecaster.build({"look_back": 512}, waves(), HORIZON, 0, None)
    described = forecaster.describe(model)
    assert (described["parameters"], described["trained_parameters"]) == (85001, 0)
    other = load_forecaster("fracast", {"weights": "w8"}, BUDGET)
    assert described["weights"] == forecaster.weights() != other.weights()
    assert model.network.context_length == LONGEST
    assert len(forecaster.resolved(model)["known_levels"]) == 9
    with pytest.raises(ValueError, match=r"a look-back of 4096 steps .* at most 2048"):
        load_forecaster("fracast", {"look_back": 4096}, BUDGET).candidates(waves(), HORIZON)
    with pytest.raises(ValueError, match="weights='int4' is not known"):
        load_forecaster("fracast", {"weights": "int4"}, BUDGET).weights()


# ----------------------------------------------------------------------------------------------------------- Chronos-2

KNOWN = [0.01, 0.05, 0.1, 0.5, 0.9, 0.95, 0.99]


@pytest.fixture(scope="module")
def tiny_chronos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Chronos-2 checkpoint: width 16, one layer, patches of 4 steps."""
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    patches = {"input_patch_size": 4, "input_patch_stride": 4, "output_patch_size": 4, "max_output_patches": 16}
    sizes["chronos_config"] = {
        **patches, "context_length": 512, "quantiles": KNOWN, "use_reg_token": True, "use_arcsinh": True,
        "time_encoding_scale": 512,
    }  # fmt: skip
    lengths = {"input_chunk_length": 8, "output_chunk_length": 4, "train_sample_shape": [(8, 1)]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = _Chronos2Module(**sizes, **lengths)
    folder = tmp_path_factory.mktemp("tiny-chronos")
    (folder / "config.json").write_text(json.dumps(sizes))
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, folder / "model.safetensors")
    return str(folder)


def test_chronos2_is_darts_own(tiny_chronos: str) -> None:
    options = {"look_back": 48, "local_dir": tiny_chronos}
    data, (_, points, described) = waves(), backtest("chronos2", options, STARTS)
    _, found, _ = backtest("chronos2", options, STARTS, LEVELS)
    own = Chronos2Model(48, HORIZON, likelihood=QuantileRegression(KNOWN), local_dir=tiny_chronos)
    own.fit(data.series("train"))
    for index, start in enumerate(STARTS):
        context = data.series("test", 100)[: start - 380]
        quantiles = own.predict(HORIZON, context, predict_likelihood_parameters=True).values().reshape(HORIZON, 3, 7)
        np.testing.assert_allclose(
            found[index, ..., [1, 2, 3]], quantiles[..., [2, 3, 4]].transpose(2, 0, 1), rtol=1e-4
        )
        np.testing.assert_allclose(points[index, ..., 0], quantiles[..., 3], rtol=1e-4)
        middle = np.sort(quantiles[..., :2], axis=-1)  # 0.025 lies between 0.01 and 0.05
        assert ((found[index, ..., 0] > middle[..., 0]) & (found[index, ..., 0] < middle[..., 1])).all()
    count = sum(parameter.numel() for parameter in own.model.parameters())
    assert (described["parameters"], described["trained_parameters"]) == (count, 0)
    assert len(described["weights"]) == 64


def test_chronos2_leaves_out_contexts_that_it_was_not_made_for(tiny_chronos: str) -> None:
    budget = replace(BUDGET, look_backs=(96, 512, 513))
    forecaster = load_forecaster("chronos2", {"local_dir": tiny_chronos}, budget)
    data = replace(waves(), bounds={"train": (0, 5000), "validation": (5000, 5500), "test": (5500, 6000)})
    assert forecaster.candidates(data, HORIZON) == [{"look_back": 96}, {"look_back": 512}]
    assert [entry["look_back"] for entry in forecaster.dropped(data, HORIZON)] == [513]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Exception]]:
    """Asking it raises what is put in here, one after the other; it has no file."""
    errors: list[Exception] = []

    def no_file(*args: Any, **kwargs: Any) -> str:
        raise errors.pop(0)

    monkeypatch.setattr(chronos2, "hf_hub_download", no_file)
    chronos2._from_hub.cache_clear()
    yield errors
    chronos2._from_hub.cache_clear()


def test_chronos2_lacks_its_weights_where_the_hub_is_out_of_reach(hub: list[Exception]) -> None:
    """It is asked once: an attempt without network takes long."""
    hub.append(LocalEntryNotFoundError("offline"))
    for _ in range(2):
        with pytest.raises(WeightsMissing, match=r"amazon/chronos-2 is not in .* give --option local_dir=DIRECTORY"):
            load_forecaster("chronos2", {}, BUDGET).weights()
    assert hub == []


def test_chronos2_says_where_weights_are_wanted(tmp_path: Path, hub: list[Exception]) -> None:
    """What was asked for and isn't there is a failure."""
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist; give local_dir") as missing:
        backtest("chronos2", {"look_back": 48, "local_dir": str(tmp_path)}, STARTS)
    hub.append(OSError("404 Client Error"))
    with pytest.raises(FileNotFoundError, match=r"of my/own at revision v2 can't be had \(404 .*give another") as wrong:
        load_forecaster("chronos2", {"hub_model_name": "my/own", "revision": "v2"}, BUDGET).weights()
    assert not any(isinstance(error.value, WeightsMissing) for error in (missing, wrong))
