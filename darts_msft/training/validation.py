"""Scoring on the validation series: the candidates for the best state, and stacking's weights."""

from __future__ import annotations

import copy
import logging
import time
from abc import abstractmethod
from collections.abc import Callable
from math import isfinite
from typing import Any

import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import ModuleStage, TorchTrainingBatch
from jaxtyping import Float
from torch import Tensor

from darts_msft.scales.mixing import ScaleWeights, crps, stack_weights
from darts_msft.training.report import FitReport
from darts_msft.training.score import ValidationScore
from darts_msft.training.selection import BestState, Candidate

logger = logging.getLogger("darts_msft")

VALIDATION_SAMPLES = 32
VALIDATION_SEED = 0
PROGRESS_KEY = "darts_msft_fit"  # in Lightning's checkpoints: what an interrupted fit goes on from, besides its weights


class ValidatedModule(PLForecastingModule):
    """A module that scores its states on the validation data and ends in the best one.

    The state before the first step is the first candidate. The score is the CRPS of the mixed forecast (see
    `ValidationScore`), from samples drawn with the same noise every time; Lightning sees it as `val_loss`.
    `fit_seed` and the epoch alone decide the order of the training windows and every random draw in an epoch, and a
    checkpoint within a fit holds all that was compared so far, so that a fit killed in between ends as if it was not.
    A subclass says how to forecast, and sets `stacking` where its weights are solved for on the validation data.
    """

    trained: Tensor
    scale_weights: ScaleWeights
    stacking: bool = False
    untrained_label: str = "zero-shot"

    @abstractmethod
    def forecast_samples(self, past_target: Float[Tensor, "B C V"], count: int) -> Float[Tensor, "M B H V"]:
        """Draws from the mixed forecast; a point forecast is its own single draw; NaN where it broke down."""

    @abstractmethod
    def weight_learning(self, asked: bool = False) -> str | None:
        """How this fit learned the scales' weights, or how it was asked to; None where there is one scale."""

    @abstractmethod
    def forecast_medians(self, past_target: Float[Tensor, "B C V"]) -> Float[Tensor, "B H V S"]:
        """Each scale's point forecast at the original rate."""

    def prepare_validation(self, num_scales: int) -> None:
        """To be called once by the constructor; `num_scales` is S."""
        self.register_buffer("trained", torch.tensor(False))
        self.score = ValidationScore(self.n_targets, num_scales)
        self.selection, self.scored_step = BestState(frozenset()), 0
        self.validated = self.diverged = self.fitting = False
        self.fit_seed, self.epoch_seconds, self.seconds_before = 0, list[float](), 0.0
        self.unfinished: dict[str, Any] | None = None
        self.report: FitReport | None = None

    def own_names(self) -> frozenset[str]:
        """Names in `state_dict` of what the pretrained model lacks: what trains, and all outside the backbone."""
        learned = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        return frozenset(learned | {name for name in self.state_dict() if not name.startswith("backbone.")})

    # ---------------------------------------------------------------- passes over the validation data

    def validation_step(self, val_batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        loss = self._add_score(val_batch)
        if len(self.val_metrics):
            output = self(val_batch.to_module_input(stage=ModuleStage.VALIDATE))
            self._update_metrics(output, val_batch.future_target, self.val_metrics)
        return loss

    @torch.no_grad()
    def _add_score(self, batch: TorchTrainingBatch) -> Float[Tensor, ""]:
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(VALIDATION_SEED)
            samples = self.forecast_samples(batch.past_target, VALIDATION_SAMPLES)
        error = crps(samples, batch.future_target)
        self.score.update(error, batch.future_target, batch.sample_weight)
        return torch.nanmean(error)

    @torch.no_grad()
    def _add_products(self, batch: TorchTrainingBatch) -> None:
        medians = self.forecast_medians(batch.past_target)
        self.score.update_products(medians - batch.future_target.unsqueeze(-1))

    @torch.no_grad()
    def _each_batch(self, act: Callable[[TorchTrainingBatch], Any]) -> bool:
        """Calls `act` on the validation batches that Lightning would use; False where there are none."""
        loop, batches = self.trainer.fit_loop.epoch_loop.val_loop, self.trainer.val_dataloaders
        if not self.trainer.enable_validation or batches is None or len(batches) == 0:
            return False
        was_training = self.training
        self.eval()
        self.score.reset()
        batches = copy.copy(batches)
        batches._iterator = None  # with persistent workers a loader serves one pass at a time: Lightning has one open
        for index, batch in enumerate(batches):
            if index >= loop.max_batches[0]:
                break
            batch = self.trainer.strategy.batch_to_device(self.trainer.precision_plugin.convert_input(batch))
            with self.trainer.precision_plugin.val_step_context():
                act(batch)
        self.train(was_training)
        return True

    def _stack(self) -> None:
        """Solves for the weights that fit the present state's medians best."""
        if self._each_batch(self._add_products):
            with self.score.sync_context(should_sync=self.trainer.world_size > 1):
                gram = self.score.gram().cpu()
            if bool(gram.any()):
                self.scale_weights.set(stack_weights(gram).to(self.scale_weights.omega))
        self.score.reset()

    def _consider(self, label: str) -> float:
        """Makes the present state a candidate with the score gathered since the last reset."""
        score = float(self.score.compute()) if self.score.update_called else float("nan")
        self.score.reset()
        self.scored_step = self.global_step
        if isfinite(score):
            self.selection.consider(self, Candidate(label, score, self.global_step))
        return score

    # ---------------------------------------------------------------- Lightning's hooks

    def on_fit_start(self) -> None:
        """Starts the record of this fit, or takes up that of the checkpoint that it resumes."""
        super().on_fit_start()
        self.fitting, self.diverged, self.report = True, False, None
        self.start_label = "before this fit" if bool(self.trained) else self.untrained_label
        self.started = self.epoch_started = time.perf_counter()  # a resumed epoch may have begun in another process
        saved = self.unfinished
        if saved is None:
            self.selection, self.validated = BestState(self.own_names()), False
            self.fit_seed = self.trainer.strategy.broadcast(self.fit_seed)  # each process drew its own
            self.epoch_seconds, self.seconds_before = [], 0.0
            return
        self.selection = BestState.from_dict(self.own_names(), saved["selection"])
        self.validated, self.scored_step, self.fit_seed = saved["validated"], saved["scored_step"], saved["fit_seed"]
        self.epoch_seconds, self.seconds_before = list(saved["epoch_seconds"]), saved["seconds"]

    def on_train_start(self) -> None:
        """Scores the state before the first step: the zero-shot forecast, if there is one and nothing was trained."""
        self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
        if self.unfinished is None:
            self.validated = self._each_batch(self._add_score)
            if self.validated:
                self._consider(self.start_label)
        self.trained.fill_(True)
        self.train()  # Lightning leaves the mode of the last forecast

    def on_train_epoch_start(self) -> None:
        self.epoch_started = time.perf_counter()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:  # by then the loader has drawn its own numbers, more or fewer after an interruption
            torch.manual_seed(self.fit_seed + self.current_epoch + 1_000_003 * self.global_rank)

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.epoch_seconds.append(time.perf_counter() - self.epoch_started)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.fitting:
            checkpoint[PROGRESS_KEY] = {
                "selection": self.selection.to_dict(),
                "validated": self.validated,
                "scored_step": self.scored_step,
                "fit_seed": self.fit_seed,
                "epoch_seconds": list(self.epoch_seconds),
                "seconds": self._seconds(),
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.unfinished = checkpoint.get(PROGRESS_KEY)

    def on_validation_epoch_start(self) -> None:
        if self.stacking and not self.trainer.sanity_checking:
            self._stack()
        self.score.reset()

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.score.update_called:  # Darts runs an empty loop where there is no validation series
            return
        if self.trainer.sanity_checking:
            self.score.reset()
            return
        self.log("val_loss", self._consider(f"epoch {self.current_epoch}"), prog_bar=True)

    def on_train_end(self) -> None:
        """Returns to the best state seen, which may be the pretrained one.

        Raises FloatingPointError if training diverged and there is no state to return to.
        """
        if self.scored_step != self.global_step:  # no validation after the last step
            if self.stacking:
                self._stack()
            if self._each_batch(self._add_score):
                self._consider("end of training")
        self.fitting, self.unfinished = False, None
        best = self.selection.best
        if best is not None:
            self.selection.restore(self)
        elif self.diverged:
            raise FloatingPointError(
                "training diverged: the forecasts are no longer finite, and without a finite validation score there is "
                "no state to return to; lower the learning rates or pass a val_series"
            )
        elif self.validated:
            logger.warning("no finite validation score: the last weights are kept, uncompared with zero-shot")
        self.report = FitReport(
            kept="last weights (without a validation score)" if best is None else best.label,
            candidates=tuple(self.selection.candidates),
            trained_parameters=sum(value.numel() for value in self.parameters() if value.requires_grad),
            all_parameters=sum(value.numel() for value in self.parameters()),
            epoch_seconds=tuple(self.epoch_seconds),
            seconds=self._seconds(),
            weight_learning=self.weight_learning(),
            weight_learning_asked=self.weight_learning(asked=True),
        )

    def on_fit_end(self) -> None:
        super().on_fit_end()
        if self.fitting:  # resumed after the last epoch: Lightning had nothing left to do
            self.trainer.fit_loop.epoch_loop.val_loop.setup_data()
            self.to(self.trainer.strategy.root_device)
            self.on_train_end()
            self.cpu()

    def epoch_key(self) -> tuple[int, int]:
        """(seed, epoch): what the order of the training windows depends on."""
        # unlike `current_epoch` this is right before the first epoch after an interruption too, when loaders start
        return self.fit_seed, self.trainer.fit_loop.epoch_progress.current.processed

    def _seconds(self) -> float:
        return self.seconds_before + time.perf_counter() - self.started
