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


def test_beyond_the_horizon_and_of_points(tiny_moirai: str, series: TimeSeries) -> None:
    far = make_model(tiny_moirai).plot_forecast(series, n=12)
    assert [len(line.get_xdata()) for line in far.lines if line.get_label() == "median"] == [12]
    points = make_model(tiny_moirai, likelihood=None).plot_forecast(series, ax=plt.subplots()[1])
    assert not points.collections


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
