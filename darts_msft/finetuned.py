"""What the model offers beyond Darts: its scales, the fit's report, adapters on disk, and merging them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import TorchLikelihood
from darts.utils.utils import generate_index
from torch import Tensor

from darts_msft.likelihoods import ScaleMixture
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule
from darts_msft.options import MethodConfig, MixingConfig
from darts_msft.storage.adapter_files import (
    check_identity,
    check_tensors,
    read_description,
    read_tensors,
    tensors_of,
    write_adapter,
)
from darts_msft.storage.weights import state_hash
from darts_msft.training.report import FitReport
from darts_msft.training.selection import Candidate

_OPTION_DEFAULTS = {**MethodConfig().to_dict(), **MixingConfig().to_dict(), "lr_new": None, "lr_omega": None}
_OF_A_MODULE = ("n_components", "dtype", "frozen_sha256")  # what of a model's identity is known once it has weights


class Finetuned:
    """Mixed into `MSFTFoundationModel`: its scales, the fit's report, adapters on disk, and merging them."""

    model: Any
    trainer: Any
    trainer_params: dict[str, Any]
    model_params: dict[str, Any]
    pl_module_params: Any
    output_chunk_shift: Any
    enable_finetuning: bool | dict[str, list[str]] | None
    _module_settings: dict[str, Any]
    _model_params: dict[str, Any]
    _fit_report: FitReport | None
    _fit_called: bool
    _zero_shot_only: bool
    _search_scales: bool
    _revision: str | None
    load_ckpt_path: str | None
    _random_instance: Any
    _init_trainer: Any
    _prepare_zero_shot: Any
    input_chunk_length: Any
    min_input_chunk_length: Any

    @property
    def fit_report(self) -> FitReport | None:
        """What the last `fit` compared, kept and trained, and how long it took; None where nothing was trained."""
        return self._fit_report

    @property
    def candidates(self) -> list[Candidate]:
        """The states that the last `fit` scored on the validation series, with label and score (lower is better).

        The first is the one before the first step; the best is the one that `fit` returned.
        """
        return list(self._fit_report.candidates) if self._fit_report is not None else []

    @property
    def scale_weights(self) -> np.ndarray:
        """The scales' mixing weights, shape (K+1,), summing to 1; all on scale 0 before training."""
        weights: np.ndarray = self._require_module().mixing_weights().detach().cpu().double().numpy()
        return weights

    def scale_forecasts(self, series: TimeSeries) -> list[TimeSeries]:
        """Each scale's point forecast (its median) of the `output_chunk_length` steps after `series`.

        At the original rate, in the series' units; one series a scale (before training: scale 0 alone).
        """
        self._prepare_zero_shot(series)
        context = series.values(copy=False)[-self.input_chunk_length :]
        if len(context) < self.min_input_chunk_length or context.shape[1] != self._require_module().n_targets:
            raise ValueError(
                f"series has {len(context)} steps and {context.shape[1]} components; give at least "
                f"{self.min_input_chunk_length} steps and {self._require_module().n_targets} components"
            )
        missing = self.input_chunk_length - len(context)
        context = np.pad(context, ((missing, 0), (0, 0)), constant_values=np.nan)
        start = series.end_time() + (1 + self.output_chunk_shift) * series.freq
        points = self._require_module().scale_points(torch.as_tensor(context)[None])
        return [
            TimeSeries.from_times_and_values(
                generate_index(start=start, length=len(values), freq=series.freq), values, columns=series.components
            )
            for values in points
        ]

    def _require_module(self) -> MSFTModule:
        if not isinstance(self.model, MSFTModule):
            raise ValueError("the model has no weights yet: call fit() or predict(n, series) first")
        return self.model

    def save_adapter(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes what `fit` trained to the directory `path`: adapter.safetensors and adapter.json.

        The frozen weights are not in it: adapter.json has the backbone's name, the hash of what is frozen in this
        model, and the settings that a model must share to load it. With `overwrite` an adapter directory may be
        replaced, nothing else.

        Raises
        ------
        ValueError
            If the model was not fitted.
        FileExistsError
            If `path` exists, and is no adapter directory or `overwrite` is False.
        """
        module = self._fitted_module("save_adapter")
        if module.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"adapters are float32 or float64, but this model is {module.dtype}: fit float32 series")
        origin = {"backbone": self.model_params["backbone"], "revision": self._revision}
        write_adapter(path, _adapter_of(module), {**self._identity(), **_kind_of(module)}, origin, overwrite)

    def load_adapter(self, path: str | Path) -> None:
        """Loads what `save_adapter` wrote; the model, fitted or not, then forecasts exactly as the one that saved.

        A fit that was to be resumed (`load_from_checkpoint`) is given up; the next `fit` starts from the adapter. A
        model with `num_scales="auto"` that was not fitted takes the adapter's K.

        Raises
        ------
        FileNotFoundError
            If `path` is no adapter directory.
        ValueError
            If the adapter is for other weights or settings, which are named, or not whole; the model stays as it was.
        """
        saved = read_description(path)
        target: Any = self
        if self._fresh:
            # the file says what an unfitted model leaves open; the pretrained weights are read only if all else fits
            left_open = (*_OF_A_MODULE, "num_scales") if self._search_scales else _OF_A_MODULE
            check_identity(path, saved, {**self._identity(), **{name: saved.get(name) for name in left_open}})
            target = self._built_for(saved["n_components"], saved["dtype"], saved["num_scales"])
        check_identity(path, saved, {**target._identity(), **_kind_of(target.model)})
        tensors = read_tensors(path, saved)
        check_tensors(path, tensors, _adapter_of(target.model))
        target.model.load_state_dict(tensors, strict=False)
        target._fit_report, target._search_scales = None, False
        target._replace_module(target.model)
        self._adopt(target)

    def _adopt(self, other: Any, keep: frozenset[str] = frozenset()) -> None:
        """Becomes as `other`, a model of the same class, but for the random numbers and the attributes in `keep`."""
        own = {"_random_instance", *keep}
        self.__dict__.update({name: value for name, value in other.__dict__.items() if name not in own})

    @property
    def _fresh(self) -> bool:
        """Whether there are no weights but the pretrained ones."""
        return not self._fit_called or self.model is None or self._zero_shot_only

    def _built_for(self, n_components: int, dtype: str, num_scales: int) -> Any:
        """A model of the same arguments with the pretrained weights, as after a fit that trained nothing."""
        chosen_scales = {"num_scales": num_scales} if self._search_scales else {}
        built: Any = type(self)(**{**copy.deepcopy(self.model_params), **chosen_scales})
        chosen, built.enable_finetuning = built.enable_finetuning, False
        built.fit(TimeSeries.from_values(np.zeros((built.input_chunk_length, n_components), dtype=dtype)))
        built.enable_finetuning, built.training_series = chosen, None
        built._setup_finetuning(built.model)
        built.model.to_dtype(getattr(torch, dtype))
        return built

    def _replace_module(self, module: MSFTModule) -> None:
        """Makes `module` the one that forecasts and that `save` writes; ends a fit that was to be resumed."""
        if self.trainer is None:
            self.trainer = self._init_trainer(self.trainer_params)
        self.trainer.strategy.connect(module)
        self.model, self.load_ckpt_path, module.unfinished = module, None, None

    def merge(self) -> Any:
        """Folds adapters into the backbone's weights where that is exact, and returns the model.

        The forecasts stay (to rounding). With "lora" and "adalora" the model is then as one of `method="full"`; MSFT
        with one LoRA for all scales (`shared_lora=True`, or K = 0) is then as one of `lora_rank=0`, and keeps its input
        adapters and aggregator. A dictionary given as `enable_finetuning` becomes True: its names may be gone.

        Raises
        ------
        ValueError
            If the model was not fitted, or the method has nothing to fold, or another LoRA for every scale.
        """
        module = self._fitted_module("merge")
        folded = module.method.merge(module.backbone)
        changes = module.method.after_merge
        defaults = _OPTION_DEFAULTS if "method" in changes else {}
        arguments = {**copy.deepcopy(self.model_params), **defaults, **changes}
        if isinstance(self.enable_finetuning, dict):  # patterns of names that are no more
            arguments["enable_finetuning"] = self.enable_finetuning = True
        settings = type(self)(**{**arguments, "save_checkpoints": False})._module_settings
        merged = MSFTModule(**copy.deepcopy(settings), **self.pl_module_params)
        merged.to_dtype(module.dtype)
        kept = merged.state_dict().keys()
        rest = {k: v for k, v in module.state_dict().items() if k in kept and not k.startswith("backbone.")}
        merged.load_state_dict({**rest, **{f"backbone.{name}": value for name, value in folded.items()}}, strict=True)
        self._module_settings, self._model_params = settings, arguments
        self._replace_module(merged.to(module.device))
        return self

    def _fitted_module(self, what: str) -> MSFTModule:
        if self._fresh or not isinstance(self.model, MSFTModule):
            raise ValueError(f"{what}() needs a model that was finetuned: call fit(), load() or load_adapter() first")
        return self.model

    def _identity(self) -> dict[str, Any]:
        """The settings that another model must share to forecast the same with the same adapter."""
        settings = {name: value for name, value in self._module_settings.items() if name != "learning_rates"}
        # how the scales' weights were learned is no part of what they are
        options = set(find_method(settings["method"]).options) - {"weight_learning", "weight_init"}
        own = {
            part: {name: value for name, value in settings[part].items() if name in options}
            for part in ("method_config", "mixing_config")
        }
        length = self.model_params["input_chunk_length"]
        return {
            **settings,
            **own,
            "input_chunk_length": length if isinstance(length, int) else list(length),
            "output_chunk_length": self.model_params["output_chunk_length"],
            "output_chunk_shift": self.output_chunk_shift,
            "likelihood": _likelihood_name(self.pl_module_params["likelihood"]),
        }


def _kind_of(module: MSFTModule) -> dict[str, Any]:
    dtype = str(module.dtype).removeprefix("torch.")
    return dict(zip(_OF_A_MODULE, (module.n_targets, dtype, state_hash(_frozen(module))), strict=True))


def _adapter_of(module: MSFTModule) -> dict[str, Tensor]:
    """What an adapter holds: all that the pretrained weights lack. Random weights are nowhere else: they all are in."""
    return tensors_of(module, module.own_names() if module.method.pretrained else frozenset(module.state_dict()))


def _frozen(module: MSFTModule) -> dict[str, Tensor]:
    """The weights that an adapter lacks and that its forecast rests on, under the bare backbone's names."""
    if not module.method.pretrained:
        return {}
    with module.bare_backbone() as backbone:
        trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
        unused = module.method.spec.unused
        state = backbone.state_dict().items()
        return {name: v for name, v in state if name not in trained and not module.method.matches(name, unused)}


def _likelihood_name(likelihood: TorchLikelihood | None) -> str:
    """Without what the other settings say."""
    if isinstance(likelihood, ScaleMixture):
        return "native" if likelihood.base is None else repr(likelihood.base)
    return repr(likelihood)
