"""Effects of known covariates: found where there are some, left out where the past tells, and added to forecasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from darts_msft.linear.covariates import find_effects, rest_of, with_effects
from darts_msft.linear.equations import Frame
from darts_msft.linear.fitting import fit_linear
from darts_msft.linear.member import LinearMember
from darts_msft.linear.windows import Windows, cut_windows

HORIZON, LOOKBACK = 6, 24
Series = list[np.ndarray]


def slow(steps: int, seed: int, width: int = 1) -> np.ndarray:
    """Noise that remembers 0.9 of a step before."""
    noise = np.random.default_rng(seed).standard_normal((steps, width))
    for step in range(1, steps):
        noise[step] += 0.9 * noise[step - 1]
    return noise


def sine(steps: int) -> np.ndarray:
    return np.sin(2 * np.pi * np.arange(steps) / 12)[:, None]


def windows_of(series: np.ndarray, shift: int = 0) -> Windows:
    return cut_windows([series], Frame(LOOKBACK, HORIZON, shift), 300)


def fit(train: tuple[Series, Series], val: tuple[np.ndarray, np.ndarray], shift: int = 0) -> LinearMember:
    def solve(series: Series, validation: Series) -> LinearMember:
        found = fit_linear(series, HORIZON, [LOOKBACK], shift, windows_of(validation[0], shift))
        assert found is not None
        return found.member

    return with_effects(solve(train[0], [val[0]]), solve, train, tuple([one] for one in val), shift)


def mean_square(member: LinearMember, series: np.ndarray, covariates: np.ndarray, shift: int = 0) -> float:
    windows, width = windows_of(np.hstack([series, covariates]), shift), series.shape[1]
    past, future = torch.tensor(windows.past), torch.tensor(windows.future)
    forecast = member.forecast(past[..., :width], (past[..., width:], future[..., width:]))
    return float((forecast.loc - future[..., :width])[..., 0].square().mean())


@pytest.mark.parametrize("shift", [0, 3])
def test_what_a_covariate_does_is_found_and_forecast(shift: int) -> None:
    """The first component, whose error is judged, is noise but for two covariates; the second has none."""
    rng, steps = np.random.default_rng(0), 1500
    known = np.hstack([slow(steps, 1), 1000 + 100 * rng.standard_normal((steps, 1)), slow(steps, 2)])
    first = 3 * known[:, [0]] - 0.05 * known[:, [1]] + rng.standard_normal((steps, 1))
    series = np.hstack([first, sine(steps) + 0.1 * rng.standard_normal((steps, 1))])
    train, val, test = slice(900), slice(900, 1200), slice(1200, None)
    member = fit(([series[train]], [known[train]]), (series[val], known[val]), shift)
    np.testing.assert_allclose(member.effects[0] * torch.tensor([1, 60, 1]), [3, -3, 0], atol=0.1)
    np.testing.assert_allclose(member.effects[1], 0, atol=0.01)
    assert mean_square(member, series[test], known[test], shift) < 1.12


def test_what_the_past_tells_already_is_left_to_it() -> None:
    """A covariate with the series' own cycle and noise of its own would bring the noise in."""
    rng, steps = np.random.default_rng(0), 1500
    series = 2 * sine(steps) + 0.3 * rng.standard_normal((steps, 1))
    assert np.abs(_effects(series, sine(steps) + slow(steps, 3))).max() < 0.02


def test_common_trends_are_no_effects() -> None:
    rng, steps = np.random.default_rng(0), 1500
    walk, other = (np.cumsum(rng.standard_normal((steps, 1)), axis=0) + 0.2 * np.arange(steps)[:, None] for _ in "ab")
    assert abs(np.polyfit(other[:, 0], walk[:, 0], 1)[0]) > 0.5
    assert np.abs(_effects(walk, other)).max() < 0.1


def test_noise_gets_no_effects_where_it_does_not_forecast() -> None:
    series, rng = slow(300, 4), np.random.default_rng(1)
    found = [_effects(series, rng.standard_normal((300, 8))) for _ in range(10)]
    assert np.mean([not effects.any() for effects in found]) > 0.8


def _effects(series: np.ndarray, known: np.ndarray) -> np.ndarray:
    member = fit_linear([series], HORIZON, [LOOKBACK]).member
    return find_effects(member.weight.double().numpy(), [series], [known])


def test_series_count_alike_and_may_have_gaps() -> None:
    rng = np.random.default_rng(0)
    known = [rng.standard_normal((500, 2)) for _ in range(3)]
    series = [5.0 * one[:, :1] + rng.standard_normal((500, 1)) for one in known[:2]]
    series[0][100:110], known[1][200] = np.nan, np.nan
    known[2][:] = np.nan
    series.append(np.full((500, 1), 2.0))
    mean = np.zeros((1, LOOKBACK, HORIZON))  # the forecast is the past's
    np.testing.assert_allclose(find_effects(mean, series, known), [[5, 0]], atol=0.15)
    assert not find_effects(mean, series[2:], known[:1]).any()
    assert not find_effects(mean, [series[0][:20]], [known[0][:20]]).any()
    assert not find_effects(mean, series[:1], [np.ones((500, 2))]).any()


def test_many_components_have_effects_of_their_own() -> None:
    rng = np.random.default_rng(0)
    known, effects = rng.standard_normal((400, 2)), rng.uniform(1, 5, (70, 2))
    series = known @ effects.T + 0.3 * rng.standard_normal((400, 70))
    found = find_effects(np.zeros((1, LOOKBACK, HORIZON)), [series], [known])
    np.testing.assert_allclose(found, effects, atol=0.15)


def test_the_rest_lacks_what_a_gap_hides_of_components_with_that_effect() -> None:
    known = np.array([[1.0, 2.0], [np.nan, 3.0], [5.0, np.nan]])
    rest = rest_of(np.full((3, 2), 10.0), known, np.array([[2.0, 0.0], [0.0, -1.0]]))
    np.testing.assert_array_equal(rest, [[8, 12], [np.nan, 13], [0, np.nan]])


def test_the_forecast_is_the_rest_s_with_the_effects_at_its_steps() -> None:
    torch.manual_seed(0)
    weight, effects = torch.randn(2, 5, 3), torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
    parts = weight, torch.ones(2, 3), torch.full((2,), 4.0), torch.tensor([1.0, 0.0]), torch.tensor(0.0)
    member, alone = LinearMember(*parts, effects), LinearMember(*parts)
    past, known, ahead = torch.randn(4, 8, 2), torch.randn(4, 8, 3) + 1e4, torch.randn(4, 3, 3) + 1e4
    found, rest = member.forecast(past, (known, ahead)), alone.forecast(past - (known - 1e4) @ effects.T)
    torch.testing.assert_close(found.loc, rest.loc + (ahead - 1e4) @ effects.T, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(found.scale, rest.scale, rtol=1e-2, atol=1e-3)
    known[2, :, 1] = ahead[1, 2, 0] = known[0, 1] = known[3, -1, 2] = torch.nan
    tells = member.forecast(past, (known, ahead)).tells
    assert tells.tolist() == [[True, True], [False, True], [True, False], [True, True]]
    with pytest.raises(ValueError, match="3 covariates"):
        member.forecast(past)


def test_a_gap_of_a_covariate_is_bridged_in_the_rest() -> None:
    """As in the fit: a straight line over what is left of the series, not over the series."""
    torch.manual_seed(0)
    parts = torch.randn(1, 6, 3), torch.ones(1, 3), torch.full((1,), 4.0), torch.tensor([1.0, 0.0]), torch.tensor(0.0)
    member, alone = LinearMember(*parts, torch.tensor([[2.0]])), LinearMember(*parts)
    past, known, ahead = torch.randn(2, 6, 1), torch.randn(2, 6, 1), torch.randn(2, 3, 1)
    past[0, 2], known[1, 3] = torch.nan, torch.nan
    level = known[:, -1:]
    expected = alone.forecast(past - 2 * (known - level)).loc + 2 * (ahead - level)
    torch.testing.assert_close(member.forecast(past, (known, ahead)).loc, expected)
