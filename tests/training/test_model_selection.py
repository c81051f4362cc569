"""Never worse than zero-shot on the validation series, and how the scales' weights are learned."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from darts import TimeSeries
from model_fixtures import (
    CONTEXT,
    HORIZON,
    LEARNS,
    LONG,
    STILL,
    ZERO_SHOT,
    differing,
    fitted,
    make_model,
    naive_unit,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel
from darts_msft.forms import Form
from darts_msft.module import MSFTModule

SENSIBLE: dict[str, Any] = {"lr_head": 1e-2, "lr_new": 1e-3, "n_epochs": 4}


@pytest.fixture(scope="module")
def two_components(tiny_moirai: str) -> MSFTFoundationModel:
    """Finetuned on series of two components, with stacked weights; tests leave them as they are."""
    return make_model(tiny_moirai, **SENSIBLE).fit(wave(components=2), val_series=wave(60, 2, seed=1))


def crps_of(model: MSFTFoundationModel, series: TimeSeries, samples: int) -> float:
    """Mean CRPS over all windows, from every pair of samples, each component in units of that of `wave()`."""
    forecasts = model.historical_forecasts(
        series,
        forecast_horizon=HORIZON,
        retrain=False,
        last_points_only=False,
        num_samples=samples,
        random_state=0,
    )
    assert len(forecasts) == len(series) - CONTEXT - HORIZON + 1
    errors = []
    for forecast in forecasts:
        draws, target = values_of(forecast), series.slice_intersect(forecast).values()
        pairs = np.abs(draws[..., :, None] - draws[..., None, :]).sum(axis=(-1, -2)) / (samples * (samples - 1))
        errors.append(np.abs(draws - target[..., None]).mean(axis=-1) - pairs / 2)
    return float((np.mean(errors, axis=(0, 1)) / naive_unit(wave(components=target.shape[1]))).mean())


@pytest.mark.parametrize("likelihood", ["native", None])
def test_absurd_rates_return_the_pretrained_model(tiny_moirai: str, likelihood: Any) -> None:
    """In the best of its forms, which is what a fit that trains nothing comes to as well."""
    model = make_model(tiny_moirai, likelihood=likelihood, n_epochs=2, **LONG, **dict.fromkeys(STILL, 1.0))
    zero_shot = make_model(tiny_moirai, likelihood=likelihood, enable_finetuning=False, **LONG)
    samples = {"num_samples": 1 if likelihood is None else 20, "random_state": 1}
    for one in (model, zero_shot):
        one.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[:3] == zero_shot.candidates
    assert model.fit_report.kept == zero_shot.fit_report.kept
    forecasts = [values_of(one.predict(HORIZON, wave(), **samples)) for one in (model, zero_shot)]
    assert np.array_equal(*forecasts)
    assert not {name for name in differing(zero_shot, model) if "method." not in name and "new_heads" not in name}


def test_training_that_diverges(tiny_moirai: str) -> None:
    """It returns to the pretrained model; without a validation series it is an error."""
    settings = {"n_epochs": 2, "trainer": {"gradient_clip_val": 0}, **dict.fromkeys(STILL, 1e30)}
    model = make_model(tiny_moirai, **settings).fit(wave(60), val_series=wave(60, seed=1))
    assert model.fit_report.kept in ZERO_SHOT
    assert np.isfinite(values_of(model.predict(HORIZON, wave(), num_samples=5))).all()
    with pytest.raises(FloatingPointError, match="lower the learning rates or pass a val_series"):
        make_model(tiny_moirai, **settings).fit(wave(60))


def test_score_is_the_crps_of_all_windows(tiny_moirai: str, two_components: MSFTFoundationModel) -> None:
    val, report = wave(60, 2, seed=1), two_components.fit_report
    one_scale = crps_of(make_model(tiny_moirai, num_scales=0), val, samples=200)
    assert report.before == pytest.approx(one_scale, rel=0.05)
    assert report.best == pytest.approx(crps_of(two_components, val, samples=200), rel=0.05)
    assert report.best < 0.9 * report.before


def test_score_of_scale_0_alone(tiny_moirai: str) -> None:
    """With mixing="first" the others have no part in the score either."""
    val = wave(60, seed=1)
    model = make_model(tiny_moirai, mixing="first", lr_head=1e-2, n_epochs=2).fit(wave(), val_series=val)
    assert model.fit_report.best < 0.9 * model.fit_report.before
    assert model.fit_report.best == pytest.approx(crps_of(model, val, samples=200), rel=0.05)


def test_the_best_epoch_is_returned_not_the_last(tiny_moirai: str) -> None:
    class Spoil(pl.Callback):
        def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.data.add_(1.0)

    model = make_model(tiny_moirai, trainer={"callbacks": [Spoil()]}, lr_head=1e-2, n_epochs=2)
    once = make_model(tiny_moirai, lr_head=1e-2)
    for one in (model, once):
        one.fit(wave(60), val_series=wave(60, seed=1))
    assert model.fit_report.kept == "epoch 1"
    assert differing(model, once) == set()


def test_second_fit_starts_from_the_first_one_s_best(tiny_moirai: str) -> None:
    model, val = make_model(tiny_moirai, lr_head=1e-2, n_epochs=2), wave(60, seed=1)
    first = model.fit(wave(60), val_series=val).fit_report
    second = model.fit(wave(60), val_series=val, epochs=1).fit_report
    assert second.before == pytest.approx(first.best, rel=1e-9)
    assert second.best <= first.best
    assert [candidate.label for candidate in second.candidates] == ["before this fit", "epoch 1"]


@pytest.mark.parametrize(
    ("likelihood", "how"), [("native", {"trainer": {"max_steps": 3}}), (None, {"nr_epochs_val_period": 5})]
)
def test_training_without_a_validation_in_it_is_not_thrown_away(
    tiny_moirai: str, likelihood: str | None, how: dict[str, Any]
) -> None:
    model = make_model(tiny_moirai, lr_head=1e-2, n_epochs=2, likelihood=likelihood, **how)
    report = model.fit(wave(), val_series=wave(60, seed=1)).fit_report
    assert [candidate.label for candidate in report.candidates] == [*ZERO_SHOT, "end of training"]
    assert report.best == report.candidates[-1].score


def test_limited_validation_limits_every_score(tiny_moirai: str) -> None:
    """Nothing is learned, so on the same windows every score must be the same."""
    options = {"likelihood": None, "weight_init": "first", "weight_learning": "uniform", "batch_size": 4, **STILL}
    model = make_model(tiny_moirai, trainer={"limit_val_batches": 1, "max_steps": 1}, **options)
    model.fit(wave(50), val_series=wave(70, seed=1))
    assert [candidate.label for candidate in model.candidates] == [*ZERO_SHOT, "end of training"]
    before, *_, after = (candidate.score for candidate in model.candidates)
    assert after == pytest.approx(before, rel=1e-3)


def test_without_a_score_the_last_state_is_kept(tiny_moirai: str) -> None:
    nothing = wave(60).with_values(np.full((60, 1), np.nan, dtype=np.float32))
    zero_shot = make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave())
    for val in (None, nothing):
        model = make_model(tiny_moirai, likelihood=None, lr_head=1e-2).fit(wave(60), val_series=val)
        assert not np.allclose(values_of(model.predict(HORIZON, wave())), values_of(zero_shot), rtol=1e-3)


def test_which_weights_move(tiny_moirai: str) -> None:
    """From the loss of the mixed forecast nothing else learns (but by the clipped norm of the gradients)."""
    options = {"lr_omega": 0.1, "trainer": {"gradient_clip_val": 0}}
    uniform, scale_loss, mixed_loss = (
        make_model(tiny_moirai, weight_learning=one, **options).fit(wave(60))
        for one in ("uniform", "scale_loss", "mixed_loss")
    )
    assert uniform.scale_weights == pytest.approx([1 / 3] * 3)
    for moved in (scale_loss, mixed_loss):
        assert moved.scale_weights.sum() == pytest.approx(1)
        assert np.abs(moved.scale_weights - 1 / 3).max() > 0.02
    assert differing(uniform, mixed_loss) == {"scale_weights.omega"}


def test_weights_move_to_the_useful_scale(tiny_moirai: str) -> None:
    """Steps alternate between 0 and 1: only scale 0 can tell them apart, the averages are all 0.5."""
    noise = 0.05 * np.random.default_rng(0).standard_normal((160, 1))
    series = wave(160).with_values((np.arange(160)[:, None] % 2 + noise).astype(np.float32))
    model = make_model(tiny_moirai, weight_learning="mixed_loss", lr_omega=0.1, lr_head=3e-2, n_epochs=4)
    weights = model.fit(series).scale_weights
    assert np.argmax(weights) == 0


def test_stacked_points(tiny_moirai: str) -> None:
    """The score is the absolute error of the weighted medians, the weights are their least squares."""
    val = wave(48, seed=1)
    model = make_model(tiny_moirai, likelihood=None, lr_head=1e-2).fit(wave(), val_series=val)
    assert model.fit_report.kept not in ZERO_SHOT
    rows, points, targets = [], [], []
    for origin in range(CONTEXT, len(val) - HORIZON + 1):
        targets.append(val.values()[origin : origin + HORIZON])
        points.append(model.predict(HORIZON, val[:origin]).values())
        rows.append(np.hstack([one.values() for one in model.scale_forecasts(val[:origin])]) - targets[-1])
    error = np.abs(np.array(points) - np.array(targets)).mean()
    assert model.fit_report.best == pytest.approx(error / naive_unit(wave())[0], rel=1e-4)
    gram = np.concatenate(rows).T.astype(float) @ np.concatenate(rows)
    grid = [(a, b, 1 - a - b) for a in np.linspace(0, 1, 101) for b in np.linspace(0, 1, 101) if a + b <= 1 + 1e-9]
    losses = [np.array(weights) @ gram @ np.array(weights) for weights in grid]
    own = model.scale_weights @ gram @ model.scale_weights
    assert own <= min(losses) * 1.001


def test_stacked_mixtures_have_the_least_crps(two_components: MSFTFoundationModel) -> None:
    val, weights = wave(60, 2, seed=1), two_components.model.scale_weights
    assert two_components.fit_report.kept not in ZERO_SHOT
    stacked, own = torch.as_tensor(two_components.scale_weights), crps_of(two_components, val, samples=150)
    try:
        for others in ([1, 1, 1], [2, 1, 0], [0, 2, 1], [1, 0, 2], [1, 0, 0], [0, 1, 0], [0, 0, 1]):
            weights.set(torch.tensor(others) / sum(others))
            assert own <= crps_of(two_components, val, samples=150) * 1.01
    finally:
        weights.set(stacked)


def test_where_the_weights_start(tiny_moirai: str) -> None:
    """Nearly as the zero-shot forecast, or at the logits that are given."""
    model = make_model(tiny_moirai, likelihood=None, weight_init="first", **STILL).fit(wave(60))
    zero_shot = make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave())
    np.testing.assert_allclose(values_of(model.predict(HORIZON, wave())), values_of(zero_shot), rtol=1e-3)
    given = make_model(tiny_moirai, weight_init=[0.0, 1.0, 2.0], weight_learning="uniform").fit(wave(60))
    assert given.scale_weights == pytest.approx(np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum())


def test_report_says_what_fit_did(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="darts_msft")
    model, start = make_model(tiny_moirai, n_epochs=2, **LEARNS), time.perf_counter()
    report = model.fit(wave(), val_series=wave(60, seed=1)).fit_report
    took = time.perf_counter() - start
    assert [state.label for state in report.candidates] == [*ZERO_SHOT, "epoch 1", "epoch 2"]
    assert list(report.candidates) == model.candidates
    winner = min(report.candidates, key=lambda state: state.score)
    assert (report.before, report.best, report.kept) == (report.candidates[0].score, winner.score, winner.label)
    assert winner.label not in ZERO_SHOT
    # stacked weights of the scales are solved for, not trained
    trained = sum(value.numel() for value in model.model.parameters() if value.requires_grad)
    everything = sum(value.numel() for value in model.model.parameters())
    assert (report.trained_parameters, report.all_parameters) == (trained, everything)
    assert report.trained_share == pytest.approx(trained / everything)
    assert report.epochs == 2
    assert 0 < sum(report.epoch_seconds) < report.seconds < took
    assert report.seconds_per_epoch == pytest.approx(sum(report.epoch_seconds) / 2)
    assert (report.weight_learning, report.weight_learning_asked) == ("stacking", "stacking")
    assert report.weights == pytest.approx(model.scale_weights)
    assert (report.season, report.naive_season, report.measured_on) == (24, 24, "training part")
    lines = str(report).splitlines()
    assert len(lines) <= 10
    for number in (report.naive, *(state.score for state in report.candidates)):
        assert f"{number:.4f}" in str(report)
    assert f"{trained:,} of {everything:,} parameters" in str(report)
    own = [record.getMessage() for record in caplog.records if record.name.startswith("darts_msft")]
    assert own[0] == "fit: " + "; ".join(lines)
    assert own[1:] == ([] if report.warning is None else [report.warning])


def test_without_validation_there_is_no_score(tiny_moirai: str) -> None:
    report = fitted(tiny_moirai).fit_report
    assert (report.before, report.best, report.candidates, report.epochs) == (None, None, (), 1)
    assert report.kept == "last weights (without a validation score)"
    assert (report.naive, report.per_series, report.warning) == (None, None, None)
    assert (report.weight_learning, report.weight_learning_asked) == ("mixed_loss", "stacking")
    assert "mixed_loss (stacking had no validation score)" in str(report)


def test_an_epoch_is_never_the_state_before(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score before the first step is not finite here, that of the epoch is."""
    settle = MSFTModule.settle_scores

    def late(module: MSFTModule) -> Iterator[tuple[Form, float]]:
        for form, score in settle(module):
            yield form, score if module.global_step else math.nan

    monkeypatch.setattr(MSFTModule, "settle_scores", late)
    report = make_model(tiny_moirai).fit(wave(60), val_series=wave(50, seed=1)).fit_report
    assert [state.label for state in report.candidates] == ["epoch 1"]
    assert (report.before, report.best) == (None, report.candidates[0].score)
    assert report.per_series["before"].isna().all()


def test_report_says_how_the_weights_were_learned(tiny_moirai: str) -> None:
    asked = ({"weight_learning": "scale_loss"}, {"mixing": "first"}, {"num_scales": 0})
    for settings, found in zip(asked, ("scale_loss", "uniform", None), strict=True):
        report = fitted(tiny_moirai, **settings).fit_report
        assert (report.weight_learning, report.weight_learning_asked) == (found, found)
        told = any(line.startswith("weights") for line in str(report).splitlines())
        assert told is (found is not None)
