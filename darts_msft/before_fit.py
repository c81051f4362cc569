"""How a pretrained model forecasts through Darts, before any fit too."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.logging import get_logger
from darts.models.components.huggingface_connector import HuggingFaceConnector
from darts.models.forecasting.foundation_model import FoundationModel
from darts.utils.torch import random_method

from darts_msft import inputs
from darts_msft.backbones import find_source, load_class
from darts_msft.backbones.base import Traits
from darts_msft.building import build_for, install, weights_kept
from darts_msft.display import one_bar, shows_bars
from darts_msft.ensembles import trained_by_new_ensemble
from darts_msft.lengths import check_lengths
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule
from darts_msft.plans import longest_context
from darts_msft.scales.pyramid import reach
from darts_msft.signatures import as_in_darts
from darts_msft.windows_of_batches import Widths

logger = get_logger("darts_msft")


class PretrainedModel(FoundationModel):
    """A Darts foundation model that forecasts before `fit`."""

    enable_finetuning: bool | dict[str, list[str]] | None
    trainer_params: dict[str, Any]
    pl_module_params: dict[str, Any]
    _model_params: dict[str, Any]
    _module_settings: dict[str, Any]
    _revision: str | None
    _told_of_double: bool = False
    _many_forecasts: bool = False  # are being made along a series: what they lack is told of at the end
    _refits: bool = False  # along a series though it was never fitted: a candidate of `gridsearch`
    _zero_shot_only: bool = False
    _zero_shot_kind: tuple[tuple[int, ...], Any] | None = None
    _told_of_unheard: bool = False
    _weights_at_hand: dict[str, torch.Tensor] | None = None

    supports_past_covariates = property(lambda self: self._traits.past_covariates)
    supports_future_covariates = property(lambda self: self._traits.future_covariates or self._may_have_linear)
    supports_static_covariates = property(lambda self: False)

    @property
    def hf_connector(self) -> HuggingFaceConnector:
        """Darts' reader of the checkpoint's files, where they are on the hub or in a directory."""
        source = find_source(self.model_params["backbone"], self._revision)
        local = None if source.kind == "hub" else Path(source.location).expanduser()
        return HuggingFaceConnector(self.model_params["backbone"] if local else source.location, source.revision, local)

    @as_in_darts
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
            inputs.tell_of_unknown(forecast, self.training_series if series is None else series, self._reach)
        return forecast

    @as_in_darts
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
        inputs.tell_of_unknown(forecasts, series, self._reach)
        return forecasts

    @as_in_darts
    def backtest(self, series: Any, *args: Any, **kwargs: Any) -> Any:
        """Darts' `backtest`, of which `historical_forecasts` is a part, with a bar unless the trainer has none."""
        call = signature(FoundationModel.backtest).bind(self, series, *args, **kwargs)
        call.arguments.setdefault("verbose", self._shows_bars)
        return super().backtest(*call.args[1:], **call.kwargs)

    @as_in_darts
    def to_onnx(self, *args: Any, **kwargs: Any) -> None:
        """Darts' `to_onnx`: the forecast's raw parameters (`predict_likelihood_parameters`), or points, of one window.

        Raises ValueError for point forecasts of an encoder that has a distribution, whose medians are sought.
        """
        if isinstance(self.model, MSFTModule):
            self.model.check_export()
        super().to_onnx(*args, **kwargs)

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
            self._check_heard(widths.future > 0, learns=False)
            self._make_for(widths, kind[1])
        given = (past_covariates, future_covariates, self.model_params.get("add_encoders"))
        self._tell_of_unheard(any(one is not None for one in given))
        single = self._require_module().dtype == torch.float32  # for other types Lightning converts the windows
        return inputs.in_type(series, np.dtype("float32") if single else kind[1])

    def _tell_of_unheard(self, given: bool) -> None:
        """Warns, once, where covariates are `given`, or components are to be joint, and nothing hears of them yet."""
        module = self._require_module()
        told = module.linear is not None and module.mixes_linear and module.linear.sees_covariates
        if told or self._told_of_unheard:
            return
        if not module.hears_others and (given or self.model_params.get("multivariate") == "joint"):
            why = (
                "was pretrained on one variate at a time: until fit() trains it, covariates and other components "
                "change nothing in its scales' forecasts (known future covariates reach the linear member, by fit() "
                "with a val_series)"
            )
        elif given and not self._traits.future_covariates:
            why = "has no place for covariates, which change nothing: the linear member "
            why += "found none that tell" if module.mixes_linear else "has no part in the forecast"
        else:
            return
        self._told_of_unheard = True
        logger.warning("backbone=%r %s", self.model_params["backbone"], why)

    def _check_heard(self, future: bool, learns: bool) -> None:
        """Refuses future covariates that can have no effect, as nothing `learns` of them where the encoder doesn't."""
        if future and not learns and not self._traits.future_covariates:
            raise ValueError(
                f"future_covariates have no effect: backbone={self.model_params['backbone']!r} has no place for them, "
                "nor for those of add_encoders; the linear member takes them, by fit() with a val_series"
            )

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

    def _tell_of_double(self, dtype: np.dtype) -> None:
        """Warns, once a model, of what double precision costs where nobody asked for it."""
        asked = "precision" in (self.model_params.get("pl_trainer_kwargs") or {})
        if dtype == np.float64 and not asked and not self._told_of_double:
            self._told_of_double = True
            logger.warning(
                "series of float64 are computed in double precision, which takes 2 to 3 times as long: give "
                "series.astype(np.float32), or ask for it by pl_trainer_kwargs={'precision': '64-true'}"
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
    def _may_have_linear(self) -> bool:
        return bool(self._module_settings["mixing_config"].get("linear_member"))  # version 0.1 had none

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

    @property
    def _reach(self) -> int:
        """How many of the last steps some scale sees."""
        context = longest_context(self.model_params["input_chunk_length"])
        finest = self._module_settings.get("finest_context", context)  # version 0.1 had none
        return reach(context, finest, self._module_settings["num_scales"])

    def _require_module(self) -> MSFTModule:
        if not isinstance(self.model, MSFTModule):
            raise ValueError("the model has no weights yet: call fit() or predict(n, series) first")
        return self.model


def _first(series: Any) -> Any:
    return series if series is None or isinstance(series, TimeSeries) else next(iter(series))
