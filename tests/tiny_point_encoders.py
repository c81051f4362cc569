"""Checkpoints of MOMENT and UniTS with random weights, in the hub's layout: patches of 4 steps, two layers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from momentfm import MOMENT
from safetensors.torch import save_file
from tiny_encoders import save_random

from darts_msft.backbones.units import UnitsBackbone

MOMENT_T5 = {
    "d_model": 16,
    "d_kv": 7,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "vocab_size": 8,
    "dropout_rate": 0.1,
    "feed_forward_proj": "gated-gelu",
}
MOMENT_CONFIG = {
    "d_model": None,
    "model_name": "MOMENT",
    "patch_len": 4,
    "patch_stride_len": 4,
    "seq_len": 96,
    "t5_config": MOMENT_T5,
    "task_name": "reconstruction",
    "transformer_backbone": "google/flan-t5-small",
    "transformer_type": "encoder_only",
}
"""As config.json on the hub, but for its sizes."""
UNITS_CONFIG = {"prompt_num": 2, "patch_len": 4, "e_layers": 2, "d_model": 16, "n_heads": 2}


def random_moment(**changes: Any) -> MOMENT:
    """momentfm's own module; `changes` go on top of the configuration."""
    settings = {**MOMENT_CONFIG, "d_model": MOMENT_T5["d_model"], "enable_gradient_checkpointing": False, **changes}
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = MOMENT({}, model_kwargs=settings)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return module.eval()


def save_moment(directory: Path, **options: Any) -> None:
    """With the pretrained head and T5's embeddings of words, as on the hub."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**MOMENT_CONFIG, **options}))
    save_file(random_moment().state_dict(), directory / "model.safetensors")


def save_masked_moment(directory: Path) -> None:
    save_moment(directory, masked_horizon=True)


def save_units(directory: Path) -> None:
    save_random(UnitsBackbone, UNITS_CONFIG, directory)
