"""Weights of the scales from backcasts of a window's own end, against loops over windows and steps."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from darts.utils.data.torch_datasets.utils import PLModuleInput
from torch import Tensor

from darts_msft.scales.backcasts import COUNT, POWER, cut_backcasts
from darts_msft.windows_of_batches import window_of

VARIATES, SCALES = 2, 3


def windows(length: int, gaps: bool = False) -> Tensor:
    """(B, C, V): one of them with missing values, and one that starts late."""
    past = torch.randn(3, length, VARIATES, generator=torch.Generator().manual_seed(length))
    if gaps:
        past[0, ::3, 0] = past[0, -2:, 1] = torch.nan
        past[2, : length // 2] = torch.nan
    return past


FINEST = 1  # steps that scale 0 sees: anything observed tells something, and all but the last is older


def points_for(past: Tensor, horizon: int) -> Tensor:
    """(J, B, H, V, S): any forecasts of the backcasts."""
    shape = (COUNT, len(past), horizon, VARIATES, SCALES)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 0.9, 1.2])


def squared_errors(past: Tensor, row: int, points: Tensor, steps: int, shift: int) -> list[list[float]]:
    """By scale, over backcasts, steps and variates that say something, in units of the window's variance."""
    window, length = past[row], past.shape[1]
    errors: list[list[float]] = [[] for _ in range(SCALES)]
    for variate in range(VARIATES):
        seen = [value for value in window[:, variate].double().tolist() if not math.isnan(value)]
        mean = sum(seen) / max(len(seen), 1)
        variance = sum((value - mean) ** 2 for value in seen) / max(len(seen), 1)
        for index in range(COUNT):
            first = length - (index + 1) * steps
            context = window[: max(first - shift, 0), variate]
            if variance == 0 or bool(context.isnan().all()):
                continue
            for step in range(steps):
                truth = window[first + step, variate].item()
                for scale in range(SCALES):
                    if not math.isnan(truth):
                        found = points[index, row, step, variate, scale].item()
                        errors[scale].append((found - truth) ** 2 / variance)
    return errors


def weights_loop(past: Tensor, points: Tensor, steps: int, shift: int) -> list[list[float]]:
    """MSE ** -8, normalised; scale 0 alone where nothing is told."""
    result = []
    for row in range(len(past)):
        errors = squared_errors(past, row, points, steps, shift)
        shares = [(sum(own) / len(own)) ** -8 if own else float(scale == 0) for scale, own in enumerate(errors)]
        result.append([share / sum(shares) for share in shares])
    return result


@pytest.mark.parametrize(
    ("length", "horizon", "shift"), [(64, 5, 0), (64, 96, 0), (64, 5, 7), (61, 96, 9), (9, 4, 0), (3, 4, 0), (2, 4, 0)]
)
@pytest.mark.parametrize("gaps", [False, True])
def test_backcasts_are_cut_from_the_end(length: int, horizon: int, shift: int, gaps: bool) -> None:
    """One after the other, of the whole horizon where half of what the forecast could see has room for all of them."""
    past = windows(length, gaps)
    ends, truth, unit, _ = cut_backcasts(past, horizon, shift, FINEST)
    window = window_of(PLModuleInput(past_target=past), horizon, shift)
    windows_ = [window.ending(end, shift).past_target for end in ends]
    steps = next(steps for steps in range(horizon, 0, -1) if 2 * COUNT * steps <= length - shift or steps == 1)
    assert len(ends) == COUNT
    assert truth.shape == (COUNT, 3, steps, VARIATES)
    for index in range(COUNT):
        first = length - (index + 1) * steps
        context = past[:, : max(first - shift, 0)]
        padding = torch.full((3, length - context.shape[1], VARIATES), torch.nan)
        torch.testing.assert_close(
            windows_[index], torch.cat([padding, context], dim=1), rtol=0, atol=0, equal_nan=True
        )
        assert not context.shape[1] or torch.equal(truth[index].isnan(), past[:, first : first + steps].isnan())
        torch.testing.assert_close(truth[index], past[:, first : first + steps], rtol=0, atol=0, equal_nan=True)
    for row, variate in np.ndindex(*unit.shape):
        seen = past[row, :, variate][~past[row, :, variate].isnan()].tolist()
        assert unit[row, variate].item() == pytest.approx(statistics.pvariance(seen) if seen else 0.0)


@pytest.mark.parametrize(("length", "horizon", "shift"), [(64, 5, 0), (64, 96, 3), (9, 4, 0)])
@pytest.mark.parametrize("gaps", [False, True])
def test_weights_are_inverse_powers_of_the_errors(length: int, horizon: int, shift: int, gaps: bool) -> None:
    past = windows(length, gaps)
    backcasts, points = cut_backcasts(past, horizon, shift, FINEST), points_for(past, horizon)
    weights = backcasts.weights(points)
    steps = backcasts.truth.shape[2]
    torch.testing.assert_close(weights, torch.tensor(weights_loop(past, points, steps, shift)), rtol=1e-3, atol=1e-6)
    assert POWER == 8
    for row in range(3):  # each window by itself
        alone = cut_backcasts(past[row : row + 1], horizon, shift, FINEST).weights(points[:, row : row + 1])
        torch.testing.assert_close(alone[0], weights[row], rtol=1e-5, atol=1e-7)


def test_windows_that_tell_nothing_get_scale_0() -> None:
    """Flat, never observed, too short for the gap; a flat variate beside another one has no say."""
    past = windows(40).double()
    past[0] = 3.5
    past[1] = torch.nan
    past[2, :, 0] = 0.1  # whose mean is rounded
    points = points_for(past, 4).double()
    weights = cut_backcasts(past, 4, 0, FINEST).weights(points)
    assert weights[:2].tolist() == [[1, 0, 0]] * 2
    other = points.clone()
    other[:, 2, :, 0] += 100
    torch.testing.assert_close(cut_backcasts(past, 4, 0, FINEST).weights(other)[2], weights[2])
    late = cut_backcasts(windows(40), 4, 50, FINEST).weights(points_for(past, 4))
    assert late.tolist() == [[1, 0, 0]] * 3


def test_perfect_and_broken_scales() -> None:
    """Without an error there is no division by zero; forecasts that are not finite get nothing."""
    past = windows(40)
    points = points_for(past, 4)
    backcasts = cut_backcasts(past, 4, 0, FINEST)
    points[..., 1] = backcasts.truth
    torch.testing.assert_close(backcasts.weights(points), torch.tensor([[0.0, 1.0, 0.0]] * 3))
    points[..., 2] = backcasts.truth
    torch.testing.assert_close(backcasts.weights(points), torch.tensor([[0.0, 0.5, 0.5]] * 3))
    points[:, 0, ..., 1] = torch.inf
    torch.testing.assert_close(backcasts.weights(points)[0], torch.tensor([0.0, 0.0, 1.0]))
    points[:, 0] = torch.inf
    torch.testing.assert_close(backcasts.weights(points)[0], torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("units", [(1e-12, 1e12), (1e3, 1e-3)])
def test_weights_know_no_units(units: tuple[float, float]) -> None:
    past, unit = windows(64, gaps=True).double(), torch.tensor(units, dtype=torch.float64)
    points = points_for(past, 5).double()
    plain = cut_backcasts(past, 5, 0, FINEST).weights(points)
    moved = cut_backcasts((past + 7) * unit, 5, 0, FINEST).weights((points + 7) * unit[:, None])
    torch.testing.assert_close(moved, plain)


@pytest.mark.parametrize("observed", [8, 16, 17, 23, 24, 31, 32, 64])
def test_backcasts_tell_of_windows_that_scale_0_does_not_see_whole(observed: int) -> None:
    """They need half of its memory, 8 of 16 steps, before them, and the window something older than it."""
    past = windows(64)
    past[:, : 64 - observed] = torch.nan
    tells = cut_backcasts(past, 8, 0, 16).tells
    expected = [observed > 16 and observed - 8 * (index + 1) >= 8 for index in range(COUNT)]
    assert tells[:, 0, 0].tolist() == expected
    assert bool((tells == tells[:, :1, :1]).all())


def test_a_component_with_a_gap_has_no_say_while_the_others_do() -> None:
    past = windows(64)
    past[0, 24:56, 0] = torch.nan  # 24 of 48 steps before the second backcast, 24 of 56 before the first
    past[0, :20, 0] = torch.nan
    tells = cut_backcasts(past, 8, 0, 16).tells
    assert tells[:, 0].tolist() == [[False, True]] * COUNT
    assert bool(tells[:, 1:].all())
