"""Cross-fitting against regressions that are fitted anew to what a fold leaves."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from darts_msft.linear.equations import Frame, Stretch
from darts_msft.linear.folds import FOLDS, cross_residuals, make_folds
from darts_msft.linear.ridge import residuals

FRAME = Frame(6, 3, 2)


def make_series(steps: int, seed: int = 0) -> np.ndarray:
    rng, time = np.random.default_rng(seed), np.arange(steps)[:, None]
    return np.sin(time / [2.0, 3.0]) * [1, 20] + rng.normal(size=(steps, 2)) * [0.3, 5] + 4


def windows_left(series: np.ndarray, stretch: Stretch | None, length: int) -> np.ndarray:
    """All windows that don't touch the stretch, (windows, steps, components), in units of the whole series."""
    values = (series - series.mean(axis=0)) / series.std(axis=0)
    if stretch is not None:
        values[stretch.start : stretch.stop] = np.nan
    windows = np.moveaxis(sliding_window_view(values, length, axis=0), 2, 1)
    return windows[~np.isnan(windows).any(axis=(1, 2))]


def ridge(windows: np.ndarray, frame: Frame, penalty: float) -> np.ndarray:
    """From windows (windows, steps), by loops' means."""
    past, future = windows[:, : frame.lookback], windows[:, frame.lookback + frame.shift :]
    mean = past.mean(axis=1, keepdims=True)
    x, y = past - mean, future - mean
    gram = x.T @ x / len(x)
    return np.linalg.solve(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y / len(x))


def test_folds_cover_all_series_once() -> None:
    series = [make_series(70), make_series(130, seed=1)]
    folds = make_folds(series, FRAME)
    assert len(folds) == FOLDS
    for index, one in enumerate(series):
        parts = [fold.stretches[index] for fold in folds if fold.stretches[index] is not None]
        covered = [step for part in parts for step in range(part.start, part.stop)]
        assert covered == list(range(len(one)))


def test_the_windows_of_a_fold_end_in_it() -> None:
    series = make_series(100)
    for fold in make_folds([series], FRAME):
        (stretch,) = fold.stretches
        for past, future in zip(fold.windows.past, fold.windows.future, strict=True):
            (start,) = np.flatnonzero(series[:, 0] == past[0, 0])
            first = start + FRAME.lookback + FRAME.shift
            assert stretch.start <= first
            assert first + FRAME.horizon <= stretch.stop
            np.testing.assert_array_equal(future, series[first : first + FRAME.horizon])
        np.testing.assert_allclose(fold.windows.unit, np.tile(series.std(axis=0), (len(fold.windows.unit), 1)))


@pytest.mark.parametrize("lookback", [4, 6])
def test_residuals_are_those_of_regressions_without_the_fold(lookback: int) -> None:
    series, frame = [make_series(90), make_series(60, seed=1)], Frame(lookback, 3, 2)
    folds = make_folds(series, FRAME)
    found = cross_residuals(series, frame, {False: 0.01, True: 0.1}, folds)
    start = 0
    for fold in folds:
        rows = slice(start, start + len(fold.windows.unit))
        start = rows.stop
        left = [windows_left(one, stretch, frame.length) for one, stretch in zip(series, fold.stretches, strict=True)]
        each = [np.concatenate([windows[:, :, component] for windows in left]) for component in range(2)]
        for component in range(2):
            past, future = fold.windows.past[:, :, component], fold.windows.future[:, :, component]
            own = residuals(ridge(each[component], frame, 0.01), past, future)
            np.testing.assert_allclose(found[False][rows, component], own, atol=1e-8)
            pooled = residuals(ridge(np.concatenate(each), frame, 0.1), past, future)
            np.testing.assert_allclose(found[True][rows, component], pooled, atol=1e-8)
    assert start == len(found[False]) == len(found[True])


def test_a_series_too_short_for_a_fold_is_not_judged() -> None:
    assert make_folds([make_series(FRAME.length - 1)], FRAME) == []
    constant = np.full((60, 2), 3.0)
    assert make_folds([constant], FRAME) == []
