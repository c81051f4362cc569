"""The errors that are told apart by those who catch them, and how others become one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Misuse(ValueError):
    """What was asked for, or a file that was given, is wrong; the command line says it in a line, without traceback."""


class Diverged(ValueError):
    """A fit or its forecasts are not finite numbers. While settings are chosen, this is the worst validation score."""


class WeightsMissing(FileNotFoundError):
    """Pretrained weights can't be had on this machine, and nobody asked for others: a run skips the experiment."""


@contextmanager
def misuse(before: str, *errors: type[Exception]) -> Iterator[None]:
    """Turns these errors of the block into a Misuse whose line begins with `before`."""
    try:
        yield
    except errors as error:
        raise Misuse(f"{before}{error}") from error


def check_whole(name: str, value: object, least: int) -> None:
    """Refuses what is no integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Misuse(f"{name}={value!r} is not allowed; give an integer of at least {least}")
