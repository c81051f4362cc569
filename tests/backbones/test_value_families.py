"""Families whose parameters are values: quantiles with what lies between them, and points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from darts_msft.backbones.families import PointFamily, QuantileFamily, ValueFamily

LEVELS = (0.1, 0.3, 0.5, 0.8)
STEP = [1.0, 2.0, 4.0, 4.5]
FAMILIES = [QuantileFamily(LEVELS), QuantileFamily(LEVELS, squashed=True), PointFamily()]
DRAWS = 100_000


@pytest.fixture
def family() -> QuantileFamily:
    return QuantileFamily(LEVELS)


@pytest.fixture
def params() -> Tensor:
    """(2, 3, 4): steps at other levels; the columns of the last one cross."""
    rising = torch.tensor(STEP) + torch.arange(6.0).reshape(2, 3, 1)
    rising[1, 2] = rising[1, 2, [1, 0, 3, 2]]
    return rising


def pinball(level: float, quantile: float, value: float) -> float:
    return level * (value - quantile) if value > quantile else (1 - level) * (quantile - value)


@pytest.mark.parametrize("squashed", [False, True])
def test_the_error_of_quantiles_is_twice_the_mean_pinball_loss(params: Tensor, squashed: bool) -> None:
    scale = math.asinh if squashed else float
    value = torch.linspace(-2, 30, 6).reshape(2, 3)
    found = QuantileFamily(LEVELS, squashed).error(params, value)
    for index in ((0, 0), (0, 2), (1, 2)):
        columns = zip(LEVELS, params[index].tolist(), strict=True)
        expected = [2 * pinball(level, scale(column), scale(value[index].item())) for level, column in columns]
        assert found[index].item() == pytest.approx(sum(expected) / len(LEVELS), rel=1e-5)


def test_draws_lie_between_the_columns_and_on_the_outermost(family: QuantileFamily) -> None:
    torch.manual_seed(0)
    step = torch.tensor(STEP)[[1, 0, 3, 2]]  # crossed
    draws = family.sample(step.expand(DRAWS, -1))
    shares = {1.0: 0.1, 1.5: 0.2, 2.0: 0.3, 3.0: 0.4, 4.0: 0.5, 4.25: 0.65, 4.4999: 0.8, 4.5: 1.0}
    for value, share in shares.items():
        assert (draws <= value).float().mean().item() == pytest.approx(share, abs=0.01)
    assert draws.min() == 1.0
    one_by_one = family.sample(step.repeat(DRAWS, 1))
    assert (one_by_one <= 3).float().mean().item() == pytest.approx(0.4, abs=0.01)


def test_the_distribution_function_is_that_of_the_draws(family: QuantileFamily) -> None:
    values = torch.tensor([-5.0, 0.99, 1.0, 1.5, 2.0, 3.0, 4.25, 4.49999, 4.5, 9.0])
    expected = torch.tensor([0, 0, 0.1, 0.2, 0.3, 0.4, 0.65, 0.8, 1, 1])
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        step = torch.tensor(STEP)[order].expand(len(values), -1)
        torch.testing.assert_close(family.cdf(step, values), expected, rtol=0, atol=1e-4)
    flat = torch.tensor([[2.0, 2.0, 2.0, 5.0]]).expand(3, -1)
    found = family.cdf(flat, torch.tensor([1.9, 2.0, 3.5]))
    torch.testing.assert_close(found, torch.tensor([0, 0.5, 0.65]), rtol=0, atol=1e-6)


def test_quantiles_are_columns_as_they_are_or_between_sorted_ones(family: QuantileFamily, params: Tensor) -> None:
    for column, level in enumerate(LEVELS):
        assert torch.equal(family.quantile(params, level + 5e-7), params[..., column])
    ordered = params.sort(dim=-1).values
    torch.testing.assert_close(family.quantile(params, 0.2), ordered[..., :2].mean(dim=-1))
    torch.testing.assert_close(family.quantile(params, 0.6), torch.lerp(ordered[..., 2], ordered[..., 3], 1 / 3))
    assert torch.equal(family.quantile(params, 0.05), ordered[..., 0])
    assert torch.equal(family.quantile(params, 0.9), ordered[..., 3])


def test_quantiles_keep_gradients(family: QuantileFamily, params: Tensor) -> None:
    for level in (0.3, 0.4):
        leaf = params.clone().requires_grad_()
        family.quantile(leaf, level).sum().backward()
        assert leaf.grad is not None
        torch.testing.assert_close(leaf.grad.sum(dim=-1), torch.ones(2, 3))


def test_levels_are_served_within_the_outermost(family: QuantileFamily) -> None:
    assert family.serves([0.1, 0.25, 0.8])
    assert family.serves([0.1 - 1e-8, 0.8 + 1e-8])
    assert not family.serves([0.05, 0.5])
    assert not family.serves([0.5, 0.9])
    assert not PointFamily().serves([0.5])


def test_a_point_is_all_there_is() -> None:
    family, params = PointFamily(), torch.tensor([[1.0], [-2.0]])
    assert family.deterministic
    for level in (0.01, 0.5, 0.9):
        assert torch.equal(family.quantile(params, level), params[:, 0])
    assert torch.equal(family.sample(params), params[:, 0])
    assert torch.equal(family.cdf(params, torch.tensor([1.0, -2.1])), torch.tensor([1.0, 0.0]))
    assert torch.equal(family.error(params, torch.tensor([3.0, -2.0])), torch.tensor([4.0, 0.0]))


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_means_over_observed_values_and_of_averaged_columns(family: ValueFamily) -> None:
    """The mixed one in scale 0's units, by a loop."""
    torch.manual_seed(0)
    params, loc, spread = (
        torch.randn(2, 1, 3, 2, len(family.names)),
        torch.randn(2, 1, 1, 2),
        torch.rand(2, 1, 1, 2) + 1,
    )
    weights, weight, value = torch.tensor([0.3, 0.7]), torch.rand(2, 1, 3), torch.randn(2, 1, 3)
    value[0, 0, 1] = torch.nan
    total, alone = 0.0, 0.0
    for index in (~value.isnan()).nonzero().tolist():
        batch, variate, step = index
        own = [params[batch, variate, step, s] * spread[batch, 0, 0, s] + loc[batch, 0, 0, s] for s in (0, 1)]
        mixed = 0.3 * own[0] + 0.7 * own[1]
        parts = [(part - loc[batch, 0, 0, 0]) / spread[batch, 0, 0, 0] for part in (mixed, value[tuple(index)])]
        total += family.error(*parts).item() * weight[tuple(index)].item()
        alone += family.error(params[batch, variate, step, 0], value[tuple(index)]).item() * weight[tuple(index)].item()
    mixed_loss = family.mixed_loss(params, loc, spread, weights, value, weight)
    assert mixed_loss.item() == pytest.approx(total / 5, rel=1e-4)
    assert family.loss(params[..., 0, :], value, weight).item() == pytest.approx(alone / 5, rel=1e-4)
