"""Files of earlier versions: they load, and forecast as they did. Those of 0.1 are in `test_model_saving`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from make_fixture import forecasts, unfitted
from model_fixtures import TRAINER, wave

from darts_msft import MSFTFoundationModel

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("how", ["load", "load_weights", "load_adapter"])
@pytest.mark.parametrize("version", ["v0_2"])
def test_saved_by(version: str, how: str) -> None:
    folder = FIXTURES / version
    if how == "load":
        model = MSFTFoundationModel.load(str(folder / "model.pt"), TRAINER)
    else:
        model = unfitted(folder)
        getattr(model, how)(str(folder / {"load_weights": "model.pt", "load_adapter": "adapter"}[how]))
    found = forecasts(model)
    with np.load(folder / "forecasts.npz") as saved:
        for name, value in found.items():
            np.testing.assert_allclose(value, saved[name], rtol=1e-4, atol=1e-5)


def test_a_fit_goes_on_from_one() -> None:
    model = MSFTFoundationModel.load(str(FIXTURES / "v0_2" / "model.pt"), TRAINER)
    model.fit(wave(60, components=2), val_series=wave(60, components=2, seed=1), epochs=1)
    assert model.candidates[0].label == "before this fit"
