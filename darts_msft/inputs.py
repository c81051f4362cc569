"""What series a model can be given: checks before a fit or a forecast, and what a forecast could not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.logging import get_logger

logger = get_logger("darts_msft")


def named(series: Any, name: str = "series") -> list[tuple[str, TimeSeries]]:
    """Each series with what errors call it; whatever is no series is left to Darts' own checks."""
    if isinstance(series, TimeSeries):
        return [(name, series)]
    every = enumerate(series) if isinstance(series, Sequence) else ()
    return [(f"{name}[{index}]", one) for index, one in every if isinstance(one, TimeSeries)]


def check_finite(series: Any, name: str = "series", last: int | None = None) -> None:
    """Raises ValueError where one of `series` has infinite values, among its `last` steps if that is given."""
    for which, one in named(series, name):
        values = one.all_values(copy=False)
        infinite = np.isinf(values if last is None else values[-last:]).sum(axis=(0, 2))
        if infinite.any():
            found = ", ".join(
                f"{count} in component {str(component)!r}"
                for component, count in zip(one.components, infinite, strict=True)
                if count
            )
            among = "" if last is None else f" among its last {last} steps"
            raise ValueError(
                f"{which} has infinite values{among} ({found}): give numbers, or NaN where a value is missing"
            )


def check_covariates(past: Any, future: Any) -> None:
    """As `check_finite`, of past and future covariates."""
    check_finite(past, "past_covariates")
    check_finite(future, "future_covariates")


def kind_of(series: Any, name: str = "series") -> tuple[int, np.dtype] | None:
    """How many components all of `series` have, and the type that holds all their numbers; None of no series.

    Raises ValueError for an empty list, or series of unequal width.
    """
    if isinstance(series, Sequence) and not len(series):
        raise ValueError(f"{name}=[] has no series: give at least one")
    every = named(series, name)
    if not every:
        return None
    (first_name, first), *others = every
    for which, one in others:
        if one.n_components != first.n_components:
            raise ValueError(
                f"{which} has {one.n_components} components but {first_name} has {first.n_components}: a model takes "
                "series of one width; give the others to another call, or another model"
            )
    return first.n_components, np.result_type(*(one.dtype for _, one in every))


def in_type(series: Any, dtype: np.dtype) -> Any:
    """The same series with numbers of `dtype`."""
    if isinstance(series, TimeSeries):
        return series if series.dtype == dtype else series.astype(dtype)
    return [in_type(one, dtype) if isinstance(one, TimeSeries) else one for one in series]


def for_a_fit(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a fit, its targets in the type that holds the numbers of all training series.

    Raises ValueError for infinite values, an empty list, or series of unequal width.
    """
    kinds = {}
    for name, series in given.items():
        if name.endswith(("series", "covariates")):
            check_finite(series, name)
            by_darts = name.startswith("val_") and isinstance(series, Sequence)  # widths, with the training part's
            kinds[name] = kind_of(series[:1] if by_darts else series, name)
    if (kind := kinds["series"]) is None:
        return dict(given)
    targets = [name for name in ("series", "val_series") if kinds.get(name)]
    return {**given, **{name: in_type(given[name], kind[1]) for name in targets}}


def tell_of_unknown(forecasts: Any, series: Any, seen: int) -> None:
    """Warns, once, of the components whose forecasts are NaN: nothing was observed in the `seen` steps before.

    `forecasts` is what Darts returns for `series`: one, or a list for each.
    """
    every = named(series)
    results = [forecasts] if isinstance(series, TimeSeries) else list(forecasts)
    found = [
        f"{which} ({', '.join(map(repr, unknown))})"
        for (which, one), result in zip(every, results, strict=False)
        if (unknown := _unknown(result, one))
    ]
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        logger.warning(
            "forecasts are NaN where nothing was observed in the %d steps before: %s%s",
            seen,
            ", ".join(found[:5]),
            more,
        )


def _unknown(result: TimeSeries | Sequence[TimeSeries], series: TimeSeries) -> list[str]:
    """The components of `series` that a forecast of it, or some of its forecasts, lack."""
    parts = [result] if isinstance(result, TimeSeries) else result
    lacking = np.zeros(series.n_components, dtype=bool)
    for one in parts:
        columns = np.isnan(one.all_values(copy=False)).any(axis=(0, 2))
        lacking |= columns.reshape(series.n_components, -1).any(axis=1)  # some have several columns a component
    return [str(name) for name, lacks in zip(series.components, lacking, strict=True) if lacks]
