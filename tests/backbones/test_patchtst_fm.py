"""PatchTST-FM against Darts' own model of the same weights; its mask, positions, horizons and limits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import forecast, load_backbone, random_walks
from darts import TimeSeries
from darts.models import PatchTSTFMModel
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import TRAINER, make_model, values_of, wave
from tiny_encoders import LEVELS, patchtst_fm_config

from darts_msft.backbones.patchtst_fm import PatchTSTFMBackbone

SETTINGS: dict[str, Any] = {"patch_size": "auto", "num_scales": 0, "linear_member": False}
BOUND = 1e-5  # of the forecast's range


@pytest.fixture(scope="module")
def directory(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("patchtst_fm")


def random_walk(length: int, seed: int = 0) -> TimeSeries:
    """With a gap in its last steps."""
    values = 20 + np.random.default_rng(seed).standard_normal((length, 1)).cumsum(axis=0)
    values[-9:-6] = np.nan
    return TimeSeries.from_values(values.astype(np.float32))


@pytest.mark.parametrize(
    ("context", "horizon", "shift", "length"),
    [(32, 16, 0, 40), (30, 8, 0, 40), (33, 8, 4, 40), ((12, 48), 8, 0, 25)],
    ids=["whole patches", "a cut patch", "shift", "a range of contexts"],
)
def test_an_unfitted_model_at_one_scale_is_darts_own(
    directory: Path, context: Any, horizon: int, shift: int, length: int
) -> None:
    """For horizons of whole patches, gap included."""
    series = random_walk(length)
    chunks = {"output_chunk_length": horizon, "output_chunk_shift": shift, "likelihood": QuantileRegression(LEVELS)}
    theirs = PatchTSTFMModel(context, local_dir=directory, pl_trainer_kwargs=TRAINER, **chunks).fit(series)
    ours = make_model(str(directory), input_chunk_length=context, **SETTINGS, **chunks)
    expected, found = (
        values_of(model.predict(horizon, series, predict_likelihood_parameters=True)) for model in (theirs, ours)
    )
    assert expected.shape == found.shape == (horizon, len(LEVELS), 1)
    assert np.ptp(expected) > 1
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


def test_the_point_forecast_and_components_are_darts_own(directory: Path) -> None:
    """The median; of several components each as a series of its own."""
    first, second = random_walk(40), random_walk(40, seed=1)
    theirs = PatchTSTFMModel(32, 8, local_dir=directory, pl_trainer_kwargs=TRAINER)
    ours = make_model(str(directory), **SETTINGS, likelihood=None)
    expected = np.concatenate([values_of(theirs.fit(one).predict(8, one)) for one in (first, second)], axis=1)
    found = values_of(ours.predict(8, first.stack(second)))
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


def test_patches_before_the_series_begins_are_masked_and_gaps_are_not() -> None:
    """With patches of 16 one observed step is too few, two are enough."""
    backbone = PatchTSTFMBackbone.from_config(patchtst_fm_config(16), 16)
    observed = torch.ones(3, 1, 64, dtype=torch.bool)
    observed[0, 0, 16:32] = False
    observed[1, 0, :31] = False
    observed[2, 0, :30] = False
    mask = backbone.token_mask(observed, torch.zeros(3, 1, 32, dtype=torch.bool), targets=1)
    expected = [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]
    assert mask[:, 0].int().tolist() == expected


def test_a_gap_is_seen_as_such(directory: Path) -> None:
    """Its tokens say that nothing was observed, which is not what a value at the window's mean says."""
    backbone, context = load_backbone(directory, 4), random_walks(1, 1, 24)
    context[..., 8:12] = torch.nan
    filled = context.nan_to_num(float(context.nanmean()))
    with torch.no_grad():
        gap, mean = (forecast(backbone, one, 8, 4).params for one in (context, filled))
    assert (gap - mean).abs().max() > 1e-3


def test_quantiles_rise(directory: Path) -> None:
    with torch.no_grad():
        params = forecast(load_backbone(directory, 4), random_walks(3, 2, 24), 8, 4).params
    assert params.shape[-1] == len(LEVELS)
    assert (params.diff(dim=-1) > 0).all()


def test_a_horizon_that_ends_within_a_patch_is_the_beginning_of_the_longer_one(directory: Path) -> None:
    short, long = (make_model(str(directory), output_chunk_length=steps, **SETTINGS) for steps in (6, 8))
    expected = values_of(long.predict(8, wave()))[:6]
    np.testing.assert_allclose(values_of(short.predict(6, wave())), expected, rtol=1e-5)


def test_context_and_horizon_share_the_positions(directory: Path) -> None:
    make_model(str(directory), input_chunk_length=88, output_chunk_length=8, **SETTINGS).predict(8, wave())
    with pytest.raises(ValueError, match=r"25 tokens of 4 steps, more than the 24"):
        make_model(str(directory), input_chunk_length=92, output_chunk_length=8, **SETTINGS)


def test_a_configuration_that_is_not_patchtst_fm_s_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^config\.json: num_quantile=99[^\n]*5[^\n]*$"):
        PatchTSTFMBackbone.traits_of(patchtst_fm_config(num_quantile=99))
    with pytest.raises(ValueError, match=r"^config\.json: norm_first=False[^\n]*$"):
        PatchTSTFMBackbone.traits_of(patchtst_fm_config(norm_first=False))
