"""Seasons, look-backs and the seasonal naive error."""

import numpy as np
import pandas as pd
import pytest

from darts_msft.linear.seasons import candidate_lookbacks, candidate_seasons, find_season, naive_error, strays


def make_waves(steps: int, *periods: int, noise: float = 0.3, components: int = 1) -> np.ndarray:
    """Sums of waves with a trend and noise (T, V)."""
    rng, time = np.random.default_rng(0), np.arange(steps)
    waves = sum((np.sin(2 * np.pi * time / period) for period in periods), start=0.01 * time)
    return (waves[:, None] + noise * rng.normal(size=(steps, components))).astype(np.float32)


@pytest.mark.parametrize(
    ("freq", "expected"),
    [
        ("h", [24, 168, 8766]),
        ("15min", [4, 96, 672, 35064]),
        ("D", [7, 365]),
        ("W-SUN", [52]),
        ("MS", [12]),
        ("ME", [12]),
        ("BME", [12]),
        ("2MS", [6]),
        ("SME", [24]),
        ("QS", [4]),
        ("QE-DEC", [4]),
        ("B", [5]),
        ("YE", []),
        ("5MS", []),
        (pd.offsets.Hour(2), [12, 84, 4383]),
        (1, []),
    ],
)
def test_seasons_of_a_frequency(freq: str | pd.offsets.BaseOffset | int, expected: list[int]) -> None:
    assert candidate_seasons(freq) == expected


def test_the_season_is_the_one_that_the_data_have() -> None:
    assert find_season("h", [make_waves(1200, 24)]) == 24
    assert find_season("h", [make_waves(1200, 168)]) == 168
    assert find_season("h", [make_waves(1200, 24, 168)]) == 168
    assert find_season("h", [make_waves(1200, 37)]) is None
    assert find_season(1, [make_waves(1200, 24)]) is None


def test_a_gap_and_a_constant_component_change_nothing() -> None:
    series = make_waves(1200, 24, components=2)
    series[300:390, 0], series[:, 1] = np.nan, 7.0
    assert find_season("h", [series]) == 24


@pytest.mark.parametrize("steps", [30, 120, 2000])
def test_noise_and_walks_have_no_season(steps: int) -> None:
    rng = np.random.default_rng(1)
    for series in (rng.normal(size=(steps, 3)), rng.normal(size=(steps, 3)).cumsum(axis=0)):
        assert find_season("MS", [series]) is None


def test_nothing_to_look_at() -> None:
    assert find_season("h", []) is None
    assert find_season("h", [np.full((500, 1), np.nan)]) is None
    assert find_season("h", [np.ones((500, 1))]) is None


def test_look_backs_are_seasons_and_the_usual_ones() -> None:
    assert candidate_lookbacks(4096, None) == [336, 1024]
    assert candidate_lookbacks(4096, 96) == [96, 192, 384, 1024]
    assert candidate_lookbacks(4096, 24) == [24, 48, 96, 336, 1024]
    assert candidate_lookbacks(500, 24) == [24, 48, 96, 336, 500]
    assert candidate_lookbacks(50, 24) == [24, 48]
    assert candidate_lookbacks(100, 365) == [100]


def test_the_naive_error_is_the_loop_over_steps() -> None:
    first, second = make_waves(50, 7, components=2), make_waves(30, 7, components=2)
    first[10, 0] = np.nan
    for season in (7, None):
        lag = season or 1
        pairs = [(one[t], one[t - lag]) for one in (first, second) for t in range(lag, len(one))]
        expected = np.nanmean(np.abs([now - before for now, before in pairs]), axis=0)
        np.testing.assert_allclose(naive_error([first, second], season), expected, rtol=1e-5)


def test_no_pair_has_no_error() -> None:
    assert np.isnan(naive_error([np.ones((3, 1))], 7)).all()


def test_an_offset_of_any_parts_suggests_nothing() -> None:
    assert candidate_seasons(pd.DateOffset(hours=1)) == []
    assert candidate_seasons(pd.offsets.Day()) == [7, 365]


def test_an_error_code_hides_no_season() -> None:
    rng = np.random.default_rng(0)
    time = np.arange(24 * 7 * 12)
    weekend = (time // 24 % 7 >= 5) * (2 + np.sin(2 * np.pi * time / 24))
    values = (np.sin(2 * np.pi * time / 24) + 3 * weekend + 0.1 * rng.standard_normal(len(time)))[:, None]
    assert find_season("h", [values]) == 168
    broken = values.copy()
    broken[[500, 1300]] = -9999
    assert find_season("h", [broken]) == 168
    assert np.flatnonzero(strays(broken)).tolist() == [500, 1300]
    counts = rng.poisson(0.005, (2000, 1)).astype(float)
    assert not strays(counts).any()  # rare events are no strays
    assert not strays(rng.standard_t(3, (2000, 2))).any()


@pytest.mark.parametrize(("length", "codes"), [(96, 1), (1000, 50)])
def test_error_codes_are_found_in_short_series_and_where_they_are_many(length: int, codes: int) -> None:
    values = 10 + np.sin(2 * np.pi * np.arange(length) / 24)[:, None]
    values += 0.3 * np.random.default_rng(0).standard_normal((length, 1))
    places = np.linspace(5, length - 5, codes).astype(int)
    values[places] = -9999.0
    assert np.flatnonzero(strays(values)).tolist() == places.tolist()
    assert find_season("h", [values]) == 24
