"""What a model says of itself: members by step, pictures and a summary."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from darts import TimeSeries
from model_fixtures import make_model, wave

from darts_msft import MSFTFoundationModel

matplotlib.use("Agg")
LONG = {"input_chunk_length": 64, "finest_context": 16, "linear_member": None}
HORIZON = 8


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def series() -> TimeSeries:
    return wave(200, components=2)


@pytest.fixture(scope="module")
def fitted(tiny_moirai: str, series: TimeSeries) -> MSFTFoundationModel:
    return make_model(tiny_moirai, method="linear_probe", **LONG).fit(series[:130], val_series=series[60:])


@pytest.mark.parametrize("fits", [False, True])
def test_members_add_up_to_the_point_forecast(
    fitted: MSFTFoundationModel, series: TimeSeries, fits: bool, tiny_moirai: str
) -> None:
    model = fitted if fits else make_model(tiny_moirai, **LONG)
    told = model.explain(series)
    assert list(told.columns) == ["time", "component", "member", "weight", "forecast", "pull"]
    expected = model.predict(HORIZON, series)
    for component in series.components:
        of = told[told["component"] == component].copy()
        of["part"] = of["weight"] * of["forecast"].fillna(0)
        sums = of.groupby("time")[["weight", "part", "pull"]].sum()
        assert list(sums.index) == list(expected.time_index)
        np.testing.assert_allclose(sums["weight"], 1, atol=1e-6)
        np.testing.assert_allclose(sums["part"], expected[component].values()[:, 0], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(sums["pull"], 0, atol=1e-4)
    members = [f"scale {scale}" for scale in range(3)] + ["linear member"] * fits
    assert list(told["member"].unique()) == members[: told["member"].nunique()]


def test_the_picture_of_a_forecast_has_its_quantiles(fitted: MSFTFoundationModel, series: TimeSeries) -> None:
    second = str(series.components[1])
    axis = fitted.plot_forecast(series[:-5], actual=series, component=second)
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in axis.lines}
    told = fitted.predict_quantiles(HORIZON, series[:-5])
    np.testing.assert_allclose(drawn["median"], told[f"{second}_q0.500"].values()[:, 0])
    np.testing.assert_allclose(drawn["actual"], series[second].values()[-5:, 0])
    (band,) = axis.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert np.isclose(heights.max(), told[f"{second}_q0.900"].values().max())
    with pytest.raises(ValueError, match="component='none'"):
        fitted.plot_forecast(series, component="none")


def test_the_picture_of_the_scales(fitted: MSFTFoundationModel, series: TimeSeries) -> None:
    seen, said = fitted.plot_scales(series)
    assert [len(line.get_xdata()) for line in seen.lines] == [16, 16, 16]  # 16 steps, 16 means of 2, 16 of 4
    np.testing.assert_allclose(
        said.lines[-1].get_ydata(), fitted.predict(HORIZON, series).values()[:, 0], rtol=1e-4, atol=1e-4
    )


def test_the_picture_of_a_fit(tiny_moirai: str, fitted: MSFTFoundationModel) -> None:
    scores, moved = fitted.plot_fit()
    assert fitted.fit_report is not None
    widths = [bar.get_width() for bar in scores.patches]
    assert np.isclose(min(widths), min(fitted.fit_report.best, fitted.fit_report.naive))
    assert len(moved.patches) == len(fitted.fit_report.moved) > 0
    with pytest.raises(ValueError, match="call fit"):
        make_model(tiny_moirai).plot_fit()


def test_a_summary_counts_what_there_is(tiny_moirai: str, fitted: MSFTFoundationModel) -> None:
    told = fitted.summary()
    assert "scale 2: means of 4 steps, sees the last 64 steps, 4 + 1 tokens" in told
    assert f"{sum(one.numel() for one in fitted.model.parameters()):,}" in told
    assert f"{fitted.fit_report.trained_parameters:,} train" in told
    assert "no weights yet" in make_model(tiny_moirai).summary()


def test_covariates_are_those_of_predict(series: TimeSeries, tiny_moirai: str) -> None:
    """After a fit of two series with covariates of their own a forecast needs some, and so does what explains it."""
    model = make_model(tiny_moirai, method="linear_probe", multivariate="joint")
    known = wave(220, seed=5)
    model.fit([series[:100], series[100:]], future_covariates=[known, known])
    told = model.explain(series, future_covariates=known)
    first = told[told["component"] == str(series.components[0])]
    parts = (first["weight"] * first["forecast"]).groupby(first["time"]).sum()
    expected = model.predict(HORIZON, series, future_covariates=known).values()[:, 0]
    np.testing.assert_allclose(parts, expected, rtol=1e-4, atol=1e-4)
    assert model.plot_forecast(series, future_covariates=known).lines
    assert model.plot_scales(series, future_covariates=known)[1].lines
    with pytest.raises(ValueError, match="one TimeSeries at a time"):
        model.plot_forecast([series])


def test_only_scales_that_run_are_shown(series: TimeSeries, tiny_moirai: str) -> None:
    """Before a fit a model whose scales all see the same forecasts at one scale."""
    model = make_model(tiny_moirai)
    model.predict(HORIZON, series)
    assert "scale 1" not in model.summary()
    assert len(model.plot_scales(series)[0].lines) == 1


def test_what_a_scale_sees_has_means_of_what_was_observed(series: TimeSeries, tiny_moirai: str) -> None:
    values = series.all_values().copy()
    values[-1] = np.nan
    seen, _ = make_model(tiny_moirai, **LONG).plot_scales(series.with_values(values))
    coarse = seen.lines[1].get_ydata()
    assert np.isfinite(coarse).all()
    spread = np.nanmax(values[-64:, 0]) - np.nanmin(values[-64:, 0])
    assert np.isclose(coarse[-1], values[-2, 0, 0] - 1.1 * spread)
