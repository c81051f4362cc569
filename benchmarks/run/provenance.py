"""What every entry says beside its figures: when, from which commit, with which versions, on what."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.errors import Misuse

ROOT = Path(__file__).parents[2]
COUNTS = (".", ":!benchmarks/results", ":!*.md", ":!tests", ":!examples")  # git's words for what a figure may rest on
PACKAGES = (
    *("darts", "darts-msft", "fracast", "neuralforecast", "numpy", "pandas", "peft", "pytorch-lightning", "scipy"),
    *("timecopilot-uni2ts", "torch"),
)


def provenance() -> dict[str, Any]:
    """Date, commit, versions and machine; the device is what Lightning trains on where it is left to it.

    A Misuse where the code is no git checkout.
    """
    import torch  # here, for `is_dirty` is asked before anything needs it

    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": is_dirty(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "machine": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }


def is_dirty() -> bool:
    """Whether there are uncommitted changes; those of results, *.md, tests and examples don't count."""
    return bool(_git("status", "--porcelain", "--untracked-files=all", "--", *COUNTS))


def same_code(commit: str, other: str) -> bool:
    """Whether two commits differ at most in what `is_dirty` doesn't count."""
    return commit == other or not _git("diff", "--name-only", commit, other, "--", *COUNTS)


def _version(package: str) -> str | None:
    """None where it isn't installed: the baselines are an extra."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    """What git says of this checkout, and of no repository around it; a Misuse where there is none."""
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(ROOT.parent)}
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise Misuse(
            f"results need a git checkout, because each names its commit, and {ROOT} is none that git can read "
            f"({' '.join(reason.split())}); get the code by `git clone`, not as a download, and run it there"
        ) from error
    return done.stdout.strip()
