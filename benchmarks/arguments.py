"""Numbers on the command line, for argparse, which names the option and says what was wrong."""

from __future__ import annotations

import argparse


def whole(text: str) -> int:
    """An integer of at least 1: steps, epochs, threads."""
    return _integer(text, least=1)


def seed(text: str) -> int:
    """An integer of at least 0."""
    return _integer(text, least=0)


def _integer(text: str, least: int) -> int:
    try:
        found = int(text)
    except ValueError:
        found = least - 1
    if found < least:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; give an integer of at least {least}")
    return found
