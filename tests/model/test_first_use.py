"""What a user does first: backtests, ensembles, fits that fail, series that are too short."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from darts import TimeSeries
from darts.metrics import mae
from darts.models import LinearRegressionModel, NaiveEnsembleModel, NaiveSeasonal, RegressionEnsembleModel
from darts.utils.likelihood_models.torch import GaussianLikelihood, QuantileRegression

from darts_msft import MSFTFoundationModel
from tests.model_fixtures import (
    CONTEXT,
    HORIZON,
    LEARNS,
    LONG,
    changed,
    fitted,
    make_model,
    parameters_snapshot,
    values_of,
    wave,
)

# ---------------------------------------------------------------- refits


def always(**_: Any) -> bool:
    return True


@pytest.mark.parametrize(("method", "retrain"), [("msft", True), ("zero_shot", 5), ("scratch", always)])
def test_an_unfitted_model_is_not_refitted_along_a_series(tiny_moirai: str, method: str, retrain: Any) -> None:
    model = make_model(tiny_moirai, method=method)
    with pytest.raises(ValueError, match="retrain=False"):
        model.backtest(wave(60), start=50, retrain=retrain)
    with pytest.raises(ValueError, match="retrain=False"):
        model.historical_forecasts(wave(60), retrain=retrain)


def test_darts_default_refits_are_refused_after_a_zero_shot_forecast_too(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    model.predict(1, wave(60))
    with pytest.raises(ValueError, match="retrain=False"):
        model.backtest(wave(60), start=50)
    positional = (None, None, 1, 1, None, 0, 50, "position", 1, False)  # retrain is the last
    assert len(model.historical_forecasts(wave(60), *positional)) == 10


def test_gridsearch_refits_along_the_series(tiny_moirai: str) -> None:
    settings = make_model(tiny_moirai, num_scales=0, method="linear_probe").model_params
    grid = {name: [value] for name, value in settings.items()} | {"lr_head": [1e-2, 0.0]}
    search = {"start": -2, "start_format": "position", "forecast_horizon": 1, "random_state": 0}
    series = wave(60)
    best, found, error = MSFTFoundationModel.gridsearch(grid, series, metric=mae, **search)
    errors = []
    for rate in grid["lr_head"]:
        model = MSFTFoundationModel(**{**settings, "lr_head": rate})
        model._refits = True
        errors.append(model.backtest(series, retrain=True, metric=mae, last_points_only=False, **search))
    assert errors[0] != errors[1]
    assert error == pytest.approx(min(errors))
    assert found["lr_head"] == grid["lr_head"][int(np.argmin(errors))]
    assert type(best) is MSFTFoundationModel
    with pytest.raises(ValueError, match="retrain=False"):
        best.backtest(series, start=50)


# ---------------------------------------------------------------- ensembles


def linear(fit: bool) -> LinearRegressionModel:
    model = LinearRegressionModel(lags=8, output_chunk_length=HORIZON)
    return model.fit(wave(80)) if fit else model


@pytest.mark.parametrize(("settings", "used"), [({}, True), ({"method": "zero_shot", "likelihood": None}, False)])
def test_joins_an_ensemble_of_fitted_models(tiny_moirai: str, settings: dict[str, Any], used: bool) -> None:
    series, own, other = wave(100), make_model(tiny_moirai, **settings), linear(fit=True)
    if used:
        own.predict(1, series)
    ensemble = NaiveEnsembleModel([own, other], train_forecasting_models=False)
    alone = make_model(tiny_moirai, **settings).predict(HORIZON, series)
    expected = (values_of(alone) + values_of(other.predict(HORIZON, series))) / 2
    assert np.allclose(values_of(ensemble.predict(HORIZON, series)), expected, rtol=1e-5)
    history = ensemble.historical_forecasts(series, start=-HORIZON, start_format="position", retrain=False)
    assert len(history) == HORIZON
    assert own.fit_report is None
    assert not own.model._trainer.global_step


@pytest.mark.parametrize(("other", "used"), [(NaiveSeasonal(8), True), (linear(fit=False), False)])
def test_joins_an_ensemble_that_fits_its_members(tiny_moirai: str, other: Any, used: bool) -> None:
    series, own = wave(100), make_model(tiny_moirai, method="zero_shot")
    if used:
        own.predict(1, series)
    ensemble = NaiveEnsembleModel([own, other.untrained_model()]).fit(series)
    alone = make_model(tiny_moirai, method="zero_shot").predict(HORIZON, series)
    expected = (values_of(alone) + values_of(other.untrained_model().fit(series).predict(HORIZON))) / 2
    assert np.allclose(values_of(ensemble.predict(HORIZON)), expected, rtol=1e-5)
    assert len(ensemble.historical_forecasts(series, start=-2, start_format="position", retrain=True)) == 2


def test_joins_a_regression_ensemble_of_fitted_models(tiny_moirai: str) -> None:
    series = wave(100)
    members = [make_model(tiny_moirai, method="zero_shot"), linear(fit=True)]
    ensemble = RegressionEnsembleModel(members, regression_train_n_points=16, train_forecasting_models=False)
    forecast = ensemble.fit(series).predict(HORIZON)
    weights = ensemble.ensemble_model.model.coef_.ravel()
    own, other = (values_of(one.predict(HORIZON, series)).ravel() for one in members)
    constant = ensemble.ensemble_model.model.intercept_
    assert np.allclose(values_of(forecast).ravel(), weights[0] * own + weights[1] * other + constant, rtol=1e-4)


def test_only_an_ensemble_sees_an_unfitted_model_as_fitted(tiny_moirai: str) -> None:
    model, other = make_model(tiny_moirai), make_model(tiny_moirai, method="scratch")
    NaiveEnsembleModel([model, linear(fit=True)], train_forecasting_models=False)
    assert not model._fit_called
    with pytest.raises(ValueError, match="fitted"):  # no forecast without training
        NaiveEnsembleModel([other, linear(fit=True)], train_forecasting_models=False)


# ---------------------------------------------------------------- a fit that fails


class Breaks(pl.Callback):
    """Raises after some steps."""

    def __init__(self, after: int = 2) -> None:
        self.after, self.armed = after, True

    def on_train_batch_end(self, *args: Any) -> None:
        self.after -= 1
        if self.armed and self.after <= 0:
            raise RuntimeError("broken on purpose")


FAILURES: dict[str, tuple[Callable[[MSFTFoundationModel], Any], type[Exception]]] = {
    "short": (lambda model: model.fit(wave(20)), ValueError),
    "covariates": (lambda model: model.fit(wave(), past_covariates=wave(30)), ValueError),
    "in training": (lambda model: model.fit(wave()), RuntimeError),
    "in training of wide series": (lambda model: model.fit(wave(components=2, dtype=np.float64)), Exception),
}


@pytest.mark.parametrize(("failure", "used"), [*zip(FAILURES, (False, True, False, True), strict=True)])
def test_after_a_failed_fit_the_model_forecasts_zero_shot(tiny_moirai: str, failure: str, used: bool) -> None:
    expected = values_of(make_model(tiny_moirai, **LONG).predict(HORIZON, wave()))
    model = make_model(tiny_moirai, {"callbacks": [Breaks()]}, **LONG, **LEARNS)
    if used:
        model.predict(HORIZON, wave())
    fails, error = FAILURES[failure]
    with pytest.raises(error):
        fails(model)
    assert model.scale_weights is None  # by window, as without fit
    assert np.array_equal(values_of(model.predict(HORIZON, wave())), expected)
    with pytest.raises(ValueError, match="fit"):  # it knows no series
        model.predict(HORIZON)


class Interrupts(Breaks):
    """As Ctrl-C does."""

    def on_train_batch_end(self, *args: Any) -> None:
        self.after -= 1
        if self.armed and self.after == 0:
            raise KeyboardInterrupt


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores further interrupts for good."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("after", [2, 6])
def test_an_interrupted_fit_keeps_the_best_state(
    tiny_moirai: str, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    """An epoch has four steps."""
    train, val = wave(), wave(60, seed=1)
    stop = Interrupts(after)
    model = make_model(tiny_moirai, {"callbacks": [stop]}, n_epochs=3, **LEARNS)
    with pytest.raises(SystemExit):
        model.fit(train, val_series=val)
    if after > 4:
        expected = make_model(tiny_moirai, **LEARNS).fit(train, val_series=val)
        assert model.fit_report.kept == expected.fit_report.kept == "epoch 1"
        assert np.array_equal(values_of(model.predict(HORIZON)), values_of(expected.predict(HORIZON)))
    else:
        assert model.fit_report.kept == min(model.candidates, key=lambda one: one.score).label
        assert model.fit_report.kept.startswith("zero-shot")
    assert [one.message for one in caplog.records if "interrupted" in one.message]
    best = model.fit_report.best
    assert model.fit(train, val_series=val, epochs=1).fit_report.best <= best * (1 + 1e-5)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("trained", [False, True])
def test_without_a_score_an_interrupted_fit_leaves_the_model(
    tiny_moirai: str, caplog: pytest.LogCaptureFixture, trained: bool
) -> None:
    stop = Interrupts(2)
    stop.armed = False
    model = make_model(tiny_moirai, {"callbacks": [stop]}, **LEARNS)
    if trained:
        model.fit(wave())
    before = model.predict(HORIZON, wave())
    stop.armed, stop.after = True, 2
    with pytest.raises(SystemExit):
        model.fit(wave())
    assert np.array_equal(values_of(model.predict(HORIZON, wave())), values_of(before))
    assert len([one for one in caplog.records if "interrupted" in one.message]) == 1


@pytest.mark.parametrize("failure", FAILURES)
def test_after_a_failed_fit_a_fitted_model_forecasts_as_before(tiny_moirai: str, failure: str) -> None:
    breaks = Breaks()
    breaks.armed = False
    model = make_model(tiny_moirai, {"callbacks": [breaks]}, **LEARNS).fit(wave(), val_series=wave(60, seed=1))
    before, report, weights = model.predict(HORIZON), model.fit_report, parameters_snapshot(model)
    breaks.armed, breaks.after = True, 2
    fails, error = FAILURES[failure]
    with pytest.raises(error):
        fails(model)
    assert np.array_equal(values_of(model.predict(HORIZON)), values_of(before))
    assert not changed(weights, parameters_snapshot(model))
    assert model.fit_report is report
    breaks.armed = False
    assert changed(weights, parameters_snapshot(model.fit(wave())))  # and it trains on


# ---------------------------------------------------------------- the scales before a fit


@pytest.mark.parametrize(
    "settings",
    [
        {},
        LONG,
        {"num_scales": 0},
        {**LONG, "mixing": "first"},
        {**LONG, "likelihood": QuantileRegression([0.1, 0.5, 0.9])},
        {**LONG, "likelihood": None, "method": "zero_shot"},
        {"linear_member": True},
    ],
)
def test_scale_weights_are_known_before_the_first_forecast(tiny_moirai: str, settings: dict[str, Any]) -> None:
    model = make_model(tiny_moirai, **settings)
    before = model.scale_weights
    assert model.model is None  # nothing was loaded for it
    model.predict(1, wave())
    after = model.scale_weights
    assert (before is None) == (after is None) == (settings.get("finest_context") == 16 and "mixing" not in settings)
    if before is not None and after is not None:
        assert np.array_equal(before, after)
        assert before[0] == before.sum() == 1


@pytest.mark.parametrize("settings", [{"method": "scratch"}, {"likelihood": GaussianLikelihood()}])
def test_no_scale_weights_where_there_is_no_forecast(tiny_moirai: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fit"):
        _ = make_model(tiny_moirai, **settings).scale_weights


def test_scale_forecasts_of_several_series(tiny_moirai: str) -> None:
    model, several = fitted(tiny_moirai), [wave(60, seed=1), wave(50, seed=2)]
    found = model.scale_forecasts(several)
    assert [len(one) for one in found] == [3, 3]
    for one, own in zip(several, found, strict=True):
        assert np.array_equal(values_of(own), values_of(model.scale_forecasts(one)))


# ---------------------------------------------------------------- settings and lengths


def test_mixings_without_effect_on_points_are_refused(tiny_moirai: str) -> None:
    for mixing in ("quantile", "samples"):
        with pytest.raises(ValueError, match=f"mixing='{mixing}'.*likelihood=None"):
            make_model(tiny_moirai, likelihood=None, mixing=mixing)
    first, all_scales = (
        values_of(make_model(tiny_moirai, **LONG, likelihood=None, mixing=mixing).predict(HORIZON, wave()))
        for mixing in ("first", "mixture")
    )
    assert not np.allclose(first, all_scales)


WHOLE = CONTEXT + HORIZON
SHORT: dict[str, tuple[int, Callable[[MSFTFoundationModel, TimeSeries], Any]]] = {
    "predict": (CONTEXT, lambda model, series: model.predict(1, series)),
    "scale_forecasts": (CONTEXT, lambda model, series: model.scale_forecasts(series)),
    "fit": (WHOLE, lambda model, series: model.fit(series)),
    "validate": (WHOLE, lambda model, series: model.fit(wave(), val_series=series)),
    "historical": (
        CONTEXT + 3,
        lambda model, series: model.historical_forecasts(series, retrain=False, forecast_horizon=3),
    ),
    "historical beyond": (
        CONTEXT,
        lambda model, series: model.historical_forecasts(series, retrain=False, forecast_horizon=3, overlap_end=True),
    ),
}


@pytest.mark.parametrize("call", SHORT)
def test_a_pair_of_lengths_is_named_for_short_series_and_takes_them(tiny_moirai: str, call: str) -> None:
    length, act = SHORT[call]
    act(make_model(tiny_moirai), wave(length))  # just long enough
    pair = (CONTEXT - 1, CONTEXT)
    with pytest.raises(
        ValueError, match=rf"input_chunk_length=\(shortest, longest\), such as \({pair[0]}, {pair[1]}\)"
    ):
        act(make_model(tiny_moirai), wave(length - 1))
    act(make_model(tiny_moirai, input_chunk_length=pair), wave(length - 1))
