"""Darts' `to_onnx`: onnxruntime forecasts as the model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_fixtures import HORIZON, make_model, values_of, wave
from tiny_encoders import save_chronos2
from tiny_point_encoders import save_units
from torch import nn


def from_file(path: Path, series: Any) -> np.ndarray:
    """(H, columns): the parameters, or points, of the file that `to_onnx` wrote."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from darts.utils.onnx import run_onnx_prediction

    forecast = run_onnx_prediction(n=HORIZON, session=onnxruntime.InferenceSession(str(path)), series=series)
    return np.asarray(forecast if isinstance(forecast, np.ndarray) else forecast.values()).reshape(HORIZON, -1)


def check(model: Any, path: Path, series: Any) -> None:
    pytest.importorskip("onnxscript")
    model.to_onnx(str(path))
    given = {} if model.likelihood is None else {"predict_likelihood_parameters": True}
    expected = values_of(model.predict(HORIZON, series, **given))[..., 0]
    np.testing.assert_allclose(from_file(path, series), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"num_scales": 1, "linear_member": True},
        {"num_scales": 1, "multivariate": "joint"},
        {"num_scales": 0, "likelihood": None, "loss_fn": nn.L1Loss()},
    ],
    ids=["with the linear member", "joint", "points"],
)
def test_the_file_forecasts_as_the_model(tiny_moirai: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make_model(tiny_moirai, **settings)
    model.fit(wave(150, components=2), val_series=wave(100, components=2, seed=1))
    check(model, tmp_path / "model.onnx", wave(60, components=2, seed=3))


def test_a_file_of_small_numbers(tiny_moirai: str, tmp_path: Path) -> None:
    """Whose windows are measured in a unit of their own."""
    model = make_model(tiny_moirai, num_scales=0).fit(wave() * 1e-4)
    pytest.importorskip("onnxscript")
    model.to_onnx(str(tmp_path / "model.onnx"))
    for scale in (1e-4, 1.0):
        series = (wave(60, seed=3) * scale).astype(np.float32)
        parameters = model.predict(HORIZON, series, predict_likelihood_parameters=True)
        expected, found = values_of(parameters)[..., 0], from_file(tmp_path / "model.onnx", series)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        units = parameters.components.str.endswith(("s0_loc", "s0_scale"))
        np.testing.assert_allclose(found[:, units], expected[:, units], rtol=1e-4)


@pytest.mark.slow
def test_another_encoder(tmp_path: Path) -> None:
    save_chronos2(tmp_path / "encoder")
    model = make_model(str(tmp_path / "encoder"), num_scales=1, likelihood=None).fit(wave())
    check(model, tmp_path / "model.onnx", wave(60, seed=3))


@pytest.mark.parametrize("settings", [{"likelihood": None}, {"finest_context": 16}], ids=["points", "backcasts"])
def test_medians_that_are_sought_are_refused(tiny_moirai: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make_model(tiny_moirai, **settings)
    model.predict(HORIZON, wave(60))
    with pytest.raises(ValueError, match=r"^to_onnx\(\) can't export .* medians .*; (take|fit)"):
        model.to_onnx(str(tmp_path / "model.onnx"))
    assert not (tmp_path / "model.onnx").exists()


def test_an_encoder_that_is_not_exported(tmp_path: Path) -> None:
    save_units(tmp_path / "encoder")
    model = make_model(str(tmp_path / "encoder"), num_scales=0).fit(wave())
    with pytest.raises(ValueError, match=r"^to_onnx\(\) can't export UnitsBackbone, which"):
        model.to_onnx(str(tmp_path / "model.onnx"))
