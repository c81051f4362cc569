"""The laws of `darts_msft.backbones.base.Backbone`, for every registered architecture and a toy one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from contract_backbone import MAKERS, Beside, forecast, load_backbone, random_walks, with_gaps
from torch import Tensor
from toy_backbone import registered_toy

from darts_msft.backbones import ARCHITECTURES, describe
from darts_msft.backbones.base import Backbone, with_stats
from darts_msft.storage.weights import load_state

PATCH = 4
HORIZON = 6  # two patches, the second cut short


@pytest.fixture(scope="module", params=MAKERS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param](path)
    with registered_toy():
        yield path


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


def test_patch_sizes_are_ascending_integers(directory: Path, backbone: Backbone) -> None:
    config = describe(str(directory))[2]
    sizes = type(backbone).patch_sizes(config)
    assert sizes == (4, 8)
    assert all(type(size) is int for size in sizes)
    assert backbone.spec.patch_sizes == sizes
    for size in sizes:
        other = type(backbone).from_config(config, size)
        assert other.spec.width == backbone.spec.width
        assert forecast(other, random_walks(1, 1, 24), HORIZON, size).params.shape[:3] == (1, 1, HORIZON)


def test_loading_replaces_every_weight(directory: Path, backbone: Backbone) -> None:
    source, _, config = describe(str(directory))
    state = load_state(source)
    fresh = type(backbone).from_config(config, PATCH)
    before = {name: parameter.detach().clone() for name, parameter in fresh.named_parameters()}
    fresh.load_pretrained(state, "here")
    assert sum(tensor.numel() for tensor in state.values()) == sum(p.numel() for p in fresh.parameters())
    for name, parameter in fresh.named_parameters():
        assert not torch.equal(parameter, before[name]), name
        assert torch.equal(parameter, dict(backbone.named_parameters())[name]), name


def test_loading_is_strict_and_names_the_origin(directory: Path, backbone: Backbone) -> None:
    source, _, config = describe(str(directory))
    state = load_state(source)
    fresh = type(backbone).from_config(config, PATCH)
    with pytest.raises(ValueError, match=r"the shelf.*1 unexpected"):
        fresh.load_pretrained({**state, "surplus": torch.zeros(1)}, "the shelf")
    state.pop(next(iter(state)))
    with pytest.raises(ValueError, match=r"the shelf.*1 missing"):
        fresh.load_pretrained(state, "the shelf")


# -------------------------------------------------------------------------------------------------------- statistics


def test_normalise_can_be_undone(backbone: Backbone) -> None:
    context = with_gaps(random_walks(3, 2, 24))
    values, (loc, scale) = backbone.normalise(context)
    observed = ~torch.isnan(context)
    assert loc.shape == scale.shape == (3, 2, 1)
    assert (scale > 0).all()
    assert (values[~observed] == 0).all()
    torch.testing.assert_close((values * scale + loc)[observed], context[observed], rtol=1e-5, atol=1e-5)
    # the windows are of order one
    spread = values.masked_fill(~observed, torch.nan).flatten(0, 1)
    assert torch.nanmean(spread, dim=-1).abs().max() < 1
    assert 0.3 < torch.nanmean(spread.square()) < 3


def test_statistics_are_of_observed_values_of_one_window(backbone: Backbone) -> None:
    context = random_walks(2, 2, 24)
    alone = backbone.normalise(context)[1]
    beside = context.clone()
    beside[0, 0] = beside[0, 0] * 100 + 7
    longer = torch.cat([torch.full((2, 2, 9), torch.nan), beside], dim=-1)
    after = backbone.normalise(longer)[1]
    for before, now in zip(alone, after, strict=True):
        torch.testing.assert_close(now[1], before[1], rtol=1e-6, atol=0)
        torch.testing.assert_close(now[0, 1], before[0, 1], rtol=1e-6, atol=0)
    torch.testing.assert_close(after[0][0, 0], alone[0][0, 0] * 100 + 7, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(after[1][0, 0], alone[1][0, 0] * 100, rtol=1e-3, atol=0)


@pytest.mark.parametrize("filling", [torch.nan, 0.0, 37.5, -1e6])
def test_windows_without_variation_stay_finite(backbone: Backbone, filling: float) -> None:
    values, (loc, scale) = backbone.normalise(torch.full((1, 1, 24), filling))
    assert torch.isfinite(scale).all()
    assert (scale > 0).all()
    assert (values == 0).all()
    assert loc.item() == (0 if filling != filling else filling)


def test_location_and_spread_are_appended(backbone: Backbone) -> None:
    params, stats = forecast(backbone, random_walks(2, 3, 24), HORIZON, PATCH)
    full = with_stats(params, stats)
    assert full.shape == (2, 3, HORIZON, params.shape[-1] + 2)
    assert torch.equal(full[..., :-2], params)
    for step in range(HORIZON):
        assert torch.equal(full[:, :, step, -2:], torch.cat([*stats], dim=-1))


def test_nothing_about_a_call_is_kept(backbone: Backbone) -> None:
    first, second = random_walks(2, 3, 24), 50 * random_walks(1, 1, 17, seed=1)
    before = forecast(backbone, first, HORIZON, PATCH)
    other = forecast(backbone, second, 3, PATCH)
    again = forecast(backbone, first, HORIZON, PATCH)
    assert torch.equal(before.params, again.params)
    stats = backbone.normalise(first)[1]
    backbone.normalise(second)
    assert torch.equal(with_stats(before.params, stats), with_stats(again.params, before.stats))
    assert torch.equal(forecast(backbone, second, 3, PATCH).params, other.params)


# ------------------------------------------------------------------------------------------------------------ layers


def test_horizon_tokens_do_not_depend_on_the_context(backbone: Backbone) -> None:
    if not backbone.spec.horizon_tokens:
        pytest.skip("the horizon has no tokens of its own")
    observed = torch.ones(1, 1, 8, dtype=torch.bool)
    first, second = (backbone.embed(torch.full((1, 1, 8), value), observed, 3) for value in (-1.0, 2.0))
    assert torch.equal(first[..., 2:, :], second[..., 2:, :])
    assert not torch.equal(first[..., :2, :], second[..., :2, :])


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


def test_feed_forward_acts_on_each_token_alone(backbone: Backbone, tokens: Tensor) -> None:
    changed = tokens.clone()
    changed[1, 2, 3] += 1
    for layer in range(backbone.spec.num_layers):
        difference = backbone.feed_forward(layer, changed) - backbone.feed_forward(layer, tokens)
        assert difference[1, 2, 3].abs().max() > 1e-3
        difference[1, 2, 3] = 0
        assert difference.abs().max() < 1e-6


def test_adapters_join_the_output_of_their_target(backbone: Backbone, tokens: Tensor) -> None:
    """A zero adapter changes nothing, any other is seen in every layer; shapes are as the Spec says."""
    assert backbone.spec.adapter_targets
    for target, (inputs, outputs) in backbone.spec.adapter_targets.items():
        adapter, zero = (Beside(torch.nn.Linear(inputs, outputs)) for _ in range(2))
        torch.nn.init.zeros_(zero.own.weight)
        torch.nn.init.zeros_(zero.own.bias)
        for layer in range(backbone.spec.num_layers):
            base = backbone.attention(layer, tokens, None, {})
            torch.testing.assert_close(backbone.attention(layer, tokens, None, {target: zero}), base, rtol=0, atol=1e-6)
            assert (backbone.attention(layer, tokens, None, {target: adapter}) - base).abs().max() > 1e-3, target


# -------------------------------------------------------------------------------------------------- the whole forward


def test_series_and_variates_stand_alone(backbone: Backbone) -> None:
    """Batch equals loop, in any order."""
    context = with_gaps(random_walks(3, 4, 24))
    together, rows, variates = forecast(backbone, context, HORIZON, PATCH), [2, 0, 1], [3, 1, 0, 2]
    permuted = forecast(backbone, context[rows][:, variates], HORIZON, PATCH)
    torch.testing.assert_close(permuted.params, together.params[rows][:, variates], rtol=1e-5, atol=1e-5)
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
