"""The windows that a fit trains and scores on: of all times, by seed and epoch alone, so that a resumed fit agrees."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.models.forecasting.torch_forecasting_model import TorchDataModule
from darts.utils.data.torch_datasets.training_dataset import (
    SequentialTorchTrainingDataset,
    ShiftedTorchTrainingDataset,
)
from torch.utils.data import DataLoader, DistributedSampler

from darts_msft.linear.seasons import find_season
from darts_msft.training.validation_windows import located_loader

logger = logging.getLogger("darts_msft")

WINDOWS_PER_EPOCH = 512  # by default
VALIDATION_WINDOWS = 256  # that every state is scored on: fewer choose among epochs by chance
VALIDATION_FORECASTS = 1792  # of one component each: of wider series fewer windows are scored, and fewer still
UNTRAINED_FORECASTS = 1024  # where there are weights alone to choose: as good on ETT as with 1792, within 0.15 %; but
LEAST_VALIDATION_WINDOWS = 48  # with which weights on Weather are as good as with all, within 0.5 %
ALIKE = 1e-2  # relative difference of values that were rounded, or scaled anew
MOST_COMPARED = 1024  # pairs of a training and a validation series
SEASON_SERIES = 16  # in which a season is looked for
GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, fill the unit interval evenly


class FitWindows(SequentialTorchTrainingDataset):
    """Windows of the series that `fit` was given; a dataset that a user brings is not thinned out.

    `latest` says how many of each series there are, from its end; they come again where others have more.
    """

    latest: Sequence[int] | None = None  # as many of all

    def __getitem__(self, index: int) -> Any:
        if self.latest is not None:
            series, place = divmod(index, self.max_samples_per_ts)
            index = series * self.max_samples_per_ts + place % self.latest[series]
        return super().__getitem__(index)


def windows_of(
    model: Any,
    series: Sequence[TimeSeries],
    weight: Any,
    most: int | None,
    stride: int,
    labels: bool,
    covariates: tuple[Any, Any] = (None, None),
) -> FitWindows:
    """Windows of every `stride`-th position of each series, with what follows them if they have `labels`.

    At most the latest `most` of each series, if given; a shorter series' windows come again and again, so that all
    series have as many. `covariates` are the past and the future ones.
    """
    return FitWindows(
        series=series,
        past_covariates=covariates[0],
        future_covariates=covariates[1],
        sample_weight=weight,
        input_chunk_length=(model.min_input_chunk_length, model.input_chunk_length),
        output_chunk_length=model.output_chunk_length if labels else 0,
        output_chunk_shift=model.output_chunk_shift if labels else 0,
        stride=stride,
        max_samples_per_ts=most,
        use_static_covariates=model.uses_static_covariates,
    )


def scored_windows(
    model: Any, windows: SequentialTorchTrainingDataset, train: TimeSeries | Sequence[TimeSeries], weight: Any
) -> FitWindows:
    """The validation windows that Darts made, with labels, and over the same time at every position.

    Darts gives them the training windows' stride, and no labels where nothing is trained. Validation series may begin
    with steps of the training series `train`; those that are forecast come after these, if there are such windows: with
    a short context of several there are others, which would judge by what was learned.
    """
    most, known = windows.max_samples_per_ts * windows.stride, [train] if isinstance(train, TimeSeries) else train
    new = [steps - model.output_chunk_length + 1 for steps in _steps_unseen_of_each(known, windows.series)]
    if lacking := [index for index, count in enumerate(new) if count < 1]:
        logger.warning(
            "%d of %d validation series, the first is number %d, have fewer steps after the training series than the "
            "horizon of %d: the fit is judged by steps that it learned from; give series that go on for longer",
            *(len(lacking), len(new), lacking[0], model.output_chunk_length),
        )
    latest = [min(most, count) if count > 0 else most for count in new]
    covariates = windows.past_covariates, windows.future_covariates
    found = windows_of(model, windows.series, weight, max(latest), stride=1, labels=True, covariates=covariates)
    found.latest = [min(count, found.max_samples_per_ts) for count in latest]
    return found


def _steps_unseen_of_each(train: Sequence[TimeSeries], val: Sequence[TimeSeries]) -> list[int]:
    """Where they are not as many, each is compared with all, unless these are many."""
    if len(train) == len(val):
        return list(map(_steps_unseen, train, val))
    compared = train if len(train) * len(val) <= MOST_COMPARED else []
    return [min((_steps_unseen(one, series) for one in compared), default=len(series)) for series in val]


def _steps_unseen(train: TimeSeries, val: TimeSeries) -> int:
    """Steps of a validation series after those with which its training series ends; all where it has none of them."""
    if train.freq != val.freq or not len(seen := val.slice_intersect(train)):
        return len(val)
    if train.n_components != val.n_components:
        return len(val)
    ours, theirs = seen.values(copy=False), train.slice_intersect(val).values(copy=False)
    seen_values = ours[np.isfinite(ours)]
    atol = ALIKE * float(seen_values.std()) if len(seen_values) else 0.0
    alike = np.isclose(ours, theirs, rtol=ALIKE, atol=atol, equal_nan=True)
    return int((val.time_index > seen.end_time()).sum()) if alike.mean() > 0.5 else len(val)


def spread(total: int, count: int, parts: int = 1) -> list[int]:
    """Ascending: `count` of `total` positions, or all where there are no more; evenly, also modulo any season.

    As many, give or take one, from each of the equal `parts` that the positions are made of (the series); in a part one
    from each of equal slices, at a place in it that differs from slice to slice.
    """
    count = min(count, total)
    places = np.arange(1, count + 1) * GOLDEN % 1
    each = np.split(places, np.arange(1, parts) * count // parts)
    size = total // parts
    return np.concatenate([part * size + _one_a_slice(size, own) for part, own in enumerate(each)]).tolist()


def spread_over(windows: Any, count: int) -> list[int]:
    """At most `count` of a dataset's windows, as `spread` has it; its series are as equal parts."""
    known = isinstance(windows, ShiftedTorchTrainingDataset)
    return spread(len(windows), count, len(windows) // windows.max_samples_per_ts if known else 1)


def windows_to_score(components: int, trains: bool = True) -> int:
    """At most so many: the cost of a window is that of its components, each of which is a forecast to judge by."""
    forecasts = VALIDATION_FORECASTS if trains else UNTRAINED_FORECASTS
    return min(VALIDATION_WINDOWS, max(LEAST_VALIDATION_WINDOWS, forecasts // components))


def draw(total: int, count: int, seed: int) -> list[int]:
    """`count` of `total` positions, or all where there are no more: a random one from each of equal slices."""
    if count >= total:
        return list(range(total))
    random = np.random.default_rng(seed)
    turn = random.integers(total)  # so that every position is as likely, also where slices differ by one
    return ((_one_a_slice(total, random.random(count)) + turn) % total).tolist()


def _one_a_slice(total: int, places: np.ndarray) -> np.ndarray:
    """The position at each of `places` in [0, 1) in its slice of `total` positions."""
    bounds = np.arange(len(places) + 1) * total // max(len(places), 1)
    return bounds[:-1] + (places * np.diff(bounds)).astype(int)


class EpochSampler(DistributedSampler[int]):
    """Other windows every epoch, in an order of their own; dealt round-robin to processes.

    The first are repeated to even out the last round.
    """

    def __init__(self, total: int, count: int, world: int, rank: int, seed: int) -> None:
        super().__init__(range(min(count, total)), world, rank, shuffle=True, seed=seed)  # type: ignore[arg-type]
        self.total, self.count = total, count

    def __iter__(self) -> Iterator[int]:
        windows = draw(self.total, self.count, self.seed + self.epoch)
        return (windows[index] for index in super().__iter__())


class FitData(TorchDataModule):
    """Darts' data module with seeded samplers for its own; samplers that a user brings stay.

    An epoch has `windows_per_epoch` training windows (None: all), and validation is on at most `windows_to_score`, the
    same in every epoch, in the order of the dataset. Of a user's own datasets all windows are used. Outside a
    trainer the loaders are Darts' own. `trains` says whether there are epochs.
    """

    def __init__(
        self, data: TorchDataModule, seed: Callable[[], int], windows_per_epoch: int | None, trains: bool = True
    ) -> None:
        options = {**data.dataloader_kwargs, "shuffle": data.shuffle, "batch_size": data.batch_size}
        super().__init__(data.train_dataset, data.val_dataset, dataloader_kwargs=options)
        self.seed = seed  # a resumed fit's is known only when the loader is made
        self.windows_per_epoch, self.trains = windows_per_epoch, trains

    def train_dataloader(self) -> list[Any] | DataLoader:
        if not self.shuffle or self._has_sampler or self.trainer is None:
            return super().train_dataloader()
        total = len(self.train_dataset)
        count = self.windows_per_epoch if self._thins and self.windows_per_epoch is not None else total
        order = EpochSampler(total, count, self.trainer.world_size, self.trainer.global_rank, self.seed())
        # Lightning sets the epoch too, but after workers have begun to load a resumed one
        order.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return self._create_dataloader(self.train_dataset, sampler=order)

    def val_dataloader(self) -> list[Any] | DataLoader:
        return super().val_dataloader() if self.trainer is None else self.scored_batches()

    def scored_batches(self) -> list[Any] | DataLoader:
        """The validation windows that states are scored on, each with its series."""
        if self.val_dataset is None or not self._thins or self._has_sampler:
            return located_loader(self)
        # processes share what a sampler gives, which Lightning sees to
        count = windows_to_score(self.train_dataset.series[0].n_components, self.trains)
        return located_loader(self, sampler=spread_over(self.val_dataset, count))

    @property
    def _has_sampler(self) -> bool:
        return bool({"sampler", "batch_sampler"} & set(self.dataloader_kwargs))

    @property
    def _thins(self) -> bool:
        return isinstance(self.train_dataset, FitWindows)


def warn_of_stride(stride: int, series: Sequence[TimeSeries]) -> None:
    """A warning where windows at every `stride`-th step start at some of the season's steps only."""
    if stride == 1:
        return
    season = find_season(series[0].freq, [one.values(copy=False) for one in series[:SEASON_SERIES]])
    if season is None or math.gcd(stride, season) == 1:
        return
    better = next(step for step in range(stride, stride + season) if math.gcd(step, season) == 1)
    logger.warning(
        "stride=%d and a season of %d steps: training windows start at %d of the season's steps only, and forecasts "
        "from the others suffer; leave stride out and set the model's windows_per_epoch for shorter epochs, or take "
        "stride=%d",
        *(stride, season, season // math.gcd(stride, season), better),
    )
