"""Tiny models for the laws of finetuning methods, and a slow pyramid to hold them against."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract_backbone import random_walks
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import PLModuleInput, TorchTrainingBatch, TorchTrainingSample
from torch import Tensor
from trained_names import matching, patterns_of

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule

CONTEXT, HORIZON, PATCH, SCALES = 22, 6, 4, 2  # at scale 2: 6 context steps in 2 patches, the first half empty
VARIATES = 2


def make_model(directory: Path, method: str, context: int = CONTEXT, **settings: Any) -> MSFTFoundationModel:
    """An unfitted model on a tiny checkpoint; `settings` are its arguments."""
    trainer = {
        "accelerator": os.environ.get("DARTS_MSFT_TEST_ACCELERATOR", "cpu"),  # "cuda": of `make gpu-check`
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        **settings.pop("pl_trainer_kwargs", {}),
    }
    options: dict[str, Any] = {"lora_rank": 2, "prompt_length": 3}
    if settings.get("mixing") != "first":
        options["weight_learning"] = "mixed_loss"  # omega trains
    arguments = {
        "num_scales": SCALES,
        "patch_size": PATCH,
        "linear_member": False,
        "multivariate": "independent",  # as `forecast_apart` has it
        **{name: value for name, value in options.items() if name in find_method(method).options},
        "batch_size": 16,
        "n_epochs": 1,
        "random_state": 0,
        **settings,
    }
    return MSFTFoundationModel(
        context, HORIZON, backbone=str(directory), method=method, pl_trainer_kwargs=trainer, **arguments
    )


def make_module(directory: Path, method: str, context: int = CONTEXT, **settings: Any) -> MSFTModule:
    """The Lightning module behind such a model, with the pretrained weights, as before the first training step."""
    model = make_model(directory, method, context, **settings)
    model.train_sample = TorchTrainingSample(
        past_target=np.zeros((context, VARIATES), dtype=np.float32),
        future_target=np.zeros((HORIZON, VARIATES), dtype=np.float32),
    )
    module = model._init_model()
    assert isinstance(module, MSFTModule)
    return module.eval()


def attached(module: MSFTModule) -> MSFTModule:
    """With all scales running, as in training."""
    module.begin_training()
    return module


@torch.no_grad()
def perturbed(
    module: MSFTModule, groups: tuple[str, ...] = ("pretrained", "new", "lora", "head", "omega")
) -> MSFTModule:
    """Moves what trains away from its start, as training does."""
    generator = torch.Generator().manual_seed(8)
    trained = attached(module).parameter_groups()
    for group in groups:
        for _, parameter in trained[group]:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module


def windows(batch: int = 3, gaps: bool = True) -> Tensor:
    """(B, C, V): what Darts hands over, with missing values and a series that starts late."""
    past = random_walks(batch, VARIATES, CONTEXT).transpose(1, 2).contiguous()
    if gaps:
        past[0, ::5, 0] = torch.nan
        past[0, 4:13, 1] = torch.nan
        past[-1, :10] = torch.nan
    return past


def training_batch(batch: int = 3) -> TorchTrainingBatch:
    future = random_walks(batch, VARIATES, HORIZON, seed=6).transpose(1, 2).contiguous()
    future[0, 1, 0] = torch.nan
    return TorchTrainingBatch(past_target=windows(batch), future_target=future)


def table_of(directory: Path, method: str) -> list[tuple[str, str]]:
    """The hand-written table's (pattern, group) for a method on a checkpoint."""
    _, architecture, config = describe(str(directory))
    return patterns_of(f"{architecture}_masked" if config.get("masked_horizon") else architecture, method)


def what_trains(module: MSFTModule, directory: Path, method: str, **settings: Any) -> dict[str, str]:
    """What of a module made with `settings` trains, with its group, by the hand-written table."""
    groups = matching(dict(module.named_parameters()), table_of(directory, method))
    scales, learning, mixing = (settings.get(name) for name in ("num_scales", "weight_learning", "mixing"))
    fixed = scales == 0 or learning == "uniform" or mixing == "first"
    return {name: group for name, group in groups.items() if not (fixed and group == "omega")}


def free_names(module: MSFTModule) -> set[str]:
    """Names of the parameters that ask for gradients."""
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def gradients_of(module: MSFTModule, of_forecast: bool = False) -> dict[str, Tensor]:
    """Gradients, where there are any, of one training step's loss, or of the sum of all that every scale forecasts."""
    module.train()
    module.zero_grad()
    batch = training_batch()
    outputs = module.forecast_scales(module.window(batch))
    loss = sum(part.sum() for part in outputs.params) if of_forecast else module.training_loss(batch, outputs)
    loss.backward()
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


@torch.no_grad()
def params_of(module: MSFTModule, past: Tensor) -> list[Tensor]:
    """Every scale's standardised parameters (B, V, H_i, R)."""
    params: list[Tensor] = module.forecast_scales(module.window(PLModuleInput(past_target=past))).params
    return params


@torch.no_grad()
def reached_from(module: MSFTModule, scale: int) -> set[int]:
    """The scales whose forecasts change with what `scale` sees."""
    past, adapt_input = windows(gaps=False), module.method.adapt_input
    plain = params_of(module, past)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.method, "adapt_input", lambda x, i: adapt_input(x, i) + (x.cos() if i == scale else 0))
        moved = params_of(module, past)
    return {i for i, (a, b) in enumerate(zip(plain, moved, strict=True)) if not torch.equal(a, b)}


@torch.no_grad()
def predict(module: MSFTModule, past: Tensor) -> Tensor:
    """(B, H, V, Z): the numbers behind the forecast."""
    prediction: Tensor = module(PLModuleInput(past_target=past)).prediction
    return prediction


def pool(past: Tensor, step: int) -> Tensor:
    """(B, C, V) -> (B, V, C / step), one window at a time: means of observed values, groups counted from the end."""
    batch, length, variates = past.shape
    groups = -(-length // step)
    pooled = past.new_full((batch, variates, groups), torch.nan)
    for row in range(batch):
        for variate in range(variates):
            for group in range(groups):
                end = length - group * step
                values = past[row, max(0, end - step) : end, variate]
                values = values[~values.isnan()]
                if len(values):
                    pooled[row, variate, groups - 1 - group] = values.mean()
    return pooled


def series(length: int = 60, seed: int = 2) -> TimeSeries:
    """Two components, hourly."""
    index = pd.date_range("2024-01-01", periods=length, freq="h")
    values = random_walks(1, VARIATES, length, seed=seed)[0].T.numpy()
    return TimeSeries.from_times_and_values(index, values.astype(np.float32))


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    """(time, component, sample): a few samples, the same for the same model."""
    count = 5 if model.supports_probabilistic_prediction else 1
    values: np.ndarray = model.predict(HORIZON, series(48, seed=3), num_samples=count, random_state=0).all_values()
    return values


@contextmanager
def parameters_at_start() -> Iterator[dict[str, Tensor]]:
    """Holds, after a `fit` within, the parameters as they were before the first step."""
    state: dict[str, Tensor] = {}
    on_train_start = MSFTModule.on_train_start

    def record(module: MSFTModule) -> None:
        state.update({name: parameter.detach().clone() for name, parameter in module.named_parameters()})
        on_train_start(module)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MSFTModule, "on_train_start", record)
        yield state
