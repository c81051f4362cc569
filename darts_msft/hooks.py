"""How a pretrained model answers Darts: its module, its fits, and forecasts without one."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.logging import get_logger
from darts.models.forecasting.foundation_model import FoundationModel
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import TorchTrainingSample
from darts.utils.torch import random_method

from darts_msft import arguments, persistence
from darts_msft.building import build_for, build_module, install, weights_kept
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule
from darts_msft.training.keep_best import KeepBest
from darts_msft.training.linear_member import fit_linear_member
from darts_msft.training.num_scales import fit_every_scale
from darts_msft.training.report import FitReport
from darts_msft.training.timing import expected_time_told
from darts_msft.training.units import find_units
from darts_msft.training.untrained import labelled, weigh_scales
from darts_msft.training.windows import OrderedData

logger = get_logger("darts_msft")


class DartsHooks(FoundationModel):
    """A Darts foundation model that forecasts before `fit`, and whose `fit` ends in the best state that it scored."""

    enable_finetuning: bool | dict[str, list[str]] | None
    trainer_params: dict[str, Any]
    _report_level: int = logging.INFO
    _told_of_double: bool = False
    _fit_report: FitReport | None
    _zero_shot_kind: tuple[int, Any] | None
    _weights_at_hand: dict[str, torch.Tensor] | None

    _search_scales: bool
    _module_settings: dict[str, Any]
    _revision: str | None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._zero_shot_only, self._zero_shot_kind, self._weights_at_hand = False, None, None
        self._fit_report = None

    def _create_model(self, train_sample: TorchTrainingSample) -> PLForecastingModule:
        return build_module(self, self._module_settings, self.pl_module_params)

    def _setup_finetuning(self, model: PLForecastingModule) -> None:
        # the method says what trains; a dictionary is the user's own choice of names, as in Darts
        if isinstance(self.enable_finetuning, dict):
            arguments.check_patterns(self.enable_finetuning, [name for name, _ in model.named_parameters()])
            super()._setup_finetuning(model)

    def _load_from_checkpoint(self, file_path: str, trusted: bool = False, **kwargs: Any) -> PLForecastingModule:
        model = super()._load_from_checkpoint(file_path, trusted=trusted, **kwargs)
        self._setup_finetuning(model)
        return model

    def _train(self, trainer: Any, model: Any, datamodule: Any, load_best: bool = False) -> None:
        # `KeepBest` returns to the best state, which may be the pretrained one, that Darts' checkpoints lack
        began = time.perf_counter()
        self._tell_of_double(datamodule.train_dataset[0].past_target.dtype)
        validates = len(datamodule.val_dataloader()) > 0 and trainer.limit_val_batches > 0
        if validates:
            model.score_in(find_units(datamodule.train_dataset, datamodule.val_dataset))
            fit_linear_member(model, datamodule)
        if not self._requires_training:
            super()._train(trainer, model, datamodule, load_best=load_best)
            data = OrderedData(datamodule, lambda: 0)
            self._fit_report = weigh_scales(trainer, model, data, began) if validates else None
        else:
            seed = int(torch.randint(2**31, ()))  # before `seed_everything`'s seed comes back under DDP
            keep = KeepBest(seed, validates, began)
            data = OrderedData(datamodule, lambda: keep.seed)
            told = expected_time_told(trainer, self._report_level)
            with keep.attached_to(trainer), told, model.learning_weights(validates):
                super()._train(trainer, model, data, load_best=load_best and not validates)
            self._fit_report = keep.report  # None where Lightning trains in spawned processes only
        if self._fit_report is not None:
            logger.log(self._report_level, "fit: %s", str(self._fit_report).replace("\n", "; "))
            if self._fit_report.warning is not None and self._report_level >= logging.INFO:
                logger.warning(self._fit_report.warning)

    def _tell_of_double(self, dtype: np.dtype) -> None:
        """Warns, once a model, of what double precision costs where nobody asked for it."""
        asked = "precision" in (self.model_params.get("pl_trainer_kwargs") or {})
        if dtype == np.float64 and not asked and not self._told_of_double:
            self._told_of_double = True
            logger.warning(
                "series of float64 are computed in double precision, which takes 2 to 3 times as long: give "
                "series.astype(np.float32), or ask for it by pl_trainer_kwargs={'precision': '64-true'}"
            )

    def fit_from_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Darts' `fit_from_dataset`; with `num_scales="auto"` once for every K."""
        if self._search_scales and self._requires_training:
            return fit_every_scale(self, *args, **kwargs)
        return super().fit_from_dataset(*args, **kwargs)

    def _setup_for_fit_from_dataset(self, *args: Any, **kwargs: Any) -> Any:
        series, parameters = super()._setup_for_fit_from_dataset(*args, **kwargs)
        windows = parameters["val_dataset"]
        weighs = self._module_settings["num_scales"] or self._module_settings["mixing_config"].get("linear_member")
        if windows is not None and not self._requires_training and weighs:
            parameters["val_dataset"] = labelled(self, windows, kwargs["val_sample_weight"])  # to weigh the scales by
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
        return FoundationModel._init_trainer({**defaults, **trainer_params}, max_epochs)

    def load_weights_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super().load_weights_from_checkpoint(*args, **kwargs)
        self._zero_shot_only, self._fit_report, self._search_scales = False, None, False

    def _check_ckpt_parameters(self, tfm_save: Any) -> None:
        super()._check_ckpt_parameters(tfm_save)
        persistence.check_saved(self, tfm_save)

    @property
    def _ckpt_skipped_params(self) -> list[str]:
        own = ["backbone", "revision", "finest_context", "weight_init", "linear_member"]
        rates = [name for name in self.model_params if name.startswith("lr_")]
        return [name for name in super()._ckpt_skipped_params + own + rates if name != "output_chunk_length"]

    supports_past_covariates = supports_future_covariates = supports_static_covariates = property(lambda self: False)

    # ---------------------------------------------------------------- zero-shot without fit

    def predict(self, n: int, series: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Darts' `predict`; a model that was never fitted forecasts zero-shot and needs `series`."""
        self._prepare_zero_shot(series)
        return super().predict(n, series, *args, **kwargs)

    def historical_forecasts(self, series: Any, *args: Any, **kwargs: Any) -> Any:
        """Darts' `historical_forecasts`; with `retrain=False` a model that was never fitted forecasts zero-shot."""
        if kwargs.get("retrain", True) is False:
            self._prepare_zero_shot(series)
        return super().historical_forecasts(series, *args, **kwargs)

    def _prepare_zero_shot(self, series: TimeSeries | Sequence[TimeSeries] | None) -> None:
        if series is None or not self._fresh:
            return
        method = self.model_params["method"]
        if not find_method(method).pretrained:
            raise ValueError(f"method={method!r} starts from random weights: it can't forecast before fit(), call that")
        first = series if isinstance(series, TimeSeries) else next(iter(series))
        kind = (first.n_components, first.dtype)
        if self.model is not None and self._zero_shot_kind == kind:
            return
        self._install_pretrained(first.n_components, first.dtype.name)
        self._tell_of_double(first.dtype)
        self._zero_shot_only, self._zero_shot_kind = True, kind

    @random_method
    def _install_pretrained(self, n_components: int, dtype: str) -> None:
        with weights_kept(self):
            dtype = "bfloat16" if dtype == "float16" else dtype  # as Darts does
            module = build_for(self, self._module_settings, self.pl_module_params, n_components, dtype)
        install(self, module)

    @property
    def _fresh(self) -> bool:
        """Whether there are no weights but the pretrained ones."""
        return not self._fit_called or self.model is None or self._zero_shot_only

    def _require_module(self) -> MSFTModule:
        if not isinstance(self.model, MSFTModule):
            raise ValueError("the model has no weights yet: call fit() or predict(n, series) first")
        return self.model
