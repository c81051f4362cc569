"""The order of the training windows: by seed and epoch alone, so that a resumed fit sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from darts.models.forecasting.torch_forecasting_model import TorchDataModule
from torch.utils.data import DataLoader, Sampler


class EpochShuffle(Sampler[int]):
    """A random order of `length` windows; `key` gives (seed, epoch) whenever an epoch's iteration starts."""

    def __init__(self, length: int, key: Callable[[], tuple[int, int]]) -> None:
        self.length, self.key = length, key

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        seed, epoch = self.key()
        generator = torch.Generator().manual_seed((seed << 20) + epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()


class OrderedData(TorchDataModule):
    """Darts' data module with `EpochShuffle` for its shuffling; samplers that a user brings stay."""

    def __init__(self, data: TorchDataModule, key: Callable[[], tuple[int, int]]) -> None:
        options = {**data.dataloader_kwargs, "shuffle": data.shuffle, "batch_size": data.batch_size}
        super().__init__(data.train_dataset, data.val_dataset, dataloader_kwargs=options)
        self.key = key

    def train_dataloader(self) -> list[Any] | DataLoader:
        if not self.shuffle or {"sampler", "batch_sampler"} & set(self.dataloader_kwargs):
            return super().train_dataloader()
        return self._create_dataloader(self.train_dataset, sampler=EpochShuffle(len(self.train_dataset), self.key))
