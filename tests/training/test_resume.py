"""A fit that is killed goes on in a new process and ends as if it had not been."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from child_process import run_in_child
from darts import TimeSeries
from model_fixtures import TRAINER, ZERO_SHOT, Order, differing, make_model, values_of, wave
from torch.optim import lr_scheduler

from darts_msft import MSFTFoundationModel, hooks
from darts_msft.module import MSFTModule
from darts_msft.training import keep_best
from darts_msft.training.keep_best import KeepBest
from darts_msft.training.units import Units, find_units

EPOCHS = 3
PLATEAU = {
    "lr_scheduler_cls": lr_scheduler.ReduceLROnPlateau,
    "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "strict": False},
}


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs of four steps can be undone; two of the first are needed, which a resumed fit must know."""
    monkeypatch.setattr(keep_best, "LEAST_STEPS", 8)


def in_last_epoch(act: Callable[[], None]) -> Callable[..., torch.Tensor]:
    """A training step that calls `act` in the middle of the last epoch."""
    step = MSFTModule.training_step

    def stops(self: MSFTModule, batch: Any, index: int) -> torch.Tensor:
        if self.current_epoch == EPOCHS - 1 and index == 2:
            act()
        return step(self, batch, index)

    return stops


def interrupt() -> None:
    raise InterruptedError


def build(checkpoint: str, work_dir: Path, method: str, rate: float, **changes: Any) -> MSFTFoundationModel:
    return make_model(
        checkpoint,
        method=method,
        num_scales=None,
        lr_lora=rate,
        **(dict.fromkeys(("lr_new", "lr_head"), rate) if method == "msft" else {}),
        n_epochs=EPOCHS,
        model_name="run",
        work_dir=str(work_dir),
        save_checkpoints=True,
        pl_trainer_kwargs={name: value for name, value in TRAINER.items() if name != "enable_checkpointing"},
        **{**PLATEAU, **changes},
    )


def resume(work_dir: Path) -> MSFTFoundationModel:
    return MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(work_dir), best=False)


def data() -> tuple[TimeSeries, TimeSeries]:
    return wave(90), wave(50, seed=1)


def fit_until_killed(checkpoint: str, work_dir: Path, method: str, rate: float, how: str) -> None:
    """Runs as a process of its own, killed in the last epoch, or after its checkpoint and before the best is back."""
    kill = partial(os.kill, os.getpid(), signal.SIGKILL)
    if how == "end":
        KeepBest.on_train_end = lambda *_: kill()
    else:
        MSFTModule.training_step = in_last_epoch(kill)
    train, val = data()
    build(checkpoint, work_dir, method, rate).fit(train, val_series=val)


def assert_as_whole(resumed: MSFTFoundationModel, whole: MSFTFoundationModel) -> None:
    assert resumed.candidates == whole.candidates
    assert resumed.fit_report.epochs == EPOCHS
    assert resumed.fit_report.kept == whole.fit_report.kept
    assert resumed.fit_report.moved == whole.fit_report.moved
    assert min(resumed.fit_report.moved.values()) > 0
    assert differing(whole, resumed) == set()


@pytest.mark.parametrize(
    ("method", "rate", "kills"), [("msft", 0.3, ("middle", "end")), ("adalora", 5e-2, ("middle",))]
)
def test_a_killed_fit_ends_as_if_it_was_not(
    tiny_moirai: str, tmp_path: Path, method: str, rate: float, kills: tuple[str, ...]
) -> None:
    """With the rate 0.3 every epoch is worse than zero-shot: only the checkpoint remembers the best state.

    No epoch before the kill may be one after which PLATEAU lowers the rates: Lightning writes the checkpoint before it.
    """
    train, val = data()
    whole = build(tiny_moirai, tmp_path / "whole", method, rate).fit(train, val_series=val)
    assert len(whole.candidates) == len(ZERO_SHOT) + EPOCHS
    assert (rate == 0.3) == (whole.fit_report.kept in ZERO_SHOT)
    for how in kills:
        killed = run_in_child(fit_until_killed, tiny_moirai, tmp_path / how, method, rate, how)
        assert killed == -signal.SIGKILL
        assert_as_whole(resume(tmp_path / how).fit(train, val_series=val), whole)


SCHEDULE = {"lr_scheduler_cls": lr_scheduler.ExponentialLR, "lr_scheduler_kwargs": {"gamma": 0.5}}
WORKER = {"num_workers": 1, "persistent_workers": True}


@pytest.mark.filterwarnings("ignore:`ModelCheckpoint:UserWarning")  # Lightning: no score to name the best checkpoint by
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"linear_member": True, **SCHEDULE}, {}),
        ({"nr_epochs_val_period": 2, "lr_scheduler_cls": None}, {}),  # the checkpoint is written before its epoch ends
        ({"weight_learning": "mixed_loss"}, {"dataloader_kwargs": WORKER}),
        ({"lr_scheduler_cls": None}, {"val_series": None}),
        ({"lr_scheduler_cls": None, "rate": 0.3, "windows_per_epoch": 48}, {}),  # all are worse; other windows in each
    ],
)
def test_what_a_resumed_fit_keeps(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    """Interrupted by an exception in place of a kill, within this process."""
    train, val = data()
    options = {"val_series": val, **options}
    rate = settings.get("rate", 1e-2)
    settings = {name: value for name, value in settings.items() if name != "rate"}
    whole, broken = (build(tiny_moirai, tmp_path / name, "msft", rate, **settings) for name in ("whole", "run"))
    whole.fit(train, **copy.deepcopy(options))
    with monkeypatch.context() as patched:
        patched.setattr(MSFTModule, "training_step", in_last_epoch(interrupt))
        with pytest.raises(InterruptedError):
            broken.fit(train, **copy.deepcopy(options))
    assert_as_whole(resume(tmp_path / "run").fit(train, **copy.deepcopy(options)), whole)


@pytest.mark.parametrize(("rate", "how"), [(0.3, "end"), (1e-2, "middle")])
def test_scores_in_other_units_are_not_compared(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, rate: float, how: str
) -> None:
    """The fit that is interrupted has scores a hundredth as large, which no later state would beat.

    With the rate 0.3 the best state is one before training, with the other one an epoch.
    """
    train, val = data()
    options = {"lr_scheduler_cls": None}
    whole = build(tiny_moirai, tmp_path / "whole", "msft", rate, **options).fit(train, val_series=val)
    broken = build(tiny_moirai, tmp_path / "run", "msft", rate, **options)
    with monkeypatch.context() as patched:
        patched.setattr(hooks, "find_units", lambda *sets: hundredfold(find_units(*sets)))
        if how == "end":
            patched.setattr(KeepBest, "on_train_end", lambda *_: interrupt())
        else:
            patched.setattr(MSFTModule, "training_step", in_last_epoch(interrupt))
        with pytest.raises(InterruptedError):
            broken.fit(train, val_series=val)
    resumed = resume(tmp_path / "run").fit(train, val_series=val)
    assert resumed.fit_report.kept == whole.fit_report.kept
    assert resumed.fit_report.best == pytest.approx(whole.fit_report.best, rel=1e-4)
    assert "in other units" in caplog.text
    steps = {one.step: one.score for one in whole.candidates if one.step > 0}
    found = {one.step: one.score for one in resumed.candidates if one.step > 0}
    assert found == pytest.approx({step: steps[step] for step in found}, rel=1e-4)
    assert resumed.fit_report.per_series["kept"].mean() == pytest.approx(resumed.fit_report.best)
    assert values_of(resumed.predict(8)) == pytest.approx(values_of(whole.predict(8)), rel=1e-3)


def hundredfold(units: Units) -> Units:
    return units._replace(values=100 * units.values)


def test_persistent_workers_validate_every_epoch(tiny_moirai: str) -> None:
    """Stacking on errors passes over the validation data while Lightning's own pass is open."""
    train, val = data()
    settings = {"likelihood": None, "n_epochs": 2, "lr_new": 1e-2}
    with_workers, without = (
        make_model(tiny_moirai, **settings).fit(train, val_series=val, **options)
        for options in ({"dataloader_kwargs": dict(WORKER)}, {})
    )
    assert with_workers.candidates == without.candidates
    assert [state.label for state in without.candidates] == [*ZERO_SHOT, "epoch 1", "epoch 2"]


def order_of(checkpoint: str, seed: int = 0, **options: Any) -> list[list[float]]:
    order = Order()
    make_model(checkpoint, trainer={"callbacks": [order]}, n_epochs=2, random_state=seed).fit(wave(60), **options)
    return order.seen


def test_order_of_windows(tiny_moirai: str) -> None:
    """Each epoch has every window once, in an order of its own, which the seed alone decides."""
    first, second = order_of(tiny_moirai)
    windows = wave(60).values()[: len(first), 0].tolist()
    assert sorted(first) == sorted(second) == sorted(windows)
    assert first != second
    torch.rand(3)
    assert order_of(tiny_moirai, dataloader_kwargs=dict(WORKER)) == [first, second]
    assert order_of(tiny_moirai, seed=1)[0] != first
    # an order of the user's own stays; Darts counts windows from the end
    assert order_of(tiny_moirai, dataloader_kwargs={"shuffle": False}) == [windows[::-1]] * 2
