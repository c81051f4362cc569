"""The naive forecast of windows."""

import math

import pytest
import torch

from darts_msft.training.naive import naive_forecast


@pytest.mark.parametrize(("season", "shift"), [(7, 0), (7, 3), (7, 9), (12, 0), (13, 0), (None, 2)])
def test_it_is_the_loop_over_steps(season: int | None, shift: int) -> None:
    past = torch.randn(3, 12, 2, generator=torch.Generator().manual_seed(0))
    found, seasonal = naive_forecast(past, season, horizon=10, shift=shift)
    assert seasonal.unique().tolist() == [season is not None and season <= 12]
    for step in range(10):
        back = 12 + shift + step
        while season is not None and season <= 12 and back >= 12:
            back -= season
        torch.testing.assert_close(found[:, step], past[:, back if season is not None and season <= 12 else -1])


def test_gaps_take_the_last_value_and_nothing_is_nan() -> None:
    past = torch.arange(8.0).reshape(1, 8, 1).repeat(1, 1, 2)
    past[0, 6:, 0], past[0, :, 1] = math.nan, math.nan
    found, seasonal = naive_forecast(past, 4, horizon=5)
    assert seasonal[0, :, 0].tolist() == [True, True, False, False, True]
    assert not seasonal[0, :, 1].any()
    assert found[0, :, 0].tolist() == [4, 5, 5, 5, 4]
    assert found[0, :, 1].isnan().all()
