"""Trends, shifts, spikes and the transforms of values."""

import numpy as np
import pytest
from series_statistics import assert_spread

from darts_msft.pretraining import processes


def test_trends_are_lines_with_bends_or_saturate(rng: np.random.Generator) -> None:
    trend = processes.trend(rng, 3000, 500)
    np.testing.assert_allclose(np.ptp(trend, axis=1), 1, atol=0.05)
    bends = (np.abs(np.diff(trend, n=2, axis=1)) > 1e-5).sum(axis=1)  # a bend may lie between two steps
    saturating = bends > 20
    assert saturating.mean() == pytest.approx(0.2, abs=0.03)
    shares = np.bincount(np.minimum((bends[~saturating] + 1) // 2, 4), minlength=5) / (~saturating).sum()
    np.testing.assert_allclose(shares, [0.52, 0.12, 0.12, 0.12, 0.12], atol=0.04)


def test_shifts_stay_and_spikes_pass_or_fade(rng: np.random.Generator) -> None:
    steps = np.diff(processes.level_shifts(rng, 2000, 500), axis=1)
    shares = np.bincount(np.count_nonzero(steps, axis=1), minlength=4) / 2000
    np.testing.assert_allclose(shares, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.04)
    assert steps[steps != 0].mean() == pytest.approx(0, abs=0.1)
    assert steps[steps != 0].std() == pytest.approx(1.2, abs=0.1)
    spikes = processes.spikes(rng, 2000, 500)
    up, down = (spikes > 0).any(axis=1), (spikes < 0).any(axis=1)
    assert not (up & down).any()
    hit = up | down
    assert (up.sum() / hit.sum(), hit.mean()) == pytest.approx((0.5, 0.94), abs=0.05)
    first = np.argmax(spikes != 0, axis=1)
    rows = np.flatnonzero(hit & (first < 499))
    fading = spikes[rows, first[rows] + 1] != 0
    assert fading.mean() == pytest.approx(0.5, abs=0.06)
    kept = (spikes[rows, first[rows] + 1] / spikes[rows, first[rows]])[fading]
    assert_spread(-1 / np.log(kept[kept < 1]), 0.1, 12, slack=0.5)  # unless one hits the next
    size = np.abs(spikes[rows, first[rows]])
    assert 2 <= size.min() < size.max() <= 10
    assert size.mean() == pytest.approx(3.5, abs=0.2)
    often = np.quantile((spikes[rows[~fading]] != 0).mean(axis=1), [0.1, 0.5, 0.9])
    np.testing.assert_allclose(often, [0.004, 0.008, 0.017], atol=0.0025)


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


def test_transforms_are_as_strong_as_meant(rng: np.random.Generator) -> None:
    """Read off a ramp: exponents, slopes, thresholds and steps (values in a unit)."""
    z = np.linspace(-1.5, 1.5, 3001, dtype=np.float32)[None].repeat(1000, 0)
    y = {kind: processes.transform(rng, z, kind) for kind in processes.TRANSFORMS}
    assert_spread(np.ptp(np.log(y["exp"]), axis=1) / 3, 0.2, 1.1, log=False)
    logit = np.log(y["logistic"] / (1 - y["logistic"]))
    assert_spread(np.ptp(logit, axis=1) / 3, 0.7, 2.7, log=False)
    slope = np.diff(np.log(np.expm1(y["softplus"][:, [1500, 2500]])), axis=1)[:, 0]
    assert_spread(slope, 1, 4, log=False)
    assert_spread(y["floor"][:, 0], -1, 0.5, log=False)
    assert_spread(y["cap"][:, -1], 0.2, 1.5, log=False)
    steps = np.array([np.diff(np.unique(row)).min() for row in y["round"]])
    assert_spread(1 / steps, 1, 9, log=False)
