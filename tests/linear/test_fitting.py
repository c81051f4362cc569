"""Fits of the linear member: what is found, what is left out, and its intervals."""

import numpy as np
import pytest
import torch
from scipy import stats

from darts_msft.linear.equations import Frame, equations_of, merge
from darts_msft.linear.fitting import LEAST_WEIGHT, LinearFit, fit_linear
from darts_msft.linear.ridge import solve
from darts_msft.linear.windows import Windows, cut_windows

HORIZON = 6


def make_series(steps: int, seed: int = 0, components: int = 2, noise: float = 0.3) -> np.ndarray:
    """Components of different shape, unit and level."""
    rng, time = np.random.default_rng(seed), np.arange(steps)[:, None]
    waves = np.sin(2 * np.pi * time / (8 + 5 * np.arange(components)))
    return (waves + noise * rng.standard_t(5, size=(steps, components))) * 10.0 ** np.arange(components) + 3


def windows_of(series: np.ndarray, lookback: int = 24, shift: int = 0) -> Windows:
    return cut_windows([series], Frame(lookback, HORIZON, shift), 200)


def errors_of(fit: LinearFit, windows: Windows) -> np.ndarray:
    """In units."""
    found = fit.member.forecast(torch.tensor(windows.past)).loc.numpy()
    return (found - windows.future) / windows.unit[:, None]


def test_one_candidate_is_its_ridge_regression() -> None:
    series = make_series(300, components=1)
    fit = fit_linear([series], HORIZON, [16], validation=windows_of(make_series(200, seed=1, components=1)))
    (candidate,) = fit.candidates
    own = equations_of([series[:, 0]], Frame(16, HORIZON))
    np.testing.assert_allclose(fit.member.weight[0], solve(own, candidate.penalty), atol=1e-6)


@pytest.mark.parametrize("validated", [True, False])
def test_the_member_is_the_average_of_its_candidates(validated: bool) -> None:
    series, test = make_series(300), windows_of(make_series(200, seed=2))
    fit = fit_linear([series], HORIZON, [8, 24], validation=windows_of(make_series(200, seed=1)) if validated else None)
    weights = np.stack([candidate.weight for candidate in fit.candidates])
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert ((weights == 0) | (weights >= LEAST_WEIGHT)).all()
    assert fit.validated == validated
    expected = np.zeros_like(test.future)
    for v in range(2):
        frames = {lookback: Frame(lookback, HORIZON) for lookback in (8, 24)}
        for candidate, weight in zip(fit.candidates, weights[:, v], strict=True):
            owns = [equations_of([series[:, k]], frames[candidate.frame.lookback]) for k in range(2)]
            ridge = solve(merge(owns) if candidate.pooled else owns[v], candidate.penalty)
            inputs = test.past[:, -candidate.frame.lookback :, v]
            mean = inputs.mean(axis=1, keepdims=True)
            expected[:, :, v] += weight * (mean + (inputs - mean) @ ridge)
    np.testing.assert_allclose(fit.member.forecast(torch.tensor(test.past)).loc.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shift", [0, 3])
@pytest.mark.parametrize("validated", [True, False])
def test_waves_are_forecast_with_calibrated_intervals(shift: int, validated: bool) -> None:
    validation = windows_of(make_series(400, seed=1), shift=shift) if validated else None
    fit = fit_linear([make_series(1000)], HORIZON, [16, 24], shift, validation)
    test = windows_of(make_series(1200, seed=2), shift=shift)
    assert np.mean(errors_of(fit, test) ** 2) < 0.3
    forecast = fit.member.forecast(torch.tensor(test.past))
    shares = stats.t.cdf((test.future - forecast.loc.numpy()) / forecast.scale.numpy(), fit.member.df.numpy())
    for level in (0.8, 0.95):
        assert np.mean(abs(2 * shares - 1) < level) == pytest.approx(level, abs=0.04)


def test_components_of_one_kind_share_and_others_do_not() -> None:
    def shared(series: np.ndarray, validation: np.ndarray) -> float:
        fit = fit_linear([series], HORIZON, [16], validation=windows_of(validation))
        return sum(float(candidate.weight.mean()) for candidate in fit.candidates if candidate.pooled)

    assert shared(make_series(600), make_series(600, seed=1)) < 0.35
    alike = [np.hstack([make_series(60, seed + k, 1) for k in range(8)]) for seed in (0, 20)]
    assert shared(*alike) > 0.5


@pytest.mark.parametrize("shift", [0, 3])
def test_what_repeats_exactly_is_repeated(shift: int) -> None:
    pattern = np.random.default_rng(0).normal(size=(9, 2)).repeat(2, axis=1)[:, 1:3]
    series = np.tile(pattern, (30, 1))
    validation = cut_windows([series], Frame(9, HORIZON, shift), 50)
    without = fit_linear([series], HORIZON, [9], shift, validation)
    fit = fit_linear([series], HORIZON, [9], shift, validation, season=9)
    naive = fit.candidates[-1]
    assert naive.penalty is None
    assert naive.weight.min() > 0.9
    assert all(one.penalty is not None for one in without.candidates)
    found = fit.member.forecast(torch.tensor(validation.past)).loc.numpy()
    np.testing.assert_allclose(found, validation.future, atol=1e-4)


def test_a_calm_validation_part_does_not_decide_alone() -> None:
    noisy, calm = make_series(1200, noise=1.0), make_series(300, seed=1, noise=0.0)
    season = 8 * 13  # of both waves
    validation = windows_of(calm, lookback=season)
    fit = fit_linear([noisy], HORIZON, [24, season], validation=validation, season=season)
    weights = sum(one.weight for one in fit.candidates if one.penalty is None)
    assert np.max(weights) < 0.1  # alone it would: the naive forecast has no error there


def test_many_components_share_one_matrix() -> None:
    series = make_series(150, components=1) + 0.1 * make_series(150, seed=3, components=40)[:, :1].repeat(40, axis=1)
    fit = fit_linear([series], HORIZON, [12])
    assert fit.member.weight.shape[0] == 1
    assert fit.member.scale.shape == (40, HORIZON)


def test_series_of_any_level_count_alike() -> None:
    first, second = make_series(200, components=1), make_series(200, seed=4, components=1)
    plain = fit_linear([first, second], HORIZON, [12])
    moved = fit_linear([first * 1e4 + 1e6, second], HORIZON, [12])
    np.testing.assert_allclose(moved.member.weight, plain.member.weight, atol=1e-6)


def test_look_backs_that_do_not_fit_are_left_out() -> None:
    series = make_series(100)
    assert {c.frame.lookback for c in fit_linear([series], HORIZON, [8, 95]).candidates} == {8}
    assert fit_linear([series], HORIZON, [95]) is None
    assert fit_linear([np.full((100, 2), 3.0)], HORIZON, [8]) is None
    validation = windows_of(make_series(100, seed=1), lookback=16)
    assert {c.frame.lookback for c in fit_linear([series], HORIZON, [8, 24], validation=validation).candidates} == {8}


def test_without_a_complete_validation_window_the_training_series_tell() -> None:
    validation = windows_of(make_series(100, seed=1))
    validation.past[:, -1] = np.nan
    fit = fit_linear([make_series(300)], HORIZON, [8], validation=validation)
    assert not fit.validated
    np.testing.assert_array_equal(fit.member.weight, fit_linear([make_series(300)], HORIZON, [8]).member.weight)


def test_gaps_and_constant_components_leave_a_forecast() -> None:
    series, validation = make_series(400, components=3), windows_of(make_series(200, seed=1, components=3))
    series[::50, 0] = np.nan
    series[:, 2] = validation.past[:, :, 2] = validation.future[:, :, 2] = 5.0
    validation.unit[:, 2] = 0.0
    validation.future[::3, 1:4, 1] = np.nan
    forecast = fit_linear([series], HORIZON, [8, 24], validation=validation).member.forecast(
        torch.tensor(validation.past)
    )
    assert forecast.tells.all()
    assert torch.isfinite(forecast.scale).all()
    torch.testing.assert_close(forecast.loc[:, :, 2], torch.full_like(forecast.loc[:, :, 2], 5.0))


def test_wrong_arguments_are_told() -> None:
    series = make_series(100)
    with pytest.raises(ValueError, match="must be 1 or more"):
        fit_linear([series], 0, [8])
    with pytest.raises(ValueError, match="one number of components"):
        fit_linear([series, series[:, :1]], HORIZON, [8])
    with pytest.raises(ValueError, match="6 steps to forecast, not 5"):
        fit_linear([series], 5, [8], validation=windows_of(series))


def test_overlapping_windows_do_not_hide_overfitting() -> None:
    def mean_error(lookbacks: list[int]) -> float:
        fit = fit_linear([make_series(150, noise=1.0)], HORIZON, lookbacks)
        return float(np.mean(errors_of(fit, windows_of(make_series(600, seed=2, noise=1.0), lookback=100)) ** 2))

    assert mean_error([16, 100]) < 1.1 * mean_error([16])


@pytest.mark.parametrize("still", range(4))
@pytest.mark.parametrize("seed", range(3))
def test_a_series_that_lives_in_one_fold_only_is_learned(still: int, seed: int) -> None:
    """Without that fold nothing varies, and what is left of the sums is rounding."""
    rng = np.random.default_rng(seed)
    series = np.full((800, 1), 7.3)
    series[200 * still : 200 * (still + 1)] += rng.normal(size=(200, 1)).cumsum(axis=0)
    validation = windows_of(7.3 + rng.normal(size=(200, 1)).cumsum(axis=0))
    fit = fit_linear([series], HORIZON, [24], validation=validation)
    assert np.isfinite(fit.member.weight.numpy()).all()
    assert np.mean(errors_of(fit, validation) ** 2) < 1
