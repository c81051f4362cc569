"""`StackedEnsemble`: its weights against those by hand, its samples against its members'."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from darts import TimeSeries
from darts.models import DLinearModel, LinearRegressionModel
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import CONTEXT, HORIZON, TRAINER, make_model, wave

from darts_msft import StackedEnsemble
from darts_msft.stacking import shares


def regression(lags: int, train: TimeSeries) -> LinearRegressionModel:
    return LinearRegressionModel(lags=lags, output_chunk_length=HORIZON).fit(train)


def stacked(monkeypatch: pytest.MonkeyPatch, errors: list[np.ndarray]) -> StackedEnsemble:
    """Of members of points that err by so much, in each window of 70 (at most 128 are compared, so all are)."""
    series = wave(32 + HORIZON + 69)
    members = [regression(32, series) for _ in errors]
    given = iter(errors)

    def draws(model: object, pasts: list[TimeSeries], steps: int, covariates: object) -> list[TimeSeries]:
        own = next(given)
        truths = [series[len(past) : len(past) + steps] for past in pasts]
        return [truth + float(error) for truth, error in zip(truths, own, strict=True)]

    monkeypatch.setattr(StackedEnsemble, "_draws", staticmethod(draws))
    return StackedEnsemble(members).fit(series)


def test_weights_of_two_points_on_both_sides_of_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of 1 below and 2 above: the CRPS is w² + 2 (1 - w)², least at w = 2/3: 2/3 of the better's."""
    ensemble = stacked(monkeypatch, [np.full(70, -1.0), np.full(70, 2.0)])
    np.testing.assert_allclose(ensemble.weights, [2 / 3, 1 / 3], atol=1e-4)
    assert ensemble.scores is not None
    scores = ensemble.scores["score"].to_numpy()
    np.testing.assert_allclose(scores[1] / scores[0], 2, rtol=1e-4)
    np.testing.assert_allclose(scores[3] / scores[2], 2 / 3, rtol=1e-4)


def test_weights_that_fail_on_the_other_half_give_way_to_the_best_member(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second member is right in the first half and far off in the second; the first is nearly right in both."""
    halves = np.repeat([0.0, 9.0], 35)
    ensemble = stacked(monkeypatch, [np.full(70, 0.5), halves])
    np.testing.assert_array_equal(ensemble.weights, [1, 0])


def test_a_member_that_is_right_has_nearly_all_the_weight_and_the_table_says_so(tiny_moirai: str) -> None:
    clean = wave(300)
    right, wrong = regression(32, clean), make_model(tiny_moirai, method="zero_shot")
    ensemble = StackedEnsemble([wrong, right]).fit(clean)
    assert ensemble.weights is not None
    assert ensemble.weights[1] > 0.85  # it is a point: a little spread helps
    assert ensemble.scores is not None
    scores = ensemble.scores.set_index("member")["score"]
    assert scores.iloc[1] < 0.5 * scores.iloc[0]


def test_half_of_the_paths_are_each_member_s_and_whole(tiny_moirai: str) -> None:
    """Two members of points, one step apart: a path that changed owners would be neither."""
    series = wave(120)
    low, high = regression(8, series), regression(8, series.map(lambda values: values + 100))
    ensemble = StackedEnsemble([low, high]).fit(series)
    ensemble.weights = np.array([0.25, 0.75])
    own = make_model(tiny_moirai, method="zero_shot")  # so that samples may be asked for
    three = StackedEnsemble([low, high, own]).fit(series)
    three.weights = np.array([0.25, 0.75, 0])
    paths = three.predict(HORIZON, series, num_samples=40, random_state=0).all_values()[:, 0]
    points = [model.predict(HORIZON, series).values()[:, 0] for model in (low, high)]
    owners = [[np.allclose(path, point, rtol=1e-5) for point in points] for path in paths.T]
    assert np.sum(owners, axis=0).tolist() == [10, 30]
    mixed = ensemble.predict(HORIZON, series).values()[:, 0]
    np.testing.assert_allclose(mixed, 0.25 * points[0] + 0.75 * points[1], rtol=1e-5)


def test_one_sample_is_the_median_of_a_member_that_can_only_draw() -> None:
    series = wave(120)
    member = DLinearModel(16, HORIZON, n_epochs=1, likelihood=GaussianLikelihood(), pl_trainer_kwargs=TRAINER)
    ensemble = StackedEnsemble([member.fit(series), regression(8, series)]).fit(series)
    ensemble.weights = np.array([1.0, 0.0])
    point, again = (ensemble.predict(HORIZON, series).values()[:, 0] for _ in range(2))
    np.testing.assert_array_equal(point, again)
    mean, spread = np.split(member.predict(HORIZON, series, predict_likelihood_parameters=True).values(), 2, axis=1)
    assert (np.abs(point - mean[:, 0]) / spread[:, 0]).max() < 0.6  # a median of 64 draws errs by 0.16
    (listed,) = ensemble.predict(HORIZON, [series])
    np.testing.assert_allclose(listed.values()[:, 0], point, rtol=1e-5)


def test_covariates_go_to_those_that_were_fitted_with_them_or_not_at_all(tiny_moirai: str) -> None:
    series, past = wave(120), wave(120, seed=3)
    without, given, fresh = (make_model(tiny_moirai, method="zero_shot") for _ in range(3))
    lags = {"lags": 8, "output_chunk_length": HORIZON}
    members = [
        DLinearModel(16, HORIZON, n_epochs=1, pl_trainer_kwargs=TRAINER).fit(series),
        LinearRegressionModel(**lags, lags_past_covariates=8).fit(series, past_covariates=past),
        without.fit(series),
        given.fit(series, past_covariates=past),
        fresh,
    ]
    ensemble = StackedEnsemble(members).fit(series, past_covariates=past)
    for number, (model, hears) in enumerate(zip(members, [False, True, False, True, True], strict=True)):
        ensemble.weights = np.eye(5)[number]
        found = ensemble.predict(HORIZON, series, past_covariates=past).values()
        own = model.predict(HORIZON, series, past_covariates=past if hears else None).values()
        np.testing.assert_allclose(found, own, rtol=1e-5)


def test_backtests_are_of_the_ensemble_as_it_is() -> None:
    series = wave(120)
    ensemble = StackedEnsemble([regression(8, series), regression(16, series)]).fit(series)
    for asked in (ensemble.historical_forecasts, ensemble.backtest, ensemble.residuals):
        with pytest.raises(ValueError, match=r"retrain=True is not allowed.*pass retrain=False"):
            asked(series, forecast_horizon=HORIZON)
    options = {"start": -HORIZON, "start_format": "position", "forecast_horizon": HORIZON, "last_points_only": False}
    (found,) = ensemble.historical_forecasts(series, retrain=False, **options)
    np.testing.assert_allclose(found.values(), ensemble.predict(HORIZON, series[:-HORIZON]).values(), rtol=1e-5)
    errors = ensemble.residuals(series, retrain=False, **options)
    np.testing.assert_allclose(errors[0].values(), (series[-HORIZON:] - found).values(), atol=1e-5)
    assert ensemble.backtest(series, retrain=False, **options) > 0


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"start": -20, "start_format": "position", "stride": 3, "overlap_end": True},
        {"last_points_only": False, "stride": 7, "forecast_horizon": HORIZON + 2},
        {"last_points_only": False, "start": 0.8},
    ],
)
def test_historical_forecasts_at_once_are_those_of_window_by_window(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object]
) -> None:
    monkeypatch.setattr("darts_msft.stacking.BATCH", 16)
    series, past = [wave(60), wave(75, seed=1)], [wave(80, seed=3), wave(90, seed=4)]
    members = [
        make_model(tiny_moirai, method="zero_shot").fit(series),
        LinearRegressionModel(8, 8, output_chunk_length=HORIZON).fit(series, past_covariates=past),
    ]
    ensemble = StackedEnsemble(members).fit(series, past_covariates=past)
    ensemble.weights = np.array([0.4, 0.6])
    options = {"past_covariates": past, "retrain": False, "forecast_horizon": HORIZON, **asked}
    found = ensemble.historical_forecasts(series, **options)
    single = ensemble.historical_forecasts(series, enable_optimization=False, **options)
    for own, one in zip(found, single, strict=True):
        pairs = [(own, one)] if isinstance(own, TimeSeries) else zip(own, one, strict=True)
        for at_once, alone in pairs:
            assert at_once.time_index.equals(alone.time_index)
            np.testing.assert_allclose(at_once.values(), alone.values(), rtol=1e-4, atol=1e-5)
    many = ensemble.historical_forecasts(series, num_samples=9, **options)
    first, like = (every[0] if isinstance(every[0], TimeSeries) else every[0][0] for every in (many, found))
    assert first.time_index.equals(like.time_index)
    assert first.n_samples == 9
    assert (first.all_values().std(axis=2) > 0).all()


def test_many_series_and_a_saved_one(tmp_path: Path, tiny_moirai: str) -> None:
    every = [wave(90, components=2), wave(100, components=2, seed=1)]
    members = [make_model(tiny_moirai, method="zero_shot"), regression(8, every[0])]
    ensemble = StackedEnsemble(members).fit(every)
    found = ensemble.predict(HORIZON, every, num_samples=7, random_state=0)
    assert [one.all_values().shape for one in found] == 2 * [(HORIZON, 2, 7)]
    assert found[1].start_time() == every[1].end_time() + every[1].freq
    assert list(found[0].components) == ["0", "1"]
    ensemble.save(str(tmp_path / "ensemble.pkl"))
    again = StackedEnsemble.load(str(tmp_path / "ensemble.pkl"))
    np.testing.assert_array_equal(again.weights, ensemble.weights)
    point, same = (model.predict(HORIZON, every[0]).values() for model in (ensemble, again))
    np.testing.assert_allclose(point, same)


def test_missing_values_are_not_counted(tiny_moirai: str) -> None:
    series = wave(200)
    values = series.values().copy()
    values[150::7] = np.nan
    members = [make_model(tiny_moirai, method="zero_shot"), make_model(tiny_moirai, method="zero_shot", num_scales=0)]
    ensemble = StackedEnsemble(members).fit(series.with_values(values))
    assert np.isfinite(ensemble.weights).all()


def test_missing_values_that_leave_nothing_to_compare_are_told_of(tiny_moirai: str) -> None:
    series, own = wave(100), make_model(tiny_moirai, method="zero_shot")
    values = series.values().copy()
    values[CONTEXT + 1 :] = np.nan
    with pytest.raises(ValueError, match=r"1 of 61 windows of the validation series can be compared"):
        StackedEnsemble([own]).fit(series.with_values(values))
    with pytest.raises(ValueError, match=r"LinearRegressionModel .* missing values"):
        StackedEnsemble([regression(8, series)]).fit(series.with_values(values))


@pytest.mark.parametrize("horizon", [0, -3, 1.5])
def test_a_horizon_is_a_number_of_steps(horizon: float) -> None:
    with pytest.raises(ValueError, match=f"horizon={horizon} is not allowed"):
        StackedEnsemble([regression(8, wave())]).fit(wave(), horizon=horizon)  # type: ignore[arg-type]


def test_series_that_are_too_short_are_named(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=f"{CONTEXT + HORIZON} steps.* give at least {CONTEXT + HORIZON + 1}"):
        StackedEnsemble([make_model(tiny_moirai, method="zero_shot")]).fit(wave(CONTEXT + HORIZON))


def test_likelihood_parameters_are_refused(tiny_moirai: str) -> None:
    ensemble = StackedEnsemble([make_model(tiny_moirai, method="zero_shot")]).fit(wave(100))
    with pytest.raises(ValueError, match="predict_likelihood_parameters"):
        ensemble.predict(HORIZON, wave(100), predict_likelihood_parameters=True)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.0, 0.999, 0.001], [1.0]])
def test_shares_add_up_and_follow_the_weights(weights: list[float]) -> None:
    for count in (1, 2, 7, 100):
        found = shares(np.array(weights), count)
        assert found.sum() == count
        assert (abs(found - count * np.array(weights)) < 1).all()
        assert all(a <= b for (_, a), (_, b) in pairwise(sorted(zip(weights, found.tolist(), strict=True))))
