"""Validation windows that say which series they are from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from darts.models.forecasting.torch_forecasting_model import TorchDataModule
from darts.utils.data.torch_datasets.training_dataset import ShiftedTorchTrainingDataset
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclass(slots=True)
class ValidationBatch(TorchTrainingBatch):
    """A batch of Darts', with each window's series, by its position among the validation series."""

    series: Tensor | None = None


class LocatedWindows(Dataset):
    """Darts' samples, each with its series; 0 for all windows of a dataset of the user's own.

    It goes by the index of the sample alone: samplers may take any, in any order, in any process.
    """

    def __init__(self, windows: Any) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        known = isinstance(self.windows, ShiftedTorchTrainingDataset)
        return self.windows[index], index // self.windows.max_samples_per_ts if known else 0


class _Collate:
    """Of located samples, by the function that joins samples alone."""

    def __init__(self, join: Callable[[Sequence[Any]], TorchTrainingBatch]) -> None:
        self.join = join

    def __call__(self, located: Sequence[tuple[Any, int]]) -> ValidationBatch:
        samples, series = zip(*located, strict=True)
        batch = self.join(samples)
        own = {one.name: getattr(batch, one.name) for one in fields(TorchTrainingBatch)}
        return ValidationBatch(**own, series=torch.tensor(series))


def located_loader(data: TorchDataModule, **options: Any) -> list[Any] | DataLoader:
    """Darts' validation loader, with batches that say their series; empty without validation windows.

    `options` are further ones of the loader, such as a sampler.
    """
    if data.val_dataset is None:
        return []
    options = {"shuffle": False, **data.dataloader_kwargs, **options}
    options["collate_fn"] = _Collate(options["collate_fn"])
    return DataLoader(LocatedWindows(data.val_dataset), batch_size=data.batch_size, **options)


def apart(batches: Any, horizon: int) -> float:
    """How many windows of a loader's dataset share no step to forecast; all, where their places are not known."""
    windows = batches.dataset.windows if isinstance(batches.dataset, LocatedWindows) else batches.dataset
    if not isinstance(windows, ShiftedTorchTrainingDataset):
        return float(len(windows))
    positions = windows.max_samples_per_ts * windows.stride
    return len(windows) / windows.max_samples_per_ts * (1 + (positions - 1) / horizon)


def series_of(batch: TorchTrainingBatch) -> Tensor:
    """(B,), by position; 0 where the batch doesn't say."""
    if isinstance(batch, ValidationBatch) and batch.series is not None:
        return batch.series
    return torch.zeros(len(batch.past_target), dtype=torch.long, device=batch.past_target.device)
