"""Quantiles from distribution functions: smooth, with jumps, flat, and out of the bracket."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darts_msft.distributions.root_finding import quantile_between

COUNT = 200
WIDE = (torch.full((COUNT,), -1e4), torch.full((COUNT,), 1e4), torch.linspace(-1e4, 1e4, COUNT))
PLACES = torch.linspace(-3, 50, COUNT)


@pytest.mark.parametrize("level", [0.001, 0.5, 0.97])
def test_smooth_and_kinked_distributions_take_few_evaluations(level: float) -> None:
    """Logistic distributions, and such with three quarters of their mass in a spike."""
    evaluated = 0

    def cdf(rows: Tensor, value: Tensor) -> Tensor:
        nonlocal evaluated
        evaluated += len(rows)
        away = value - PLACES[rows]
        spike = (rows % 2) * 0.75
        return (1 - spike) * away.sigmoid() + spike * (1000 * away).sigmoid()

    found = quantile_between(cdf, level, *WIDE)
    assert evaluated < 35 * COUNT
    assert (cdf(torch.arange(COUNT), found) - level).abs().max() < 2e-3  # single precision in the spike
    close = (PLACES - 20, PLACES + 20, PLACES + 1)
    before = evaluated
    found = quantile_between(cdf, level, *close)
    assert evaluated - before < 16 * COUNT
    assert (cdf(torch.arange(COUNT), found) - level).abs().max() < 2e-3


def test_a_jump_is_found_from_above_and_a_flat_stretch_left() -> None:
    jump = quantile_between(lambda rows, value: 0.2 + 0.7 * (value >= PLACES[rows]), 0.5, *WIDE)
    assert (jump >= PLACES).all()
    assert (jump - PLACES <= 1e-6 * (1 + PLACES.abs())).all()
    flat = quantile_between(lambda rows, value: (value - PLACES[rows]).clamp(-0.5, 0.5) + 0.5, 0.5, *WIDE)
    torch.testing.assert_close(flat, PLACES, rtol=1e-5, atol=1e-5)


def test_an_end_is_the_answer_where_the_level_is_not_inside() -> None:
    low, high, start = PLACES, PLACES + 1, PLACES + 0.5
    assert torch.equal(quantile_between(lambda rows, value: torch.full_like(value, 0.9), 0.5, low, high, start), low)
    assert torch.equal(quantile_between(lambda rows, value: torch.full_like(value, 0.1), 0.5, low, high, start), high)


def test_an_empty_bracket_asks_nothing() -> None:
    def never(rows: Tensor, value: Tensor) -> Tensor:
        assert not len(rows)
        return value

    assert torch.equal(quantile_between(never, 0.5, PLACES, PLACES, PLACES), PLACES)
