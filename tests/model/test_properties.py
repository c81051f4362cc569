"""Whatever the lengths, settings and values: a forecast of numbers, or one clear error. Cases by hypothesis.

Conftest's profile tries a few, always the same; `pytest tests/model/test_properties.py --hypothesis-profile=long` many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from darts import TimeSeries
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import from_values, make_model, values_of

from darts_msft import MSFTFoundationModel

ARGUMENTS = st.fixed_dictionaries(
    {"input_chunk_length": st.integers(5, 60), "output_chunk_length": st.integers(1, 12)},
    optional={
        "output_chunk_shift": st.integers(0, 9),
        "num_scales": st.none() | st.integers(0, 3),
        "finest_context": st.none() | st.integers(5, 60),
        "patch_size": st.sampled_from([4, 8, "auto"]),
        "mixing": st.sampled_from(["mixture", "quantile", "samples", "first"]),
        "upsampling": st.sampled_from(["linear", "repeat"]),
        "likelihood": st.sampled_from(["native", None]),
        "multivariate": st.sampled_from(["independent", "joint"]),
        "lower": st.sampled_from(["auto", None, 0.0]),
        "sample_dependence": st.sampled_from(["copula", "independent"]),
    },
)


@st.composite
def some_series(draw: st.DrawFn, at_least: int = 10) -> TimeSeries:
    """A series of usual or extreme numbers, some of which may be missing; infinite numbers where half can't hold it."""
    shape = (draw(st.integers(at_least, at_least + 90)), draw(st.integers(1, 3)))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = {
        "waves": np.sin(np.arange(shape[0])[:, None] / 4 + rng.standard_normal(shape) / 9),
        "constant": np.ones(shape),
        "noise": rng.standard_normal(shape),
        "walk": rng.standard_normal(shape).cumsum(axis=0),
        "rare": (rng.random(shape) < 0.1).astype(float),
        "of all sizes": rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, shape),
        "grows": np.exp(np.arange(shape[0])[:, None] / 2) * np.ones(shape),
        "one step": np.where(np.arange(shape[0])[:, None] < shape[0] // 2, 1.0, -1e6) * np.ones(shape),
    }[draw(st.sampled_from(["waves", "constant", "noise", "walk", "rare", "of all sizes", "grows", "one step"]))]
    values = np.clip(values * 10.0 ** draw(st.sampled_from([0, 0, 3, -4, 12, -12, 30, -30])), -1e30, 1e30)
    values = values + draw(st.sampled_from([0.0, 0.0, 5.0, -1e6, 1e30]))
    missing = draw(st.sampled_from(["none", "none", "first", "last", "some", "most", "a component", "all"]))
    if missing in ("first", "last"):
        part = slice(0, draw(st.integers(0, shape[0]))) if missing == "first" else slice(-draw(st.integers(1, 9)), None)
        values[part] = np.nan
    elif missing in ("some", "most"):
        values[rng.random(shape) < (0.2 if missing == "some" else 0.95)] = np.nan
    elif missing != "none":
        values[:, : 1 if missing == "a component" else None] = np.nan
    with np.errstate(over="ignore"):  # half precision ends at 65,504
        return from_values(values.astype(draw(st.sampled_from(["float32", "float64", "float16"]))))


def forecasts(model: MSFTFoundationModel, series: TimeSeries, steps: int, way: str) -> TimeSeries:
    if way == "samples":
        return model.predict(steps, series, num_samples=3)
    if way == "quantiles":
        return model.predict_quantiles(steps, series)
    if way == "parameters":
        return model.predict(min(steps, model.output_chunk_length), series, predict_likelihood_parameters=True)
    return model.predict(steps, series)


def assert_of_numbers_or_one_error(
    checkpoint: str, arguments: dict[str, Any], series: TimeSeries, steps: int, way: str, fits: bool
) -> None:
    """NaN only where no scale sees a number; an error is a ValueError of one line."""
    refusal = None
    try:
        model = make_model(checkpoint, **{"patch_size": 4, "num_scales": None, "linear_member": None, **arguments})
        if fits:
            model.fit(series, val_series=series)
        found = forecasts(model, series, steps, way)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert len(refusal.splitlines()) == 1
        return
    numbers = values_of(found)
    known = np.isfinite(series.values()[-model.model.plan.reach :]).any(axis=0)
    columns = numbers.shape[1] // series.n_components
    finite = np.isfinite(numbers).all(axis=(0, 2)).reshape(series.n_components, columns).all(axis=1)
    if way != "parameters":  # a scale's statistics may be unknown
        assert np.isnan(numbers).reshape(len(numbers), series.n_components, -1)[:, ~known].all()
    assert finite[known].all()


WAYS = st.sampled_from(["points", "samples", "quantiles", "parameters"])


@given(arguments=ARGUMENTS, series=some_series(), steps=st.integers(1, 12) | st.integers(1, 40), way=WAYS)
def test_a_zero_shot_forecast(
    mixed_moirai: str, arguments: dict[str, Any], series: TimeSeries, steps: int, way: str
) -> None:
    assert_of_numbers_or_one_error(mixed_moirai, arguments, series, steps, way, False)


@settings(max_examples=settings().max_examples // 4)
@given(arguments=ARGUMENTS, series=some_series(40), way=WAYS)
def test_a_fit_and_its_forecast(mixed_moirai: str, arguments: dict[str, Any], series: TimeSeries, way: str) -> None:
    assert_of_numbers_or_one_error(mixed_moirai, arguments, series, arguments["output_chunk_length"], way, True)
