"""The fit of the linear member, before anything is scored."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset

from darts_msft.forecasting import Form
from darts_msft.linear.equations import Frame
from darts_msft.linear.fitting import fit_linear
from darts_msft.linear.seasons import candidate_lookbacks, find_season
from darts_msft.linear.windows import Windows, cut_windows

logger = logging.getLogger("darts_msft")

VALIDATION_WINDOWS = 256  # that its look-backs and penalties are chosen on
MOST_SERIES = 256  # that it learns from: each takes a tenth of a second


def fit_linear_member(module: Any, data: Any) -> None:
    """From all windows of the training series, with choices on the validation series.

    A module that was trained keeps what it has: that is the state that the fit compares with. Without windows of
    series, or where these are too short or don't vary, there is none.
    """
    if module.linear is None or (module.kind is Form.TRAINED and not module.linear.absent):
        return
    datasets = (data.train_dataset, data.val_dataset)
    if not all(isinstance(one, SequentialTorchTrainingDataset) for one in datasets):
        logger.warning("no linear member: the training and validation windows are not those of fit(series, val_series)")
        return
    train, val = (_values(one.series) for one in datasets)
    train = train[:: math.ceil(len(train) / MOST_SERIES)]
    freq = next(iter(_as_list(data.train_dataset.series))).freq
    horizon, shift = module.output_chunk_length, module.output_chunk_shift
    season = find_season(freq, train)
    lookbacks = candidate_lookbacks(module.input_chunk_length, season)
    fit = fit_linear(train, horizon, lookbacks, shift, _windows(val, lookbacks, horizon, shift), season)
    if fit is None:
        logger.warning(
            "no linear member: no training series varies and has %d steps without a gap", lookbacks[0] + shift + horizon
        )
        return
    module.linear.load_state_dict(fit.member.state_dict())


def _as_list(series: TimeSeries | Sequence[TimeSeries]) -> Sequence[TimeSeries]:
    return [series] if isinstance(series, TimeSeries) else series


def _values(series: TimeSeries | Sequence[TimeSeries]) -> list[np.ndarray]:
    return [one.values(copy=False) for one in _as_list(series)]


def _windows(series: list[np.ndarray], lookbacks: Sequence[int], horizon: int, shift: int) -> Windows | None:
    """Evenly from all series, with the longest look-back that any of them has room for."""
    longest = max(map(len, series))
    fitting = [lookback for lookback in lookbacks if lookback + shift + horizon <= longest]
    return cut_windows(series, Frame(max(fitting), horizon, shift), VALIDATION_WINDOWS) if fitting else None
