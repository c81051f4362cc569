"""From an official UniTS checkpoint, a pickle, to a directory with config.json and model.safetensors."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from darts_msft.backbones.units import UnitsBackbone
from darts_msft.storage.weights import CONFIG_FILE, WEIGHTS_FILE, load_strict

PROGRAM = "python -m darts_msft.backbones.units"
HEADS = 8  # of all official models; shapes don't tell
LEFT_OUT = (
    "cls_head.*",
    "cls_token*",
    "category_tokens.*",
    "pretrain_head.*",
    "blocks.*_att_block.proj.*",  # used nowhere
)
"""Patterns of tensors that no forecast needs."""
_EMBEDDING = "patch_embeddings.value_embedding.weight"
_TOKENS = {"prompt_token": "prompt_tokens.", "mask_token": "mask_tokens."}


def convert(file: str | Path, directory: str | Path) -> None:
    """Writes the checkpoint `file` (.pth) to `directory`, which is made.

    The tokens of data sets become one set: their mean over a data set's variates, then over data sets. The file is read
    without running what it holds. ValueError for one that is broken or of something else.
    """
    state, arguments = read(Path(file))
    config = config_of(state, arguments, str(file))
    weights = adapt(state)
    load_strict(UnitsBackbone.from_config(config, config["patch_len"]), weights, str(file))
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under UniTS' names, and the arguments of the training where the file has them."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        raise ValueError(
            f"{str(file)!r} can't be read as a checkpoint of tensors ({reason}): it is broken, cut short or holds more "
            "than tensors; download it again from the releases of github.com/mims-harvard/UniTS"
        ) from error
    whole = found if isinstance(found, Mapping) else {}
    state, arguments = whole.get("student", whole), whole.get("args")
    tensors = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    return tensors, vars(arguments) if isinstance(arguments, argparse.Namespace) else {}


def config_of(state: Mapping[str, Tensor], arguments: Mapping[str, Any], origin: str) -> dict[str, int]:
    """What UniTS calls its sizes, by the shapes of its tensors; the heads by the arguments, if there are any."""
    prompts = [value for name, value in state.items() if name.startswith("prompt_token")]
    if _EMBEDDING not in state or not prompts:
        raise ValueError(
            f"{origin!r} is no UniTS checkpoint: {_EMBEDDING!r} and prompt tokens are needed, found are "
            f"{sorted(state)[:3]}; give a .pth file of the releases of github.com/mims-harvard/UniTS"
        )
    width, patch_len = state[_EMBEDDING].shape
    layers = {int(number.group(1)) for name in state if (number := re.match(r"blocks\.(\d+)\.", name))}
    heads = int(arguments.get("n_heads", HEADS))
    sizes = {"prompt_num": prompts[0].shape[-2], "patch_len": patch_len, "e_layers": len(layers)}
    return {**sizes, "d_model": width, "n_heads": heads}


def adapt(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `UnitsBackbone`; what it doesn't know keeps its name, for strict loading to find."""
    weights = {
        name: value.contiguous().float()
        for name, value in state.items()
        if not any(fnmatchcase(name, pattern) for pattern in LEFT_OUT) and not name.startswith(tuple(_TOKENS.values()))
    }
    for own, prefix in _TOKENS.items():
        sets = [value.float().mean(dim=(0, 1)) for name, value in state.items() if name.startswith(prefix)]
        if sets:
            weights[own] = torch.stack(sets).mean(dim=0)
        elif own in weights:  # of the variant whose tokens all data sets share
            weights[own] = weights[own].flatten(0, -2)
    return weights


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    parser.add_argument("file", help="the official checkpoint, such as units_x128_pretrain_checkpoint.pth")
    parser.add_argument("directory", help="where config.json and model.safetensors are written")
    given = parser.parse_args(arguments)
    try:
        convert(given.file, given.directory)
    except (OSError, ValueError) as error:
        sys.exit(f"{PROGRAM}: {error}")
    sys.stdout.write(f"wrote {CONFIG_FILE} and {WEIGHTS_FILE}; give backbone={str(given.directory)!r}\n")
