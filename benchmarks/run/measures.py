"""What a forecast is worth: backtests in chunks of bounded memory, and Darts' metrics summed over them.

Axes: N windows, H horizon steps, V variables, Q quantile levels, T time. Quantiles that cross are sorted first, for
every model alike (Chernozhukov et al. 2010: no further from the truth). The point forecast is the median.

LSF: MSE and MAE over windows, steps and variables. PF, over the same, in the data's units:
- crps: the mean weighted quantile loss, for each level 0.1, ..., 0.9 twice the summed pinball loss over the summed
  absolute values, averaged over the levels;
- msis: each variable's mean Winkler score of the 95 % interval over its seasonal naive error in the training part,
  averaged over the variables (the M4 competition's mean scaled interval score);
- coverage: the share of values in the 80 % interval, its ends included.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.metrics import mae, mic, miws, mql, mse
from darts.utils.likelihood_models.base import likelihood_component_names, quantile_names

from benchmarks.data.datasets import Dataset
from benchmarks.errors import Diverged
from benchmarks.models.views import View
from benchmarks.run.processes import processor_seconds

POINT = (0.5,)
CRPS_LEVELS = tuple(tenths / 10 for tenths in range(1, 10))
WIDE, CENTRAL = (0.025, 0.975), (0.1, 0.9)  # intervals of the MSIS and of the coverage
LEVELS = (WIDE[0], *CRPS_LEVELS, WIDE[1])  # what a probabilistic model forecasts
CHUNK_WINDOWS, CHUNK_VALUES = (
    256,
    2_000_000,
)  # forecast at once: at most so many windows, and N * H * V * Q numbers (or samples for Q)
EXAMPLE_DIGITS = 5


@dataclass(frozen=True)
class Measured:
    """A backtest: metrics by name, the number of windows, a few of them, and what forecasting took.

    seconds: wall time; processor_seconds: of all threads.
    without_msis: the variables whose seasonal naive error in the training part is zero; the MSIS leaves them out.
    """

    metrics: dict[str, float]
    windows: int
    examples: list[dict[str, Any]]
    seconds: float
    processor_seconds: float
    without_msis: list[str]


def measure(
    model: Any,
    dataset: Dataset,
    part: str,
    horizon: int,
    stride: int,
    look_back: int,
    levels: Sequence[float] | None,
) -> Measured:
    """A fitted Darts model's errors over a part's windows; `levels` are those it forecasts (None: the median alone).

    Raises
    ------
    ValueError
        If the levels don't ascend, a window has less than `look_back` steps before it, the model leaves out a window, a
        step, a variable or a level, or a target is not finite.
    Diverged
        If a forecast is not finite.
    """
    if levels is not None and list(levels) != sorted(levels):
        raise ValueError(f"levels={tuple(levels)} are not allowed; give them in ascending order")
    starts = dataset.starts(part, horizon, stride)
    if starts[0] < look_back:
        raise ValueError(
            f"the first {part} window of {dataset.name} begins at step {starts[0]}, with fewer than {look_back} steps "
            f"before it; take a look_back of at most {starts[0]}"
        )
    shown, examples, seconds, busy = {starts[0], starts[len(starts) // 2], starts[-1]}, [], 0.0, 0.0
    sums = PointSums() if levels is None else QuantileSums(levels, seasonal_errors(dataset))
    left_out = [] if isinstance(sums, PointSums) else [dataset.columns[index] for index in np.flatnonzero(~sums.scaled)]
    held = max(len(levels or POINT), model.held if isinstance(model, View) else 1)
    for chunk in chunks(starts, horizon * len(dataset.columns) * held):
        begin, begin_busy = time.perf_counter(), processor_seconds()
        forecasts = forecast(model, dataset, chunk, horizon, look_back, levels)
        seconds, busy = seconds + time.perf_counter() - begin, busy + processor_seconds() - begin_busy
        targets = dataset.values[np.asarray(chunk)[:, None] + np.arange(horizon)]
        _check_finite(dataset, chunk, targets, forecasts)
        forecasts = np.sort(forecasts, axis=-1)
        sums.add(targets, forecasts)
        for start in sorted(shown & set(chunk)):
            index = chunk.index(start)
            examples.append(_example(dataset, start, look_back, targets[index], forecasts[index], levels or POINT))
    return Measured(sums.metrics(), len(starts), examples, seconds, busy, left_out)


def chunks(starts: range, values: int) -> Iterator[range]:
    """`starts` in pieces that keep both limits; `values` numbers are held for each window."""
    size = max(1, min(CHUNK_WINDOWS, CHUNK_VALUES // values))
    for position in range(0, len(starts), size):
        yield starts[position : position + size]


def forecast(
    model: Any, dataset: Dataset, starts: range, horizon: int, look_back: int, levels: Sequence[float] | None
) -> np.ndarray:
    """Forecasts (N, H, V, Q) of the windows that begin at `starts`, each from the `look_back` steps before it alone."""
    first, last = starts[0] - look_back, starts[-1] + horizon
    series = TimeSeries.from_times_and_values(
        dataset.times[first:last], dataset.values[first:last], columns=list(dataset.columns)
    )
    found = model.historical_forecasts(
        series,
        start=look_back,
        start_format="position",
        forecast_horizon=horizon,
        stride=starts.step,
        retrain=False,
        last_points_only=False,
        predict_likelihood_parameters=levels is not None,
        verbose=False,
    )
    expected = list(dataset.columns)
    if levels is not None:
        expected = likelihood_component_names(expected, quantile_names(list(levels)))
    begun, wanted = [window.start_time() for window in found], list(dataset.times[np.asarray(starts)])
    if begun != wanted or any(len(window) != horizon for window in found):
        raise ValueError(
            f"{type(model).__name__} forecast {len(found)} windows of {sorted({len(window) for window in found})} "
            f"steps, the first at {begun[:1]}, instead of {len(starts)} of {horizon} steps from {wanted[0]} on; its "
            f"lags must end within the look_back of {look_back} steps"
        )
    if list(found[0].components) != expected:
        raise ValueError(
            f"{type(model).__name__} forecast the components {list(found[0].components)[:12]}... instead of "
            f"{expected[:12]}...; build it with a quantile likelihood of the levels {levels}, ascending (None: with "
            "point forecasts)"
        )
    return np.stack([window.values(copy=False) for window in found]).reshape(
        len(found), horizon, len(dataset.columns), -1
    )


def seasonal_errors(dataset: Dataset) -> np.ndarray:
    """Each variable's mean absolute error, in the training part, of the value one season before, (V,)."""
    begin, end = dataset.bounds["train"]
    if end - begin <= dataset.season:
        raise ValueError(
            f"the training part of {dataset.name} has {end - begin} steps, no more than a season of {dataset.season}; "
            "the MSIS needs a longer one"
        )
    train = dataset.values[begin:end].astype(np.float64)
    return np.abs(train[dataset.season :] - train[: -dataset.season]).mean(axis=0)


class PointSums:
    """Squared and absolute errors, added up chunk by chunk in double precision."""

    def __init__(self) -> None:
        self.count, self.sums = 0, {"mse": 0.0, "mae": 0.0}

    def add(self, targets: np.ndarray, forecasts: np.ndarray) -> None:
        """What came (N, H, V), and one forecast of it (N, H, V, 1)."""
        actual, predicted = _in_a_row(targets), _in_a_row(forecasts[..., 0])
        self.count += targets.size
        self.sums["mse"] += mse(actual, predicted) * targets.size
        self.sums["mae"] += mae(actual, predicted) * targets.size

    def metrics(self) -> dict[str, float]:
        return {name: float(total / self.count) for name, total in self.sums.items()}


class QuantileSums:
    """The same, and CRPS, MSIS and coverage, of forecasts at `levels`; `scales` (V,) are the seasonal naive errors."""

    def __init__(self, levels: Sequence[float], scales: np.ndarray) -> None:
        if missing := sorted({*LEVELS, *POINT} - set(levels)):
            raise ValueError(f"levels={tuple(levels)} lack {missing}, which the metrics need; give {LEVELS}")
        self.levels, self.scales, self.scaled = list(levels), scales, scales > 0
        if not self.scaled.any():
            raise ValueError("no variable changes from season to season in the training part: the MSIS has no scale")
        self.points, self.size, self.covered = PointSums(), 0.0, 0.0
        self.losses = np.zeros(len(CRPS_LEVELS))  # twice the pinball losses
        self.winkler = np.zeros(len(scales))

    def add(self, targets: np.ndarray, forecasts: np.ndarray) -> None:
        """What came (N, H, V), and its quantiles (N, H, V, Q)."""
        middle = self.levels.index(POINT[0])
        self.points.add(targets, forecasts[..., middle : middle + 1])
        actual = _in_a_row(targets)
        names = likelihood_component_names(actual.components, quantile_names(self.levels))
        predicted = _in_a_row(forecasts.reshape(*targets.shape[:2], -1), names)
        self.size += np.abs(targets.astype(np.float64)).sum()
        self.losses += mql(actual, predicted, q=list(CRPS_LEVELS)) * targets.size
        self.covered += mic(actual, predicted, q_interval=CENTRAL) * targets.size
        self.winkler += miws(actual, predicted, q_interval=WIDE, component_reduction=None) * len(actual)

    def metrics(self) -> dict[str, float]:
        scaled = self.winkler[self.scaled] / (self.points.count / len(self.scales)) / self.scales[self.scaled]
        own = {
            "crps": (self.losses / self.size).mean(),
            "msis": scaled.mean(),
            "coverage": self.covered / self.points.count,
        }
        return {**{name: float(value) for name, value in own.items()}, **self.points.metrics()}


def _in_a_row(windows: np.ndarray, names: Sequence[str] | None = None) -> TimeSeries:
    """Windows (N, H, components) one after the other, as one series for Darts' metrics."""
    return TimeSeries.from_values(windows.reshape(-1, windows.shape[-1]).astype(np.float64), columns=names)


def _check_finite(dataset: Dataset, starts: range, targets: np.ndarray, forecasts: np.ndarray) -> None:
    """Darts' metrics leave out what is not a number; here that is an error."""
    for what, values, error, remedy in (
        ("targets", targets, ValueError, "fill the data's gaps"),
        ("forecasts", forecasts, Diverged, "the model diverged, or had such values in its context"),
    ):
        bad = ~np.isfinite(values).reshape(len(starts), -1).all(axis=1)
        if bad.any():
            raise error(
                f"{what} of {int(bad.sum())} of {len(starts)} windows of {dataset.name} are not finite numbers, the "
                f"first window at step {starts[int(bad.argmax())]}: {remedy}"
            )


def _example(
    dataset: Dataset, start: int, look_back: int, target: np.ndarray, quantiles: np.ndarray, levels: Sequence[float]
) -> dict[str, Any]:
    """The first variable of one window for pictures: target (H, V) and quantiles (H, V, Q)."""
    context = dataset.values[start - min(look_back, 2 * len(target)) : start, 0]
    return {
        "start": start,
        "variable": dataset.columns[0],
        "context": _rounded(context),
        "target": _rounded(target[:, 0]),
        "levels": list(levels),
        "quantiles": [_rounded(values) for values in quantiles[:, 0].T],
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{EXAMPLE_DIGITS}g}") for value in values]
