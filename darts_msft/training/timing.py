"""How long a fit will take, told after its first steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl

logger = logging.getLogger("darts_msft")

STEPS = 5  # that are timed, after one that warms up
SHORTEST = 10.0  # seconds: a fit that takes less is not told of


class ExpectedTime(pl.Callback):
    """Tells in one line the seconds that are left, by the first steps and the validation passes before them.

    The line stands above the progress bar; without one, or with a lower `level` than INFO, it is logged at that level:
    by default lines of INFO are not shown.

    Parameters
    ----------
    level
        Of the line where it is logged.
    """

    def __init__(self, level: int = logging.INFO) -> None:
        self.level = level
        self.validation = 0.0  # seconds of the longest pass so far
        self._began = self._since = 0.0
        self._told = False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._began = time.perf_counter()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.validation = max(self.validation, time.perf_counter() - self._began)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, index: int) -> None:
        batches = int(trainer.num_training_batches)
        last = min(STEPS, batches - 1)
        if self._told or index not in (0, last):
            return
        now = time.perf_counter()
        if index == last:
            self._told = True
            self._tell(trainer, (now - self._since) / max(last, 1), batches, last + 1)
        self._since = now

    def _tell(self, trainer: pl.Trainer, step: float, batches: int, done: int) -> None:
        if trainer.max_steps > 0:
            steps = trainer.max_steps * trainer.accumulate_grad_batches
            epochs = -(-steps // batches)
        else:
            epochs = (trainer.max_epochs or 0) - trainer.current_epoch
            steps = epochs * batches
        seconds = (steps - done) * step + epochs * self.validation
        if epochs > 0 and seconds >= SHORTEST:
            each = f"{epochs} epochs of {batches} steps, {step:.2g} s each"
            passes = f", and {self.validation:.2g} s of validation after each" if self.validation else ""
            line, bar = f"the fit takes about {in_words(seconds)}: {each}{passes}", trainer.progress_bar_callback
            if bar is None or self.level < logging.INFO:
                logger.log(self.level, line)
            elif trainer.is_global_zero:
                bar.print(line)


@contextmanager
def expected_time_told(trainer: Any, level: int) -> Iterator[None]:
    """While a fit runs."""
    told = ExpectedTime(level)
    trainer.callbacks.append(told)
    try:
        yield
    finally:
        trainer.callbacks.remove(told)


def in_words(seconds: float) -> str:
    """Rounded: "40 seconds", "3 minutes", "2.5 hours"."""
    if seconds < 90:
        return f"{round(seconds, -1):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
