"""Passes over the validation data: what is done with each batch, in a fit or outside one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch

from darts_msft.outputs import ScaleOutputs

MOST_BYTES = 2**27  # of windows and forecasts that are kept


class Pass:
    """A validation pass' batches with their forecasts, in `batches`; none where they would take too much memory."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, ScaleOutputs]] = []
        self.size = 0

    def add(self, batch: Any, outputs: ScaleOutputs) -> None:
        self.size += sum(tensor.nbytes for tensor in _tensors([*_values(batch), *outputs]))
        if self.size > MOST_BYTES:
            self.batches.clear()
        else:
            self.batches.append((batch, outputs))


def _values(batch: Any) -> list[Any]:
    return [getattr(batch, field.name) for field in dataclasses.fields(batch)]


def _tensors(parts: Any) -> Iterator[torch.Tensor]:
    if isinstance(parts, torch.Tensor):
        yield parts
    elif isinstance(parts, list | tuple):
        for part in parts:
            yield from _tensors(part)


def solve_on_errors(trainer: pl.Trainer, module: Any) -> None:
    """A pass over the validation data of its own: the weights must be there before the mixed forecast is scored."""
    module.error_products.reset()
    if each_batch(trainer, module, module.add_errors):
        module.solve_on_errors()


def validate(trainer: Any, module: Any, batches: Any, act: Callable[[Any, int], Any]) -> None:
    """Calls `act(batch, index)` on validation batches, where no fit runs."""
    module.observer = act
    try:
        trainer.validate(module, batches, verbose=False)
    finally:
        module.observer = None


@torch.no_grad()
def each_batch(trainer: Any, module: Any, act: Callable[[Any, int], Any]) -> bool:
    """Calls `act(batch, index)` on the validation batches that Lightning would use; False where there are none."""
    loop = trainer.fit_loop.epoch_loop.val_loop if module.trainer.state.fn == "fit" else trainer.validate_loop
    loop.setup_data()  # a resumed fit may not have validated yet
    batches = trainer.val_dataloaders
    if not trainer.enable_validation or batches is None or len(batches) == 0:
        return False
    was_training = module.training
    module.eval()
    batches = copy.copy(batches)
    batches._iterator = None  # with persistent workers a loader serves one pass at a time: Lightning has one open
    for index, batch in enumerate(batches):
        if index >= loop.max_batches[0]:
            break
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        with trainer.precision_plugin.val_step_context():
            act(batch, index)
    module.train(was_training)
    return True
