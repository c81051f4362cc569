"""What a fit did: the states it compared, the one it kept, what it trained, and how long that took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

LEAST_SHOWN = 0.005  # weight of a member that `str` names
LEAST_OBSERVED = 0.5  # of the values to forecast, for scores that say something
MOST_EPOCHS = 3  # that it names at the beginning, and at the end

Row = tuple[int, str, float | None, float | None, float | None]
"""Of `per_series`: series, component, and the scores of the naive forecast, before, and kept."""


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

    Scores are of the validation series: the CRPS over the error of the seasonal naive where that was `measured_on` (the
    training part, unless the validation series are others, or no series), averaged over series and components; lower is
    better. Its season has `season` steps for the share `season_share` of series and components; where there is none
    (`season` is None), or a series is too short for it, the unit is the error of the last value. `naive` is the naive
    forecast's own score on the same windows, of `naive_season` steps at the share `naive_share` of the steps; it is the
    last value elsewhere, and everywhere with None: where no window has a whole season.

    `kept` labels the state that the model now has; `candidates` are all with a finite score, those before the first
    step first: the pretrained model at one scale, at all scales weighted by backcasts, and at all scales with stacked
    weights. `epoch_seconds` has every epoch's wall time, its validation included; `seconds` is the whole fit's, that of
    the linear member included. `num_scales_scores` has each K's best score where `num_scales="auto"` compared them;
    `seconds` is then that of all these fits, everything else that of the winner's.

    `weights` are those of the members that were kept: of the scales, then of the linear member if the model
    `has_linear`; None where each window has its own. `lookback` is the linear member's, in steps.

    `weight_learning` says what the scales' weights learned from, as in the model's argument of this name, "uniform"
    where they stayed, "one scale" or "backcasts" where the pretrained model was kept that way, None where there is one
    scale. It differs from `weight_learning_asked` then, and where "stacking" had nothing to go by: without a validation
    series the weights learn from the mixed forecast's loss ("mixed_loss"), and where no validation score was finite
    they stay.

    `moved` says how far the last step's state is from the first's, by group of what trains ("pretrained", "new",
    "lora", "head", "omega", as in the learning rates' names): the norm of the change over the larger of the two norms.
    Weights of the scales that are stacked have no part in it.

    `path_correlations` are the mean correlations of the normal scores of two steps in a sample path, by how many steps
    they are apart: one, and a season. Empty where the fit has not told them.

    `effects` are those of the future covariates in the linear member, by name: what one unit of a covariate adds to
    each component, in the units of the series that `fit` was given; 0 where no effect was sure.

    `observed` is the share of the values to forecast in validation windows that are there; the others are gaps.

    `chosen` are the model's arguments that the user left open and that the fit settled by the zero-shot score.
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
    naive: float | None = None
    season: int | None = None
    naive_season: int | None = None
    measured_on: str = "training part"
    weights: tuple[float, ...] | None = None
    has_linear: bool = False
    lookback: int | None = None
    by_series: tuple[Row, ...] = field(default=(), repr=False)
    chosen: Mapping[str, int] = field(default_factory=dict)
    path_correlations: Mapping[int, float] = field(default_factory=dict)
    season_share: float = 1.0
    naive_share: float = 1.0
    effects: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    observed: float | None = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(
            {"moved": {}, "chosen": {}, "path_correlations": {}, "effects": {}, **state}
        )  # older ones lack it

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

    @property
    def still_improving(self) -> bool:
        """Whether the last epoch was the best state: more of them may be better still."""
        return bool(self.candidates) and self.candidates[-1].step > 0 and self.best == self.candidates[-1].score

    @property
    def per_series(self) -> pd.DataFrame | None:
        """A row for each validation series (by position) and component; None without validation data.

        NaN where nothing was scored: of more than 256 series, 256 are, evenly.
        `naive`, `before` and `kept` are scores (`before` as in the property of that name), `ratio` is kept / before,
        and `worse` says where that is more than 1.
        """
        if not self.by_series:
            return None
        frame = pd.DataFrame(self.by_series, columns=["series", "component", "naive", "before", "kept"])
        frame = frame.astype(dict.fromkeys(("naive", "before", "kept"), float))
        return frame.assign(ratio=frame["kept"] / frame["before"], worse=frame["kept"] > frame["before"])

    @property
    def warning(self) -> str | None:
        """In words, where much of what is to be forecast is a gap, or the naive forecast beats what was kept."""
        found = []
        if self.observed is not None and self.observed < LEAST_OBSERVED:
            found.append(
                f"only {self.observed:.0%} of the values to forecast on the validation series are there, the others "
                "are gaps: the scores say little; give a val_series where there are values"
            )
        scored = {row[1] for row in self.by_series if row[-1] is not None}
        if scored and (missing := dict.fromkeys(row[1] for row in self.by_series if row[1] not in scored)):
            found.append(
                f"nothing of {', '.join(missing)} was scored on the validation series: the scores say nothing of it; "
                "give a val_series where it has values"
            )
        if self.naive is not None and self.best is not None and self.naive < self.best:
            found.append(
                f"{self._naive_name} ({self.naive:.4f}) beats what was kept ({self.best:.4f}) on the validation "
                "series: give a longer input_chunk_length, more data or more epochs, or use it instead"
            )
        return "; also, ".join(found) or None

    @property
    def _naive_name(self) -> str:
        return _name_of(self.naive_season, self.naive_share, "of the steps")

    def __str__(self) -> str:
        """At most twelve lines."""
        lines = self._scores()
        lines.append(self._kept())
        if self.warning is not None:
            lines.append(f"warning: {self.warning}")
        if self.num_scales_scores is not None:
            scores = ", ".join(f"{scales}: {score:.4f}" for scales, score in self.num_scales_scores.items())
            lines.append(f"best score by num_scales: {scores}")
        if self.weight_learning is not None:
            lines.append(self._members())
        if self.effects:
            lines.append(f"covariates in the linear member: {self._covariates()}")
        if self.path_correlations:
            parts = [f"{part:.2f} at a distance of {lag}" for lag, part in self.path_correlations.items()]
            lines.append(f"sample paths: steps correlate by {' and '.join(parts)}")
        if self.chosen:
            lines.append("chosen: " + ", ".join(f"{name}={value}" for name, value in self.chosen.items()))
        share = f"{self.trained_parameters:,} of {self.all_parameters:,} parameters ({self.trained_share:.1%})"
        moves = ", ".join(f"{group} {100 * part:.3g}%" for group, part in self.moved.items())
        lines.append(f"trained: {share}" + (f"; moved: {moves}" if moves else ""))
        times = f"{self.seconds_per_epoch:.2f} s each, {self.seconds:.1f} s in all"
        return "\n".join([*lines, f"time: {self.epochs} epochs, {times}"])

    def _scores(self) -> list[str]:
        """What the score is, the scores before the first step, and the epochs'."""
        if not self.candidates:
            return []
        lines = []
        if self.naive is not None:
            unit = _name_of(self.season, self.season_share, "of the series")
            lines.append(
                f"validation score: CRPS over the error of {unit} on the {self.measured_on}, averaged over series and "
                f"components{self._scored()}; lower is better"
            )
        start = [f"{one.label} {one.score:.4f}" for one in self.candidates if one.step == 0]
        naive = [] if self.naive is None else [f"{self._naive_name.removeprefix('the ')} {self.naive:.4f}"]
        lines.append("before: " + "; ".join(naive + (start or ["no finite score"])))
        trained = [one for one in self.candidates if one.step > 0]
        if trained:
            best = min(range(len(trained)), key=lambda index: trained[index].score)
            shown = {*range(MOST_EPOCHS), best, *range(len(trained) - MOST_EPOCHS, len(trained))}
            parts, last = [], -1
            for index in sorted(shown & set(range(len(trained)))):
                gap = "... " if index > last + 1 else ""
                parts.append(f"{gap}{trained[index].label.removeprefix('epoch ')}: {trained[index].score:.4f}")
                last = index
            longer = " (the last was the best: more n_epochs may be better still)" if self.still_improving else ""
            lines.append("epochs: " + ", ".join(parts) + longer)
        return lines

    def _scored(self) -> str:
        """How many series have a score, where not all have."""
        series, scored = {row[0] for row in self.by_series}, {row[0] for row in self.by_series if row[-1] is not None}
        return f" ({len(scored)} of {len(series)} series were scored)" if len(scored) < len(series) else ""

    def _kept(self) -> str:
        if self.best is None:
            return f"kept: {self.kept}"
        against = [(self._naive_name, self.naive)]
        if self.candidates[0].step == 0 and self.candidates[0].label != self.kept:
            against.append((self.candidates[0].label, self.candidates[0].score))
        gains = [
            f"{100 * abs(1 - self.best / score):.0f} % {'below' if self.best <= score else 'above'} {name}"
            for name, score in against
            if score
        ]
        return f"kept: {self.kept}, {self.best:.4f}" + (f" ({', '.join(gains)})" if gains else "")

    def _covariates(self) -> str:
        """Which have an effect; of one component, how large."""
        shown = {name: parts for name, parts in self.effects.items() if any(parts)}
        if not shown:
            return "no effect of any is sure"
        found = [f"{name} {parts[0]:+.3g} a unit" if len(parts) == 1 else name for name, parts in shown.items()]
        without = len(self.effects) - len(shown)
        return ", ".join(found) + (f"; {without} without a sure effect" if without else "")

    def _members(self) -> str:
        """Which members carry weight, and what the weights learned from."""
        missed = self.weight_learning_asked == "stacking" and self.weight_learning in ("uniform", "mixed_loss")
        without = " (stacking had no validation score)" if missed else ""
        learned = f"{self.weight_learning}{without}"
        if self.weights is None:
            return f"weights: of each window, by {learned}"
        names = [f"scale {scale}" for scale in range(len(self.weights) - self.has_linear)]
        if self.has_linear:
            names.append("linear member" + (f" (look-back {self.lookback} steps)" if self.lookback else ""))
        shown = [(name, part) for name, part in zip(names, self.weights, strict=True) if part >= LEAST_SHOWN]
        if len(shown) == 1:
            return f"weights: only {shown[0][0]} is used here{without}"
        return f"weights, by {learned}: " + ", ".join(f"{name} {100 * part:.0f} %" for name, part in shown)


def _name_of(season: int | None, share: float, of: str) -> str:
    """Of the naive forecast; the `share` with a season is one `of` something."""
    if season is None:
        return "the naive forecast (last value)"
    without = f"{1 - share:.0%}"
    rest = f"; last value in {without} {of}" if without != "0%" else ""
    return f"the seasonal naive ({season} steps{rest})"


def mean_of(scores: Float[Tensor, "N V"] | None) -> float | None:
    """Over series and components, without those that are not finite; None where there are none."""
    if scores is None or not bool(scores.isfinite().any()):
        return None
    return float(scores[scores.isfinite()].mean())


def rows_of(scores: Mapping[str, Float[Tensor, "N V"]], components: tuple[str, ...]) -> tuple[Row, ...]:
    """By series and component, from scores by name: "naive", "before", "kept"; None where unknown."""
    if "kept" not in scores:
        return ()
    missing = scores["kept"].new_full(scores["kept"].shape, float("nan"))
    naive, before, kept = (scores.get(name, missing).tolist() for name in ("naive", "before", "kept"))
    return tuple(
        (series, component, _known(naive[series][v]), _known(before[series][v]), _known(row[v]))
        for series, row in enumerate(kept)
        for v, component in enumerate(components)
    )


def _known(score: float) -> float | None:
    return score if isfinite(score) else None
