"""Synthetic series are reproducible, and each component has the statistics it is there for."""

from inspect import signature
from typing import Any

import numpy as np
import pytest
from series_statistics import autocorrelation

from darts_msft.pretraining import processes, synthetic
from darts_msft.pretraining.synthetic import Cycles, synthetic_series


def rows_at(n: int, short: float, middle: float = 1, long: float = 8766) -> Cycles:
    return Cycles(*(np.full(n, value, np.float32) for value in (short, middle, long, 0)))


def column(n: int, value: float) -> np.ndarray:
    return np.full(n, value, np.float32)


# --- whole batches ----------------------------------------------------------------------------------------------------


def test_the_generator_decides_every_bit() -> None:
    first, again, other = (synthetic_series(np.random.default_rng(seed), 40, 256) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unusable_lengths_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least 128"):
        synthetic_series(rng, 3, 100)


@pytest.mark.parametrize(("length", "size"), [(128, 1), (128, 300), (500, 3), (1024, 256), (4096, 33)])
def test_batches_are_finite_float32_and_never_constant(length: int, size: int) -> None:
    rng = np.random.default_rng(11)
    for _ in range(3):
        batch = synthetic_series(rng, size, length)
        assert batch.shape == (size, length)
        assert batch.dtype == np.float32
        assert np.isfinite(batch).all()
        assert (np.ptp(batch, axis=1) > 0).all()


def test_batches_spread_over_scales_signs_and_degrees_of_noise() -> None:
    batch = synthetic_series(np.random.default_rng(5), 1000, 512).astype(np.float64)
    scale = np.log10(batch.std(axis=1))
    assert scale.min() < -0.8
    assert scale.max() > 3.7
    assert 0.1 < (batch.mean(axis=1) < 0).mean() < 0.5
    roughness = 1 - autocorrelation(batch, 1)  # 0 smooth, 1 white
    assert (roughness < 0.05).mean() > 0.15
    assert (roughness > 0.4).mean() > 0.15


def test_copying_the_best_calendar_period_pays_in_most_rows() -> None:
    batch = processes.standardise(synthetic_series(np.random.default_rng(5), 500, 1024))
    target, horizon = batch[:, -96:], np.arange(928, 1024)
    error = {0: np.abs(target - batch[:, 927:928]).mean(axis=1)}
    for period in (7, 12, 24, 48, 96, 144, 168, 288):
        back = -(-(horizon - 927) // period) * period  # whole periods back into the context
        error[period] = np.abs(target - batch[:, horizon - back]).mean(axis=1)
    assert (np.min([error[key] for key in error if key], axis=0) < error[0]).mean() > 0.65
    assert (error[24] < 0.7 * error[0]).mean() > 0.12  # 24 helps its own multiples too


def test_flipping_reversing_and_adding_act_on_the_share_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def shapes(**shares: float) -> np.ndarray:
        for name in ("FLIPPED", "REVERSED"):
            monkeypatch.setattr(synthetic, name, shares.get(name, 0.0))
        batch = synthetic_series(np.random.default_rng(2), 100, 256).astype(np.float64)
        return (batch - batch.mean(axis=1, keepdims=True)) / batch.std(axis=1, keepdims=True)

    plain = shapes()
    np.testing.assert_allclose(shapes(FLIPPED=1.0), -plain, atol=1e-3)
    np.testing.assert_allclose(shapes(REVERSED=1.0), plain[:, ::-1], atol=1e-3)

    def ramps(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
        return np.linspace(0, 1, length)[None].repeat(n, 0)

    monkeypatch.setattr(synthetic, "ADDITIONS", ((0.5, ramps, 40.0, 50.0),))
    rows = synthetic.base_rows(np.random.default_rng(0), 1000, 256)
    rising = rows[:, 192:].mean(axis=1) - rows[:, :64].mean(axis=1) > 2 * rows[:, :64].std(axis=1) + 0.5
    assert 0.3 < rising.mean() < 0.6


# --- cycles -----------------------------------------------------------------------------------------------------------


def test_all_cyclic_rows_are_as_quiet_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that counts are drawn around too: the share tells the first batches from the later ones."""
    asked = []
    cyclic = synthetic.cyclic

    def record(*arguments: Any, **named: Any) -> np.ndarray:
        asked.append(signature(cyclic).bind(*arguments, **named).arguments["quiet"])
        return cyclic(*arguments, **named)

    monkeypatch.setattr(synthetic, "cyclic", record)
    synthetic_series(np.random.default_rng(0), 200, 256, 0.7)
    assert asked == [0.7] * 4  # cyclic and count rows, at both rates


@pytest.mark.parametrize("period", [24, 96, 52.18])
def test_cycles_repeat_at_their_period(rng: np.random.Generator, period: float) -> None:
    lag = round(period)
    clean = synthetic.cyclic(rng, rows_at(300, period), 1024, clean=True)
    noisy = synthetic.cyclic(rng, rows_at(300, period), 1024)
    assert np.median(autocorrelation(clean, lag)) > 0.8
    assert np.median(autocorrelation(clean, lag) - autocorrelation(clean, lag // 2)) > 0.5
    assert np.median(autocorrelation(noisy, lag)) > 0.4
    naive, last = noisy[:, -lag:] - noisy[:, -2 * lag : -lag], noisy[:, -lag:] - noisy[:, -lag - 1 : -lag]
    assert (np.abs(naive).mean(axis=1) < np.abs(last).mean(axis=1)).mean() > 0.65


def test_weekdays_repeat_after_a_week_only_where_there_are_weeks(rng: np.random.Generator) -> None:
    def weekly_gain(middle: int) -> float:
        x = synthetic.cyclic(rng, rows_at(400, 24, middle), 2048, clean=True)
        x = np.diff(x.reshape(400, 2048 // 8, 8).mean(axis=2), axis=1)  # the slow level aside
        neighbours = (autocorrelation(x, 6 * 3) + autocorrelation(x, 8 * 3)) / 2
        return float(np.mean(autocorrelation(x, 7 * 3) - neighbours))

    assert weekly_gain(7) > 0.04
    assert abs(weekly_gain(1)) < 0.015


def test_weekends_holidays_and_variation_from_cycle_to_cycle(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    gain, offset = synthetic.cycle_effects(rng, column(500, 1), 70, column(500, 1))
    for effect, share in ((gain, 0.7), (offset, 0.6)):
        assert (np.ptp(effect, axis=1) > 1e-6).mean() == pytest.approx(share, abs=0.08)
    monkeypatch.setattr(processes, "ar1", lambda rng, memory, length: np.zeros((len(memory), length), np.float32))
    monkeypatch.setattr(synthetic, "WEEKDAYS", 1.0)
    monkeypatch.setattr(synthetic, "HOLIDAYS", 0.0)
    for effect in synthetic.cycle_effects(rng, column(500, 7), 70, column(500, 1)):
        weeks = effect.reshape(500, 10, 7)
        np.testing.assert_array_equal(weeks, weeks[:, :1].repeat(10, 1))
        weekend = np.abs(weeks[:, 0, 0] - weeks[:, 0, 2:].mean(axis=1))
        assert (weekend > 0.3).mean() > 0.3
    monkeypatch.setattr(synthetic, "HOLIDAYS", 1.0)
    gain, _ = synthetic.cycle_effects(rng, column(500, 7), 70, column(500, 1))
    odd = gain.reshape(500, 10, 7) != np.median(gain.reshape(500, 10, 7), axis=1, keepdims=True)
    assert odd[:, :, 2:].mean() == pytest.approx(0.04, abs=0.01)


def test_amplitudes_are_modulated_slowly_in_some_rows(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    factor = synthetic.modulation(rng, column(1000, 24), 1000)
    assert (factor > 0).all()
    moving = np.ptp(factor, axis=1) > 1e-6
    assert moving.mean() == pytest.approx(1 - 0.85 * 0.75, abs=0.06)
    assert np.median(np.ptp(np.log(factor[moving]), axis=1)) > 0.3
    assert np.median(autocorrelation(factor[moving], 3)) > 0.95
    monkeypatch.setattr(synthetic, "modulation", lambda rng, short, length: np.float32(0))
    x = synthetic.cyclic(rng, rows_at(200, 24, long=1e9), 512, clean=True)  # what is left without any amplitude
    assert np.median(np.ptp(x, axis=1)) == 0


def test_phases_drift_only_where_free(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(processes, "per_cycle", lambda table, phase, blend: seen.append(phase) or phase * 0 + 1)
    periods = rows_at(200, 20)
    synthetic.cyclic(rng, periods, 512, clean=True)
    synthetic.cyclic(rng, periods._replace(free=column(200, 1)), 512, clean=True)
    fixed, free = (np.ptp(np.diff(phase, axis=1), axis=1) > 1e-3 for phase in (seen[0], seen[2]))
    assert not fixed.any()
    assert 0.1 < free.mean() < 0.5


def test_rates_carry_real_periods(rng: np.random.Generator) -> None:
    hours = {"5min": 1 / 12, "10min": 1 / 6, "15min": 1 / 4, "20min": 1 / 3, "30min": 1 / 2, "hourly": 1, "3hourly": 3}
    for name, step in hours.items():
        _, short, middle, long = synthetic.RATES[name]
        assert (short * step, middle) == (pytest.approx(24), 7)
        assert long * step == pytest.approx(8766)
    assert sum(rate[0] for rate in synthetic.RATES.values()) == pytest.approx(1)
    periods = synthetic.cycles(rng, 4000, 2000, 1024, 1)
    assert np.mean(periods.short[:4000] == 24) == pytest.approx(synthetic.RATES["hourly"][0], abs=0.05)
    tides = np.isclose(periods.short[:4000], 12.42)
    assert 0.002 < tides.mean() < 0.05
    np.testing.assert_allclose(periods.long[:4000][tides], 12)
    assert not periods.free[:4000].any()
    assert periods.free[4000:].all()
    assert np.isin(np.arange(5, 40), np.unique(np.round(periods.short[4000:]))).all()


def test_resampled_cycles_keep_at_least_four_steps(rng: np.random.Generator) -> None:
    for factor in (2, 4, 8):
        assert (synthetic.cycles(rng, 500, 500, 256 * factor, factor).short >= 4 * factor).all()
    x = synthetic.cyclic(rng, rows_at(200, 96), 2048, clean=True)
    slowed = synthetic.resample(rng, x, 4)
    assert np.median(autocorrelation(slowed, 24) - autocorrelation(slowed, 12)) > 0.5
    means = np.isclose(slowed, x.reshape(200, 512, 4).mean(axis=2)).all(axis=1)
    points = np.isclose(slowed, x[:, ::4]).all(axis=1)
    assert (means | points).all()
    assert 0.1 < points.mean() < 0.4


@pytest.mark.parametrize("shape", processes.SHAPES)
def test_cycle_shapes_are_standard(rng: np.random.Generator, shape: str) -> None:
    table = processes.cycle_shapes(rng, 100, {shape: 1.0})
    np.testing.assert_allclose(table.std(axis=1), 1, atol=1e-3)
    based, centred = np.isclose(table.min(axis=1), 0, atol=1e-4), np.isclose(table.mean(axis=1), 0, atol=1e-4)
    assert (based ^ centred).all()
    assert 0.3 < based.mean() < 0.7
    night = (table <= table.min(axis=1, keepdims=True) + 1e-4).mean(axis=1)
    if shape == "solar":
        assert ((night > 0.3) & (night < 0.7)).all()
    jumps = np.abs(np.diff(table, axis=1)).max(axis=1)
    assert np.median(jumps) < (1.0 if shape == "rough" else 0.4)


def test_tables_are_read_as_a_slow_loop_reads_them(rng: np.random.Generator) -> None:
    table, phase = rng.random((4, 8)).astype(np.float32), (12 * rng.random((4, 50))).astype(np.float32)
    got, smooth_got = processes.look_up(table, phase), processes.per_cycle(np.tile(table, 2), phase, column(4, 1))
    step_got = processes.per_cycle(np.tile(table, 2), phase, column(4, 0))
    for row in range(4):
        expected = np.interp(phase[row] % 1, np.arange(9) / 8, np.append(table[row], table[row, 0]))
        np.testing.assert_allclose(got[row], expected, atol=1e-5)
        cycles = np.tile(table[row], 2)
        np.testing.assert_allclose(smooth_got[row], np.interp(phase[row], np.arange(16), cycles), atol=1e-5)
        np.testing.assert_array_equal(step_got[row], cycles[phase[row].astype(int)])


def test_noise_follows_the_cycle_in_some_rows(rng: np.random.Generator) -> None:
    high = np.tile(np.repeat(np.float32([-1, 1]), 12), 40)[None].repeat(600, 0)
    noise = np.diff(synthetic.disturbances(rng, column(600, 24), high), axis=1)
    ratio = np.log(noise[:, high[0, 1:] > 0].std(axis=1) / noise[:, high[0, 1:] < 0].std(axis=1))
    assert 0.05 < (np.abs(ratio) > 0.5).mean() < 0.4
    assert np.median(np.abs(ratio)) < 0.2


# --- noises -----------------------------------------------------------------------------------------------------------


def test_heavy_innovations_have_heavy_tails_and_others_do_not(rng: np.random.Generator) -> None:
    heavy = np.repeat(np.float32([0, 1]), 100)
    e = processes.innovations(rng, heavy, 4000)
    kurtosis = (e**4).mean(axis=1) / (e**2).mean(axis=1) ** 2
    assert np.abs(kurtosis[:100] - 3).max() < 0.6
    assert np.median(kurtosis[100:]) > 6
    np.testing.assert_allclose(np.median(e.std(axis=1)[100:]), 1, atol=0.15)


@pytest.mark.parametrize("memory", [0.05, 3, 30])
def test_ar1_is_stationary_with_the_memory_asked_for(rng: np.random.Generator, memory: float) -> None:
    x = processes.ar1(rng, column(2000, memory), 200)
    for step in (0, 5, 199):
        assert x[:, step].std() == pytest.approx(1, abs=0.06)
    lag = max(round(memory), 1)
    assert (x[:, :-lag] * x[:, lag:]).mean() == pytest.approx(np.exp(-lag / memory), abs=0.05)


def test_smooth_has_unit_variance_and_little_roughness(rng: np.random.Generator) -> None:
    x, rough = processes.smooth(rng, column(500, 20), 1000), processes.ar1(rng, column(500, 20), 1000)
    assert x[:, 200:].std() == pytest.approx(1, abs=0.05)
    assert np.diff(x, axis=1).std() < 0.4 * np.diff(rough, axis=1).std()


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_coloured_noise_has_its_spectral_slope(rng: np.random.Generator, slope: float) -> None:
    x = processes.coloured(rng, column(300, slope), 2048) * np.hanning(2048)
    power, frequency = (np.abs(np.fft.rfft(x)) ** 2).mean(axis=0)[8:400], np.arange(8, 400)
    fitted = np.polyfit(np.log(frequency), np.log(power), 1)[0]
    assert -fitted == pytest.approx(slope, abs=0.15)


def test_stochastic_kinds_differ_as_they_should(rng: np.random.Generator) -> None:
    first = {kind: autocorrelation(processes.stochastic(rng, 200, 1000, kind), 1) for kind in processes.NOISES}
    assert np.abs(np.median(first["white"])) < 0.05
    assert np.ptp(first["ar1"]) > 0.7  # from white to nearly a walk
    assert np.median(first["walk"]) > 0.95
    step = np.diff(processes.stochastic(rng, 200, 1000, "walk"), axis=1)
    assert np.abs(np.median(autocorrelation(step, 1))) < 0.05
    smooth_step = np.diff(processes.stochastic(rng, 200, 1000, "smooth_walk"), axis=1)
    assert np.median(autocorrelation(smooth_step, 1)) > 0.5


def test_oscillations_concentrate_around_one_frequency(rng: np.random.Generator) -> None:
    def concentration(kind: str) -> float:
        power = np.abs(np.fft.rfft(processes.stochastic(rng, 200, 1024, kind)))[:, 8:] ** 2  # periods below L / 8
        peak = np.argmax(power, axis=1)[:, None]
        near = np.abs(np.arange(power.shape[1])[None] - peak) <= 8
        return float(np.median((power * near).sum(axis=1) / power.sum(axis=1)))

    assert concentration("oscillation") > 2.5 * concentration("white")


def test_volatility_is_positive_and_lasts(rng: np.random.Generator) -> None:
    factor = processes.volatility(rng, 400, 1000)
    assert (factor > 0).all()
    assert np.median(autocorrelation(np.log(factor[np.ptp(factor, axis=1) > 0]), 5)) > 0.7
    two_levels = np.array([len(np.unique(row)) <= 2 for row in factor])
    assert 0.35 < two_levels.mean() < 0.65


# --- counts, breaks, transforms, mixtures ---------------------------------------------------------


def test_counts_are_whole_and_some_are_mostly_zero(rng: np.random.Generator) -> None:
    x = synthetic.count_series(rng, 600, 512)
    assert (x >= 0).all()
    np.testing.assert_array_equal(x, np.round(x))
    assert 0.15 < ((x == 0).mean(axis=1) > 0.5).mean() < 0.5
    assert (x.mean(axis=1) > 20).mean() > 0.2
    assert np.median(x.var(axis=1) / x.mean(axis=1)) > 1.2


def test_trends_shifts_and_spikes(rng: np.random.Generator) -> None:
    trend = processes.trend(rng, 300, 500)
    np.testing.assert_allclose(np.ptp(trend, axis=1), 1, atol=0.05)
    bends = np.abs(np.diff(trend, n=2, axis=1)) > 1e-5
    assert (bends.sum(axis=1) == 0).mean() > 0.25
    assert (bends.sum(axis=1) > 0).mean() > 0.25
    shifts = np.count_nonzero(np.diff(processes.level_shifts(rng, 300, 500), axis=1), axis=1)
    assert shifts.max() == 3
    assert shifts.min() <= 1
    spikes = processes.spikes(rng, 300, 500)
    assert ((spikes >= 0).all(axis=1) | (spikes <= 0).all(axis=1)).all()
    assert 0.001 < (np.abs(spikes) > 2).mean() < 0.05
    assert np.abs(spikes).max() > 5


def test_transforms_keep_order_and_bounds(rng: np.random.Generator) -> None:
    z = np.sort(rng.standard_normal((50, 300)).astype(np.float32), axis=1)
    for kind in processes.TRANSFORMS:
        y = processes.transform(rng, z, kind)
        assert (np.diff(y, axis=1) >= -1e-6).all(), kind
        ties = ((y == y[:, :1]).mean(axis=1), (y == y[:, -1:]).mean(axis=1))
        match kind:
            case "none":
                np.testing.assert_array_equal(y, z)
            case "exp" | "softplus":
                assert (y > 0).all()
            case "logistic":
                assert ((y > 0) & (y < 1)).all()
            case "floor":
                assert np.median(ties[0]) > 0.1
            case "cap":
                assert np.median(ties[1]) > 0.05
            case "round":
                assert max(len(np.unique(row)) for row in y) < 100


def test_mixing_replaces_a_share_by_convex_combinations(rng: np.random.Generator) -> None:
    x = processes.standardise(rng.standard_normal((2000, 128)).astype(np.float32))
    mixed = synthetic.mix(rng, x)
    changed = ~np.isclose(mixed, x, atol=1e-5).all(axis=1)
    assert changed.mean() == pytest.approx(synthetic.MIXED, abs=0.03)
    for row in np.flatnonzero(changed)[:20]:
        parts = x[[row, (row + 1) % 2000, (row + 2) % 2000]].T
        weights, rest, *_ = np.linalg.lstsq(parts, mixed[row], rcond=None)
        assert rest < 1e-4
        assert weights.min() > -1e-3
    assert synthetic.mix(rng, np.zeros((3, 128), np.float32)).std(axis=1).min() > 0.5  # constant rows become noise


def test_placing_changes_only_offset_and_scale(rng: np.random.Generator) -> None:
    x = processes.standardise(rng.standard_normal((500, 128)).astype(np.float32))
    placed = synthetic.place(rng, x)
    np.testing.assert_allclose(processes.standardise(placed / placed.std(axis=1, keepdims=True)), x, atol=1e-3)
    assert 0.2 < np.isclose(placed.min(axis=1), 0, atol=1e-6).mean() < 0.4
