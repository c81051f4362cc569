"""A fit that fails leaves the model as it was; one that the user stops keeps the best state so far, if there is one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

logger = logging.getLogger("darts_msft")


class Stopped(SystemExit):
    """The user stopped a fit, whose best state so far was kept: the program ends, as Lightning has it."""


@contextmanager
def as_before_if_it_fails(model: Any, module: Any = None) -> Iterator[None]:
    """Puts the model's attributes back if what runs meanwhile raises, unless the user `Stopped` it.

    And what a fit changes in the `module` of a fitted model.
    """
    before = {name: dict(value) if type(value) is dict else value for name, value in vars(model).items()}
    weights: dict[str, Tensor] = {}
    if module is not None:
        state = module.state_dict()
        weights = {name: state[name].detach().cpu().clone() for name in module.own_names()}
    try:
        yield
    except Stopped:
        raise
    except BaseException:
        vars(model).clear()
        vars(model).update(before)
        if module is not None:
            module.load_state_dict(weights, strict=False)
        raise


def train_until_stopped(train: Callable[[], None], keep: Any) -> Stopped | None:
    """Calls `train`, whose callback `keep` is; what to raise in the end if the user stopped it and a state was kept.

    Lightning makes an exit of the program of an interrupt.
    """
    try:
        train()
    except (KeyboardInterrupt, SystemExit) as stop:
        if keep.report is None:
            logger.warning("the fit was interrupted: the model is as before it")
            raise
        logger.warning("the fit was interrupted: the model has the best state so far, %s", keep.report.kept)
        stopped = Stopped(1)
        stopped.__cause__ = stop
        return stopped
    return None
