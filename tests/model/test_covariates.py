"""Covariates through all that Darts does with a model, and what they may and may not change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.metrics import mae
from darts.utils.data.torch_datasets.utils import PLModuleInput, TorchTrainingSample
from model_fixtures import CONTEXT, HORIZON, make_model, values_of, wave
from tiny_encoders import save_patchtst_fm

from darts_msft import MSFTFoundationModel
from darts_msft.windows_of_batches import Widths, window_of

AFTER = 3 * HORIZON
LATER = {"forecast_horizon": HORIZON, "stride": 5, "retrain": False, "last_points_only": False}


@pytest.fixture(scope="module")
def tiny_chronos(checkpoint_of: Callable[[str], Path]) -> str:
    return str(checkpoint_of("chronos2"))


@pytest.fixture(params=["tiny_moirai", "tiny_chronos"])
def checkpoint(request: pytest.FixtureRequest) -> str:
    """For the laws: each encoder has ways of its own from one variate to another."""
    return request.getfixturevalue(request.param)


def noise(length: int, components: int, seed: int) -> TimeSeries:
    values = 2 + np.random.default_rng(seed).standard_normal((length, components))
    index = pd.date_range("2024-01-01", periods=length, freq="h", name="time")
    return TimeSeries.from_times_and_values(index, values.astype(np.float32))


def covariates(length: int, seed: int = 10) -> dict[str, TimeSeries]:
    """One past covariate and two future ones, which are known for longer."""
    return {
        "past_covariates": noise(length + AFTER, 1, seed),
        "future_covariates": noise(length + AFTER, 2, seed + 1),
    }


def validation() -> dict[str, TimeSeries]:
    return {"val_series": wave(60, seed=1)} | {f"val_{name}": one for name, one in covariates(60, 20).items()}


@pytest.fixture(scope="module")
def model(tiny_moirai: str) -> MSFTFoundationModel:
    """Finetuned on two series of one target with covariates; tests must not change it."""
    given = [covariates(100, seed) for seed in (10, 15)]
    lists = {name: [one[name] for one in given] for name in given[0]}
    return make_model(tiny_moirai).fit([wave(), wave(seed=7)], **lists, **validation())


def moved(series: TimeSeries, steps: slice, component: int = 0) -> TimeSeries:
    values = series.values().copy()
    values[steps, component] += 3
    return series.with_values(values)


# ------------------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("fitted", [True, False])
def test_a_forecast_depends_on_what_is_known_of_covariates_alone(
    tiny_chronos: str, model: MSFTFoundationModel, fitted: bool
) -> None:
    used = model if fitted else make_model(tiny_chronos)
    series, given = wave(50, seed=3), covariates(50)
    plain = values_of(used.predict(HORIZON, series, **given))

    def changes(name: str, steps: slice, component: int = 0) -> bool:
        other = given | {name: moved(given[name], steps, component)}
        return bool(np.abs(values_of(used.predict(HORIZON, series, **other)) - plain).max() > 1e-5)

    assert changes("past_covariates", slice(40, 50))
    assert not changes("past_covariates", slice(50, None))
    assert not changes("past_covariates", slice(0, 50 - CONTEXT))
    for component in range(2):
        assert changes("future_covariates", slice(50, 50 + HORIZON), component)
        assert changes("future_covariates", slice(40, 50), component)
        assert not changes("future_covariates", slice(50 + HORIZON, None), component)
        assert not changes("future_covariates", slice(0, 50 - CONTEXT), component)


def test_covariates_of_a_kind_have_no_order(model: MSFTFoundationModel) -> None:
    series, given = wave(50, seed=3), covariates(50)
    turned = given["future_covariates"].with_values(given["future_covariates"].values()[:, ::-1])
    found = values_of(model.predict(HORIZON, series, **(given | {"future_covariates": turned})))
    np.testing.assert_allclose(found, values_of(model.predict(HORIZON, series, **given)), atol=1e-4)


def test_components_hear_of_one_another_where_they_are_joint(checkpoint: str) -> None:
    series, given = wave(50, components=2, seed=3), covariates(50)
    other = moved(series, slice(45, 48), component=1)
    for multivariate in ("joint", "independent"):
        model = make_model(checkpoint, multivariate=multivariate)
        first, second = (values_of(model.predict(HORIZON, one, **given))[:, 0] for one in (series, other))
        assert (np.abs(first - second).max() > 1e-5) == (multivariate == "joint")
    alone = values_of(make_model(checkpoint).predict(HORIZON, series[series.components[0]], **given))
    np.testing.assert_allclose(first, alone[:, 0], atol=1e-4)


def test_each_scale_sees_covariates_as_it_sees_the_series(checkpoint: str) -> None:
    """Averaged backwards from the origin, and forwards where they are known; as the pretrained model would alone."""
    values = {name: torch.as_tensor(noise(steps, 2, seed).values())[None] for name, steps, seed in _PARTS}
    pooled = {name: part.unflatten(1, (-1, 2)).mean(dim=2) for name, part in values.items()}
    whole = _module(checkpoint, values, num_scales=1, finest_context=CONTEXT // 2)
    alone = _module(checkpoint, pooled, input_chunk_length=CONTEXT // 2, output_chunk_length=HORIZON // 2, num_scales=0)
    with torch.no_grad():
        found, expected = (
            module.forecast_scales(module.window(PLModuleInput(**parts)))
            for module, parts in ((whole, values), (alone, pooled))
        )
    torch.testing.assert_close(found.params[1], expected.params[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.stats[1], expected.stats[0], rtol=1e-6, atol=1e-6)


_PARTS = [
    ("past_target", CONTEXT, 1),
    ("past_covariates", CONTEXT, 2),
    ("historic_future_covariates", CONTEXT, 3),
    ("future_covariates", HORIZON, 4),
]


def _module(checkpoint: str, values: dict[str, torch.Tensor], **settings: Any) -> Any:
    model = make_model(checkpoint, **settings)
    arrays = {name: part[0].numpy() for name, part in values.items()}
    target = np.zeros((model.output_chunk_length, 2), dtype=np.float32)
    model.train_sample = TorchTrainingSample(**arrays, future_target=target)
    return model._init_model().eval()


@pytest.mark.parametrize("shift", [0, 3])
def test_an_earlier_window_knows_what_was_known_then(shift: int) -> None:
    """As if cut from the series, but for what the window itself doesn't know: the gap before the horizon."""
    values = torch.randn(2, 60, 4)

    def cut(origin: int) -> PLModuleInput:
        past, known = values[:, :origin], values[:, origin + shift : origin + shift + HORIZON, 2:]
        return PLModuleInput(past[..., :1], past[..., 1:2], past[..., 2:], known)

    window = window_of(cut(CONTEXT), HORIZON, shift)
    for end in (CONTEXT - 5, CONTEXT - HORIZON - 1):
        early, expected = window.ending(end, shift), window_of(cut(end - shift), HORIZON, shift)
        missing = CONTEXT - (end - shift)
        assert bool(early.past[..., :missing].isnan().all())
        torch.testing.assert_close(early.past[..., missing:], expected.past, rtol=0, atol=0)
        future = expected.future.clone()
        gap = slice(max(CONTEXT - end, 0) + shift, CONTEXT + 2 * shift - end)
        if shift and end + HORIZON > CONTEXT:
            future[..., gap] = torch.nan
        torch.testing.assert_close(early.future, future, rtol=0, atol=0, equal_nan=True)


def test_a_known_covariate_that_makes_the_future_is_learned(tiny_moirai: str) -> None:
    """The series is noise but for it: without it, the best forecast is the mean."""
    known = noise(300, 1, seed=5)
    series = known.with_values(5 + 2 * known.values() + 0.05 * noise(300, 1, seed=6).values())
    settings = {"num_scales": 0, "n_epochs": 8, "lr_pretrained": 1e-2, "lr_head": 1e-2, "likelihood": None}
    model = make_model(tiny_moirai, method="full", **settings)
    model.fit(series[:200], future_covariates=known, val_series=series[160:240], val_future_covariates=known)
    later = series[200:]
    error = model.backtest(later, future_covariates=known, metric=mae, **LATER)
    spread = np.abs(later.values() - later.values().mean()).mean()
    assert error < 0.5 * spread


# ---------------------------------------------------------------------------------------------------------- Darts' API


def test_history_is_the_same_one_by_one(model: MSFTFoundationModel) -> None:
    series, given = wave(70, seed=3), covariates(70)
    fast, slow = (
        model.historical_forecasts(series, **given, **LATER, enable_optimization=one) for one in (True, False)
    )
    assert len(fast) == len(slow) == 7
    np.testing.assert_allclose(values_of(fast), values_of(slow), atol=1e-4)
    first = fast[0].start_time()
    last = model.predict(HORIZON, series.drop_after(first), **given)
    np.testing.assert_allclose(values_of(fast[0]), values_of(last), atol=1e-4)
    assert np.isfinite(model.backtest(series, **given, **LATER))


def test_many_steps_take_later_covariates(model: MSFTFoundationModel) -> None:
    series, given = wave(50, seed=3), covariates(50)
    long = values_of(model.predict(2 * HORIZON + 3, series, **given))
    np.testing.assert_allclose(long[:HORIZON], values_of(model.predict(HORIZON, series, **given)), atol=1e-4)
    late = given | {"future_covariates": moved(given["future_covariates"], slice(50 + 2 * HORIZON, None))}
    other = values_of(model.predict(2 * HORIZON + 3, series, **late))
    assert np.array_equal(other[:HORIZON], long[:HORIZON])
    assert np.abs(other - long).max() > 1e-5
    with pytest.raises(ValueError, match="covariates"):
        model.predict(10 * HORIZON, series, **given)


def test_samples_and_quantiles_see_covariates(model: MSFTFoundationModel) -> None:
    series, given = wave(50, seed=3), covariates(50)
    other = given | {"future_covariates": moved(given["future_covariates"], slice(50, 60))}
    for one in (
        lambda given: model.predict(HORIZON, series, **given, num_samples=9, random_state=0),
        lambda given: model.predict_quantiles(HORIZON, series, **given),
        lambda given: model.scale_forecasts(series, **given),
    ):
        assert np.abs(values_of(one(given)) - values_of(one(other))).max() > 1e-5
    members, weights = values_of(model.scale_forecasts(series, **given))[..., 0, 0], model.scale_weights
    point = values_of(model.predict(HORIZON, series, **given))[:, 0, 0]
    np.testing.assert_allclose(weights[: len(members)] @ members, point, atol=1e-3)


def test_lists_of_series(model: MSFTFoundationModel) -> None:
    several, given = [wave(50, seed=seed) for seed in (3, 4)], [covariates(50, seed) for seed in (30, 40)]
    lists = {name: [one[name] for one in given] for name in given[0]}
    together = model.predict(HORIZON, several, **lists)
    for series, own, found, parts in zip(
        several, given, together, model.scale_forecasts(several, **lists), strict=True
    ):
        np.testing.assert_allclose(values_of(found), values_of(model.predict(HORIZON, series, **own)), atol=1e-4)
        np.testing.assert_allclose(values_of(parts), values_of(model.scale_forecasts(series, **own)), atol=1e-4)


@pytest.mark.parametrize("fits", [True, False])
def test_encoders_of_time_are_covariates(tiny_moirai: str, fits: bool) -> None:
    encoders = {"cyclic": {"future": ["hour"]}, "position": {"past": ["relative"]}}
    model = make_model(tiny_moirai, add_encoders=encoders)
    if fits:
        model.fit(wave(), val_series=wave(60, seed=1))
    series = wave(50, seed=3)
    forecast = values_of(model.predict(HORIZON, series))
    assert model.model.widths == Widths(1, past=1, future=2)
    late = values_of(
        model.predict(HORIZON, TimeSeries.from_times_and_values(series.time_index.shift(5), series.values()))
    )
    assert np.abs(forecast - late).max() > 1e-5
    assert len(model.scale_forecasts(series)) >= 1
    assert np.isfinite(values_of(model.historical_forecasts(wave(70), **LATER))).all()


def test_encoders_of_time_where_a_fit_does_not_train(checkpoint: str) -> None:
    """The last window of such a fit ends where the series does, and so must the encodings."""
    settings: dict[str, Any] = {"add_encoders": {"cyclic": {"past": ["hour"]}}, "enable_finetuning": False}
    series = wave(50, seed=3)
    never = values_of(make_model(checkpoint, **settings).predict(HORIZON, series))
    fitted = make_model(checkpoint, **settings).fit(wave())
    assert np.array_equal(values_of(fitted.predict(HORIZON, series)), never)
    assert make_model(checkpoint, **settings).fit(wave(), val_series=wave(60, seed=1)).fit_report is not None


def test_before_a_fit_any_covariates_will_do(tiny_moirai: str) -> None:
    model, series, given = make_model(tiny_moirai), wave(50, seed=3), covariates(50)
    alone = values_of(model.predict(HORIZON, series))
    past = {"past_covariates": given["past_covariates"]}
    found = [values_of(model.predict(HORIZON, series, **one)) for one in (past, given, {}, past)]
    assert np.array_equal(found[2], alone)
    assert np.array_equal(found[3], found[0])
    assert not np.array_equal(found[0], found[1])
    history = model.historical_forecasts(wave(70, seed=3), **covariates(70), **LATER)
    assert np.isfinite(values_of(history)).all()
    model.fit(wave(), past_covariates=covariates(100)["past_covariates"])
    assert model.model.widths == Widths(1, past=1)


def test_what_is_left_open_is_chosen_with_covariates(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, num_scales="auto", patch_size="auto")
    model.fit(wave(), **covariates(100), **validation())
    assert len(model.fit_report.num_scales_scores) > 1
    assert model.model.widths == Widths(1, past=1, future=2)
    assert np.isfinite(values_of(model.predict(HORIZON, wave(50), **covariates(50)))).all()


def test_a_model_with_components_trains_jointly(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, multivariate="joint", attention="full")
    model.fit(wave(components=2), **covariates(100), **{**validation(), "val_series": wave(60, 2, seed=1)})
    assert np.isfinite(values_of(model.predict(HORIZON, wave(50, 2), **covariates(50), num_samples=3))).all()


# ------------------------------------------------------------------------------------------------------------ refusals


def test_an_encoder_without_a_place_for_them_refuses_them(tmp_path: Path) -> None:
    save_patchtst_fm(tmp_path)
    series, given = wave(), covariates(100)
    for name, one in given.items():
        with pytest.raises(ValueError, match=name):
            make_model(str(tmp_path)).fit(series, **{name: one})
        with pytest.raises(ValueError, match=name):
            make_model(str(tmp_path)).predict(HORIZON, series, **{name: one})
    with pytest.raises(ValueError, match=r"^multivariate='joint'.*'independent'$"):
        make_model(str(tmp_path), multivariate="joint")


def test_encoders_that_can_have_no_effect_are_refused(tmp_path: Path) -> None:
    save_patchtst_fm(tmp_path)
    make_model(str(tmp_path), add_encoders={"transformer": None})
    with pytest.raises(ValueError, match=r"^add_encoders=.* no place for past or future covariates"):
        make_model(str(tmp_path), add_encoders={"position": {"future": ["relative"], "past": ["relative"]}})


def test_other_widths_and_static_covariates_are_refused(model: MSFTFoundationModel, tiny_moirai: str) -> None:
    series, given = wave(50), covariates(50)
    wide = given | {"past_covariates": noise(60, 2, seed=0)}
    with pytest.raises(ValueError, match="past_covariates"):
        model.predict(HORIZON, series, **wide)
    with pytest.raises(ValueError, match="future_covariates"):
        model.predict(HORIZON, series, past_covariates=given["past_covariates"])
    with pytest.raises(ValueError, match="use_static_covariates"):
        make_model(tiny_moirai, use_static_covariates=True)


def test_a_group_that_is_too_wide_is_refused_with_the_numbers(tiny_moirai: str) -> None:
    """512 tokens: 10 a variate."""
    settings = {"num_scales": 0, "multivariate": "joint"}
    assert np.isfinite(values_of(make_model(tiny_moirai, **settings).predict(HORIZON, wave(50, 51)))).all()
    with pytest.raises(ValueError, match=r"^52 variates [^\n]* 10 tokens [^\n]* 520 [^\n]* 512 [^\n]*$"):
        make_model(tiny_moirai, **settings).predict(HORIZON, wave(50, 52))
    with pytest.raises(ValueError, match=r"^52 variates [^\n]* 520 [^\n]*$"):
        make_model(tiny_moirai, num_scales=0).predict(HORIZON, wave(50), past_covariates=noise(50, 51, seed=0))


def test_infinite_covariates_are_refused(model: MSFTFoundationModel) -> None:
    given = covariates(50)
    for name, one in given.items():
        values = one.values().copy()
        values[-1] = np.inf
        with pytest.raises(ValueError, match=rf"^{name} has infinite values"):
            model.predict(HORIZON, wave(50), **(given | {name: one.with_values(values)}))


def test_encoders_that_give_infinite_values_are_refused(tiny_moirai: str) -> None:
    encoders = {"custom": {"past": [_infinite_at_three]}}
    with pytest.raises(ValueError, match=r"^past_covariates\[0\] has infinite values"):
        make_model(tiny_moirai, add_encoders=encoders).fit(wave())


def _infinite_at_three(index: pd.DatetimeIndex) -> np.ndarray:
    return np.where(index.hour == 3, np.inf, 1.0)
