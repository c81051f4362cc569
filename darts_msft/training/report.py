"""What a fit did: the states it compared, the one it kept, what it trained, and how long that took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """A state that was scored: its label ("zero-shot", "epoch 3"), validation score (lower is better), and steps.

    `step` counts the fit's optimiser steps before it.
    """

    label: str
    score: float
    step: int


@dataclass(frozen=True)
class FitReport:
    """The last `fit` in numbers; `str` gives them in a few lines.

    `kept` labels the state that the model now has; `candidates` are all with a finite score on the validation series
    (lower is better), those before the first step first: the pretrained model at one scale, at all scales weighted by
    backcasts, and at all scales with stacked weights. `epoch_seconds` has every epoch's wall time, its validation
    included; `seconds` is the whole fit's. `num_scales_scores` has each K's best score where `num_scales="auto"`
    compared them; `seconds` is then that of all these fits, everything else that of the winner's.

    `weight_learning` says what the scales' weights learned from, as in the model's argument of this name, "uniform"
    where they stayed, "one scale" or "backcasts" where the pretrained model was kept that way, None where there is one
    scale. It differs from `weight_learning_asked` then, and where "stacking" had nothing to go by: without a validation
    series the weights learn from the mixed forecast's loss ("mixed_loss"), and where no validation score was finite
    they stay.

    `moved` says how far the last step's state is from the first's, by group of what trains ("pretrained", "new",
    "lora", "head", "omega", as in the learning rates' names): the norm of the change over the larger of the two norms.
    Weights of the scales that are stacked have no part in it.
    """

    kept: str
    candidates: tuple[Candidate, ...]
    trained_parameters: int
    all_parameters: int
    epoch_seconds: tuple[float, ...]
    seconds: float
    num_scales_scores: Mapping[int, float] | None = None
    weight_learning: str | None = None
    weight_learning_asked: str | None = None
    moved: Mapping[str, float] = field(default_factory=dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"moved": {}, **state})  # a report of version 0.1 lacks it

    @property
    def before(self) -> float | None:
        """The validation score before the first step; None without validation data, or where it was not finite."""
        return next((state.score for state in self.candidates if state.step == 0), None)

    @property
    def best(self) -> float | None:
        """The validation score of the state that was kept; None without validation data."""
        return min(state.score for state in self.candidates) if self.candidates else None

    @property
    def trained_share(self) -> float:
        """Trained parameters over all parameters."""
        return self.trained_parameters / self.all_parameters

    @property
    def epochs(self) -> int:
        """Epochs run, those before an interruption included."""
        return len(self.epoch_seconds)

    @property
    def seconds_per_epoch(self) -> float:
        """Mean wall time of an epoch; 0 where none was run."""
        return sum(self.epoch_seconds) / max(self.epochs, 1)

    def __str__(self) -> str:
        lines = [f"kept: {self.kept}"]
        if self.best is not None:
            before = ", ".join(f"{state.label} {state.score:.4f}" for state in self.candidates if state.step == 0)
            lines[0] += f", validation CRPS {self.best:.4f} ({before or 'no finite score before'})"
        if self.num_scales_scores is not None:
            scores = ", ".join(f"{scales}: {score:.4f}" for scales, score in self.num_scales_scores.items())
            lines.append(f"validation CRPS by num_scales: {scores}")
        share = f"{self.trained_parameters:,} of {self.all_parameters:,} parameters ({self.trained_share:.1%})"
        times = f"{self.seconds_per_epoch:.2f} s each, {self.seconds:.1f} s in all"
        if self.weight_learning is not None:
            missed = self.weight_learning_asked == "stacking" and self.weight_learning in ("uniform", "mixed_loss")
            reason = " (stacking had no validation score)" if missed else ""
            lines.append(f"weights of the scales: {self.weight_learning}{reason}")
        lines.append(f"trained: {share}")
        if self.moved:
            lines.append("moved: " + ", ".join(f"{group} {100 * part:.3g}%" for group, part in self.moved.items()))
        return "\n".join([*lines, f"epochs: {self.epochs}, {times}"])
