"""The cross-scale aggregator against a loop over tokens that follows the method's formulas literally."""

import pytest
import torch
from oracles import covered, covering, token_stretches
from torch import Tensor, nn

from darts_msft.scales.aggregator import CrossScaleAggregator
from darts_msft.scales.pyramid import ScalePlan

WIDTH = 4
SHAPES = [(64, 32, 8, 2), (61, 29, 8, 2), (37, 5, 4, 2), (101, 13, 3, 3), (40, 9, 8, 1)]

Tokens = list[Tensor]


def make_aggregator(
    shape: tuple[int, ...], branches: str, horizon_tokens: bool = True, trained: bool = True
) -> CrossScaleAggregator:
    aggregator = CrossScaleAggregator(ScalePlan(*shape, horizon_tokens=horizon_tokens), WIDTH, branches)
    if trained:
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in aggregator.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return aggregator


def make_tokens(plan: ScalePlan, batch: int = 2, variates: int = 2) -> Tokens:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, variates, count, WIDTH, generator=generator) for count in plan.token_counts]


def make_masks(plan: ScalePlan, batch: int = 2, variates: int = 2) -> list[Tensor]:
    """Random context tokens, and a run on the left, are missing; horizon tokens are all there."""
    generator = torch.Generator().manual_seed(2)
    masks = [torch.rand(batch, variates, count, generator=generator) < 0.6 for count in plan.token_counts]
    for mask, context in zip(masks, plan.context_token_counts, strict=True):
        mask[0, :, : context // 2] = False
        mask[..., context:] = True
    return masks


def times(plan: ScalePlan) -> list[list[tuple[int, int]]]:
    return [
        token_stretches(plan.context, plan.horizon, plan.patch_size, scale, plan.horizon_tokens)
        for scale in plan.scales
    ]


def linear(module: nn.Module, token: Tensor) -> Tensor:
    assert isinstance(module, nn.Linear)
    return torch.stack([(row * token).sum() for row in module.weight]) + module.bias


def coarse_to_fine(plan: ScalePlan, maps: nn.ModuleList, tokens: Tokens, masks: list[Tensor]) -> Tokens:
    """One variate of one series; tokens[i] is (N_i, D)."""
    fused = [part.clone() for part in tokens]
    stretches = times(plan)
    for scale in range(plan.num_scales, 0, -1):
        for index, stretch in enumerate(stretches[scale - 1]):
            partner = covering(stretch, stretches[scale])
            if masks[scale][partner]:
                fused[scale - 1][index] += linear(maps[scale - 1], fused[scale][partner])
    return fused


def fine_to_coarse(plan: ScalePlan, maps: nn.ModuleList, tokens: Tokens, masks: list[Tensor]) -> Tokens:
    """AvgPool(Linear(h)) over the valid fine tokens that a coarse one covers."""
    fused = [part.clone() for part in tokens]
    stretches = times(plan)
    for scale in range(plan.num_scales):
        for index, stretch in enumerate(stretches[scale + 1]):
            partners = [token for token in covered(stretch, stretches[scale]) if masks[scale][token]]
            if partners:
                mapped = [linear(maps[scale], fused[scale][token]) for token in partners]
                fused[scale + 1][index] += sum(mapped) / len(mapped)
    return fused


def aggregate(aggregator: CrossScaleAggregator, branches: str, tokens: Tokens, masks: list[Tensor]) -> Tokens:
    plan = aggregator.plan
    result = [torch.empty_like(part) for part in tokens]
    for batch in range(tokens[0].shape[0]):
        for variate in range(tokens[0].shape[1]):
            own, valid = [part[batch, variate] for part in tokens], [mask[batch, variate] for mask in masks]
            outcomes = []
            if branches in ("both", "c2f"):
                assert aggregator.c2f is not None
                outcomes.append(coarse_to_fine(plan, aggregator.c2f, own, valid))
            if branches in ("both", "f2c"):
                assert aggregator.f2c is not None
                outcomes.append(fine_to_coarse(plan, aggregator.f2c, own, valid))
            for scale in plan.scales:
                result[scale][batch, variate] = sum(outcome[scale] for outcome in outcomes) / len(outcomes)
    return result


def assert_same(found: Tokens, expected: Tokens) -> None:
    assert len(found) == len(expected)
    for first, second in zip(found, expected, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)


# --- the formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("branches", ["both", "c2f", "f2c"])
@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_aggregation_is_the_loop_over_tokens(shape: tuple[int, ...], branches: str, masked: bool) -> None:
    aggregator = make_aggregator(shape, branches)
    tokens, masks = make_tokens(aggregator.plan), make_masks(aggregator.plan)
    before = [part.clone() for part in tokens]
    if masked:
        found = aggregator(tokens, masks)
    else:
        found = aggregator(tokens, [None] * len(tokens))
        masks = [torch.ones_like(mask) for mask in masks]
    assert_same(found, aggregate(aggregator, branches, before, masks))
    assert all(torch.equal(part, saved) for part, saved in zip(tokens, before, strict=True))


@torch.no_grad()
def test_a_backbone_without_horizon_tokens_and_masks_on_some_scales() -> None:
    aggregator = make_aggregator((61, 29, 8, 2), "both", horizon_tokens=False)
    tokens, masks = make_tokens(aggregator.plan), make_masks(aggregator.plan)
    masks[0][:] = True
    found = aggregator(tokens, [None, *masks[1:]])
    assert_same(found, aggregate(aggregator, "both", tokens, masks))


@torch.no_grad()
def test_updates_are_sequential() -> None:
    """A change of the coarsest scale reaches the finest through the middle one, and back, within one call."""
    for branches, source, target in (("c2f", 2, 0), ("f2c", 0, 2)):
        aggregator = make_aggregator((64, 32, 8, 2), branches)
        tokens = make_tokens(aggregator.plan)
        changed = [part + 1.0 if scale == source else part for scale, part in enumerate(tokens)]
        first, second = (aggregator(given, [None] * 3) for given in (tokens, changed))
        assert (first[target] - second[target]).abs().amin(dim=-1).max() > 1e-3
        back = aggregator(
            [*changed[:1], *tokens[1:]] if branches == "c2f" else [*tokens[:2], tokens[2] + 1], [None] * 3
        )
        assert torch.equal(back[source], first[source])  # nothing flows against the branch's direction


@torch.no_grad()
def test_masked_tokens_send_nothing() -> None:
    aggregator = make_aggregator((61, 29, 8, 2), "both")
    tokens, masks = make_tokens(aggregator.plan), make_masks(aggregator.plan)
    spoilt = [torch.where(mask[..., None], part, 1e3) for part, mask in zip(tokens, masks, strict=True)]
    for first, second, mask in zip(aggregator(tokens, masks), aggregator(spoilt, masks), masks, strict=True):
        torch.testing.assert_close(first[mask], second[mask])


# --- the laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branches", ["both", "c2f", "f2c"])
def test_a_new_aggregator_changes_no_bit_and_still_learns(branches: str) -> None:
    aggregator = make_aggregator((61, 29, 8, 2), branches, trained=False)
    tokens, masks = make_tokens(aggregator.plan), make_masks(aggregator.plan)
    found = aggregator(tokens, masks)
    assert all(torch.equal(first, second) for first, second in zip(found, tokens, strict=True))
    sum(part.square().sum() for part in found).backward()
    for name, parameter in aggregator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("branches", "maps"), [("both", 4), ("c2f", 2), ("f2c", 2)])
def test_there_is_one_linear_with_bias_for_each_step_of_each_branch(branches: str, maps: int) -> None:
    aggregator = make_aggregator((64, 32, 8, 2), branches)
    assert (aggregator.c2f is None, aggregator.f2c is None) == (branches == "f2c", branches == "c2f")
    assert sum(parameter.numel() for parameter in aggregator.parameters()) == maps * (WIDTH * WIDTH + WIDTH)


@torch.no_grad()
def test_series_and_variates_never_mix() -> None:
    aggregator = make_aggregator((61, 29, 8, 2), "both")
    tokens, masks = make_tokens(aggregator.plan, 3, 2), make_masks(aggregator.plan, 3, 2)
    other = [part.clone() for part in tokens]
    other_masks = [mask.clone() for mask in masks]
    for part, mask in zip(other, other_masks, strict=True):
        part[1, 1] = 9.0
        mask[1, 1] = ~mask[1, 1]
    untouched = torch.ones(3, 2, dtype=torch.bool)
    untouched[1, 1] = False
    for first, second in zip(aggregator(tokens, masks), aggregator(other, other_masks), strict=True):
        assert torch.equal(first[untouched], second[untouched])
        assert not torch.equal(first[1, 1], second[1, 1])
