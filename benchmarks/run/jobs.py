"""What is done for an experiment: its settings are chosen on the validation part, then it is measured on the test part.

A choice fits every candidate and takes the one with the lowest MSE (LSF) or CRPS (PF). It is made with seed 0 and
holds for all seeds and test strides. Each candidate is stored as soon as it is done, so that a choice that was stopped
goes on where it ended. Where a model has one candidate alone there is nothing to fit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.data import datasets
from benchmarks.data.datasets import Dataset
from benchmarks.errors import Diverged
from benchmarks.models import load_forecaster
from benchmarks.models.base import FOLLOWED, Forecaster
from benchmarks.run import store as results
from benchmarks.run.experiments import PROTOCOL, Experiment, digest
from benchmarks.run.measures import LEVELS, Measured, measure
from benchmarks.run.processes import peak_memory_mb, processor_seconds, quiet
from benchmarks.run.provenance import provenance, same_code

CHOOSING_SEED = 0
DECIDES = {"lsf": "mse", "pf": "crps"}
ROW = ("settings", "validation", "reason", "seconds")


@dataclass(frozen=True)
class Basis:
    """What an entry rests on, taken before anything is measured. `same` are the hashes that stand beside its key."""

    experiment: Experiment
    dataset: Dataset
    forecaster: Forecaster
    same: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @classmethod
    def of(cls, experiment: Experiment, data: str | Path | None) -> Basis:
        """`data`: the folder of the data files. ValueError where a part has no room for the horizon."""
        dataset = datasets.load(experiment.dataset, experiment.family, data)
        for part in datasets.PARTS:
            dataset.starts(part, experiment.horizon, 1)
        forecaster = forecaster_of(experiment)
        same = {"data_hash": dataset.hash, **standing(forecaster)}
        return cls(experiment, dataset, forecaster, same, provenance())

    def entry(self, kind: str, key: str, **rest: Any) -> dict[str, Any]:
        """An entry of the store; RuntimeError if code or weights are no longer those of the beginning.

        Commits and changes of results, *.md, tests and examples alone don't count (`provenance.COUNTS`).
        """
        now = provenance()
        changed = [] if same_code(self.provenance["commit"], now["commit"]) else ["commit"]
        changed += [] if now["dirty"] == self.provenance["dirty"] else ["dirty"]
        if standing(self.forecaster)["weights"] != self.same["weights"]:
            changed.append("weights")
        if changed:
            raise RuntimeError(
                f"{' and '.join(changed)} changed while {self.experiment} was measured, so nothing is stored; leave "
                "code and weights as they are during a run, and start it again"
            )
        head = {"kind": kind, "key": key, "experiment": self.experiment.to_dict()}
        return {**head, **rest, **self.same, "provenance": self.provenance}


def forecaster_of(experiment: Experiment) -> Forecaster:
    return load_forecaster(experiment.model, experiment.options, experiment.budget)


def standing(forecaster: Forecaster) -> dict[str, Any]:
    """What an entry needs to have in common with the present state, besides key and data."""
    return {"weights": forecaster.weights(), "protocol": PROTOCOL, "defaults": forecaster.defaults_hash()}


def leader_of(experiment: Experiment) -> Experiment | None:
    """The experiment whose choice fixes the settings in `FOLLOWED` of this one; None where it chooses for itself."""
    found = forecaster_of(experiment).leader()
    return None if found is None else replace(experiment, model=found[0], options=found[1], seed=CHOOSING_SEED)


def followed(leader: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a choice takes over from that of its leader, in the words of the choice; None where it has none."""
    if leader is None:
        return None
    settings = {name: leader["chosen"][name] for name in FOLLOWED if name in leader["chosen"]}
    return {"key": leader["key"], "settings": settings}


# ----------------------------------------------------------------------------------------------------- validation part


def only_choice(
    experiment: Experiment, data: str | Path | None, leader: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """The choice where there is one candidate alone, without a fit (its row has no score); else None."""
    basis = Basis.of(experiment, data)
    settings, *others = candidates(basis, leader)
    if others:
        return None
    row = {"settings": settings, "validation": None, "reason": "the only candidate", "seconds": 0.0}
    return _choice(basis, leader, [row], settings)


def choose(
    experiment: Experiment,
    data: str | Path | None,
    leader: Mapping[str, Any] | None,
    folder: str | Path,
    dirty: bool = False,
) -> dict[str, Any]:
    """The settings with the best validation score, and all that were tried.

    leader: the choice that `leader_of` asks for; folder: the store, in which the candidates are kept; dirty: as in
    `results.add`. A candidate that diverges is worse than all others; Diverged if all of them do.
    """
    quiet()
    basis = Basis.of(experiment, data)
    rows = [_tried(basis, settings, folder, dirty) for settings in candidates(basis, leader)]
    finite = [row for row in rows if row["validation"] is not None]
    if not finite:
        raise Diverged(f"every candidate of {experiment} diverged, the first: {rows[0]['reason']}; give other options")
    best = min(finite, key=lambda row: row["validation"][DECIDES[experiment.family]])
    return _choice(basis, leader, rows, best["settings"])


def candidates(basis: Basis, leader: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The settings to choose from, of these the ones that agree with the leader's choice; none is an error."""
    found = basis.forecaster.candidates(basis.dataset, basis.experiment.horizon)
    taken = followed(leader)
    if taken is not None:
        found = [settings for settings in found if taken["settings"].items() <= settings.items()]
    if not found:
        with_settings = "" if taken is None else f" and the settings {taken['settings']} of its leader"
        raise ValueError(
            f"{basis.experiment.model} has no setting for {basis.experiment.dataset} at horizon "
            f"{basis.experiment.horizon} with the options {dict(basis.experiment.options)}{with_settings}; give others"
        )
    return found


def _tried(basis: Basis, settings: Mapping[str, Any], folder: str | Path, dirty: bool) -> dict[str, Any]:
    """A row of the choice, from the store where it is there."""
    key = digest({"choice": basis.experiment.choice_key, "settings": settings})
    entry = results.find(folder, "candidate", key, **basis.same)
    if entry is None:
        entry = basis.entry("candidate", key, settings=dict(settings), **_validated(basis, settings))
        results.add(folder, entry, dirty)
    return {name: entry[name] for name in ROW}


def _validated(basis: Basis, settings: Mapping[str, Any]) -> dict[str, Any]:
    begin, validation, reason = time.perf_counter(), None, None
    try:
        model = fitted(basis, settings, CHOOSING_SEED)
        validation = errors(basis, model, settings, "validation", validation_stride(basis)).metrics
    except Diverged as error:
        reason = f"diverged: {error}"
    return {"validation": validation, "reason": reason, "seconds": time.perf_counter() - begin}


def _choice(
    basis: Basis, leader: Mapping[str, Any] | None, rows: list[dict[str, Any]], chosen: dict[str, Any]
) -> dict[str, Any]:
    return basis.entry(
        "choice",
        basis.experiment.choice_key,
        rows=rows,
        chosen=chosen,
        decided_by=DECIDES[basis.experiment.family],
        dropped=basis.forecaster.dropped(basis.dataset, basis.experiment.horizon),
        followed=followed(leader),
    )


# ----------------------------------------------------------------------------------------------------------- test part


def test(experiment: Experiment, choice: Mapping[str, Any], data: str | Path | None) -> dict[str, Any]:
    """One result: fitted with the settings of this choice, and measured on the test part.

    Raises
    ------
    ValueError
        If the choice was made for another experiment, from other data, weights or defaults, or follows another choice.
    """
    quiet()
    basis = Basis.of(experiment, data)
    wanted = {"key": experiment.choice_key, **basis.same}
    others = [name for name, value in wanted.items() if choice[name] != value]
    leader, taken = leader_of(experiment), choice["followed"] or {"key": None, "settings": {}}
    led_by = None if leader is None else leader.choice_key
    if taken["key"] != led_by or not taken["settings"].items() <= choice["chosen"].items():
        others.append("followed")
    if others:
        raise ValueError(f"the choice for {experiment} is of another {', '.join(others)}; choose again")
    settings = choice["chosen"]
    begin, begin_busy = time.perf_counter(), processor_seconds()
    model = fitted(basis, settings, experiment.seed)
    seconds, busy = time.perf_counter() - begin, processor_seconds() - begin_busy
    measured = errors(basis, model, settings, "test", experiment.test_stride)
    return basis.entry(
        "run",
        experiment.key,
        settings=dict(settings),
        choice_key=experiment.choice_key,
        metrics=measured.metrics,
        windows=measured.windows,
        validation_windows=len(basis.dataset.starts("validation", experiment.horizon, validation_stride(basis))),
        without_msis=measured.without_msis,
        **basis.forecaster.describe(model),
        resolved=basis.forecaster.resolved(model),
        file_hash=basis.dataset.file_hash,
        seconds={"fit": seconds, "forecast": measured.seconds},
        processor_seconds={"fit": busy, "forecast": measured.processor_seconds},
        peak_memory_mb=peak_memory_mb(),
        examples=measured.examples,
    )


# ---------------------------------------------------------------------------------------------------------------- both


def fitted(basis: Basis, settings: Mapping[str, Any], seed: int) -> Any:
    """The model, built and fitted."""
    levels = LEVELS if basis.experiment.family == "pf" else None
    model = basis.forecaster.build(settings, basis.dataset, basis.experiment.horizon, seed, levels)
    basis.forecaster.fit(model, basis.dataset, settings)
    return model


def errors(basis: Basis, model: Any, settings: Mapping[str, Any], part: str, stride: int) -> Measured:
    levels = LEVELS if basis.experiment.family == "pf" else None
    return measure(model, basis.dataset, part, basis.experiment.horizon, stride, settings["look_back"], levels)


def validation_stride(basis: Basis) -> int:
    """Steps between validation windows: as in the test part at its densest, thinned to what the budget allows."""
    experiment = basis.experiment
    densest = experiment.horizon if experiment.family == "pf" else 1
    windows = len(basis.dataset.starts("validation", experiment.horizon, densest))
    return densest * experiment.budget.validation_stride(windows, basis.dataset.season)
