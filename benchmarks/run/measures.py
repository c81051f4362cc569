"""What is done for an experiment: settings are chosen on the validation part, then measured on the test part.

A choice fits every candidate and takes the one with the lowest MSE (LSF) or CRPS (PF). It is made with seed 0 and
holds for all seeds and test strides.

The measures of LSF are MSE and MAE over windows, steps and variables. Those of PF are, in the data's units:
- crps: the mean weighted quantile loss, for each level 0.1, ..., 0.9 twice the summed pinball loss over the summed
  absolute values, averaged over the levels;
- msis: each variable's mean Winkler score of the 95 % interval over its seasonal naive error in the training part,
  averaged over the variables (the M4 competition's mean scaled interval score);
- coverage: the share of values in the 80 % interval, its ends included.

Quantiles that cross are sorted first, for every model alike (Chernozhukov et al. 2010: no further from the truth). The
point forecast is the median. Axes: N windows, H horizon steps, V variables, Q quantile levels, T time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.metrics import mae, mic, miws, mql, mse
from darts.utils.likelihood_models.base import likelihood_component_names, quantile_names

from benchmarks import data as data_sets
from benchmarks.data import Dataset
from benchmarks.errors import Diverged
from benchmarks.models import load_forecaster
from benchmarks.models.base import Forecaster, Levels
from benchmarks.run import store
from benchmarks.run.experiments import PROTOCOL, Experiment, digest
from benchmarks.run.provenance import peak_memory_mb, processor_seconds, provenance, quiet

CHOOSING_SEED = 0
DECIDES = {"lsf": "mse", "pf": "crps"}
POINT = 0.5
CRPS_LEVELS = tuple(tenths / 10 for tenths in range(1, 10))
WIDE, CENTRAL = (0.025, 0.975), (0.1, 0.9)  # intervals of the MSIS and of the coverage
LEVELS = (WIDE[0], *CRPS_LEVELS, WIDE[1])  # what a probabilistic model forecasts
CHUNK_WINDOWS, CHUNK_VALUES = 256, 2_000_000  # at once: windows, and N * H * V * Q numbers (or samples for Q)
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Basis:
    """What an entry rests on, taken before anything is measured. `same` are the hashes that stand beside its key."""

    experiment: Experiment
    dataset: Dataset
    forecaster: Forecaster
    levels: Levels
    same: Entry
    provenance: Entry

    @classmethod
    def of(cls, experiment: Experiment, data: str | Path | None) -> Basis:
        """`data`: the folder of the data files. ValueError where a part has no room for the horizon."""
        dataset = data_sets.load(experiment.dataset, experiment.family, data)
        for part in data_sets.PARTS:
            dataset.starts(part, experiment.horizon, 1)
        levels = LEVELS if experiment.family == "pf" else None
        same = {"data_hash": dataset.hash, **standing(experiment)}
        return cls(experiment, dataset, forecaster_of(experiment), levels, same, provenance())

    def entry(self, kind: str, key: str, **rest: Any) -> dict[str, Any]:
        head = {"kind": kind, "key": key, "experiment": self.experiment.to_dict()}
        return {**head, **rest, **self.same, "provenance": self.provenance}

    def fitted(self, settings: Entry, seed: int) -> Any:
        model = self.forecaster.build(settings, self.dataset, self.experiment.horizon, seed, self.levels)
        self.forecaster.fit(model, self.dataset, settings)
        return model

    def validation_stride(self) -> int:
        """Steps between validation windows: as in the test part at its densest, thinned to what the budget allows."""
        densest = self.experiment.horizon if self.experiment.family == "pf" else 1
        windows = len(self.dataset.starts("validation", self.experiment.horizon, densest))
        return densest * self.experiment.budget.validation_stride(windows, self.dataset.season)


def forecaster_of(experiment: Experiment) -> Forecaster:
    return load_forecaster(experiment.model, experiment.options, experiment.budget)


def standing(experiment: Experiment) -> dict[str, Any]:
    """What an entry needs to have in common with the present state, besides key and data."""
    found = forecaster_of(experiment)
    return {"weights": found.weights(), "protocol": PROTOCOL, "defaults": found.defaults_hash()}


def leader_of(experiment: Experiment) -> Experiment | None:
    """The experiment whose choice fixes the settings `followed` of this one; None where it chooses for itself."""
    found = forecaster_of(experiment).leader()
    return None if found is None else replace(experiment, model=found[0], options=found[1], seed=CHOOSING_SEED)


def followed(experiment: Experiment, leader: Entry | None) -> dict[str, Any] | None:
    """What its choice takes over from that of its leader, in the words of the choice; None where it has none."""
    if leader is None:
        return None
    names = forecaster_of(experiment).followed
    return {"key": leader["key"], "settings": {n: v for n, v in leader["chosen"].items() if n in names}}


def choose(experiment: Experiment, data: str | Path | None, leader: Entry | None, folder: str | Path) -> dict[str, Any]:
    """The settings with the best validation score, and all that were tried, each stored in `folder` once it is done.

    leader: the choice that `leader_of` asks for. A candidate that diverges is worse than all others.
    """
    quiet()
    basis, taken = Basis.of(experiment, data), followed(experiment, leader)
    agreed = {} if taken is None else taken["settings"]
    found, dropped = basis.forecaster.candidates(basis.dataset, experiment.horizon)
    found = [settings for settings in found if agreed.items() <= settings.items()]
    if not found:
        raise ValueError(f"no setting of {experiment} agrees with its leader's {agreed}; give other options")
    rows, decides = list[dict[str, Any]](), DECIDES[experiment.family]
    if len(found) == 1:
        rows = [{"settings": found[0], "validation": None, "reason": "the only candidate", "seconds": 0.0}]
        best = rows[0]
    else:
        rows = [_tried(basis, settings, folder) for settings in found]
        finite = [row for row in rows if row["validation"] is not None]
        if not finite:
            raise Diverged(f"every candidate of {experiment} diverged, the first: {rows[0]['reason']}; give others")
        best = min(finite, key=lambda row: row["validation"][decides])
    choice = {"rows": rows, "chosen": best["settings"], "decided_by": decides, "dropped": dropped}
    return basis.entry("choice", experiment.choice_key, **choice, followed=taken)


def _tried(basis: Basis, settings: dict[str, Any], folder: str | Path) -> dict[str, Any]:
    """A row of the choice, from the store where it is there."""
    key = digest({"choice": basis.experiment.choice_key, "settings": settings})
    entry = store.find(folder, "candidate", key, **basis.same)
    if entry is None:
        begin, validation, reason = time.perf_counter(), None, None
        try:
            model = basis.fitted(settings, CHOOSING_SEED)
            stride = basis.validation_stride()
            found = measure(basis.forecaster, model, basis.dataset, "validation", stride, basis.levels)
            validation = found["metrics"]
        except Diverged as error:
            reason = f"diverged: {error}"
        row = {"settings": settings, "validation": validation, "reason": reason}
        entry = basis.entry("candidate", key, **row, seconds=time.perf_counter() - begin)
        store.add(folder, entry)
    return {name: entry[name] for name in ("settings", "validation", "reason", "seconds")}


def test(experiment: Experiment, choice: Entry, data: str | Path | None) -> dict[str, Any]:
    """One result: fitted with the settings of this choice, and measured on the test part."""
    quiet()
    basis, settings = Basis.of(experiment, data), choice["chosen"]
    begin, begin_busy = time.perf_counter(), processor_seconds()
    model = basis.fitted(settings, experiment.seed)
    seconds, busy = time.perf_counter() - begin, processor_seconds() - begin_busy
    found = measure(basis.forecaster, model, basis.dataset, "test", experiment.test_stride, basis.levels)
    return basis.entry(
        "run",
        experiment.key,
        settings=dict(settings),
        choice_key=experiment.choice_key,
        validation_windows=len(basis.dataset.starts("validation", experiment.horizon, basis.validation_stride())),
        **basis.forecaster.describe(model),
        resolved=basis.forecaster.resolved(model),
        file_hash=basis.dataset.file_hash,
        seconds={"fit": seconds, "forecast": found.pop("seconds")},
        processor_seconds={"fit": busy, "forecast": found.pop("processor_seconds")},
        peak_memory_mb=peak_memory_mb(),
        **found,
    )


def measure(
    forecaster: Forecaster, model: Any, data: Dataset, part: str, stride: int, levels: Levels
) -> dict[str, Any]:
    """A fitted model's errors over a part's windows, and what forecasting took.

    without_msis: the variables whose seasonal naive error in the training part is zero; the MSIS leaves them out.
    """
    horizon, sums = model.output_chunk_length, dict[str, Any]()
    starts = data.starts(part, horizon, stride)
    seconds, busy = 0.0, 0.0
    size = max(1, min(CHUNK_WINDOWS, CHUNK_VALUES // (horizon * len(data.columns) * forecaster.held(levels))))
    for position in range(0, len(starts), size):
        chunk = starts[position : position + size]
        begin, begin_busy = time.perf_counter(), processor_seconds()
        forecasts = np.sort(forecaster.forecast(model, data, chunk, levels), axis=-1)
        seconds, busy = seconds + time.perf_counter() - begin, busy + processor_seconds() - begin_busy
        bad = ~np.isfinite(forecasts).reshape(len(chunk), -1).all(axis=1)
        if bad.any():
            first = f"the first window at step {chunk[int(bad.argmax())]}"
            raise Diverged(f"forecasts of {int(bad.sum())} of {len(chunk)} windows are not finite numbers, {first}")
        errors = errors_of(data.values[np.asarray(chunk)[:, None] + np.arange(horizon)], forecasts, levels)
        sums = {name: sums.get(name, 0) + value for name, value in errors.items()}
    metrics, flat = metrics_of(sums, data, levels)
    took = {"seconds": seconds, "processor_seconds": busy}
    return {"metrics": metrics, "windows": len(starts), "without_msis": flat, **took}


def errors_of(targets: np.ndarray, forecasts: np.ndarray, levels: Levels) -> dict[str, Any]:
    """Sums in double precision over what came (N, H, V), of its quantiles (N, H, V, Q)."""
    middle, count = 0 if levels is None else list(levels).index(POINT), targets.size
    actual, predicted = _in_a_row(targets), _in_a_row(forecasts[..., middle])
    found = {"count": count, "mse": mse(actual, predicted) * count, "mae": mae(actual, predicted) * count}
    if levels is not None:
        names = likelihood_component_names(actual.components, quantile_names(list(levels)))
        predicted = _in_a_row(forecasts.reshape(*targets.shape[:2], -1), names)
        found["size"] = np.abs(targets.astype(np.float64)).sum()
        found["losses"] = mql(actual, predicted, q=list(CRPS_LEVELS)) * count  # twice the pinball losses
        found["covered"] = mic(actual, predicted, q_interval=CENTRAL) * count
        winkler = miws(actual, predicted, q_interval=WIDE, component_reduction=None)  # of one variable a number
        found["winkler"] = np.atleast_1d(winkler) * len(actual)
    return found


def metrics_of(sums: Entry, data: Dataset, levels: Levels) -> tuple[dict[str, float], list[str]]:
    """The measures, and the variables without a seasonal naive error."""
    found = {name: sums[name] / sums["count"] for name in ("mse", "mae")}
    if levels is None:
        return {name: float(value) for name, value in found.items()}, []
    train = data.values[slice(*data.bounds["train"])].astype(np.float64)
    scales = np.abs(train[data.season :] - train[: -data.season]).mean(axis=0)  # seasonal naive errors
    scaled, each = scales > 0, sums["count"] / len(scales)
    if not scaled.any():
        raise ValueError("no variable changes from season to season in the training part: the MSIS has no scale")
    crps = (sums["losses"] / sums["size"]).mean()
    msis = (sums["winkler"][scaled] / each / scales[scaled]).mean()
    found = {"crps": crps, "msis": msis, "coverage": sums["covered"] / sums["count"], **found}
    return {name: float(value) for name, value in found.items()}, [data.columns[i] for i in np.flatnonzero(~scaled)]


def _in_a_row(windows: np.ndarray, names: Sequence[str] | None = None) -> TimeSeries:
    """Windows (N, H, components) one after the other, as one series for Darts' metrics."""
    return TimeSeries.from_values(windows.reshape(-1, windows.shape[-1]).astype(np.float64), columns=names)
