"""What every entry says beside its figures: when, from which commit, with which versions, on what."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PACKAGES = (
    *("darts", "darts-msft", "fracast", "neuralforecast", "numpy", "pandas", "peft", "pytorch-lightning", "scipy"),
    *("timecopilot-uni2ts", "torch"),
)


def provenance() -> dict[str, Any]:
    """Date, commit, versions and machine; the device is what Lightning trains on where it is left to it."""
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
    """Whether there are uncommitted changes; the results themselves don't count."""
    return bool(_git("status", "--porcelain", "--", ".", ":!benchmarks/results"))


def _version(package: str) -> str | None:
    """None where it isn't installed: the baselines are an extra."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
