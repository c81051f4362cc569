"""Families of synthetic series that must keep promises: exact zeros, periods, bounds, and a share without noise."""

import numpy as np
import pytest
from scipy.special import ive
from series_statistics import assert_spread, autocorrelation, column

from darts_msft.pretraining import gaussian, processes, synthetic
from darts_msft.pretraining.gaussian import gaussian_process
from darts_msft.pretraining.synthetic import Cycles

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


def test_kernels_are_composed_by_sums_and_products(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The k-th kernel has frequency 10^k here: digits of a feature's frequency tell what was multiplied."""
    asked: list[np.ndarray] = []

    def kernel_frequency(rng: np.random.Generator, n: int, length: int, period: np.ndarray) -> np.ndarray:
        asked.append(period)
        return np.full((n, gaussian.FEATURES), 10.0 ** (len(asked) - 1))

    monkeypatch.setattr(gaussian, "_kernel_frequency", kernel_frequency)
    periods = np.tile([3.0, 7.0], (3000, 1))
    rows = [np.unique(row) for row in gaussian._composed_frequency(rng, 3000, 500, periods).astype(int)]
    assert len(asked) == 5
    assert np.mean(np.array(asked) == 3) == pytest.approx(0.6, abs=0.02)
    kernels = np.array([f"{sum(row)}".count("1") for row in rows])
    summands = np.array([len(row) for row in rows])
    np.testing.assert_allclose(np.bincount(kernels, minlength=6)[1:] / 3000, 0.2, atol=0.03)
    for used in range(1, 6):
        assert summands[kernels == used].mean() == pytest.approx(1 + (used - 1) / 2, abs=0.15)


def test_kernels_are_periodic_smooth_or_of_many_scales(rng: np.random.Generator) -> None:
    x = gaussian._kernel_frequency(rng, 6000, 1000, column(6000, 2.0))
    periodic = (2 * x % 1 == 0).all(axis=1)
    assert periodic.mean() == pytest.approx(0.5, abs=0.03)
    orders = np.abs(2 * x[periodic])
    assert orders.max() == 8
    # order 0 has twice the share of exp(cos(x) / l^2), whose Fourier coefficients are I_0 and twice I_k
    inverse = 1 / np.exp(np.linspace(np.log(0.3), np.log(2.0), 1001)) ** 2
    bessel = ive(np.arange(9)[:, None], inverse)
    shares = (bessel / bessel.sum(axis=0)).mean(axis=1)
    np.testing.assert_allclose(np.bincount(orders.astype(int).ravel(), minlength=9) / orders.size, shares, atol=0.015)
    spread = x[~periodic].std(axis=1) * 2 * np.pi * 1000  # inverse scales: 0.01 to 1 of the length, log-uniform
    np.testing.assert_allclose(np.quantile(spread, [0.1, 0.5, 0.9]), [1.6, 11, 70], rtol=0.25)
    kurtosis = (x[~periodic] ** 4).mean(axis=1) / (x[~periodic] ** 2).mean(axis=1) ** 2
    assert np.quantile(kurtosis, 0.75) == pytest.approx(3.75, abs=0.3)  # of both: normal, and with wider tails


def test_gaussian_draws_have_normal_amplitudes_lines_and_noise(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An eighth (0.12) each is added to or multiplied by a line; noise of 0.003 to 0.7 deviations comes last."""
    frequency = np.arange(10, 42) / 1000
    monkeypatch.setattr(gaussian, "_composed_frequency", lambda rng, n, length, periods: frequency[None].repeat(n, 0))
    size = np.abs(np.fft.rfft(gaussian_process(rng, 1000, np.ones((800, 2)))))[:, 10:42]
    assert np.median((size**4).mean(axis=1) / (size**2).mean(axis=1) ** 2) == pytest.approx(2.8, abs=0.5)
    frequency[:] = 0.02
    x = gaussian_process(rng, 1000, np.ones((2000, 2)))
    t, turns = np.linspace(-1, 1, 1000), 2 * np.pi * 0.02 * np.arange(1000)
    waves = [np.cos(turns), np.sin(turns)]
    design = np.stack([*waves, t, *(t * wave for wave in waves), np.ones(1000)], axis=1)
    weights = np.linalg.lstsq(design, x.T, rcond=None)[0]
    wave = np.hypot(*weights[:2])
    with_line, times_line = np.abs(weights[2]) / wave > 0.3, np.hypot(*weights[3:5]) / wave > 0.3
    assert (with_line.mean(), times_line.mean()) == pytest.approx((0.12 * 0.78, 0.12 * 0.87), abs=0.025)
    noise = (x - (design @ weights).T).std(axis=1) * np.sqrt(2) / wave
    assert_spread(noise[~with_line & ~times_line], 0.003, 0.7, slack=0.5)  # a few weak lines


def test_gaussian_periods_are_related_as_in_a_calendar(rng: np.random.Generator) -> None:
    first, second = synthetic._related_periods(rng, 3000, 1024, 1).T
    hourly = first == 24
    assert hourly.mean() == pytest.approx(0.31 * 0.96 * 2 / 3 + 1 / 90, abs=0.03)  # two thirds are the calendar's
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


def test_arma_follows_its_equation() -> None:
    """x has two real poles, a fifth of them negative, y two taps; a fifth of the rows is summed up."""
    e = np.random.default_rng(0).standard_normal((400, 100), dtype=np.float32)
    got, rng = processes.arma(np.random.default_rng(1), e), np.random.default_rng(1)
    poles = []
    for longest in (25, 20):
        sign = rng.choice([-1, 1], 400, p=[0.2, 0.8])
        poles.append(sign * np.exp(-1 / processes.log_uniform(rng, 0.3, longest, 400)))
    taps, summed = rng.uniform(-0.9, 0.9, (2, 400)), rng.random(400) < 0.2
    x = e.astype(np.float64)
    for pole in poles:
        for t in range(1, 100):
            x[:, t] = pole * x[:, t - 1] + np.sqrt(1 - pole**2) * x[:, t]
    y = x.copy()
    for lag in (1, 2):
        y[:, lag:] += taps[lag - 1][:, None] * x[:, :-lag]
    np.testing.assert_allclose(got, np.where(summed[:, None], np.cumsum(y, axis=1), y), atol=2e-3)


def test_seasonal_series_are_a_lasting_pattern_and_some_noise(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patterns last 2 to 100 cycles; the noise, a cosine here like the pattern, is 2 to 70 % as large."""
    wave = np.cos(2 * np.pi * np.outer([3, 5], np.arange(64)) / 64).astype(np.float32)
    kept = []

    def seasonal(rng: np.random.Generator, periods: np.ndarray, length: int, keep: np.ndarray) -> np.ndarray:
        kept.append(keep)
        assert periods.min() >= 4 * 4  # before resampling
        assert len(np.unique(periods)) > 100
        return wave[:1].repeat(len(keep), 0)

    monkeypatch.setattr(processes, "seasonal", seasonal)
    monkeypatch.setattr(processes, "stochastic", lambda rng, n, length: wave[1:].repeat(n, 0))
    size = np.abs(np.fft.rfft(synthetic.seasonal_series(rng, 1000, 64, factor=4)))
    assert_spread(size[:, 5] / size[:, 3], 0.02, 0.7)
    assert_spread(-1 / np.log(kept[0]), 2, 100, slack=0.02)


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


def test_daylight_comes_at_every_rate_and_hour(rng: np.random.Generator) -> None:
    """Of 24 steps a cycle or more, that is also for the 52.18 weeks of a year."""
    dawn = np.diff((synthetic.daylight(rng, 1400, 1440) > 0).astype(int), axis=1) > 0
    first, last = dawn.argmax(axis=1), 1438 - dawn[:, ::-1].argmax(axis=1)
    period = (last - first) / (dawn.sum(axis=1) - 1)
    near = np.abs(period[:, None] / np.array([288, 144, 96, 72, 48, 24, 52.18]) - 1) < 0.04
    assert near.any(axis=1).mean() > 0.98
    np.testing.assert_allclose(near.mean(axis=0), 1 / 7, atol=0.04)
    assert_spread(first[near[:, 5]] % 24, -0.5, 23.5, log=False, tolerance=0.12)


def test_daylight_follows_its_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers are 0.7 to 1.6, heights move with place and year, and clouds come with days and with steps."""
    monkeypatch.setattr(synthetic, "RATES", {"any": (1.0, 400, 7, 1e9)})
    memories: list[np.ndarray] = []

    def light(of_days: float, of_steps: float) -> np.ndarray:
        """Four days under clouds that come and go every other day, or every other step."""

        def ar1(rng: np.random.Generator, memory: np.ndarray, length: int) -> np.ndarray:
            size = of_steps if length == 1600 else of_days
            memories.append(memory)
            return (size * (np.arange(length) % 2)).astype(np.float32)[None].repeat(len(memory), 0)

        monkeypatch.setattr(processes, "ar1", ar1)
        return synthetic.daylight(np.random.default_rng(3), 1000, 1600, factor=4).astype(np.float64)

    clear = light(0, 0)
    assert_spread(memories[0], 0.3, 5)  # days
    assert_spread(memories[1], 4 * 0.3, 4 * 20)  # steps before resampling
    day = np.pi * (clear > 0).mean(axis=1)  # from noon to night, as an angle; half of the light comes in half of it
    half = np.nanmedian(np.where(clear > 0, clear, np.nan), axis=1) / clear.max(axis=1)
    assert_spread(
        np.log(half) / np.log((np.cos(day / 2) - np.cos(day)) / (1 - np.cos(day))), 0.7, 1.6, log=False, slack=0.15
    )
    assert np.cos(day).mean() == pytest.approx(0.05, abs=0.03)
    assert np.cos(day).std() == pytest.approx(np.sqrt(0.5**2 / 12 + 0.4**2 / 6), abs=0.025)
    for clouds, of_days, of_steps in ((light(4, 0), 0.74, 0), (light(0, 4), 0, 0.83)):
        clearness = np.where(clear > 0, clouds / np.maximum(clear, 1e-9), np.nan)
        changes = np.nanstd(clearness[:, ::2], axis=1), np.nanmedian(np.abs(np.diff(clearness)), axis=1)
        assert [(change > 0.05).mean() for change in changes] == pytest.approx([of_days, of_steps], abs=0.08)
    monkeypatch.setattr(synthetic, "RATES", {"any": (1.0, 400, 7, 1600)})
    days = (light(0, 0) > 0).reshape(1000, 4, 400).sum(axis=2)
    assert (np.ptp(days, axis=1) > 20).mean() > 0.7  # short in winter


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


def test_intermittent_series_follow_their_equation(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers of 0.5 to 2.5 of what is above the threshold; memories of 0.2 to 50 steps."""
    z, memories = np.linspace(-3, 3, 6001, dtype=np.float32), []
    monkeypatch.setattr(
        processes, "ar1", lambda rng, memory, length: memories.append(memory) or z[None].repeat(len(memory), 0)
    )
    x = synthetic.intermittent(rng, 1000, 6001)
    middle = (6000 + (x == 0).sum(axis=1)) // 2
    power = np.log2(x[:, -1] / x[np.arange(1000), middle])
    assert_spread(power, 0.5, 2.5, log=False, slack=0.02)
    assert_spread(memories[0], 0.2, 50)


def test_multiplied_noise_grows_with_the_level(rng: np.random.Generator) -> None:
    steps = np.repeat(np.float32([-3, -2, 2]), 200)[None].repeat(300, 0)  # 0, 1 and 5 above the lowest
    x = synthetic.multiply(rng, steps)
    assert (x[:, :200] == 0).all()
    low, high = x[:, 200:400], x[:, 400:]
    assert np.median(np.log(high.std(axis=1) / low.std(axis=1))) == pytest.approx(np.log(5), abs=0.2)
    size = np.log(low).std(axis=1)
    assert 0.01 < size.min() < 0.05
    assert 0.4 < size.max() < 0.8
    lasting = np.quantile(autocorrelation(np.log(low), 1), [0.1, 0.9])
    assert lasting[0] < 0.1
    assert lasting[1] > 0.7


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


# --- counts -----------------------------------------------------------------------------------------------------------


def test_counts_are_whole_and_some_are_mostly_zero(rng: np.random.Generator) -> None:
    x = synthetic.count_series(rng, 600, 512)
    assert (x >= 0).all()
    np.testing.assert_array_equal(x, np.round(x))
    assert 0.15 < ((x == 0).mean(axis=1) > 0.5).mean() < 0.5
    assert (x.mean(axis=1) > 20).mean() > 0.2
    assert np.median(x.var(axis=1) / x.mean(axis=1)) > 1.2


def test_counts_have_the_means_cycles_and_spread_of_their_equation(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Means of 0.08 to 0.8 in a third, else 0.8 to 300; in half a gamma factor (shape 0.5 to 20) spreads them."""
    cycle = np.zeros((1500, 1000), np.float32)
    monkeypatch.setattr(synthetic, "cyclic", lambda rng, periods, length, quiet, clean: cycle)
    x = synthetic.count_series(rng, 1500, 1000)
    mean = x.mean(axis=1)
    sparse = mean < 0.8
    assert sparse.mean() == pytest.approx(1 / 3, abs=0.04)
    assert_spread(mean[sparse], 0.08, 0.8, slack=0.3)
    assert_spread(mean[~sparse], 0.8, 300, slack=0.1)
    many = mean > 5
    excess = (x.var(axis=1)[many] - mean[many]) / mean[many] ** 2
    assert (excess > 0.03).mean() == pytest.approx(0.5, abs=0.06)
    assert_spread(1 / excess[excess > 0.03], 0.5, 20, slack=0.3, tolerance=0.1)
    cycle[:, 500:] = 1
    x = synthetic.count_series(rng, 1500, 1000)
    growth = np.log(x[many, 500:].mean(axis=1) / x[many, :500].mean(axis=1))
    assert_spread(growth[x[many].mean(axis=1) > 5], 0.1, 1.0, log=False, slack=0.4)
