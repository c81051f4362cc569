"""What a finetuned model offers beyond Darts: its report, adapters on disk, and merging them into the weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries

from darts_msft.adapter_files import (
    check_identity,
    check_tensors,
    read_description,
    read_tensors,
    tensors_of,
    write_adapter,
)
from darts_msft.backbones import describe
from darts_msft.module import MSFTModule
from darts_msft.report import FitReport
from darts_msft.selection import Candidate
from darts_msft.weights import load_state, state_hash


class Finetuned:
    """Mixed into `MSFTFoundationModel`: the fit's report, adapters on disk, and merging them into the weights."""

    model: Any
    trainer: Any
    model_params: dict[str, Any]
    pl_module_params: Any
    output_chunk_shift: Any
    _module_settings: dict[str, Any]
    _model_params: dict[str, Any]
    _fit_report: FitReport | None
    _fit_called: bool
    _zero_shot_only: bool
    _random_instance: Any
    untrained_model: Any

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

    def save_adapter(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes what `fit` trained to the directory `path`: adapter.safetensors and adapter.json.

        The pretrained weights are not in it: adapter.json has their name and hash, and the settings that a model must
        share to load it. With `overwrite` an adapter directory may be replaced, nothing else.

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
        origin = {name: self.model_params[name] for name in ("backbone", "revision")}
        tensors = tensors_of(module, module.own_names())
        write_adapter(path, tensors, {**self._identity(), **_kind_of(module)}, origin, overwrite)

    def load_adapter(self, path: str | Path) -> None:
        """Loads what `save_adapter` wrote; the model, fitted or not, then forecasts exactly as the one that saved.

        Raises
        ------
        FileNotFoundError
            If `path` is no adapter directory.
        ValueError
            If the adapter is for other weights or settings, which are named, or not whole; the model stays as it was.
        """
        saved = read_description(path)
        here = {**self._identity(), "n_components": saved.get("n_components"), "dtype": saved.get("dtype")}
        if self._fit_called and not self._zero_shot_only:
            here.update(_kind_of(self._fitted_module("load_adapter")))
        check_identity(path, saved, here)
        tensors = read_tensors(path, saved)
        fresh = not self._fit_called or self._zero_shot_only
        target = self._built_for(saved["n_components"], saved["dtype"]) if fresh else self
        check_tensors(path, tensors, tensors_of(target.model, target.model.own_names()))
        target.model.load_state_dict(tensors, strict=False)
        target._fit_report = None
        self.__dict__.update({**target.__dict__, "_random_instance": self._random_instance})

    def _built_for(self, n_components: int, dtype: str) -> Any:
        """A model of the same arguments with the pretrained weights, as after a fit that trained nothing."""
        built = self.untrained_model()
        chosen, built.enable_finetuning = built.enable_finetuning, False
        built.fit(TimeSeries.from_values(np.zeros((built.input_chunk_length, n_components), dtype=dtype)))
        built.enable_finetuning, built.training_series = chosen, None
        built._setup_finetuning(built.model)
        built.model.to_dtype(getattr(torch, dtype))
        return built

    def merge(self) -> Any:
        """Folds adapters into the backbone's weights where that is exact, and returns the model.

        The forecasts stay (to rounding); the model is then as one of `method="full"`. Methods that have nothing to
        fold, or whose adapters differ between scales, raise ValueError.
        """
        module = self._fitted_module("merge")
        folded = module.method.merge(module.backbone)
        arguments = {**copy.deepcopy(self.model_params), "method": "full"}
        settings = type(self)(**{**arguments, "save_checkpoints": False})._module_settings
        merged = MSFTModule(**copy.deepcopy(settings), **self.pl_module_params)
        merged.to_dtype(module.dtype)
        rest = {k: v for k, v in module.state_dict().items() if not k.startswith(("backbone.", "method."))}
        merged.load_state_dict({**rest, **{f"backbone.{name}": value for name, value in folded.items()}}, strict=True)
        self.model, self._module_settings, self._model_params = merged.to(module.device), settings, arguments
        if self.trainer is not None:
            self.trainer.strategy.connect(merged)  # what save() writes
        return self

    def _fitted_module(self, what: str) -> MSFTModule:
        if not isinstance(self.model, MSFTModule) or not self._fit_called or self._zero_shot_only:
            raise ValueError(f"{what}() needs a model that was finetuned: call fit(), load() or load_adapter() first")
        return self.model

    def _identity(self) -> dict[str, Any]:
        """What another model must share to forecast the same with the same adapter."""
        source, _, _ = describe(self.model_params["backbone"], self.model_params["revision"])
        settings = {name: value for name, value in self._module_settings.items() if name != "learning_rates"}
        mixing = {name: value for name, value in settings["mixing_config"].items() if name != "weight_init"}
        length = self.model_params["input_chunk_length"]
        return {
            **settings,
            "mixing_config": mixing,
            "input_chunk_length": length if isinstance(length, int) else list(length),
            "output_chunk_length": self.model_params["output_chunk_length"],
            "output_chunk_shift": self.output_chunk_shift,
            "likelihood": repr(self.pl_module_params["likelihood"]),
            "backbone_sha256": state_hash(load_state(source)),
        }


def _kind_of(module: MSFTModule) -> dict[str, Any]:
    return {"n_components": module.n_targets, "dtype": str(module.dtype).removeprefix("torch.")}
