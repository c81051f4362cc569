"""An epoch that ends no better than the best state is undone, and the next one has lower rates."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from model_fixtures import ZERO_SHOT, make_model, wave
from torch.optim import lr_scheduler

from darts_msft.training.keep_best import RATE_CUT

RATES = {"lr_head": 1e-2, "lr_new": 1e-3}


class Spoil(pl.Callback):
    """Makes the epochs `which` bad before they are scored; notes what each epoch starts and ends with."""

    def __init__(self, *which: int) -> None:
        self.which = which
        self.starts: list[dict[str, torch.Tensor]] = []
        self.ends: list[dict[str, torch.Tensor]] = []
        self.rates: list[float] = []
        self.moments: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.starts.append(weights(module))
            (optimizer,) = trainer.optimizers
            self.rates.append(next(g["lr"] for g in optimizer.param_groups if g["name"] == "head"))
            self.moments.append(len(optimizer.state))

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.sanity_checking:
            return
        if trainer.current_epoch in self.which:
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.add_(1.0)
        self.ends.append(weights(module))


def weights(module: Any) -> dict[str, torch.Tensor]:
    """What trains by gradients: the scales' weights are stacked."""
    trains = (pair for pair in module.named_parameters() if pair[1].requires_grad and "omega" not in pair[0])
    return {name: parameter.detach().clone() for name, parameter in trains}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def run(checkpoint: str, spoil: Spoil, epochs: int, **settings: Any) -> Any:
    model = make_model(checkpoint, trainer={"callbacks": [spoil]}, n_epochs=epochs, **{**RATES, **settings})
    return model.fit(wave(), val_series=wave(60, seed=1)).fit_report


@pytest.mark.parametrize("learning", ["stacking", "mixed_loss"])
def test_a_first_epoch_that_is_worse_starts_again(tiny_moirai: str, learning: str) -> None:
    spoil = Spoil(0)
    report = run(tiny_moirai, spoil, 2, weight_learning=learning)
    first, second = spoil.starts
    assert same(first, second)
    assert spoil.rates == [1e-2, 1e-2 / RATE_CUT]
    assert spoil.moments == [0, 0]
    assert report.kept == "epoch 2"
    assert [one.label for one in report.candidates] == [*ZERO_SHOT, "epoch 1", "epoch 2"]


def test_a_later_one_goes_back_to_the_best_epoch(tiny_moirai: str) -> None:
    spoil = Spoil(1, 2)
    run(tiny_moirai, spoil, 4)
    assert same(spoil.starts[1], spoil.ends[0])
    assert same(spoil.starts[2], spoil.ends[0])
    assert same(spoil.starts[3], spoil.ends[0])
    assert spoil.rates == pytest.approx([1e-2, 1e-2, 1e-2 / RATE_CUT, 1e-2 / RATE_CUT**2])


def test_a_good_epoch_and_a_schedule_of_the_users_are_left_alone(tiny_moirai: str) -> None:
    good = Spoil()
    run(tiny_moirai, good, 2)
    assert same(good.starts[1], good.ends[0])
    assert good.rates == [1e-2, 1e-2]
    schedule = {"lr_scheduler_cls": lr_scheduler.ConstantLR, "lr_scheduler_kwargs": {"factor": 1.0}}
    own = Spoil(0)
    run(tiny_moirai, own, 2, **schedule)
    assert same(own.starts[1], own.ends[0])
    assert own.rates == [1e-2, 1e-2]


def test_an_epoch_with_its_best_state_in_the_middle_is_undone_too(tiny_moirai: str) -> None:
    class SpoilTheEnd(Spoil):
        def on_validation_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
            half = trainer.global_step == trainer.num_training_batches // 2
            self.which = () if half else self.which
            super().on_validation_epoch_start(trainer, module)
            self.which = (0,)

    spoil = SpoilTheEnd(0)
    trainer = {"callbacks": [spoil], "val_check_interval": 0.5}
    make_model(tiny_moirai, trainer=trainer, n_epochs=2, **RATES).fit(wave(), val_series=wave(60, seed=1))
    assert same(spoil.starts[1], spoil.ends[0])
    assert spoil.rates == [1e-2, 1e-2 / RATE_CUT]
