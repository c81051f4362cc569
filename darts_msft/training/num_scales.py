"""`num_scales="auto"`: a fit for every K, and the one that is best on the validation series."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import replace
from math import inf
from typing import Any

from darts_msft.building import install
from darts_msft.groups import TooLong
from darts_msft.training.choices import SETTINGS
from darts_msft.training.failed_fits import Stopped

logger = logging.getLogger("darts_msft")


def fit_every_scale(
    model: Any, judged: dict[Any, Any], train_dataset: Any, val_dataset: Any = None, trainer: Any = None, **kwargs: Any
) -> Any:
    """Fits models with K = 0, 1, ... up to that of `model` alike, and turns `model` into the best of them.

    The K with the lowest validation score wins, the smaller one on a tie; from then on the model has this K. `judged`
    is what the choices of settings share. A user who stops it gets the best of what was fitted so far.
    """
    if val_dataset is None:
        raise ValueError(
            "num_scales='auto' picks K by the validation score, but there is no validation series: pass "
            "fit(series, val_series=...), or give num_scales as a number or None"
        )
    if trainer is not None:
        raise ValueError(
            "num_scales='auto' fits several times, each with a Trainer of its own, but trainer=... was given: pass its "
            "settings as pl_trainer_kwargs of the model, or give num_scales as a number or None"
        )
    trials = _trials(model, judged)
    state = model._random_instance.get_state()
    scores: dict[int, float] = {}
    best, stopped, refused = None, None, None
    for scales in sorted(trials, reverse=True):  # what the choices of the largest K found has the smaller ones' in it
        trial = trials.pop(scales)  # only the best one stays in memory
        trial._random_instance.set_state(state)
        try:
            trial.fit_from_dataset(train_dataset, val_dataset, **copy.deepcopy(kwargs))  # Darts takes some out
        except TooLong as error:  # of too many variates
            logger.info("num_scales='auto' leaves %d out: %s", scales, error)
            refused = error
            continue
        except Stopped as error:
            stopped = error
        score = trial.fit_report.best
        scores[scales] = inf if score is None else score
        if score is not None and (best is None or score <= best.fit_report.best):
            best = trial
        if stopped is not None:
            break
    scores = dict(sorted(scores.items()))
    if not scores and refused is not None:
        raise refused
    if best is None:
        raise ValueError(
            f"num_scales='auto' found no finite validation score for any K of {list(scores)}: give a validation series "
            "with values in its horizons, or num_scales as a number"
        )
    report = replace(best.fit_report, num_scales_scores=scores, seconds=time.perf_counter() - model._began)
    model._module_settings, model.pl_module_params = best._module_settings, best.pl_module_params
    model.trainer, model._fit_report, model._search_scales = best.trainer, report, False
    model._model_params.update({name: best.model_params[name] for name in SETTINGS})
    install(model, best.model)
    logger.info("num_scales='auto': %s", str(report).replace("\n", "; "))
    if report.warning is not None:
        logger.warning(report.warning)
    if stopped is not None:
        raise stopped
    return model


def _trials(model: Any, judged: dict[Any, Any]) -> dict[int, Any]:
    """A model for each K, but for those at which a scale would have more tokens than the checkpoint takes."""
    trials: dict[int, Any] = {}
    solved: dict[str, Any] = {}  # the linear member is the same for all
    for scales in range(model._module_settings["num_scales"] + 1):
        try:
            trials[scales] = _trial(model, scales)
            trials[scales]._linear_solved, trials[scales]._judged = solved, judged
        except TooLong as error:
            logger.info("num_scales='auto' leaves %d out: %s", scales, error)
    return trials


def _trial(model: Any, num_scales: int) -> Any:
    changes = {"num_scales": num_scales, "model_name": f"{model.model_name}_K{num_scales}"}
    changes["patch_size"] = model._module_settings["patch_size"]  # the same for every K
    trial = type(model)(**{**copy.deepcopy(model.model_params), **changes})
    trial._report_level = logging.DEBUG
    return trial
