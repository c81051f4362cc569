"""Models and adapters that version 0.1.0 saved (commit c4133ca) load, and forecast as they did."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_fixtures import HORIZON, TRAINER, make_model, values_of, wave

from darts_msft import MSFTFoundationModel

FOLDER = Path(__file__).parents[1] / "fixtures" / "v0_1"
ADAPTERS = {
    "msft": {"num_scales": 1, "lora_rank": 2, "aggregator": "f2c"},
    "lora": {"method": "lora", "num_scales": None, "lora_rank": 2},
}


def assert_as_saved(model: MSFTFoundationModel, name: str) -> None:
    forecast = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    with np.load(FOLDER / "forecasts.npz") as saved:
        np.testing.assert_allclose(values_of(forecast)[:, :, 0], saved[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["msft", "zero_shot"])
@pytest.mark.parametrize("trusted", [False, True])
def test_models(name: str, trusted: bool) -> None:
    model = MSFTFoundationModel.load(str(FOLDER / f"{name}.pt"), TRAINER, trusted=trusted)
    assert_as_saved(model, name)
    labels = [state.label for state in model.candidates]
    assert labels == (["zero-shot", "epoch 0", "epoch 1"] if name == "msft" else [])
    before = model.fit(wave(), val_series=wave(60, seed=1)).candidates[0].label
    assert before == ("before this fit" if name == "msft" else "zero-shot")


@pytest.mark.parametrize(("name", "settings"), ADAPTERS.items())
def test_adapters(name: str, settings: dict[str, Any]) -> None:
    model = make_model(str(FOLDER / "checkpoint"), **settings)
    model.load_adapter(FOLDER / f"{name}_adapter")
    assert_as_saved(model, name)
