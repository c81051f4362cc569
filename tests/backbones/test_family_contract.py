"""The laws of `darts_msft.backbones.families.DensityFamily`, for every backbone's and each kind of MOIRAI component."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from contract_backbone import forecast, random_moirai, random_walks
from torch import Tensor
from uni2ts.distribution import (
    DistributionOutput,
    LaplaceOutput,
    LogNormalOutput,
    MixtureOutput,
    NegativeBinomialOutput,
    NormalFixedScaleOutput,
    StudentTOutput,
)

from darts_msft.backbones.base import Backbone
from darts_msft.backbones.families import DensityFamily
from darts_msft.backbones.moirai import MoiraiBackbone

LEVELS = (0.01, 0.1, 0.5, 0.8, 0.99)
DRAWS = 20_000
SHARE = 0.02  # over five standard errors of a share of DRAWS

OUTPUTS: dict[str, Callable[[], DistributionOutput]] = {
    "negative_binomial": NegativeBinomialOutput,
    "laplace": LaplaceOutput,
    "continuous_mixture": lambda: MixtureOutput([StudentTOutput(), NormalFixedScaleOutput(), LogNormalOutput()]),
    "three_student_t": lambda: MixtureOutput([StudentTOutput() for _ in range(3)]),
}
DISCRETE = {"moirai", "negative_binomial"}  # the official mixture has a negative binomial: its density is no density


@pytest.fixture(scope="module", params=["moirai", *OUTPUTS])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    output = OUTPUTS[request.param]() if request.param in OUTPUTS else None
    return MoiraiBackbone(random_moirai(output=output), 4).eval()


@pytest.fixture(scope="module")
def family(backbone: Backbone) -> DensityFamily:
    return backbone.family


@pytest.fixture(scope="module")
def params(backbone: Backbone) -> Tensor:
    """(B, V, H, R) as the head gives them."""
    with torch.no_grad():
        return forecast(backbone, random_walks(2, 2, 24), 3, 4).params


@pytest.fixture
def is_discrete(request: pytest.FixtureRequest) -> bool:
    return request.node.callspec.params["backbone"] in DISCRETE


def test_one_distinct_name_a_column_and_any_leading_axes(family: DensityFamily, params: Tensor) -> None:
    assert len(family.names) == len(set(family.names)) == params.shape[-1]
    assert all(name.isidentifier() for name in family.names)
    for part in (params[0, 0, 0], params[0, 0], params):
        shape = part.shape[:-1]
        assert family.log_prob(part, torch.full(shape, 0.5)).shape == shape
        assert family.sample(part).shape == shape
        assert family.cdf(part, torch.full(shape, 0.5)).shape == shape
        assert family.quantile(part, 0.5).shape == shape


def test_steps_are_independent_of_one_another(family: DensityFamily, params: Tensor) -> None:
    value = torch.linspace(0.1, 2, params[..., 0].numel()).reshape(params.shape[:-1])
    density, median = family.log_prob(params, value), family.quantile(params, 0.5)
    for index in [(0, 0, 0), (1, 0, 2), (1, 1, 1)]:
        torch.testing.assert_close(family.log_prob(params[index], value[index]), density[index], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(family.quantile(params[index], 0.5), median[index], rtol=1e-5, atol=1e-5)


def _grid(family: DensityFamily, params: Tensor) -> Tensor:
    """(grid,): wide and coarse, and fine around every component's place, wherever that is."""
    wide = torch.sinh(torch.linspace(-12, 12, 50_001, dtype=torch.float64)) / 4
    places = torch.stack([family.quantile(params, level) for level in torch.linspace(0.01, 0.99, 15).tolist()])
    near = (places[:, None] + torch.linspace(-0.02, 0.02, 1001, dtype=torch.float64)).flatten()
    return torch.cat([wide, near]).unique()


def test_density_integrates_to_one_and_to_the_shares_below(
    family: DensityFamily, params: Tensor, is_discrete: bool
) -> None:
    if is_discrete:
        pytest.skip("not a continuous distribution")
    step = params[1, 1, 2].double()
    grid = _grid(family, step)
    density = family.log_prob(step.expand(len(grid), -1), grid).exp()
    below = torch.cat([grid.new_zeros(1), torch.cumulative_trapezoid(density, grid)])
    assert below[-1].item() == pytest.approx(1, abs=2e-3)
    for level in LEVELS:
        place = torch.searchsorted(grid, family.quantile(step, level))
        assert below[place].item() == pytest.approx(level, abs=3e-3)
    shares = family.cdf(step.expand(len(grid), -1), grid)
    torch.testing.assert_close(shares, below / below[-1], rtol=0, atol=3e-3)
    assert (shares.diff() >= -1e-7).all()


def test_quantiles_have_their_level_below(family: DensityFamily, params: Tensor) -> None:
    """Where the distribution jumps, the quantile is at the jump."""
    for level in LEVELS:
        quantile = family.quantile(params.double(), level)
        slack = 1e-6 * (1 + quantile.abs())
        assert (family.cdf(params.double(), quantile + slack) >= level - 1e-5).all()
        assert (family.cdf(params.double(), quantile - slack) <= level + 1e-5).all()


def test_draws_match_the_quantiles(family: DensityFamily, params: Tensor) -> None:
    torch.manual_seed(0)
    draws = family.sample(params.expand(DRAWS, *params.shape))
    for level in LEVELS:
        quantile = family.quantile(params, level)
        slack = 1e-5 * (1 + quantile.abs())
        at_most = (draws <= quantile + slack).float().mean(dim=0)
        less = (draws < quantile - slack).float().mean(dim=0)
        assert (at_most >= level - SHARE).all()
        assert (less <= level + SHARE).all()


def test_draws_are_independent_of_one_another(family: DensityFamily, params: Tensor) -> None:
    """Two steps with the same parameters, and two draws of one step, go up and down on their own."""
    torch.manual_seed(0)
    pairs = family.sample(params[0, 0, :1].expand(4000, 2, -1))
    above = (pairs > family.quantile(params[0, 0, :1], 0.5)).float()
    assert torch.corrcoef(above.T)[0, 1].abs() < 0.1
    assert torch.corrcoef(torch.stack([above[1:, 0], above[:-1, 0]]))[0, 1].abs() < 0.1


def test_quantiles_rise_with_the_level(family: DensityFamily, params: Tensor) -> None:
    values = torch.stack([family.quantile(params, level) for level in (0.001, *LEVELS, 0.999)])
    assert torch.isfinite(values).all()
    assert (values.diff(dim=0) >= -2e-6 * (1 + values[1:].abs())).all()  # they are roots, found to 1e-6
    assert (values[-1] > values[0]).all()


def test_double_precision(family: DensityFamily, params: Tensor) -> None:
    value = torch.full(params.shape[:-1], 0.7)
    density = family.log_prob(params.double(), value.double())
    assert density.dtype == torch.float64
    torch.testing.assert_close(density.float(), family.log_prob(params, value), rtol=1e-3, atol=1e-3)
    assert family.sample(params.double()).dtype == torch.float64
    assert family.sample(params).dtype == torch.float32
    median = family.quantile(params.double(), 0.5)
    assert median.dtype == torch.float64
    torch.testing.assert_close(median.float(), family.quantile(params, 0.5), rtol=1e-4, atol=1e-4)


def test_convex_combinations_are_parameters_too(family: DensityFamily, params: Tensor) -> None:
    """Upsampling interpolates parameters."""
    between = torch.lerp(params[0], params[1], 0.3)
    assert torch.isfinite(family.quantile(between, 0.5)).all()
    assert torch.isfinite(family.log_prob(between, torch.full(between.shape[:-1], 0.5))).all()


@pytest.mark.parametrize("value", [-3.0, 0.0, 0.5, 40.0])
def test_gradients_are_finite_inside_and_outside_of_supports(
    family: DensityFamily, params: Tensor, value: float
) -> None:
    leaf = params.clone().requires_grad_()
    point = torch.full(params.shape[:-1], value, requires_grad=True)
    state = torch.get_rng_state()
    density = family.log_prob(leaf, point)
    assert torch.equal(state, torch.get_rng_state())  # no random stand-ins
    reachable = torch.isfinite(density)
    density[reachable].sum().backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    assert point.grad is not None
    assert torch.isfinite(point.grad).all()
    if value == 0.5:
        assert reachable.all()
        assert (leaf.grad.abs().sum(dim=-1) > 0).all()


def test_loss_is_the_mean_over_observed_values(family: DensityFamily, params: Tensor) -> None:
    value = torch.rand(params.shape[:-1], generator=torch.Generator().manual_seed(4)) + 0.1
    weight = torch.linspace(0.5, 2, value.numel()).reshape(value.shape)
    missing = value.clone()
    missing[0, 0, 1:] = torch.nan
    observed = ~missing.isnan()
    steps = [tuple(index) for index in observed.nonzero().tolist()]
    assert len(steps) == value.numel() - 2
    total = sum(weight[step].item() * family.log_prob(params[step], value[step]).item() for step in steps)
    assert family.loss(params, missing, weight).item() == pytest.approx(-total / len(steps), rel=1e-4)


def test_losses_are_the_loss_at_each_scale(family: DensityFamily, params: Tensor) -> None:
    scales = [params, params[..., :1, :], params.flip(0)]
    values = [torch.rand(part.shape[:-1], generator=torch.Generator().manual_seed(4)) + 0.1 for part in scales]
    weights = [torch.linspace(0.5, 2, value.numel()).reshape(value.shape) for value in values]
    values[0][0, 0, 1:] = torch.nan  # as its weights may be there
    weights[0][0, 0, 1:] = torch.nan
    values[1][:] = torch.nan
    expected = [family.loss(*scale) for scale in zip(scales, values, weights, strict=True)]
    torch.testing.assert_close(family.losses(scales, values, weights), torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_mixed_loss_of_one_scale_is_the_loss(family: DensityFamily, params: Tensor) -> None:
    value = torch.rand(params.shape[:-1], generator=torch.Generator().manual_seed(4)) + 0.1
    value[1, 0, 0] = torch.nan
    loc, spread = torch.full((2, 2, 1, 1), -3.0), torch.full((2, 2, 1, 1), 2.5)
    weight = torch.linspace(0.5, 2, value.numel()).reshape(value.shape)
    for given, equal in ((None, torch.ones_like(value)), (weight, weight)):
        mixed = family.mixed_loss(params.unsqueeze(-2), loc, spread, torch.ones(1), value * 2.5 - 3, given)
        assert mixed.item() == pytest.approx(family.loss(params, value, equal).item(), rel=1e-3, abs=1e-4)


def test_mixed_loss_mixes_densities_in_the_first_scale_s_units(family: DensityFamily, params: Tensor) -> None:
    both = torch.stack([params, params.flip(0)], dim=-2)
    loc, scale = torch.zeros(2, 2, 1, 2), torch.tensor([2.0, 3.0]).expand(2, 2, 1, 2)
    weights, value = torch.tensor([0.3, 0.7]), torch.full(params.shape[:-1], 1.2)
    densities = [
        family.log_prob(both[..., index, :], value / spread).double().exp() * 2 / spread
        for index, spread in enumerate((2.0, 3.0))
    ]
    expected = -(0.3 * densities[0] + 0.7 * densities[1]).log().mean()
    mixed = family.mixed_loss(both, loc, scale, weights, value)
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-4)
