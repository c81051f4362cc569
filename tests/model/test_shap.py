"""Darts' SHAP values of the model: windows in batches, and the values that one window after the other gives."""

from __future__ import annotations

import numpy as np
import pytest
from model_fixtures import HORIZON, make_model, wave

from darts_msft import MSFTFoundationModel
from darts_msft.forecasting import ForecastingModule
from darts_msft.windows_of_batches import Window

CONTEXT, BACKGROUND, EXPLAINED, DRAWS = 8, 10, 3, 2
WINDOWS = [BACKGROUND, *[1, *[2 * DRAWS] * CONTEXT] * EXPLAINED]
"""What shap's sampling method asks for at a time: the background; then each window, and mixtures for each input."""


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of windows of each pass through the encoder."""
    seen: list[int] = []
    whole = ForecastingModule.forecast_scales

    def counted(self: ForecastingModule, window: Window) -> object:
        seen.append(len(window.past))
        return whole(self, window)

    monkeypatch.setattr(ForecastingModule, "forecast_scales", counted)
    return seen


def explained(model: MSFTFoundationModel, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """SHAP values of the inputs for the last step of the point forecasts, and what they are added to."""
    from darts.explainability import ShapExplainer  # shap and numba: seconds, that other tests need not wait for

    np.random.seed(0)  # noqa: NPY002 (shap draws from it)
    background, series = wave(CONTEXT + BACKGROUND - 1, seed=2), wave(CONTEXT + EXPLAINED - 1, seed=3)
    options = {"shap_method": "sampling", "batch_size": batch_size, "test_stationarity": False}
    explainer = ShapExplainer(model, background_series=background, **options)
    found = explainer.explain(series, horizons=HORIZON, nsamples=DRAWS * CONTEXT)
    told = found.get_shap_explanation_object(horizon=HORIZON)
    return told.values, told.base_values


def test_windows_go_through_the_encoder_in_batches(tiny_moirai: str, passes: list[int]) -> None:
    model = make_model(tiny_moirai, input_chunk_length=CONTEXT, likelihood=None, num_scales=0).fit(wave(60))
    passes.clear()
    values, bases = explained(model, batch_size=1000)
    assert passes == WINDOWS
    passes.clear()
    slow, slow_bases = explained(model, batch_size=1)
    assert passes == [1] * sum(WINDOWS)
    assert np.ptp(slow) > 1e-2
    np.testing.assert_allclose(values, slow, atol=1e-4)
    np.testing.assert_allclose(bases, slow_bases, atol=1e-4)
    point = model.predict(HORIZON, wave(CONTEXT + EXPLAINED - 1, seed=3)).values()[-1, 0]
    assert values[-1].sum() + bases[-1] == pytest.approx(point, abs=1e-3)
