"""Makes the files that later versions must load: `python tests/make_fixture.py tests/fixtures/v0_2`.

To be run once for a release, by the version that it is of; then the files stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from model_fixtures import HORIZON, make_model, values_of, wave
from tiny_encoders import save_chronos2

from darts_msft import MSFTFoundationModel
from darts_msft.forms import Form

SETTINGS: dict[str, Any] = {"num_scales": 1, "finest_context": 16, "lora_rank": 2, "lower": "auto"}


def unfitted(folder: Path) -> MSFTFoundationModel:
    return make_model(str(folder / "checkpoint"), linear_member=True, sample_dependence="copula", **SETTINGS)


def forecasts(model: MSFTFoundationModel) -> dict[str, np.ndarray]:
    """Raw parameters (H, columns), and samples (H, V, M) in the order of their paths."""
    series = wave(60, components=2, seed=3)
    return {
        "parameters": values_of(model.predict(HORIZON, series, predict_likelihood_parameters=True))[:, :, 0],
        "samples": values_of(model.predict(HORIZON, series, num_samples=8, random_state=0)),
    }


def make(folder: Path) -> None:
    """A fitted model with a linear member, bounds and the dependence of sample paths, its adapter, and forecasts."""
    save_chronos2(folder / "checkpoint")
    series = wave(300, components=2)
    model = unfitted(folder).fit(series, val_series=wave(100, components=2, seed=1)).fit(series)  # the last epoch's
    assert model.model.kind is Form.TRAINED
    assert model.model.has_linear
    assert model.model.paths.trust > 0
    model.save(str(folder / "model.pt"), clean=True)  # without the training series: it is of no version of pandas
    model.save_adapter(folder / "adapter")
    np.savez_compressed(folder / "forecasts.npz", **forecasts(model))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
