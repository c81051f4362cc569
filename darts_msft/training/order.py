"""The order of the training windows: by seed and epoch alone, so that a resumed fit sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import torch
from darts.models.forecasting.torch_forecasting_model import TorchDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class EpochShuffle(DistributedSampler[int]):
    """A random order of the windows; `key` gives (seed, epoch) whenever an epoch's iteration starts.

    Processes take turns, so that together they train on the batches of one process; the first windows come again
    where the last turn lacks some. (Lightning would shuffle once more if it had to deal them out.)
    """

    def __init__(self, data: Dataset, key: Callable[[], tuple[int, int]], processes: int, rank: int) -> None:
        super().__init__(data, num_replicas=processes, rank=rank)
        self.length, self.key = len(data), key  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        seed, epoch = self.key()
        generator = torch.Generator().manual_seed((seed << 20) + epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        yield from islice(cycle(order), self.rank, self.total_size, self.num_replicas)


class OrderedData(TorchDataModule):
    """Darts' data module with `EpochShuffle` for its shuffling; samplers that a user brings stay."""

    def __init__(self, data: TorchDataModule, key: Callable[[], tuple[int, int]]) -> None:
        options = {**data.dataloader_kwargs, "shuffle": data.shuffle, "batch_size": data.batch_size}
        super().__init__(data.train_dataset, data.val_dataset, dataloader_kwargs=options)
        self.key = key

    def train_dataloader(self) -> list[Any] | DataLoader:
        if not self.shuffle or {"sampler", "batch_sampler"} & set(self.dataloader_kwargs):
            return super().train_dataloader()
        trainer = self.trainer
        order = EpochShuffle(self.train_dataset, self.key, trainer.world_size, trainer.global_rank)
        return self._create_dataloader(self.train_dataset, sampler=order)
