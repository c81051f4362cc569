"""`fit`, `predict` and historical forecasts as a Darts user calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from darts import TimeSeries, concatenate
from darts.metrics import mae
from model_fixtures import (
    CONTEXT,
    HORIZON,
    NO_DECAY,
    TRAINER,
    changed,
    make_model,
    parameters_snapshot,
    validation_scores,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel


@pytest.fixture(scope="module")
def fitted(tiny_moirai: str) -> MSFTFoundationModel:
    """A deterministic model, fitted on a univariate series; tests must not fit it again."""
    return make_model(tiny_moirai, likelihood=None).fit(wave())


# ------------------------------------------------------------------------------------------------------------ fit


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("validated", [False, True])
def test_fit_trains_on_any_kind_of_series(tiny_moirai: str, components: int, many: bool, validated: bool) -> None:
    train, val = wave(70, components), wave(60, components, seed=1)
    model = make_model(tiny_moirai, lr_new=1e-2)
    before = make_model(tiny_moirai).untrained_model()
    before.predict(HORIZON, train)
    model.fit([train, wave(60, components, seed=2)] if many else train, val_series=val if validated else None)
    names = changed(parameters_snapshot(before), parameters_snapshot(model))
    assert {"scale_weights.omega", "method.input_adapters.0.weight"} <= names
    forecast = model.predict(HORIZON, train)
    assert forecast.start_time() == train.end_time() + train.freq
    assert list(forecast.columns) == list(train.columns)
    assert np.abs(values_of(forecast)[..., 0] - (5 + 3 * np.arange(components))).max() < 20  # each near its own level


def test_fit_without_series_argument_predicts_the_training_series(fitted: MSFTFoundationModel) -> None:
    assert np.array_equal(values_of(fitted.predict(HORIZON)), values_of(fitted.predict(HORIZON, wave())))


def test_only_trainable_parameters_change(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, lr_pretrained=1e-2, lr_new=1e-2, lr_head=1e-2)
    pretrained = make_model(tiny_moirai, enable_finetuning=False).fit(wave())
    model.fit(wave())
    moved = changed(parameters_snapshot(pretrained), parameters_snapshot(model))
    trainable = {name for name, value in model.model.named_parameters() if value.requires_grad}
    assert moved <= trainable
    for frozen in (".in_proj.", ".q_proj.", ".k_proj.", ".v_proj.", ".ffn.", "mask_encoding"):
        assert not any(frozen in name for name in moved if name.startswith("backbone"))
    for tuned in ("out_proj", "norm", "param_proj", "method.lora", "method.aggregators", "scale_weights"):
        assert any(tuned in name for name in moved)


@pytest.mark.parametrize("weight_learning", ["uniform", "scale_loss", "mixed_loss"])
def test_steps_of_weight_zero_teach_nothing(tiny_moirai: str, weight_learning: str) -> None:
    series = wave(60)
    nothing = series.with_values(np.zeros_like(series.values()))
    model = make_model(tiny_moirai, weight_learning=weight_learning, optimizer_kwargs=NO_DECAY)
    before = make_model(tiny_moirai, weight_learning=weight_learning, enable_finetuning=False).fit(series)
    before.model.begin_training()  # puts the scales' first weights in place
    model.fit(series, sample_weight=nothing)
    assert changed(parameters_snapshot(before), parameters_snapshot(model)) == set()


def test_sample_weight_of_one_is_no_weight(tiny_moirai: str) -> None:
    series = wave(60, 2)
    plain = make_model(tiny_moirai).fit(series)
    weighted = make_model(tiny_moirai).fit(series, sample_weight=series.with_values(np.ones_like(series.values())))
    assert changed(parameters_snapshot(plain), parameters_snapshot(weighted)) == set()


def test_stride_thins_the_training_windows(tiny_moirai: str) -> None:
    series = wave(CONTEXT + HORIZON + 31)  # 32 windows
    steps = [make_model(tiny_moirai, batch_size=4).fit(series, stride=stride).trainer.global_step for stride in (1, 4)]
    assert steps == [8, 2]


def test_finetuning_off_does_not_train(tiny_moirai: str) -> None:
    off = make_model(tiny_moirai, likelihood=None, enable_finetuning=False).fit(wave(), val_series=wave(seed=1))
    zero_shot = make_model(tiny_moirai, likelihood=None)
    assert np.array_equal(values_of(off.predict(HORIZON, wave())), values_of(zero_shot.predict(HORIZON, wave())))
    assert off.fit_report is None


@pytest.mark.parametrize("mode", ["unfreeze", "freeze"])
def test_finetuning_by_names(tiny_moirai: str, mode: str) -> None:
    pretrained = make_model(tiny_moirai, enable_finetuning=False).fit(wave())
    pretrained.model.begin_training()  # puts the scales' first weights in place
    model = make_model(tiny_moirai, enable_finetuning={mode: ["method.lora.*"]}, lr_new=1e-2).fit(wave())
    moved = changed(parameters_snapshot(pretrained), parameters_snapshot(model))
    assert moved
    assert all(name.startswith("method.lora.") == (mode == "unfreeze") for name in moved)


def test_random_state_reproduces_the_fit(tiny_moirai: str) -> None:
    first, again, other = (
        make_model(tiny_moirai, random_state=seed).fit(wave(60), val_series=wave(50, seed=1)) for seed in (3, 3, 4)
    )
    assert changed(parameters_snapshot(first), parameters_snapshot(again)) == set()
    assert changed(parameters_snapshot(first), parameters_snapshot(other))


def test_custom_trainer(tiny_moirai: str) -> None:
    trainer = pl.Trainer(max_epochs=2, limit_train_batches=1, **TRAINER)
    model = make_model(tiny_moirai, n_epochs=7).fit(wave(), val_series=wave(seed=1), trainer=trainer)
    assert trainer.global_step == 2
    assert model.predict(HORIZON, wave(), num_samples=3).n_samples == 3


# -------------------------------------------------------------------------------------------------------- predict


def test_shorter_horizon_is_the_beginning(fitted: MSFTFoundationModel) -> None:
    assert np.array_equal(values_of(fitted.predict(3, wave())), values_of(fitted.predict(HORIZON, wave()))[:3])


def test_longer_horizon_feeds_the_forecast_back(fitted: MSFTFoundationModel) -> None:
    series = wave()
    chunks = [fitted.predict(HORIZON, series)]
    chunks.append(fitted.predict(HORIZON, series.append(chunks[0])))
    forecast = fitted.predict(2 * HORIZON, series)
    np.testing.assert_allclose(values_of(forecast), values_of(concatenate(chunks)), rtol=1e-5)
    assert forecast.end_time() == series.end_time() + 2 * HORIZON * series.freq


def test_list_of_series_equals_one_by_one(fitted: MSFTFoundationModel) -> None:
    several = [wave(seed=seed, length=length, level=seed) for seed, length in ((0, 100), (1, 40), (2, CONTEXT))]
    forecasts = fitted.predict(HORIZON, several)
    single = [fitted.predict(HORIZON, series) for series in several]
    np.testing.assert_allclose(values_of(forecasts), values_of(single), rtol=1e-5)
    assert [forecast.start_time() for forecast in forecasts] == [one.start_time() for one in single]


def test_samples_differ_and_follow_the_seed(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai).fit(wave())
    for n in (HORIZON - 2, HORIZON, 2 * HORIZON + 3):
        first, again, other = (
            values_of(model.predict(n, [wave(), wave(seed=1)], num_samples=20, random_state=seed)) for seed in (1, 1, 2)
        )
        assert first.shape == (2, n, 1, 20)
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        assert (first.std(axis=-1) > 0).all()


def test_variates_are_forecast_independently(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=None).fit(wave(60, 3))
    series = wave(60, 3)
    forecast = values_of(model.predict(HORIZON, series))
    backwards = series.with_values(series.values()[:, ::-1])
    np.testing.assert_allclose(values_of(model.predict(HORIZON, backwards))[:, ::-1], forecast, rtol=1e-4)


def test_shifted_horizon_is_the_end_of_a_longer_one(tiny_moirai: str) -> None:
    series = wave()
    shifted = make_model(tiny_moirai, likelihood=None, output_chunk_shift=2).predict(HORIZON, series)
    longer = make_model(tiny_moirai, likelihood=None, output_chunk_length=HORIZON + 2).predict(HORIZON + 2, series)
    np.testing.assert_allclose(values_of(shifted), values_of(longer)[2:], rtol=1e-6)
    assert shifted.start_time() == series.end_time() + 3 * series.freq


@pytest.mark.parametrize("sample_weight", [None, "linear"])
@pytest.mark.parametrize("shift", [2, 5])  # with 5, whole coarse steps lie in the gap
def test_shifted_horizon_trains(tiny_moirai: str, shift: int, sample_weight: str | None) -> None:
    model = make_model(tiny_moirai, output_chunk_shift=shift, n_epochs=3, lr_new=1e-3)
    model.fit(wave(), val_series=wave(seed=1), sample_weight=sample_weight)
    assert all(np.isfinite(value).all() for value in parameters_snapshot(model).values())
    before, after = validation_scores(model)
    assert after < before


# ------------------------------------------------------------------------------------------ historical forecasts


@pytest.mark.parametrize("settings", [{}, {"forecast_horizon": 3, "stride": 5}, {"last_points_only": True}])
def test_historical_forecasts_equal_a_loop(fitted: MSFTFoundationModel, settings: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"forecast_horizon": HORIZON, "stride": 7, "last_points_only": False, **settings}
    series, horizon = wave(80, seed=4), arguments["forecast_horizon"]
    forecasts = fitted.historical_forecasts(series, retrain=False, **arguments)
    origins = range(CONTEXT, len(series) - horizon + 1, arguments["stride"])
    loop = [fitted.predict(horizon, series[:origin]) for origin in origins]
    if arguments["last_points_only"]:
        np.testing.assert_allclose(values_of(forecasts)[:, 0, 0], values_of(loop)[:, -1, 0, 0], rtol=1e-5)
        assert list(forecasts.time_index) == [one.end_time() for one in loop]
    else:
        np.testing.assert_allclose(values_of(forecasts), values_of(loop), rtol=1e-5)
        assert [one.start_time() for one in forecasts] == [one.start_time() for one in loop]


def test_historical_forecasts_of_several_series_and_samples(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai).fit(wave())
    several = [wave(60, seed=5), wave(50, seed=6)]
    settings = {"forecast_horizon": HORIZON, "retrain": False, "last_points_only": False, "stride": 4}
    samples = model.historical_forecasts(several, num_samples=300, random_state=0, **settings)
    slow = model.historical_forecasts(several, num_samples=300, random_state=0, enable_optimization=False, **settings)
    assert [len(one) for one in samples] == [len(one) for one in slow]
    for fast_one, slow_one in zip(samples, slow, strict=True):
        middle = np.median(values_of(fast_one), axis=-1) - np.median(values_of(slow_one), axis=-1)
        assert np.abs(middle).mean() < 0.2


def test_retrained_forecasts_equal_a_loop_of_fits(tiny_moirai: str) -> None:
    model, series = make_model(tiny_moirai, likelihood=None), wave(70)
    forecasts = model.historical_forecasts(
        series, start=60, start_format="position", forecast_horizon=HORIZON, retrain=True, last_points_only=False
    )
    assert len(forecasts) == 3
    for origin, forecast in zip((60, 61, 62), forecasts, strict=True):
        alone = make_model(tiny_moirai, likelihood=None).fit(series[:origin]).predict(HORIZON)
        np.testing.assert_allclose(values_of(forecast), values_of(alone), rtol=1e-5)


def test_backtest_and_residuals(fitted: MSFTFoundationModel) -> None:
    several = [wave(60, seed=5), wave(50, seed=6)]
    settings: dict[str, Any] = {"forecast_horizon": HORIZON, "retrain": False, "last_points_only": False, "stride": 3}
    forecasts = fitted.historical_forecasts(several, **settings)
    expected = [np.mean([mae(s, f) for f in one]) for s, one in zip(several, forecasts, strict=True)]
    np.testing.assert_allclose(fitted.backtest(several, metric=mae, **settings), expected, rtol=1e-6)
    residuals = fitted.residuals(several[0], **settings)
    for residual, forecast in zip(residuals, forecasts[0], strict=True):
        actual = several[0].slice_intersect(forecast)
        np.testing.assert_allclose(residual.values(), actual.values() - forecast.values(), atol=1e-5)


# ---------------------------------------------------------------------------- short contexts and missing values


def test_range_of_context_lengths(tiny_moirai: str, tmp_path: Any) -> None:
    fixed = make_model(tiny_moirai, likelihood=None).fit(wave())
    fixed.save(str(tmp_path / "fixed.pt"))
    ranged = make_model(tiny_moirai, likelihood=None, input_chunk_length=(10, CONTEXT))
    ranged.load_weights(str(tmp_path / "fixed.pt"))
    long, short = wave(seed=7), wave(20, seed=7)
    np.testing.assert_allclose(
        values_of(ranged.predict(HORIZON, long)), values_of(fixed.predict(HORIZON, long)), rtol=1e-6
    )
    padded = short.prepend_values(np.full((CONTEXT - 20, 1), np.nan, dtype=np.float32))
    assert len(padded) == CONTEXT
    np.testing.assert_allclose(
        values_of(ranged.predict(HORIZON, short)), values_of(fixed.predict(HORIZON, padded)), rtol=1e-5
    )


def test_range_of_context_lengths_trains_on_short_series(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, input_chunk_length=(10, CONTEXT), lr_head=1e-2, n_epochs=3)
    model.fit([wave(25), wave(30, seed=1)], val_series=wave(30, seed=2))
    before, after = validation_scores(model)
    assert after < before


def test_missing_values_are_left_out(tiny_moirai: str) -> None:
    values = wave(120).values()
    values[10:14] = values[40] = values[-3] = values[70:80] = np.nan
    gaps = wave(120).with_values(values)
    model = make_model(tiny_moirai, likelihood=None, lr_head=1e-2, n_epochs=2).fit(gaps, val_series=gaps)
    assert all(np.isfinite(value).all() for value in parameters_snapshot(model).values())
    before, after = validation_scores(model)
    assert after < before
    forecast = values_of(model.predict(HORIZON, gaps))
    assert np.isfinite(forecast).all()
    assert not np.array_equal(forecast, values_of(model.predict(HORIZON, wave(120))))


# --------------------------------------------------------------------------------------------------- never fitted


def test_forecasts_without_fit(tiny_moirai: str) -> None:
    model, series = make_model(tiny_moirai, likelihood=None), [wave(60), wave(50, seed=1)]
    settings = {"forecast_horizon": HORIZON, "retrain": False, "last_points_only": False}
    forecasts = model.historical_forecasts(series, **settings)
    fresh = make_model(tiny_moirai, likelihood=None)
    for one, own in zip(series, forecasts, strict=True):
        last = fresh.predict(HORIZON, one[: len(one) - HORIZON])
        np.testing.assert_allclose(values_of(own[-1]), values_of(last), rtol=1e-5)


def test_fit_after_a_zero_shot_forecast_trains(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, lr_head=1e-2, n_epochs=2)
    model.predict(HORIZON, wave(40, 2, dtype=np.float64))  # with another number of components, and another precision
    model.fit(wave(), val_series=wave(seed=1))
    before, after = validation_scores(model)
    assert after < before
    assert model.predict(HORIZON).dtype == np.float32


def test_untrained_model_forgets_the_fit(fitted: MSFTFoundationModel, tiny_moirai: str) -> None:
    fresh = fitted.untrained_model()
    zero_shot = make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave())
    assert np.array_equal(values_of(fresh.predict(HORIZON, wave())), values_of(zero_shot))
    assert not np.array_equal(values_of(fitted.predict(HORIZON, wave())), values_of(zero_shot))


def test_never_fitted_needs_a_series(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match="`series` must be provided"):
        make_model(tiny_moirai).predict(HORIZON)


def test_zero_shot_forecast_does_not_stand_in_for_training_series(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    series: TimeSeries = wave()
    model.predict(HORIZON, series)
    with pytest.raises(ValueError, match="`series` must be provided"):
        model.predict(HORIZON)
