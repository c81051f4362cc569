"""The cross-scale aggregator against a loop over tokens that follows the method's formulas literally."""

import pytest
import torch
from oracles import covered, covering, token_stretches
from torch import Tensor, nn

from darts_msft.scales.aggregator import CrossScaleAggregator
from darts_msft.scales.pyramid import ScalePlan, TokenLayout

WIDTH = 4
PLAIN = (61, 29, 8, 2, None)
LONG = (101, 13, 3, 3, 7)  # three context tokens at every scale: half of the coarse ones are older than the finer scale
SHAPES = [PLAIN, (37, 5, 4, 2, None), (101, 13, 3, 3, None), LONG, (90, 20, 8, 2, 24), (37, 5, 4, 2, 9)]
Shape = tuple[int, int, int, int, int | None]  # context, horizon, patch size, K, finest context

Tokens = list[Tensor]


def make_aggregator(
    shape: Shape, branches: str, horizon_tokens: bool = True, trained: bool = True
) -> CrossScaleAggregator:
    *lengths, finest = shape
    plan = ScalePlan(*lengths, layout=TokenLayout(horizon_tokens), finest_context=finest)
    aggregator = CrossScaleAggregator(plan, WIDTH, branches)
    if trained:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in aggregator.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return aggregator


def tokens_and_masks(plan: ScalePlan) -> tuple[Tokens, list[Tensor]]:
    """Random context tokens, and a run on the left, are missing; horizon tokens are all there."""
    generator = torch.Generator().manual_seed(1)
    tokens = [torch.randn(2, 2, count, WIDTH, generator=generator) for count in plan.token_counts]
    masks = [torch.rand(2, 2, count, generator=generator) < 0.6 for count in plan.token_counts]
    for mask, context in zip(masks, plan.context_token_counts, strict=True):
        mask[0, :, : context // 2] = False
        mask[..., context:] = True
    return tokens, masks


def linear(module: nn.Module, token: Tensor) -> Tensor:
    assert isinstance(module, nn.Linear)
    return torch.stack([(row * token).sum() for row in module.weight]) + module.bias


def aggregate_one(aggregator: CrossScaleAggregator, tokens: Tokens, masks: list[Tensor]) -> Tokens:
    """One variate of one series; tokens[i] is (N_i, D). AvgPool(Linear(h)) is over the valid fine tokens."""
    plan, outcomes = aggregator.plan, []
    stretches = [
        token_stretches(plan.context, plan.horizon, plan.patch_size, scale, plan.layout.horizon, plan.finest_context)
        for scale in plan.scales
    ]
    if aggregator.c2f is not None:
        outcomes.append(fused := [part.clone() for part in tokens])
        for scale in range(plan.num_scales, 0, -1):
            for index, stretch in enumerate(stretches[scale - 1]):
                partner = covering(stretch, stretches[scale])
                if masks[scale][partner]:
                    fused[scale - 1][index] += linear(aggregator.c2f[scale - 1], fused[scale][partner])
    if aggregator.f2c is not None:
        outcomes.append(fused := [part.clone() for part in tokens])
        for scale in range(plan.num_scales):
            for index, stretch in enumerate(stretches[scale + 1]):
                partners = [token for token in covered(stretch, stretches[scale]) if masks[scale][token]]
                if partners:
                    mapped = [linear(aggregator.f2c[scale], fused[scale][token]) for token in partners]
                    fused[scale + 1][index] += sum(mapped) / len(mapped)
    return [sum(parts) / len(outcomes) for parts in zip(*outcomes, strict=True)]


def assert_is_the_loop(aggregator: CrossScaleAggregator, masked: tuple[int, ...]) -> None:
    """With masks on the scales that `masked` names; the input stays as it is."""
    tokens, masks = tokens_and_masks(aggregator.plan)
    before = [part.clone() for part in tokens]
    masks = [mask if scale in masked else torch.ones_like(mask) for scale, mask in enumerate(masks)]
    given = [mask if scale in masked else None for scale, mask in enumerate(masks)]
    found = aggregator(tokens, given)
    assert len(found) == len(tokens)
    assert all(torch.equal(part, saved) for part, saved in zip(tokens, before, strict=True))
    for batch in range(2):
        for variate in range(2):
            own, valid = [part[batch, variate] for part in tokens], [mask[batch, variate] for mask in masks]
            for part, expected in zip(found, aggregate_one(aggregator, own, valid), strict=True):
                torch.testing.assert_close(part[batch, variate], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [(0, 1, 2, 3), ()])
@pytest.mark.parametrize("branches", ["both", "c2f", "f2c"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_aggregation_is_the_loop_over_tokens(shape: Shape, branches: str, masked: tuple[int, ...]) -> None:
    aggregator = make_aggregator(shape, branches)
    assert (aggregator.c2f is None, aggregator.f2c is None) == (branches == "f2c", branches == "c2f")
    assert_is_the_loop(aggregator, masked)


@torch.no_grad()
def test_a_backbone_without_horizon_tokens_and_masks_on_some_scales() -> None:
    assert_is_the_loop(make_aggregator(PLAIN, "both", horizon_tokens=False), (1, 2))
    assert_is_the_loop(make_aggregator(LONG, "both", horizon_tokens=False), (1, 2))


@pytest.mark.parametrize(("branches", "maps"), [("both", 4), ("c2f", 2), ("f2c", 2)])
def test_a_new_aggregator_changes_no_bit_and_still_learns(branches: str, maps: int) -> None:
    aggregator = make_aggregator(PLAIN, branches, trained=False)
    assert sum(parameter.numel() for parameter in aggregator.parameters()) == maps * (WIDTH * WIDTH + WIDTH)
    tokens, masks = tokens_and_masks(aggregator.plan)
    found = aggregator(tokens, masks)
    assert all(torch.equal(first, second) for first, second in zip(found, tokens, strict=True))
    sum(part.square().sum() for part in found).backward()
    for name, parameter in aggregator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_tokens_older_than_the_finer_scale_s_memory_neither_give_nor_take(masked: bool) -> None:
    """At scale 3 the oldest token of three is older than all of scale 2; no map, and no bias, reaches across that."""
    aggregator = make_aggregator(LONG, "both")
    tokens, masks = tokens_and_masks(aggregator.plan)
    for mask in masks:
        mask[..., 0] = True  # an old token is there all the same
    given = masks if masked else [None] * len(masks)
    found = aggregator(tokens, given)
    assert torch.equal(found[3][..., 0, :], tokens[3][..., 0, :])
    tokens[3][..., 0, :] += 100
    other = aggregator(tokens, given)
    assert all(torch.equal(other[scale], found[scale]) for scale in range(3))
    assert torch.equal(other[3][..., 1:, :], found[3][..., 1:, :])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("shape", [PLAIN, LONG])
@torch.no_grad()
def test_tokens_of_no_time_neither_give_nor_take(shape: Shape, masked: bool) -> None:
    """Lead and middle stay as they are, and the others are as if they were not there."""
    plain = make_aggregator(shape, "both")
    *lengths, finest = shape
    plan = ScalePlan(*lengths, TokenLayout(True, 2, 3), finest)
    aggregator = CrossScaleAggregator(plan, WIDTH, "both")
    aggregator.load_state_dict(plain.state_dict())
    tokens, masks = tokens_and_masks(plan)
    masks = [torch.ones_like(mask) for mask in masks]
    timed = [
        torch.cat([torch.full((count,), index % 2 == 1) for index, count in enumerate(plan.sections(scale))])
        for scale in plan.scales
    ]
    found = aggregator(tokens, masks if masked else [None] * len(masks))
    expected = plain([part[:, :, kept] for part, kept in zip(tokens, timed, strict=True)], [None] * len(masks))
    for part, before, kept, bare in zip(found, tokens, timed, expected, strict=True):
        assert torch.equal(part[:, :, ~kept], before[:, :, ~kept])
        torch.testing.assert_close(part[:, :, kept], bare)
