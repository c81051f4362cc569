"""The order of the training windows: by seed and epoch alone, so that a resumed fit sees what it would have seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from darts.models.forecasting.torch_forecasting_model import TorchDataModule
from torch.utils.data import DataLoader, DistributedSampler

from darts_msft.training.validation_windows import located_loader


class OrderedData(TorchDataModule):
    """Darts' data module with a seeded `DistributedSampler` for its shuffling; samplers that a user brings stay.

    Windows are dealt round-robin to processes; the first are repeated to even out the last round.
    """

    def __init__(self, data: TorchDataModule, seed: Callable[[], int]) -> None:
        options = {**data.dataloader_kwargs, "shuffle": data.shuffle, "batch_size": data.batch_size}
        super().__init__(data.train_dataset, data.val_dataset, dataloader_kwargs=options)
        self.seed = seed  # a resumed fit's is known only when the loader is made

    def train_dataloader(self) -> list[Any] | DataLoader:
        if not self.shuffle or {"sampler", "batch_sampler"} & set(self.dataloader_kwargs):
            return super().train_dataloader()
        world, rank = self.trainer.world_size, self.trainer.global_rank
        order: DistributedSampler[int] = DistributedSampler(
            self.train_dataset, world, rank, shuffle=True, seed=self.seed()
        )
        # Lightning sets the epoch too, but after workers have begun to load a resumed one
        order.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return self._create_dataloader(self.train_dataset, sampler=order)

    def val_dataloader(self) -> list[Any] | DataLoader:
        return located_loader(self)
