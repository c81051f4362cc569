"""Encoders whose forecasts are quantiles or points, and those without a pretrained head, as Darts models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import forecast_apart, load_backbone
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.likelihood_models.torch import GaussianLikelihood, QuantileRegression
from model_fixtures import CONTEXT, HORIZON, changed, make_model, parameters_snapshot, values_of, wave
from tiny_encoders import LEVELS

from darts_msft import MSFTFoundationModel

LATER = wave(60, components=2, seed=1)
SERIES = wave(components=2)
SERVED = [0.1, 0.3, 0.5, 0.7, 0.9]


@pytest.fixture(scope="module")
def quantiles(checkpoint_of: Callable[[str], Path]) -> str:
    return str(checkpoint_of("chronos2"))


@pytest.fixture(scope="module")
def points(checkpoint_of: Callable[[str], Path]) -> str:
    return str(checkpoint_of("units"))


@pytest.fixture(scope="module")
def headless(checkpoint_of: Callable[[str], Path]) -> str:
    return str(checkpoint_of("moment"))


def bare(checkpoint: str) -> np.ndarray:
    """(H, V, R) of the last window of `LATER`, by the backbone alone, in the series' units."""
    context = torch.as_tensor(LATER.values()[-CONTEXT:].T[None])
    with torch.no_grad():
        params, (loc, spread) = forecast_apart(load_backbone(Path(checkpoint), 4), context, HORIZON, 4)
    values: np.ndarray = (params * spread.unsqueeze(-1) + loc.unsqueeze(-1))[0].transpose(0, 1).numpy()
    return values


# ------------------------------------------------------------------------------------------------------------ quantiles


@pytest.mark.parametrize("num_scales", [0, 2])
def test_native_quantiles_are_the_pretrained_head_s(quantiles: str, num_scales: int) -> None:
    """Unfitted, by name, as a point, among draws, and by `predict_quantiles` at levels with and without a column."""
    model, expected = make_model(quantiles, num_scales=num_scales, multivariate="independent"), bare(quantiles)
    numbers = model.predict(HORIZON, LATER, predict_likelihood_parameters=True)
    assert f"{LATER.components[1]}_s0_q0.25" in numbers.components
    own = values_of(model.predict_quantiles(HORIZON, LATER, (0.1, 0.4, 0.9)))[..., 0].reshape(HORIZON, 2, 3)
    np.testing.assert_allclose(own[..., [0, 2]], expected[..., [0, 4]], rtol=1e-4, atol=1e-4)
    ordered = np.sort(expected, axis=-1)
    np.testing.assert_allclose(own[..., 1], 0.4 * ordered[..., 1] + 0.6 * ordered[..., 2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values_of(model.predict(HORIZON, LATER))[..., 0], expected[..., 2], rtol=1e-4, atol=1e-4)
    draws = values_of(model.predict(HORIZON, LATER, num_samples=2000, random_state=0))
    shares = (draws <= np.median(ordered, axis=-1, keepdims=True)).mean(axis=-1)
    np.testing.assert_allclose(shares, 0.5, atol=0.06)
    assert (np.abs(draws.min(axis=-1) - ordered[..., 0]) < 1e-3).all()


@pytest.mark.parametrize("num_scales", [0, 2])
def test_quantile_regression_within_the_levels_is_served_by_the_pretrained_head(
    quantiles: str, num_scales: int
) -> None:
    model = make_model(
        quantiles, num_scales=num_scales, likelihood=QuantileRegression(SERVED), multivariate="independent"
    )
    expected = np.sort(bare(quantiles), axis=-1)
    found = values_of(model.predict(HORIZON, LATER, predict_likelihood_parameters=True))[..., 0]
    levels = np.stack([[np.interp(SERVED, LEVELS, part) for part in step] for step in expected])
    raw = bare(quantiles)
    levels[..., [0, 2, 4]] = raw[..., [0, 2, 4]]  # at their levels the columns as they are
    np.testing.assert_allclose(found.reshape(HORIZON, 2, 5), levels, rtol=1e-4, atol=1e-4)
    before = parameters_snapshot(model)
    model.fit(SERIES)
    assert model.model.new_heads is None
    assert any("output_patch_embedding" in name for name in changed(before, parameters_snapshot(model)))
    assert values_of(model.predict(HORIZON, LATER, predict_likelihood_parameters=True)).shape[1] == 10


def test_levels_beyond_the_outermost_bring_a_new_head(quantiles: str) -> None:
    model = make_model(quantiles, likelihood=QuantileRegression([0.05, 0.5, 0.95]))
    model.fit(SERIES)
    assert model.model.new_heads is not None
    assert np.isfinite(values_of(model.predict(HORIZON, LATER))).all()


@pytest.mark.parametrize("mixing", ["mixture", "quantile", "samples"])
def test_quantiles_are_mixed_in_every_way(quantiles: str, mixing: str) -> None:
    model = make_model(quantiles, mixing=mixing, weight_learning="mixed_loss").fit(SERIES)
    draws = values_of(model.predict(HORIZON, LATER, num_samples=200, random_state=0))
    assert np.isfinite(draws).all()
    assert draws.std(axis=-1).min() > 0
    if mixing != "samples":
        rising = values_of(model.predict_quantiles(HORIZON, LATER, (0.2, 0.45, 0.7)))[..., 0].reshape(HORIZON, 2, 3)
        assert (np.diff(rising, axis=-1) >= -1e-4).all()
        for index, level in enumerate((0.2, 0.45, 0.7)):
            shares = (draws <= rising[..., [index]]).mean(axis=-1)
            assert np.abs(shares - level).mean() < 0.06


# ------------------------------------------------------------------------------------------------- with every default


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *(("quantiles", {}), ("points", {}), ("headless", {})),
        *(("headless", {"num_scales": "auto"}), ("points", {"likelihood": GaussianLikelihood()})),
    ],
)
def test_a_fit_with_everything_left_open(
    kind: str, changes: dict[str, Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Choices, long memory, linear member, stacking; and it is saved and loaded."""
    checkpoint = request.getfixturevalue(kind)
    free = {"num_scales": None, "patch_size": "auto", "linear_member": None, "sample_dependence": "copula"}
    model = make_model(checkpoint, **{**free, "input_chunk_length": 96, **changes})
    model.fit(wave(180, components=2), val_series=wave(140, components=2, seed=1))
    later = wave(120, components=2, seed=3)
    starts = "untrained head" if kind == "headless" or "likelihood" in changes else "zero-shot"
    assert model.candidates[0].label == starts
    assert model.fit_report.best <= model.candidates[0].score
    expected = values_of(model.predict(HORIZON + 2, later))
    assert np.isfinite(expected).all()
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert np.array_equal(values_of(loaded.predict(HORIZON + 2, later)), expected)
    assert len(model.scale_forecasts(later)) == len(model.scale_weights)


@pytest.mark.parametrize("kind", ["quantiles", "points"])
def test_an_unfitted_model_weighs_scales_that_look_further_back(kind: str, request: pytest.FixtureRequest) -> None:
    model = make_model(request.getfixturevalue(kind), finest_context=16)
    assert np.isfinite(values_of(model.predict(HORIZON, LATER))).all()
    assert model.scale_weights is None


def test_points_are_the_pretrained_head_s(points: str) -> None:
    for likelihood in ("native", None):
        model = make_model(points, likelihood=likelihood, multivariate="independent")
        found = values_of(model.predict(HORIZON, LATER))
        np.testing.assert_allclose(found, bare(points), rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match="num_samples"):
            model.predict(HORIZON, LATER, num_samples=2)
    model = make_model(points, likelihood=QuantileRegression([0.2, 0.5, 0.8]), multivariate="independent")
    spread = values_of(model.predict(HORIZON, LATER, predict_likelihood_parameters=True)).reshape(HORIZON, 2, 3)
    np.testing.assert_allclose(spread, np.repeat(bare(points), 3, axis=-1), rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ without a head


def test_without_a_head_there_is_no_forecast_before_fit(headless: str) -> None:
    with pytest.raises(ValueError, match=r"^method='zero_shot'[^\n]*head[^\n]*$"):
        make_model(headless, method="zero_shot")
    with pytest.raises(ValueError, match=r"^enable_finetuning=False[^\n]*head[^\n]*$"):
        make_model(headless, enable_finetuning=False)
    model = make_model(headless)
    for act in (
        lambda: model.predict(HORIZON, LATER),
        lambda: model.historical_forecasts(LATER, retrain=False),
        lambda: model.scale_forecasts(LATER),
        lambda: model.scale_weights,
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*fit\(\)[^\n]*$"):
            act()


def test_an_untrained_head_forecasts_about_the_window_s_mean(headless: str) -> None:
    model = make_model(headless, **dict.fromkeys(("lr_pretrained", "lr_new", "lr_head", "lr_lora"), 0.0))
    model.fit(SERIES)
    found, means = values_of(model.predict(HORIZON, LATER))[..., 0], LATER.values()[-CONTEXT:].mean(axis=0)
    assert np.abs(found - means).max() < 0.3


def test_all_scales_share_the_statistics_of_scale_0(headless: str, quantiles: str) -> None:
    """Also where scale 0 saw nothing: then those of the finest that did."""
    past = torch.as_tensor(np.stack([wave(64, seed=seed).values() for seed in range(2)]))
    past[1, -16:] = torch.nan
    for checkpoint, shared in ((headless, True), (quantiles, False)):
        module = make_model(checkpoint, input_chunk_length=64, finest_context=16).fit(wave()).model
        with torch.no_grad():
            locs = torch.cat(
                [stats.loc for stats in module.forecast_scales(module.window(PLModuleInput(past_target=past))).stats],
                dim=-1,
            )
        assert bool((locs[0] == locs[0, :, :1]).all()) == shared
        assert locs[0, 0, 0].item() == pytest.approx(past[0, -16:].mean().item(), rel=1e-5)
        assert locs[1, 0, 0].item() == locs[1, 0, 1].item()  # scale 1 sees 32 steps
        assert locs[1, 0, 1].item() == pytest.approx(past[1, -32:-16].mean().item(), rel=1e-5)


def test_scale_0_sees_no_more_than_the_checkpoint_takes(headless: str) -> None:
    model = make_model(headless, input_chunk_length=200, num_scales=None)
    assert model._module_settings["finest_context"] == 96
    with pytest.raises(ValueError, match=r"^input_chunk_length=200[^\n]*96 steps[^\n]*$"):
        make_model(headless, input_chunk_length=200, finest_context=97)
