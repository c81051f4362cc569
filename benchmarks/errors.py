"""The errors that are told apart by those who catch them."""

from __future__ import annotations


class Misuse(ValueError):
    """What was asked for, or a file that was given, is wrong; the command line says it in a line, without traceback."""


class Diverged(ValueError):
    """A fit or its forecasts are not finite numbers. While settings are chosen, this is the worst validation score."""
