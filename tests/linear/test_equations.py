"""Normal equations against loops over windows."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from darts_msft.linear.equations import Equations, Frame, Stretch, equations_of, merge, segments, standardised, without

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
    return Equations(x.T @ x / len(x), x.T @ y / len(x), len(x))


def assert_equal(found: Equations, expected: Equations) -> None:
    assert found.windows == expected.windows
    for a, b in zip(found[:2], expected[:2], strict=True):
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


def test_merged_windows_are_those_of_all_series() -> None:
    first, second, frame = make_walk(60), make_walk(40, seed=3), Frame(5, 2)
    merged = merge([equations_of([first], frame), equations_of([second], frame)])
    assert_equal(merged, equations_of([first, second], frame))
    assert merge([]) is None


@pytest.mark.parametrize("stretch", [Stretch(0, 20), Stretch(31, 32), Stretch(50, 90)])
def test_without_a_stretch_the_windows_that_do_not_touch_it_are_left(stretch: Stretch) -> None:
    first, second, frame = make_walk(90), make_walk(40, seed=3), Frame(5, 3, 1)
    touching = equations_of([first, second], frame, [stretch, None])
    left = first.copy()
    left[stretch.start : stretch.stop] = np.nan
    units = (first - first.mean()) / first.std(), (left - first.mean()) / first.std()
    assert touching.windows == _complete(units[0], frame) - _complete(units[1], frame)
    found = without(equations_of([first, second], frame), touching)
    inputs, targets = [], []
    for values in (units[1], standardised(second)):
        for window in sliding_window_view(values, frame.length):
            if not np.isnan(window).any():
                inputs.append(window[:5] - window[:5].mean())
                targets.append(window[6:] - window[:5].mean())
    x, y = np.array(inputs), np.array(targets)
    assert_equal(found, Equations(x.T @ x / len(x), x.T @ y / len(x), len(x)))


def _complete(values: np.ndarray, frame: Frame) -> int:
    return int((~np.isnan(sliding_window_view(values, frame.length)).any(axis=1)).sum())


def test_nothing_is_left_without_all_windows() -> None:
    everything = equations_of([make_walk(30)], Frame(5, 2))
    assert without(everything, everything) is None
    assert without(everything, None) is everything


def test_segments_lie_between_gaps() -> None:
    values = np.array([np.nan, 1, 2, np.nan, np.nan, 3, 4, 5, np.nan, 6])
    assert [list(part) for part in segments(values, 2)] == [[1, 2], [3, 4, 5]]
