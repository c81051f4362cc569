"""The synthetic series keep their promises: equations, periods, and what is done to whole rows.

All else, such as shares and ranges, is held by the samples in `test_golden_series.py`.
"""

import numpy as np
import pytest
from series_statistics import autocorrelation, column, record

from darts_msft.pretraining import processes, synthetic
from darts_msft.pretraining.synthetic import Cycles, synthetic_series


def rows_at(n: int, short: float, middle: float = 1, long: float = 8766) -> Cycles:
    return Cycles(*(column(n, value) for value in (short, middle, long, 0)))


# --- whole batches ----------------------------------------------------------------------------------------------------


def test_unusable_lengths_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="100"):
        synthetic_series(rng, 3, 100)


@pytest.mark.parametrize(("length", "size"), [(128, 1), (128, 300), (500, 3), (4096, 9)])
def test_batches_are_finite_float32_and_never_constant(length: int, size: int) -> None:
    """And their generator decides every bit."""
    for seed in range(3):
        batch, again = (synthetic_series(np.random.default_rng(seed), size, length) for _ in range(2))
        np.testing.assert_array_equal(batch, again)
        assert batch.shape == (size, length)
        assert batch.dtype == np.float32
        assert np.isfinite(batch).all()
        assert (np.ptp(batch, axis=1) > 0).all()


def test_all_cyclic_rows_are_as_quiet_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that counts are drawn around too: the share tells the first batches from the later ones."""
    calls = record(monkeypatch, synthetic, "cyclic")
    synthetic_series(np.random.default_rng(0), 100, 128, 0.7)
    assert [(call.asked["quiet"], call.asked["clean"]) for call in calls] == [(0.7, False), (0.7, True)] * 2


# --- what is done to rows ---------------------------------------------------------------------------------------------


def test_flipping_and_reversing_turn_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def shapes(**shares: float) -> np.ndarray:
        for name in ("FLIPPED", "REVERSED"):
            monkeypatch.setattr(synthetic, name, shares.get(name, 0.0))
        batch = synthetic_series(np.random.default_rng(2), 50, 256).astype(np.float64)
        return (batch - batch.mean(axis=1, keepdims=True)) / batch.std(axis=1, keepdims=True)

    plain = shapes()
    np.testing.assert_allclose(shapes(FLIPPED=1.0), -plain, atol=1e-3)
    np.testing.assert_allclose(shapes(REVERSED=1.0), plain[:, ::-1], atol=1e-3)


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


# --- cycles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [24, 52.18])
def test_cycles_repeat_at_their_period(rng: np.random.Generator, period: float) -> None:
    lag = round(period)
    clean = synthetic.cyclic(rng, rows_at(200, period), 1024, clean=True)
    noisy = synthetic.cyclic(rng, rows_at(200, period), 1024)
    assert np.median(autocorrelation(clean, lag)) > 0.8
    assert np.median(autocorrelation(clean, lag) - autocorrelation(clean, lag // 2)) > 0.5
    assert np.median(autocorrelation(noisy, lag)) > 0.4


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


# --- processes --------------------------------------------------------------------------------------------------------


def test_seasonal_patterns_follow_their_equation() -> None:
    keep, period, length = 0.8, 7, 30
    x = processes.seasonal(np.random.default_rng(1), column(1, period), length, column(1, keep))[0]
    again = np.random.default_rng(1)
    expected = processes.ar1(again, processes.log_uniform(again, 0.3, 12, 1), length)[0]
    for t in range(period, length):
        expected[t] = keep * expected[t - period] + np.sqrt(1 - keep**2) * expected[t]
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_arma_follows_its_equation() -> None:
    """x has two real poles, a fifth of them negative, y two taps; a fifth of the rows is summed up."""
    e = np.random.default_rng(0).standard_normal((100, 100), dtype=np.float32)
    got, rng = processes.arma(np.random.default_rng(1), e), np.random.default_rng(1)
    poles = []
    for longest in (25, 20):
        sign = rng.choice([-1, 1], 100, p=[0.2, 0.8])
        poles.append(sign * np.exp(-1 / processes.log_uniform(rng, 0.3, longest, 100)))
    taps, summed = rng.uniform(-0.9, 0.9, (2, 100)), rng.random(100) < 0.2
    x = e.astype(np.float64)
    for pole in poles:
        for t in range(1, 100):
            x[:, t] = pole * x[:, t - 1] + np.sqrt(1 - pole**2) * x[:, t]
    y = x.copy()
    for lag in (1, 2):
        y[:, lag:] += taps[lag - 1][:, None] * x[:, :-lag]
    np.testing.assert_allclose(got, np.where(summed[:, None], np.cumsum(y, axis=1), y), atol=2e-3)
