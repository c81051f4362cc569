"""Families of synthetic series that must keep promises: exact zeros, periods, bounds, and a share without noise."""

import numpy as np
import pytest
from series_statistics import autocorrelation

from darts_msft.pretraining import processes, synthetic
from darts_msft.pretraining.gaussian import gaussian_process
from darts_msft.pretraining.synthetic import Cycles


def column(n: int, value: float) -> np.ndarray:
    return np.full(n, value, np.float32)


# --- Gaussian processes -----------------------------------------------------------------------------------------------


def test_gaussian_processes_use_their_periods_and_are_gaussian(rng: np.random.Generator) -> None:
    x = gaussian_process(rng, 768, np.full((600, 2), 24.0, np.float32))
    gain = autocorrelation(x, 24) - (autocorrelation(x, 12) + autocorrelation(x, 36)) / 2
    assert 0.3 < (gain > 0.15).mean() < 0.95
    np.testing.assert_allclose(x.std(axis=1), 1, atol=1e-3)
    assert np.median((x**4).mean(axis=1)) == pytest.approx(2.8, abs=0.5)
    assert (autocorrelation(x, 1) > 0.95).mean() > 0.1


def test_gaussian_processes_use_both_periods_together(rng: np.random.Generator) -> None:
    """Power at a frequency and its neighbours: of a day, of a week, and of neither."""
    x = gaussian_process(rng, 24 * 7 * 12, np.tile(np.float32([24, 168]), (400, 1)))
    power = np.abs(np.fft.rfft(x)) ** 2

    def peak(cycles: int) -> np.ndarray:
        nearby = power[:, cycles - 5 : cycles + 6].sum(axis=1)
        return power[:, cycles] / nearby > 0.8

    day, week, neither = peak(12 * 7), peak(12), peak(60 - 7)
    assert day.mean() > 0.15
    assert week.mean() > 0.1
    assert (day & week).mean() > 0.03
    assert neither.mean() < 0.02


def test_gaussian_periods_are_related_as_in_a_calendar(rng: np.random.Generator) -> None:
    first, second = synthetic._related_periods(rng, 3000, 1024, 1).T
    hourly = first == 24
    assert hourly.mean() > 0.1
    assert (second[hourly] == 168).mean() > 0.8
    assert (first[second == 52.18 * 5] == 52.18).all()
    assert (second > first).mean() > 0.97  # else tides: the second is half as long


# --- patterns ---------------------------------------------------------------------------------------------------------


def test_quiet_rows_repeat_almost_without_noise(rng: np.random.Generator) -> None:
    periods = Cycles(*(column(800, value) for value in (24, 1, 8766, 0)))

    def share_of_repeating_rows(quiet: float) -> float:
        x = processes.standardise(synthetic.cyclic(rng, periods, 768, quiet))
        change = (x[:, 24:] - x[:, :-24]).std(axis=1)
        assert (change > 0.5).mean() > 0.3
        return (change < 0.1).mean()

    assert share_of_repeating_rows(0.0) < 0.05
    assert 0.18 < share_of_repeating_rows(0.3) < 0.4


@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_seasonal_patterns_keep_as_much_as_asked_for(rng: np.random.Generator, keep: float) -> None:
    x = processes.seasonal(rng, column(300, 24), 960, column(300, keep))
    assert x.shape == (300, 960)
    for steps in (slice(0, 96), slice(-96, None)):
        assert x[:, steps].std() == pytest.approx(1, abs=0.07)
    assert np.mean(x[:, 24:] * x[:, :-24]) == pytest.approx(keep, abs=0.05)


def test_seasonal_patterns_follow_their_equation() -> None:
    keep, period, length = 0.8, 7, 30
    x = processes.seasonal(np.random.default_rng(1), column(1, period), length, column(1, keep))[0]
    again = np.random.default_rng(1)
    e = processes.ar1(again, processes.log_uniform(again, 0.3, 12, 1), length)[0]
    expected = e.copy()
    for t in range(period, length):
        expected[t] = keep * expected[t - period] + np.sqrt(1 - keep**2) * e[t]
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_arma_adds_poles_and_a_moving_average(rng: np.random.Generator) -> None:
    e = rng.standard_normal((800, 400), dtype=np.float32)
    x = processes.arma(rng, e)
    first, second = autocorrelation(x, 1), autocorrelation(x, 2)
    assert (first < -0.1).mean() > 0.05
    assert (first > 0.9).mean() > 0.1
    assert (np.abs(second - first**2) > 0.1).mean() > 0.2  # not an AR(1)
    assert np.isfinite(x).all()


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 4])
def test_daylight_is_zero_at_night_and_bounded_by_day(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    monkeypatch.setattr(synthetic, "RATES", {"hourly": (1.0, 24, 7, 8766)})
    x = synthetic.daylight(rng, 300, 960, factor)
    assert (x >= 0).all()
    assert x.max() < 1.7**1.6
    night = (x == 0).reshape(300, 40, 24)
    assert night.mean(axis=(1, 2)).min() > 0.25
    assert night.mean(axis=(1, 2)).max() < 0.75
    edges = (night[:, :, 1:] != night[:, :, :-1]).sum(axis=2) + (night[:, :, 0] != night[:, :, -1])
    assert (edges == 2).mean() > 0.95  # one day a day
    days = x.reshape(300, 40, 24).sum(axis=2)
    varied = days.std(axis=1) / days.mean(axis=1)
    assert (varied > 0.15).mean() > 0.2
    assert (varied < 0.05).mean() > 0.05


def test_intermittent_series_are_mostly_zero(rng: np.random.Generator) -> None:
    x = synthetic.intermittent(rng, 500, 512)
    assert (x >= 0).all()
    dry = (x == 0).mean(axis=1)
    assert dry.mean() == pytest.approx(0.735, abs=0.03)
    assert (dry > 0.9).mean() > 0.05
    wet = (x > 0).astype(float)
    lasting = [float(autocorrelation(row[None], 1)[0]) for row in wet if row.any()]
    assert np.quantile(lasting, 0.9) > 0.6
    assert np.quantile(lasting, 0.1) < 0.15


def test_multiplied_noise_grows_with_the_level(rng: np.random.Generator) -> None:
    steps = np.repeat(np.float32([0, 1, 5]), 200)[None].repeat(300, 0)
    x = synthetic.multiply(rng, steps)
    assert (x[:, :200] == 0).all()
    low, high = x[:, 200:400], x[:, 400:]
    assert np.median(np.log(high.std(axis=1) / low.std(axis=1))) == pytest.approx(np.log(5), abs=0.2)
    size = np.log(low).std(axis=1)
    assert 0.01 < size.min() < size.max() < 0.8


def test_every_family_has_its_share(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(synthetic.FAMILIES.values()) == pytest.approx(1)
    monkeypatch.setattr(synthetic, "ADDITIONS", ())
    monkeypatch.setattr(processes, "TRANSFORMS", {"none": 1.0})
    monkeypatch.setattr(synthetic, "MULTIPLIED", 0.0)
    x = synthetic.base_rows(rng, 4000, 256)
    zero = (x == 0).mean(axis=1) > 0.3
    expected = sum(synthetic.FAMILIES[name] for name in ("daylight", "intermittent")) + synthetic.FAMILIES["count"] / 3
    assert zero.mean() == pytest.approx(expected, abs=0.03)
    assert zero[: 4000 * 3 // 4].mean() < 0.002  # those families come last
