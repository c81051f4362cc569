"""Never worse than zero-shot on the validation series, and how the scales' weights are learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import (
    CONTEXT,
    HORIZON,
    changed,
    chosen_state,
    make_model,
    parameters_snapshot,
    validation_scores,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel

ABSURD = {"lr_pretrained": 1.0, "lr_new": 1.0, "lr_head": 1.0, "lr_omega": 1.0}
SENSIBLE: dict[str, Any] = {"lr_head": 1e-2, "lr_new": 1e-3, "n_epochs": 4}


def crps_of(model: MSFTFoundationModel, series: TimeSeries, samples: int) -> float:
    """Mean CRPS over all windows, from every pair of samples, each component over its standard deviation."""
    forecasts = model.historical_forecasts(
        series,
        forecast_horizon=HORIZON,
        retrain=False,
        last_points_only=False,
        num_samples=samples,
        random_state=0,
        predict_kwargs=None,
    )
    assert len(forecasts) == len(series) - CONTEXT - HORIZON + 1
    errors, targets = [], []
    for forecast in forecasts:
        draws, target = values_of(forecast), series.slice_intersect(forecast).values()
        pairs = np.abs(draws[..., :, None] - draws[..., None, :]).sum(axis=(-1, -2)) / (samples * (samples - 1))
        errors.append(np.abs(draws - target[..., None]).mean(axis=-1) - pairs / 2)
        targets.append(target)
    return float((np.mean(errors, axis=(0, 1)) / np.std(targets, axis=(0, 1))).mean())


# ------------------------------------------------------------------------------------------------- never worse


@pytest.mark.parametrize("likelihood", ["native", None, QuantileRegression([0.1, 0.5, 0.9])])
def test_absurd_rates_return_the_pretrained_model(tiny_moirai: str, likelihood: Any) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood, n_epochs=3, **ABSURD)
    zero_shot = make_model(tiny_moirai, likelihood=likelihood)
    samples = {"num_samples": 1 if likelihood is None else 20, "random_state": 1}
    expected = values_of(zero_shot.predict(HORIZON, wave(), **samples))
    model.fit(wave(), val_series=wave(70, seed=1))
    assert chosen_state(model) == "zero-shot"
    assert np.array_equal(values_of(model.predict(HORIZON, wave(), **samples)), expected)
    same = {name for name in parameters_snapshot(model) if "method." not in name and "step_head" not in name}
    assert not changed(parameters_snapshot(zero_shot), parameters_snapshot(model)) & same


def test_weights_that_overflow_return_the_pretrained_model(tiny_moirai: str) -> None:
    rates = dict.fromkeys(ABSURD, 1e30)
    model = make_model(tiny_moirai, n_epochs=2, trainer={"gradient_clip_val": None}, **rates)
    model.fit(wave(), val_series=wave(70, seed=1))
    assert chosen_state(model) == "zero-shot"
    assert np.isfinite(values_of(model.predict(HORIZON, wave(), num_samples=5))).all()


@pytest.mark.parametrize("components", [1, 2])
def test_score_is_the_crps_of_all_windows(tiny_moirai: str, components: int) -> None:
    train, val = wave(components=components), wave(60, components, seed=1)
    model = make_model(tiny_moirai, **SENSIBLE).fit(train, val_series=val)
    before, after = validation_scores(model)
    zero_shot = make_model(tiny_moirai)
    assert before == pytest.approx(crps_of(zero_shot, val, samples=200), rel=0.05)
    assert after == pytest.approx(crps_of(model, val, samples=200), rel=0.05)
    assert after < 0.9 * before


def test_deterministic_score_is_the_absolute_error(tiny_moirai: str) -> None:
    val = wave(60, seed=1)
    model = make_model(tiny_moirai, likelihood=None, **SENSIBLE).fit(wave(), val_series=val)
    forecasts = model.historical_forecasts(val, forecast_horizon=HORIZON, retrain=False, last_points_only=False)
    targets = np.array([val.slice_intersect(forecast).values() for forecast in forecasts])
    expected = np.abs(values_of(forecasts)[..., 0] - targets).mean() / targets.std()
    assert validation_scores(model)[1] == pytest.approx(expected, rel=1e-4)


def test_the_best_epoch_is_returned_not_the_last(tiny_moirai: str) -> None:
    class Spoil(pl.Callback):
        def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.data.add_(1.0)

    model = make_model(tiny_moirai, trainer={"callbacks": [Spoil()]}, lr_head=1e-2, n_epochs=2)
    model.fit(wave(), val_series=wave(60, seed=1))
    once = make_model(tiny_moirai, lr_head=1e-2).fit(wave(), val_series=wave(60, seed=1))
    assert chosen_state(model) == "epoch 0"
    assert changed(parameters_snapshot(model), parameters_snapshot(once)) == set()


def test_second_fit_starts_from_the_first_one_s_best(tiny_moirai: str) -> None:
    model, val = make_model(tiny_moirai, **SENSIBLE), wave(60, seed=1)
    _, first = validation_scores(model.fit(wave(), val_series=val))
    before, after = validation_scores(model.fit(wave(), val_series=val))
    assert before == first
    assert after <= first
    assert model.candidates[0].label == "before this fit"


@pytest.mark.parametrize("how", ["max_steps", "nr_epochs_val_period"])
def test_training_without_a_validation_in_it_is_not_thrown_away(tiny_moirai: str, how: str) -> None:
    settings: dict[str, Any] = {"trainer": {"max_steps": 3}} if how == "max_steps" else {"nr_epochs_val_period": 5}
    model = make_model(tiny_moirai, lr_head=1e-2, n_epochs=2, **settings)
    model.fit(wave(), val_series=wave(60, seed=1))
    before, after = validation_scores(model)
    assert chosen_state(model) != "zero-shot"
    assert after < before


def test_limited_validation_limits_every_score(tiny_moirai: str) -> None:
    model = make_model(
        tiny_moirai,
        lr_head=0.0,
        lr_new=0.0,
        lr_pretrained=0.0,
        lr_omega=0.0,
        weight_init="first",
        weight_learning="uniform",
        trainer={"limit_val_batches": 1},
        batch_size=4,
    )
    model.fit(wave(50), val_series=wave(70, seed=1))
    before, after = (candidate.score for candidate in model.candidates)
    assert after == pytest.approx(before, rel=0.1)  # nothing was learned: the same forecast on the same windows


def test_without_validation_the_last_state_is_kept(tiny_moirai: str) -> None:
    model, zero_shot = make_model(tiny_moirai, likelihood=None, **SENSIBLE), make_model(tiny_moirai, likelihood=None)
    model.fit(wave())
    forecast, expected = (values_of(one.predict(HORIZON, wave())) for one in (model, zero_shot))
    assert not np.allclose(forecast, expected, rtol=1e-3)


def test_validation_series_without_values_keeps_the_last_state(tiny_moirai: str) -> None:
    val = wave(60).with_values(np.full((60, 1), np.nan, dtype=np.float32))
    model = make_model(tiny_moirai, likelihood=None, **SENSIBLE).fit(wave(), val_series=val)
    zero_shot = make_model(tiny_moirai, likelihood=None)
    forecast, expected = (values_of(one.predict(HORIZON, wave())) for one in (model, zero_shot))
    assert not np.allclose(forecast, expected, rtol=1e-3)


# ------------------------------------------------------------------------------------- the weights of the scales


@pytest.mark.parametrize("weight_learning", ["uniform", "scale_loss", "mixed_loss"])
def test_which_weights_move(tiny_moirai: str, weight_learning: str) -> None:
    model = make_model(tiny_moirai, weight_learning=weight_learning, lr_omega=0.1).fit(wave())
    weights = model.scale_weights
    assert weights.sum() == pytest.approx(1)
    if weight_learning == "uniform":
        assert weights == pytest.approx([1 / 3] * 3)
    else:
        assert np.abs(weights - 1 / 3).max() > 0.02


def test_weights_move_to_the_useful_scale(tiny_moirai: str) -> None:
    """Steps alternate between 0 and 1: only scale 0 can tell them apart, the averages are all 0.5."""
    noise = 0.05 * np.random.default_rng(0).standard_normal((160, 1))
    series = wave(160).with_values((np.arange(160)[:, None] % 2 + noise).astype(np.float32))
    model = make_model(tiny_moirai, weight_learning="mixed_loss", lr_omega=0.1, lr_head=3e-2, n_epochs=8)
    weights = model.fit(series).scale_weights
    assert np.argmax(weights) == 0


def test_stacked_points_are_the_least_squares_of_the_medians(tiny_moirai: str) -> None:
    val = wave(50, seed=1)
    model = make_model(tiny_moirai, likelihood=None, **SENSIBLE).fit(wave(), val_series=val)
    assert chosen_state(model) != "zero-shot"
    rows: list[np.ndarray] = []
    for origin in range(CONTEXT, len(val) - HORIZON + 1):
        target = val.values()[origin : origin + HORIZON, 0]
        rows += list(np.stack([one.values()[:, 0] - target for one in model.scale_forecasts(val[:origin])], axis=-1))
    errors = np.array(rows, dtype=float)
    gram = errors.T @ errors / len(errors)
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1, 101) if a + b <= 1 + 1e-9]
    losses = [np.array(weights) @ gram @ np.array(weights) for weights in grid]
    own = model.scale_weights @ gram @ model.scale_weights
    assert own <= min(losses) * 1.001


def test_stacked_mixtures_have_the_least_crps(tiny_moirai: str) -> None:
    val = wave(60, 2, seed=1)
    model = make_model(tiny_moirai, **SENSIBLE).fit(wave(components=2), val_series=val)
    assert chosen_state(model) != "zero-shot"
    own = crps_of(model, val, samples=200)
    for weights in ([1, 1, 1], [2, 1, 0], [0, 2, 1], [1, 0, 2], [1, 0, 0], [0, 1, 0], [0, 0, 1]):
        model.model.scale_weights.set(torch.tensor(weights) / sum(weights))
        assert own <= crps_of(model, val, samples=200) * 1.01


def test_first_weights_start_as_the_zero_shot_forecast(tiny_moirai: str) -> None:
    still = {"lr_head": 0.0, "lr_new": 0.0, "lr_pretrained": 0.0, "lr_omega": 0.0}
    model = make_model(tiny_moirai, likelihood=None, weight_init="first", **still).fit(wave())
    zero_shot = make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave())
    np.testing.assert_allclose(values_of(model.predict(HORIZON, wave())), values_of(zero_shot), rtol=1e-3)
    given = make_model(tiny_moirai, weight_init=[0.0, 1.0, 2.0], weight_learning="uniform").fit(wave())
    assert given.scale_weights == pytest.approx(np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())


def test_before_training_all_weight_is_on_scale_0(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    model.predict(HORIZON, wave())
    assert model.scale_weights.tolist() == [1, 0, 0]
