"""Forecasts of a member against a loop, at any level, unit and length, with gaps."""

import numpy as np
import pytest
import torch

from darts_msft.linear.member import LinearMember


def make_member(
    components: int = 2, matrices: int = 2, exponents: tuple[float, float] = (0.5, 0.0), season: int = 0
) -> LinearMember:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(matrices, 5, 3, generator=generator)
    scale = torch.rand(components, 3, generator=generator) + 0.5
    return LinearMember(
        weight, scale, torch.full((components,), 4.0), torch.tensor(exponents), torch.tensor(float(season))
    )


@pytest.mark.parametrize("matrices", [1, 2])
def test_the_forecast_is_the_loop_over_windows_and_components(matrices: int) -> None:
    member, past = make_member(matrices=matrices), torch.randn(4, 8, 2)
    found = member.forecast(past)
    for b, v in np.ndindex(4, 2):
        x = past[b, 3:, v].double().numpy()
        weight = member.weight[v % matrices].double().numpy()
        np.testing.assert_allclose(found.loc[b, :, v], x.mean() + (x - x.mean()) @ weight, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.scale[b, :, v], member.scale[v] * x.std() ** 0.5, rtol=1e-4)
    assert found.tells.all()


def test_the_scale_follows_the_unrest() -> None:
    member, past = make_member(exponents=(0.25, 0.75), season=2), torch.randn(4, 8, 2)
    found = member.forecast(past).scale
    for b, v in np.ndindex(4, 2):
        x = past[b, 3:, v].double().numpy()  # the last 2 steps, and the 2 before
        unrest = max(np.sqrt(((x[3] - x[1]) ** 2 + (x[4] - x[2]) ** 2) / 2), 0.1 * x.std())
        np.testing.assert_allclose(found[b, :, v], member.scale[v] * x.std() ** 0.25 * unrest**0.75, rtol=1e-4)


def test_level_and_unit_change_nothing_else() -> None:
    member, past = make_member(exponents=(1.0, 0.0)), torch.randn(4, 8, 2).round(decimals=2)
    found, moved = member.forecast(past), member.forecast(past * 8 + 2**17)
    torch.testing.assert_close(moved.loc - 2**17, found.loc * 8, atol=0.05, rtol=0)
    torch.testing.assert_close(moved.scale, (found.scale * 8).clamp(min=0.0156), atol=0.05, rtol=0.02)


def test_it_says_where_it_cannot_tell() -> None:
    member, past = make_member(), torch.randn(3, 8, 2)
    past[0, 2, 0] = past[1, :5, 1] = torch.nan
    past[2, :, 0] = torch.inf
    found = member.forecast(past)
    assert found.tells.tolist() == [[True, True], [True, False], [False, True]]
    for part in (found.loc, found.scale):
        assert torch.equal(part.isnan().all(dim=1), ~found.tells)
        assert torch.equal(part.isnan().any(dim=1), ~found.tells)
    assert not member.forecast(torch.randn(3, 4, 2)).tells.any()
    assert member.forecast(torch.randn(3, 4, 2)).loc.shape == (3, 3, 2)


def test_a_past_that_does_not_vary_goes_on() -> None:
    found = make_member(exponents=(1.0, 0.0)).forecast(torch.full((1, 8, 2), 7.0))
    assert torch.equal(found.loc, torch.full((1, 3, 2), 7.0))
    assert ((found.scale > 0) & (found.scale < 1e-4)).all()


def test_a_double_input_is_forecast_in_single_precision() -> None:
    assert make_member().forecast(torch.randn(1, 8, 2, dtype=torch.float64)).loc.dtype == torch.float32


def test_a_saved_state_gives_the_same_forecasts() -> None:
    member, past = make_member(), torch.randn(2, 9, 2)
    again = LinearMember()
    assert again.absent
    again.load_state_dict(member.state_dict())
    assert not again.absent
    assert again.lookback == 5
    for a, b in zip(again(past), member(past), strict=True):
        assert torch.equal(a, b)
