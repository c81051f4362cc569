"""What a fit and a forecast show: one progress bar with plain names, and none of Lightning's asides."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any

import pytorch_lightning as pl
from darts.utils.likelihood_models.torch import QuantileRegression
from lightning_utilities.core import rank_zero
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

ASIDES = (
    "GPU available",
    "TPU available",
    "HPU available",
    "You are using a CUDA device",
    "LOCAL_RANK",
    "💡 Tip",
    "`Trainer.fit` stopped: `max_epochs",
)
"""How lines start that Lightning logs of the machine, of other products, and of the end that was planned."""
WARNINGS = (
    ".*treespec, LeafSpec.*",
    ".*'pin_memory' argument is set as true.*",
    "GPU available but not used.*",
    "Total length of `list` across ranks is zero.*",  # no validation series
    r"Found \d+ module\(s\) in eval mode.*",  # the backbone, which trains without dropout
)

_ONE_BAR: ContextVar[bool] = ContextVar("darts_msft_one_bar", default=False)


@contextmanager
def without_asides() -> Iterator[None]:
    """While it runs, Lightning and torch leave out what says nothing about a model."""

    def keeps(record: logging.LogRecord) -> bool:
        return not record.getMessage().lstrip().startswith(ASIDES)

    # the first one's name changes when `lightning` is imported beside `pytorch_lightning`
    loggers = (rank_zero.log, logging.getLogger("pytorch_lightning.accelerators.cuda"))
    for one in loggers:
        one.addFilter(keeps)
    try:
        with warnings.catch_warnings():
            for message in WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for one in loggers:
            one.removeFilter(keeps)


@contextmanager
def one_bar() -> Iterator[None]:
    """While it runs, the trainers of single forecasts and fits have no bar of their own."""
    token = _ONE_BAR.set(True)
    try:
        yield
    finally:
        _ONE_BAR.reset(token)


def shows_bars(given: Mapping[str, Any]) -> bool:
    """Whether a user's trainer arguments leave progress bars on."""
    return bool(given.get("enable_progress_bar", True))


@contextmanager
def busy(what: str, shown: bool) -> Iterator[None]:
    """While it runs, a terminal says what is done before there is a bar, if bars are `shown`."""
    if not shown or _ONE_BAR.get() or not find_spec("rich"):
        yield
        return
    from rich.console import Console
    from rich.errors import LiveError

    console = Console()
    status = console.status(f"{what} ...")
    try:
        if console.is_terminal or console.is_jupyter:
            status.start()
    except LiveError:  # the caller shows something of its own
        yield
        return
    try:
        yield
    finally:
        status.stop()


def with_display(given: Mapping[str, Any]) -> dict[str, Any]:
    """A Trainer's arguments with our bar, and without a table of modules; what is given of these stays."""
    settled = {"enable_model_summary": False, **given}
    callbacks = list(settled.get("callbacks") or [])
    if any(isinstance(one, ProgressBar) for one in callbacks):
        return settled
    if _ONE_BAR.get():
        settled.setdefault("enable_progress_bar", False)
    if shows_bars(settled):
        callbacks.append(RichBar() if find_spec("rich") else TextBar())
    return {**settled, "callbacks": callbacks}


class _PlainNames(ProgressBar):
    """Epochs counted from 1, and losses by what they are."""

    sanity_check_description = property(lambda self: "before training")
    validation_description = property(lambda self: _validation_of(self.trainer))
    predict_description = property(lambda self: "forecast")

    def get_metrics(self, trainer: pl.Trainer, pl_module: Any) -> dict[str, Any]:
        shown = super().get_metrics(trainer, pl_module)
        loss = "quantile loss" if isinstance(pl_module.likelihood, QuantileRegression) else "NLL"
        names = {"train_loss": f"train {loss}", "val_loss": "validation CRPS"}
        return {names.get(name, name): value for name, value in shown.items() if name != "v_num"}

    def epoch_of(self, epoch: int) -> str:
        """The name of an epoch, which Lightning counts from 0."""
        last = self.trainer.max_epochs
        return f"epoch {epoch + 1}" + (f" of {last}" if last is not None and last > 0 else "")


def _validation_of(trainer: pl.Trainer) -> str:
    """What a pass over the validation data is for, where a fit without training has several."""
    module: Any = trainer.lightning_module
    return module.passes_for if trainer.state.fn == "validate" else "validation"


class RichBar(_PlainNames, RichProgressBar):
    """Lightning's bar where `rich` is installed."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.epoch_of(current_epoch):{len(self.sanity_check_description)}}"


class TextBar(_PlainNames, TQDMProgressBar):
    """Lightning's bar otherwise."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(self.epoch_of(trainer.current_epoch))
