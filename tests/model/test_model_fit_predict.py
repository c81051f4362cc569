"""`fit`, `predict` and historical forecasts as a Darts user calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from darts import TimeSeries
from model_fixtures import (
    CONTEXT,
    HORIZON,
    LEARNS,
    LONG,
    STILL,
    TRAINER,
    ZERO_SHOT,
    differing,
    fitted,
    make_model,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel


@pytest.fixture
def point(tiny_moirai: str) -> MSFTFoundationModel:
    """A finetuned model of point forecasts, which tests must not fit again."""
    return fitted(tiny_moirai, likelihood=None)


@pytest.mark.parametrize(("components", "several"), [(1, False), (3, True)])
def test_fit_trains_on_any_kind_of_series(tiny_moirai: str, components: int, several: bool) -> None:
    train, val = wave(60, components), wave(50, components, seed=1)
    start = make_model(tiny_moirai, **STILL).fit(train)
    model = make_model(tiny_moirai, **LEARNS)
    model.fit([train, wave(50, components, seed=2)] if several else train, val_series=[val, val] if several else None)
    assert {"scale_weights.omega", "method.input_adapters.0.weight"} <= differing(start, model)
    forecast = model.predict(HORIZON, train, num_samples=50)
    assert forecast.start_time() == train.end_time() + train.freq
    assert list(forecast.columns) == list(train.columns)
    medians = np.median(values_of(forecast), axis=-1)
    assert np.abs(medians - (5 + 3 * np.arange(components))).max() < 5  # each near its own level


@pytest.mark.parametrize("weight_learning", ["uniform", "scale_loss", "mixed_loss"])
def test_steps_of_weight_zero_teach_nothing(tiny_moirai: str, weight_learning: str) -> None:
    series = wave(60)
    no_decay = {"betas": (0.9, 0.98), "weight_decay": 0.0}
    model = make_model(tiny_moirai, weight_learning=weight_learning, optimizer_kwargs=no_decay)
    model.fit(series, sample_weight=series.with_values(np.zeros_like(series.values())))
    assert differing(make_model(tiny_moirai, **STILL).fit(series), model) == set()


def test_sample_weight_of_one_is_no_weight(tiny_moirai: str) -> None:
    """One column of weights is for all components."""
    series, ones = wave(60, 2), wave(60).with_values(np.ones((60, 1), dtype=np.float32))
    plain = make_model(tiny_moirai).fit(series)
    assert differing(plain, make_model(tiny_moirai).fit(series, sample_weight=ones)) == set()
    assert differing(plain, make_model(tiny_moirai).fit(series, sample_weight="linear"))


@pytest.mark.parametrize(("scales", "val"), [(LONG, None), ({}, None), ({"num_scales": 0}, wave(seed=1))])
def test_finetuning_off_does_not_train(tiny_moirai: str, scales: dict[str, int], val: TimeSeries | None) -> None:
    """Without a validation series, or at one scale, there is nothing to compare either."""
    options: dict[str, Any] = {"likelihood": None, **scales}
    off = make_model(tiny_moirai, enable_finetuning=False, **options).fit(wave(seed=2), val_series=val)
    zero_shot = make_model(tiny_moirai, **options)
    assert np.array_equal(values_of(off.predict(HORIZON, wave())), values_of(zero_shot.predict(HORIZON, wave())))
    for model in (off, zero_shot):
        assert model.fit_report is None
        assert model.candidates == []


@pytest.mark.parametrize("mode", ["unfreeze", "freeze"])
def test_finetuning_by_names(tiny_moirai: str, tmp_path: Path, mode: str) -> None:
    """The choice survives saving."""
    model = make_model(tiny_moirai, enable_finetuning={mode: ["method.lora.*"]}, lr_new=1e-2).fit(wave(50))
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"), TRAINER)
    before = make_model(tiny_moirai, **STILL).fit(wave(50))
    for later in (model, loaded.fit(wave(50))):
        moved, before = differing(before, later), later
        assert moved
        assert all(name.startswith("method.lora.") == (mode == "unfreeze") for name in moved)


def test_custom_trainer(tiny_moirai: str) -> None:
    trainer = pl.Trainer(max_epochs=2, limit_train_batches=1, **TRAINER)
    model = make_model(tiny_moirai, n_epochs=7).fit(wave(), val_series=wave(seed=1), trainer=trainer)
    assert trainer.global_step == 2
    assert [candidate.label for candidate in model.candidates] == [*ZERO_SHOT, "epoch 1", "epoch 2"]


def test_several_series_and_shorter_horizons(point: MSFTFoundationModel) -> None:
    several = [wave(seed=seed, length=length, level=seed) for seed, length in ((0, 100), (1, 40), (2, CONTEXT))]
    forecasts = point.predict(HORIZON, several)
    single = [point.predict(HORIZON, series) for series in several]
    np.testing.assert_allclose(values_of(forecasts), values_of(single), rtol=1e-4)
    assert [forecast.start_time() for forecast in forecasts] == [one.start_time() for one in single]
    assert np.array_equal(values_of(point.predict(3, several[0])), values_of(single[0])[:3])
    assert np.array_equal(values_of(point.predict(HORIZON)), values_of(point.predict(HORIZON, wave())))


def test_samples_differ_and_follow_the_seed(tiny_moirai: str) -> None:
    model = fitted(tiny_moirai)
    for n in (HORIZON - 2, HORIZON, 2 * HORIZON + 3):
        first, again, other = (
            values_of(model.predict(n, [wave(), wave(seed=1)], num_samples=20, random_state=seed)) for seed in (1, 1, 2)
        )
        assert first.shape == (2, n, 1, 20)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert (first.std(axis=-1) > 0).all()


def test_shifted_horizon_is_the_end_of_a_longer_one(tiny_moirai: str) -> None:
    """Of every scale."""
    shifted = make_model(tiny_moirai, likelihood=None, output_chunk_shift=2)
    longer = make_model(tiny_moirai, likelihood=None, output_chunk_length=HORIZON + 2)
    pairs = zip(shifted.scale_forecasts(wave()), longer.scale_forecasts(wave()), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(values_of(one), values_of(other)[2:], rtol=1e-6)
    for forecast in (one, shifted.predict(HORIZON, wave())):
        assert forecast.start_time() == wave().end_time() + 3 * wave().freq


@pytest.mark.parametrize(("shift", "weight"), [(2, None), (5, "linear")])  # with 5, whole coarse steps lie in the gap
def test_shifted_horizon_trains(tiny_moirai: str, shift: int, weight: str | None) -> None:
    model = make_model(tiny_moirai, output_chunk_shift=shift, n_epochs=2, lr_new=1e-3)
    report = model.fit(wave(70), val_series=wave(60, seed=1), sample_weight=weight).fit_report
    assert report.best < report.before


@pytest.mark.parametrize("settings", [{}, {"forecast_horizon": 3, "stride": 5}, {"last_points_only": True}])
def test_historical_forecasts_equal_a_loop(point: MSFTFoundationModel, settings: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"forecast_horizon": HORIZON, "stride": 7, "last_points_only": False, **settings}
    series, horizon = wave(80, seed=4), arguments["forecast_horizon"]
    forecasts = point.historical_forecasts(series, retrain=False, **arguments)
    origins = range(CONTEXT, len(series) - horizon + 1, arguments["stride"])
    loop = [point.predict(horizon, series[:origin]) for origin in origins]
    if arguments["last_points_only"]:
        np.testing.assert_allclose(values_of(forecasts)[:, 0, 0], values_of(loop)[:, -1, 0, 0], rtol=1e-5)
        assert list(forecasts.time_index) == [one.end_time() for one in loop]
    else:
        np.testing.assert_allclose(values_of(forecasts), values_of(loop), rtol=1e-5)
        assert [one.start_time() for one in forecasts] == [one.start_time() for one in loop]


def test_retrained_forecasts_equal_a_loop_of_fits(tiny_moirai: str) -> None:
    series = wave(61)
    model = make_model(tiny_moirai, likelihood=None).fit(series)  # an unfitted one is not refitted
    options = {"start": 52, "start_format": "position", "forecast_horizon": HORIZON, "last_points_only": False}
    for origin, forecast in zip((52, 53), model.historical_forecasts(series, retrain=True, **options), strict=True):
        alone = make_model(tiny_moirai, likelihood=None).fit(series[:origin]).predict(HORIZON)
        np.testing.assert_allclose(values_of(forecast), values_of(alone), rtol=1e-5)


def test_range_of_context_lengths(point: MSFTFoundationModel, tiny_moirai: str, tmp_path: Path) -> None:
    """A shorter context is one whose first steps are missing."""
    point.save(str(tmp_path / "fixed.pt"))
    ranged = make_model(tiny_moirai, likelihood=None, input_chunk_length=(10, CONTEXT))
    ranged.load_weights(str(tmp_path / "fixed.pt"))
    long, short = wave(seed=7), wave(20, seed=7)
    padded = short.prepend_values(np.full((CONTEXT - 20, 1), np.nan, dtype=np.float32))
    for series, whole in ((long, long), (short, padded)):
        expected = values_of(point.predict(HORIZON, whole))
        np.testing.assert_allclose(values_of(ranged.predict(HORIZON, series)), expected, rtol=1e-5)


def test_range_of_context_lengths_trains_on_short_series(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, input_chunk_length=(10, CONTEXT), lr_head=1e-2, n_epochs=3)
    report = model.fit([wave(25), wave(30, seed=1)], val_series=wave(30, seed=2)).fit_report
    assert report.best < report.before
    assert all(np.isfinite(part.values()).all() for part in model.scale_forecasts(wave(20)))
    for wrong, what in ((wave(9), "9 steps, but a forecast takes 10"), (wave(60, 2), "2 components; give 1")):
        with pytest.raises(ValueError, match=what):
            model.scale_forecasts(wrong)


def test_missing_values_are_left_out(tiny_moirai: str) -> None:
    values = wave().values()
    values[10:14] = values[40] = values[-3] = values[60:70] = np.nan
    gaps = wave().with_values(values)
    model = make_model(tiny_moirai, likelihood=None, lr_head=1e-2, n_epochs=2).fit(gaps, val_series=gaps)
    assert model.fit_report.best < model.fit_report.before
    forecast = values_of(model.predict(HORIZON, gaps))
    assert np.isfinite(forecast).all()
    assert not np.array_equal(forecast, values_of(model.predict(HORIZON, wave())))


@pytest.mark.parametrize("memory", [{}, LONG])
def test_historical_forecasts_without_fit(tiny_moirai: str, memory: dict[str, Any]) -> None:
    model, series = make_model(tiny_moirai, likelihood=None, **memory), [wave(60), wave(50, seed=1)]
    forecasts = model.historical_forecasts(series, forecast_horizon=HORIZON, retrain=False, last_points_only=False)
    fresh = make_model(tiny_moirai, likelihood=None, **memory)
    for one, own in zip(series, forecasts, strict=True):
        last = fresh.predict(HORIZON, one[: len(one) - HORIZON])
        np.testing.assert_allclose(values_of(own[-1]), values_of(last), rtol=1e-5)
    if memory:
        assert model.scale_weights is None  # each window has its own
    else:
        assert model.scale_weights.tolist() == [1, 0, 0]


def test_fit_after_a_zero_shot_forecast_trains(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, lr_head=1e-2)
    for series in (None, wave(40, 2, dtype=np.float64)):  # of another width and precision than the fit's
        if series is not None:
            model.predict(HORIZON, series)
        with pytest.raises(ValueError, match="`series` must be provided"):
            model.predict(HORIZON)
    fresh = make_model(tiny_moirai, lr_head=1e-2).fit(wave(), val_series=wave(60, seed=1))
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.fit_report.best < model.fit_report.before == fresh.fit_report.before
    assert model.predict(HORIZON).dtype == np.float32


def test_untrained_model_forgets_the_fit(point: MSFTFoundationModel, tiny_moirai: str) -> None:
    fresh = point.untrained_model()
    zero_shot = make_model(tiny_moirai, likelihood=None)
    assert np.array_equal(values_of(fresh.predict(HORIZON, wave())), values_of(zero_shot.predict(HORIZON, wave())))
    assert differing(fresh, point)
