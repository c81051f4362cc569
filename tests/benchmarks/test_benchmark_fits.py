"""How the trained rows of the results table are fitted: windows, epochs, rates, and the best state."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from darts.models import DLinearModel
from pytorch_lightning import Callback
from three_waves import BUDGET, HORIZON, LOOK_BACK, fitted, options_of, told, waves

from benchmarks.errors import Diverged
from benchmarks.models import Budget, load_forecaster, trained
from benchmarks.models.base import BestEpoch, Forecaster

Patch = pytest.MonkeyPatch


def test_windows_of_a_fit(monkeypatch: Patch) -> None:
    """All 400 - 48 - 12 + 1 = 341 training windows, and every 7th of 69 validation windows, counted from the end."""
    seen: list[Any] = []
    monkeypatch.setattr(DLinearModel, "fit_from_dataset", lambda self, *datasets: seen.extend(datasets))
    forecaster, _ = fitted("dlinear", {"look_back": LOOK_BACK})
    values = waves().values
    scaled = (values - values[:400].mean(axis=0)) / values[:400].std(axis=0)
    ends = [range(400, 400 - 341, -1), range(480, 480 - 69, -7)]  # the validation part: 69 windows, at most 10
    for dataset, expected in zip(seen, ends, strict=True):
        assert len(dataset) == len(expected)
        samples = sorted((dataset[index] for index in range(len(dataset))), key=lambda sample: sample.past_target[0, 2])
        windows = [scaled[end - HORIZON - LOOK_BACK : end] for end in expected]
        windows.sort(key=lambda window: window[0, 2])
        for sample, window in zip(samples, windows, strict=True):
            np.testing.assert_allclose(np.concatenate([sample.past_target, sample.future_target]), window, atol=1e-4)
    assert forecaster.batches(waves(), LOOK_BACK, HORIZON) == (3, 22)  # at most 40 windows in batches of 16


@pytest.mark.parametrize("name", ["dlinear", "full"])
def test_every_epoch_draws_other_training_windows(monkeypatch: Patch, tiny_moirai: str, name: str) -> None:
    """At most 40 are allowed: 3 batches of 16, by seed and epoch."""

    class Recorder(Callback):
        def __init__(self) -> None:
            self.seen: dict[int, list[float]] = defaultdict(list)

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.seen[trainer.current_epoch] += batch.past_target[:, 0, 2].tolist()  # tells windows apart

    def windows_of(budget: Budget) -> list[list[float]]:
        recorder, trainer = Recorder(), Forecaster.trainer
        with monkeypatch.context() as patch:
            patch.setattr(
                Forecaster, "trainer", lambda self, *callbacks, **how: trainer(self, *callbacks, recorder, **how)
            )
            fitted(name, options_of(name, tiny_moirai), budget=budget)
        return list(recorder.seen.values())

    first, second = windows_of(BUDGET)
    assert len(set(first)) == len(first) == len(second) == 48
    assert len({*first, *second}) > 80
    assert windows_of(BUDGET) == [first, second]
    assert [len(set(epoch)) for epoch in windows_of(replace(BUDGET, train_windows=None))] == [341, 341]


def ruined(schedule: str, share: float, epoch: int) -> float:
    return 1.0 if epoch < 3 else 1000.0


def test_the_best_epoch_is_kept_and_the_fit_ends_when_none_is_better(monkeypatch: Patch) -> None:
    """The rate is a thousand times higher from the fourth epoch on, which ruins all that was learned."""
    monkeypatch.setattr(trained, "factor_of", ruined)
    budget = replace(BUDGET, epochs=30, patience=2, train_windows=None)
    forecaster, model = fitted("dlinear", {"look_back": LOOK_BACK, "lr": 1e-3}, budget=budget)
    report = told(forecaster, model)["fit_report"]
    assert (report["kept"], report["epochs"], len(report["losses"])) == ("epoch 2", 3 + 2, 3 + 2)
    starts = range((480 - HORIZON - 400) % 7 + 400, 480 - HORIZON + 1, 7)
    found = forecaster.forecast(model, waves(), starts, None)[..., 0]
    errors = found - waves().values[np.asarray(starts)[:, None] + np.arange(HORIZON)]
    assert np.mean((errors / waves().values[:400].std(axis=0)) ** 2) == pytest.approx(report["losses"][2], rel=1e-3)
    assert load_forecaster("dlinear", {}, replace(BUDGET, baseline_epochs=4)).epochs == 4
    with pytest.raises(Diverged, match="no epoch had a finite validation loss"):
        fitted("dlinear", {"look_back": LOOK_BACK, "lr": 1e30})
    best = BestEpoch()
    best.losses = [float("nan"), 2.0, float("inf"), 1.0, 1.0]
    assert best.best == 3


@pytest.mark.parametrize(
    ("name", "dataset", "factor"),
    [("dlinear", "ETTm1", 0.5), ("timemixer", "ETTm1", None)],
)
def test_rates_go_down_as_the_recipe_says(name: str, dataset: str, factor: float | None) -> None:
    """By passes over all windows, of which an epoch has a third: after seven of them two are whole; or in one cycle."""
    windows, seen = 400 - LOOK_BACK - HORIZON + 1, waves(dataset)
    budget = Budget(epochs=7, patience=7, batch_size=ceil(windows / 3), train_windows=ceil(windows / 3))
    _, model = fitted(name, options_of(name), None, seen, budget)
    scheduler = model.trainer.lr_scheduler_configs[0].scheduler
    assert model.trainer.global_step == 7
    if factor is None:
        assert isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR)
        assert scheduler.total_steps == 7
        assert max(group["max_lr"] for group in scheduler.optimizer.param_groups) == 1e-3
    else:
        assert scheduler.get_last_lr() == pytest.approx([1e-3 * factor])
