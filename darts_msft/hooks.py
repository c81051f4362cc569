"""How a model answers Darts: its module and its fits."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.logging import get_logger
from darts.models.forecasting.foundation_model import FoundationModel
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import TorchTrainingSample
from darts.utils.serialization import add_safe_globals

from darts_msft import arguments, inputs, persistence
from darts_msft.building import build_module, weights_kept
from darts_msft.display import busy, with_display, without_asides
from darts_msft.gridsearch import Candidates
from darts_msft.lengths import check_lengths
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule
from darts_msft.signatures import as_in_darts
from darts_msft.storage.whole import check_whole, in_place_of
from darts_msft.training.bounds_of_series import learn_bounds
from darts_msft.training.choices import SETTINGS, choose_settings
from darts_msft.training.failed_fits import Stopped, as_before_if_it_fails, train_until_stopped
from darts_msft.training.keep_best import KeepBest
from darts_msft.training.linear_member import effects_by_name, fit_linear_member
from darts_msft.training.num_scales import fit_every_scale
from darts_msft.training.report import FitReport
from darts_msft.training.strays import warn_of_strays
from darts_msft.training.timing import expected_time_told
from darts_msft.training.units import find_units
from darts_msft.training.untrained import weigh_scales
from darts_msft.training.windows import (
    WINDOWS_PER_EPOCH,
    FitData,
    FitWindows,
    scored_windows,
    warn_of_stride,
    windows_of,
)
from darts_msft.tuning import TunedModel

logger = get_logger("darts_msft")
FIT_FROM_DATASET = signature(FoundationModel.fit_from_dataset)


class DartsHooks(TunedModel):
    """Its `fit` ends in the best state that it scored."""

    _report_level: int = logging.INFO
    _windows_per_epoch: int | None = WINDOWS_PER_EPOCH  # of a model that an older version saved
    _other_horizon: bool = False  # than that of the saved model whose weights are being loaded
    _fit_report: FitReport | None
    _search_scales: bool
    _linear_solved: dict[str, Any] | None = None
    _judged: dict[Any, Any] | None = None  # what the choices of several models for the same data share
    _began: float  # of the last fit, by `time.perf_counter()`
    _chosen: Mapping[str, int] = MappingProxyType({})  # of what was left open, by the last fit

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._fit_report, self._chosen, self._began = None, {}, 0.0

    def __str__(self) -> str:
        """The arguments that differ from their defaults."""
        defaults = arguments.darts_defaults(find_method(self.model_params["method"]).trains)
        defaults |= self._get_default_model_params()
        shown = {
            name: value
            for name, value in self.model_params.items()
            if name not in defaults or np.any(value != defaults[name])
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in shown.items())})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        add_safe_globals([cls])  # what is saved can be loaded

    def _create_model(self, train_sample: TorchTrainingSample) -> PLForecastingModule:
        module = build_module(self, self._module_settings, self.pl_module_params)
        module.takes_other_horizon = self._other_horizon
        return module

    def _setup_finetuning(self, model: PLForecastingModule) -> None:
        # the method says what trains; a dictionary is the user's own choice of names, as in Darts
        if isinstance(self.enable_finetuning, dict):
            arguments.check_patterns(self.enable_finetuning, [name for name, _ in model.named_parameters()])
            super()._setup_finetuning(model)
        elif self.enable_finetuning is False and isinstance(model, MSFTModule):
            model.freeze()

    def _load_from_checkpoint(self, file_path: str, trusted: bool = False, **kwargs: Any) -> PLForecastingModule:
        check_whole(file_path)
        model = super()._load_from_checkpoint(file_path, trusted=trusted, **kwargs)
        if (loss_fn := self.model_params.get("loss_fn")) is not None:
            for name in ("criterion", "train_criterion", "val_criterion"):  # Darts' module is built with its own
                setattr(model, name, copy.deepcopy(loss_fn))
        self._setup_finetuning(model)
        return model

    def _train(self, trainer: Any, model: Any, datamodule: Any, load_best: bool = False) -> None:
        with without_asides():
            self._train_and_compare(trainer, model, datamodule, load_best)

    def _train_and_compare(self, trainer: Any, model: Any, datamodule: Any, load_best: bool) -> None:
        # `KeepBest` returns to the best state, which may be the pretrained one, that Darts' checkpoints lack
        stopped: Stopped | None = None
        self._tell_of_double(datamodule.train_dataset[0].past_target.dtype)
        validates = len(datamodule.val_dataloader()) > 0 and trainer.limit_val_batches > 0
        self._check_heard(model.widths.future > 0, validates or (model.has_linear and model.linear.sees_covariates))
        learn_bounds(model, datamodule)
        if validates:
            model.score_in(find_units(datamodule.train_dataset, datamodule.val_dataset))
            with busy("solving for the linear member", trainer.progress_bar_callback is not None):
                fit_linear_member(model, datamodule, self._linear_solved)
        if not self._requires_training:
            super()._train(trainer, model, datamodule, load_best=load_best)
            data = FitData(datamodule, lambda: 0, None, trains=False)
            self._fit_report = weigh_scales(trainer, model, data, self._began) if validates else None
        else:
            seed = int(torch.randint(2**31, ()))  # before `seed_everything`'s seed comes back under DDP
            keep = KeepBest(seed, validates, self._began)
            data = FitData(datamodule, lambda: keep.seed, self._windows_per_epoch)
            told = expected_time_told(trainer, self._report_level)
            train = partial(super()._train, trainer, model, data, load_best=load_best and not validates)
            with keep.attached_to(trainer), told, model.learning_weights(validates):
                stopped = train_until_stopped(train, keep)
            if stopped is not None:
                self.model, self.trainer = model, trainer  # as Darts does in the end
            self._fit_report = keep.report  # None where Lightning trains in spawned processes only
        if self._fit_report is not None:
            effects = effects_by_name(model, datamodule.val_dataset)
            self._fit_report = replace(self._fit_report, chosen=self._chosen, effects=effects)
            logger.log(self._report_level, "fit: %s", str(self._fit_report).replace("\n", "; "))
            if self._fit_report.warning is not None and self._report_level >= logging.INFO:
                logger.warning(self._fit_report.warning)
        if stopped is not None:
            raise stopped

    @as_in_darts
    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Darts' `fit`; if it fails, the model stays as it was.

        A user who interrupts it gets the best state that was scored, if any; the program ends, as with Lightning.
        """
        with as_before_if_it_fails(self):
            return super().fit(*args, **kwargs)

    @as_in_darts
    def fit_from_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Darts' `fit_from_dataset`; with `num_scales="auto"` once for every K. If it fails, all stays as it was.

        Of a model without weights of its own, settings that were left open are chosen first, on the validation dataset.
        """
        with as_before_if_it_fails(self, None if self._fresh else self.model):
            self._began, self._chosen = time.perf_counter(), {}
            judged: dict[Any, Any] = {} if self._judged is None else self._judged
            if self._fresh and self._is_pretrained:
                given = FIT_FROM_DATASET.bind(self, *args, **kwargs).arguments
                shown = self._shows_bars and given.get("verbose") is not False
                with weights_kept(self), without_asides(), busy("choosing patch size, finest context and K", shown):
                    self._settle(choose_settings(self, given["train_dataset"], given.get("val_dataset"), judged))
            if self._search_scales and self._requires_training:
                return fit_every_scale(self, judged, *args, **kwargs)
            return super().fit_from_dataset(*args, **kwargs)

    def _settle(self, chosen: dict[str, Any]) -> None:
        if chosen:
            persistence.settle(self, chosen)
        self._chosen = chosen

    def generate_fit_encodings(self, series: Any, past_covariates: Any = None, future_covariates: Any = None) -> Any:
        # without training the last window counts too, which ends where the series does
        if self._requires_training:
            return super().generate_fit_encodings(series, past_covariates, future_covariates)
        return self.generate_fit_predict_encodings(1, series, past_covariates, future_covariates)

    def _build_train_dataset(
        self,
        series: Sequence[TimeSeries],
        past_covariates: Any,
        future_covariates: Any,
        sample_weight: Any,
        max_samples_per_ts: int | None,
        stride: int = 1,
    ) -> FitWindows:
        inputs.check_covariates(past_covariates, future_covariates)  # encoders' too
        covariates, labels = (past_covariates, future_covariates), self._requires_training
        return windows_of(self, series, sample_weight, max_samples_per_ts, stride, labels, covariates)

    def _setup_for_fit_from_dataset(self, **kwargs: Any) -> Any:
        kwargs = inputs.for_a_fit(kwargs)
        weighs = self._module_settings["num_scales"] or self._may_have_linear
        whole = self.output_chunk_shift + self.output_chunk_length
        check_lengths(self, kwargs["series"], "training", whole if self._requires_training else 0)
        after = whole if self._requires_training or weighs else 0
        check_lengths(self, kwargs.get("val_series"), "validation", after, "val_series")
        warn_of_strays([one for _, one in inputs.named(kwargs["series"])])
        series, parameters = super()._setup_for_fit_from_dataset(**kwargs)
        if self._requires_training:
            warn_of_stride(parameters["train_dataset"].stride, series[0])
        windows = parameters["val_dataset"]
        if windows is not None and (self._requires_training or weighs):
            parameters["val_dataset"] = scored_windows(self, windows, kwargs["series"], kwargs.get("val_sample_weight"))
        return series, parameters

    def _setup_for_train(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        parameters = self._set_up_for_train(*args, **kwargs)
        if self._tuning is not None:
            parameters["model"].tune(*self._tuning)
        return parameters

    def _set_up_for_train(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self.trainer_params = dict(self.trainer_params)  # Darts adds to it, and it is the caller's own after load()
        if not self._zero_shot_only:
            return super()._setup_for_train(*args, **kwargs)
        # made for one series' width and precision: made anew for the training series
        with weights_kept(self):
            self.model, self._zero_shot_only = None, False
            if "precision" not in (self.model_params.get("pl_trainer_kwargs") or {}):
                self.trainer_params.pop("precision", None)
            return super()._setup_for_train(*args, **kwargs)

    @staticmethod
    def _init_trainer(trainer_params: dict[str, Any], max_epochs: int | None = None) -> Any:
        defaults: dict[str, Any] = {"gradient_clip_val": arguments.GRADIENT_CLIP}
        if torch.backends.mps.is_available():  # lacks the double precision that statistics and scores need
            defaults["accelerator"] = "cpu"
        with without_asides():
            trainer_params = with_display({**defaults, **trainer_params})
            return FoundationModel._init_trainer(trainer_params=trainer_params, max_epochs=max_epochs)

    @as_in_darts
    def save(self, path: str | os.PathLike[str] | None = None, clean: bool = False) -> None:
        """Darts' `save`; if it fails or is killed, what was at `path` stays.

        A model that was loaded and not used since keeps its weights too.
        """
        target = self._default_save_path() + ".pt" if path is None else os.fspath(path)
        idle = self.trainer is None and self.model is not None
        with in_place_of(target) as fresh:
            if idle and not (self.load_ckpt_path and os.path.exists(self.load_ckpt_path)):
                self.trainer = self._init_trainer(self.trainer_params)
                self.trainer.strategy.connect(self.model)
            try:
                super().save(str(fresh), clean)
            finally:
                self.trainer = None if idle else self.trainer
        if self.model is None:  # another model's weights are not this one's
            Path(f"{target}.ckpt").unlink(missing_ok=True)

    @staticmethod
    @as_in_darts
    def load(path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """Darts' `load`; raises ValueError for files that are not as they were written."""
        path = os.fspath(path)
        check_whole(path)
        return FoundationModel.load(path, *args, **kwargs)

    @as_in_darts
    def load_weights(self, path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Darts' `load_weights`; raises ValueError for files that are not as they were written."""
        path = os.fspath(path)
        check_whole(path, f"{path}.ckpt")
        super().load_weights(path, *args, **kwargs)

    def _predict(self, *args: Any, **kwargs: Any) -> Any:
        with without_asides():  # and the trainer has a bar: none for what Darts makes of its output
            return super()._predict(*args, **{**kwargs, "verbose": False})

    def load_weights_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().load_weights_from_checkpoint(*args, **kwargs)
            self._require_module().takes_other_horizon = False
        finally:
            self._other_horizon = False
        self._zero_shot_only, self._fit_report, self._search_scales = False, None, False

    def _check_ckpt_parameters(self, tfm_save: Any) -> None:
        super()._check_ckpt_parameters(tfm_save)
        persistence.check_saved(self, tfm_save)

    @property
    def _ckpt_skipped_params(self) -> list[str]:
        own = ["backbone", "revision", "weight_init", "linear_member", "lower", "upper", *SETTINGS]
        own += ["multivariate", "sample_dependence"]
        rates = [name for name in self.model_params if name.startswith("lr_")] + ["windows_per_epoch"]
        return super()._ckpt_skipped_params + own + rates

    @classmethod
    def gridsearch(cls, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any], float]:
        """Darts' `gridsearch`; with `forecast_horizon` every candidate is fitted again and again along the series."""
        search = FoundationModel.gridsearch.__func__
        model, parameters, error = search(Candidates(cls), *args, **kwargs)
        model._refits = False
        return model, parameters, error
