"""A fit that fails leaves the model as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor


@contextmanager
def as_before_if_it_fails(model: Any) -> Iterator[None]:
    """Puts the model's attributes back if what runs meanwhile raises, or is interrupted."""
    before = {name: dict(value) if type(value) is dict else value for name, value in vars(model).items()}
    try:
        yield
    except BaseException:
        vars(model).clear()
        vars(model).update(before)
        raise


@contextmanager
def weights_as_before_if_it_fails(module: Any) -> Iterator[None]:
    """As `as_before_if_it_fails`, for what a fit changes in the module of a fitted model."""
    state, names = module.state_dict(), module.own_names()
    before: dict[str, Tensor] = {name: state[name].detach().cpu().clone() for name in names}
    try:
        yield
    except BaseException:
        module.load_state_dict(before, strict=False)
        raise
