"""What the measurements beside the suites share: forecasts from some origins of a test part, and how rows are kept.

They read files of DARTS_MSFT_DATA. N: windows, H: horizon steps, V: variables.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries

from benchmarks.data import load
from benchmarks.data.files import Split
from benchmarks.models.base import QUIET
from benchmarks.run.provenance import provenance, quiet
from benchmarks.run.store import add_rows
from darts_msft.datasets import load_departures

TRAINER: dict[str, Any] = {**QUIET, "accelerator": "cpu"}
SPLIT = Split(0.7, 0.15, 0.15)  # where no literature has one
Ends = tuple[int, ...]  # the step after the training, validation and test part
Row = dict[str, Any]


def series_of(name: str) -> tuple[TimeSeries, Ends]:
    """The departures as counts; other data sets standardised, as the family "lsf" has them."""
    if name == "departures":
        series = load_departures()
        return series, SPLIT.ends(len(series))
    found = load(name, "lsf")
    return found.series("test", found.bounds["test"][0]), tuple(end for _, end in found.bounds.values())


def windows_of(
    series: TimeSeries, ends: Ends, lengths: tuple[int, int], count: int
) -> tuple[list[TimeSeries], np.ndarray]:
    """Contexts from evenly spaced origins of the test part, and what came (N, H, V); `lengths` are context, horizon."""
    context, horizon = lengths
    places = np.unique(np.linspace(ends[1], ends[2] - horizon, count).astype(int))
    truth = np.stack([series.values()[place : place + horizon] for place in places])
    return [series[place - context : place] for place in places], truth


def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of the samples on the last axis."""
    count = samples.shape[-1]
    rank = np.arange(1 - count, count, 2)
    distance = np.abs(samples - truth[..., None]).mean(axis=-1)
    return np.asarray(distance - (np.sort(samples, axis=-1) * rank).sum(axis=-1) / count**2)


def coverage(samples: np.ndarray, truth: np.ndarray) -> float:
    """The share of the truth in the central 80 % of the samples on the last axis."""
    low, high = np.quantile(samples, (0.1, 0.9), axis=-1)
    return float(((truth >= low) & (truth <= high)).mean())


def run(measure: Callable[[str], Iterable[Row]], names: Iterable[str], results: Path, **settings: Any) -> None:
    """Measures the data sets that the command line names, or all; prints each row, and writes the file after each."""
    torch.set_num_threads(1)
    quiet()
    for name in sys.argv[1:] or names:
        rows = list[Row]()
        for row in measure(name):
            print(name, row, flush=True)
            rows.append({**row, "settings": settings, "provenance": provenance()})
            add_rows(results, rows, data=name)
