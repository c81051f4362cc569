"""Values that are hardly measurements, told before a fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from darts import TimeSeries

from darts_msft.linear.seasons import strays

logger = logging.getLogger("darts_msft")


_told: set[str] = set()  # by this process: `tune`, and backtests that fit, fit the same series again and again


def warn_of_strays(series: Sequence[TimeSeries]) -> None:
    """A warning, once, of values that are far from all others, such as the error code -9999."""
    count, example = 0, ""
    for one in series:
        found = strays(one.values(copy=False))
        if found.any() and not count:
            step, component = map(int, next(zip(*found.nonzero(), strict=True)))
            value = one.values(copy=False)[step, component]
            example = f"{value:g} of {one.components[component]!r} at {one.time_index[step]}"
        count += int(found.sum())
    if count and example not in _told:
        _told.add(example)
        logger.warning(
            "values such as %s (%d in all) are over 50 times as far from the median as 90 %% of all: where "
            "they stand for missing ones, make them NaN",
            example,
            count,
        )
