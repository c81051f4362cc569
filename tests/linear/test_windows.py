"""Which windows and look-backs can be compared, and windows cut from training series."""

import numpy as np

from darts_msft.linear.equations import Frame
from darts_msft.linear.windows import Windows, comparable, complete, cut_windows, hold_out


def make_windows(count: int, context: int = 6, components: int = 2) -> Windows:
    rng = np.random.default_rng(0)
    past, future = rng.normal(size=(count, context, components)), rng.normal(size=(count, 3, components))
    return Windows(past, future, np.ones((count, components)))


def test_complete_windows_have_their_last_steps_and_a_target() -> None:
    windows = make_windows(5)
    windows.past[0, 2, 0] = windows.past[1, 5, 0] = windows.future[2, 1, 0] = np.nan
    windows.future[3, :, 0], windows.unit[4, 0] = np.nan, 0.0
    assert complete(windows, 3)[:, 0].tolist() == [True, False, True, False, False]
    assert complete(windows, 4)[:, 0].tolist() == [False, False, True, False, False]
    assert complete(windows, 6)[:, 1].all()
    assert not complete(windows, 7).any()


def test_all_look_backs_are_compared_on_the_same_windows() -> None:
    windows = make_windows(8)
    windows.past[:2, 1, 0] = np.nan
    found, usable = comparable(windows, [5, 2, 7])
    assert usable == [2, 5]
    assert np.isnan(found.future[:2, :, 0]).all()
    np.testing.assert_array_equal(found.future[2:], windows.future[2:])


def test_a_look_back_that_few_windows_have_is_left_out() -> None:
    windows = make_windows(8)
    windows.past[:5, 0] = np.nan
    found, usable = comparable(windows, [2, 6])
    assert usable == [2]
    np.testing.assert_array_equal(found.future, windows.future)
    windows.past[:] = np.nan
    assert comparable(windows, [2, 6])[1] == []


def test_cut_windows_lie_evenly_over_all_series() -> None:
    frame = Frame(4, 2, 1)
    series = [np.arange(20.0)[:, None], np.arange(3.0)[:, None], 1000 + 10 * np.arange(13.0)[:, None]]
    everything = cut_windows(series, frame, 100)
    assert everything.past[:, 0, 0].tolist() == [*range(14), *range(1000, 1070, 10)]
    np.testing.assert_array_equal(everything.future[-1, :, 0], [1110, 1120])
    np.testing.assert_allclose(everything.unit[[0, -1], 0], [series[0].std(), series[2].std()])
    some = cut_windows(series, frame, 5)
    assert some.past[:, 0, 0].tolist() == [0, 5, 10, 1010, 1060]


def test_the_last_fifth_is_held_out() -> None:
    series = [np.arange(40.0)[:, None], np.arange(100.0, 108)[:, None], np.arange(3.0)[:, None]]
    heads, windows = hold_out(series, Frame(6, 2, 1))
    assert [len(head) for head in heads] == [32, 6, 1]
    assert windows is not None
    assert windows.future[:, :, 0].tolist() == [[step, step + 1] for step in [*range(32, 39), 106]]
    assert windows.past[0, :, 0].tolist() == [25, 26, 27, 28, 29, 30]
    np.testing.assert_array_equal(windows.past[-1, :, 0], [np.nan, 100, 101, 102, 103, 104])
    assert hold_out(series[2:], Frame(6, 3))[1] is None
