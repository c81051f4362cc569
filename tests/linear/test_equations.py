"""Normal equations against loops over windows."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from darts_msft.linear.equations import Equations, Frame, blend, equations_of, merge, segments, standardised

FRAMES = [Frame(5, 3), Frame(12, 4, 2), Frame(1, 1), Frame(2, 7, 5)]


def make_walk(steps: int, seed: int = 0) -> np.ndarray:
    """A random walk far from zero."""
    return 1e4 + np.random.default_rng(seed).normal(size=steps).cumsum()


def equations_by_loop(series: list[np.ndarray], frame: Frame) -> Equations:
    """Over every window of every series, one at a time."""
    inputs, targets = [], []
    for one in series:
        values = (one - np.nanmean(one)) / np.nanstd(one)
        for window in sliding_window_view(values, frame.length):
            if not np.isnan(window).any():
                past, future = window[: frame.lookback], window[frame.lookback + frame.shift :]
                inputs.append(past - past.mean())
                targets.append(future - past.mean())
    x, y = np.array(inputs), np.array(targets)
    return Equations(x.T @ x / len(x), x.T @ y / len(x), (y**2).mean(axis=0), len(x))


def assert_equal(found: Equations, expected: Equations) -> None:
    assert found.windows == expected.windows
    for a, b in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


@pytest.mark.parametrize("frame", FRAMES)
def test_equal_to_the_loop_over_windows(frame: Frame) -> None:
    series = [make_walk(60), 1e-3 * make_walk(45, seed=1)]
    assert_equal(equations_of(series, frame), equations_by_loop(series, frame))


@pytest.mark.parametrize("frame", FRAMES)
def test_windows_with_a_gap_do_not_count(frame: Frame) -> None:
    gappy = make_walk(120)
    gappy[[0, 30, 31, 70, 119]] = np.nan
    assert_equal(equations_of([gappy], frame), equations_by_loop([gappy], frame))


def test_an_infinite_value_is_a_gap() -> None:
    infinite, missing = make_walk(50), make_walk(50)
    infinite[20], missing[20] = np.inf, np.nan
    assert_equal(equations_of([infinite], Frame(4, 2)), equations_of([missing], Frame(4, 2)))


def test_long_series_stay_exact() -> None:
    series, frame = make_walk(20_000), Frame(30, 5)
    assert_equal(equations_of([series], frame), equations_by_loop([series], frame))


def test_a_series_of_exactly_one_window() -> None:
    series, frame = make_walk(10), Frame(6, 3, 1)
    assert_equal(equations_of([series], frame), equations_by_loop([series], frame))


def test_nothing_fits() -> None:
    assert equations_of([make_walk(9)], Frame(6, 3, 1)) is None
    assert equations_of([np.full(50, 3.3)], Frame(4, 2)) is None
    assert equations_of([np.full(50, np.nan)], Frame(4, 2)) is None
    assert equations_of([], Frame(4, 2)) is None


def test_errors_are_those_of_the_forecasts() -> None:
    series, frame = make_walk(80), Frame(6, 4)
    weight = np.random.default_rng(2).normal(size=(6, 4))
    windows = sliding_window_view(standardised(series), frame.length)
    mean = windows[:, :6].mean(axis=1, keepdims=True)
    errors = windows[:, 6:] - mean - (windows[:, :6] - mean) @ weight
    np.testing.assert_allclose(equations_of([series], frame).errors(weight), (errors**2).mean(axis=0))


def test_merged_windows_are_those_of_all_series() -> None:
    first, second, frame = make_walk(60), make_walk(40, seed=3), Frame(5, 2)
    merged = merge([equations_of([first], frame), equations_of([second], frame)])
    assert_equal(merged, equations_of([first, second], frame))
    assert merge([]) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_blend_weighs_means_over_windows(share: float) -> None:
    own, pooled = (equations_of([make_walk(60, seed)], Frame(5, 2)) for seed in (4, 5))
    mixed = blend(own, pooled, share)
    np.testing.assert_allclose(mixed.gram, (1 - share) * own.gram + share * pooled.gram)
    assert mixed.windows == own.windows


def test_segments_lie_between_gaps() -> None:
    values = np.array([np.nan, 1, 2, np.nan, np.nan, 3, 4, 5, np.nan, 6])
    assert [list(part) for part in segments(values, 2)] == [[1, 2], [3, 4, 5]]
