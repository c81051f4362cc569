"""What every entry says beside its figures: from which commit, with which versions, on what; its seconds and memory."""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.forkserver
import os
import platform
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse

ROOT = Path(__file__).parents[2]
# git's words for what a figure may rest on
COUNTS = (".", ":!benchmarks/results", ":!*.md", ":!tests", ":!examples", ":!docs")
PACKAGES = (
    *("darts", "darts-msft", "fracast", "neuralforecast", "numpy", "pandas", "peft", "pytorch-lightning", "scipy"),
    *("timecopilot-uni2ts", "torch"),
)


def provenance() -> dict[str, Any]:
    """Date, commit, versions and machine; a Misuse where the code is no git checkout."""
    import torch  # here, for `is_dirty` is asked before anything needs it

    versions = {one.name: one.version for one in distributions() if one.name in PACKAGES}
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "dirty": is_dirty(),
        "versions": {"python": platform.python_version(), **dict.fromkeys(PACKAGES), **versions},
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def commit() -> str:
    return _git("rev-parse", "HEAD")


def is_dirty() -> bool:
    """Whether there are uncommitted changes; those of results, *.md, tests and examples don't count."""
    return bool(_git("status", "--porcelain", "--untracked-files=all", "--", *COUNTS))


def same_code(commit: str, other: str) -> bool:
    """Whether two commits differ at most in what `is_dirty` doesn't count."""
    return commit == other or not _git("diff", "--name-only", commit, other, "--", *COUNTS)


def _git(*words: str) -> str:
    """What git says of this checkout, and of no repository around it; a Misuse where there is none."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        raise Misuse(f"results need a git checkout, {ROOT} is none ({reason}); get the code by `git clone`") from error
    return done.stdout.strip()


# ---- a process of its own


def preload(modules: Sequence[str]) -> None:
    """Begins to import them, once for all processes of `isolated`; to be called before anything else is started."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(list(modules))
    multiprocessing.forkserver.ensure_running()


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a process of its own, which ends with this one, whatever ends it.

    What it raises is raised here, with its traceback; a BrokenProcessPool, if it was killed (for want of memory, say).
    """
    context = multiprocessing.get_context("forkserver")  # a spawned process would inherit this one's peak memory
    with ProcessPoolExecutor(1, context, initializer=_end_with_parent) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BaseException:  # an interrupt, too
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def processor_seconds() -> float:
    """Of this process so far, all threads and ended children added up."""
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
