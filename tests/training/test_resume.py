"""A fit that is killed goes on in a new process and ends as if it had not been."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from child_process import run_in_child
from darts import TimeSeries
from model_fixtures import HORIZON, TRAINER, changed, make_model, parameters_snapshot, values_of, wave
from torch.optim import lr_scheduler

from darts_msft import MSFTFoundationModel
from darts_msft.module import MSFTModule
from darts_msft.training.keep_best import KeepBest

EPOCHS = 3
PLATEAU = {
    "lr_scheduler_cls": lr_scheduler.ReduceLROnPlateau,
    "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "strict": False},
}


def kill_at(how: str) -> None:
    """Makes this process kill -9 itself in the last epoch, or after its checkpoint, before the best state is back."""
    if how == "end":
        KeepBest.on_train_end = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        return
    step = MSFTModule.training_step

    def dies(self: MSFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == EPOCHS - 1 and index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, index)

    MSFTModule.training_step = dies


def build(checkpoint: str, work_dir: str, method: str, rate: float, **changes: Any) -> MSFTFoundationModel:
    settings = {**PLATEAU, **changes}
    return make_model(
        checkpoint,
        method=method,
        num_scales=None,
        lr_new=rate,
        lr_head=rate if method == "msft" else None,
        n_epochs=EPOCHS,
        model_name="run",
        work_dir=work_dir,
        save_checkpoints=True,
        pl_trainer_kwargs={name: value for name, value in TRAINER.items() if name != "enable_checkpointing"},
        **settings,
    )


def data() -> tuple[TimeSeries, TimeSeries]:
    return wave(120), wave(60, seed=1)


def fit_until_killed(checkpoint: str, work_dir: str, method: str, rate: float, how: str) -> None:
    """Runs as a process of its own."""
    kill_at(how)
    train, val = data()
    build(checkpoint, work_dir, method, rate).fit(train, val_series=val)


@pytest.fixture(scope="module")
def whole_run(
    tiny_moirai: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, float], MSFTFoundationModel]:
    """The model after an uninterrupted run, made once for each method and rate."""

    @cache
    def fitted(method: str, rate: float) -> MSFTFoundationModel:
        train, val = data()
        return build(tiny_moirai, str(tmp_path_factory.mktemp("whole")), method, rate).fit(train, val_series=val)

    return fitted


@pytest.mark.parametrize(
    ("method", "rate", "how"), [("msft", 0.1, "middle"), ("msft", 0.1, "end"), ("adalora", 1e-2, "middle")]
)
def test_a_killed_fit_ends_as_if_it_was_not(
    tiny_moirai: str,
    whole_run: Callable[[str, float], MSFTFoundationModel],
    tmp_path: Path,
    method: str,
    rate: float,
    how: str,
) -> None:
    """With the rate 0.1 every epoch is worse than zero-shot: only the checkpoint remembers the best state."""
    expected = whole_run(method, rate)
    assert run_in_child(fit_until_killed, tiny_moirai, str(tmp_path), method, rate, how) == -signal.SIGKILL
    resumed = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path), best=False)
    train, val = data()
    resumed.fit(train, val_series=val)
    assert len(resumed.candidates) == EPOCHS + 1
    assert resumed.candidates == expected.candidates
    assert (rate == 0.1) == (expected.fit_report.kept == "zero-shot")
    assert resumed.fit_report.epochs == EPOCHS
    assert resumed.fit_report.kept == expected.fit_report.kept
    assert changed(parameters_snapshot(expected), parameters_snapshot(resumed)) == set()
    samples = {"num_samples": 10, "random_state": 0}
    forecasts = [values_of(one.predict(HORIZON, wave(), **samples)) for one in (expected, resumed)]
    assert np.array_equal(*forecasts)


SCHEDULE = {"lr_scheduler_cls": lr_scheduler.ExponentialLR, "lr_scheduler_kwargs": {"gamma": 0.5}}
WORKER = {"num_workers": 1, "persistent_workers": True}


@pytest.mark.filterwarnings("ignore:`ModelCheckpoint:UserWarning")  # Lightning: no score to name the best checkpoint by
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (SCHEDULE, {}),
        ({"nr_epochs_val_period": 2, "lr_scheduler_cls": None}, {}),  # the checkpoint is written before its epoch ends
        ({"weight_learning": "mixed_loss"}, {"dataloader_kwargs": WORKER}),
        ({"lr_scheduler_cls": None}, {"val_series": None}),
    ],
)
def test_what_a_resumed_fit_keeps(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    """Interrupted by an exception in place of a kill, within this process."""
    train, val = data()
    options = {"val_series": val, **options}
    models = {name: build(tiny_moirai, str(tmp_path / name), "msft", 1e-2, **settings) for name in ("whole", "broken")}
    models["whole"].fit(train, **copy.deepcopy(options))
    step = MSFTModule.training_step
    monkeypatch.setattr(MSFTModule, "training_step", breaking_step(step))
    with pytest.raises(InterruptedError):
        models["broken"].fit(train, **copy.deepcopy(options))
    monkeypatch.setattr(MSFTModule, "training_step", step)
    resumed = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path / "broken"), best=False)
    resumed.fit(train, **copy.deepcopy(options))
    assert resumed.candidates == models["whole"].candidates
    assert resumed.fit_report is not None
    assert resumed.fit_report.epochs == EPOCHS
    assert changed(parameters_snapshot(models["whole"]), parameters_snapshot(resumed)) == set()


def breaking_step(step: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def breaks(self: MSFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == EPOCHS - 1 and index == 2:
            raise InterruptedError
        return step(self, batch, index)

    return breaks


def test_persistent_workers_validate_every_epoch(tiny_moirai: str) -> None:
    """Stacking passes over the validation data while Lightning's own pass is open."""
    train, val = data()
    with_workers, without = (make_model(tiny_moirai, n_epochs=2, lr_new=1e-2) for _ in range(2))
    with_workers.fit(train, val_series=val, dataloader_kwargs=dict(WORKER))
    assert with_workers.candidates == without.fit(train, val_series=val).candidates
    assert len(without.candidates) == 3


class Order(pl.Callback):
    """The first value of each training window, in the order of training."""

    def __init__(self) -> None:
        self.seen: list[list[float]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == 0:
            self.seen.append([])
        self.seen[-1] += batch.past_target[:, 0, 0].tolist()


def order_of(checkpoint: str, noise: bool = False, **options: Any) -> list[list[float]]:
    order = Order()
    model = make_model(checkpoint, trainer={"callbacks": [order]}, n_epochs=2, **options.pop("arguments", {}))
    if noise:
        torch.rand(3)
    model.fit(wave(), **options)
    return order.seen


def test_order_of_windows(tiny_moirai: str) -> None:
    """Each epoch has every window once, in an order of its own, which the seed alone decides."""
    first, second = order_of(tiny_moirai)
    assert sorted(first) == sorted(second) == sorted(wave().values()[: len(first), 0].tolist())
    assert first != second
    assert order_of(tiny_moirai, noise=True) == [first, second]
    assert order_of(tiny_moirai, arguments={"random_state": 1})[0] != first
    assert order_of(tiny_moirai, dataloader_kwargs={"num_workers": 1, "persistent_workers": True}) == [first, second]


def test_own_order_stays(tiny_moirai: str) -> None:
    first, second = order_of(tiny_moirai, dataloader_kwargs={"shuffle": False})
    windows = wave().values()[: len(first), 0].tolist()
    assert first == second == windows[::-1]  # Darts counts windows from the end


def test_a_second_fit_of_a_loaded_model_is_a_new_one(tiny_moirai: str, tmp_path: Path) -> None:
    """Only what `load_from_checkpoint` loads is resumed; a saved model starts a new fit."""
    train, val = data()
    model = make_model(tiny_moirai, n_epochs=1).fit(train, val_series=val)
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    loaded.fit(train, val_series=val)
    assert loaded.fit_report is not None
    assert len(loaded.candidates) == 2
    assert loaded.fit_report.epochs == 1
