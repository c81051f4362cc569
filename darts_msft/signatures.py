"""Methods that take what Darts' own do, and show it."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

from darts.models.forecasting.foundation_model import FoundationModel

Method = TypeVar("Method", bound=Callable[..., Any])


def as_in_darts(method: Method) -> Method:
    """Gives `method` the signature of Darts' method of that name, which Darts' tools and help() read."""
    own = signature(getattr(FoundationModel, method.__name__))
    function: Any = getattr(method, "__func__", method)
    function.__signature__ = own
    return method
