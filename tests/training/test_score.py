"""The validation score and the stacked weights against loops over draws, scales, components, series and steps."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from darts_msft.training.score import ErrorProducts, ValidationScore, crps_products, stack_members, stack_weights

Batch = tuple[Tensor, Tensor, Tensor | None]
"""CRPS, target, sample weight; (B, H, V) each."""


def mean_distance(first: list[float], second: list[float], own: bool) -> float:
    """Mean |a - b| over pairs; of one sample with itself, over pairs of different draws."""
    pairs = itertools.permutations(first, 2) if own else itertools.product(first, second)
    distances = [abs(a - b) for a, b in pairs]
    return sum(distances) / max(len(distances), 1)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_crps_products_are_the_loop_over_pairs_of_draws(count: int) -> None:
    samples, target = torch.randn(3, count, 4, 2, generator=torch.Generator().manual_seed(count)), torch.randn(4, 2)
    samples[0, 0] = samples[1, -1]  # ties
    target[2, 1] = math.nan
    found = crps_products(samples, target)
    for *index, i, j in np.ndindex(4, 2, 3, 3):
        draws, truth = samples[:, :, *index].tolist(), target[*index].item()
        errors = [sum(abs(draw - truth) for draw in draws[scale]) / count for scale in (i, j)]
        expected = (sum(errors) - mean_distance(draws[i], draws[j], i == j)) / 2
        assert found[*index, i, j].item() == pytest.approx(expected, abs=1e-5, nan_ok=True)


def make_batch(rows: int, seed: int, missing: float = 0.0, weight_columns: int = 0) -> Batch:
    """Three components of very different size and location."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.tensor([1.0, 1e-3, 1e4])
    target = (torch.randn(rows, 4, 3, generator=generator) + torch.tensor([0.0, 2.0, -5.0])) * unit
    error = torch.rand(rows, 4, 3, generator=generator) * unit
    if missing:
        target[torch.rand(target.shape, generator=generator) < missing] = torch.nan
        error[target.isnan()] = torch.nan
    weight = torch.rand(rows, 4, weight_columns, generator=generator) + 0.1 if weight_columns else None
    if weight_columns == 3:
        weight[target.isnan()] = torch.nan  # as in the gap of Darts' output_chunk_shift
    return error, target, weight


UNIT = torch.tensor([[1.0, 1e-3, 1e4], [2.0, 3e-3, 5e4]])
"""Of two series."""


def series_of(target: Tensor) -> Tensor:
    """Windows take turns."""
    return torch.arange(len(target)) % 2


def score_loop(batches: list[Batch], unit: Tensor = UNIT) -> float:
    """Mean over series and components of (weighted mean CRPS / unit), over observed steps."""
    scores = []
    for series, component in np.ndindex(*unit.shape):
        errors, weights = [], []
        for error, target, weight in batches:
            for row, step in np.ndindex(*target.shape[:2]):
                if series_of(target)[row] != series or math.isnan(target[row, step, component].item()):
                    continue
                errors.append(error[row, step, component].item())
                weights.append(1.0 if weight is None else weight[row, step, component % weight.shape[2]].item())
        if weights:
            scores.append(np.average(errors, weights=weights) / unit[series, component].item())
    return float(np.mean(scores))


def add(score: ValidationScore, products: Tensor, weights: Tensor, target: Tensor, weight: Tensor | None) -> None:
    weights = weights[:, None].expand(-1, target.shape[2], -1)
    score.update(products, weights, target, weight, series_of(target), torch.zeros_like(target))


def score_of(batches: list[Batch]) -> float:
    score = ValidationScore(UNIT, num_scales=1)
    for error, target, weight in batches:
        add(score, error[..., None, None], torch.ones(len(target), 1), target, weight)
    scored = score.compute()
    assert scored.form.item() == pytest.approx(scored.value.item(), rel=1e-12)
    return scored.value.item()


@pytest.mark.parametrize("weight_columns", [0, 3])
def test_the_score_at_each_window_s_weights_and_as_a_form_in_shared_ones(weight_columns: int) -> None:
    """The form is scored entry by entry."""
    score, scored, entries = ValidationScore(UNIT, num_scales=2), [], []
    generator = torch.Generator().manual_seed(9)
    for seed, rows in enumerate((5, 2)):
        error, target, sample_weight = make_batch(rows, seed, 0.3, weight_columns)
        products = error[..., None, None] * torch.randn(rows, 4, 3, 2, 2, generator=generator)
        weights = torch.rand(rows, 2, generator=generator)
        add(score, products, weights, target, sample_weight)
        own = torch.stack([products[row] @ weights[row] @ weights[row] for row in range(rows)])
        scored.append((own, target, sample_weight))
        entries.append((products, target, sample_weight))
    found = score.compute()
    assert found.value.item() == pytest.approx(score_loop(scored), rel=1e-5)
    for i, j in np.ndindex(2, 2):
        expected = score_loop([(products[..., i, j], *rest) for products, *rest in entries])
        assert found.form[i, j].item() == pytest.approx(expected, rel=1e-5)
    shared = torch.tensor([0.3, 0.7], dtype=torch.float64)
    assert found.at(shared.expand(3, 2)).mean().item() == pytest.approx((shared @ found.form @ shared).item(), rel=1e-9)


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("weight_columns", [0, 1, 3])
def test_score_is_the_loop_over_components_and_steps(weight_columns: int, missing: float) -> None:
    batches = [make_batch(rows, seed, missing, weight_columns) for seed, rows in enumerate((5, 2, 8))]
    assert score_of(batches) == pytest.approx(score_loop(batches), rel=1e-6)


def test_what_was_never_observed_is_left_out_and_reset_forgets() -> None:
    error, target, _ = make_batch(6, seed=4)
    target[..., 1] = torch.nan
    target[1::2] = torch.nan  # all of a series
    score = ValidationScore(UNIT, num_scales=1)
    weights = torch.ones(6, 1)
    add(score, error[..., None, None] + 1, weights, target, None)
    score.reset()
    add(score, error[..., None, None], weights, target, None)
    assert score.compute().value.item() == pytest.approx(score_loop([(error, target, None)]), rel=1e-6)


@pytest.mark.parametrize("weight_columns", [0, 3])
def test_the_naive_forecast_is_scored_alike(weight_columns: int) -> None:
    """A step that it can't tell is left out of its score alone."""
    _, target, weight = make_batch(8, 2, 0.3, weight_columns)
    naive = torch.randn(target.shape, generator=torch.Generator().manual_seed(5))
    naive[0, 1] = torch.nan
    score = ValidationScore(UNIT, num_scales=1)
    score.update(target[..., None, None] * 0, torch.ones(8, 3, 1), target, weight, series_of(target), naive)
    told = torch.where(naive.isnan(), torch.nan, target)
    assert score.compute().naives.mean().item() == pytest.approx(
        score_loop([((naive - target).abs(), told, weight)]), rel=1e-5
    )


def test_a_forecast_that_broke_down_has_no_score() -> None:
    """Of one window; the mean over series leaves nothing out."""
    error, target, _ = make_batch(6, seed=4)
    error[1, 2, 0] = torch.nan
    score = ValidationScore(UNIT, num_scales=1)
    add(score, error[..., None, None], torch.ones(6, 1), target, None)
    assert score.compute().value.isnan()
    assert score.compute().form.isnan().all()


@pytest.mark.parametrize("rank", [50, 2])
@pytest.mark.parametrize(("num_scales", "steps"), [(1, 1), (2, 200), (3, 40), (4, 15)])
def test_stacking_finds_the_minimum_on_the_simplex(num_scales: int, steps: int, rank: int) -> None:
    """No point of a grid is better; errors share a part, so that some optimal weights are zero."""
    zeros = 0
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


def forms_of(seed: int, rank: int = 40, variates: int = 3) -> Tensor:
    """Errors of two scales and a further member, which is better in some variates than in others."""
    rng = np.random.default_rng(seed)
    errors = rng.normal(size=(variates, rank, 3)) + rng.normal(size=(variates, rank, 1))
    errors[..., 2] *= np.linspace(0.3, 3, variates)[:, None]
    return torch.from_numpy(np.einsum("vrs,vrt->vst", errors, errors) / rank)


@pytest.mark.parametrize("seed", range(4))
def test_a_further_member_has_a_weight_in_each_variate(seed: int) -> None:
    """No share of a grid is better by the variate's own form and the mean, in equal parts."""
    forms = forms_of(seed)
    scales, shares = stack_members(forms, 2)
    assert scales.sum().item() == pytest.approx(1)
    assert shares[0] > shares[-1]
    for form, share in zip((forms + forms.mean(dim=0)) / 2, shares, strict=True):
        grid = torch.cat([share[None], torch.linspace(0, 1, 101, dtype=torch.float64)])[:, None]
        weights = torch.cat([scales * (1 - grid), grid], dim=1)
        values = torch.einsum("gs,st,gt->g", weights, form, weights)
        assert values[0] <= values.min() + 1e-9


def test_a_further_member_that_does_not_help_has_no_weight() -> None:
    forms = forms_of(0)
    forms[:, 2] *= 10
    forms[:, :, 2] *= 10
    scales, shares = stack_members(forms, 2)
    assert shares.tolist() == [0, 0, 0]
    torch.testing.assert_close(scales, stack_weights(forms.mean(dim=0)[:2, :2]))
    torch.testing.assert_close(stack_members(forms[:, :2, :2], 2)[0], scales)


def test_a_variate_that_nobody_saw_has_the_mean_s_weight() -> None:
    forms = forms_of(1)
    seen = stack_members(forms[:2], 2)[1]
    forms[2] = torch.nan
    shares = stack_members(forms, 2)[1]
    torch.testing.assert_close(shares[:2], seen)
    assert seen.min() < shares[2] < seen.max()


def test_stacking_of_degenerate_errors() -> None:
    for gram in (torch.zeros(3, 3), torch.ones(3, 3)):
        weights = stack_weights(gram)
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1)


def gram_loop(batches: list[Tensor]) -> np.ndarray:
    """For each component, over the steps observed at all scales: sum of e_s e_t over the mean square of e."""
    scales = batches[0].shape[-1]
    result = []
    for component in range(batches[0].shape[2]):
        products = np.zeros((scales, scales))
        for vector in torch.cat(batches)[:, :, component].flatten(0, 1).double().numpy():
            if not np.isnan(vector).any():
                products += np.outer(vector, vector)
        result.append(products / np.mean(np.diag(products)))
    return np.stack(result)


def gram_of(batches: list[Tensor]) -> np.ndarray:
    products = ErrorProducts(num_components=batches[0].shape[2], num_scales=batches[0].shape[3])
    for batch in batches:
        products.update(batch)
    return products.compute().numpy()


def test_products_are_the_loop_over_steps_and_batches() -> None:
    """A component with larger errors weighs no less for it; a batch with larger ones weighs more."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(rows, 5, 2, 3, generator=generator) * torch.tensor([[1.0], [1e3]]) for rows in (4, 2)]
    batches[0][1, 2, 0, 1] = torch.nan
    batches[1][:, 0] = torch.nan
    batches[1] *= 3
    np.testing.assert_allclose(gram_of(batches), gram_loop(batches), rtol=1e-6)
    np.testing.assert_allclose(gram_of([torch.cat(batches)]), gram_loop(batches), rtol=1e-6)


def test_products_without_any_error_are_finite() -> None:
    empty = torch.zeros(2, 5, 2, 3), torch.full((2, 5, 2, 3), torch.nan)
    assert (gram_of(list(empty)) == 0).all()
