"""Chronos-2 and PatchTST-FM against Darts' own models of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract_backbone import MAKERS
from darts import TimeSeries
from darts.models import Chronos2Model, PatchTSTFMModel
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import TRAINER, make_model, values_of
from tiny_encoders import LEVELS

BOUND = 1e-5  # of the forecast's range: sinh magnifies
SETTINGS: dict[str, Any] = {"num_scales": 0, "patch_size": "auto", "linear_member": False}


ENCODERS = {"chronos2": Chronos2Model, "patchtst_fm": PatchTSTFMModel}
"""The model of Darts that reads the same checkpoint."""


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def directory(encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    MAKERS[encoder](path)
    return path


def random_walk(length: int, seed: int = 0) -> TimeSeries:
    """With a gap in its last steps."""
    values = 20 + np.random.default_rng(seed).standard_normal((length, 1)).cumsum(axis=0)
    values[-9:-6] = np.nan
    return TimeSeries.from_values(values.astype(np.float32))


# ------------------------------------------------------------------------------------------------------ Darts' forecast


@pytest.mark.parametrize(
    ("context", "horizon", "shift", "length"),
    [(32, 16, 0, 40), (30, 8, 0, 40), (33, 8, 4, 40), ((12, 48), 8, 0, 25)],
    ids=["whole patches", "a cut patch", "shift", "a range of contexts"],
)
def test_an_unfitted_model_at_one_scale_is_darts_own(
    encoder: str, directory: Path, context: Any, horizon: int, shift: int, length: int
) -> None:
    """For horizons of whole patches, gap included."""
    series = random_walk(length)
    chunks = {"output_chunk_length": horizon, "output_chunk_shift": shift, "likelihood": QuantileRegression(LEVELS)}
    theirs = ENCODERS[encoder](context, local_dir=directory, pl_trainer_kwargs=TRAINER, **chunks).fit(series)
    ours = make_model(str(directory), input_chunk_length=context, **SETTINGS, **chunks)
    expected, found = (
        values_of(model.predict(horizon, series, predict_likelihood_parameters=True)) for model in (theirs, ours)
    )
    assert expected.shape == found.shape == (horizon, len(LEVELS), 1)
    assert np.ptp(expected) > 1
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


def test_the_point_forecast_and_components_apart_are_darts_own(encoder: str, directory: Path) -> None:
    """The median; of several components that are independent, each as a series of its own."""
    first, second = random_walk(40), random_walk(40, seed=1)
    theirs = ENCODERS[encoder](32, 8, local_dir=directory, pl_trainer_kwargs=TRAINER)
    ours = make_model(str(directory), **SETTINGS, likelihood=None, multivariate="independent")
    expected = np.concatenate([values_of(theirs.fit(one).predict(8, one)) for one in (first, second)], axis=1)
    found = values_of(ours.predict(8, first.stack(second)))
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)
