"""Per-scale losses, the mixed loss and their sum against loops, with a normal distribution as the family."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from oracles import pool_loop
from torch import Tensor
from torch.distributions import Normal

from darts_msft.backbones.base import Stats
from darts_msft.backbones.families import DensityFamily
from darts_msft.options import WEIGHT_LEARNINGS
from darts_msft.scales.mixing import ScaleWeights
from darts_msft.scales.pyramid import ScalePlan
from darts_msft.training.loss import combine, scale_losses

BATCH, VARIATES = 3, 2
PLANS = [ScalePlan(64, 16, 4, 2), ScalePlan(61, 13, 4, 3), ScalePlan(40, 5, 4, 0)]


class NormalFamily(DensityFamily):
    """Columns: location, standard deviation."""

    names = ("loc", "std")

    def log_prob(self, params: Tensor, value: Tensor) -> Tensor:
        return Normal(params[..., 0], params[..., 1]).log_prob(value)

    def sample(self, params: Tensor) -> Tensor:
        return Normal(params[..., 0], params[..., 1]).sample()

    def cdf(self, params: Tensor, value: Tensor) -> Tensor:
        return Normal(params[..., 0], params[..., 1]).cdf(value)

    def quantile(self, params: Tensor, level: float) -> Tensor:
        return Normal(params[..., 0], params[..., 1]).icdf(torch.tensor(level))


def density(value: float, loc: float, std: float) -> float:
    """Log-density of a normal."""
    return -(((value - loc) / std) ** 2) / 2 - math.log(std * math.sqrt(2 * math.pi))


def make_params(steps: int, *scales: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (BATCH, VARIATES, steps, *scales)
    spread = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float64), spread], dim=-1)


def make_stats(scales: Sequence[int]) -> list[Stats]:
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(len(scales), 2, BATCH, VARIATES, 1, generator=generator, dtype=torch.float64)
    return [Stats(20 * loc - 10, 5 * spread + 0.5) for loc, spread in draws]


def make_weight(horizon: int) -> Tensor:
    return torch.rand(BATCH, VARIATES, horizon, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def make_target(horizon: int, missing: float) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    target = 10 * torch.randn(BATCH, VARIATES, horizon, generator=generator, dtype=torch.float64)
    target[torch.rand(target.shape, generator=generator) < missing] = torch.nan
    if missing:
        target[0, 1] = torch.nan
        target[1, 0, :5] = torch.nan
    return target


def losses_loop(
    plan: ScalePlan, params: Sequence[Tensor], stats: Sequence[Stats], target: Tensor, weight: Tensor | None
) -> list[float]:
    """Negative log-likelihood of pooled labels in the context's units, times pooled weights, over observed labels."""
    losses = []
    for scale in plan.scales:
        total, count = 0.0, 0
        for row, variate in np.ndindex(BATCH, VARIATES):
            own = [1.0] * plan.horizon if weight is None else weight[row, variate].tolist()
            labels, weights = (
                pool_loop(one, 2**scale, backwards=False) for one in (target[row, variate].tolist(), own)
            )
            loc, spread = (part[row, variate, 0].item() for part in stats[scale])
            for step, (label, importance) in enumerate(zip(labels, weights, strict=True)):
                if not math.isnan(label):
                    total -= importance * density((label - loc) / spread, *params[scale][row, variate, step].tolist())
                    count += 1
        losses.append(total / max(count, 1))
    return losses


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("plan", PLANS)
def test_scale_losses_are_the_loop_over_pooled_labels(plan: ScalePlan, missing: float, weighted: bool) -> None:
    params = [make_params(steps, seed=scale) for scale, steps in enumerate(plan.horizons)]
    stats, target = make_stats(plan.scales), make_target(plan.horizon, missing)
    weight = make_weight(plan.horizon) if weighted else None
    if weighted and missing:  # as in the gap of Darts' output_chunk_shift
        target[..., :3] = weight[..., :3] = torch.nan
    found = scale_losses(NormalFamily(), plan, params, stats, target, weight)
    np.testing.assert_allclose(found.numpy(), losses_loop(plan, params, stats, target, weight), rtol=1e-9)


def test_missing_labels_give_finite_gradients_and_none_at_all_gives_zero() -> None:
    plan = PLANS[0]
    params = [make_params(steps).requires_grad_() for steps in plan.horizons]
    scale_losses(NormalFamily(), plan, params, make_stats(plan.scales), make_target(16, 0.5), None).sum().backward()
    for part in params:
        assert part.grad.isfinite().all()
        assert (part.grad[0, 1] == 0).all()  # this variate has no label
    nothing = torch.full((BATCH, VARIATES, 16), torch.nan, dtype=torch.float64)
    assert (scale_losses(NormalFamily(), plan, params, make_stats(plan.scales), nothing, None) == 0).all()


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("missing", [0.0, 0.4])
def test_mixed_loss_is_the_mixtures_likelihood_in_the_finest_scales_units(missing: float, weighted: bool) -> None:
    """Scale i's density of y is that of (y - loc_i) / scale_i, divided by scale_i; times scale_0 in scale 0's units."""
    horizon, weights = 7, torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
    params, stats = make_params(horizon, 3), make_stats(range(3))
    target, importance = make_target(horizon, missing), make_weight(horizon)
    importance[target.isnan()] = torch.nan
    total, count = 0.0, 0
    for row, variate, step in np.ndindex(BATCH, VARIATES, horizon):
        value = target[row, variate, step].item()
        if math.isnan(value):
            continue
        mixture = 0.0
        for scale in range(3):
            loc, spread = (part[row, variate, 0].item() for part in stats[scale])
            mean, std = params[row, variate, step, scale].tolist()
            mixture += weights[scale].item() * math.exp(density(value, loc + spread * mean, spread * std))
        log = math.log(mixture * stats[0].spread[row, variate, 0].item())
        total -= log * (importance[row, variate, step].item() if weighted else 1.0)
        count += 1
    loc, scale = (torch.stack(parts, dim=-1) for parts in zip(*stats, strict=True))
    found = NormalFamily().mixed_loss(params, loc, scale, weights, target, importance if weighted else None)
    assert found.item() == pytest.approx(total / count, rel=1e-6)


def test_mixed_loss_moves_the_weights_to_the_scale_that_is_right_also_far_away() -> None:
    """In the tails every density is zero to machine precision; the gradient still points to the better scale."""
    omega = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    params = torch.tensor([[0.0, 1.0], [40.0, 1.0]], dtype=torch.float64).expand(1, 1, 1, 2, 2)
    affine = torch.zeros(1, 1, 1, 2, dtype=torch.float64), torch.ones(1, 1, 1, 2, dtype=torch.float64)
    value = torch.full((1, 1, 1), 100.0, dtype=torch.float64)
    NormalFamily().mixed_loss(params, *affine, omega.softmax(dim=0), value).backward()
    torch.testing.assert_close(omega.grad, torch.tensor([0.5, -0.5], dtype=torch.float64))


@pytest.mark.parametrize("weight_learning", WEIGHT_LEARNINGS)
def test_their_sum(weight_learning: str) -> None:
    """Weighted, with the softmax's gradient for omega; or all alike, and omega learns nothing from them."""
    weights, losses = ScaleWeights([0.3, -1.0, 0.8]), torch.tensor([2.0, 1.0, 0.5], requires_grad=True)
    values, share, own = np.array([2.0, 1.0, 0.5]), np.full(3, 1 / 3), None
    if weight_learning == "scale_loss":
        share = np.exp([0.3, -1.0, 0.8]) / np.exp([0.3, -1.0, 0.8]).sum()
        own = share * (values - share @ values)
    total = combine(losses, weights(), weight_learning)
    total.backward()
    assert total.item() == pytest.approx(share @ values, rel=1e-6)
    np.testing.assert_allclose(losses.grad.numpy(), share, rtol=1e-6)
    if own is None:
        assert weights.omega.grad is None
    else:
        np.testing.assert_allclose(weights.omega.grad.numpy(), own, rtol=1e-5, atol=1e-7)
