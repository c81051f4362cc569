"""How a pretrained model answers Darts: its module, its fits, and forecasts without one."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.logging import get_logger
from darts.models.forecasting.foundation_model import FoundationModel
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import TorchTrainingSample
from darts.utils.torch import random_method

from darts_msft import arguments, inputs, persistence
from darts_msft.backbones import load_class
from darts_msft.backbones.base import Traits
from darts_msft.building import build_for, build_module, install, weights_kept
from darts_msft.display import one_bar, shows_bars, with_display, without_asides
from darts_msft.ensembles import trained_by_new_ensemble
from darts_msft.gridsearch import Candidates
from darts_msft.lengths import check_lengths
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule
from darts_msft.training.bounds_of_series import learn_bounds
from darts_msft.training.choices import SETTINGS, choose_settings
from darts_msft.training.failed_fits import Stopped, as_before_if_it_fails, train_until_stopped
from darts_msft.training.keep_best import KeepBest
from darts_msft.training.linear_member import fit_linear_member
from darts_msft.training.num_scales import fit_every_scale
from darts_msft.training.report import FitReport
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
from darts_msft.windows_of_batches import Widths

logger = get_logger("darts_msft")


class DartsHooks(FoundationModel):
    """A Darts foundation model that forecasts before `fit`, and whose `fit` ends in the best state that it scored."""

    enable_finetuning: bool | dict[str, list[str]] | None
    trainer_params: dict[str, Any]
    _report_level: int = logging.INFO
    _windows_per_epoch: int | None = WINDOWS_PER_EPOCH  # of a model that an older version saved
    _told_of_double: bool = False
    _many_forecasts: bool = False  # are being made along a series: what they lack is told of at the end
    _refits: bool = False  # along a series though it was never fitted: a candidate of `gridsearch`
    _fit_report: FitReport | None
    _zero_shot_kind: tuple[tuple[int, ...], Any] | None
    _weights_at_hand: dict[str, torch.Tensor] | None

    _search_scales: bool
    pl_module_params: dict[str, Any]
    _model_params: dict[str, Any]
    _linear_solved: dict[str, Any] | None = None
    _judged: dict[Any, Any] | None = None  # what the choices of several models for the same data share
    _began: float  # of the last fit, by `time.perf_counter()`
    _chosen: Mapping[str, int] = MappingProxyType({})  # of what was left open, by the last fit
    _module_settings: dict[str, Any]
    _revision: str | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._zero_shot_only, self._zero_shot_kind, self._weights_at_hand = False, None, None
        self._fit_report, self._chosen, self._began = None, {}, 0.0

    def _create_model(self, train_sample: TorchTrainingSample) -> PLForecastingModule:
        return build_module(self, self._module_settings, self.pl_module_params)

    def _setup_finetuning(self, model: PLForecastingModule) -> None:
        # the method says what trains; a dictionary is the user's own choice of names, as in Darts
        if isinstance(self.enable_finetuning, dict):
            arguments.check_patterns(self.enable_finetuning, [name for name, _ in model.named_parameters()])
            super()._setup_finetuning(model)
        elif self.enable_finetuning is False and isinstance(model, MSFTModule):
            model.freeze()

    def _load_from_checkpoint(self, file_path: str, trusted: bool = False, **kwargs: Any) -> PLForecastingModule:
        model = super()._load_from_checkpoint(file_path, trusted=trusted, **kwargs)
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
        learn_bounds(model, datamodule)
        if validates:
            model.score_in(find_units(datamodule.train_dataset, datamodule.val_dataset))
            fit_linear_member(model, datamodule, self._linear_solved)
        if not self._requires_training:
            super()._train(trainer, model, datamodule, load_best=load_best)
            data = FitData(datamodule, lambda: 0, None)
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
            self._fit_report = replace(self._fit_report, chosen=self._chosen)
            logger.log(self._report_level, "fit: %s", str(self._fit_report).replace("\n", "; "))
            if self._fit_report.warning is not None and self._report_level >= logging.INFO:
                logger.warning(self._fit_report.warning)
        if stopped is not None:
            raise stopped

    def _tell_of_double(self, dtype: np.dtype) -> None:
        """Warns, once a model, of what double precision costs where nobody asked for it."""
        asked = "precision" in (self.model_params.get("pl_trainer_kwargs") or {})
        if dtype == np.float64 and not asked and not self._told_of_double:
            self._told_of_double = True
            logger.warning(
                "series of float64 are computed in double precision, which takes 2 to 3 times as long: give "
                "series.astype(np.float32), or ask for it by pl_trainer_kwargs={'precision': '64-true'}"
            )

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """Darts' `fit`; if it fails, the model stays as it was.

        A user who interrupts it gets the best state that was scored, if any; the program ends, as with Lightning.
        """
        given = signature(FoundationModel.fit).bind(self, *args, **kwargs).arguments
        for name, series in given.items():
            if name.endswith(("series", "covariates")):
                inputs.check_finite(series, name)
        with as_before_if_it_fails(self):
            return super().fit(*args, **kwargs)

    def fit_from_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Darts' `fit_from_dataset`; with `num_scales="auto"` once for every K. If it fails, all stays as it was.

        Of a model without weights of its own, settings that were left open are chosen first, on the validation dataset.
        """
        with as_before_if_it_fails(self, None if self._fresh else self.model):
            self._began, self._chosen = time.perf_counter(), {}
            judged: dict[Any, Any] = {} if self._judged is None else self._judged
            if self._fresh and self._is_pretrained:
                given = signature(super().fit_from_dataset).bind(*args, **kwargs).arguments
                with weights_kept(self), without_asides():
                    self._settle(choose_settings(self, given["train_dataset"], given.get("val_dataset"), judged))
            if self._search_scales and self._requires_training:
                return fit_every_scale(self, judged, *args, **kwargs)
            return super().fit_from_dataset(*args, **kwargs)

    def _settle(self, chosen: dict[str, Any]) -> None:
        if chosen:
            persistence.settle(self, chosen)
        self._chosen = chosen

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

    def _setup_for_fit_from_dataset(self, *args: Any, **kwargs: Any) -> Any:
        weighs = self._module_settings["num_scales"] or self._module_settings["mixing_config"].get("linear_member")
        whole = self.output_chunk_shift + self.output_chunk_length
        check_lengths(self, kwargs["series"], "training", whole if self._requires_training else 0)
        after = whole if self._requires_training or weighs else 0
        check_lengths(self, kwargs["val_series"], "validation", after, "val_series")
        series, parameters = super()._setup_for_fit_from_dataset(*args, **kwargs)
        if self._requires_training:
            warn_of_stride(parameters["train_dataset"].stride, series[0])
        windows = parameters["val_dataset"]
        if windows is not None and (self._requires_training or weighs):
            parameters["val_dataset"] = scored_windows(self, windows, kwargs.get("val_sample_weight"))
        return series, parameters

    def _setup_for_train(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
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
            return FoundationModel._init_trainer(with_display({**defaults, **trainer_params}), max_epochs)

    def _predict(self, *args: Any, **kwargs: Any) -> Any:
        with without_asides():  # and the trainer has a bar: none for what Darts makes of its output
            return super()._predict(*args, **{**kwargs, "verbose": False})

    def load_weights_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super().load_weights_from_checkpoint(*args, **kwargs)
        self._zero_shot_only, self._fit_report, self._search_scales = False, None, False

    def _check_ckpt_parameters(self, tfm_save: Any) -> None:
        super()._check_ckpt_parameters(tfm_save)
        persistence.check_saved(self, tfm_save)

    @property
    def _ckpt_skipped_params(self) -> list[str]:
        own = ["backbone", "revision", "weight_init", "linear_member", "lower", "upper", *SETTINGS]
        own += ["multivariate", "sample_dependence"]
        rates = [name for name in self.model_params if name.startswith("lr_")] + ["windows_per_epoch"]
        return [name for name in super()._ckpt_skipped_params + own + rates if name != "output_chunk_length"]

    supports_past_covariates = property(lambda self: self._traits.past_covariates)
    supports_future_covariates = property(lambda self: self._traits.future_covariates)
    supports_static_covariates = property(lambda self: False)

    # ---------------------------------------------------------------- zero-shot without fit

    def predict(self, n: int, series: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Darts' `predict`; a model that was never fitted forecasts zero-shot and needs `series`."""
        given = signature(super().predict).bind(n, series, *args, **kwargs).arguments
        covariates = given.get("past_covariates"), given.get("future_covariates")
        series = self._prepare_zero_shot(series, *covariates)
        check_lengths(self, series, "a forecast")
        inputs.check_finite(series, last=self.input_chunk_length)
        inputs.check_covariates(*covariates)
        forecast = super().predict(n, series, *args, **kwargs)
        if not self._many_forecasts:
            inputs.tell_of_unknown(forecast, series, self.input_chunk_length)
        return forecast

    def historical_forecasts(self, series: Any, *args: Any, **kwargs: Any) -> Any:
        """Darts' `historical_forecasts`; with `retrain=False` a model that was never fitted forecasts zero-shot.

        Raises ValueError for such a model with another `retrain`, whose fits could take days.
        """
        call = signature(FoundationModel.historical_forecasts).bind(self, series, *args, **kwargs)
        call.arguments.setdefault("verbose", self._shows_bars)
        call.apply_defaults()
        asked = call.arguments
        if not isinstance(asked["retrain"], bool) and asked["retrain"] == 0:
            asked["retrain"] = False
        covariates = asked["past_covariates"], asked["future_covariates"]
        inputs.check_finite(series)
        inputs.check_covariates(*covariates)
        if not asked["retrain"]:
            series = asked["series"] = self._prepare_zero_shot(series, *covariates)
            ahead = 0 if asked["overlap_end"] else self.output_chunk_shift + asked["forecast_horizon"]
            check_lengths(self, series, "a historical forecast", ahead)
        elif self._fresh and not self._refits:
            raise ValueError(
                f"retrain={asked['retrain']!r} would fit this model, which was never fitted, again and again along the "
                "series: pass retrain=False for forecasts of one model, zero-shot or after fit()"
            )
        many, self._many_forecasts = self._many_forecasts, True
        try:
            with one_bar():
                forecasts = super().historical_forecasts(*call.args[1:], **call.kwargs)
        finally:
            self._many_forecasts = many
        inputs.tell_of_unknown(forecasts, series, self.input_chunk_length)
        return forecasts

    def backtest(self, series: Any, *args: Any, **kwargs: Any) -> Any:
        """Darts' `backtest`, of which `historical_forecasts` is a part, with a bar unless the trainer has none."""
        call = signature(FoundationModel.backtest).bind(self, series, *args, **kwargs)
        call.arguments.setdefault("verbose", self._shows_bars)
        return super().backtest(*call.args[1:], **call.kwargs)

    @classmethod
    def gridsearch(cls, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any], float]:
        """Darts' `gridsearch`; with `forecast_horizon` every candidate is fitted again and again along the series."""
        search = FoundationModel.gridsearch.__func__
        model, parameters, error = search(Candidates(cls), *args, **kwargs)
        model._refits = False
        return model, parameters, error

    @property
    def _shows_bars(self) -> bool:
        return shows_bars(self.model_params.get("pl_trainer_kwargs") or {})

    def _prepare_zero_shot(self, series: Any, past_covariates: Any = None, future_covariates: Any = None) -> Any:
        """The series in the type of numbers that the model computes in; without a fit its weights are made for them."""
        if self.model is None and self.__dict__["_fit_called"] and not self._zero_shot_only:
            raise ValueError(
                "this copy of a fitted model has no weights, which Darts leaves out of copies and pickles: use save() "
                "and load(), or fit() it"
            )
        kind = None if series is None else inputs.kind_of(series)
        if kind is None:
            return series
        if self._fresh:
            widths = self._widths(*map(_first, (series, past_covariates, future_covariates)))
            self._make_for(widths, kind[1])
        single = self._require_module().dtype == torch.float32  # for other types Lightning converts the windows
        return inputs.in_type(series, np.dtype("float32") if single else kind[1])

    def _make_for(self, widths: Widths, dtype: np.dtype) -> None:
        if not self._is_pretrained:
            method, backbone = self.model_params["method"], self.model_params["backbone"]
            random = f"method={method!r} starts from random weights"
            why = f"backbone={backbone!r} was pretrained without a head" if find_method(method).pretrained else random
            raise ValueError(f"{why}: it can't forecast before fit(), call that")
        kind = (tuple(widths), dtype)  # plain, to be saved
        if self.model is not None and self._zero_shot_kind == kind:
            return
        self._install_pretrained(widths, dtype.name)
        self._tell_of_double(dtype)
        self._zero_shot_only, self._zero_shot_kind = True, kind

    def _widths(self, series: TimeSeries, past: TimeSeries | None, future: TimeSeries | None) -> Widths:
        """Of a series and its covariates, those of `add_encoders` among them, before any fit."""
        if self.model_params.get("add_encoders"):
            self.encoders = self.initialize_encoders()
            if self.encoders.encoding_available:
                past, future = self.generate_fit_encodings(series, past, future)
        used = (past, self.supports_past_covariates), (future, self.supports_future_covariates)
        return Widths(
            series.n_components, *(one.n_components if one is not None and known else 0 for one, known in used)
        )

    @random_method
    def _install_pretrained(self, widths: Widths, dtype: str) -> None:
        with weights_kept(self):
            dtype = "bfloat16" if dtype == "float16" else dtype  # as Darts does
            module = build_for(self, self._module_settings, self.pl_module_params, widths, dtype)
        install(self, module)

    @property
    def _fresh(self) -> bool:
        """Whether there are no weights but the pretrained ones."""
        return not self.__dict__["_fit_called"] or self.model is None or self._zero_shot_only

    @property
    def _is_pretrained(self) -> bool:
        """Whether there is a model that can forecast before `fit`."""
        return find_method(self._module_settings["method"]).pretrained and self._traits.pretrained_head

    @property
    def _traits(self) -> Traits:
        settings = self._module_settings
        return load_class(settings["architecture"]).traits_of(settings["backbone_config"])

    @property
    def _fit_called(self) -> bool:
        """Darts' own; but an ensemble takes a model with its pretrained weights alone as it takes its other members."""
        called: bool = self.__dict__["_fit_called"]
        trained = trained_by_new_ensemble(self)
        if trained is None or not self._fresh or not self._is_pretrained:
            return called
        return not trained

    @_fit_called.setter
    def _fit_called(self, value: bool) -> None:
        self.__dict__["_fit_called"] = value

    @property
    def supports_probabilistic_prediction(self) -> bool:
        return self.likelihood is not None

    def _require_module(self) -> MSFTModule:
        if not isinstance(self.model, MSFTModule):
            raise ValueError("the model has no weights yet: call fit() or predict(n, series) first")
        return self.model


def _first(series: Any) -> Any:
    return series if series is None or isinstance(series, TimeSeries) else next(iter(series))
