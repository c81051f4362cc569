"""The fit of the linear member, before anything is scored."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset

from darts_msft.forms import Form
from darts_msft.linear.covariates import with_effects
from darts_msft.linear.equations import Frame
from darts_msft.linear.fitting import fit_linear
from darts_msft.linear.gaps import BRIDGED, bridge_array
from darts_msft.linear.member import LinearMember
from darts_msft.linear.seasons import candidate_lookbacks, find_season
from darts_msft.linear.windows import Windows, cut_windows, spreads_of
from darts_msft.training.windows import FitWindows

logger = logging.getLogger("darts_msft")

VALIDATION_WINDOWS = 256  # that its look-backs and penalties are chosen on
MOST_UNKNOWN = 0.05  # of the steps, that a warning leaves out
UNEQUAL = 3.0  # times as large are large series as small ones, in a warning
JUDGED_WINDOWS = 64  # that say how much of the past there is
MOST_SERIES = 256  # that it learns from: each takes a tenth of a second


def fit_linear_member(module: Any, data: Any, solved: dict[str, Any] | None = None) -> None:
    """From all windows of the training series, with choices on the validation series.

    A module that was trained keeps what it has: that is the state that the fit compares with. Without windows of
    series, or where these are too short or don't vary, there is none. `solved`, which is filled, keeps the solution for
    other models that are fitted to the same data.
    """
    if module.linear is None or (module.kind is Form.TRAINED and not module.linear.absent):
        return
    if solved:
        module.linear.load_state_dict(solved)
        return
    datasets = (data.train_dataset, data.val_dataset)
    if not all(isinstance(one, SequentialTorchTrainingDataset) for one in datasets):
        logger.warning("no linear member: the training and validation windows are not those of fit(series, val_series)")
        return
    train, val = (_values(one.series) for one in datasets)
    known, val_known = (_known(one) for one in datasets)
    every = math.ceil(len(train) / MOST_SERIES)
    train, known = train[::every], None if known is None else known[::every]
    freq = next(iter(_as_list(data.train_dataset.series))).freq
    horizon, shift = module.output_chunk_length, module.output_chunk_shift
    longest, whole = _usual_lengths(data.val_dataset)
    if longest < whole:
        _tell_of_gaps(*(max(candidate_lookbacks(steps, find_season(freq, train))) for steps in (longest, whole)))

    def solve(train: list[np.ndarray], val: list[np.ndarray]) -> LinearMember | None:
        season = find_season(freq, train)
        lookbacks = candidate_lookbacks(longest, season)
        windows = _windows(val, lookbacks, Frame(1, horizon, shift), _positions(data.val_dataset))
        fit = fit_linear([bridge_array(one[None])[0] for one in train], horizon, lookbacks, shift, windows, season)
        return None if fit is None else fit.member

    member = solve(train, val)
    if known is not None and val_known is not None:
        _tell_of_covariates(train, [*known, *val_known])
    if member is not None and known is not None and val_known is not None:
        member = with_effects(member, solve, (train, known), (val, val_known), shift)
    if member is None:
        logger.warning("no linear member: no training series varies and has enough steps without a gap")
        return
    module.linear.load_state_dict(member.state_dict())
    if solved is not None:
        solved.update(member.state_dict())


def _usual_lengths(windows: Any) -> tuple[int, int]:
    """Steps at the end of a window that half of the validation windows have: without a long gap, and at all.

    The module doesn't weigh a member that tells fewer than the first. A model of several contexts has windows that
    are shorter than the longest: their padding is no gap.
    """
    chosen = np.unique(np.linspace(0, len(windows) - 1, JUDGED_WINDOWS).astype(int))
    pasts = [bridge_array(windows[int(index)].past_target[None])[0] for index in chosen]
    gaps = [~np.isfinite(past[::-1]) for past in pasts]
    lengths = [np.where(gap.any(axis=0), gap.argmax(axis=0), len(gap)) for gap in gaps]
    whole = [len(gap) - gap.all(axis=1)[::-1].argmin() for gap in gaps]
    return max(int(np.median(lengths)), 1), max(int(np.median(whole)), 1)


def _tell_of_gaps(found: int, possible: int) -> None:
    """A warning where they cost look-back."""
    if found < possible:
        logger.warning(
            "the linear member looks back %d steps, not %d, since most validation windows have a gap of more than %d "
            "steps before: where a gap can be filled sensibly, do so, say with "
            "darts.utils.missing_values.fill_missing_values",
            *(found, possible, BRIDGED),
        )


def _tell_of_covariates(train: list[np.ndarray], known: list[np.ndarray]) -> None:
    """Warnings where the covariates of training and validation steps, as they are given, can hardly help."""
    missing = float(np.mean(np.concatenate([np.isnan(one).any(axis=1) for one in known])))
    if missing > MOST_UNKNOWN:
        logger.warning(
            "future covariates are missing (NaN) at %.0f %% of the steps, where the linear member can't use them: fill "
            "them, such as a flag with 0",
            100 * missing,
        )
    seen = [one[:, 0][np.isfinite(one[:, 0])] for one in train]
    spreads = [spread for one in seen if len(one) and (spread := float(one.std())) > 0]
    if spreads and (factor := np.divide(*np.quantile(spreads, (0.9, 0.1)))) > UNEQUAL:
        logger.warning(
            "a covariate has one effect for all series, in their unit, but they differ in size by a factor of %.0f: "
            "give them in comparable units, say by darts.dataprocessing.transformers.Scaler",
            factor,
        )


def effects_by_name(module: Any, windows: Any) -> dict[str, tuple[float, ...]]:
    """Of the linear member: by future covariate its effect on each component; empty without a member or covariates."""
    given = getattr(windows, "future_covariates", None)
    if module.linear is None or module.linear.absent or given is None:
        return {}
    names, effects = _as_list(given)[0].components, module.linear.effects.T.tolist()
    return dict(zip(map(str, names), map(tuple, effects or [[0.0] * module.n_targets] * len(names)), strict=True))


def _as_list(series: TimeSeries | Sequence[TimeSeries]) -> Sequence[TimeSeries]:
    return [series] if isinstance(series, TimeSeries) else series


def _values(series: TimeSeries | Sequence[TimeSeries]) -> list[np.ndarray]:
    return [one.values(copy=False) for one in _as_list(series)]


def _known(windows: Any) -> list[np.ndarray] | None:
    """The future covariates at the steps of each series, NaN where they are not given; None without any."""
    if windows.future_covariates is None:
        return None
    pairs = zip(_as_list(windows.series), _as_list(windows.future_covariates), strict=True)
    return [_at_steps_of(series, covariates) for series, covariates in pairs]


def _at_steps_of(series: TimeSeries, covariates: TimeSeries) -> np.ndarray:
    found = np.full((len(series), covariates.n_components), np.nan)
    common = covariates.slice_intersect(series)
    start = series.get_index_at_point(common.start_time()) if len(common) else 0
    found[start : start + len(common)] = common.values(copy=False)
    return found


def _positions(windows: Any) -> list[int]:
    """How many steps apart the first and the last window of each series end, and one more."""
    latest = windows.latest if isinstance(windows, FitWindows) else None
    return list(latest or [windows.max_samples_per_ts * windows.stride] * len(_as_list(windows.series)))


def _windows(
    series: list[np.ndarray], lookbacks: Sequence[int], shortest: Frame, positions: list[int]
) -> Windows | None:
    """Evenly from the last positions of each series, with the longest look-back that any of them has room for.

    These are the windows that are scored. Before them, a short look-back has others, which forecast steps of the
    training series.
    """
    longest = max(map(len, series))
    fitting = [frame for lookback in lookbacks if (frame := shortest._replace(lookback=lookback)).length <= longest]
    if not fitting:
        return None
    frame = max(fitting)
    scored = [one[-(count - 1 + frame.length) :] for one, count in zip(series, positions, strict=True)]
    found = cut_windows(scored, frame, VALIDATION_WINDOWS, [spreads_of(one) for one in series])
    return found._replace(past=bridge_array(found.past))  # of each window, which knows nothing of its future
