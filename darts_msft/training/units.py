"""What an error of 1 is, for each validation series and component: the seasonal naive's error on the training part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from darts.utils.data.torch_datasets.training_dataset import ShiftedTorchTrainingDataset
from jaxtyping import Bool, Float

from darts_msft.linear.seasons import find_season, naive_error

MOST_COLUMNS = 64  # components of series that the season is looked for in
LIVELIER = 1.25  # times the error on the training part
MOST_WINDOWS = 256  # that tell the units where the series are not known


class Units(NamedTuple):
    """Positive units for N series, in theirs, and where they were measured; the season in steps, None: none found.

    `seasonal` is the share of the units that are errors of the seasonal naive forecast.
    """

    values: Float[np.ndarray, "N V"]
    season: int | None = None
    components: tuple[str, ...] = ()
    measured_on: str = "training part"
    seasonal: float = 0.0


def find_units(train: Any, val: Any) -> Units:
    """Of two Darts datasets of windows.

    As many training as validation series are pairs, by position; else a validation series has its own error as its
    unit. So it has where that is a quarter larger or more: a component that was calm before would decide alone.
    Where the season's error is 0 or unknown, the unit is the error of the step before; then the same of the
    validation series; then its mean absolute value; then 1. Windows of a dataset of the user's own count as one series,
    whose unit is the error of the step before within the windows.
    """
    if not isinstance(val, ShiftedTorchTrainingDataset):
        indices = np.unique(np.linspace(0, len(val) - 1, min(len(val), MOST_WINDOWS)).astype(int))
        windows = [val[int(index)].past_target for index in indices]
        components = tuple(str(number) for number in range(windows[0].shape[1]))
        return Units(_first_positive([windows], None)[0][None], None, components, "validation windows")
    own = [one.values(copy=False) for one in val.series]
    known = isinstance(train, ShiftedTorchTrainingDataset)
    before = [one.values(copy=False) for one in train.series] if known else own
    season = find_season(val.series[0].freq, _columns(before))
    paired = known and len(before) == len(own)
    pairs: Iterable[tuple[np.ndarray, ...]] = zip(before, own, strict=True) if paired else zip(own, strict=True)
    found = [_first_positive([[one] for one in parts], season) for parts in pairs]
    values, seasonal = (np.stack(part) for part in zip(*found, strict=True))
    own_error = np.stack([naive_error([_double(one)], season) for one in own])
    livelier = own_error > LIVELIER * values
    values = np.where(livelier, own_error, values)
    share = float((seasonal | livelier).mean()) if season is not None else 0.0
    where = "training part" if paired else "validation series"
    return Units(values, season, tuple(map(str, val.series[0].components)), where, share)


def _first_positive(
    parts: Sequence[Sequence[np.ndarray]], season: int | None
) -> tuple[Float[np.ndarray, "V"], Bool[np.ndarray, "V"]]:
    """The first error above 0, of each component: a part's with the season, without it, those of the next part.

    And whether it is one with the season.
    """
    unit = np.full(parts[0][0].shape[1], np.nan)
    seasonal = np.zeros(len(unit), dtype=bool)
    for part in parts:
        series = [_double(one) for one in part]
        for lag in dict.fromkeys((season, None)):
            open_yet, error = ~(unit > 0), naive_error(series, lag)
            unit = np.where(open_yet, error, unit)
            seasonal |= open_yet & (error > 0) & (lag is not None)
            if (unit > 0).all():
                return unit, seasonal
    values = np.abs(np.concatenate(series))
    seen = np.isfinite(values)
    level = np.where(seen, values, 0).sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    return np.where(unit > 0, unit, np.where(level > 0, level, 1.0)), seasonal


def _columns(series: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Evenly from all components of all series."""
    width = series[0].shape[1]
    chosen = np.unique(np.linspace(0, len(series) * width - 1, min(MOST_COLUMNS, len(series) * width)).astype(int))
    return [_double(series[one // width][:, one % width, None]) for one in chosen]


def _double(values: np.ndarray) -> np.ndarray:
    """Without infinities, which are no values."""
    values = values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)
