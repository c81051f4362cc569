"""Runs a function in a process of its own, which has imported torch and Darts already."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["darts_msft", "darts_msft.backbones.moirai"])


def run_in_child(function: Callable[..., None], *arguments: Any, timeout: float = 120) -> int:
    """Calls `function`, which a module must have by name, and returns the exit code; -9 after a kill."""
    process = _SERVER.Process(target=_quiet, args=(function, *arguments))
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{function.__name__} took more than {timeout:g} s")
    return process.exitcode


def _quiet(function: Callable[..., None], *arguments: Any) -> None:
    warnings.simplefilter("ignore")
    function(*arguments)
