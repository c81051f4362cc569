"""Tiny random checkpoints of the encoders whose layers Darts has, in the hub's layout: both sides can read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from darts_msft.backbones.base import Backbone
from darts_msft.backbones.chronos2 import Chronos2Backbone
from darts_msft.backbones.patchtst_fm import PatchTSTFMBackbone

LEVELS = [0.1, 0.25, 0.5, 0.75, 0.9]


def chronos2_config(patch_size: int = 4, **changes: Any) -> dict[str, Any]:
    """Of config.json; `changes` go to its `chronos_config`."""
    chronos = {
        "context_length": 16 * patch_size,
        "input_patch_size": patch_size,
        "input_patch_stride": patch_size,
        "output_patch_size": patch_size,
        "max_output_patches": 4,
        "quantiles": LEVELS,
        "time_encoding_scale": 16 * patch_size,
        "use_arcsinh": True,
        "use_reg_token": True,
    }
    return {
        "architectures": ["Chronos2Model"],
        "chronos_config": {**chronos, **changes},
        "d_ff": 32,
        "d_kv": 8,
        "d_model": 16,
        "dropout_rate": 0.2,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "num_heads": 3,  # not d_model / d_kv
        "num_layers": 2,
        "rope_theta": 10000.0,
    }


def patchtst_fm_config(patch_size: int = 4, **changes: Any) -> dict[str, Any]:
    """Of config.json."""
    config = {
        "context_length": 24 * patch_size,
        "d_model": 16,
        "d_patch": patch_size,
        "n_head": 2,
        "n_layer": 2,
        "num_quantile": len(LEVELS),
        "quantile_levels": LEVELS,
    }
    return {**config, **changes}


def save_random(cls: type[Backbone], config: dict[str, Any], directory: Path) -> None:
    """Every parameter is random, also those that start at 0 or 1, so that one left out is seen."""
    torch.manual_seed(5)
    backbone = cls.from_config(config, patch_size=4)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(backbone.state_dict(), directory / "model.safetensors")


def save_chronos2(directory: Path, patch_size: int = 4, **changes: Any) -> None:
    save_random(Chronos2Backbone, chronos2_config(patch_size, **changes), directory)


def save_patchtst_fm(directory: Path, patch_size: int = 4, **changes: Any) -> None:
    save_random(PatchTSTFMBackbone, patchtst_fm_config(patch_size, **changes), directory)
