"""The forecast of c x + b is c times that of x, and b: for every encoder, in any unit and at any level."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import MAKERS, WITHOUT_HEAD
from model_fixtures import from_values, make_model, wave

from darts_msft import MSFTFoundationModel
from darts_msft.backbones.window_units import spread_of, statistics_in_any_unit, unit_of
from darts_msft.linear.fitting import fit_linear

HORIZON = 8
FACTORS = [1e-9, 0.36, 1e12]
"""0.36: around the spread from which on windows are left as they are."""
SINE = wave(120, components=2, seed=1, dtype=np.float64, level=0.0).values()
SPREAD = SINE.std(axis=0).min()


@pytest.fixture(scope="module", params=[name for name in MAKERS if name not in WITHOUT_HEAD])
def checkpoint(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> str:
    return str(checkpoint_of(request.param))


def forecast(model: MSFTFoundationModel, values: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    """Quantiles, the outer ones are some spreads from the middle; of an encoder that forecasts points, these."""
    series = from_values(values.astype(dtype))
    points = model.likelihood is None
    found = model.predict(HORIZON, series) if points else model.predict_quantiles(HORIZON, series, (0.1, 0.5, 0.9))
    return np.asarray(found.values(), dtype=float)


def test_a_factor_and_a_level_pass_through_the_forecast(checkpoint: str) -> None:
    model = make_model(checkpoint, num_scales=2, finest_context=16)
    expected = forecast(model, SINE)
    for factor in FACTORS:
        np.testing.assert_allclose(forecast(model, factor * SINE) / factor, expected, rtol=1e-4, atol=1e-4 * SPREAD)
    for factor in (1e-9, 1.0):
        values = factor * (SINE + 1e6 * SPREAD)
        moved = forecast(model, values) / factor - 1e6 * SPREAD
        np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-4 * SPREAD)


def test_single_precision_holds_it_as_far_as_it_goes(checkpoint: str) -> None:
    model = make_model(checkpoint, num_scales=2)
    expected = forecast(model, SINE, np.float32)
    for factor in (1e-30, 1e-9, 1e12, 1e25):
        found = forecast(model, factor * SINE, np.float32) / factor
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * SPREAD)
    moved = forecast(model, 1e-9 * (SINE + 1e3), np.float32) / 1e-9 - 1e3
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-3)


def test_calm_lately_is_forecast_in_its_own_unit_too(tiny_moirai: str) -> None:
    """What scale 0 sees is a thousandth of what came before."""
    model = make_model(tiny_moirai, num_scales=2, finest_context=16)
    values = SINE[:, :1] * np.where(np.arange(120) < 100, 1.0, 1e-3)[:, None]
    model.predict(HORIZON, from_values(values))
    loud = torch.as_tensor(values.T[None] * 1e4)
    for scale in (1e-4, 1e-8):
        calm = loud * scale
        ahead = torch.full((1, 1, HORIZON), torch.nan, dtype=torch.float64)
        backbone = model.model.backbone
        (expected,), (found,) = (
            statistics_in_any_unit(backbone, one, [(one[..., -16:], ahead)]) for one in (loud, calm)
        )
        torch.testing.assert_close(found.spread / scale, expected.spread, rtol=1e-4, atol=0)
        torch.testing.assert_close(found.loc / scale, expected.loc, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("factor", "level"), [(1e12, 0.0), (1e-9, 1e6)])
def test_the_linear_member_of_a_fit_and_its_weight_too(tiny_moirai: str, factor: float, level: float) -> None:
    def fitted(factor: float, level: float) -> tuple[np.ndarray, np.ndarray]:
        model = make_model(tiny_moirai, method="zero_shot", linear_member=True)
        train, val, later = (
            from_values(factor * (wave(steps, seed=seed, dtype=np.float64, level=0.0).values() + level))
            for steps, seed in ((150, 0), (80, 2), (90, 1))
        )
        model.fit(train, val_series=val)
        return forecast(model, later.values()), model.scale_weights

    expected, weights = fitted(1.0, 0.0)
    found, own = fitted(factor, level)
    assert weights[-1] > 0.1
    np.testing.assert_allclose(own, weights, atol=1e-4)
    np.testing.assert_allclose(found / factor - level, expected, rtol=0, atol=1e-4)


def test_the_linear_fit_is_the_same_in_all_units() -> None:
    values = wave(300, dtype=np.float64, level=0.0).values()
    expected = fit_linear([values], 6, [12, 24], season=8)
    for factor in (1e-20, 1e-9, 1e12):
        found = fit_linear([factor * values], 6, [12, 24], season=8)
        assert expected is not None
        assert found is not None
        torch.testing.assert_close(found.member.weight, expected.member.weight)
        past = torch.as_tensor(values[None, -24:])
        own, same = found.member.forecast(past * factor), expected.member.forecast(past)
        torch.testing.assert_close(own.loc / factor, same.loc, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own.scale / factor, same.scale, rtol=1e-4, atol=0)


def test_units_are_powers_of_two_and_1_where_the_spread_is_usual() -> None:
    spread = torch.tensor([0.0, 1e-300, 1e-9, 0.1, 1.0, 0.4, 1e9, 1e30, torch.inf], dtype=torch.float64)
    units = unit_of(spread[None, :, None], spread[None, :, None].clamp(max=0.75))[0, :, 0]
    assert torch.equal(units[[0, 4, 5, 6, 8]], torch.ones(5, dtype=torch.float64))
    scaled = (spread / units)[[1, 2, 3, 7]]
    assert ((scaled >= 1) & (scaled < 2)).all()
    assert torch.equal(units, 2 ** units.log2().round())


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1.0, 1e30, 1e200])
def test_spreads_are_those_of_what_is_observed_at_any_size(size: float) -> None:
    values = torch.randn(3, 2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 100
    values[0, 0, ::3] = torch.nan
    values[1, 1] = 7.0  # doesn't vary
    values[2, 0] = torch.nan
    found = (spread_of(values * size) / size).squeeze(-1).numpy()
    expected = (values - values.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt().numpy()
    expected[1, 1], expected[2, 0] = 7.0, 0.0
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_rounding_is_no_variation() -> None:
    """Averages of a constant differ in the last bit: brought to a unit of their own they would look like noise."""
    values = torch.full((1, 1, 40), 1e-3)
    values[0, 0, ::7] = torch.nextafter(torch.tensor(1e-3), torch.tensor(1.0))
    torch.testing.assert_close(spread_of(values), values.double().amax(dim=-1, keepdim=True))
