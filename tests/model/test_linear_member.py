"""The linear member of a model: fitted with it, mixed, scored, reported, saved."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from darts.utils.likelihood_models.torch import GaussianLikelihood, QuantileRegression
from model_fixtures import CONTEXT, HORIZON, LONG, ZERO_SHOT, make_model, naive_unit, values_of, wave

from darts_msft import MSFTFoundationModel
from darts_msft.linear.windows import cut_windows
from darts_msft.training import linear_member

LABEL = "zero-shot, scales and linear member stacked"
LIKELIHOODS = {"native": "native", "points": None, "quantiles": QuantileRegression([0.1, 0.5, 0.9])}
each_likelihood = pytest.mark.parametrize("likelihood", LIKELIHOODS)


VAL = wave(80, seed=1)


def fit(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    """Zero-shot, unless a method is given, on series that a linear map can forecast."""
    usual = {"linear_member": True, "method": "zero_shot", "batch_size": 64, **LONG}
    return make_model(checkpoint, **{**usual, **changes}).fit(wave(400), val_series=VAL)


@cache
def fitted(checkpoint: str, likelihood: str) -> MSFTFoundationModel:
    """Such a model, made once: tests leave it as it is."""
    return fit(checkpoint, likelihood=LIKELIHOODS[likelihood])


@each_likelihood
def test_it_is_a_candidate_and_takes_the_weight_that_it_earns(tiny_moirai: str, likelihood: str) -> None:
    model = fitted(tiny_moirai, likelihood)
    report = model.fit_report
    assert [one.label for one in report.candidates] == [*ZERO_SHOT, LABEL]
    if likelihood == "native":
        alone = fit(tiny_moirai, linear_member=False).fit_report
        assert [one.score for one in report.candidates[:3]] == pytest.approx([one.score for one in alone.candidates])
    assert report.kept == LABEL
    assert report.best < 0.7 * min(one.score for one in report.candidates[:3])  # noise of 0.1 is all that is left
    assert model.scale_weights.shape == (4,)
    assert model.scale_weights.sum() == pytest.approx(1)
    assert model.scale_weights[-1] > 0.5


@each_likelihood
def test_the_point_is_the_weighted_sum_of_the_members(tiny_moirai: str, likelihood: str) -> None:
    model, series = fitted(tiny_moirai, likelihood), wave(90, seed=2)
    parts = model.scale_forecasts(series)
    assert len(parts) == 4
    expected = sum(weight * part.values() for weight, part in zip(model.scale_weights, parts, strict=True))
    np.testing.assert_allclose(model.predict(HORIZON, series).values(), expected, rtol=1e-5)
    truth = wave(98, seed=2).values()[-HORIZON:]
    assert np.abs(parts[-1].values() - truth).mean() < 0.2


def test_intervals_are_calibrated(tiny_moirai: str) -> None:
    model, series = fitted(tiny_moirai, "native"), wave(300, seed=3)
    inside = []
    for end in range(CONTEXT, 300 - HORIZON, 11):
        found = model.predict_quantiles(HORIZON, series[:end], quantiles=(0.1, 0.9)).values()
        truth = series.values()[end : end + HORIZON, 0]
        inside.append((truth >= found[:, 0]) & (truth <= found[:, 1]))
    assert 0.7 < np.mean(inside) < 0.9
    draws = values_of(model.predict(HORIZON, series, num_samples=2000, random_state=0))
    exact = model.predict_quantiles(HORIZON, series, quantiles=(0.1, 0.9)).values()
    np.testing.assert_allclose(np.quantile(draws[:, 0], (0.1, 0.9), axis=-1).T, exact, atol=0.05)


def test_the_score_is_the_crps_of_the_mixture(tiny_moirai: str) -> None:
    model, val = fitted(tiny_moirai, "native"), VAL
    errors = []
    for end in range(CONTEXT, len(val) - HORIZON + 1):
        draws = values_of(model.predict(HORIZON, val[:end], num_samples=300, random_state=0))[:, 0]
        truth = val.values()[end : end + HORIZON]
        within = np.abs(draws[:, :, None] - draws[:, None]).mean(axis=(-1, -2)) * 300 / 299
        errors.append(np.abs(draws - truth).mean(axis=-1) - within / 2)
    assert model.fit_report.best == pytest.approx(np.mean(errors) / naive_unit(wave(400))[0], rel=0.05)


@each_likelihood
def test_windows_that_it_cannot_tell_are_the_scales_alone(tiny_moirai: str, likelihood: str) -> None:
    """With weights that were solved for, also where it has all the weight elsewhere."""
    model, values = fitted(tiny_moirai, likelihood), wave(90, seed=2).values().copy()
    values[-16:-3] = np.nan  # a gap that is not bridged
    series = wave(90).with_values(values)
    found = model.predict(HORIZON, series).values()
    scales = model.scale_forecasts(series)[:3]
    weights = model.model.scale_weights().detach().numpy()
    expected = sum(weight * one.values() for weight, one in zip(weights, scales, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(weights - 1 / 3).max() > 0.05


def test_what_0_1_saved_has_none() -> None:
    before = Path(__file__).parents[1] / "fixtures" / "v0_1"
    options: dict[str, Any] = {"num_scales": 1, "lora_rank": 2, "aggregator": "f2c", "upsampling": "repeat"}
    expected = make_model(str(before / "checkpoint"), **options)
    model = make_model(str(before / "checkpoint"), linear_member=True, **options)
    for one in (expected, model):
        one.load_adapter(before / "msft_adapter")
    assert model.scale_weights[-1] == 0
    np.testing.assert_array_equal(model.predict(HORIZON, wave()).values(), expected.predict(HORIZON, wave()).values())


def test_training_mixes_it_too(tiny_moirai: str) -> None:
    for settings in ({"method": "msft"}, {"method": "full", "num_scales": 0, "finest_context": None}):
        model = fit(tiny_moirai, lr_head=1e-3, n_epochs=2, **settings)
        assert model.fit_report.best <= min(one.score for one in model.candidates)
        assert model.fit_report.best < 0.7 * model.candidates[0].score
        assert LABEL in [one.label for one in model.candidates]


@pytest.mark.parametrize("settings", [{"mixing": "quantile"}, {"method": "msft", "weight_learning": "scale_loss"}])
def test_it_needs_weights_that_are_stacked(tiny_moirai: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="take mixing='mixture' and weight_learning='stacking'"):
        make_model(tiny_moirai, linear_member=True, **settings)


def test_at_one_scale_it_is_weighed_too(tiny_moirai: str) -> None:
    model = fit(tiny_moirai, num_scales=0, finest_context=None)
    assert [one.label for one in model.candidates] == [ZERO_SHOT[0], LABEL]
    assert model.scale_weights[-1] > 0.5


def test_a_second_fit_learns_from_its_own_series(tiny_moirai: str) -> None:
    model, again = fit(tiny_moirai), wave(400).map(lambda values: values[::-1] * 2)
    model.fit(again, val_series=wave(120, seed=1))
    fresh = make_model(tiny_moirai, linear_member=True, method="zero_shot", batch_size=64, **LONG)
    fresh.fit(again, val_series=wave(120, seed=1))
    np.testing.assert_array_equal(model.model.linear.weight, fresh.model.linear.weight)
    assert model.candidates == fresh.candidates


def test_without_validation_windows_that_it_tells_it_has_no_weight(
    tiny_moirai: str, caplog: pytest.LogCaptureFixture
) -> None:
    values = VAL.values().copy()
    values[np.arange(len(values)) % 15 < 13] = np.nan  # gaps that are not bridged
    for likelihood in ("native", None):
        model = make_model(
            tiny_moirai, linear_member=True, method="zero_shot", likelihood=likelihood, batch_size=64, **LONG
        )
        gapped = VAL.with_values(values)
        model.fit(wave(400), val_series=gapped)
        assert model.scale_weights is None or model.scale_weights[-1] == 0
        assert "a gap of more than 12 steps" in caplog.text
        caplog.clear()
        model.fit(wave(400), val_series=wave(120, seed=1))  # windows of an earlier fit don't count
        assert model.scale_weights[-1] > 0.5
        assert "gap" not in caplog.text
        model.fit(wave(400), val_series=gapped)
        assert model.scale_weights is None or model.scale_weights[-1] == 0


def test_short_windows_are_no_gaps(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    fit(tiny_moirai, input_chunk_length=(10, 64))
    assert "gap" not in caplog.text


def test_a_new_head_s_mixture_has_it(tiny_moirai: str) -> None:
    model = fit(tiny_moirai, method="msft", likelihood=GaussianLikelihood(), lr_head=1e-2)
    assert model.scale_weights[-1] > 0.5
    assert np.isfinite(values_of(model.predict(HORIZON, wave(90), num_samples=20))).all()


def test_without_a_validation_series_there_is_none(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, linear_member=True, **LONG)
    assert model.predict(HORIZON, wave()).n_timesteps == HORIZON
    assert model.scale_weights is None  # each window has its own, by backcasts
    model.fit(wave(200))
    assert model.model.linear.absent
    assert model.scale_weights[-1] == 0


def test_several_series_and_components(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, method="zero_shot", linear_member=True, **LONG)
    train: list[TimeSeries] = [wave(300, 2), wave(200, 2, seed=4, level=50.0)]
    model.fit(train, val_series=[wave(120, 2, seed=1), wave(90, 2, seed=5)])
    assert model.fit_report.kept == LABEL
    both = model.predict(HORIZON, [wave(90, 2, seed=2), wave(90, 2, seed=3)])
    one = model.predict(HORIZON, wave(90, 2, seed=3))
    np.testing.assert_allclose(both[1].values(), one.values(), rtol=1e-5)


def test_it_is_on_by_default_where_its_weight_can_be_stacked(tiny_moirai: str) -> None:
    settings = {"backbone": tiny_moirai, "input_chunk_length": CONTEXT, "output_chunk_length": HORIZON, "patch_size": 4}
    found = {
        str(changes): MSFTFoundationModel(**settings, **changes)._module_settings["mixing_config"]["linear_member"]
        for changes in ({}, {"mixing": "quantile"}, {"weight_learning": "mixed_loss"}, {"linear_member": False})
    }
    assert list(found.values()) == [True, False, False, False]


def test_a_fit_without_validation_series_keeps_its_share(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, method="full", linear_member=True, batch_size=64, **LONG)
    model.fit(wave(400), val_series=wave(120, seed=1))
    share = model.scale_weights[-1]
    assert share > 0.5
    model.fit(wave(400))
    assert model.scale_weights[-1] == pytest.approx(share)


def test_of_windows_of_many_lengths_it_tells_most(tiny_moirai: str) -> None:
    """Its look-back is one that half of them have."""
    model = make_model(tiny_moirai, linear_member=True, method="zero_shot", input_chunk_length=(10, 40), **LONG)
    short = [wave(30, seed=seed) for seed in range(4)]
    model.fit(wave(400), val_series=short)
    assert model.model.linear.lookback <= 22
    assert model.scale_weights[-1] > 0.5


@pytest.mark.parametrize("likelihood", ["native", None])
def test_an_hour_that_is_missing_now_and_then_does_not_silence_it(tiny_moirai: str, likelihood: str | None) -> None:
    """In training, validation and forecast: its weight and its forecast are nearly those of the whole series."""

    def gapped(series: Any) -> Any:
        values = series.values().copy()
        values[5::17] = np.nan
        return series.with_values(values)

    whole = fitted(tiny_moirai, "native" if likelihood else "points")
    given = {"linear_member": True, "method": "zero_shot", "likelihood": likelihood, "batch_size": 64, **LONG}
    model = make_model(tiny_moirai, **given).fit(gapped(wave(400)), val_series=gapped(VAL))
    assert model.scale_weights[-1] == pytest.approx(whole.scale_weights[-1], abs=0.1)
    series = gapped(wave(90, seed=2))
    found, expected = (
        one.scale_forecasts(two)[-1].values() for one, two in ((model, series), (whole, wave(90, seed=2)))
    )
    np.testing.assert_allclose(found, expected, atol=0.15)


def test_it_is_judged_where_the_model_is_scored(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validation series begins with a long context, of which the member needs a part: the rest was trained on."""
    judged: list[np.ndarray] = []

    def noted(series: Any, *args: Any) -> Any:
        judged.extend(series)
        return cut_windows(series, *args)

    monkeypatch.setattr(linear_member, "cut_windows", noted)
    series, context = wave(2000), 1500
    model = make_model(tiny_moirai, method="zero_shot", linear_member=True, input_chunk_length=context, num_scales=0)
    model.fit(series[:1900], val_series=series[1900 - context :])
    assert [len(one) for one in judged] == [100 + model.model.linear.lookback]
