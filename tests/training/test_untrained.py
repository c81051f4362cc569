"""`fit` where nothing is trained: it weighs the scales by the validation series and keeps the best form."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import (
    CONTEXT,
    HORIZON,
    LONG,
    TRAINER,
    ZERO_SHOT,
    differing,
    make_model,
    naive_unit,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel
from darts_msft.forms import Form
from darts_msft.module import MSFTModule

FORMS = (Form.ONE_SCALE, Form.BACKCASTS, Form.STACKED)
LEVELS = [0.1, 0.5, 0.9]
QUANTILES = QuantileRegression(LEVELS)


def val_series(seed: int = 1, length: int = 50, components: int = 1) -> TimeSeries:
    """A slow wave and noise: averages of several steps say more than single ones."""
    slow = np.sin(np.arange(length) / 9)[:, None] * 2
    noise = np.random.default_rng(seed).standard_normal((length, components))
    return wave(length, components).with_values((slow + noise + 5).astype(np.float32))


def zero_shot(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    return make_model(checkpoint, **{"method": "zero_shot", "batch_size": 64, **LONG, **changes})


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    samples = 1 if model.model_params["likelihood"] is None else 10
    return values_of(model.predict(HORIZON, val_series(3), num_samples=samples, random_state=0))


def same_steps(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether steps have the same samples, in any order: a fit learns how they hang together in any case."""
    return np.array_equal(np.sort(one), np.sort(other))


def unit_of(series: TimeSeries) -> float:
    """What errors are measured by: a validation series that is livelier than the training part by its own."""
    return max(float(naive_unit(one)[0]) for one in (wave(), series))


def origins(series: TimeSeries) -> range:
    return range(CONTEXT, len(series) - HORIZON + 1)


def simplex(steps: int = 50) -> np.ndarray:
    """A grid of weights of three scales."""
    grid = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    return np.array(grid) / steps


def kept_as(model: MSFTFoundationModel, form: Form, monkeypatch: pytest.MonkeyPatch) -> MSFTFoundationModel:
    """Fits with scores that make `form` the best one."""
    settle = MSFTModule.settle_scores

    def favoured(module: MSFTModule) -> Iterator[tuple[Form, float]]:
        for scored, score in settle(module):
            yield scored, score + 10 * (scored is not form)

    with monkeypatch.context() as patch:
        patch.setattr(MSFTModule, "settle_scores", favoured)
        model.fit(wave(), val_series=val_series())
    return model


# --- what is compared -------------------------------------------------------------------------------------------------


def test_points_are_scored_and_weighed_as_by_hand(tiny_moirai: str) -> None:
    """Absolute errors over all windows; the stacked weights are the least squares of the scales' medians."""
    series, options = val_series(length=48), {"likelihood": None, **LONG}
    model = zero_shot(tiny_moirai, **options).fit(wave(), val_series=series)
    several, single = make_model(tiny_moirai, **options), make_model(tiny_moirai, likelihood=None, num_scales=0)
    truth = np.concatenate([series.values()[one : one + HORIZON, 0] for one in origins(series)])
    alone, weighed = (
        np.concatenate([one.predict(HORIZON, series[:origin]).values()[:, 0] for origin in origins(series)])
        for one in (single, several)
    )
    scales = np.concatenate(
        [np.hstack([one.values() for one in several.scale_forecasts(series[:origin])]) for origin in origins(series)]
    )
    losses = [np.square(scales @ weights - truth).mean() for weights in simplex()]
    best = simplex()[np.argmin(losses)]
    assert model.fit_report.kept == ZERO_SHOT[2]
    assert np.square(scales @ model.scale_weights - truth).mean() <= min(losses) + 1e-6
    assert model.scale_weights == pytest.approx(best, abs=0.03)
    expected = [np.abs(one - truth).mean() / unit_of(series) for one in (alone, weighed, scales @ model.scale_weights)]
    assert [state.score for state in model.candidates] == pytest.approx(expected, rel=1e-4)


def test_mixtures_are_weighed_for_the_least_crps(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score is a quadratic form in the weights: no point of a grid on the simplex has a lower one."""
    forms: list[np.ndarray] = []
    settle = MSFTModule.settle_scores

    def record(module: MSFTModule) -> Iterator[tuple[Form, float]]:
        forms.append(module.score.compute().form.numpy())
        return settle(module)

    monkeypatch.setattr(MSFTModule, "settle_scores", record)
    model = zero_shot(tiny_moirai).fit(wave(), val_series=val_series())
    stacked = model.candidates[2].score
    grid = simplex()
    losses = np.einsum("ns,st,nt->n", grid, forms[-1], grid)
    assert stacked <= losses.min() * (1 + 1e-7)
    assert stacked == pytest.approx(losses.min(), rel=1e-3)
    assert model.fit_report.kept == ZERO_SHOT[2]
    assert model.scale_weights == pytest.approx(grid[losses.argmin()], abs=0.03)
    assert not forms[0][1:].any()  # one scale has no other products


@pytest.mark.parametrize("mixing", ["mixture", "quantile", "samples"])
def test_every_mixing_is_weighed(tiny_moirai: str, mixing: str) -> None:
    model = zero_shot(tiny_moirai, mixing=mixing).fit(wave(), val_series=val_series())
    assert [state.label for state in model.candidates] == ZERO_SHOT
    assert model.fit_report.best == min(state.score for state in model.candidates)
    assert model.scale_weights is None or model.scale_weights.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("likelihood", "how"),
    [("native", {"method": "zero_shot"}), *((one, {"enable_finetuning": False}) for one in (None, QUANTILES))],
)
def test_nothing_is_trained(tiny_moirai: str, likelihood: Any, how: dict[str, Any]) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood, **LONG, **how)
    fresh = make_model(tiny_moirai, likelihood=likelihood, **LONG, **how)
    fresh.predict(HORIZON, wave())
    report = model.fit(wave(), val_series=val_series()).fit_report
    backbone = {name for name, _ in model.model.named_parameters() if name.startswith("backbone.")}
    assert backbone
    assert not differing(fresh, model) & backbone
    assert (report.trained_parameters, report.epochs, report.moved) == (0, 0, {})
    assert [state.label for state in report.candidates] == ZERO_SHOT
    assert {state.step for state in report.candidates} == {0}
    assert model.trainer.global_step == 0


# --- what is kept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "likelihood"), [*((one, "native") for one in FORMS), *((Form.STACKED, one) for one in (None, QUANTILES))]
)
def test_the_best_form_is_kept_also_in_files(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Form, likelihood: Any
) -> None:
    model = kept_as(zero_shot(tiny_moirai, likelihood=likelihood), form, monkeypatch)
    report = model.fit_report
    assert report.kept == ZERO_SHOT[form]
    assert report.weight_learning == ("one scale", "backcasts", "stacking")[form]
    assert report.weights == (None if form is Form.BACKCASTS else tuple(model.scale_weights))
    assert model.model.kind is form
    expected = forecast_of(model)
    if form is not Form.STACKED:
        same = {"num_scales": 0, "finest_context": None} if form is Form.ONE_SCALE else {}
        assert same_steps(forecast_of(zero_shot(tiny_moirai, likelihood=likelihood, **same)), expected)
    model.save(str(tmp_path / "model.pt"))
    model.save_adapter(tmp_path / "adapter")
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"), TRAINER)
    adapted, weighted = (zero_shot(tiny_moirai, likelihood=likelihood) for _ in range(2))
    adapted.load_adapter(tmp_path / "adapter")
    weighted.load_weights(str(tmp_path / "model.pt"))
    for one in (loaded, adapted, weighted):
        assert one.model.kind is form
        assert np.array_equal(forecast_of(one), expected)
    assert loaded.fit_report == report


def test_a_second_fit_compares_anew(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pretrained model's forms are the candidates again, whichever the first one kept."""
    expected = zero_shot(tiny_moirai).fit(wave(), val_series=val_series(2))
    for form in FORMS:
        model = kept_as(zero_shot(tiny_moirai), form, monkeypatch)
        model.fit(wave(), val_series=val_series(2))
        assert model.candidates == expected.candidates
        assert np.array_equal(forecast_of(model), forecast_of(expected))


@pytest.mark.parametrize(("num_scales", "passes"), [(0, 1), (2, 2)])
def test_no_scale_forecasts_the_same_windows_twice(
    tiny_moirai: str, num_scales: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass is one batch here; to weigh the linear member in a pass of its own gives the same."""
    counted, forecast = [], MSFTModule.forecast_scales

    def noted(module: MSFTModule, window: Any) -> Any:
        counted.append(module.kind)
        return forecast(module, window)

    monkeypatch.setattr(MSFTModule, "forecast_scales", noted)
    model = zero_shot(tiny_moirai, num_scales=num_scales, linear_member=True, batch_size=1000)
    model.fit(wave(), val_series=val_series(length=90))
    assert len(counted) == passes
    monkeypatch.setattr(MSFTModule, "sees_all_at_once", False)
    apart = zero_shot(tiny_moirai, num_scales=num_scales, linear_member=True, batch_size=1000)
    apart.fit(wave(), val_series=val_series(length=90))
    assert model.fit_report.candidates == apart.fit_report.candidates
    assert model.fit_report.weights == apart.fit_report.weights


def test_without_a_score_the_model_stays_as_it_was(tiny_moirai: str) -> None:
    """Without a validation series, with one that has no values, and where there is one scale."""
    options = {**LONG, "method": "zero_shot"}
    nothing = wave(60).with_values(np.full((60, 1), np.nan, dtype=np.float32))
    expected = forecast_of(make_model(tiny_moirai, **options))
    for val in (None, nothing):
        model = make_model(tiny_moirai, **options).fit(wave(), val_series=val)
        assert np.array_equal(forecast_of(model), expected)
        assert model.candidates == []
    for one_scale in ({"num_scales": 0, "finest_context": None}, {"mixing": "first"}):
        model = make_model(tiny_moirai, **{**options, **one_scale}).fit(wave(), val_series=val_series())
        assert model.fit_report is None
        assert same_steps(forecast_of(model), forecast_of(make_model(tiny_moirai, **{**options, **one_scale})))


def test_the_fit_is_told_in_one_line(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="darts_msft")
    report = zero_shot(tiny_moirai).fit(wave(), val_series=val_series()).fit_report
    own = [record.getMessage() for record in caplog.records if record.name.startswith("darts_msft")]
    assert own == ["fit: " + str(report).replace("\n", "; ")]


# --- what it takes ----------------------------------------------------------------------------------------------------


def test_windows_without_labels_are_told(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    windows = SequentialTorchTrainingDataset(
        val_series(), input_chunk_length=CONTEXT, output_chunk_length=3, output_chunk_shift=0
    )
    model = zero_shot(tiny_moirai)
    model.fit_from_dataset(windows, windows)
    assert model.fit_report is None
    assert f"3 steps to forecast, not output_chunk_length={HORIZON}" in caplog.text


def test_weights_of_steps_count(tiny_moirai: str) -> None:
    """The validation windows after those with weight have none."""
    series, split = val_series(length=80), 56
    weight = series.with_values((np.arange(80)[:, None] < split).astype(np.float32))
    weighted = zero_shot(tiny_moirai, likelihood=None)
    weighted.fit(wave(), val_series=series, val_sample_weight=weight)
    plain = zero_shot(tiny_moirai, likelihood=None).fit(wave(), val_series=series)
    assert weighted.fit_report.before != pytest.approx(plain.fit_report.before, rel=1e-3)
    alone = make_model(tiny_moirai, likelihood=None, num_scales=0)
    errors, counted = [], []
    for origin in origins(series):
        truth = series.values()[origin : origin + HORIZON]
        errors.append(np.abs(alone.predict(HORIZON, series[:origin]).values() - truth))
        counted.append(weight.values()[origin : origin + HORIZON])
    expected = np.average(errors, weights=counted) / unit_of(series)
    assert weighted.fit_report.before == pytest.approx(expected, rel=1e-4)


def test_shifted_horizons_short_series_and_a_search_for_k(tiny_moirai: str) -> None:
    shifted = zero_shot(tiny_moirai, output_chunk_shift=3).fit(wave(), val_series=val_series())
    assert [state.label for state in shifted.candidates] == ZERO_SHOT
    ranged = zero_shot(tiny_moirai, input_chunk_length=(8, CONTEXT)).fit(wave(), val_series=val_series(length=30))
    assert [state.label for state in ranged.candidates] == ZERO_SHOT
    searching = zero_shot(tiny_moirai, num_scales="auto").fit(wave(), val_series=val_series())
    assert [state.label for state in searching.candidates] == ZERO_SHOT
    assert searching.fit_report.num_scales_scores is None


# --- fits that train --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "likelihood"), [("msft", "native"), ("full", None)])
def test_finetuning_is_never_worse_than_the_strongest_of_them(tiny_moirai: str, method: str, likelihood: Any) -> None:
    """Which is kept, weights and all, where the epochs are no better."""
    options = {"likelihood": likelihood, **LONG}
    untrained = zero_shot(tiny_moirai, **options).fit(wave(), val_series=val_series())
    rates = {"lr_pretrained": 0.3, "lr_head": 0.3}
    model = make_model(tiny_moirai, method=method, **options, **rates).fit(wave(), val_series=val_series())
    assert model.candidates[:3] == untrained.candidates
    assert model.fit_report.kept == untrained.fit_report.kept
    assert model.model.kind is untrained.model.kind
    assert np.array_equal(forecast_of(model), forecast_of(untrained))
    assert torch.equal(model.model.scale_weights.omega, untrained.model.scale_weights.omega)
    again = model.fit(wave(), val_series=val_series(), epochs=1)  # from what was kept
    assert again.candidates[:3] == untrained.candidates
