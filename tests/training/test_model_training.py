"""How Darts' and Lightning's training arguments act: optimiser groups, schedules, stopping, metrics, precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torchmetrics
from model_fixtures import HORIZON, STILL, ZERO_SHOT, differing, make_model, values_of, wave
from pytorch_lightning.callbacks import EarlyStopping
from torch.optim import lr_scheduler

from darts_msft import MSFTFoundationModel

RATES = {"lr_pretrained": 1e-4, "lr_new": 1e-3, "lr_head": 2e-4, "lr_omega": 1e-2, "lr_lora": 4e-3}


class Log(pl.Callback):
    """Learning rates by group at every step, and what is in training mode."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.training: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.rates.append({group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups})
        self.training.append(
            {name: any(part.training for part in child.modules()) for name, child in module.named_children()}
        )


def logged(checkpoint: str, **changes: Any) -> tuple[MSFTFoundationModel, Log]:
    log = Log()
    return make_model(checkpoint, trainer={"callbacks": [log]}, **{**RATES, **changes}), log


@pytest.mark.parametrize("validated", [False, True])
def test_groups_have_their_rates_decay_and_mode(tiny_moirai: str, validated: bool) -> None:
    """An `lr` of the user's is the new modules' rate and keeps the ratio of the others."""
    model, log = logged(tiny_moirai, **({"optimizer_kwargs": {"lr": 3 * RATES["lr_new"]}} if validated else {}))
    model.fit(wave(60), val_series=wave(50, seed=1) if validated else None)
    expected = {name.removeprefix("lr_"): rate * (3 if validated else 1) for name, rate in RATES.items()}
    found = {name.removesuffix("_plain"): rate for name, rate in log.rates[0].items()}
    assert found == pytest.approx(expected)
    for group in model.trainer.optimizers[0].param_groups:
        vectors = {value.ndim <= 1 for value in group["params"]}
        assert vectors == {group["weight_decay"] == 0} == {group["name"].endswith("_plain")}
    assert not any(step["backbone"] for step in log.training)  # no dropout in pretrained layers
    assert all(step["method"] for step in log.training)


@pytest.mark.parametrize("rate", RATES)
def test_a_rate_of_zero_stops_its_group_alone(tiny_moirai: str, rate: str) -> None:
    model = make_model(tiny_moirai, **{**RATES, rate: 0.0}).fit(wave(50))
    group_of = {name: key for key, members in model.model.parameter_groups().items() for name, _ in members}
    moved = {group_of[name] for name in differing(make_model(tiny_moirai, **STILL).fit(wave(50)), model)}
    assert moved == {"pretrained", "new", "head", "omega", "lora"} - {rate.removeprefix("lr_")}


def test_plateau_lowers_all_rates_alike(tiny_moirai: str) -> None:
    still = dict.fromkeys(RATES, 1e-9)  # nothing improves
    options = {"patience": 0, "factor": 0.5, "threshold": 0.5, "eps": 0.0}
    schedule = {"lr_scheduler_cls": lr_scheduler.ReduceLROnPlateau, "lr_scheduler_kwargs": options}
    model, log = logged(tiny_moirai, n_epochs=3, **still, **schedule)
    model.fit(wave(48), val_series=wave(50, seed=1))
    ratios = {round(log.rates[-1][name] / log.rates[0][name], 6) for name in log.rates[0]}
    assert len(ratios) == 1
    assert ratios <= {0.5, 0.25}


def test_one_cycle_steps_at_every_batch_and_keeps_the_ratio_of_the_groups(tiny_moirai: str) -> None:
    options = {"max_lr": 0.01, "total_steps": 12, "interval": "step"}
    model, log = logged(tiny_moirai, lr_scheduler_cls=lr_scheduler.OneCycleLR, lr_scheduler_kwargs=options)
    model.fit(wave(130))
    rates = [step["new"] for step in log.rates]
    assert len(set(rates)) == 6
    assert rates[0] == pytest.approx(0.01 / 25)
    assert max(rates) == pytest.approx(0.01, rel=0.05)
    highest = {g["name"].removesuffix("_plain"): g["max_lr"] for g in model.trainer.optimizers[0].param_groups}
    assert highest == pytest.approx({name.removeprefix("lr_"): 10 * rate for name, rate in RATES.items()})


def test_early_stopping_on_the_validation_loss(tiny_moirai: str) -> None:
    stopper = EarlyStopping("val_loss", patience=1)
    model = make_model(tiny_moirai, n_epochs=9, trainer={"callbacks": [stopper]}, **STILL)
    model.fit(wave(60), val_series=wave(50, seed=1))
    assert model.epochs_trained == 2
    first = next(state.score for state in model.candidates if state.label == "epoch 1")
    assert float(stopper.best_score) == pytest.approx(first)


@pytest.mark.filterwarnings("ignore:You called .self.log:UserWarning")  # Darts logs metrics though there is no logger
def test_torch_metrics_are_of_the_forecast(tiny_moirai: str) -> None:
    metrics = torchmetrics.MetricCollection([torchmetrics.MeanAbsoluteError(), torchmetrics.MeanSquaredError()])
    still = {**STILL, "weight_learning": "uniform"}  # at every validation but the first the same forecast
    model, val = make_model(tiny_moirai, likelihood=None, torch_metrics=metrics, **still), wave(48, seed=1)
    model.fit(wave(60), val_series=val)
    found = {name: float(value) for name, value in model.trainer.callback_metrics.items()}
    assert {"train_loss", "val_loss", "train_MeanAbsoluteError", "val_MeanSquaredError"} <= set(found)
    same = make_model(tiny_moirai, likelihood=None, **still).fit(wave(60))
    forecasts = same.historical_forecasts(val, forecast_horizon=HORIZON, retrain=False, last_points_only=False)
    targets = np.array([val.slice_intersect(forecast).values() for forecast in forecasts])
    expected = np.abs(values_of(forecasts)[..., 0] - targets).mean()
    assert found["val_MeanAbsoluteError"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:You called .self.log:UserWarning")
def test_trainer_arguments_and_a_metric_of_samples(tiny_moirai: str) -> None:
    own = {"precision": "bf16-mixed", "num_sanity_val_steps": 2, "gradient_clip_val": 0.25, "limit_train_batches": 2}
    model = make_model(tiny_moirai, trainer=own, torch_metrics=torchmetrics.MeanAbsoluteError(), n_epochs=2)
    report = model.fit(wave(), val_series=wave(60, seed=1)).fit_report
    assert [candidate.label for candidate in model.candidates] == [*ZERO_SHOT, "epoch 1", "epoch 2"]
    assert report.best < report.before
    assert model.trainer.gradient_clip_val == 0.25
    assert model.trainer.global_step == 4
    assert np.isfinite(values_of(model.predict(HORIZON, wave(), num_samples=3))).all()
