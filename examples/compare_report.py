"""The table and the bar chart of the comparison of methods."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

Rows = Sequence[Mapping[str, Any]]
METRICS = ("MSE", "MAE", "CRPS")


def commit() -> str:
    """The commit of the code that made a file of results, with "-dirty" where a tracked file is changed."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"
    return answer.stdout.strip()


def write(path: Path, text: str) -> None:
    """The whole file or, where the process is ended meanwhile, the one before."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def by_method(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    """The runs of each method, one a seed, in the order in which they were made."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["method"], []).append(row)
    return groups


def print_methods(rows: Rows) -> None:
    """Prints mean and sample standard deviation over the seeds (standardised units, lower is better)."""
    print(f"\n{'method':<14}" + "".join(f"{name:>17}" for name in METRICS) + f"{'trained':>12}{'seconds':>9}")
    for method, runs in by_method(rows).items():
        cells = ""
        for name in METRICS:
            values = [run[name] for run in runs]
            spread = f"±{np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            cells += f"{np.mean(values):10.4f} {spread:7}"
        seconds = np.mean([run["seconds"] for run in runs])
        print(f"{method:<14}{cells}{runs[0]['trained']:>12,}{seconds:>9.0f}")


def plot_methods(path: Path, rows: Rows) -> None:
    """Saves one panel a metric: a bar a method with its mean, a dot a seed."""
    groups = by_method(rows)
    figure, axes = plt.subplots(1, len(METRICS), figsize=(14, 4), layout="constrained", sharey=True)
    for axis, name in zip(axes, METRICS, strict=True):
        means = [np.mean([run[name] for run in runs]) for runs in groups.values()]
        axis.barh(list(groups), means, color="C0", alpha=0.6)
        for method, runs in groups.items():
            axis.plot([run[name] for run in runs], [method] * len(runs), "o", color="black", markersize=3)
        axis.set(title=f"{name} (lower is better)")
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"picture: {path}")
