"""The masked-horizon objective: pieces of series, damage, layouts, and the loss against uni2ts' own forward."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.backbones.moirai import MoiraiBackbone
from darts_msft.pretraining import objective
from darts_msft.pretraining.objective import (
    Layout,
    Task,
    Tasks,
    cut,
    damage,
    draw_layout,
    horizon_loss,
    make_task,
    parse_shares,
)
from darts_msft.pretraining.settings import Settings
from darts_msft.pretraining.train import build_module


def counting(rows: int, length: int) -> np.ndarray:
    """Row r counts up from 10,000 r, so that every value tells where it comes from."""
    return (10_000 * np.arange(rows)[:, None] + np.arange(length)).astype(np.float32)


# --- pieces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout", [Layout(4, 2, 1, 2, 60), Layout(2, 1, 1, 4, 47), Layout(10, 2, 1, 1, 30), Layout(2, 1, 1, 1, 61)]
)
def test_cut_gives_averages_of_separate_pieces_of_each_row(layout: Layout) -> None:
    series = counting(5, layout.length)
    pieces = cut(series, layout, np.random.default_rng(0))
    steps, span = layout.tokens * layout.patch_size, layout.tokens * layout.patch_size * layout.pooling
    assert pieces.shape == (5 * min(4, layout.length // span), steps)
    assert (np.diff(pieces, axis=1) == layout.pooling).all()
    rows, places = np.divmod(pieces[:, 0] - (layout.pooling - 1) / 2, 10_000)  # an average lies in its middle
    np.testing.assert_array_equal(rows, np.repeat(np.arange(5), layout.pieces))
    np.testing.assert_array_equal(places, np.round(places))
    assert (places >= 0).all()
    assert (places + span <= layout.length).all()
    for row in range(5):
        assert (np.diff(np.sort(places[rows == row])) >= span).all()


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_shares_of_patch_sizes_can_be_given() -> None:
    shares = parse_shares("4:0.25,32:0.75")
    assert shares == {4: 0.25, 32: 0.75}
    # rounded: the generator wants their sum exact
    for text in ("8:0.333,16:0.333,32:0.333", "8:0.125,16:0.375,32:0.499", "16:0.5000001,32:0.5"):
        assert draw_layout(np.random.default_rng(0), parse_shares(text)).patch_size in (8, 16, 32)
    rng = np.random.default_rng(0)
    patches = Counter(draw_layout(rng, shares).patch_size for _ in range(2000))
    assert patches.keys() == {4, 32}
    assert patches[4] / 2000 == pytest.approx(0.25, abs=0.03)
    assert {Tasks(0, 100, {4: 1.0})[index].patch_size for index in range(3)} == {4}


# --- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Layout(8, 4, 2, 1, 200), Layout(16, 2, 1, 2, 200)])
def test_the_horizon_follows_its_context_and_rows_are_shuffled(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "DAMAGED_SHARE", 0.0)
    patch_size, context, horizon, pooling, *_ = layout
    series = counting(6, 200)
    task = make_task(series, layout, np.random.default_rng(0), size=7)
    assert task.tokens == 7 * layout.tokens
    assert task.patch_size == patch_size
    assert task.context.shape == (7, 1, context * patch_size)
    assert task.horizon.shape == (7, 1, horizon * patch_size)
    assert task.context.dtype == task.horizon.dtype == torch.float32
    joined = torch.cat([task.context, task.horizon], dim=-1)[:, 0]
    assert (joined.diff(dim=-1) == pooling).all()
    sources = (joined[:, 0] // 10_000).tolist()
    assert sources != sorted(sources)
    assert len(set(joined[:, 0].tolist())) == 7


def test_a_process_is_seen_once_at_each_rate() -> None:
    layout = Layout(8, 4, 2, 4, 400, several_rates=True)
    task = make_task(counting(6, 400), layout, np.random.default_rng(0), size=100)
    joined = torch.cat([task.context, task.horizon], dim=-1)[:, 0].nan_to_num(nan=-1)
    steps = joined[:, -8:].diff(dim=-1)[:, 0]  # of the horizon: nothing is missing there
    sources = (joined[:, -1] // 10_000).long()
    assert sorted(zip(sources.tolist(), steps.tolist(), strict=True)) == [
        (source, rate) for source in range(6) for rate in (1, 2, 4)
    ]


def test_a_batch_depends_on_seed_and_index_only() -> None:
    tasks = Tasks(seed=3, tokens=100)
    forward, backward = [tasks[index] for index in range(4)], [Tasks(3, 100)[index] for index in (3, 2, 1, 0)][::-1]
    for task, again in zip(forward, backward, strict=True):
        assert task.patch_size == again.patch_size
        torch.testing.assert_close(task.context, again.context, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(task.horizon, again.horizon)
    starts = {float(task.horizon[0, 0, 0]) for task in (*forward, Tasks(4, 100)[0])}
    assert len(starts) == 5


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def module() -> MoiraiModule:
    torch.manual_seed(0)
    module = build_module(Settings(width=64, layers=2, patch_shares="8:0.2,16:0.4,32:0.4"))
    with torch.no_grad():
        for parameter in module.parameters():  # none at its special start, such as zero biases
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def standardisation(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation of the observed values, as uni2ts has them: unbiased, 1e-5 on the variance."""
    seen = [value for value in values if not math.isnan(value)]
    mean = sum(seen) / len(seen)
    variance = sum((value - mean) ** 2 for value in seen) / max(len(seen) - 1, 1)
    return mean, math.sqrt(variance + 1e-5)


def uni2ts_loss(module: MoiraiModule, task: Task) -> float:
    """Mean of -log p of each horizon step in standardised units; one series at a time through uni2ts' own forward."""
    patch_size, largest = task.patch_size, max(module.patch_sizes)
    total = 0.0
    for context, horizon in zip(task.context[:, 0].double(), task.horizon[:, 0].double(), strict=True):
        mean, deviation = standardisation(context.tolist())
        observed = torch.cat([~context.isnan(), torch.ones_like(horizon, dtype=torch.bool)])
        values = torch.where(observed, torch.cat([context, horizon]), mean).float().reshape(1, -1, patch_size)
        observed = observed.reshape(1, -1, patch_size)
        count = values.shape[1]
        padding = (0, largest - patch_size)
        future = torch.arange(count)[None] >= len(context) // patch_size
        distribution = module(
            torch.nn.functional.pad(values, padding),
            torch.nn.functional.pad(observed, padding),
            observed.any(dim=-1).long(),  # sample 0 is padding: nothing attends to it
            torch.arange(count)[None],
            torch.zeros(1, count, dtype=torch.long),
            future,
            torch.full((1, count), patch_size),
        )
        logs = distribution.log_prob(torch.nn.functional.pad(values, padding))[0, future[0], :patch_size]
        total -= (logs + math.log(deviation)).mean().item()
    return total / len(task.context)


def make_loss_task(patch_size: int, missing: bool) -> Task:
    generator = torch.Generator().manual_seed(patch_size)
    context = torch.randn(3, 1, 5 * patch_size, generator=generator) * 30 + 100
    horizon = torch.randn(3, 1, 2 * patch_size, generator=generator) * 30 + 100
    if missing:
        context[0, 0, : 2 * patch_size + 3] = torch.nan  # two whole patches and a part of the third
        context[1, 0, 3 * patch_size : 4 * patch_size] = torch.nan
        context[2][torch.rand(context[2].shape, generator=generator) < 0.3] = torch.nan
    return Task(patch_size, context, horizon, whole=not missing)


def backbones_of(module: MoiraiModule) -> dict[int, MoiraiBackbone]:
    return {patch_size: MoiraiBackbone(module, patch_size) for patch_size in module.patch_sizes}


@pytest.mark.parametrize(("patch_size", "missing"), [(8, False), (8, True), (32, True)])
@torch.no_grad()
def test_the_loss_is_that_of_uni2ts_own_forward(module: MoiraiModule, patch_size: int, missing: bool) -> None:
    task = make_loss_task(patch_size, missing)
    expected = uni2ts_loss(module, task)
    assert horizon_loss(backbones_of(module), task).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@torch.no_grad()
def test_far_targets_count_as_fifty_deviations(module: MoiraiModule) -> None:
    task, backbones = make_loss_task(8, missing=False), backbones_of(module)
    deviation = task.context.std(dim=-1, keepdim=True).expand(-1, -1, 16)

    def loss(size: float) -> float:
        at = Task(8, task.context, task.context.mean(dim=-1, keepdim=True) + size * deviation, whole=True)
        return horizon_loss(backbones, at).item()

    for sign in (-1, 1):
        assert loss(sign * 1e6) == pytest.approx(loss(sign * 50), rel=1e-5)
        assert loss(sign * 50) > loss(sign * 45) + 1e-3


def damaged(rows: int, steps: int, seed: int) -> np.ndarray:
    context = counting(rows, steps)
    damage(context, np.random.default_rng(seed))
    return context


@pytest.mark.parametrize(("rows", "steps"), [(1000, 200), (1000, 16)])
def test_damage_removes_values_in_place_and_leaves_something_to_see(rows: int, steps: int) -> None:
    context = damaged(rows, steps, seed=1)
    missing = np.isnan(context)
    np.testing.assert_array_equal(context[~missing], counting(rows, steps)[~missing])
    assert (~missing).sum(axis=1).min() >= 8
    assert 0.1 < missing.mean() < 0.6
