"""Each component of the synthetic series has the statistics it is there for."""

import numpy as np
import pytest
from series_statistics import assert_spread, autocorrelation, column, record

from darts_msft.pretraining import processes, synthetic
from darts_msft.pretraining.synthetic import Cycles, synthetic_series

QUANTILES = np.array([0.1, 0.5, 0.9])


def rows_at(n: int, short: float, middle: float = 1, long: float = 8766) -> Cycles:
    return Cycles(*(np.full(n, value, np.float32) for value in (short, middle, long, 0)))


# --- cycles -----------------------------------------------------------------------------------------------------------


def test_all_cyclic_rows_are_as_quiet_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that counts are drawn around too: the share tells the first batches from the later ones."""
    calls = record(monkeypatch, synthetic, "cyclic")
    synthetic_series(np.random.default_rng(0), 2000, 128, 0.7)
    asked = [call.asked for call in calls]
    assert [(call["quiet"], call["clean"]) for call in asked] == [(0.7, False), (0.7, True)] * 2  # both rates
    assert asked[1]["periods"].free.mean() == pytest.approx(1 / 3, abs=0.03)  # of the counts' cycles


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


def test_weekdays_weekends_and_holidays_have_their_shares_and_sizes(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the rows with weekdays 80 % rest at weekends (three in four for two days), 15 % on 4 % of all days."""
    monkeypatch.setattr(processes, "ar1", lambda rng, memory, length: np.zeros((len(memory), length), np.float32))
    gain, offset = synthetic.cycle_effects(rng, column(4000, 7), 280, column(4000, 1))
    with_days = np.ptp(offset, axis=1) > 0
    assert with_days.mean() == pytest.approx(0.55, abs=0.03)
    gain, offset = (effect[with_days].reshape(-1, 40, 7) for effect in (gain, offset))
    rest = ~np.isclose(gain, 1 + 0.5 * offset, atol=1e-4)  # a working day's gain and level belong together
    weekend = rest.mean(axis=1) > 0.9
    np.testing.assert_allclose(weekend.mean(axis=0), [0.8, 0.6, 0, 0, 0, 0, 0], atol=0.04)
    odd = rest[:, :, 2:].mean(axis=(1, 2))
    assert (odd > 0).mean() == pytest.approx(0.15, abs=0.03)
    assert odd[odd > 0].mean() == pytest.approx(0.04, abs=0.005)
    np.testing.assert_allclose(np.quantile(gain[weekend[:, 0], 0, 0], [0.1, 0.5, 0.9]), [0.2, 0.6, 1.0], atol=0.08)
    level = offset[weekend[:, 0], 0, 0]
    assert (level.mean(), level.std()) == pytest.approx((-0.4, 0.7), abs=0.06)
    assert offset[:, 0, 2:].std() == pytest.approx(0.25 / np.sqrt(3), abs=0.02)


def test_cycles_vary_from_one_to_the_next_unless_quiet(rng: np.random.Generator) -> None:
    """Deviations are log-uniform: 0.02 to 0.6 (log gain) or 0.03 to 1.2 (offset); so are memories: 0.3 to 20 cycles."""
    gain, offset = synthetic.cycle_effects(rng, column(700, 1), 1500, column(700, 1))
    for effect, share, low, high in ((np.log(gain), 0.7, 0.02, 0.6), (offset, 0.6, 0.03, 1.2)):
        size = effect.std(axis=1)
        varying = size > 1e-5
        assert varying.mean() == pytest.approx(share, abs=0.06)
        sizes, lasting = np.quantile(size[varying], QUANTILES), autocorrelation(effect[varying], 1)
        np.testing.assert_allclose(sizes, low * (high / low) ** QUANTILES, rtol=0.3)
        np.testing.assert_allclose(np.quantile(lasting, QUANTILES), np.exp(-1 / (0.3 * 67**QUANTILES)), atol=0.1)
    gain, offset = synthetic.cycle_effects(rng, column(200, 1), 100, column(200, 0))
    assert (gain == 1).all()
    assert (offset == 0).all()


def test_cyclic_rows_add_up_as_their_equation_says(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {name: record(monkeypatch, synthetic, name) for name in ("cycle_effects", "modulation", "disturbances")}
    parts |= {name: record(monkeypatch, processes, name) for name in ("cycle_shapes", "look_up", "per_cycle")}
    x = synthetic.cyclic(rng, rows_at(1200, 24, 7, 300), 600, quiet=0.3)
    gain, offset = parts["per_cycle"]
    shape, year = parts["look_up"]
    modulated = parts["modulation"][0].made * (gain.made * shape.made + offset.made)
    unrest = parts["cycle_effects"][0].asked["unrest"]
    rest = x - modulated - unrest[:, None] * parts["disturbances"][0].made
    size = (rest * year.made).sum(axis=1) / (year.made**2).sum(axis=1)
    np.testing.assert_allclose(rest, size[:, None] * year.made, atol=2e-3)
    assert (size > 0.05).mean() == pytest.approx(0.6, abs=0.05)
    assert_spread(size[size > 0.05], 0.1, 2.0)
    assert (unrest < 1).mean() == pytest.approx(0.3, abs=0.05)
    assert_spread(unrest[unrest < 1], 0.001, 0.05)
    for part, effect in zip((gain, offset), parts["cycle_effects"][0].made, strict=True):
        np.testing.assert_array_equal(part.asked["table"], effect)
        assert part.asked["phase"] is shape.asked["phase"]
        assert part.asked["blend"].mean() == pytest.approx(0.5, abs=0.06)
    for part, calls, steps in ((shape, parts["cycle_shapes"][0], 24), (year, parts["cycle_shapes"][1], 300)):
        assert part.asked["table"] is calls.made
        np.testing.assert_allclose(np.diff(part.asked["phase"], axis=1), 1 / steps, atol=2e-5)
        assert_spread(part.asked["phase"][:, 0] % 1, 0, 1, log=False)
    assert_spread(shape.asked["phase"][:, 0] // 1 % 7, 0, 6.5, log=False, tolerance=0.1)  # of the week
    assert parts["cycle_shapes"][1].asked["shares"] == {"harmonic": 0.9, "saw": 0.1}  # a smooth year
    np.testing.assert_allclose(parts["disturbances"][0].asked["shape"], processes.standardise(shape.made), atol=1e-4)


def test_levels_and_noise_of_cyclic_rows_have_their_shares_and_sizes(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tones of 3 (smooth level), 5 (other level) and 7 cycles (noise, times 11 where there are regimes)."""

    def tone(cycles: int, n: int) -> np.ndarray:
        return np.cos(2 * np.pi * cycles * np.arange(512) / 512)[None].repeat(n, 0).astype(np.float32)

    monkeypatch.setattr(processes, "smooth", lambda rng, memory, length: tone(3, len(memory)))
    monkeypatch.setattr(
        processes, "ar1", lambda rng, memory, length, heavy=None: tone(5 if heavy is None else 7, len(memory))
    )
    monkeypatch.setattr(processes, "volatility", lambda rng, n, length: tone(11, n))
    smooth, ar1 = (record(monkeypatch, processes, name) for name in ("smooth", "ar1"))
    shape = np.repeat(np.float32([-1, 1]), 256)[None].repeat(4000, 0)
    size = np.abs(np.fft.rfft(synthetic.disturbances(rng, column(4000, 50), shape))) / 256
    with_cycle = np.delete(size, [3, 5, 7, 4, 18], axis=1).max(axis=1) > 1e-5
    regimes = ~with_cycle & (size[:, 18] > 1e-5)
    assert (with_cycle.mean(), regimes.mean()) == pytest.approx((0.175, 0.175), abs=0.025)
    plain = size[~with_cycle & ~regimes]
    level = plain[:, 3] + plain[:, 5]
    assert (level > 0.01).mean() == pytest.approx(0.8, abs=0.03)
    assert (plain[:, 3] > 0.01).mean() == pytest.approx(0.8 * 0.4, abs=0.03)
    assert_spread(level[level > 0.01], 0.03, 2.5)
    assert_spread(plain[:, 7], 0.02, 1.3)
    assert_spread(np.concatenate([smooth[0].asked["memory"], ar1[0].asked["memory"]]) / 50, 0.1, 10)
    assert_spread(ar1[1].asked["memory"], 0.1, 6)
    assert ar1[1].asked["heavy"].mean() == pytest.approx(0.2, abs=0.025)


def test_amplitudes_are_modulated_slowly_in_some_rows(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    factor = synthetic.modulation(rng, column(1000, 24), 1000)
    assert (factor > 0).all()
    moving = np.ptp(factor, axis=1) > 1e-6
    assert moving.mean() == pytest.approx(1 - 0.85 * 0.75, abs=0.06)
    assert np.median(np.ptp(np.log(factor[moving]), axis=1)) > 0.3
    assert np.median(autocorrelation(factor[moving], 3)) > 0.95
    monkeypatch.setattr(processes, "smooth", lambda rng, memory, length: np.ones((len(memory), length), np.float32))
    log = np.log(synthetic.modulation(rng, column(4000, 8), 300))  # a drift is a constant now
    beat, drift = np.ptp(log, axis=1) > 1e-3, np.abs(log[:, 0]) > 1e-3
    assert (beat.mean(), drift[~beat].mean()) == pytest.approx((0.15, 0.25), abs=0.025)
    assert_spread(log[drift & ~beat, 0], 0.05, 0.7)
    assert_spread(np.ptp(log[beat], axis=1) / 2, 0.1, 0.9, log=False)
    turns = np.count_nonzero(np.diff(np.sign(np.diff(log[beat]))), axis=1)  # two a beat of 3 to 30 cycles
    assert_spread(turns, 2 * 300 / (30 * 8), 2 * 300 / (3 * 8), slack=0.12, tolerance=0.12)
    monkeypatch.setattr(synthetic, "modulation", lambda rng, short, length: np.float32(0))
    x = synthetic.cyclic(rng, rows_at(200, 24, long=1e9), 512, clean=True)  # what is left without any amplitude
    assert np.median(np.ptp(x, axis=1)) == 0


def test_phases_drift_only_where_free(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in ten by up to 0.4 cycles times a random process, a ramp from 0 to 1 here."""
    ramp = np.linspace(0, 1, 512, dtype=np.float32)[None]
    monkeypatch.setattr(processes, "smooth", lambda rng, memory, length: ramp.repeat(len(memory), 0))
    smooth, seen = (record(monkeypatch, processes, name) for name in ("smooth", "per_cycle"))
    periods = rows_at(2000, 20)
    synthetic.cyclic(rng, periods, 512, clean=True)
    synthetic.cyclic(rng, periods._replace(free=column(2000, 1)), 512, clean=True)
    fixed, free = (seen[call].asked["phase"] for call in (0, 2))
    fixed, free = (np.abs(phase[:, -1] - phase[:, 0] - 511 / 20) for phase in (fixed, free))
    assert (fixed < 1e-3).all()
    assert (free > 5e-3).mean() == pytest.approx(0.3, abs=0.03)
    assert_spread(free[free > 5e-3], 0.01, 0.4)
    assert_spread(smooth[2].asked["memory"], 51.2, 1024)  # slow: a tenth of the length to twice the length


@pytest.mark.parametrize("factor", [1, 4])
def test_arbitrary_periods_are_spread_and_a_third_is_the_calendars(rng: np.random.Generator, factor: int) -> None:
    x = synthetic.cycles(rng, 0, 6000, 1024, factor)
    known = np.isclose(x.short[:, None], np.array([288, 144, 96, 72, 48, 24, 8, 7, 52.18, 12]) * factor)
    np.testing.assert_allclose(known.mean(axis=0), 1 / 30, atol=0.013)
    whole = x.short % 1 == 0
    assert (whole & ~known.any(axis=1)).mean() == pytest.approx(1 / 3, abs=0.04)
    assert_spread(x.short[~whole & ~known[:, 8]], 4 * factor, 512)
    assert (x.middle == 1).mean() == pytest.approx(0.6, abs=0.03)
    assert_spread(x.middle[x.middle > 1], 1.5, 12.5, log=False)
    assert_spread(x.long / x.short, 1.5, 40)


def test_resampled_cycles_keep_at_least_four_steps(rng: np.random.Generator) -> None:
    for factor in (2, 4, 8):
        periods = synthetic.cycles(rng, 500, 500, 256 * factor, factor)
        assert (periods.short >= 4 * factor).all()
        ratio = np.round(periods.long / periods.short, 2)[:500]  # stretched together
        assert np.isin(ratio, np.float32([365.25, 52.18, 5, 0.97])).all()
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


def test_each_cycle_shape_has_its_share_and_its_features(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, n = np.linspace(0, 1, processes.BINS, endpoint=False, dtype=np.float32)[None], 1000
    shapes = {name: getattr(processes, f"_{name}")(rng, grid, n) for name in processes.SHAPES}
    power = np.abs(np.fft.rfft(shapes["harmonic"])) ** 2
    assert power[:, 11:].max() < 1e-6 * power.max()
    assert 0.3 < np.median(power[:, 2:11].sum(axis=1) / power[:, 1:11].sum(axis=1)) < 0.6
    faint = power[:, 8:11].sum(axis=1) < 1e-6 * power.sum(axis=1)  # in a third of the Gaussian envelopes
    assert faint.mean() == pytest.approx(0.18, abs=0.06)
    rising = np.diff(shapes["bumps"], axis=1, append=shapes["bumps"][:, :1]) > 0
    peaks = (rising & ~np.roll(rising, -1, axis=1)).sum(axis=1)
    assert 0.25 < (peaks > 1).mean() < 0.6
    assert 0.02 < (peaks > 2).mean() < 0.2
    noon, plateau = shapes["working"][:, 271], shapes["working"][:, 224:312].max(axis=1)
    assert (noon < 0.95 * plateau).mean() == pytest.approx(0.45, abs=0.06)
    open_ = (shapes["working"] > 0.5) & (np.abs(grid - 0.53) > 0.05)  # without the dip
    assert_spread(open_.argmax(axis=1) / processes.BINS, 0.2, 0.42, log=False, slack=0.15)
    assert_spread(1 - open_[:, ::-1].argmax(axis=1) / processes.BINS, 0.6, 0.9, log=False, slack=0.15)
    assert np.abs(shapes["solar"].argmax(axis=1) / processes.BINS - 0.52).max() < 0.2  # around noon
    still = (np.diff(shapes["rough"], axis=1) == 0).mean(axis=1) > 0.8
    assert still.mean() == pytest.approx(0.3, abs=0.05)
    values = [len(np.unique(row)) for row in shapes["rough"][still]]
    assert_spread(np.array(values), 5.5, 64.5, log=False, tolerance=0.1)
    rise = (shapes["saw"].argmax(axis=1) - shapes["saw"].argmin(axis=1)) % processes.BINS / processes.BINS
    assert_spread(rise, 0.03, 0.97, log=False)
    halfway = shapes["saw"][np.arange(n), (processes.BINS * rise / 2).astype(int)][rise > 0.3]
    assert_spread(-np.log2(halfway), 0.5, 2, slack=0.05)

    expected = {"harmonic": 0.36, "bumps": 0.16, "solar": 0.14, "working": 0.10, "rough": 0.16, "saw": 0.08}
    for cycles, name in enumerate(expected, start=1):
        wave = np.cos(2 * np.pi * cycles * grid)
        monkeypatch.setattr(processes, f"_{name}", lambda rng, u, m, wave=wave: wave.repeat(m, 0))
    for cycles, name in enumerate(expected, start=1):
        assert np.abs(np.fft.rfft(processes.cycle_shapes(rng, 1, {name: 1.0})))[0, 1:].argmax() + 1 == cycles
    chosen = record(monkeypatch, processes, "choose")
    processes.cycle_shapes(rng, 8000)
    assert {name: (chosen[0].made == name).mean() for name in expected} == pytest.approx(expected, abs=0.018)


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
    assert np.abs(e).max() == 60  # and no farther


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


def test_stochastic_rows_have_their_shares_of_kinds_tails_and_regimes(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("choose", "innovations", "volatility", "arma", "coloured", "autoregress")
    chosen, innovations, volatility, arma, coloured, poles = (record(monkeypatch, processes, name) for name in names)
    processes.stochastic(rng, 8000, 128)
    expected = {"white": 0.1, "ar1": 0.2, "arma": 0.12, "walk": 0.16, "oscillation": 0.12, "coloured": 0.16}
    kinds = {name: (chosen[0].made == name).mean() for name in processes.NOISES}
    assert kinds == pytest.approx(expected | {"smooth_walk": 0.14}, abs=0.018)
    assert innovations[0].asked["heavy"].mean() == pytest.approx(0.3, abs=0.025)
    assert volatility[0].asked["n"] / 8000 == pytest.approx(0.25, abs=0.025)
    assert len(arma[0].asked["e"]) == (chosen[0].made == "arma").sum()
    assert_spread(coloured[0].asked["slope"], 0.2, 2.6, log=False)
    poles = [call.asked["pole"] for call in poles]  # volatility, AR(1), two of ARMA, oscillation, smooth walk
    for place, low, high in ((0, 10, 64), (1, 0.5, 128), (4, 5, 128), (5, 2, 60), (6, 30, 4 * 128)):
        assert_spread(-1 / np.log(np.abs(poles[place])), low, high)
    assert_spread(2 * np.pi / np.angle(poles[4]), 4, 128 / 3)


def test_walks_drift_a_little(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """By 0.1 deviations of a step, here without any others."""
    monkeypatch.setattr(
        processes, "innovations", lambda rng, heavy, length: np.tile(np.float32([1, -1]), (len(heavy), length // 2))
    )
    monkeypatch.setattr(processes, "volatility", lambda rng, n, length: np.ones((n, length), np.float32))
    monkeypatch.setattr(processes, "standardise", lambda x: x)
    drift = np.diff(processes.stochastic(rng, 2000, 128, "walk"), axis=1).reshape(2000, -1)[:, :2].mean(axis=1)
    assert drift.std() == pytest.approx(0.1, abs=0.01)


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
    changes = np.count_nonzero(np.diff(factor[two_levels]), axis=1)
    assert changes.mean() == pytest.approx(11 / np.log(12), abs=0.8)  # 1 to 12 are expected, log-uniform
    ratio = np.ptp(np.log(factor[two_levels]), axis=1)
    assert_spread(np.exp(ratio[ratio > 0]), 1.5, 8.0, tolerance=0.12)
    assert np.log(factor[~two_levels]).std() == pytest.approx(0.6, abs=0.08)
