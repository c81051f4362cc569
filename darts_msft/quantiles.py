"""Forecasts of quantiles by level, through Darts' forecasts of a likelihood's parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from darts import TimeSeries
from darts.utils.likelihood_models.base import quantile_names
from darts.utils.likelihood_models.torch import QuantileRegression

from darts_msft.likelihoods import ByLevel, ScaleMixture
from darts_msft.module import MSFTModule


def predict_quantiles(
    model: Any, module: MSFTModule, n: int, series: Any, quantiles: Sequence[float], arguments: dict[str, Any]
) -> TimeSeries | list[TimeSeries]:
    """`MSFTFoundationModel.predict_quantiles`, with the model's module and further arguments of `predict`."""
    levels = _checked(quantiles)
    if n > module.output_chunk_length:
        raise ValueError(
            f"n={n} is more than output_chunk_length={module.output_chunk_length}: later steps follow from sampled "
            "ones; take quantiles of many samples there, from predict(n, series, num_samples=...)"
        )
    likelihood = module.likelihood
    if isinstance(likelihood, ScaleMixture):
        module._check_zero_shot()
        with _asked_by_level(module, likelihood, levels):
            found: TimeSeries | list[TimeSeries] = model.predict(
                n, series, predict_likelihood_parameters=True, **arguments
            )
        return found
    if not isinstance(likelihood, QuantileRegression):
        raise ValueError(
            "likelihood=None forecasts points alone; quantiles need another one, such as QuantileRegression"
        )
    if unknown := [level for level in levels if level not in likelihood.quantiles]:
        raise ValueError(
            f"quantiles={unknown} are not among those that the model learns: take some of {likelihood.quantiles}"
        )
    found = model.predict(n, series, predict_likelihood_parameters=True, **arguments)
    return (
        _of_levels(found, levels, likelihood)
        if isinstance(found, TimeSeries)
        else [_of_levels(one, levels, likelihood) for one in found]
    )


def _checked(quantiles: Sequence[float]) -> list[float]:
    levels = [float(level) for level in quantiles]
    if not levels or not all(0 < level < 1 for level in levels):
        raise ValueError(f"quantiles={quantiles!r} must be levels between 0 and 1, such as (0.1, 0.5, 0.9)")
    if len(set(quantile_names(levels))) < len(levels):
        raise ValueError(f"quantiles={quantiles!r} must differ in their first three decimals, which name them")
    return levels


@contextmanager
def _asked_by_level(module: MSFTModule, mixture: ScaleMixture, levels: list[float]) -> Iterator[None]:
    module.likelihood = ByLevel(mixture, levels)
    try:
        yield
    finally:
        module.likelihood = mixture


def _of_levels(forecast: TimeSeries, levels: list[float], likelihood: QuantileRegression) -> TimeSeries:
    """Some levels' components, in their order."""
    names, step = list(forecast.components), len(likelihood.quantiles)
    indices = [likelihood.quantiles.index(level) for level in levels]
    return forecast[[names[first + index] for first in range(0, len(names), step) for index in indices]]
