"""Adapters on disk: what a method trained, and what it was trained on top of, without the pretrained weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from darts_msft.storage.weights import state_hash
from darts_msft.storage.whole import named_if_unwritten

FORMAT = "darts-msft-adapter"
FORMAT_VERSION = 1
TENSORS_FILE = "adapter.safetensors"
DESCRIPTION_FILE = "adapter.json"
INFORMATION = ("format", "format_version", "package_version", "backbone", "revision", "tensors_sha256")

WEIGHTS = "frozen_sha256"  # the hash of what is frozen below an adapter


def write_adapter(
    path: str | Path, tensors: Mapping[str, Tensor], identity: Mapping[str, Any], origin: Mapping[str, Any], over: bool
) -> None:
    """Writes an adapter directory, whole or not at all.

    `identity` is what a model must share to load it; `origin` is said for information (backbone, revision). An
    existing path is replaced only if `over` and if it is an adapter directory and nothing else.
    """
    target = Path(path)
    _check_target(target, over)
    owned = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in sorted(tensors.items())}
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "package_version": version("darts-msft")}
    description = {**head, **origin, "tensors_sha256": state_hash(owned), **identity}
    fresh, old = (target.with_name(f".{target.name}.{uuid4().hex}.{end}") for end in ("new", "old"))
    try:
        with named_if_unwritten(target):
            fresh.mkdir(parents=True)
            save_file(owned, fresh / TENSORS_FILE)
            (fresh / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
            _put(fresh, target, old)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _put(fresh: Path, target: Path, old: Path) -> None:
    """Moves the folder `fresh` to `target`; what is there goes to `old`, or stays if that fails."""
    replaced = target.exists()
    if replaced:
        os.replace(target, old)
    try:
        os.replace(fresh, target)
    except OSError:
        if replaced:
            os.replace(old, target)
        raise


def read_description(path: str | Path) -> dict[str, Any]:
    """Content of adapter.json, of a format that this version knows."""
    file = Path(path) / DESCRIPTION_FILE
    if not file.is_file() or not (Path(path) / TENSORS_FILE).is_file():
        raise FileNotFoundError(
            f"{str(path)!r} is no adapter directory: it needs {DESCRIPTION_FILE} and {TENSORS_FILE}; give a directory "
            "that save_adapter(path) wrote"
        )
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON ({error}); save the adapter anew") from error
    found = (description.get("format"), description.get("format_version")) if isinstance(description, dict) else None
    if found != (FORMAT, FORMAT_VERSION):
        raise ValueError(
            f"{file} has format and version {found}, but this darts-msft ({version('darts-msft')}) reads "
            f"{(FORMAT, FORMAT_VERSION)}; save the adapter with this version, or install the one that saved it"
        )
    return dict(description)


def read_tensors(path: str | Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an adapter directory, checked against its description."""
    file = Path(path) / TENSORS_FILE
    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file ({error}); save the adapter anew") from error
    if state_hash(tensors) != description.get("tensors_sha256"):
        raise ValueError(f"{file} does not belong to its {DESCRIPTION_FILE}: its hash differs; save the adapter anew")
    return tensors


def check_identity(path: str | Path, saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses an adapter of another model, naming every field that differs."""
    own = json.loads(json.dumps(here))  # as it would come back from the file
    saved_flat, own_flat = _flatten({k: v for k, v in saved.items() if k not in INFORMATION}), _flatten(own)
    names = sorted(saved_flat.keys() | own_flat.keys(), key=lambda name: (name == WEIGHTS, name))
    differing = {
        name: f"{name}: saved {saved_flat.get(name, 'nothing')!r}, here {own_flat.get(name, 'nothing')!r}"
        for name in names
        if saved_flat.get(name, FORMAT) != own_flat.get(name, FORMAT)
    }
    if differing:
        # another method or type of number has another hash on the same weights too
        what = "another model: the pretrained weights differ" if set(differing) == {WEIGHTS} else "another model"
        raise ValueError(
            f"the adapter {str(path)!r} is for {what}; {'; '.join(differing.values())}. Nothing was loaded: create the "
            "model with the saved settings, on the weights that the adapter was trained on "
            f"({saved.get('backbone')!r}, revision {saved.get('revision')!r}, or what load_weights() put in its place)"
        )


def check_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], of_any_size: str
) -> None:
    """Refuses missing and unexpected tensors, and those of another shape or type.

    Those whose names start with `of_any_size` take the shapes of a fit.
    """
    wanted, kinds = (
        {
            name: f"{'' if name.startswith(of_any_size) else tuple(one.shape)} {one.dtype}"
            for name, one in tensors_.items()
        }
        for tensors_ in (expected, tensors)
    )
    faults = {
        "missing": sorted(wanted.keys() - kinds.keys()),
        "unexpected": sorted(kinds.keys() - wanted.keys()),
        "of another shape or type": [
            f"{name}: saved {kinds[name]}, here {wanted[name]}"
            for name in sorted(kinds.keys() & wanted.keys())
            if kinds[name] != wanted[name]
        ],
    }
    found = [f"{len(names)} {fault} ({', '.join(names[:3])})" for fault, names in faults.items() if names]
    if found:
        raise ValueError(
            f"the tensors of the adapter {str(path)!r} do not fit this model: {'; '.join(found)}. Nothing was loaded: "
            "create the model with the arguments (enable_finetuning too) of the one that saved it"
        )


def tensors_of(module: torch.nn.Module, names: frozenset[str]) -> dict[str, Tensor]:
    """The named entries of a module's state."""
    state = module.state_dict()
    return {name: state[name] for name in names}


def _check_target(target: Path, over: bool) -> None:
    if not os.path.lexists(target):
        return
    ours = {TENSORS_FILE, DESCRIPTION_FILE}
    is_adapter = target.is_dir() and not target.is_symlink() and {file.name for file in target.iterdir()} == ours
    if not is_adapter:
        raise FileExistsError(
            f"{str(target)!r} exists and is not an adapter directory ({' and '.join(sorted(ours))} alone): give a path "
            "that does not exist yet"
        )
    if not over:
        raise FileExistsError(f"{str(target)!r} holds an adapter already: give another path, or overwrite=True")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat
