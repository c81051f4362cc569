"""A function in a process of its own: what it needs is given back at its end, and its peak memory is its own.

And what processes that measure have in common: their processor seconds, their peak memory, and that they are quiet.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class ProcessFailed(RuntimeError):
    """The function raised, or its process ended without an answer. The text has the traceback, or the exit code."""


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh process; function, arguments and result must be picklable.

    The process ends with this one, whatever ends it. It is forked from a server that has imported nothing: a spawned
    process would begin with this one's peak memory as its own (Linux keeps `ru_maxrss` over `exec`).
    """
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        succeeded, answer = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode
        reason = f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with exit code {code}"
        hint = "; signal 9 is often a lack of memory" if code == -9 else ""
        raise ProcessFailed(f"the process {reason} before it had a result{hint}") from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if not succeeded:
        raise ProcessFailed(answer)
    return answer


def processor_seconds() -> float:
    """What this process and its children that have ended took of processors so far, all threads added up."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MB of 10**6 bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e6  # bytes on macOS, else KiB


def quiet() -> None:
    """No messages of Lightning's at every forecast."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", message=".*('pin_memory'|LeafSpec).*")


def _serve(sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = (True, function(*arguments))
    except Exception:
        answer = (False, traceback.format_exc())
    sender.send(answer)
    sender.close()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
