"""Never worse than zero-shot: `fit` ends in the best state on the validation data, the one before it included."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from math import inf, isfinite
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning import callbacks
from pytorch_lightning.callbacks import Checkpoint
from torch import Tensor

from darts_msft.training.dependence import learn_paths
from darts_msft.training.movement import moved, snapshot
from darts_msft.training.report import Candidate, FitReport, mean_of, rows_of
from darts_msft.training.validation_passes import Pass, each_batch, solve_on_errors, validate
from darts_msft.training.validation_windows import apart

logger = logging.getLogger("darts_msft")

BEFORE = "before this fit"  # the label of a state that an earlier fit left
LEAST_STEPS = 16  # without a better state before a fit goes back: an epoch by default, several where they are shorter
RATE_CUT = 3.0  # by which the rates are divided after an epoch that was undone
SCORE = "CRPS of series in units of the naive error"  # in checkpoints: scores of another kind can't be compared
METHOD_KEY = "darts_msft_method"  # in Lightning's checkpoints: what an interrupted fit's method goes on from


class KeepBest(pl.Callback):
    """Scores every state on the validation data and ends the fit in the best one; makes the fit's report.

    The module, an `MSFTModule`, says how a state is scored. Lightning's sanity check, over all validation batches,
    scores the state before the first step. An epoch that ends no better than the best state is undone, with what was
    trained since, once there were `LEAST_STEPS` steps: the next one starts from there, at a third of the rates, unless
    a schedule of the user's, or the method's own, sets its course.
    Lightning's checkpoints hold `state_dict`: a fit that goes on from an epoch's checkpoint ends as if it had not been
    interrupted.

    Parameters
    ----------
    seed
        Of the order of the training windows.
    validates
        Whether there are validation data.
    began
        `time.perf_counter()` where the fit began, before what it did until now.
    """

    def __init__(self, seed: int, validates: bool, began: float) -> None:
        self.seed, self.validates = seed, validates
        self.candidates: list[Candidate] = []
        self.report: FitReport | None = None
        self.epoch_seconds: list[float] = []
        self._tensors: dict[str, Tensor] = {}
        self._start: dict[str, Tensor] = {}  # what trains, before the first step
        self._moved: dict[str, float] = {}
        self._passed: Pass | None = None  # that scored the best state, in this process
        self._by_series: dict[str, Tensor] = {}  # scores (N, V): "naive", "before", "kept"
        self._scored_step, self._seconds_before, self._started = -1, 0.0, began
        self._scored_sums: list[float] = []  # by which weights that were scored are known again
        self._undone_step = 0  # where the fit last went back
        self._fitting, self._resumed, self._learned_paths = False, False, False
        self._units: Tensor | None = None  # of the scores (N, V)
        self._comparable = True  # whether a resumed fit's scores are those of now
        self._start_label: str | None = None  # a new head's training begins before Lightning's sanity check

    @contextmanager
    def attached_to(self, trainer: Any) -> Iterator[None]:
        """While a fit runs: among the trainer's callbacks, before those that write checkpoints."""
        averaging: Any = getattr(callbacks, "WeightAveraging", ())  # new in Lightning 2.6
        averaged = [(one, one._use_buffers) for one in trainer.callbacks if isinstance(one, averaging)]
        for one, _ in averaged:
            one._use_buffers = False  # ours are constants, or solved for
        checks = trainer.num_sanity_val_steps
        scorer = _Scorer(self)
        trainer.callbacks.insert(0, scorer)
        trainer.callbacks.insert(sum(not isinstance(one, Checkpoint) for one in trainer.callbacks), self)
        try:
            yield
        finally:
            trainer.callbacks.remove(scorer)
            trainer.callbacks.remove(self)
            trainer.num_sanity_val_steps = checks
            for one, before in averaged:
                one._use_buffers = before

    @property
    def best(self) -> Candidate | None:
        """The candidate with the lowest score, the first of equals; None where there is none."""
        return min(self.candidates, key=lambda one: one.score, default=None)

    def compare_untrained(self, trainer: Any, module: Any, batches: Any) -> None:
        """A fit that trains nothing: scores what the pretrained model can do, and keeps the best, if any."""
        state = module.state_dict().items()
        before = {name: value.clone() for name, value in state if name == "form" or name.startswith("scale_weights.")}
        try:
            module.start_from_one_scale()
            others = () if module.sees_all_at_once else module.scale_forms
            for form in (module.kind, *others):
                module.take(form)
                trainer.validate(module, batches, verbose=False)
        finally:  # the best comes back below
            module.load_state_dict(before, strict=False)
        if self.best is None:
            logger.warning("no finite validation score: the scales are weighted as before")
        else:
            self._restore(module)
        self.learn_paths(trainer, module, batches)
        if self.best is not None:
            self.report = self._report(module, trains=False)

    def learn_paths(self, trainer: Any, module: Any, batches: Any) -> None:
        """Where nothing is trained: the dependence of sample paths, in a pass over the validation data of its own."""
        windows = partial(apart, batches, module.output_chunk_length)
        act = partial(validate, trainer, module, batches)
        self._learned_paths = learn_paths(module, self._passed_on(module), act, windows)

    # ---------------------------------------------------------------- an interrupted fit

    def state_dict(self) -> dict[str, Any]:
        if not self._fitting:
            return {}
        return {
            "candidates": [asdict(one) for one in self.candidates],
            "tensors": dict(self._tensors),
            "start": dict(self._start),
            "by_series": dict(self._by_series),
            "score": SCORE,
            "units": self._units,
            "scored_step": self._scored_step,
            "undone_step": self._undone_step,
            "seed": self.seed,
            "epoch_seconds": list(self.epoch_seconds),
            "seconds": self._seconds(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.candidates = [Candidate(**one) for one in state_dict["candidates"]]
        self._tensors = {name: tensor.cpu() for name, tensor in state_dict["tensors"].items()}
        self._start = dict(state_dict.get("start", {}))  # a checkpoint of an older version has none
        self._by_series = dict(state_dict.get("by_series", {}))
        self._units = state_dict["units"] if state_dict.get("score") == SCORE else None
        self._scored_step, self.seed = state_dict["scored_step"], state_dict["seed"]
        self._undone_step = state_dict.get("undone_step", 0)
        self.epoch_seconds, self._seconds_before = list(state_dict["epoch_seconds"]), state_dict["seconds"]
        self._resumed = True

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if self._fitting:
            checkpoint[METHOD_KEY] = pl_module.method.training_state()

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        if METHOD_KEY in checkpoint:
            pl_module.method.load_training_state(checkpoint[METHOD_KEY])

    # ---------------------------------------------------------------- Lightning's hooks

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._fitting = True
        self._epoch_started = time.perf_counter()  # a resumed epoch may have begun in another process
        self.seed = trainer.strategy.broadcast(self.seed)  # each process drew its own
        trainer.num_sanity_val_steps = 0 if self._resumed else inf
        if self.validates:
            pl_module.start_from_one_scale()
        self._start_label = pl_module.start_label
        if self.validates:
            before, self._units = self._units, torch.as_tensor(pl_module.units.values)
            same = before is not None and before.shape == self._units.shape and torch.allclose(before, self._units)
            self._comparable = same or not self._resumed

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.validates and not self._resumed:
            for form in pl_module.scale_forms:
                pl_module.take(form)
                self._score(trainer, pl_module)
        self._make_comparable(trainer, pl_module)
        pl_module.train()  # Lightning leaves the mode of the last forecast

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._epoch_started = time.perf_counter()
        if not (self._start or self._resumed):  # later than the module's own start of training, before any step
            self._start = snapshot(pl_module.trained_groups())
        undoes = pl_module.method.undoes and pl_module.lr_scheduler_cls is None
        if undoes and self._scored_step == trainer.global_step > 0:
            self._undo_if_worse(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.epoch_seconds.append(time.perf_counter() - self._epoch_started)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if pl_module.solves_on_errors and not (trainer.sanity_checking or pl_module.observer):
            solve_on_errors(trainer, pl_module)
        pl_module.begin_pass()

    def end_validation(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Makes what was validated a candidate."""
        if not pl_module.score.update_called:  # Darts runs an empty loop where there is no validation series
            return
        trains = self._fitting and not trainer.sanity_checking
        score = self._consider(trainer, pl_module, _label(trainer.current_epoch) if trains else self._start_label)
        if trains:
            pl_module.log("val_loss", score, prog_bar=True, sync_dist=True)  # the same in all processes

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Returns to the best state seen, which may be the pretrained one.

        Raises FloatingPointError if training diverged and there is no state to return to.
        """
        if self.validates and self._scored_step != trainer.global_step:  # no validation after the last step
            self._score(trainer, pl_module, "end of training")
        elif self.validates and self._scored_sums not in ([], _sums(pl_module)):  # by a callback that averages weights
            self._score(trainer, pl_module, "averaged weights")
        trains = self._fitting
        self._restore(pl_module)
        if self.validates:
            passed, batches = self._passed_on(pl_module), partial(each_batch, trainer, pl_module)
            length = pl_module.output_chunk_length  # a resumed fit has no loader before it has made these batches
            self._learned_paths = learn_paths(
                pl_module, passed, batches, lambda: apart(trainer.val_dataloaders, length)
            )
        self.report = self._report(pl_module, trains)

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        # other processes may not know of it
        alone = trainer.world_size == 1
        if isinstance(exception, KeyboardInterrupt) and alone and self._fitting and self.best is not None:
            trains = self._fitting
            self._restore(pl_module)
            self.report = self._report(pl_module, trains)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self._fitting:  # resumed after the last epoch: Lightning had nothing left to do
            pl_module.to(trainer.strategy.root_device)
            self._make_comparable(trainer, pl_module)
            self.on_train_end(trainer, pl_module)
            pl_module.cpu()

    # ---------------------------------------------------------------- parts

    def _undo_if_worse(self, trainer: pl.Trainer, module: Any) -> None:
        """Before an epoch, so that a resumed fit does it too: goes back where the last one has no best state.

        The rates were too high then, and a lower one is found at the cost of an epoch.
        """
        step = trainer.global_step
        if self.best is None or self.best.step == step:
            return
        if step - max(self.best.step, self._undone_step) < LEAST_STEPS:
            return
        self._undone_step = step
        module.train_on_from(self._tensors, was_trained=self.best.step > 0 or self.best.label == BEFORE)
        for optimizer in trainer.optimizers:
            optimizer.state.clear()  # moments of gradients elsewhere
            for group in optimizer.param_groups:
                group["lr"] /= RATE_CUT
        last = _label(trainer.current_epoch - 1)
        logger.info("%s was no better than %s: undone, rates are divided by %g", last, self.best.label, RATE_CUT)

    def _restore(self, module: Any) -> None:
        """The fit is over: back to the best state."""
        self._fitting, best = False, self.best
        self._moved, self._start = moved(module.trained_groups(), self._start), {}
        module.form.fill_(module.kind)
        if best is not None:
            module.load_state_dict(self._tensors, strict=False)
            self._tensors = {}
        elif module.diverged:
            raise FloatingPointError(
                "training diverged: the forecasts are no longer finite, and without a finite validation score there is "
                "no state to return to; lower the learning rates or pass a val_series"
            )
        elif self.validates:
            logger.warning("no finite validation score: the last weights are kept, uncompared with zero-shot")

    def _score(self, trainer: pl.Trainer, module: Any, label: str | None = None, step: int | None = None) -> None:
        """Scores the present state in a pass over the validation data of its own."""
        if module.solves_on_errors:
            solve_on_errors(trainer, module)
        module.begin_pass()
        if each_batch(trainer, module, module.validation_step):
            self._consider(trainer, module, label, step)
        module.val_metrics.reset()  # the user's are of Lightning's own passes

    def _make_comparable(self, trainer: pl.Trainer, module: Any) -> None:
        """A resumed fit's scores in other units than now's are dropped; the best state is scored anew."""
        best = self.best
        if self._comparable or best is None:
            return
        self.candidates, self._by_series, self._comparable = [], {}, True
        logger.warning(
            "this fit goes on with validation scores in other units than before: %s, the best state until now, is "
            "scored anew, and the other scores are dropped",
            best.label,
        )
        state = module.state_dict()
        present = {name: state[name].detach().clone() for name in module.own_names()}
        scored = self._scored_step, self._scored_sums
        module.load_state_dict(self._tensors, strict=False)
        # by its own label where a pass scores several forms
        self._score(trainer, module, None if module.start_label == best.label else best.label, best.step)
        module.load_state_dict(present, strict=False)
        self._scored_step, self._scored_sums = scored

    def _consider(self, trainer: pl.Trainer, module: Any, label: str | None = None, step: int | None = None) -> float:
        """Makes the present state a candidate, and copies it if it is the best so far (the earlier one on a tie).

        Without a label it is the module's own for its form, without a step the present one; a pass may score several.
        """
        step = trainer.global_step if step is None else step
        score, is_best = inf, False
        for _, score in module.settle_scores():
            module.form.fill_(module.kind)  # Lightning's averages round it
            best = self.best
            if isfinite(score):
                if best is None and step == 0:
                    self._by_series["before"] = module.by_series
                self.candidates.append(Candidate(label or module.start_label, score, step))
                self._by_series["naive"] = module.naives
                if best is None or score < best.score:
                    self._by_series["kept"], is_best = module.by_series, True
                    state = module.state_dict()
                    self._tensors = {name: state[name].detach().cpu().clone() for name in module.own_names()}
        passed = module.end_pass()
        if is_best:
            self._passed = passed
        self._scored_step, self._scored_sums = trainer.global_step, _sums(module)
        return score

    def _report(self, module: Any, trains: bool) -> FitReport:
        best = self.best
        weights, units = module.shared_weights(), module.units
        repeats = float(module.seasonal.compute()) if self.best is not None and module.seasonal.update_called else 0.0
        learned, asked = module.learned_by(solved=best is not None and (best.step > 0 or best.label == BEFORE))
        return FitReport(
            kept=_unscored(module) if self.best is None else self.best.label,
            candidates=tuple(self.candidates),
            trained_parameters=sum(value.numel() for value in module.parameters() if value.requires_grad and trains),
            all_parameters=sum(value.numel() for value in module.parameters()),
            epoch_seconds=tuple(self.epoch_seconds),
            seconds=self._seconds(),
            weight_learning=learned,
            weight_learning_asked=asked,
            moved=self._moved,
            naive=mean_of(self._by_series.get("naive")),
            season=units.season if units.seasonal else None,
            naive_season=units.season if repeats else None,
            measured_on=units.measured_on,
            weights=None if weights is None else tuple(weights.tolist()),
            has_linear=module.linear is not None,
            lookback=None if module.linear is None or module.linear.absent else module.linear.lookback,
            path_correlations=module.paths.at_lags([1, units.season or 1]) if self._learned_paths else {},
            by_series=rows_of(self._by_series, units.components),
            season_share=units.seasonal or 1.0,
            naive_share=repeats or 1.0,
            observed=float(module.observed.compute()) if module.observed.update_called else None,
        )

    def _passed_on(self, module: Any) -> Pass | None:
        """The pass that scored the state that is kept, given away; None where that was elsewhere, as on a GPU."""
        passed, self._passed = self._passed, None
        here = passed is not None and all(one.past_target.device == module.device for one, _ in passed.batches)
        return passed if here else None

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started


class _Scorer(pl.Callback):
    """The end of a validation, before callbacks that validate averaged weights put the others back."""

    def __init__(self, keep: KeepBest) -> None:
        self.keep = keep

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.keep.end_validation(trainer, pl_module)


def _sums(module: Any) -> list[float]:
    """Of the parameters that train, one by one."""
    groups = module.trained_groups().values()
    return [float(parameter.detach().double().sum()) for members in groups for _, parameter in members]


def _label(epoch: int) -> str:
    return f"epoch {epoch + 1}"  # Lightning counts from 0


def _unscored(module: Any) -> str:
    """What a fit without a score keeps."""
    state = "last weights" if module.global_step > 0 else module.start_label
    return f"{state} (without a validation score)"
