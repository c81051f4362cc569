"""How a model's module is made from its settings, and how a module becomes the model's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from darts.utils.data.torch_datasets.utils import TorchTrainingSample

from darts_msft.backbones import describe, licence_of
from darts_msft.module import MSFTModule
from darts_msft.storage.weights import licence_notice, load_state
from darts_msft.windows_of_batches import Widths

PRECISIONS = {torch.float32: "32-true", torch.float64: "64-true", torch.bfloat16: "bf16-true"}


def build_module(model: Any, settings: Mapping[str, Any], parameters: Mapping[str, Any]) -> MSFTModule:
    """A module with the pretrained weights, or with those at hand; the model stays as it is.

    `settings` are ours (`Resolved.settings`), `parameters` those of Darts' module.
    """
    module = MSFTModule(**copy.deepcopy(dict(settings)), **parameters)
    if model._weights_at_hand is not None:
        with module.bare_backbone() as backbone:
            backbone.load_state_dict(model._weights_at_hand)
    elif module.method.pretrained:
        source, _, _ = describe(model.model_params["backbone"], model._revision)
        if licence := licence_of(source):
            licence_notice(source.location, licence, f"https://huggingface.co/{source.location}")
        module.load_pretrained(load_state(source), source.location)
    return module


def build_for(
    model: Any, settings: Mapping[str, Any], parameters: Mapping[str, Any], widths: Widths, dtype: str
) -> MSFTModule:
    """As `build_module`, for series of as many components and numbers of `dtype` (a name of torch's)."""
    shapes = _sample(model, widths, dtype).sample_shapes()
    with torch.random.fork_rng(devices=[]):
        module = build_module(model, settings, {**parameters, "train_sample_shape": shapes})
    module.to_dtype(getattr(torch, dtype))
    model._setup_finetuning(module)
    return module


@contextmanager
def weights_kept(model: Any) -> Iterator[None]:
    """What is built meanwhile takes the backbone of the present module, if any: no checkpoint may be at hand."""
    try:
        if isinstance(model.model, MSFTModule):
            with model.model.bare_backbone() as backbone:
                model._weights_at_hand = backbone.state_dict()
        yield
    finally:
        model._weights_at_hand = None


def install(model: Any, module: MSFTModule) -> None:
    """Makes `module` the one that forecasts and that `save` writes; ends a fit that was to be resumed."""
    model.train_sample = _sample(model, module.widths, str(module.dtype).removeprefix("torch."))
    model.output_dim = module.n_targets
    # as Darts has it after a fit
    model._uses_past_covariates, model._uses_future_covariates = module.widths.past > 0, module.widths.future > 0
    model._expect_past_covariates = model._uses_past_covariates and model.past_covariate_series is None
    model._expect_future_covariates = model._uses_future_covariates and model.future_covariate_series is None
    model.pl_module_params["train_sample_shape"] = model.train_sample.sample_shapes()
    model._module_name, model._module_path = type(module).__name__, type(module).__module__
    if "precision" not in (model.model_params.get("pl_trainer_kwargs") or {}):
        model.trainer_params = {**model.trainer_params, "precision": PRECISIONS[module.dtype]}
    if model.trainer is None:
        model.trainer = model._init_trainer(model.trainer_params)
    model.trainer.strategy.connect(module)
    model.model, model.load_ckpt_path, model._fit_called, model._zero_shot_only = module, None, True, False


def _sample(model: Any, widths: Widths, dtype: str) -> TorchTrainingSample:
    """Zeros in the shapes of a training window; numpy has no bfloat16, whose module Darts feeds float16."""
    context, horizon = model.input_chunk_length, model.output_chunk_length
    kind = np.dtype("float16" if dtype == "bfloat16" else dtype)
    steps = {
        "past_target": (context, widths.targets),
        "past_covariates": (context, widths.past),
        "historic_future_covariates": (context, widths.future),
        "future_covariates": (horizon, widths.future),
        "future_target": (horizon, widths.targets),
    }
    return TorchTrainingSample(**{name: np.zeros(shape, kind) for name, shape in steps.items() if shape[1]})
