"""Ridge regressions against least squares over explicit windows."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from darts_msft.linear.equations import Frame, equations_of, standardised
from darts_msft.linear.ridge import residuals, solve

FRAME = Frame(8, 3, 1)


def make_series(steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 50 + np.sin(np.arange(steps) / 3) + 0.1 * rng.normal(size=steps).cumsum() + 0.3 * rng.normal(size=steps)


def windows_of(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets without the mean of the past."""
    windows = sliding_window_view(standardised(series), FRAME.length)
    past, future = windows[:, : FRAME.lookback], windows[:, FRAME.lookback + FRAME.shift :]
    mean = past.mean(axis=1, keepdims=True)
    return past - mean, future - mean


@pytest.mark.parametrize("penalty", [1e-4, 1e-1])
def test_the_solution_is_that_of_least_squares_with_penalty_rows(penalty: float) -> None:
    series = make_series(200)
    x, y = windows_of(series)
    scaled = penalty * np.mean((x**2).sum(axis=0))
    rows = np.vstack([x, np.sqrt(scaled) * np.eye(FRAME.lookback)])
    expected = np.linalg.lstsq(rows, np.vstack([y, np.zeros((FRAME.lookback, FRAME.horizon))]), rcond=None)[0]
    np.testing.assert_allclose(solve(equations_of([series], FRAME), penalty), expected, atol=1e-8)


def test_a_past_that_does_not_vary_gives_no_weight() -> None:
    own = equations_of([make_series(60)], FRAME)
    assert not solve(own._replace(gram=np.zeros_like(own.gram)), 0.1).any()


def test_residuals_are_missing_where_the_past_has_a_gap() -> None:
    rng = np.random.default_rng(0)
    weight, past, future = rng.normal(size=(4, 2)), rng.normal(size=(3, 6)), rng.normal(size=(3, 2))
    past[0, 0] = past[1, 3] = future[2, 1] = np.nan
    found = residuals(weight, past, future)
    inputs = past[0, 2:]
    np.testing.assert_allclose(found[0], future[0] - inputs.mean() - (inputs - inputs.mean()) @ weight)
    assert np.isnan(found).tolist() == [[False, False], [True, True], [False, True]]
