"""Which windows a fit trains and scores on: of all times, of all series, others every epoch."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset
from model_fixtures import CONTEXT, HORIZON, Order, make_model, wave

from darts_msft.module import MSFTModule
from darts_msft.training import windows
from darts_msft.training.windows import EpochSampler, draw, spread

LENGTHS = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "use_static_covariates": False}


def first_values(series: TimeSeries) -> list[float]:
    """Of every window that has what follows it."""
    return series.values()[: len(series) - CONTEXT - HORIZON + 1, 0].tolist()


# --- positions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [6144, 5000, 256 * 168, 256 * 7 + 3])
@pytest.mark.parametrize("season", [24, 7, 96])
def test_validation_positions_are_spread_over_time_and_season(total: int, season: int) -> None:
    """6144 = 256 x 24: a fixed step would see one hour of the day."""
    chosen = np.array(spread(total, 256))
    assert len(chosen) == 256
    assert (np.diff(chosen) > 0).all()
    assert set(np.bincount(chosen * 8 // total)) <= {31, 32, 33}
    counts = np.bincount(chosen % season, minlength=season)
    assert (counts > 0).mean() >= (1 if season <= 24 else 0.9)
    assert counts.max() <= 2.5 * 256 / season


def test_few_positions_are_all_taken() -> None:
    assert spread(5, 5) == spread(5, 9) == draw(5, 5, 0) == draw(5, 9, 0) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("series", "size"), [(200, 20), (300, 1), (300, 20), (7, 100), (256, 5)])
def test_validation_positions_are_of_all_series_alike(series: int, size: int) -> None:
    chosen = np.array(spread(series * size, 256, series))
    assert len(set(chosen.tolist())) == 256
    counts = np.bincount(chosen // size, minlength=series)
    assert counts.min() == 256 // series
    assert counts.max() - counts.min() <= 1
    assert np.abs(np.cumsum(counts) - 256 / series * np.arange(1, series + 1)).max() <= 1  # nor only of the first
    places = np.bincount(chosen % size * 5 // size, minlength=min(5, size)) if size >= 5 else np.array([256])
    assert places.max() < 1.5 * 256 / len(places)


def test_every_position_is_as_likely_to_be_drawn() -> None:
    """15 of 40: slices of two and of three positions."""
    epochs = [draw(40, 15, seed) for seed in range(4000)]
    assert all(len(set(one)) == 15 for one in epochs)
    counts = np.bincount(np.concatenate(epochs), minlength=40)
    expected = 4000 * 15 / 40
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    assert all(len({position // 10 for position in one}) == 4 for one in epochs)
    assert epochs[0] != epochs[1]
    assert draw(40, 15, 7) == epochs[7]


def test_processes_share_an_epochs_windows() -> None:
    ranks = [EpochSampler(40, 15, 2, rank, seed=3) for rank in (0, 1)]
    for epoch in (0, 1):
        for one in ranks:
            one.set_epoch(epoch)
        dealt = [list(one) for one in ranks]
        assert [len(one) for one in dealt] == [len(one) for one in ranks] == [8, 8]
        assert set().union(*dealt) == set(draw(40, 15, 3 + epoch))


# --- training ---------------------------------------------------------------------------------------------------------


def seen_by(
    checkpoint: str, series: Any = None, epochs: int = 2, how: Any = None, **settings: Any
) -> list[list[float]]:
    order = Order()
    model = make_model(checkpoint, trainer={"callbacks": [order]}, n_epochs=epochs, **settings)
    model.fit(wave() if series is None else series, **(how or {}))
    return order.seen


def test_an_epoch_draws_other_windows_by_the_seed_alone(tiny_moirai: str) -> None:
    first, second = seen_by(tiny_moirai, windows_per_epoch=20)
    assert len(set(first)) == len(set(second)) == 20
    assert set(first) != set(second)
    assert set(first) | set(second) <= set(first_values(wave()))
    assert first != sorted(first, key=first_values(wave()).index)  # shuffled
    assert seen_by(tiny_moirai, windows_per_epoch=20) == [first, second]
    assert set(seen_by(tiny_moirai, windows_per_epoch=20, random_state=1)[0]) != set(first)


def test_all_windows_with_none_and_where_there_are_fewer(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of the user's own datasets, and by the user's own sampler."""
    every = sorted(first_values(wave()))
    for count in (None, 1000):
        (seen,) = seen_by(tiny_moirai, epochs=1, windows_per_epoch=count)
        assert sorted(seen) == every
    order = Order()
    own = SequentialTorchTrainingDataset(wave(), **LENGTHS)
    monkeypatch.setattr(windows, "VALIDATION_WINDOWS", 20)
    model = make_model(tiny_moirai, trainer={"callbacks": [order]}, windows_per_epoch=20)
    assert len(scored_by(model.fit_from_dataset, monkeypatch, own, own)) == len(every)
    assert sorted(order.seen[0]) == every
    how = {"dataloader_kwargs": {"sampler": list(range(30)), "shuffle": False}}
    assert len(seen_by(tiny_moirai, epochs=1, windows_per_epoch=20, how=how)[0]) == 30


def test_batches_of_the_users_own(tiny_moirai: str) -> None:
    """torch takes a batch sampler with batches of one alone, and takes no other sampler beside it."""
    batches = [[0, 1, 2], [5, 6], [3]]
    how = {"dataloader_kwargs": {"batch_sampler": batches, "batch_size": 1, "shuffle": False}}
    (seen,) = seen_by(tiny_moirai, epochs=1, how={**how, "val_series": wave(60, seed=1)})
    assert seen == [first_values(wave())[::-1][place] for batch in batches for place in batch]


def test_draws_among_strided_windows_of_all_series(tiny_moirai: str) -> None:
    """Darts counts windows from the end of each series."""
    several = [wave(100), wave(100, seed=1)]
    (seen,) = seen_by(tiny_moirai, several, epochs=1, windows_per_epoch=10, how={"stride": 4})
    allowed = [set(first_values(one)[::-1][::4]) for one in several]
    assert set(seen) <= allowed[0] | allowed[1]
    assert min(len(set(seen) & one) for one in allowed) >= 4


@pytest.mark.parametrize("count", [0, -1, True])
def test_a_wrong_number_is_refused(tiny_moirai: str, count: Any) -> None:
    with pytest.raises(ValueError, match=f"windows_per_epoch={count!r} is not allowed"):
        make_model(tiny_moirai, windows_per_epoch=count)


# --- validation -------------------------------------------------------------------------------------------------------


def scored_by(fit: Any, monkeypatch: pytest.MonkeyPatch, *args: Any, **options: Any) -> list[float]:
    """First values of the windows of the fit's first pass over the validation data."""
    passes: list[list[float]] = []
    step = MSFTModule.validation_step

    def noted(self: MSFTModule, batch: Any, index: int) -> Any:
        if index == 0:
            passes.append([])
        passes[-1] += batch.past_target[:, 0, 0].tolist()
        return step(self, batch, index)

    with monkeypatch.context() as patched:
        patched.setattr(MSFTModule, "validation_step", noted)
        fit(*args, **options)
    assert all(np.array_equal(one, passes[0], equal_nan=True) for one in passes)
    return passes[0]


@pytest.mark.parametrize("settings", [{"n_epochs": 2}, {"method": "zero_shot"}, {"enable_finetuning": False}], ids=str)
def test_every_state_is_scored_on_the_same_few_windows(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """At all steps of the season also where the training windows are strided; as many of each series."""
    monkeypatch.setattr(windows, "VALIDATION_WINDOWS", 20)
    several = [wave(120, seed=2), wave(120, seed=3)]
    fit = make_model(tiny_moirai, **settings).fit
    seen = scored_by(fit, monkeypatch, wave(), val_series=several, stride=8)
    starts = [{value: place for place, value in enumerate(first_values(one))} for one in several]
    places = [[each[value] for value in seen if value in each] for each in starts]
    assert [len(one) for one in places] == [10, 10]
    assert seen == [value for each in starts for value in sorted(each, key=each.get, reverse=True) if value in seen]
    assert all(max(one) - min(one) > 60 for one in places)
    assert len(Counter(place % 8 for one in places for place in one)) >= 6


@pytest.mark.parametrize("context", [CONTEXT, (10, CONTEXT)])
def test_steps_that_were_trained_on_are_not_scored(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, context: Any
) -> None:
    """A validation series begins with the longest context; windows of a short one could forecast that."""
    fit, series = make_model(tiny_moirai, method="zero_shot", input_chunk_length=context).fit, wave(140)
    train, val = series[:100], series[100 - CONTEXT :]
    assert len(scored_by(fit, monkeypatch, train, val_series=val)) == 40 - HORIZON + 1
    other = val + 1  # of another series, of the same time
    possible = 40 + CONTEXT - HORIZON - (context if context == CONTEXT else 10) + 1
    assert len(scored_by(fit, monkeypatch, train, val_series=other)) == possible


def test_each_series_is_scored_on_its_own_new_steps(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first has 40 new steps, the second 15, the third comes from no training series."""
    model = make_model(tiny_moirai, method="zero_shot", input_chunk_length=(10, CONTEXT), output_chunk_shift=3)
    series = [wave(140, seed=seed) for seed in (1, 2)]
    train, val = [series[0][:100], series[1][:125]], [series[0][60:], series[1][60:], wave(90, seed=3)]
    scored_by(model.fit, monkeypatch, train, val_series=val)
    dataset = windows.scored_windows(model, model_windows(model, val), train, None)
    first = [[] for _ in val]  # steps that are forecast, of each series
    for index in range(len(dataset)):
        sample = dataset[index]
        number = index // dataset.max_samples_per_ts
        values = val[number].values()[:, 0]
        place = next(
            at for at in range(len(values)) if np.array_equal(values[at : at + HORIZON], sample.future_target[:, 0])
        )
        first[number].append(place)
    assert [min(places) for places in first] == [40, 65, 10 + 3]
    assert len(set(first[0])) == 40 - HORIZON + 1


def model_windows(model: MSFTFoundationModel, val: list[TimeSeries]) -> windows.FitWindows:
    return windows.windows_of(model, val, None, None, 1, labels=True)


def test_it_says_where_validation_series_have_no_new_steps(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    series = wave(140)
    make_model(tiny_moirai, method="zero_shot").fit(series, val_series=series[60:])
    assert caplog.text.count("the fit is judged by steps that it learned from") == 1


def test_of_wide_series_fewer_windows_are_scored(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = (1, 7, 21, 321)
    assert [windows.windows_to_score(components) for components in widths] == [256, 256, 85, 48]
    assert [windows.windows_to_score(components, trains=False) for components in widths] == [256, 146, 48, 48]
    monkeypatch.setattr(windows, "VALIDATION_FORECASTS", 90)
    monkeypatch.setattr(windows, "UNTRAINED_FORECASTS", 60)
    monkeypatch.setattr(windows, "LEAST_VALIDATION_WINDOWS", 8)
    for method, components, expected in (("full", 3, 30), ("zero_shot", 3, 20), ("zero_shot", 10, 8)):
        fit, series = make_model(tiny_moirai, method=method).fit, wave(120, components)
        assert len(scored_by(fit, monkeypatch, series, val_series=series)) == expected


# --- strides ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stride", "starts", "better"), [(8, 1, 9), (4, 2, 5), (6, 4, 7), (3, None, None)])
def test_a_stride_that_shares_a_factor_with_the_season_is_told(
    tiny_moirai: str, caplog: pytest.LogCaptureFixture, stride: int, starts: int | None, better: int | None
) -> None:
    """Of 8 steps a day, which the waves repeat after."""
    caplog.set_level(logging.WARNING, logger="darts_msft")
    series = wave(120)
    times = series.time_index[0] + 3 * (series.time_index - series.time_index[0])
    make_model(tiny_moirai).fit(TimeSeries.from_times_and_values(times, series.values()), stride=stride)
    told = [record for record in caplog.records if "stride" in record.message]
    if starts is None:
        assert told == []
    else:
        (record,) = told
        assert record.args == (stride, 8, starts, better)
