"""What tests of the synthetic series measure and record."""

from collections.abc import Callable
from inspect import signature
from typing import Any, NamedTuple

import numpy as np
import pytest


class Call(NamedTuple):
    asked: dict[str, Any]
    """Arguments by name."""
    made: Any
    """What came back."""


def record(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Call]:
    """Calls of a function of `owner` from now on."""
    function: Callable[..., Any] = getattr(owner, name)
    calls: list[Call] = []

    def recording(*arguments: Any, **named: Any) -> Any:
        bound = signature(function).bind(*arguments, **named)
        bound.apply_defaults()
        calls.append(Call(dict(bound.arguments), function(*arguments, **named)))
        return calls[-1].made

    monkeypatch.setattr(owner, name, recording)
    return calls


def column(n: int, value: float) -> np.ndarray:
    """The same value for each of n rows."""
    return np.full(n, value, np.float32)


def autocorrelation(x: np.ndarray, lag: int) -> np.ndarray:
    """Of each row, at a lag in steps."""
    x = x - x.mean(axis=1, keepdims=True)
    return (x[:, lag:] * x[:, :-lag]).mean(axis=1) / (x**2).mean(axis=1)
