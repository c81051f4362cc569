"""The units of the validation score: of each series and component, from the training part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset, TorchTrainingDataset
from darts.utils.data.torch_datasets.utils import TorchTrainingSample
from model_fixtures import CONTEXT, HORIZON, from_values, naive_unit, wave

from darts_msft.training.units import find_units


def windows(*series: TimeSeries) -> SequentialTorchTrainingDataset:
    return SequentialTorchTrainingDataset(list(series), input_chunk_length=CONTEXT, output_chunk_length=HORIZON)


def constant(value: float, length: int = 100) -> TimeSeries:
    return from_values(np.full((length, 1), value, dtype=np.float32))


def test_pairs_have_the_training_part_s_error_each() -> None:
    train = [wave(100, 2), wave(140, 2, seed=1, level=1e4) * 7.0]
    found = find_units(windows(*train), windows(wave(60, 2), wave(60, 2)))
    assert (found.season, found.measured_on, len(found.components)) == (24, "training part", 2)
    np.testing.assert_allclose(found.values, [naive_unit(one) for one in train], rtol=1e-5)


def test_without_pairs_each_validation_series_has_its_own() -> None:
    val = [wave(60), wave(70, seed=1) * 3.0]
    found = find_units(windows(wave(100)), windows(*val))
    assert (found.season, found.measured_on) == (24, "validation series")  # the season is the training series'
    np.testing.assert_allclose(found.values, [naive_unit(one) for one in val], rtol=1e-5)


def test_without_a_season_it_is_the_step_before() -> None:
    found = find_units(windows(wave(60)), windows(wave(60, seed=1)))
    assert found.season is None
    np.testing.assert_allclose(found.values[0], naive_unit(wave(60), season=1), rtol=1e-5)


def test_what_is_constant_or_unseen_has_a_unit_all_the_same() -> None:
    """In order: the step before, the validation series' own, its level, 1."""
    gaps = np.full((100, 1), np.nan, dtype=np.float32)
    gaps[[3, 4], 0] = 1.0, 3.0  # no two values are a season apart
    train = [from_values(gaps), constant(5.0), constant(5.0), constant(0.0), constant(np.nan), *[wave(120)] * 5]
    val = [wave(60), wave(60), constant(-7.0), constant(0.0), constant(np.nan), *[wave(60)] * 5]
    found = find_units(windows(*train), windows(*val))
    assert found.season == 24
    assert found.values[:5, 0] == pytest.approx([2.0, naive_unit(wave(60))[0], 7.0, 1.0, 1.0])


def test_windows_of_the_user_s_own_are_one_series() -> None:
    class Own(TorchTrainingDataset):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> TorchTrainingSample:
            values = wave(60, 2).values()[index % 20 :].astype(np.float32)
            return TorchTrainingSample(past_target=values[:CONTEXT], future_target=values[CONTEXT:][:HORIZON])

    found = find_units(Own(), Own())
    series = wave(60, 2).values()
    steps = [np.abs(np.diff(series[start : start + CONTEXT], axis=0)) for start in range(20)]
    assert (found.season, found.measured_on) == (None, "validation windows")
    np.testing.assert_allclose(found.values, np.mean(steps, axis=(0, 1))[None], rtol=1e-5)


def test_many_series_and_components_are_looked_at_by_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Any] = []
    monkeypatch.setattr("darts_msft.training.units.find_season", lambda freq, series: looked.append(series))
    series = [wave(60, 5)] * 300
    find_units(windows(*series), windows(*series))
    assert len(looked[0]) == 64
