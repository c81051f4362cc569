"""The continuous ranked probability score against a loop and a closed form; stacking against a grid."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from darts_msft.scales.mixing import crps, stack_weights


@pytest.mark.parametrize("count", [1, 2, 17])
def test_crps_is_the_double_loop_over_samples(count: int) -> None:
    """E|X - y| - E|X - X'| / 2 over pairs of different samples; a missing target has none."""
    samples, target = torch.randn(count, 3, 2), torch.randn(3, 2)
    samples[0] = samples[-1]  # ties
    target[2, 1] = math.nan
    found = crps(samples, target)
    for index in np.ndindex(3, 2):
        values, truth = samples[:, *index].tolist(), target[index].item()
        error = sum(abs(value - truth) for value in values) / count
        pairs = [abs(first - second) for first, second in itertools.permutations(values, 2)]
        spread = sum(pairs) / len(pairs) / 2 if pairs else 0.0
        assert found[index].item() == pytest.approx(error - spread, abs=1e-5, nan_ok=True)


def test_crps_of_normal_samples_is_unbiased() -> None:
    """Few samples a forecast, many forecasts: the mean is the closed form of the normal distribution."""
    torch.manual_seed(0)
    mean, std, truth = 1.0, 2.0, 2.5
    score = crps(mean + std * torch.randn(4, 100_000), torch.full((100_000,), truth))
    z = (truth - mean) / std
    normal = scipy.stats.norm
    expected = std * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / math.sqrt(math.pi))
    assert score.mean().item() == pytest.approx(expected, abs=4 * score.std().item() / math.sqrt(100_000))


@pytest.mark.parametrize("rank", [50, 2])
@pytest.mark.parametrize("num_scales", [1, 2, 3, 4])
def test_stacking_finds_the_minimum_on_the_simplex(num_scales: int, rank: int) -> None:
    """No point of a grid is better; errors share a part, so that some optimal weights are zero."""
    steps, zeros = {1: 1, 2: 200, 3: 40, 4: 15}[num_scales], 0
    grid = [w for w in itertools.product(range(steps + 1), repeat=num_scales) if sum(w) == steps]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shared = rng.uniform(0.5, 1.5, num_scales) * rng.normal(size=(rank, 1))
        errors = shared + rng.uniform(0.1, 1.0, num_scales) * rng.normal(size=(rank, num_scales))
        gram = errors.T @ errors
        weights = stack_weights(torch.from_numpy(gram * 10.0 ** rng.uniform(-6, 6))).numpy()
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1)
        zeros += int((weights == 0).sum())
        best = min(w @ gram @ w for w in np.array(grid) / steps)
        assert weights @ gram @ weights <= best + 1e-6 * np.trace(gram)
    assert zeros or num_scales < 3  # corners of the simplex are among the cases


def test_stacking_by_hand() -> None:
    independent = torch.diag(torch.tensor([1.0, 4.0]))  # inverse variances: 4 to 1
    torch.testing.assert_close(stack_weights(independent), torch.tensor([0.8, 0.2]))
    worse = torch.tensor([[1.0, 2.0], [2.0, 4.0]])  # the second scale makes twice the first one's error
    torch.testing.assert_close(stack_weights(worse), torch.tensor([1.0, 0.0]))
    for degenerate in (torch.zeros(3, 3), torch.ones(3, 3)):
        weights = stack_weights(degenerate)
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1)
