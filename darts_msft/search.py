"""`tune`: a model for those who do not want to choose, within some minutes."""

from __future__ import annotations

import copy
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from darts import TimeSeries
from darts.utils.serialization import safe_globals

from darts_msft.methods import find_method
from darts_msft.model import MSFTFoundationModel
from darts_msft.search_inputs import UNTRAINED, Data, check_asked, data_of, look_backs_of, settings_for
from darts_msft.stacking import StackedEnsemble, unit_of

logger = logging.getLogger("darts_msft")

METHODS = ("msft", "full")
RATES = (0.3, 3.0)  # of the method's own, after 1
MEMBERS = 3  # of an ensemble, at most
HALVING, CLOCK = "halving", "clock"  # what may end a fit early


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    `model` is the one to forecast with: `best`, the best single model, or an ensemble, where that was better on
    validation windows that its weights were not solved on. `table` has a row for each candidate, the best first:
    "look_back", "method", "rate" (times the method's own), "score", "kept" (the state that won), "epochs", "ended_by"
    ("epochs", all that were to be; "halving"; or "clock"), "seconds"; and one with the score of the method "seasonal
    naive", to compare with. The score is the CRPS on the validation series
    over the error, on the training part, of the value one horizon before; that of `fit_report` is in another unit,
    which may differ by look-back. `ensemble_scores` has the ensemble's weights; None where fewer than two models
    differ, or no ensemble was asked for.
    """

    model: MSFTFoundationModel | StackedEnsemble
    best: MSFTFoundationModel
    table: pd.DataFrame
    ensemble_scores: pd.DataFrame | None


def tune(
    series: TimeSeries | Sequence[TimeSeries],
    val_series: TimeSeries | Sequence[TimeSeries],
    horizon: int,
    minutes: float = 10.0,
    folder: str | Path | None = None,
    look_backs: Sequence[int] | None = None,
    methods: Sequence[str] = METHODS,
    max_epochs: int = 8,
    ensemble: bool = True,
    future_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
    random_state: int = 0,
    verbose: bool = True,
    **settings: Any,
) -> Tuned:
    """Tries look-backs, methods and learning rates on validation series until the time is up.

    First a fit of seconds (`method="zero_shot"`) for each look-back, the shortest first; then each method at the best
    look-back; then the best method at other rates, and at the second-best look-back. Patch size, finest context and K
    are chosen within each fit. Training is by successive halving: after 1, 2, 4, ... epochs a candidate goes on if it
    is in the better half of those that came so far. So the table grows with the time that is given.

    Parameters
    ----------
    series
        Training series.
    val_series
        What follows them, one for each, from the next step on: every look-back is scored on all of its steps.
    horizon
        Steps to forecast at once.
    minutes
        Of wall time. No candidate and no epoch begins that would end later, if it took as long as the longest before;
        the first candidate is tried anyway, as is each one's first epoch. Stacking comes on top: some forecasts of each
        member.
    folder
        Where the search is kept: called again with the same arguments, it goes on where it was; a fit that the clock or
        a crash ended begins anew. None: nothing is kept.
    look_backs
        In steps; None: 512, 1,024, 2,048 and 4,096, as far as the shortest training series is four times as long.
    methods
        Those that train: "zero_shot" is tried anyway.
    max_epochs
        Of a candidate that is never stopped.
    ensemble
        Whether three of the best, of different look-backs first, are stacked, and taken where that is better than the
        best one alone.
    future_covariates
        Known ahead, one for each training series, from its first step to the last of its validation series.
    random_state
        Seed of every fit.
    verbose
        Whether a line tells of each candidate, before and after it.
    **settings
        Further arguments of `MSFTFoundationModel`, the same for all candidates, such as `backbone` or `lower`; but a
        candidate goes without what its method has no use for: zero-shot without `lora_rank`, rates, `loss_fn` or a
        `likelihood` that needs a new head. Of objects, such as Lightning's callbacks, each candidate has a copy.
        Past covariates can't be given.

    Raises
    ------
    ModuleNotFoundError
        Without Optuna, with the install line.
    ValueError
        For validation series that do not follow the training series, arguments that are searched or that no method has
        a use for, past covariates, look-backs that with the horizon are longer than a training series, or a folder that
        holds a search of other data or arguments.
    """
    check_asked(horizon, minutes, methods, max_epochs, settings)
    data = data_of(series, val_series, future_covariates)
    ahead = horizon + settings.get("output_chunk_shift", 0)
    backs = look_backs_of(look_backs, min(map(len, data.train)), ahead)
    made = {**settings, "output_chunk_length": horizon, "n_epochs": max_epochs, "random_state": random_state}
    with _quiet(), _kept_in(folder) as place:
        return _found(_searched(data, backs, methods, made, place, minutes, verbose), ensemble)


def _searched(
    data: Data,
    backs: list[int],
    methods: Sequence[str],
    made: dict[str, Any],
    place: Path,
    minutes: float,
    verbose: bool,
) -> _Search:
    """The search in a folder, gone on with for some minutes."""
    space: Space = {"look_back": backs, "method": [UNTRAINED, *methods], "rate": [1.0, *RATES]}
    until = time.monotonic() + 60 * minutes
    study = _study(place, data.mark({**made, **space}))
    search = _Search(study, space, data, made, place, until, verbose)
    search.run(lambda: _next(search.done(), backs, methods))
    return search


def _found(search: _Search, ensemble: bool) -> Tuned:
    """The best models of a search, and the ensemble of them, where it is asked for."""
    table = search.table()
    models = [search.load(number) for number in _members(table)]
    horizon = search.made["output_chunk_length"]
    stacked = None
    if ensemble and len(models) > 1:
        search.tell(f"stacking {len(models)} models")
        stacked = _stack(models, search.data, horizon)
    wins = stacked is not None and np.count_nonzero(np.asarray(stacked.weights)) > 1
    return Tuned(
        model=stacked if wins and stacked is not None else models[0],
        best=models[0],
        table=search.with_naive(table),
        ensemble_scores=None if stacked is None else stacked.scores,
    )


Space = dict[str, Sequence[Any]]
"""What may be chosen, by name, in the order of a `Candidate`."""
Candidate = tuple[int, str, float]
"""Look-back, method, and rate, as a multiple of the method's own."""


def _next(done: dict[Candidate, float], backs: Sequence[int], methods: Sequence[str]) -> Candidate | None:
    """The next candidate, by the scores of those that were tried; None: there is none left."""
    order: list[Candidate] = [(back, UNTRAINED, 1.0) for back in backs]
    if all(one in done for one in order):
        ranked = sorted(backs, key=lambda back: done[back, UNTRAINED, 1.0])
        order += [(ranked[0], method, 1.0) for method in methods]
        if methods and all(one in done for one in order):
            best = min(methods, key=lambda method: done[ranked[0], method, 1.0])
            order += [(ranked[0], best, rate) for rate in RATES]
            order += [(back, best, 1.0) for back in ranked[1:]]
    return next((one for one in order if one not in done), None)


class _Search:
    """A study, with the models of its best candidates in a folder."""

    def __init__(
        self, study: Any, space: Space, data: Data, made: dict[str, Any], folder: Path, until: float, verbose: bool
    ) -> None:
        self.study, self.space, self.data, self.made = study, space, data, made
        self.folder, self.until, self.verbose = folder, until, verbose
        self.units = np.stack([unit_of(one, made["output_chunk_length"]) for one in data.train])  # of every candidate

    def run(self, following: Callable[[], Candidate | None]) -> None:
        while (candidate := following()) is not None:
            untrained = [one.user_attrs["seconds"] for one in self.finished() if one.params["method"] == UNTRAINED]
            if untrained and time.monotonic() + max(untrained) > self.until:  # what each begins with
                return
            self.study.enqueue_trial(dict(zip(self.space, candidate, strict=True)))
            if self.try_one(self.study.ask()) == CLOCK:  # it would only be begun again
                return

    def try_one(self, trial: Any) -> str:
        """Fits a candidate and keeps its model, if it is one of the best; returns what ended it."""
        from optuna.trial import TrialState

        back, method, rate = (trial.suggest_categorical(name, list(choices)) for name, choices in self.space.items())
        model = self.model(back, method, rate)
        title = f"look-back {back}, {method}" + (f", rate times {rate:g}" if rate != 1 else "")
        self.tell(f"{title}; {max(self.until - time.monotonic(), 0) / 60:.1f} minutes left")
        halving = Halving(trial, self.until, self.units)
        model.trainer_params.setdefault("callbacks", []).append(halving)
        begun = time.monotonic()
        try:
            given = {"future_covariates": self.data.known, "val_future_covariates": self.data.known}
            model.fit(self.data.train, val_series=self.data.scored(back), verbose=False, **given)
        finally:
            model.trainer_params["callbacks"].remove(halving)
        report = model.fit_report
        if report is None or report.per_series is None:
            raise ValueError(f"nothing can be scored on the validation series with {back} steps of input")
        kept, naive = (report.per_series[name].to_numpy().reshape(self.units.shape) for name in ("kept", "naive"))
        score = in_units(kept, model.model, self.units)
        if np.isfinite(naive).any():
            trial.set_user_attr("naive", in_units(naive, model.model, self.units))
        told = {"kept": report.kept, "epochs": report.epochs, "ended_by": halving.ended_by}
        for name, value in {**told, "score": score, "seconds": round(time.monotonic() - begun, 1)}.items():
            trial.set_user_attr(name, value)
        model.save(str(self.folder / f"{trial.number}.pt"))
        if halving.ended_by == HALVING:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, score)
        members = _members(self.table())
        for number in {one.number for one in self.study.get_trials(deepcopy=False)}.difference(members):
            for file in (f"{number}.pt", f"{number}.pt.ckpt"):  # others may be the user's
                (self.folder / file).unlink(missing_ok=True)
        self.tell(f"{title}: {score:.4f}, {report.kept}, after {trial.user_attrs['seconds']:.0f} s")
        return halving.ended_by

    def tell(self, line: str) -> None:
        logger.info("tune: %s", line)
        if self.verbose:
            sys.stdout.write(f"tune: {line}\n")
            sys.stdout.flush()

    def model(self, back: int, method: str, rate: float) -> MSFTFoundationModel:
        made = copy.deepcopy(settings_for(method, self.made))  # callbacks have a state
        made |= {"input_chunk_length": back, "method": method}
        if rate != 1:
            optimizer = dict(made.get("optimizer_kwargs") or {})
            optimizer["lr"] = rate * optimizer.get("lr", find_method(method).rates.new)
            made["optimizer_kwargs"] = optimizer
        return MSFTFoundationModel(**made)

    def load(self, number: int) -> MSFTFoundationModel:
        with safe_globals(sorted(_classes(self.made), key=repr)):  # the user's own, such as those of callbacks
            return MSFTFoundationModel.load(str(self.folder / f"{number}.pt"))

    def finished(self) -> list[Any]:
        return [one for one in self.study.get_trials(deepcopy=False) if one.state.name in ("COMPLETE", "PRUNED")]

    def done(self) -> dict[Candidate, float]:
        """Scores of the candidates that need not be tried again."""
        done = [one for one in self.finished() if one.user_attrs["ended_by"] != CLOCK]
        return {tuple(one.params[name] for name in self.space): one.user_attrs["score"] for one in done}

    def table(self) -> pd.DataFrame:
        """By trial, the best first; of a candidate that was tried twice the better."""
        names = ("score", "kept", "epochs", "ended_by", "seconds")
        rows = {
            trial.number: {**trial.params, **{name: trial.user_attrs[name] for name in names}}
            for trial in self.finished()
        }
        table = pd.DataFrame.from_dict(rows, orient="index").sort_values("score", kind="stable")
        return table.drop_duplicates(list(self.space))

    def with_naive(self, table: pd.DataFrame) -> pd.DataFrame:
        """With the best score that the seasonal naive had in a look-back."""
        scores = [one.user_attrs["naive"] for one in self.finished() if "naive" in one.user_attrs]
        if not scores:
            return table.reset_index(drop=True)
        row = {"method": "seasonal naive", "score": min(scores)}
        whole = pd.concat([table.astype({"look_back": "Int64", "epochs": "Int64"}), pd.DataFrame([row])])
        return whole.sort_values("score", kind="stable", ignore_index=True)


class Halving(pl.Callback):
    """Ends a fit that is not in the better half of those that had as many epochs, or that has no time for another."""

    def __init__(self, trial: Any, until: float, units: np.ndarray) -> None:
        self.trial, self.until, self.units = trial, until, units
        self.best, self.ended_by, self.begun, self.longest = float("inf"), "epochs", 0.0, 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = time.monotonic()
        self.longest = max(self.longest, now - self.begun)
        own = pl_module.by_series.numpy()  # type: ignore[operator]
        self.best = min(self.best, in_units(own, pl_module, self.units))
        self.trial.report(self.best, trainer.current_epoch + 1)
        if trainer.current_epoch + 1 == trainer.max_epochs:
            return
        if self.trial.should_prune():
            self.ended_by = HALVING
        elif now + self.longest > self.until:  # another epoch may end later
            self.ended_by = CLOCK
        trainer.should_stop = trainer.should_stop or self.ended_by != "epochs"


def in_units(by_series: np.ndarray, module: Any, units: np.ndarray) -> float:
    """A module's scores by series and component, in these units instead of its own; the mean of what was scored."""
    return float(np.nanmean(by_series * module.units.values / units))


def _members(table: pd.DataFrame) -> list[int]:
    """The best trial of each look-back, as these differ most, then the best that are left; equal states once."""
    distinct = table.drop_duplicates(["look_back", "score"])
    first = distinct.drop_duplicates("look_back").index
    order = [*first, *distinct.index.difference(first, sort=False)]
    return sorted(map(int, order[:MEMBERS]), key=lambda number: table.index.get_loc(number))


def _stack(models: list[MSFTFoundationModel], data: Data, horizon: int) -> StackedEnsemble:
    scored = data.scored(max(model.input_chunk_length for model in models))
    return StackedEnsemble(list(models)).fit(scored, future_covariates=data.known, horizon=horizon)


@contextmanager
def _kept_in(folder: str | Path | None) -> Iterator[Path]:
    if folder is None:
        with TemporaryDirectory() as place:
            yield Path(place)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        yield Path(folder)


def _classes(value: Any) -> set[type]:
    """Of the objects in arguments, and classes that are arguments themselves."""
    if isinstance(value, dict | list | tuple):
        return set().union(*map(_classes, value.values() if isinstance(value, dict) else value))
    found = value if isinstance(value, type) else type(value)
    return set() if found.__module__ == "builtins" else {found}


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna tells of warnings only, and afterwards of what it told of before."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('tune needs Optuna: pip install "darts-msft[tune]"') from error
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _study(folder: Path, mark: str) -> Any:
    """The folder's study, without what an earlier run had begun and not ended."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "search.log"))),
        study_name="tune",
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
        load_if_exists=True,
    )
    if study.user_attrs.get("mark", mark) != mark:
        raise ValueError(f"{folder} holds a search of other series or arguments: give another folder")
    study.set_user_attr("mark", mark)
    for trial in study.get_trials(deepcopy=False):
        if not trial.state.is_finished():
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study
