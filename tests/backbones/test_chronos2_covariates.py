"""Chronos-2 with several components and covariates, against Darts' own model of the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from darts.models import Chronos2Model
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import TRAINER, make_model, values_of
from tiny_encoders import LEVELS, save_chronos2

BOUND = 1e-5  # of the forecast's range: sinh magnifies


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    save_chronos2(path)
    return path


def walks(length: int, components: int, seed: int) -> TimeSeries:
    values = 20 + np.random.default_rng(seed).standard_normal((length, components)).cumsum(axis=0)
    values[length // 2 : length // 2 + 3] = np.nan
    return TimeSeries.from_values(values.astype(np.float32))


@pytest.mark.parametrize(
    ("context", "horizon", "shift", "length"),
    [(32, 16, 0, 40), (30, 8, 0, 40), (33, 8, 4, 40), ((12, 48), 8, 0, 25)],
    ids=["whole patches", "a cut patch", "shift", "a range of contexts"],
)
@pytest.mark.parametrize(("targets", "past", "future"), [(3, 0, 0), (1, 2, 0), (1, 0, 2), (2, 1, 2)])
def test_an_unfitted_model_at_one_scale_is_darts_own(
    directory: Path, context: Any, horizon: int, shift: int, length: int, targets: int, past: int, future: int
) -> None:
    series, given = walks(length, targets, seed=0), {}
    if past:
        given["past_covariates"] = walks(length, past, seed=1)
    if future:
        given["future_covariates"] = walks(length + shift + horizon, future, seed=2)
    chunks = {"output_chunk_length": horizon, "output_chunk_shift": shift, "likelihood": QuantileRegression(LEVELS)}
    theirs = Chronos2Model(context, local_dir=directory, pl_trainer_kwargs=TRAINER, **chunks).fit(series, **given)
    ours = make_model(str(directory), input_chunk_length=context, num_scales=0, patch_size="auto", **chunks)
    expected, found = (
        values_of(model.predict(horizon, series, **given, predict_likelihood_parameters=True))
        for model in (theirs, ours)
    )
    assert expected.shape == found.shape == (horizon, targets * len(LEVELS), 1)
    assert np.ptp(expected) > 1
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


def test_a_forecast_that_is_fed_back_is_darts_own(directory: Path) -> None:
    series, given = (
        walks(40, 2, seed=0),
        {"past_covariates": walks(60, 1, seed=1), "future_covariates": walks(70, 2, 2)},
    )
    theirs = Chronos2Model(32, 8, local_dir=directory, pl_trainer_kwargs=TRAINER).fit(series, **given)
    ours = make_model(str(directory), num_scales=0, patch_size="auto", likelihood=None)
    expected, found = (values_of(model.predict(20, series, **given)) for model in (theirs, ours))
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)
