"""The synthetic series keep their promises: batches of numbers, tables and equations.

All else, such as shares, ranges and periods, is held by the samples in `test_golden_series.py`.
"""

import numpy as np
import pytest

from darts_msft.pretraining import processes
from darts_msft.pretraining.synthetic import synthetic_series


def column(n: int, value: float) -> np.ndarray:
    """The same value for each of n rows."""
    return np.full(n, value, np.float32)


# --- whole batches ----------------------------------------------------------------------------------------------------


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
