"""What a window's past tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from darts_msft.dependence.context import by_lag, constant_form, of_context

HORIZON = 24


def process(persistence: float, length: int = 960, season: int = 0, seed: int = 0, windows: int = 8) -> torch.Tensor:
    """(B, C, 2): a season and AR(1) noise, of which the second component's is half the first's."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((windows, length, 2))
    noise[..., 1] = (noise[..., 0] + noise[..., 1]) / np.sqrt(2)
    for step in range(1, length):
        noise[:, step] = persistence * noise[:, step - 1] + np.sqrt(1 - persistence**2) * noise[:, step]
    profile = 6 * random.standard_normal(season)[np.arange(length) % season] if season else np.zeros(length)
    return torch.tensor(noise + profile[:, None], dtype=torch.float32)


@pytest.mark.parametrize("season", [0, 12, 24])
def test_the_noise_tells_and_the_season_does_not(season):
    told = of_context(process(0.8, season=season), HORIZON).steps.mean(dim=0)
    assert told[1] == pytest.approx(0.8, abs=0.08)
    assert told[4] == pytest.approx(0.8**4, abs=0.1)
    assert told[12].abs() < 0.15


def test_white_noise_tells_independence():
    assert of_context(process(0.0, season=12), HORIZON).steps[:, 1:].abs().mean() < 0.06


def test_components_correlate_as_their_noise():
    told = of_context(process(0.5, season=12), HORIZON).components
    assert told[:, 0, 1].mean() == pytest.approx(1 / np.sqrt(2), abs=0.08)
    assert torch.equal(told.diagonal(dim1=1, dim2=2), torch.ones(8, 2, dtype=told.dtype))


def test_unit_and_level_do_not_matter():
    past = process(0.8, season=12)
    own, other = (of_context(one, HORIZON) for one in (past.double(), past.double() * torch.tensor([100, 0.01]) + 1e4))
    for one, two in zip(own, other, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_a_window_does_not_hear_of_others():
    past = torch.cat([process(0.8, season=12, windows=2), process(0.1, season=24, seed=1, windows=2)])
    for one, two in zip(of_context(past, HORIZON), of_context(past[1:2], HORIZON), strict=True):
        assert torch.allclose(one[1:2], two)


@pytest.mark.parametrize("fill", [5.0, float("nan")])
def test_a_constant_past_tells_the_constant_form(fill):
    past = torch.full((2, 96, 2), fill)
    told = of_context(past, HORIZON)
    assert torch.allclose(told.steps, constant_form(HORIZON).expand(2, -1))
    assert torch.equal(told.components, torch.eye(2, dtype=told.components.dtype).expand(2, -1, -1))


def test_a_constant_component_leaves_the_others_their_say():
    past = process(0.8, season=12)
    still = torch.stack([past[..., 0], torch.full_like(past[..., 0], 3.0)], dim=-1)
    assert torch.allclose(of_context(still, HORIZON).steps, of_context(past[..., :1], HORIZON).steps)


def test_missing_values_are_left_out():
    past = process(0.9, season=12)
    past[:, :200] = torch.nan  # a short series, padded
    past[:, 500:520, 0] = torch.nan
    told = of_context(past, HORIZON).steps.mean(dim=0)
    assert told.isfinite().all()
    assert told[1] == pytest.approx(0.87, abs=0.06)


@pytest.mark.parametrize("length", [1, 2, 5, 16, 960])
def test_always_positive_definite(length):
    past = process(0.99, length=length, season=min(length, 12))
    past[0, : length // 2, 0] = torch.nan
    told = of_context(past, HORIZON)
    assert torch.linalg.eigvalsh(by_lag(told.steps)).min() > 1e-3
    assert torch.linalg.eigvalsh(told.components).min() > 1e-3
    assert torch.allclose(told.steps[:, 0], torch.ones(8, dtype=told.steps.dtype))


def test_a_short_past_says_less():
    constant = constant_form(HORIZON)
    short, long = (of_context(process(0.0, length=length), HORIZON).steps.mean(dim=0)[1] for length in (16, 960))
    assert abs(short - constant[1]) < abs(long - constant[1])


@pytest.mark.parametrize("length", [1, 3, 4, 11, 12, 15, 16, 17])
def test_short_pasts_are_told_of_too(length):
    told = of_context(process(0.8, length=length), HORIZON)
    assert torch.linalg.eigvalsh(by_lag(told.steps)).min() > 0
    assert told.components.isfinite().all()
