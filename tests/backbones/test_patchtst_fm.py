"""What is PatchTST-FM's own: its mask, positions, horizons of any length, and its limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from contract_backbone import forecast, load_backbone, random_walks
from model_fixtures import make_model, values_of, wave
from tiny_encoders import LEVELS, patchtst_fm_config, save_patchtst_fm

from darts_msft.backbones.patchtst_fm import PatchTSTFMBackbone

SETTINGS = {"patch_size": "auto", "num_scales": 0, "linear_member": False}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("patchtst")
    save_patchtst_fm(path)
    return path


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
