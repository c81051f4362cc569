"""The laws of `darts_msft.backbones.base.Backbone`, for every registered architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch
from contract_backbone import MAKERS, Beside, embed, forecast, load_backbone, patch_context, random_walks, with_gaps
from torch import Tensor

from darts_msft.backbones import ARCHITECTURES, describe
from darts_msft.backbones.base import Backbone, Stats, standardise, with_stats
from darts_msft.storage.weights import load_state

PATCH = 4
HORIZON = 6  # two patches, the second cut short


@pytest.fixture(scope="module", params=MAKERS)
def directory(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of(request.param)


@pytest.fixture(scope="module")
def backbone(directory: Path) -> Backbone:
    return load_backbone(directory, PATCH)


@pytest.fixture
def tokens(backbone: Backbone) -> Tensor:
    """(B, V, N, D) as the first layer sees them."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 3, 5, backbone.spec.width, generator=generator)


def test_every_architecture_has_a_tiny_checkpoint() -> None:
    assert set(ARCHITECTURES) <= set(MAKERS)


# ------------------------------------------------------------------------------------------- description and loading


def test_traits_are_known_before_there_are_weights(directory: Path, backbone: Backbone) -> None:
    config = describe(str(directory))[2]
    traits = type(backbone).traits_of(config)
    assert PATCH in traits.patch_sizes
    assert list(traits.patch_sizes) == sorted(set(traits.patch_sizes))
    assert all(type(size) is int for size in traits.patch_sizes)
    assert {*traits.multivariate} <= {"independent", "joint"}
    own = backbone.traits
    families = [
        (type(one.family), one.family.names, one.family.levels, one.family.deterministic) for one in (own, traits)
    ]
    assert families[0] == families[1]
    for name in (field.name for field in fields(traits) if field.name != "family"):
        assert getattr(own, name) == getattr(traits, name), name
    for size in traits.patch_sizes:
        other = type(backbone).from_config(config, size)
        assert other.patch_size == size
        assert other.spec.width == backbone.spec.width
        count = HORIZON if traits.pretrained_head else 2
        assert forecast(other, random_walks(1, 1, 24), HORIZON, size).params.shape[:3] == (1, 1, count)


def test_names_in_the_spec_are_those_of_parameters_and_linears(backbone: Backbone) -> None:
    spec, names = backbone.spec, [name for name, _ in backbone.named_parameters()]
    for pattern in (*spec.tuned, *spec.head, *spec.prompts, *spec.unused):
        assert any(fnmatchcase(name, pattern) for name in names), pattern
    assert bool(spec.head) == backbone.traits.pretrained_head
    for adapter, target in spec.adapter_targets.items():
        assert "." not in adapter
        linears = [backbone.get_submodule(name) for name in target.names(backbone)]
        assert len(linears) == spec.num_layers
        assert {linear.weight.shape for linear in linears} == {(target.outputs, target.inputs)}


def test_loading_replaces_every_weight(directory: Path, backbone: Backbone) -> None:
    source, _, config = describe(str(directory))
    state = load_state(source)
    fresh = type(backbone).from_config(config, PATCH)
    before = {name: parameter.detach().clone() for name, parameter in fresh.named_parameters()}
    fresh.load_pretrained(state, "here")
    kept = [tensor for name, tensor in state.items() if not any(fnmatchcase(name, one) for one in fresh.dropped)]
    buffers = set(fresh.state_dict()) - set(before)
    own = sum(parameter.numel() for parameter in fresh.parameters())
    assert sum(map(torch.numel, kept)) == own + sum(fresh.state_dict()[name].numel() for name in buffers)
    for name, parameter in fresh.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert torch.equal(parameter, dict(backbone.named_parameters())[name]), name


def test_loading_is_strict_and_names_the_origin(directory: Path, backbone: Backbone) -> None:
    source, _, config = describe(str(directory))
    state = load_state(source)
    fresh = type(backbone).from_config(config, PATCH)
    with pytest.raises(ValueError, match=r"the shelf.*1 unexpected"):
        fresh.load_pretrained({**state, "surplus": torch.zeros(1)}, "the shelf")
    state.pop(next(name for name in state if not any(fnmatchcase(name, one) for one in fresh.dropped)))
    with pytest.raises(ValueError, match=r"the shelf.*1 missing"):
        fresh.load_pretrained(state, "the shelf")


# -------------------------------------------------------------------------------------------------------- statistics


def statistics(backbone: Backbone, context: Tensor) -> Stats:
    return backbone.statistics(context, context.new_full((*context.shape[:2], HORIZON), torch.nan))


def test_standardising_can_be_undone(backbone: Backbone) -> None:
    context = with_gaps(random_walks(3, 2, 24))
    stats = statistics(backbone, context)
    values, (loc, scale) = standardise(context, stats), stats
    observed = ~torch.isnan(context)
    assert loc.shape == scale.shape == (3, 2, 1)
    assert loc.dtype == scale.dtype == torch.float64
    assert values.dtype == context.dtype
    assert (scale > 0).all()
    assert (values[~observed] == 0).all()
    torch.testing.assert_close((values * scale + loc)[observed].float(), context[observed], rtol=1e-5, atol=1e-5)
    # the windows are of order one
    spread = values.masked_fill(~observed, torch.nan).flatten(0, 1)
    assert torch.nanmean(spread, dim=-1).abs().max() < 1
    assert 0.3 < torch.nanmean(spread.square()) < 3


def test_statistics_are_of_observed_values_of_one_window(backbone: Backbone) -> None:
    context = random_walks(2, 2, 24)
    alone = statistics(backbone, context)
    beside = context.clone()
    beside[0, 0] = beside[0, 0] * 100 + 7
    longer = torch.cat([torch.full((2, 2, 9), torch.nan), beside], dim=-1)
    after = statistics(backbone, longer)
    for before, now in zip(alone, after, strict=True):
        torch.testing.assert_close(now[1], before[1], rtol=1e-6, atol=0)
        torch.testing.assert_close(now[0, 1], before[0, 1], rtol=1e-6, atol=0)
    torch.testing.assert_close(after[0][0, 0], alone[0][0, 0] * 100 + 7, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after[1][0, 0], alone[1][0, 0] * 100, rtol=1e-3, atol=0)


@pytest.mark.parametrize("filling", [torch.nan, 0.0, 37.5, -1e6])
def test_windows_without_variation_stay_finite(backbone: Backbone, filling: float) -> None:
    """Beside another one, and with all of a series missing."""
    context = torch.full((1, 1, 24), filling)
    loc, scale = stats = statistics(backbone, context)
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    assert (standardise(context, stats) == 0).all()
    assert loc.item() == (0 if filling != filling else filling)
    both = torch.cat([context, random_walks(1, 1, 24)], dim=1)
    for series in (context, both, torch.cat([both, torch.full_like(both, torch.nan)])):
        assert torch.isfinite(forecast(backbone, series, HORIZON, PATCH).params).all()


def test_location_and_spread_are_appended(backbone: Backbone) -> None:
    params, stats = forecast(backbone, random_walks(2, 3, 24), HORIZON, PATCH)
    full = with_stats(params, stats)
    assert full.shape == (*params.shape[:3], params.shape[-1] + 2)
    assert torch.equal(full[..., :-2], params)
    for step in range(params.shape[2]):
        assert torch.equal(full[:, :, step, -2:], torch.cat([*stats], dim=-1))


def test_nothing_about_a_call_is_kept(backbone: Backbone) -> None:
    first, second = random_walks(2, 3, 24), 50 * random_walks(1, 1, 17, seed=1)
    before = forecast(backbone, first, HORIZON, PATCH)
    other = forecast(backbone, second, 3, PATCH)
    again = forecast(backbone, first, HORIZON, PATCH)
    assert torch.equal(before.params, again.params)
    stats = statistics(backbone, first).to(first.dtype)
    statistics(backbone, second)
    assert torch.equal(with_stats(before.params, stats), with_stats(again.params, before.stats))
    assert torch.equal(forecast(backbone, second, 3, PATCH).params, other.params)


# ------------------------------------------------------------------------------------------------------------ layers


def test_tokens_stand_in_the_order_of_the_layout(backbone: Backbone) -> None:
    """The mask is False before the series begins; in gaps too, unless the backbone has a mask of its own."""
    has_horizon, lead, middle = backbone.traits.layout
    context = with_gaps(random_walks(3, 2, 22))
    tokens, mask, _ = embed(backbone, context, HORIZON, PATCH)
    counts = [lead, 6, middle, 2 if has_horizon else 0]
    assert tokens.shape == (3, 2, sum(counts), backbone.spec.width)
    assert mask.shape == tokens.shape[:3]
    observed = (~torch.isnan(patch_context(context, PATCH))).unflatten(-1, (6, PATCH)).any(dim=-1)
    ahead, own, behind = mask.split([lead, 6, middle + counts[-1]], dim=-1)
    assert ahead.all()
    assert behind.all()
    assert own[observed].all()
    begun = observed.cumsum(dim=-1) > 0
    assert not own[~begun].any()
    gaps = begun & ~observed
    assert gaps.any()
    if type(backbone).token_mask is Backbone.token_mask:
        assert not own[gaps].any()


def test_attention_respects_the_mask(backbone: Backbone, tokens: Tensor) -> None:
    mask = torch.ones(tokens.shape[:3], dtype=torch.bool)
    mask[:, :, 1] = False
    mask[1, 2, :3] = False
    changed = torch.where(mask.unsqueeze(-1), tokens, tokens + 3)
    unmasked = changed.clone()
    unmasked[:, :, 4] += 3
    for layer in range(backbone.spec.num_layers):
        before = backbone.attention(layer, tokens, mask, {})
        after = backbone.attention(layer, changed, mask, {})
        torch.testing.assert_close(after[mask], before[mask], rtol=0, atol=1e-6)
        # it does attend: without the mask, and to tokens that the mask leaves, the change is seen
        assert ((backbone.attention(layer, changed, None, {}) - before)[mask].abs() > 1e-4).any()
        assert ((backbone.attention(layer, unmasked, mask, {}) - before)[:, :, 0].abs() > 1e-4).any()


def test_no_mask_is_a_mask_of_all(backbone: Backbone, tokens: Tensor) -> None:
    everything = torch.ones(tokens.shape[:3], dtype=torch.bool)
    for layer in range(backbone.spec.num_layers):
        without, given = (backbone.attention(layer, tokens, mask, {}) for mask in (None, everything))
        torch.testing.assert_close(without, given, rtol=0, atol=1e-5)


def test_feed_forward_acts_on_each_variate_alone_and_is_blind_to_masked_tokens(
    backbone: Backbone, tokens: Tensor
) -> None:
    """Where it doesn't mix time, on each token alone."""
    mask = torch.ones(tokens.shape[:3], dtype=torch.bool)
    changed = tokens.clone()
    changed[1, 2, 3] += 1
    for layer in range(backbone.spec.num_layers):
        difference = backbone.feed_forward(layer, changed, mask) - backbone.feed_forward(layer, tokens, mask)
        assert difference[1, 2, 3].abs().max() > 1e-3
        difference[1, 2, slice(None) if backbone.mixes_time else 3] = 0
        assert difference.abs().max() < 1e-6
        masked = mask.clone()
        masked[1, 2, :4] = False
        before, after = (backbone.feed_forward(layer, part, masked) for part in (tokens, changed))
        torch.testing.assert_close(after[masked], before[masked], rtol=0, atol=1e-6)
        if not backbone.mixes_time:
            torch.testing.assert_close(backbone.feed_forward(layer, tokens, None), before, rtol=0, atol=1e-6)


def test_adapters_join_the_output_of_their_target(backbone: Backbone, tokens: Tensor) -> None:
    """A zero adapter changes nothing, any other is seen in every layer; shapes are as the Spec says."""
    assert backbone.spec.adapter_targets
    for target, (_, inputs, outputs) in backbone.spec.adapter_targets.items():
        adapter, zero = (Beside(torch.nn.Linear(inputs, outputs)) for _ in range(2))
        torch.nn.init.zeros_(zero.own.weight)
        torch.nn.init.zeros_(zero.own.bias)
        for layer in range(backbone.spec.num_layers):
            base = backbone.attention(layer, tokens, None, {})
            torch.testing.assert_close(backbone.attention(layer, tokens, None, {target: zero}), base, rtol=0, atol=1e-6)
            assert (backbone.attention(layer, tokens, None, {target: adapter}) - base).abs().max() > 1e-3, target


# -------------------------------------------------------------------------------------------------- the whole forward


@pytest.mark.parametrize("multivariate", ["joint", "independent"])
def test_series_stand_alone_and_variates_too_unless_they_are_joint(directory: Path, multivariate: str) -> None:
    """Batch equals loop, in any order; of variates, where they don't hear of one another."""
    backbone = load_backbone(directory, PATCH, joint=multivariate == "joint")
    first, *others = backbone.traits.multivariate
    if multivariate not in (first, *(other for other in others if other == "joint")):
        pytest.skip("such variates are never given to it at once")
    context = with_gaps(random_walks(3, 4, 24))
    together, rows, variates = forecast(backbone, context, HORIZON, PATCH), [2, 0, 1], [3, 1, 0, 2]
    permuted = forecast(backbone, context[rows][:, variates], HORIZON, PATCH)
    torch.testing.assert_close(permuted.params, together.params[rows][:, variates], rtol=1e-5, atol=1e-5)
    for row in range(3):
        alone = forecast(backbone, context[row : row + 1], HORIZON, PATCH).params
        torch.testing.assert_close(alone[0], together.params[row], rtol=1e-5, atol=1e-5)
    if multivariate == "joint":
        changed = context.clone()
        changed[:, 1] = changed[:, 1].flip(-1)
        other = forecast(backbone, changed, HORIZON, PATCH).params
        assert ((other - together.params)[:, 0].abs().amax(dim=(1, 2)) > 1e-4).all()
        return
    for row, variate in [(0, 0), (0, 3), (2, 1)]:
        alone = forecast(backbone, context[row : row + 1, variate : variate + 1], HORIZON, PATCH).params
        torch.testing.assert_close(alone[0, 0], together.params[row, variate], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("more", [3, 17])
def test_longer_left_padding_changes_nothing(backbone: Backbone, more: int) -> None:
    context = with_gaps(random_walks(2, 2, 22))
    longer = torch.cat([torch.full((2, 2, more), torch.nan), context], dim=-1)
    straight, padded = (forecast(backbone, series, HORIZON, PATCH) for series in (context, longer))
    torch.testing.assert_close(padded.params, straight.params, rtol=1e-5, atol=1e-5)


def test_double_precision(directory: Path, backbone: Backbone) -> None:
    context = with_gaps(random_walks(2, 2, 22))
    double = load_backbone(directory, PATCH).double()
    single, exact = forecast(backbone, context, HORIZON, PATCH), forecast(double, context.double(), HORIZON, PATCH)
    assert exact.params.dtype == exact.stats.loc.dtype == torch.float64
    torch.testing.assert_close(exact.params.float(), single.params, rtol=1e-4, atol=1e-4)
