"""An ensemble of fitted Darts models whose weights are solved for on validation series."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries, concatenate
from darts.models.forecasting.ensemble_model import EnsembleModel
from darts.models.forecasting.forecasting_model import GlobalForecastingModel
from darts.models.forecasting.sklearn_model import SKLearnModel
from darts.utils.historical_forecasts.utils import _get_historical_forecasts_setup
from darts.utils.serialization import add_safe_globals
from darts.utils.ts_utils import series2seq
from darts.utils.utils import _build_tqdm_iterator, generate_index, n_steps_between

from darts_msft.display import one_bar
from darts_msft.hooks import DartsHooks
from darts_msft.options import check_number
from darts_msft.signatures import as_in_darts
from darts_msft.training.score import crps_products, stack_weights
from darts_msft.training.windows import spread

WINDOWS = 128  # of the validation series that weights are solved on
BATCH = 512  # windows of historical forecasts at once
STORED = (("past_covariates", "past_covariate_series"), ("future_covariates", "future_covariate_series"))
DRAWS = 64  # of each member's distribution
GIVE_POINTS = (DartsHooks, SKLearnModel)  # one sample of them is their median; of others a draw


class StackedEnsemble(EnsembleModel):
    """A mixture of fitted Darts models; each sample path comes from one of them, so its steps hang together.

    `fit` trains no member. It solves for the non-negative weights, sum 1, with the lowest CRPS on validation series, in
    closed form. They are tried on the half of the windows that they were not solved on; where the mixture is no better
    there than the best member alone, that one has all the weight. `weights` are those of the members, `scores` the
    table of what was compared.

    `predict` with `num_samples=1` gives the weighted mean of the members' points (of a member that can only draw, the
    median of 64 draws); with more, sample paths, of which each member has its share. A member that forecasts points
    counts as a distribution without spread. Covariates go to the members that were fitted with them, and to unfitted
    ones that can hear them. Backtests are of the ensemble as it is, with `retrain=False`.

    Parameters
    ----------
    forecasting_models
        Fitted global models of Darts, or unfitted ones of ours, which forecast zero-shot; their lengths may differ.

    Raises
    ------
    ValueError
        For a member that is no global model or was not fitted.
    """

    def __init__(self, forecasting_models: list[GlobalForecastingModel]) -> None:
        super().__init__(
            forecasting_models=forecasting_models,
            ensemble_model=None,
            train_num_samples=1,
            train_samples_reduction=None,
            train_forecasting_models=False,
            train_n_points=0,
            show_warnings=False,
        )
        self.weights: np.ndarray | None = None
        self.scores: pd.DataFrame | None = None

    def fit(
        self,
        series: TimeSeries | Sequence[TimeSeries],
        past_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
        future_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
        horizon: int | None = None,
        verbose: bool | None = None,
    ) -> StackedEnsemble:
        """Solves for the weights on validation series, each with the steps that members look back at its beginning.

        `horizon` is that of the compared forecasts, in steps; None: the least `output_chunk_length` of the members.
        At most 128 windows are compared, evenly from all positions of all series. Series and components count alike.

        Windows with nothing observed to compare are left out. Raises ValueError for another horizon than one step or
        more, and where fewer than two windows are left.
        """
        if horizon is not None:
            check_number("horizon", horizon, 1, integer=True)
        super().fit(series, past_covariates, future_covariates, verbose)
        every = list(series2seq(series))
        if horizon is None:
            horizon = min(model.output_chunk_length or 1 for model in self.forecasting_models)
        steps = int(horizon)
        windows = self._windows(every, steps + self.output_chunk_shift)
        given = {
            name: [own[number] for number, _ in windows]
            for name, own in (
                ("past_covariates", series2seq(past_covariates)),
                ("future_covariates", series2seq(future_covariates)),
            )
            if own is not None
        }
        forms = self._forms(every, windows, steps, given)
        self.weights, self.scores = self._solve(forms)
        return self

    def _windows(self, every: list[TimeSeries], ahead: int) -> list[tuple[int, int]]:
        """Series and length of the past of each window: all of one series first, in the order of time."""
        least = max(-(model.extreme_lags[0] or -1) for model in self.forecasting_models)
        rooms = [max(len(one) - least - ahead + 1, 0) for one in every]
        ends = np.cumsum([0, *rooms])
        if ends[-1] < 2:
            raise ValueError(
                f"the longest series has {max(map(len, every))} steps, which are {ends[-1]} windows: the members look "
                f"back {least} steps and ahead {ahead}; give at least {least + ahead + 1} steps"
            )
        places = np.array(spread(int(ends[-1]), WINDOWS))
        numbers = np.searchsorted(ends, places, side="right") - 1
        return [(int(number), int(least + place - ends[number])) for number, place in zip(numbers, places, strict=True)]

    def _forms(
        self, every: list[TimeSeries], windows: list[tuple[int, int]], steps: int, given: dict[str, list[TimeSeries]]
    ) -> np.ndarray:
        """Each window's CRPS in units of its series, a quadratic form in the weights; (windows, members, members)."""
        pasts = [every[number][:past] for number, past in windows]
        drawn = [self._draws(model, pasts, steps, given) for model in self.forecasting_models]
        units, forms = [unit_of(one, steps) for one in every], []
        for index, (number, _) in enumerate(windows):
            forecasts = [own[index] for own in drawn]
            truth = torch.tensor(every[number].slice_intersect(forecasts[0]).values(), dtype=torch.float64)
            samples = torch.stack([torch.tensor(_repeated(one, DRAWS), dtype=torch.float64) for one in forecasts])
            products = crps_products(samples.movedim(-1, 1), truth) / torch.tensor(units[number])[:, None, None]
            forms.append(products[truth.isfinite()].mean(dim=0).numpy())
        compared = [form for form in forms if np.isfinite(form).all()]
        if len(compared) < 2:
            raise ValueError(
                f"{len(compared)} of {len(forms)} windows of the validation series can be compared, as values to "
                "forecast, or members' forecasts, are missing (NaN) in the others: give series in which two can"
            )
        return np.stack(compared)

    @staticmethod
    def _draws(model: Any, pasts: list[TimeSeries], steps: int, given: dict[str, Any]) -> list[TimeSeries]:
        own = _taken(model, given)
        count = DRAWS if model.supports_probabilistic_prediction else 1
        try:
            return model.predict(steps, pasts, num_samples=count, verbose=False, show_warnings=False, **own)
        except ValueError as error:
            if not any(np.isnan(one.values(copy=False)).any() for one in pasts):
                raise
            raise ValueError(
                f"{type(model).__name__} doesn't forecast validation series with missing values (NaN): fill them, or "
                "leave that member out"
            ) from error

    def _solve(self, forms: np.ndarray) -> tuple[np.ndarray, pd.DataFrame]:
        """The weights, and the table of scores."""
        half = len(forms) // 2
        across, alone = [], []
        for own, other in ((forms[:half], forms[half:]), (forms[half:], forms[:half])):
            weights = _weights(own)
            across += (weights @ other @ weights).tolist()
            alone += other[:, (best := own.mean(axis=0).diagonal().argmin()), best].tolist()
        weights, singles = _weights(forms), forms.mean(axis=0).diagonal()
        kept = float(np.mean(across)) < float(np.mean(alone))
        if not kept:
            weights = np.eye(len(singles))[singles.argmin()]
        names = [f"{number}: {type(model).__name__}" for number, model in enumerate(self.forecasting_models)]
        table = pd.DataFrame({"member": names, "score": singles, "weight": weights})
        last = {"best member, on the other half": np.mean(alone), "mixture, on the other half": np.mean(across)}
        rest = pd.DataFrame({"member": list(last), "score": list(last.values()), "weight": [float("nan")] * 2})
        return weights, pd.concat([table, rest], ignore_index=True)

    # ---------------------------------------------------------------- what Darts asks for

    @property
    def supports_probabilistic_prediction(self) -> bool:
        return any(model.supports_probabilistic_prediction for model in self.forecasting_models)

    @as_in_darts
    def historical_forecasts(self, series: Any, *args: Any, **kwargs: Any) -> Any:
        """Darts' `historical_forecasts` (which `backtest` and `residuals` ask for), for `retrain=False` alone."""
        call = signature(EnsembleModel.historical_forecasts).bind(self, series, *args, **kwargs)
        call.apply_defaults()
        if call.arguments["retrain"]:
            raise ValueError(
                f"retrain={call.arguments['retrain']!r} is not allowed: an ensemble's members are not trained with it; "
                "pass retrain=False for forecasts of the fitted ensemble"
            )
        with one_bar():  # Darts', if it is asked for, and none for each batch
            return super().historical_forecasts(*call.args[1:], **call.kwargs)

    @property
    def supports_optimized_historical_forecasts(self) -> bool:
        return all(model.extreme_lags[0] is not None for model in self.forecasting_models)

    def _check_optimizable_historical_forecasts(self, retrain: Any) -> bool:
        return not retrain

    def _optimized_historical_forecasts(
        self,
        series: Sequence[TimeSeries],
        past_covariates: Sequence[TimeSeries] | None = None,
        future_covariates: Sequence[TimeSeries] | None = None,
        last_points_only: bool = True,
        forecast_horizon: int = 1,
        stride: int = 1,
        num_samples: int = 1,
        verbose: bool = False,
        predict_likelihood_parameters: bool = False,
        random_state: int | None = None,
        predict_kwargs: dict[str, Any] | None = None,
        **where: Any,
    ) -> list[Any]:
        """Of each series: the windows that Darts would forecast one by one, by each member in batches."""
        asked = {**where, "forecast_horizon": forecast_horizon, "stride": stride}
        given = {"past_covariates": past_covariates, "future_covariates": future_covariates}
        windows = []
        for index, one in enumerate(series):
            own = {name: None if every is None else every[index] for name, every in given.items()}
            windows += [(index, end) for end in self._ends(one, index, own, asked)]
        back = max(-model.extreme_lags[0] for model in self.forecasting_models)
        given |= {name: [getattr(self, stored)] * len(series) for name, stored in STORED if given[name] is None}
        found: list[list[TimeSeries]] = [[] for _ in series]
        starts = range(0, len(windows), BATCH)
        for start in _build_tqdm_iterator(starts, verbose, total=len(starts), desc="historical forecasts"):
            batch = windows[start : start + BATCH]
            forecasts = self._predict_wrapper(
                forecast_horizon,
                [series[index][max(end - back, 0) : end] for index, end in batch],
                **{name: _of(every, [index for index, _ in batch]) for name, every in given.items()},
                num_samples=num_samples,
                predict_likelihood_parameters=predict_likelihood_parameters,
                show_warnings=where["show_warnings"] and not start,
                random_state=None if random_state is None else random_state + start,
                **(predict_kwargs or {}),
            )
            for (index, _), forecast in zip(batch, forecasts, strict=True):
                found[index].append(forecast[-1:] if last_points_only else forecast)
        return [_joined(own, stride) for own in found] if last_points_only else found

    def _ends(self, series: TimeSeries, index: int, covariates: dict[str, Any], asked: dict[str, Any]) -> range:
        """How many steps of a series each window has behind it."""
        (first, last), *_ = _get_historical_forecasts_setup(
            self, series, series_idx=index, retrain=False, train_length=None, val_length=0, **covariates, **asked
        )
        start = series.start_time()
        begin, end = (n_steps_between(time, start, series.freq) for time in (first, last))
        return range(begin, end + 1, asked["stride"])

    def _make_multiple_predictions(
        self,
        n: int,
        series: Any = None,
        past_covariates: Any = None,
        future_covariates: Any = None,
        num_samples: int = 1,
        predict_likelihood_parameters: bool = False,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> Any:
        """The members' forecasts, side by side; for points with the median of each member that can draw alone."""
        every = {"past_covariates": past_covariates, "future_covariates": future_covariates}
        options = {"random_state": random_state, "verbose": verbose}
        found = []
        for model in self.forecasting_models:
            draws, given = model.supports_probabilistic_prediction, _taken(model, every)
            if num_samples == 1 and draws and not isinstance(model, GIVE_POINTS):
                seed = 0 if random_state is None else random_state  # a point doesn't differ from call to call
                many = {**options, "num_samples": DRAWS, "random_state": seed}
                found.append(_medians(model._predict_wrapper(n, series, **given, **many)))
            else:
                count = num_samples if draws else 1
                found.append(model._predict_wrapper(n, series, **given, **options, num_samples=count))
        return self._stack_ts_seq(found) if isinstance(series, TimeSeries) else self._stack_ts_multiseq(found)

    def _stack_ts_seq(self, predictions: Sequence[TimeSeries]) -> TimeSeries:
        most = max(one.n_samples for one in predictions)
        return concatenate([one.with_values(_repeated(one, most)) for one in predictions], axis=1)

    def ensemble(
        self,
        predictions: Any,
        series: Any,
        n: int,
        num_samples: int = 1,
        predict_likelihood_parameters: bool = False,
        random_state: int | None = None,
        verbose: bool | None = None,
    ) -> Any:
        """The mixture of the members' forecasts, which Darts gives side by side."""
        if predict_likelihood_parameters:
            raise ValueError("predict_likelihood_parameters=True: a mixture of models has none; take num_samples")
        random = np.random.default_rng(random_state)
        if isinstance(predictions, TimeSeries):
            return self._mixed(predictions, series, random)
        return [self._mixed(one, own, random) for one, own in zip(predictions, series, strict=True)]

    def _mixed(self, forecasts: TimeSeries, series: TimeSeries, random: np.random.Generator) -> TimeSeries:
        assert self.weights is not None
        values = forecasts.all_values(copy=False)
        members = np.stack(np.split(values, len(self.weights), axis=1))  # (members, steps, components, samples)
        count = values.shape[-1]
        if count == 1:
            mixed = np.tensordot(self.weights, members, axes=1)
        else:
            owners = random.permutation(np.repeat(np.arange(len(self.weights)), shares(self.weights, count)))
            mixed = np.moveaxis(members[owners, :, :, np.arange(count)], 0, -1)
        return TimeSeries(
            times=forecasts.time_index,
            values=mixed,
            components=series.components,
            static_covariates=series.static_covariates,
            hierarchy=series.hierarchy,
            metadata=series.metadata,
        )


def _of(every: Sequence[TimeSeries] | None, indices: list[int]) -> list[TimeSeries] | None:
    return None if every is None or every[0] is None else [every[index] for index in indices]


def _joined(points: list[TimeSeries], stride: int) -> TimeSeries:
    """Forecasts of one step as a series."""
    first = points[0]
    times = generate_index(first.start_time(), length=len(points), freq=first.freq * stride, name=first.time_index.name)
    return first.with_times_and_values(times, np.concatenate([one.all_values(copy=False) for one in points]))


def shares(weights: np.ndarray, count: int) -> np.ndarray:
    """How many of `count` samples each member has: by its weight, the rest to the largest remainders."""
    exact = weights * count
    whole = np.floor(exact + 1e-9).astype(int)
    whole[np.argsort(whole - exact, kind="stable")[: count - whole.sum()]] += 1
    return whole


def _weights(forms: np.ndarray) -> np.ndarray:
    return stack_weights(torch.from_numpy(forms.mean(axis=0))).numpy()


def _taken(model: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Of these covariates those that a member was fitted with, or can hear without a fit."""
    unfitted = isinstance(model, DartsHooks) and model._fresh
    return {
        name: value
        for name, value in given.items()
        if getattr(model, f"supports_{name}") and (unfitted or getattr(model, f"uses_{name}"))
    }


def _medians(forecasts: Any) -> Any:
    """Of one series, or of each."""
    if isinstance(forecasts, TimeSeries):
        return forecasts.median(axis=2)
    return [one.median(axis=2) for one in forecasts]


def _repeated(forecast: TimeSeries, count: int) -> np.ndarray:
    """Its samples, (steps, components, count); a point is `count` times the same."""
    values = forecast.all_values(copy=False)
    return values if values.shape[-1] == count else np.repeat(values, count, axis=-1)


def unit_of(series: TimeSeries, steps: int) -> np.ndarray:
    """By component: the mean error of the value `steps` before; 1 where that is 0 or unknown."""
    values = series.values(copy=False).astype(float)
    moved = np.abs(values[steps:] - values[:-steps])
    found = np.ma.masked_invalid(moved).mean(axis=0).filled(1.0)
    return np.where(found > 0, found, 1.0)


add_safe_globals([StackedEnsemble])
