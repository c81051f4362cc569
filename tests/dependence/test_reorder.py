"""Laws of the reordering: the numbers of a step stay, their order is that of the given draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from darts_msft.dependence.reorder import in_order_of, normal_draws, picked

STEPS = torch.tensor([[1.0, 0.8, 0.3], [0.8, 1.0, 0.6], [0.3, 0.6, 1.0]])
COMPONENTS = torch.tensor([[1.0, -0.5], [-0.5, 1.0]])


def draws(count: int, series: int = 2) -> torch.Tensor:
    factors = (torch.linalg.cholesky(one).expand(series, -1, -1) for one in (STEPS, COMPONENTS))
    return normal_draws(count, *factors, torch.Generator().manual_seed(0))


def skewed(count: int, series: int = 2) -> torch.Tensor:
    """Samples of other distributions at each step, series and component."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, series, 3, 2, generator=generator).exp() * torch.arange(1.0, 13).reshape(2, 3, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_each_step_keeps_its_samples(dtype):
    samples = skewed(50).to(dtype)
    found = in_order_of(samples, draws(50))
    assert found.dtype == dtype
    assert found.shape == samples.shape
    assert torch.equal(found.sort(dim=0).values, samples.sort(dim=0).values)
    assert not torch.equal(found, samples)


def test_samples_are_left_as_they_were():
    samples = skewed(20)
    before = samples.clone()
    in_order_of(samples, draws(20))
    assert torch.equal(samples, before)


def test_smallest_sample_where_the_score_is_smallest():
    scores = torch.tensor([0.2, -1.0, 3.0]).reshape(1, 1, 1, 3)
    samples = torch.tensor([5.0, 7.0, 6.0]).reshape(3, 1, 1, 1)
    assert in_order_of(samples, scores).flatten().tolist() == [6.0, 5.0, 7.0]


def test_ranks_correlate_as_asked():
    """Of steps, of components, and of both by the product; series are independent."""
    found = in_order_of(skewed(20_000), draws(20_000))
    ranks = stats.spearmanr(found[:, 0].reshape(-1, 6).numpy()).statistic.reshape(3, 2, 3, 2)
    expected = np.einsum("hk,vw->hvkw", STEPS.numpy(), COMPONENTS.numpy())
    expected = 6 / np.pi * np.arcsin(expected / 2)  # of ranks of normal draws
    assert np.abs(ranks - expected).max() < 0.03
    between = stats.spearmanr(found[:, 0].reshape(-1, 6).numpy(), found[:, 1].reshape(-1, 6).numpy()).statistic
    assert np.abs(between[:6, 6:]).max() < 0.03


def test_mixed_precision_does_not_round_the_draws():
    with torch.autocast("cpu", torch.bfloat16):
        rounded = draws(5)
    assert torch.equal(rounded, draws(5))


def test_one_of_many_is_distributed_as_they_are_and_correlates():
    series = 4000
    generator = torch.Generator().manual_seed(2)
    samples = torch.randn(64, series, 3, 2, generator=generator).exp()
    found = picked(samples, draws(1, series))
    assert found.shape == (series, 3, 2)
    assert stats.kstest(found[:, 1, 0].log().numpy(), "norm").pvalue > 0.01
    correlation = np.corrcoef(found[:, :, 0].log().numpy().T)
    assert np.abs(correlation - STEPS.numpy()).max() < 0.06


def test_what_is_picked_is_among_the_samples():
    samples, scores = skewed(7), torch.tensor([-9.0, 9.0, 0.0]).expand(2, 2, 3).unsqueeze(-1)
    found = picked(samples, scores)
    ordered = samples.sort(dim=0).values
    assert torch.equal(found[:, 0], ordered[0, :, 0])
    assert torch.equal(found[:, 1], ordered[-1, :, 1])
    assert torch.equal(found[:, 2], ordered[3, :, 2])
