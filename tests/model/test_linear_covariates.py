"""Known future covariates of a model's linear member: fitted, forecast with, saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset
from model_fixtures import CONTEXT, HORIZON, make_model, values_of, wave
from tiny_encoders import save_patchtst_fm
from tiny_point_encoders import save_moment, save_units

from darts_msft import MSFTFoundationModel

NOISE, START = 0.5, 500


def known(length: int, seed: int, width: int = 1) -> TimeSeries:
    """Noise, hourly."""
    series = wave(length, width)
    return series.with_values(np.random.default_rng(seed).standard_normal(series.values().shape).astype(np.float32))


def told_by(covariate: TimeSeries, seed: int = 99) -> TimeSeries:
    """Three times the first covariate, and noise."""
    values = 3 * covariate.values()[:, :1]
    noise = NOISE * np.random.default_rng(seed).standard_normal(values.shape)
    return TimeSeries.from_times_and_values(covariate.time_index, (values + noise).astype(np.float32))


def fit(checkpoint: str, covariate: TimeSeries, target: TimeSeries, **changes: Any) -> MSFTFoundationModel:
    model = make_model(checkpoint, **{"linear_member": True, "method": "zero_shot", "batch_size": 64, **changes})
    return model.fit(
        target[10:400],  # from another step than the covariate's first
        future_covariates=covariate,
        val_series=target[400:START],
        val_future_covariates=covariate,
    )


def mean_square(model: MSFTFoundationModel, target: TimeSeries, covariate: TimeSeries | None, **how: Any) -> float:
    given = {} if covariate is None else {"future_covariates": covariate}
    how = {"forecast_horizon": HORIZON, "stride": HORIZON, "start": START, "retrain": False} | how
    forecasts = model.historical_forecasts(target, **given, **how, last_points_only=False)
    errors = [one.values() - target.slice_intersect(one).values() for one in forecasts]
    return float(np.square(errors).mean())


@pytest.fixture(scope="module")
def covariate() -> TimeSeries:
    return known(700, seed=1)


@pytest.fixture(scope="module")
def target(covariate: TimeSeries) -> TimeSeries:
    return told_by(covariate)


@pytest.mark.parametrize("changes", [{}, {"output_chunk_shift": 2, "likelihood": None}])
def test_what_a_covariate_tells_is_forecast_to_the_noise(
    tiny_moirai: str, covariate: TimeSeries, target: TimeSeries, changes: dict[str, Any]
) -> None:
    model = fit(tiny_moirai, covariate, target, **changes)
    assert model.scale_weights[-1] > 0.95
    assert mean_square(model, target, covariate) < 1.15 * NOISE**2
    if "output_chunk_shift" not in changes:  # by feeding forecasts back
        assert mean_square(model, target, covariate, forecast_horizon=2 * HORIZON) < 1.15 * NOISE**2


def test_noise_costs_next_to_nothing(tiny_moirai: str) -> None:
    target, given = wave(700, seed=3), known(700, seed=1, width=3)
    alone = make_model(tiny_moirai, linear_member=True, method="zero_shot", batch_size=64)
    alone.fit(target[10:400], val_series=target[400:START])
    with_noise = fit(tiny_moirai, given, target)
    assert _linear_error(with_noise, target, given) < 1.02 * _linear_error(alone, target, None)


def _linear_error(model: MSFTFoundationModel, target: TimeSeries, given: TimeSeries | None) -> float:
    errors = []
    for end in range(START, 700 - HORIZON, HORIZON):
        covariates = {} if given is None else {"future_covariates": given}
        found = model.scale_forecasts(target[:end], **covariates)[-1]
        errors.append(found.values() - target[end : end + HORIZON].values())
    return float(np.square(errors).mean())


def test_the_gain_is_the_covariate_s(tiny_moirai: str, covariate: TimeSeries, target: TimeSeries) -> None:
    model, series = fit(tiny_moirai, covariate, target), target[:START]
    moved = covariate.with_values(covariate.values() + (np.arange(700) == START + 2)[:, None])
    found, other = (values_of(model.predict(HORIZON, series, future_covariates=one)) for one in (covariate, moved))
    expected = np.zeros_like(found)
    expected[2] = 3
    np.testing.assert_allclose(other - found, expected, atol=0.15)


def test_past_covariates_and_other_series_have_no_part(tiny_moirai: str) -> None:
    """Several series, whose covariates begin earlier and end later; past covariates come first in a window."""
    given = [known(600, seed) for seed in (1, 2)]
    targets = [told_by(one)[start:560] for one, start in zip(given, (0, 40), strict=True)]
    past = [known(600, seed) for seed in (3, 4)]
    model = make_model(tiny_moirai, linear_member=True, method="zero_shot")
    model.fit(
        [one[:400] for one in targets],
        past_covariates=past,
        future_covariates=given,
        val_series=[one[400:500] for one in targets],
        val_past_covariates=past,
        val_future_covariates=given,
    )
    assert model.model.linear.effects.numpy() == pytest.approx(3, abs=0.1)
    forecasts = model.predict(HORIZON, targets, past_covariates=past, future_covariates=given)
    truth = [told_by(one)[560 : 560 + HORIZON] for one in given]
    assert np.mean([(a.values() - b.values()) ** 2 for a, b in zip(forecasts, truth, strict=True)]) < 2 * NOISE**2


def test_a_state_of_before_has_no_effects(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, linear_member=True, method="zero_shot")
    model.fit(wave(300), val_series=wave(120, seed=1))
    assert not model.model.linear.effects.numel()
    state = {name: one.clone() for name, one in model.model.state_dict().items() if name != "linear.effects"}
    expected = values_of(model.predict(HORIZON, wave(90)))
    model.model.linear.weight.zero_()
    model.model.load_state_dict(state)
    np.testing.assert_array_equal(values_of(model.predict(HORIZON, wave(90))), expected)
    with pytest.raises(RuntimeError, match=r"linear\.scale"):
        model.model.load_state_dict({name: one for name, one in state.items() if name != "linear.scale"})


def test_a_second_fit_finds_its_own_effects(tiny_moirai: str, covariate: TimeSeries, target: TimeSeries) -> None:
    model = fit(tiny_moirai, covariate, target)
    before = model.model.linear.effects.item()
    opposite = target.with_values(-target.values())
    model.fit(
        opposite[:400],
        future_covariates=covariate,
        val_series=opposite[400:START],
        val_future_covariates=covariate,
    )
    assert model.model.linear.effects.item() == pytest.approx(-before, rel=0.05)


@pytest.mark.parametrize("multivariate", ["independent", "joint"])
def test_what_was_pretrained_alone_hears_of_others_once_it_is_trained(
    multivariate: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The bundled checkpoint has never seen two variates together: it says once that covariates tell it nothing."""
    settings: dict[str, Any] = {"input_chunk_length": 64, "output_chunk_length": 16, "patch_size": 16, "num_scales": 1}
    settings |= {"multivariate": multivariate, "method": "full", "finest_context": None}
    series, given = wave(200, 2), {"future_covariates": known(260, seed=1)}
    alone = make_model("moirai-tiny", **settings)
    plain = make_model("moirai-tiny", **(settings | {"multivariate": "independent"}))
    expected = values_of(plain.predict(16, series))
    for _ in range(2):
        np.testing.assert_allclose(values_of(alone.predict(16, series, **given)), expected, rtol=1e-4)
    assert caplog.text.count("pretrained on one variate at a time") == 1
    alone.fit(series[:150], **given)
    moved = known(260, seed=2)
    found, other = (values_of(alone.predict(16, series, future_covariates=one)) for one in (known(260, 1), moved))
    assert np.abs(found - other).max() > 1e-4


def test_encoders_that_nothing_hears_yet_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    settings: dict[str, Any] = {"input_chunk_length": 64, "output_chunk_length": 16, "patch_size": 16, "num_scales": 1}
    model = make_model("moirai-tiny", **settings, add_encoders={"cyclic": {"future": ["hour"]}})
    expected = values_of(make_model("moirai-tiny", **settings).predict(16, wave(200)))
    for _ in range(2):
        np.testing.assert_allclose(values_of(model.predict(16, wave(200))), expected, rtol=1e-4)
    assert caplog.text.count("pretrained on one variate at a time") == 1


# ------------------------------------------------------------------------------------------------------ other encoders


SAVE = {"patchtst_fm": save_patchtst_fm, "moment": save_moment, "units": save_units}
PAIRS = [("patchtst_fm", "zero_shot"), ("patchtst_fm", "full"), ("moment", "full"), ("units", "zero_shot")]


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_other_encoders_get_by_it_what_a_covariate_tells(
    tmp_path: Path, covariate: TimeSeries, target: TimeSeries, name: str, method: str
) -> None:
    """UniTS has targets that attend to one another, to which no covariate belongs; MOMENT's head is new."""
    SAVE[name](tmp_path)
    two = target.stack(told_by(covariate, seed=98))
    model = fit(str(tmp_path), covariate, two, method=method)
    assert model.model.linear.effects.numpy() == pytest.approx(3, abs=0.1)
    assert mean_square(model, two, covariate) < 1.15 * NOISE**2


def test_where_nothing_can_learn_of_a_covariate_it_is_refused(
    tmp_path: Path, covariate: TimeSeries, target: TimeSeries
) -> None:
    save_patchtst_fm(tmp_path)
    model = make_model(str(tmp_path), linear_member=True)
    for call in (
        lambda: model.predict(HORIZON, target[:START], future_covariates=covariate),
        lambda: model.fit(target[10:400], future_covariates=covariate),
    ):
        with pytest.raises(ValueError, match=r"^future_covariates [^\n]*backbone=[^\n]*val_series$"):
            call()
    given = {"series": target[10:400], "future_covariates": covariate}
    windows = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON}
    with pytest.raises(ValueError, match=r"^future_covariates "):
        model.fit_from_dataset(SequentialTorchTrainingDataset(**given, **windows))
    encoders = {"position": {"future": ["relative"]}}
    with pytest.raises(ValueError, match=r"^future_covariates "):
        make_model(str(tmp_path), linear_member=True, add_encoders=encoders).fit(target[10:400])


def test_the_report_has_the_effects(tiny_moirai: str, covariate: TimeSeries, target: TimeSeries) -> None:
    two = covariate.stack(known(700, seed=5)).with_columns_renamed(["0", "0_1"], ["promo", "noise"])
    report = fit(tiny_moirai, two, target).fit_report
    assert report.effects["promo"] == pytest.approx([3], abs=0.1)
    assert "promo" in str(report)
    assert not fit(tiny_moirai, known(700, seed=2), target, linear_member=False).fit_report.effects


def test_covariates_that_can_hardly_help_are_told(
    tiny_moirai: str, covariate: TimeSeries, target: TimeSeries, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tiny_moirai, covariate, target)
    assert "covariate" not in caplog.text
    fit(tiny_moirai, covariate.with_values(np.where(covariate.values() > 1, covariate.values(), np.nan)), target)
    assert "missing (NaN) at 8" in caplog.text
    model = make_model(tiny_moirai, linear_member=True, method="zero_shot")
    many, val = ([one, one * 40] for one in (target[10:400], target[400:START]))
    model.fit(many, val_series=val, future_covariates=[covariate] * 2, val_future_covariates=[covariate] * 2)
    assert "comparable units" in caplog.text


def test_a_model_that_hears_by_it_is_trained_again_without_validation(
    tmp_path: Path, covariate: TimeSeries, target: TimeSeries
) -> None:
    save_patchtst_fm(tmp_path)
    model = fit(str(tmp_path), covariate, target, method="full")
    effects = model.model.linear.effects.clone()
    model.fit(target[10:400], future_covariates=covariate)
    assert torch.equal(model.model.linear.effects, effects)


def test_it_says_once_where_the_fit_found_no_effect(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_patchtst_fm(tmp_path)
    model, series = fit(str(tmp_path), known(700, seed=2), wave(700, seed=3)), wave(START, seed=3)
    found = [values_of(model.predict(HORIZON, series, future_covariates=known(700, seed))) for seed in (2, 5)]
    np.testing.assert_array_equal(*found)
    assert caplog.text.count("no place for covariates") == 1
