"""The estimate from normal scores."""

from __future__ import annotations

import numpy as np
import pytest

from darts_msft.dependence.copula import HALF_TRUST, Sums, estimate, lag_means, nearest_correlation

HORIZON, COMPONENTS = 12, 3
STEPS = 0.8 ** np.abs(np.subtract.outer(np.arange(HORIZON), np.arange(HORIZON)))
BETWEEN = np.array([[1.0, 0.7, 0.0], [0.7, 1.0, 0.2], [0.0, 0.2, 1.0]])


def scores(windows: int, seed: int = 0) -> np.ndarray:
    """(N, H, V) with the correlations above."""
    draws = np.random.default_rng(seed).standard_normal((windows, HORIZON, COMPONENTS))
    return np.einsum("hk,vw,nkw->nhv", np.linalg.cholesky(STEPS), np.linalg.cholesky(BETWEEN), draws)


def sums(found: np.ndarray) -> Sums:
    known = np.isfinite(found).astype(float)
    found = np.nan_to_num(found)
    over_steps, over_components = "nhv,nkv->hk", "nhv,nhw->vw"
    return Sums(*(np.einsum(how, one, one) for how in (over_steps, over_components) for one in (found, known)))


def test_known_correlations_come_back():
    found = estimate(sums(scores(3000)), 3000)
    assert np.abs(found.steps - STEPS).max() < 0.05
    assert np.abs(found.components - BETWEEN).max() < 0.05


def test_missing_scores_are_left_out():
    holes = scores(3000)
    holes[np.random.default_rng(1).random(holes.shape) < 0.4] = np.nan
    found = estimate(sums(holes), 3000)
    assert np.abs(found.steps - STEPS).max() < 0.06


def test_spread_of_the_scores_does_not_matter():
    wide = scores(3000) * np.linspace(0.5, 2, HORIZON)[:, None]
    assert np.abs(estimate(sums(wide), 3000).steps - STEPS).max() < 0.05


def test_what_is_always_too_low_is_too_low_together():
    biased = np.random.default_rng(2).standard_normal((3000, HORIZON, COMPONENTS)) + 1
    assert lag_means(estimate(sums(biased), 3000).steps)[5] == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("windows", [1, 3])
def test_few_windows_give_a_correlation_matrix(windows):
    few = scores(windows)
    few[0, 3] = np.nan
    found = estimate(sums(few), windows)
    for matrix in (found.steps, found.components):
        assert np.allclose(np.diagonal(matrix), 1)
        assert np.allclose(matrix, matrix.T)
        assert np.linalg.eigvalsh(matrix).min() > 0
        np.linalg.cholesky(matrix)


def test_more_windows_count_more():
    assert estimate(sums(scores(5)), HALF_TRUST).trust == pytest.approx(0.5)
    assert estimate(sums(scores(5)), 1).trust < 0.05
    assert estimate(sums(scores(5)), 3000).trust > 0.95


def test_no_scores_tell_nothing():
    assert estimate(sums(np.full((4, HORIZON, COMPONENTS), np.nan)), 4) is None


def test_a_step_never_seen_correlates_with_none():
    holes = scores(500)
    holes[:, 4] = np.nan
    found = estimate(sums(holes), 500).steps
    assert np.abs(np.delete(found[4], 4)).max() == 0
    assert found[3, 5] == pytest.approx(STEPS[3, 5], abs=0.1)


def test_nearest_correlation_leaves_what_is_one():
    assert np.allclose(nearest_correlation(STEPS), STEPS)


def test_lag_means():
    assert np.allclose(lag_means(STEPS), 0.8 ** np.arange(HORIZON))
