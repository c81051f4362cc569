"""How Darts' and Lightning's training arguments act: optimiser groups, schedules, stopping, metrics, steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from model_fixtures import (
    HORIZON,
    changed,
    make_model,
    parameters_snapshot,
    validation_scores,
    values_of,
    wave,
)
from pytorch_lightning.callbacks import EarlyStopping
from torch.optim import lr_scheduler

from darts_msft import MSFTFoundationModel

RATES = {"lr_pretrained": 1e-4, "lr_new": 1e-3, "lr_head": 2e-4, "lr_omega": 1e-2}


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
    callbacks = [log, *changes.pop("callbacks", [])]
    return make_model(checkpoint, trainer={"callbacks": callbacks}, **{**RATES, **changes}), log


# ------------------------------------------------------------------------------------------------ optimiser groups


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_groups_have_their_rates_and_keep_their_ratio(tiny_moirai: str, factor: float) -> None:
    settings = {} if factor == 1 else {"optimizer_kwargs": {"lr": RATES["lr_new"] * factor}}
    model, log = logged(tiny_moirai, **settings)
    model.fit(wave(60))
    rates = {name: log.rates[0][name] for name in ("pretrained", "new", "head", "omega_plain")}
    expected = dict(zip(rates, RATES.values(), strict=True))
    assert rates == pytest.approx({name: factor * rate for name, rate in expected.items()})


def test_every_trainable_parameter_is_in_one_group(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai).fit(wave(50))
    groups = {group["name"]: group["params"] for group in model.trainer.optimizers[0].param_groups}
    names = {id(value): name for name, value in model.model.named_parameters()}
    where = {names[id(value)]: group for group, values in groups.items() for value in values}
    assert sum(map(len, groups.values())) == len(where)
    assert set(where) == {name for name, value in model.model.named_parameters() if value.requires_grad}
    for name, group in where.items():
        part = name.split(".")[0]
        expected = {"method": "new", "scale_weights": "omega"}.get(
            part, "head" if "param_proj" in name else "pretrained"
        )
        assert group.split("_")[0] == expected
    decays = {group["name"]: group["weight_decay"] for group in model.trainer.optimizers[0].param_groups}
    assert all((decay == 0) == name.endswith("_plain") for name, decay in decays.items())


@pytest.mark.parametrize("rate", ["lr_pretrained", "lr_new", "lr_head", "lr_omega"])
def test_a_rate_of_zero_stops_its_group_alone(tiny_moirai: str, rate: str) -> None:
    pretrained = make_model(tiny_moirai, enable_finetuning=False).fit(wave(60))
    pretrained.model.begin_training()  # puts the scales' first weights in place
    model = make_model(tiny_moirai, **{**RATES, rate: 0.0}).fit(wave(60))
    group_of = {name: key for key, members in model.model.parameter_groups().items() for name, _ in members}
    moved = {group_of[name] for name in changed(parameters_snapshot(pretrained), parameters_snapshot(model))}
    assert moved == {"pretrained", "new", "head", "omega"} - {rate.removeprefix("lr_")}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_another_optimiser_needs_no_further_arguments(tiny_moirai: str, optimizer: Any) -> None:
    model = make_model(tiny_moirai, optimizer_cls=optimizer).fit(wave(50))
    assert type(model.trainer.optimizers[0]) is optimizer


# ------------------------------------------------------------------------------------------------------- schedules


def test_plateau_lowers_all_rates_alike(tiny_moirai: str) -> None:
    still = dict.fromkeys(RATES, 1e-9)  # nothing improves
    options = {"patience": 0, "factor": 0.5, "threshold": 0.5, "eps": 0.0}
    schedule = {"lr_scheduler_cls": lr_scheduler.ReduceLROnPlateau, "lr_scheduler_kwargs": options}
    model, log = logged(tiny_moirai, n_epochs=4, **still, **schedule)
    model.fit(wave(48), val_series=wave(50, seed=1))
    first, last = log.rates[0], log.rates[-1]
    ratios = {round(last[name] / first[name], 6) for name in first}
    assert len(ratios) == 1
    assert ratios <= {0.25, 0.125}


def test_one_cycle_steps_at_every_batch(tiny_moirai: str) -> None:
    options = {"max_lr": 0.01, "total_steps": 12, "interval": "step"}
    model, log = logged(tiny_moirai, lr_scheduler_cls=lr_scheduler.OneCycleLR, lr_scheduler_kwargs=options)
    model.fit(wave(130))
    rates = [step["new"] for step in log.rates]
    assert len(rates) == 6
    assert rates[0] == pytest.approx(0.01 / 25)
    assert len(set(rates)) == 6
    assert max(rates) == pytest.approx(0.01, rel=0.05)


# --------------------------------------------------------------------------------------------- stopping and metrics


def test_early_stopping_on_the_validation_loss(tiny_moirai: str) -> None:
    still = dict.fromkeys(RATES, 0.0)
    stopper = EarlyStopping("val_loss", patience=1)
    model, _ = logged(tiny_moirai, n_epochs=9, callbacks=[stopper], **still)
    model.fit(wave(60), val_series=wave(50, seed=1))
    assert model.epochs_trained == 2
    assert float(stopper.best_score) == pytest.approx(model.candidates[1].score)


@pytest.mark.filterwarnings("ignore:You called .self.log:UserWarning")  # Darts logs metrics though there is no logger
def test_torch_metrics_are_logged(tiny_moirai: str) -> None:
    metrics = torchmetrics.MetricCollection([torchmetrics.MeanAbsoluteError(), torchmetrics.MeanSquaredError()])
    model = make_model(tiny_moirai, likelihood=None, torch_metrics=metrics, **dict.fromkeys(RATES, 0.0))
    val = wave(48, seed=1)
    model.fit(wave(60), val_series=val)
    found = {name: float(value) for name, value in model.trainer.callback_metrics.items()}
    assert {"train_loss", "val_loss", "train_MeanAbsoluteError", "val_MeanSquaredError"} <= set(found)
    # before this fit's only step nothing had changed but the weights of the scales, which are uniform
    forecasts = model.historical_forecasts(val, forecast_horizon=HORIZON, retrain=False, last_points_only=False)
    model.model.begin_training()
    mixed = model.historical_forecasts(val, forecast_horizon=HORIZON, retrain=False, last_points_only=False)
    targets = np.array([val.slice_intersect(forecast).values() for forecast in forecasts])
    assert found["val_MeanAbsoluteError"] == pytest.approx(np.abs(values_of(mixed)[..., 0] - targets).mean(), rel=1e-4)


@pytest.mark.filterwarnings("ignore:You called .self.log:UserWarning")
def test_probabilistic_metrics_and_sanity_check_run(tiny_moirai: str) -> None:
    model = make_model(
        tiny_moirai, trainer={"num_sanity_val_steps": 2}, torch_metrics=torchmetrics.MeanAbsoluteError(), lr_head=1e-2
    )
    model.fit(wave(60), val_series=wave(60, seed=1))
    candidates = [candidate.label for candidate in model.candidates]
    assert candidates == ["zero-shot", "epoch 0"]


# ------------------------------------------------------------------------------------------------------- the steps


@pytest.mark.parametrize("validated", [False, True])
def test_pretrained_layers_have_no_dropout_while_training(tiny_moirai: str, validated: bool) -> None:
    model, log = logged(tiny_moirai)
    model.fit(wave(60), val_series=wave(50, seed=1) if validated else None)
    assert not any(step["backbone"] for step in log.training)
    assert all(step["method"] for step in log.training)


def test_gradients_are_clipped(tiny_moirai: str) -> None:
    assert make_model(tiny_moirai).fit(wave(50)).trainer.gradient_clip_val == 1.0
    own = make_model(tiny_moirai, trainer={"gradient_clip_val": 0.25}).fit(wave(50))
    assert own.trainer.gradient_clip_val == 0.25


def test_mixed_precision_trains(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, trainer={"precision": "bf16-mixed"}, lr_head=1e-2, n_epochs=2)
    model.fit(wave(), val_series=wave(60, seed=1))
    before, after = validation_scores(model)
    assert after < before
    assert np.isfinite(values_of(model.predict(HORIZON, wave(), num_samples=3))).all()


def test_limited_batches(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, trainer={"limit_train_batches": 2}, n_epochs=2).fit(wave(130))
    assert model.trainer.global_step == 4


def test_one_scale_has_nothing_to_mix(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, num_scales=0, lr_head=1e-2, n_epochs=2)
    model.fit(wave(), val_series=wave(60, seed=1))
    before, after = validation_scores(model)
    assert after < before
    assert model.scale_weights.tolist() == [1]
