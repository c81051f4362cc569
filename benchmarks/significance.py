"""Do the ranks of several models differ by more than chance? Friedman's test and Nemenyi's critical distance.

Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7 (2006), section 3.2.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import friedmanchisquare, studentized_range

LEAST_MODELS, LEAST_COLUMNS = 3, 5


@dataclass(frozen=True)
class Comparison:
    """p_value: of Friedman's test that all models are equal; distance: mean ranks nearer than this don't differ.

    groups: places in the order of mean ranks, (first, last) of every widest run of models within the distance.
    """

    p_value: float
    distance: float
    order: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]


def critical_distance(models: int, columns: int, alpha: float = 0.05) -> float:
    """Nemenyi's distance between mean ranks at level `alpha`: q / sqrt(2) * sqrt(k (k + 1) / (6 N))."""
    q = float(studentized_range.ppf(1 - alpha, models, math.inf)) / math.sqrt(2)
    return q * math.sqrt(models * (models + 1) / (6 * columns))


def compare(places: np.ndarray, alpha: float = 0.05) -> Comparison:
    """Compares the ranks `places` (columns, models).

    Raises
    ------
    ValueError
        There are fewer than 3 models or 5 columns.
    """
    columns, models = places.shape if places.ndim == 2 else (0, 0)
    if models < LEAST_MODELS or columns < LEAST_COLUMNS:
        raise ValueError(
            f"{models} models have figures in {columns} common columns; the test needs at least {LEAST_MODELS} models "
            f"and {LEAST_COLUMNS} columns"
        )
    means = places.mean(axis=0)
    order = np.argsort(means, kind="stable")
    distance = critical_distance(models, columns, alpha)
    p_value = 1.0 if np.ptp(places, axis=1).max() == 0 else float(friedmanchisquare(*places.T).pvalue)
    return Comparison(p_value, distance, tuple(order.tolist()), _groups(means[order], distance))


def _groups(means: np.ndarray, distance: float) -> tuple[tuple[int, int], ...]:
    """Of the sorted means: every run of at least two within the distance that lies in no longer one."""
    found: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = int(np.flatnonzero(means - means[first] < distance)[-1])
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)
