"""Sample paths of a model: laws of their order, what a fit learns of it, and that files keep that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from darts.utils.likelihood_models.torch import GaussianLikelihood, GumbelLikelihood, QuantileRegression
from model_fixtures import CONTEXT, HORIZON, TRAINER, from_values, make_model, values_of, wave

from darts_msft import MSFTFoundationModel
from darts_msft.dependence.copula import Correlations
from darts_msft.dependence.paths import MOST_STEPS, SamplePaths
from darts_msft.likelihoods import DartsFamily
from darts_msft.training import keep_best
from darts_msft.training.dependence import ScoreSums, normal_scores

BEFORE = Path(__file__).parents[1] / "fixtures" / "v0_1"
QUANTILES = QuantileRegression([0.1, 0.5, 0.9])


def walks(length: int = 200, components: int = 1, seed: int = 0) -> TimeSeries:
    """Slow AR(1) processes: forecasts of many steps err alike."""
    values = np.random.default_rng(seed).standard_normal((length, components))
    for step in range(1, length):
        values[step] += 0.97 * values[step - 1]
    return from_values(values.astype(np.float32))


def samples(model: MSFTFoundationModel, series: Any, count: int = 60, n: int = HORIZON, **arguments: Any) -> np.ndarray:
    return values_of(model.predict(n, series, num_samples=count, random_state=3, **arguments))


def zero_shot(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    return make_model(checkpoint, **{"method": "zero_shot", "sample_dependence": "copula", "batch_size": 64, **changes})


def fitted(checkpoint: str, components: int = 1, **changes: Any) -> MSFTFoundationModel:
    model = zero_shot(checkpoint, **changes)
    return model.fit(walks(90, components), val_series=walks(90, components, seed=1))


def neighbours(values: np.ndarray) -> float:
    """The mean correlation of a step's samples with the next one's."""
    values = values.reshape(-1, *values.shape[-3:])
    steps = values.argsort(axis=-1).argsort(axis=-1).astype(float)
    steps -= steps.mean(axis=-1, keepdims=True)
    steps /= np.sqrt((steps**2).sum(axis=-1, keepdims=True))
    return float((steps[:, 1:] * steps[:, :-1]).sum(axis=-1).mean())


KINDS: list[dict[str, Any]] = [
    {},
    {"num_scales": 0},
    {"mixing": "quantile"},
    {"mixing": "samples"},
    {"mixing": "first"},
    {"likelihood": QUANTILES},
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_step_has_the_same_samples_as_independent_steps(tiny_moirai: str, kind: dict[str, Any]) -> None:
    series = [wave(60, 2, seed=seed) for seed in range(5)]
    both = [zero_shot(tiny_moirai, sample_dependence=how, batch_size=2, **kind) for how in ("copula", "independent")]
    copula, independent = (samples(model, series) for model in both)
    np.testing.assert_array_equal(np.sort(copula), np.sort(independent))
    assert not np.array_equal(copula, independent)
    assert abs(neighbours(independent)) < 0.1
    assert neighbours(copula) > 0.3


def test_independent_steps_are_the_likelihoods_own_draws(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the random numbers that follow: a second batch has the same."""
    model = zero_shot(tiny_moirai, sample_dependence="independent", batch_size=2)
    series = [wave(60, seed=seed) for seed in range(4)]
    found = [samples(model, series), samples(model, series, 5, 20)]
    monkeypatch.setattr(SamplePaths, "order", lambda self, drawn, past: drawn)
    monkeypatch.setattr(SamplePaths, "one", lambda self, draw, past: draw(1)[0])
    for one, n in zip(found, (HORIZON, 20), strict=True):
        np.testing.assert_array_equal(one, samples(model, series, 60 if n == HORIZON else 5, n))


@pytest.mark.parametrize("n", [HORIZON, 20])
def test_one_sample_is_the_same_point(tiny_moirai: str, n: int) -> None:
    points = [
        values_of(zero_shot(tiny_moirai, sample_dependence=how).predict(n, wave())) for how in ("copula", "independent")
    ]
    np.testing.assert_array_equal(*points)


def test_sums_are_as_wide_as_paths_make_them(tiny_moirai: str) -> None:
    wide, narrow = (
        samples(zero_shot(tiny_moirai, sample_dependence=how), walks(), 400).sum(axis=0).std()
        for how in ("copula", "independent")
    )
    assert wide > 1.4 * narrow


def test_paths_come_again_with_their_seed_alone(tiny_moirai: str) -> None:
    model = zero_shot(tiny_moirai)
    first = samples(model, wave())
    np.testing.assert_array_equal(first, samples(model, wave()))
    assert not np.array_equal(first, values_of(model.predict(HORIZON, wave(), num_samples=60, random_state=4)))


def test_series_are_independent_of_one_another(tiny_moirai: str) -> None:
    found = samples(zero_shot(tiny_moirai), [walks(), walks()], 1000).sum(axis=1)[:, 0]
    assert abs(np.corrcoef(found)[0, 1]) < 0.1


def test_bounds_hold(tiny_moirai: str) -> None:
    model = zero_shot(tiny_moirai, lower=4.8, upper=5.2)
    for n in (HORIZON, 20):
        found = samples(model, wave(), 30, n)
        assert found.min() == np.float32(4.8)
        assert found.max() == np.float32(5.2)


# ---------------------------------------------------------------- the seam


@pytest.mark.parametrize("kind", [{}, {"likelihood": QUANTILES}, {"mixing": "quantile"}])
def test_chunks_that_are_fed_back_have_paths_too(tiny_moirai: str, kind: dict[str, Any]) -> None:
    copula, independent = (
        samples(zero_shot(tiny_moirai, sample_dependence=how, **kind), walks(), 60, 2 * HORIZON)
        for how in ("copula", "independent")
    )
    for start in (0, HORIZON):
        assert neighbours(copula[start : start + HORIZON]) > neighbours(independent[start : start + HORIZON]) + 0.2


def test_a_first_chunk_that_is_fed_back_is_distributed_as_the_forecast(tiny_moirai: str) -> None:
    model = zero_shot(tiny_moirai)
    alone, fed_back = (np.sort(samples(model, wave(), 800, n)[:HORIZON, 0]) for n in (HORIZON, 2 * HORIZON))
    spread = alone.std(axis=-1, keepdims=True)
    middle = slice(80, 720)
    assert (np.abs(fed_back - alone)[:, middle] / spread).mean() < 0.12


# ---------------------------------------------------------------- what a fit learns


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"linear_member": True},
        {"likelihood": QUANTILES},
        {"mixing": "samples"},
        {"method": "linear_probe", "likelihood": GaussianLikelihood()},
    ],
)
def test_a_fit_learns_how_errors_hang_together(tiny_moirai: str, kind: dict[str, Any]) -> None:
    model = fitted(tiny_moirai, 2, **kind)
    paths = model.model.paths
    assert 0 < paths.trust < 1
    assert 0.3 < paths.at_lags([1])[1] < 1
    assert paths.at_lags([1])[1] > paths.at_lags([HORIZON - 1])[HORIZON - 1]
    if model.fit_report is not None:
        assert model.fit_report.path_correlations[1] == paths.at_lags([1])[1]
        assert "sample paths" in str(model.fit_report)
    assert neighbours(samples(model, walks(60, 2, seed=2))) > 0.3


def test_white_noise_teaches_independence(tiny_moirai: str) -> None:
    noise = [from_values(np.random.default_rng(seed).normal(size=(200, 1)).astype(np.float32)) for seed in range(2)]
    model = zero_shot(tiny_moirai).fit(noise[0], val_series=noise[1])
    assert abs(model.model.paths.at_lags([1])[1]) < 0.25
    assert abs(neighbours(samples(model, noise[0]))) < 0.25


def test_components_that_err_alike(tiny_moirai: str) -> None:
    own = walks(150, 2, seed=1)
    twins = own.with_values(own.values()[:, [0, 0]] + 0.05 * own.values()[:, [1, 1]] * [1, -1])
    model = zero_shot(tiny_moirai).fit(twins.astype(np.float32), val_series=twins.astype(np.float32))
    assert model.model.paths.components[0, 1] > 0.7
    found = samples(model, twins.astype(np.float32), 300)
    assert np.corrcoef(found[2])[0, 1] > 0.6


@pytest.mark.parametrize("sample_dependence", ["copula", "independent"])
def test_without_validation_data_nothing_is_learned(tiny_moirai: str, sample_dependence: str) -> None:
    model = make_model(tiny_moirai, sample_dependence=sample_dependence).fit(walks(100))
    assert model.model.paths.trust == 0


def test_independent_steps_are_not_learned(tiny_moirai: str) -> None:
    model = fitted(tiny_moirai, sample_dependence="independent")
    assert model.model.paths.trust == 0
    assert model.fit_report.path_correlations == {}


def test_a_fit_scores_and_keeps_the_same_with_either(tiny_moirai: str) -> None:
    one, other = (fitted(tiny_moirai, sample_dependence=how) for how in ("copula", "independent"))
    assert one.candidates == other.candidates
    np.testing.assert_array_equal(np.sort(samples(one, wave())), np.sort(samples(other, wave())))


@pytest.mark.parametrize(
    "kind",
    [
        {"method": "zero_shot"},
        {"method": "zero_shot", "linear_member": True},
        {"method": "zero_shot", "likelihood": QUANTILES, "linear_member": True},
        {"method": "full", "n_epochs": 3, "lr_pretrained": 3e-3},
    ],
)
def test_what_scored_the_best_state_serves_to_learn_from(
    tiny_moirai: str, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    for most in (0, 10**9):  # numbers that are kept of a pass: none, so that there is another, and all
        monkeypatch.setattr("darts_msft.training.validation_passes.MOST_BYTES", most)
        model = make_model(tiny_moirai, sample_dependence="copula", **kind)
        model.fit(walks(150), val_series=walks(90, seed=1))
        learned.append(model.model.paths.state_dict())
    assert learned[0].keys() == learned[1].keys()
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, {"method": "linear_probe", "likelihood": GaussianLikelihood()}])
def test_missing_truths_are_left_out(tiny_moirai: str, kind: dict[str, Any]) -> None:
    holes = walks(150, seed=1)
    values = holes.values().copy()
    values[::3] = np.nan
    model = zero_shot(tiny_moirai, **kind).fit(walks(150), val_series=holes.with_values(values))
    assert 0.2 < model.model.paths.at_lags([1])[1] < 1


@pytest.mark.parametrize("kind", [{}, {"mixing": "quantile"}])
def test_truths_at_a_bound_have_any_place_in_the_share_below_it(tiny_moirai: str, kind: dict[str, Any]) -> None:
    model = zero_shot(tiny_moirai, lower=20.0, **kind)  # above all that is forecast
    model.predict(HORIZON, wave())
    past = torch.tensor(np.stack([wave(60, seed=seed).values()[:CONTEXT] for seed in range(50)]))
    batch = TorchTrainingBatch(past_target=past, future_target=torch.full((50, HORIZON, 1), 20.0))
    module = model.model.eval()
    scores = normal_scores(module, batch, module.forecast(module.window(batch)), 0)
    assert scores.std() == pytest.approx(1, abs=0.15)
    assert scores.mean() == pytest.approx(0, abs=0.15)


@pytest.mark.parametrize("kind", [{}, {"linear_member": True}, {"mixing": "quantile"}])
def test_scores_of_the_models_own_samples_are_standard_normal(tiny_moirai: str, kind: dict[str, Any]) -> None:
    model = fitted(tiny_moirai, **kind)
    found = samples(model, wave(), 800)[:, 0].T
    past = torch.tensor(wave().values()[-CONTEXT:]).expand(800, -1, -1)
    batch = TorchTrainingBatch(past_target=past, future_target=torch.tensor(found).unsqueeze(-1))
    module = model.model.eval()
    scores = normal_scores(module, batch, module.forecast(module.window(batch)), 0)
    assert scores.std(dim=0).mean() == pytest.approx(1, abs=0.06)
    assert scores.mean(dim=0).abs().max() < 0.2


def test_what_is_learned_lies_where_the_scores_do(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU a module that only validated is back on the processor, but during a pass."""
    expected = samples(fitted(tiny_moirai), wave())
    learn = keep_best.learn_paths

    def from_elsewhere(module: Any, kept: Any, *more: Any) -> bool:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(type(module), "device", torch.device("meta"))
            return learn(module, None, *more)

    monkeypatch.setattr(keep_best, "learn_paths", from_elsewhere)
    np.testing.assert_allclose(samples(fitted(tiny_moirai), wave()), expected, rtol=1e-5)


def test_sums_of_scores_add_up_over_batches() -> None:
    scores = torch.randn(10, 4, 2)
    scores[3, 1, 0] = torch.nan
    whole, parts = ScoreSums(4, 2), ScoreSums(4, 2)
    whole.update(scores)
    for part in scores.split(3):
        parts.update(part)
    for one, other in zip(whole.compute(), parts.compute(), strict=True):
        np.testing.assert_allclose(one, other)
    assert whole.compute().step_counts[1, 0] == 19


# ---------------------------------------------------------------- files


def test_an_adapter_serves_a_model_of_independent_steps(tiny_moirai: str, tmp_path: Path) -> None:
    model = fitted(tiny_moirai)
    model.save_adapter(tmp_path / "adapter")
    other = zero_shot(tiny_moirai, sample_dependence="independent")
    other.load_adapter(tmp_path / "adapter")
    np.testing.assert_array_equal(np.sort(samples(other, wave())), np.sort(samples(model, wave())))
    assert abs(neighbours(samples(other, wave()))) < 0.2


def test_a_distribution_function_far_out() -> None:
    """Where torch's Gumbel rounds to the end of its support."""
    family = DartsFamily(GumbelLikelihood())
    params, far = torch.zeros(3, 2), torch.tensor([-1e4, 0.0, 1e4])
    assert family.cdf(params, far)[[0, 2]].tolist() == [0.0, 1.0]


def test_models_saved_by_0_1_have_paths() -> None:
    model = MSFTFoundationModel.load(str(BEFORE / "msft.pt"), TRAINER)
    assert model.model.paths.trust == 0
    assert neighbours(samples(model, wave())) > 0.3


def test_unknown_dependences_are_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match="sample_dependence"):
        zero_shot(tiny_moirai, sample_dependence="gaussian")


# ---------------------------------------------------------------- the module alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fitted_correlations_are_followed_in_any_precision(dtype: torch.dtype) -> None:
    steps = 0.99 ** np.abs(np.subtract.outer(np.arange(40), np.arange(40)))
    paths = SamplePaths(40, 2)
    paths.take(Correlations(steps, np.array([[1.0, 0.6], [0.6, 1.0]]), 1.0))
    paths = paths.to(dtype)
    found = paths.order(torch.randn(2000, 1, 40, 2).to(dtype), torch.randn(1, 100, 2).to(dtype)).float()[:, 0]
    assert np.corrcoef(found[:, 3, 0], found[:, 13, 0])[0, 1] == pytest.approx(0.99**10, abs=0.05)
    assert np.corrcoef(found[:, 3, 0], found[:, 3, 1])[0, 1] == pytest.approx(0.6, abs=0.07)


def test_long_horizons_keep_no_matrix() -> None:
    paths = SamplePaths(MOST_STEPS + 1, 1)
    assert sum(one.numel() for one in paths.state_dict().values()) < 10
    assert not paths.learns
    samples_ = torch.randn(20, 1, MOST_STEPS + 1, 1)
    found = paths.order(samples_, torch.randn(1, 50, 1))
    assert torch.equal(found.sort(dim=0).values, samples_.sort(dim=0).values)
    assert neighbours(found.permute(1, 2, 3, 0).numpy()) > 0.3


def test_many_windows_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = torch.randn(30, 5, HORIZON, 2)
    monkeypatch.setattr("darts_msft.dependence.paths._MOST_NUMBERS", 2 * 30 * HORIZON * 2)
    found = SamplePaths(HORIZON, 2).order(drawn, torch.randn(5, CONTEXT, 2).cumsum(dim=1))
    assert found.shape == drawn.shape
    assert torch.equal(found.sort(dim=0).values, drawn.sort(dim=0).values)
    assert neighbours(found.permute(1, 2, 3, 0).numpy()) > 0.3
