"""How the trained rows of the results table are fitted: windows, epochs, and the best state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from darts.models import DLinearModel
from pytorch_lightning import Callback
from three_waves import BUDGET, HORIZON, LOOK_BACK, backtest, fitted, our_options, waves

from benchmarks.errors import Diverged
from benchmarks.models import classical, load_forecaster
from benchmarks.models.base import BestEpoch, Forecaster
from benchmarks.run.experiments import Budget
from benchmarks.run.measures import forecast

STARTS = range(490, 520, 9)


def test_windows_of_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """All 400 - 48 - 12 + 1 = 341 training windows, and every 7th of 69 validation windows, counted from the end."""
    seen: list[Any] = []
    monkeypatch.setattr(DLinearModel, "fit_from_dataset", lambda self, *datasets: seen.extend(datasets))
    data, forecaster = waves(), load_forecaster("dlinear", {"look_back": LOOK_BACK}, BUDGET)
    settings = forecaster.candidates(data, HORIZON)[0]
    model = forecaster.build(settings, data, HORIZON, 0, None)
    forecaster.fit(model, data, settings)
    scaled = (data.values - data.values[:400].mean(axis=0)) / data.values[:400].std(axis=0)
    ends = [range(400, 400 - 341, -1), range(480, 480 - 69, -7)]  # the validation part: 69 windows, at most 10
    for dataset, expected in zip(seen, ends, strict=True):
        assert len(dataset) == len(expected)
        samples = sorted((dataset[index] for index in range(len(dataset))), key=lambda sample: sample.past_target[0, 2])
        windows = [scaled[end - HORIZON - LOOK_BACK : end] for end in expected]
        windows.sort(key=lambda window: window[0, 2])
        for sample, window in zip(samples, windows, strict=True):
            np.testing.assert_allclose(np.concatenate([sample.past_target, sample.future_target]), window, atol=1e-4)
    assert forecaster.steps(data, LOOK_BACK, HORIZON) == 2 * 3  # at most 40 windows in batches of 16, twice
    many = load_forecaster("dlinear", {}, replace(BUDGET, train_windows=1000))
    assert many.steps(data, LOOK_BACK, HORIZON) == 2 * 22  # there are only 341


@pytest.mark.parametrize("name", ["dlinear", "full"])
def test_every_epoch_draws_other_training_windows(monkeypatch: pytest.MonkeyPatch, tiny_moirai: str, name: str) -> None:
    """At most 40 are allowed: 3 batches of 16, by seed and epoch."""

    class Recorder(Callback):
        def __init__(self) -> None:
            self.seen: dict[int, list[float]] = defaultdict(list)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.seen[trainer.current_epoch] += batch.past_target[
                :, 0, 2
            ].tolist()  # the first value tells windows apart

    def windows_of(budget: Budget) -> list[list[float]]:
        recorder, trainer = Recorder(), Forecaster.trainer
        options = our_options(tiny_moirai) if name == "full" else {"look_back": LOOK_BACK, "lr": 1e-3}
        with monkeypatch.context() as patch:
            patch.setattr(Forecaster, "trainer", lambda self, *callbacks: trainer(self, *callbacks, recorder))
            backtest(name, options, STARTS, budget=budget)
        return list(recorder.seen.values())

    first, second = windows_of(BUDGET)
    assert len(set(first)) == len(first) == len(second) == 48
    assert len({*first, *second}) > 80
    assert windows_of(BUDGET) == [first, second]
    for limit in (None, 1000):  # all of them
        assert [len(set(epoch)) for epoch in windows_of(replace(BUDGET, train_windows=limit))] == [341, 341]


def test_validation_windows_are_of_all_times_of_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """69 windows of which at most 9 are wanted: every eighth would be at three hours of the day alone."""
    seen: list[Any] = []
    monkeypatch.setattr(DLinearModel, "fit_from_dataset", lambda self, *datasets: seen.extend(datasets))
    fitted("dlinear", {"look_back": LOOK_BACK}, None, waves(), replace(BUDGET, validation_windows=9))
    validation = seen[1]
    assert validation.stride == 11
    assert len(validation) == len(range(0, 69, 11))


def validation_loss(model: Any, stride: int) -> float:
    """The mean squared error, in the model's units, of the validation windows that the fit looked at."""
    data = waves()
    starts = range((480 - HORIZON - 400) % stride + 400, 480 - HORIZON + 1, stride)
    found = forecast(model, data, starts, HORIZON, LOOK_BACK, None)[..., 0]
    target = data.values[np.asarray(starts)[:, None] + np.arange(HORIZON)]
    return float(np.mean(((found - target) / model.scale) ** 2))


def ruined(epoch: int) -> float:
    return 1.0 if epoch < 3 else 1000.0


def test_the_best_epoch_is_kept_and_the_fit_ends_when_none_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is a thousand times higher from the fourth epoch on, which ruins all that was learned."""
    monkeypatch.setattr(classical, "halved", ruined)
    budget = replace(BUDGET, epochs=30, patience=2, train_windows=None)
    model, _, described = backtest("dlinear", {"look_back": LOOK_BACK, "lr": 1e-3}, STARTS, budget=budget)
    report = described["fit_report"]
    assert report["kept"] == "epoch 2"
    assert report["epochs"] == len(report["losses"]) == 3 + 2
    assert validation_loss(model, 7) == pytest.approx(report["losses"][2], rel=1e-3)
    assert 2 * report["losses"][2] < min(report["losses"][3:])
    assert report["still_improving"] is False


def test_a_fit_that_ends_at_its_best_is_still_improving(tiny_moirai: str) -> None:
    _, _, described = backtest("dlinear", {"look_back": LOOK_BACK, "lr": 1e-4}, STARTS)
    losses = described["fit_report"]["losses"]
    assert losses[1] < losses[0]
    assert described["fit_report"]["still_improving"] is True
    for rate in (1e-3, 0.5):
        options = our_options(tiny_moirai, lr_pretrained=rate, lr_head=rate)
        report = backtest("full", options, STARTS)[2]["fit_report"]
        assert report["still_improving"] == (report["kept"] == "epoch 1")
        assert report["still_improving"] == (rate == 1e-3)


def test_a_fit_without_a_finite_loss_is_an_error() -> None:
    with pytest.raises(Diverged, match="no epoch had a finite validation loss"):
        backtest("dlinear", {"look_back": LOOK_BACK, "lr": 1e30}, STARTS)
    best = BestEpoch()
    best.losses = [float("nan"), 2.0, float("inf"), 1.0, 1.0]
    assert best.best == 3


@pytest.mark.parametrize(("name", "epochs"), [("dlinear", 4), ("patchtst", 4), ("full", 2), ("scratch", 4)])
def test_models_from_random_weights_have_epochs_of_their_own(tiny_moirai: str, name: str, epochs: int) -> None:
    """And a schedule over them; everything else has the budget's."""
    forecaster = load_forecaster(
        name, {"backbone": tiny_moirai} if name in ("full", "scratch") else {}, replace(BUDGET, baseline_epochs=4)
    )
    data = waves()
    settings = {**forecaster.candidates(data, HORIZON)[0], "look_back": LOOK_BACK}
    model = forecaster.build(settings, data, HORIZON, 0, None)
    assert getattr(model, "inner", model).n_epochs == forecaster.epochs == epochs
    assert forecaster.steps(data, LOOK_BACK, HORIZON) == epochs * 3
    assert Forecaster.resolved(forecaster, model)["max_epochs"] == epochs
    assert load_forecaster(name, {}, BUDGET).epochs == 2


def test_early_stopping_is_the_same_for_ours(tiny_moirai: str) -> None:
    """With rates that ruin the model no epoch is better than the first: the fit ends after `patience` more."""
    budget = replace(BUDGET, epochs=12, patience=2)
    options = our_options(tiny_moirai, lr_pretrained=0.5, lr_head=0.5)
    _, _, described = backtest("full", options, STARTS, budget=budget)
    scores = [candidate["score"] for candidate in described["fit_report"]["candidates"][1:]]
    assert len(described["fit_report"]["epoch_seconds"]) == int(np.argmin(scores)) + 1 + 2 < 12
    assert torch.tensor(scores).isfinite().all()
