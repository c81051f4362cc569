"""Backtests seen differently: in other units, at other levels, from samples, or without Darts behind them.

What the measures ask a model for: `input_chunk_length` (steps) and `historical_forecasts` with `retrain=False` and
`last_points_only=False`, which gives one series of H steps a window. Quantiles are its columns: per component, then
level, named as Darts names them. Shapes: N windows, C context steps, H horizon steps, V variables, Q levels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.utils.likelihood_models.base import likelihood_component_names, quantile_names
from scipy.stats import norm


class View:
    """A fitted Darts model behind its `inner`; a subclass changes what goes in or comes out."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def input_chunk_length(self) -> int:
        return int(self.inner.input_chunk_length)

    @property
    def held(self) -> int:
        """How many numbers it holds for each value that it forecasts, while it does."""
        return 1

    def prepare(self, series: TimeSeries) -> TimeSeries:
        """The series as the inner model sees it, in training too."""
        return series

    def historical_forecasts(
        self, series: TimeSeries, *, predict_likelihood_parameters: bool = False, **asked: Any
    ) -> list[TimeSeries]:
        """Darts' `historical_forecasts` of the inner model, changed by the view."""
        asked["predict_likelihood_parameters"] = predict_likelihood_parameters
        found: list[TimeSeries] = self.inner.historical_forecasts(self.prepare(series), **asked)
        return found


def inner_of(model: Any) -> Any:
    """The Darts model itself, behind a view or not."""
    return model.inner if isinstance(model, View) else model


class Standardised(View):
    """The inner model lives in units of `scale` around `loc`, both (V,); series and forecasts are in the data's."""

    def __init__(self, inner: Any, train: np.ndarray) -> None:
        """Means and deviations are those of `train`, (T, V); a variable that never changes keeps its unit."""
        super().__init__(inner)
        values = train.astype(np.float64)
        self.loc, deviation = values.mean(axis=0), values.std(axis=0)
        self.scale = np.where(deviation > 0, deviation, 1.0)

    def prepare(self, series: TimeSeries) -> TimeSeries:
        return series.with_values(((series.values(copy=False) - self.loc) / self.scale).astype(np.float32))

    def historical_forecasts(self, series: TimeSeries, **asked: Any) -> list[TimeSeries]:
        found = super().historical_forecasts(series, **asked)
        levels = found[0].n_components // len(self.loc) if found else 1
        loc, scale = np.repeat(self.loc, levels), np.repeat(self.scale, levels)
        return [window.with_values(window.values(copy=False) * scale + loc) for window in found]


class AtLevels(View):
    """Quantiles of `levels` by way of the inner model's, which has a quantile likelihood of the levels `known`."""

    def __init__(self, inner: Any, known: Sequence[float], levels: Sequence[float]) -> None:
        super().__init__(inner)
        self.known, self.levels = tuple(known), tuple(levels)

    def historical_forecasts(
        self, series: TimeSeries, *, predict_likelihood_parameters: bool = False, **asked: Any
    ) -> list[TimeSeries]:
        check_quantiles_asked(predict_likelihood_parameters, self.levels)
        found = super().historical_forecasts(series, predict_likelihood_parameters=True, **asked)
        columns = list(series.components)
        windows = [
            at_levels(window.values(copy=False).reshape(len(window), len(columns), -1), self.known, self.levels)
            for window in found
        ]
        return [
            as_series(window.time_index, values, columns, self.levels)
            for window, values in zip(found, windows, strict=True)
        ]


class FromSamples(View):
    """Quantiles of `levels` as those of `count` sample paths of the inner model, always the same draws."""

    def __init__(self, inner: Any, levels: Sequence[float], count: int, seed: int) -> None:
        super().__init__(inner)
        self.levels, self.count, self.seed = tuple(levels), count, seed

    @property
    def held(self) -> int:
        return self.count

    def historical_forecasts(
        self, series: TimeSeries, *, predict_likelihood_parameters: bool = False, **asked: Any
    ) -> list[TimeSeries]:
        check_quantiles_asked(predict_likelihood_parameters, self.levels)
        found = self.inner.historical_forecasts(
            self.prepare(series), num_samples=self.count, random_state=self.seed, **asked
        )
        columns = list(series.components)
        return [
            as_series(
                window.time_index,
                np.moveaxis(np.quantile(window.all_values(copy=False), self.levels, axis=2), 0, 2),
                columns,
                self.levels,
            )
            for window in found
        ]


class WindowModel(ABC):
    """A model of its own that forecasts every variable from the window before it, and answers as Darts' models do.

    `input_chunk_length` is its context in steps; `levels` None: point forecasts.
    """

    def __init__(self, input_chunk_length: int, levels: Sequence[float] | None) -> None:
        self.input_chunk_length, self.levels = input_chunk_length, None if levels is None else tuple(levels)

    @abstractmethod
    def forecast(self, contexts: np.ndarray, begins: pd.DatetimeIndex, horizon: int) -> np.ndarray:
        """Forecasts (N, H, V, Q) from contexts (N, C, V); `begins` are the times of the first steps, (N,)."""

    def historical_forecasts(
        self,
        series: TimeSeries,
        *,
        forecast_horizon: int,
        stride: int = 1,
        start: int | None = None,
        start_format: str = "position",
        retrain: bool,
        last_points_only: bool,
        predict_likelihood_parameters: bool = False,
        verbose: bool = False,
    ) -> list[TimeSeries]:
        """Darts' `historical_forecasts` where nothing is retrained; `start` is the position of the first step."""
        if retrain or last_points_only or start_format != "position":
            raise ValueError(
                f"retrain={retrain}, last_points_only={last_points_only}, start_format={start_format!r} is not "
                "supported here; give retrain=False, last_points_only=False, start_format='position'"
            )
        if predict_likelihood_parameters != (self.levels is not None):
            raise ValueError(
                f"predict_likelihood_parameters={predict_likelihood_parameters} does not go with levels={self.levels}; "
                "build the model with levels for quantiles, without for point forecasts"
            )
        context = self.input_chunk_length
        first = context if start is None else start
        if first < context or first + forecast_horizon > len(series):
            raise ValueError(
                f"start={first} leaves no window of {context} + {forecast_horizon} steps in a series of {len(series)}; "
                f"give at least {context}, or a longer series"
            )
        begins = np.arange(first, len(series) - forecast_horizon + 1, stride)
        contexts = np.lib.stride_tricks.sliding_window_view(series.values(copy=False), context, axis=0)
        contexts = contexts[begins - context].swapaxes(1, 2)
        found = self.forecast(contexts, series.time_index[begins], forecast_horizon)
        columns = list(series.components)
        return [
            as_series(series.time_index[begin : begin + forecast_horizon], values, columns, self.levels)
            for begin, values in zip(begins, found, strict=True)
        ]


def as_series(times: pd.Index, values: np.ndarray, columns: list[str], levels: Sequence[float] | None) -> TimeSeries:
    """Forecasts (H, V, Q) as Darts gives them; `levels` None: one value a variable, under its own name."""
    names = columns if levels is None else likelihood_component_names(columns, quantile_names(list(levels)))
    return TimeSeries(times=times, values=values.reshape(len(times), -1), components=names)


def at_levels(quantiles: np.ndarray, known: Sequence[float], levels: Sequence[float]) -> np.ndarray:
    """Quantiles (..., K) of the ascending levels `known` as quantiles (..., Q) of other `levels`.

    Between neighbours, and beyond the two outermost, the quantile is linear in the standard normal distribution's
    quantile of the same level: exact for a normal distribution, and at the levels that are known.
    """
    if len(known) < 2 or quantiles.shape[-1] != len(known):
        raise ValueError(
            f"{quantiles.shape[-1]} quantiles of {len(known)} levels can't be read at others; give one for each of at "
            "least two levels"
        )
    knots, wanted = norm.ppf(known), norm.ppf(levels)
    left = np.clip(np.searchsorted(knots, wanted, side="right") - 1, 0, len(knots) - 2)
    share = (wanted - knots[left]) / (knots[left + 1] - knots[left])
    return np.asarray(quantiles[..., left] * (1 - share) + quantiles[..., left + 1] * share)


def check_quantiles_asked(asked: bool, levels: Sequence[float]) -> None:
    """Refuses to answer a question for point forecasts with quantiles."""
    if not asked:
        raise ValueError(
            f"this model gives quantiles of {tuple(levels)}, but predict_likelihood_parameters is False; pass True, or "
            "build the model without levels"
        )
