"""The scale pyramid against loops over time."""

import math
import re

import numpy as np
import pytest
import torch
from oracles import Stretch, covered, covering, memory_of, pool_loop, token_stretches
from torch import Tensor

from darts_msft.scales.aggregator import pool_tokens, repeat_tokens
from darts_msft.scales.pyramid import ScalePlan, TokenLayout, largest_num_scales

Shape = tuple[int, int, int, int, int | None]
SHAPES: list[Shape] = [  # context, horizon, patch size, K, finest context
    (64, 32, 8, 2, None),  # everything divides
    (61, 29, 8, 2, None),  # remainders on both sides
    (37, 5, 4, 2, None),  # the horizon is shorter than a coarse patch
    (101, 13, 3, 3, None),
    (9, 1, 8, 0, None),
    (17, 2, 1, 1, None),
    (64, 32, 8, 2, 16),  # every scale sees twice as much as the one before, the coarsest all
    (37, 5, 4, 2, 9),  # the coarsest doesn't see the oldest step
    (101, 13, 3, 3, 20),  # the coarsest two see everything
    (101, 13, 3, 3, 7),
    (90, 20, 8, 2, 24),
    (61, 4, 8, 0, 9),  # scale 0 alone, of a part
]


def make_plan(shape: Shape, horizon_tokens: bool = True) -> ScalePlan:
    *lengths, finest = shape
    return ScalePlan(*lengths, layout=TokenLayout(horizon_tokens), finest_context=finest)


def stretches_of(shape: Shape, scale: int, horizon_tokens: bool) -> list[Stretch]:
    context, horizon, patch_size, _, finest = shape
    return token_stretches(context, horizon, patch_size, scale, horizon_tokens, finest)


def series(*shape: int, missing: float = 0.0, seed: int = 0) -> Tensor:
    """Random values; a share of them NaN, and a whole run of them too."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    if missing:
        values[torch.rand(shape, generator=generator) < missing] = torch.nan
        values[0, ..., : shape[-1] // 3] = torch.nan
    return values


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon_tokens", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_lengths_and_token_counts_are_those_of_the_covered_time(shape: Shape, horizon_tokens: bool) -> None:
    context, horizon, _, num_scales, finest = shape
    plan = make_plan(shape, horizon_tokens)
    assert list(plan.scales) == list(range(num_scales + 1))
    for scale in plan.scales:
        stretches = stretches_of(shape, scale, horizon_tokens)
        memory = memory_of(context, scale, finest)
        assert plan.contexts[scale] == len(pool_loop([0.0] * memory, 2**scale, backwards=True))
        assert plan.horizons[scale] == len(pool_loop([0.0] * horizon, 2**scale, backwards=False))
        assert plan.context_token_counts[scale] == sum(stop <= 0 for _, stop in stretches)
        assert plan.horizon_token_counts[scale] == sum(start >= 0 for start, _ in stretches)
        assert plan.token_counts[scale] == len(stretches)
    for lengths in (plan.contexts, plan.horizons, plan.token_counts):
        assert len(lengths) == num_scales + 1


def test_largest_num_scales_is_the_last_one_that_a_count_allows() -> None:
    """Each scale keeps two context tokens, and one of its whole steps in the horizon."""
    for context in (3, 8, 9, 16, 17, 31, 33, 64, 65, 100, 129):
        for horizon in (1, 2, 3, 4, 7, 8, 15, 33):
            for patch_size in (1, 2, 5, 8):
                allowed = [
                    scale
                    for scale in range(12)
                    if sum(stop <= 0 for _, stop in token_stretches(context, 1, patch_size, scale)) >= 2
                    and horizon // 2**scale >= 1
                ]
                assert largest_num_scales(context, horizon, patch_size) == max(allowed, default=0)


def test_the_largest_k_is_accepted_and_one_more_is_refused_by_name() -> None:
    for context, horizon, patch_size in [(64, 32, 8), (129, 100, 16), (512, 3, 8), (300, 96, 32), (9, 50, 8)]:
        largest = largest_num_scales(context, horizon, patch_size)
        assert ScalePlan(context, horizon, patch_size, largest).num_scales == largest
        with pytest.raises(ValueError, match=rf"num_scales={largest + 1} .* 0 to {largest}\b"):
            ScalePlan(context, horizon, patch_size, largest + 1)


@pytest.mark.parametrize(("context", "patch_size"), [(1, 1), (8, 8), (30, 32)])
def test_a_context_of_one_patch_is_refused_and_the_shortest_named_one_accepted(context: int, patch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"input_chunk_length={context} .*patch_size={patch_size}\b") as error:
        ScalePlan(context, 4, patch_size, 0)
    remedy = re.search(r"at least (\d+) steps", str(error.value))
    assert remedy is not None
    shortest = int(remedy.group(1))
    assert ScalePlan(shortest, 4, patch_size, 0).context_token_counts == (2,)
    with pytest.raises(ValueError, match="too short"):
        ScalePlan(shortest - 1, 4, patch_size, 0)


@pytest.mark.parametrize("name", ["context", "horizon", "patch_size", "num_scales"])
def test_negative_lengths_are_refused_by_name(name: str) -> None:
    lengths = {"context": 32, "horizon": 8, "patch_size": 4, "num_scales": 1} | {name: -1}
    with pytest.raises(ValueError, match=rf"{name}=-1 .*integer of at least {0 if name == 'num_scales' else 1}"):
        ScalePlan(**lengths)


@pytest.mark.parametrize("finest", [8, 0, -1, 65, 16.0, True, "16"])
def test_a_finest_context_of_less_than_two_patches_or_more_than_all_is_refused(finest: object) -> None:
    with pytest.raises(ValueError, match=rf"finest_context={finest!r} is not allowed"):
        ScalePlan(64, 32, 8, 2, finest_context=finest)
    if finest in (8, 65):
        with pytest.raises(ValueError, match=r"patch_size=8 and input_chunk_length=64; give 9 to 64 steps, or None"):
            ScalePlan(64, 32, 8, 2, finest_context=finest)


@pytest.mark.parametrize("shape", SHAPES[:6])
def test_a_finest_context_of_the_whole_is_the_paper_s_form(shape: Shape) -> None:
    paper, whole = make_plan(shape), make_plan((*shape[:4], shape[0]))
    for name in ("contexts", "horizons", "token_counts"):
        assert getattr(whole, name) == getattr(paper, name)
    values = series(2, shape[0], missing=0.3)
    for one, other in zip(whole.pool_context(values), paper.pool_context(values), strict=True):
        assert one.shape == other.shape
        assert torch.equal(one.nan_to_num(1e9), other.nan_to_num(1e9))
    assert all(torch.equal(whole.cover(scale), paper.cover(scale)) for scale in range(shape[3]))


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[3], SHAPES[8]])
@pytest.mark.parametrize("horizon_tokens", [True, False])
def test_one_scale_has_as_much_of_the_context_as_a_checkpoint_takes(shape: Shape, horizon_tokens: bool) -> None:
    plan = make_plan(shape, horizon_tokens)
    context, horizon, patch_size, _, _ = shape
    for limit in (None, *range(3, 50)):
        fitting = [
            steps
            for steps in range(patch_size + 1, context + 1)
            if limit is None or len(token_stretches(steps, horizon, patch_size, 0, horizon_tokens)) <= limit
        ]
        if fitting:
            one = plan.one_scale(None, limit)
            assert (one.contexts, one.horizons, one.num_scales) == ((max(fitting),), plan.horizons[:1], 0)
            assert one.layout == plan.layout
            shorter = plan.one_scale(patch_size + 2, limit)
            assert shorter.contexts == (min(max(fitting), patch_size + 2),)


# --- pooling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_pooling_is_the_loop_from_the_origin_outwards(shape: Shape, missing: float) -> None:
    context, horizon, _, _, finest = shape
    plan = make_plan(shape)
    for values, pooled, backwards in (
        (past := series(3, 2, context, missing=missing), plan.pool_context(past), True),
        (future := series(3, 2, horizon, missing=missing, seed=1), plan.pool_horizon(future), False),
    ):
        assert len(pooled) == plan.num_scales + 1
        for scale, result in enumerate(pooled):
            seen = values[..., -memory_of(context, scale, finest) :] if backwards else values
            expected = [[pool_loop(row, 2**scale, backwards) for row in variates] for variates in seen.tolist()]
            torch.testing.assert_close(result, torch.tensor(expected), equal_nan=True)


def test_pooled_missing_values_send_no_gradient_and_no_nan() -> None:
    plan = ScalePlan(context=8, horizon=4, patch_size=1, num_scales=1)
    values = torch.tensor([1.0, math.nan, 3.0, 4.0], requires_grad=True)
    torch.nansum(plan.pool_horizon(values)[1]).backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 0.0, 0.5, 0.5]))


# --- padding and masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_padding_fills_whole_patches_on_the_left(shape: Shape) -> None:
    plan = make_plan(shape)
    for scale in plan.scales:
        values = series(2, 2, plan.contexts[scale], seed=scale)
        padded = plan.pad_context(values, scale)
        length = plan.context_token_counts[scale] * plan.patch_size
        expected = [[[0.0] * (length - len(row)) + row for row in variates] for variates in values.tolist()]
        torch.testing.assert_close(padded, torch.tensor(expected), rtol=0, atol=0)
        observed = plan.pad_context(torch.ones_like(values, dtype=torch.bool), scale)
        assert observed.dtype == torch.bool
        assert not observed[..., : length - plan.contexts[scale]].any()
        assert observed[..., length - plan.contexts[scale] :].all()


@pytest.mark.parametrize("horizon_tokens", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_horizon_is_filled_on_the_right_and_is_nothing_without_tokens(shape: Shape, horizon_tokens: bool) -> None:
    plan = make_plan(shape, horizon_tokens)
    for scale in plan.scales:
        values = torch.rand(2, 3, plan.horizons[scale]) + 1
        padded, known = (plan.pad_horizon(part, scale) for part in (values, values > 0))
        assert known.dtype == torch.bool
        length = -(-plan.horizons[scale] // plan.patch_size) * plan.patch_size if horizon_tokens else 0
        assert padded.shape == known.shape == (2, 3, length)
        assert torch.equal(padded[known], values[..., : length or 0].flatten())
        assert not padded[~known].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_of_no_time_neither_cover_nor_are_covered(shape: Shape) -> None:
    *lengths, finest = shape
    plan, timed = ScalePlan(*lengths, TokenLayout(True, 2, 3), finest), make_plan(shape)
    for scale in plan.scales:
        context, horizon = timed.context_token_counts[scale], timed.horizon_token_counts[scale]
        assert plan.sections(scale) == [2, context, 3, horizon]
        assert plan.token_counts[scale] == timed.token_counts[scale] + 5
        assert plan.timed_token_counts == timed.token_counts
    for scale in range(plan.num_scales):
        coarse, fine = (
            [
                index
                for index, size in enumerate((2, timed.context_token_counts[i], 3, timed.horizon_token_counts[i]))
                for _ in range(size)
            ]
            for i in (scale + 1, scale)
        )
        rows, columns = (torch.tensor([part in (1, 3) for part in parts]) for parts in (coarse, fine))
        cover = plan.cover(scale)
        assert torch.equal(cover[rows][:, columns], timed.cover(scale))
        assert not cover[~rows].any()
        assert not cover[:, ~columns].any()


# --- upsampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["repeat", "linear"])
@pytest.mark.parametrize("shape", [*SHAPES[:6], (64, 9, 4, 3, None), (64, 15, 4, 3, None)])
def test_upsampling_is_the_loop_over_the_original_steps(shape: Shape, how: str) -> None:
    """Repeat: the coarse step that covers it. Linear: between the centres of the original steps that each covers."""
    plan = make_plan(shape)
    times = np.arange(plan.horizon)
    for scale in plan.scales:
        coarse = series(2, 3, plan.horizons[scale], 2, seed=scale).double()
        result = plan.upsample(coarse, scale, how)
        assert result.shape == (2, 3, plan.horizon, 2)
        groups = [times[first : first + 2**scale] for first in range(0, plan.horizon, 2**scale)]
        for index in np.ndindex(2, 3, 2):
            steps = coarse[index[0], index[1], :, index[2]].numpy()
            if how == "repeat":
                expected = [steps[next(g for g, group in enumerate(groups) if time in group)] for time in times]
            else:
                expected = list(np.interp(times, [group.mean() for group in groups], steps))
            np.testing.assert_allclose(result[index[0], index[1], :, index[2]].numpy(), expected, rtol=1e-6, atol=1e-6)


def test_unknown_upsampling_is_refused() -> None:
    plan = ScalePlan(64, 8, 4, 1)
    for scale in plan.scales:
        with pytest.raises(ValueError, match=r"upsampling='cubic' .*'repeat', 'linear'"):
            plan.upsample(torch.zeros(1, 1, plan.horizons[scale], 1), scale, "cubic")


# --- tokens of neighbouring scales ------------------------------------------------------------------------------------


@pytest.mark.parametrize("horizon_tokens", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_repeated_tokens_are_those_that_cover_the_same_time(shape: Shape, horizon_tokens: bool) -> None:
    plan = make_plan(shape, horizon_tokens)
    for scale in range(1, plan.num_scales + 1):
        coarse = stretches_of(shape, scale, horizon_tokens)
        fine = stretches_of(shape, scale - 1, horizon_tokens)
        tokens = series(2, 2, len(coarse), 3, seed=scale)
        repeated = repeat_tokens(tokens, plan.cover(scale - 1))
        assert repeated.shape == (2, 2, len(fine), 3)
        for index, stretch in enumerate(fine):
            torch.testing.assert_close(repeated[..., index, :], tokens[..., covering(stretch, coarse), :])


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("horizon_tokens", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_pooled_tokens_average_the_valid_ones_of_the_same_time(
    shape: Shape, horizon_tokens: bool, masked: bool
) -> None:
    plan = make_plan(shape, horizon_tokens)
    for scale in range(plan.num_scales):
        fine = stretches_of(shape, scale, horizon_tokens)
        coarse = stretches_of(shape, scale + 1, horizon_tokens)
        tokens = series(3, 2, len(fine), 3, seed=scale)
        mask = torch.rand(3, 2, len(fine), generator=torch.Generator().manual_seed(scale)) < 0.5
        pooled, present = pool_tokens(tokens, mask if masked else None, plan.cover(scale))
        assert pooled.shape == (3, 2, len(coarse), 3)
        assert present.shape == pooled.shape[:-1]
        for index, stretch in enumerate(coarse):
            for row in np.ndindex(3, 2):
                valid = [token for token in covered(stretch, fine) if not masked or mask[*row, token]]
                assert bool(present[*row, index]) == bool(valid)
                expected = sum((tokens[*row, token] for token in valid), torch.zeros(3)) / max(len(valid), 1)
                torch.testing.assert_close(pooled[*row, index], expected)
