"""Pretrained weights: where they come from, how they are read, and strict loading.

A checkpoint is two files, ``config.json`` and ``model.safetensors``; pickles are never read.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import huggingface_hub
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"

SourceKind = Literal["bundled", "directory", "hub"]

_PICKLE_SUFFIXES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_NAMES_SHOWN = 3
_logger = logging.getLogger("darts_msft")
_licences_shown: set[str] = set()


@dataclass(frozen=True)
class Source:
    """Where a checkpoint lies.

    Parameters
    ----------
    kind
        ``"bundled"`` (ships with the package), ``"directory"`` or ``"hub"``.
    location
        Path of the directory, or a Hugging Face repository id.
    revision
        Hub only: the commit (40 hex digits), tag or branch; ``None`` takes the repository's default branch.
    """

    kind: SourceKind
    location: str
    revision: str | None = None

    def __post_init__(self) -> None:
        kinds = get_args(SourceKind)
        if self.kind not in kinds:
            raise ValueError(f"Source kind {self.kind!r} is unknown: use one of {', '.join(map(repr, kinds))}.")
        if not self.location:
            raise ValueError("Source location '' is empty: give a directory path, or a Hugging Face repository id.")
        if self.revision is not None and self.kind != "hub":
            raise ValueError(
                f"Source revision {self.revision!r} does not apply to kind {self.kind!r}: "
                "leave it out, only 'hub' sources have revisions."
            )

    def __str__(self) -> str:
        at = f" at revision {self.revision}" if self.revision is not None else ""
        return f"{self.kind} checkpoint {self.location!r}{at}"


def bundled(name: str) -> Source | None:
    """Source of the checkpoint ``name`` inside the installed package, or ``None`` if there is none."""
    if name in ("", ".", "..") or Path(name).name != name:
        return None
    folder = CHECKPOINTS / name
    if not all((folder / file).is_file() for file in (CONFIG_FILE, WEIGHTS_FILE)):
        return None
    return Source("bundled", str(folder))


def load_config(source: Source) -> dict[str, Any]:
    """Content of ``config.json``: a fresh copy on every call; hub sources are read once a process.

    Raises
    ------
    OSError
        The directory, the file, the repository or the revision cannot be had.
    ValueError
        The file is not a JSON object.
    """
    if source.kind == "hub":
        return copy.deepcopy(_hub_config(source))
    return _read_config(_locate(source, CONFIG_FILE), source)


def pinned(source: Source) -> Source:
    """The source at the commit that its ``config.json`` came from, where a hub source names none.

    So configuration and weights are of one commit, which goes to the log for `revision=`.
    """
    if source.kind != "hub" or source.revision is not None:
        return source
    folder = _download(source, CONFIG_FILE).parent
    if folder.parent.name != "snapshots":  # not the hub's cache, which names the folder after the commit
        return source
    _logger.info("%s: no commit is pinned, taking %s; revision=%r keeps to it", source, folder.name, folder.name)
    return Source("hub", source.location, folder.name)


def load_state(source: Source) -> dict[str, Tensor]:
    """Tensors of ``model.safetensors`` on the CPU; floating-point ones as float32, others as stored.

    Raises
    ------
    OSError
        The directory, the file, the repository or the revision cannot be had.
    ValueError
        The file is not readable as safetensors.
    """
    path = _locate(source, WEIGHTS_FILE)
    state: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - the file handle is no mapping
                tensor = file.get_tensor(name)
                # copied: what is returned must not alias the mapped file
                state[name] = tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
    except SafetensorError as error:
        raise ValueError(
            f"{path} of the {source} is not a readable safetensors file ({_first_line(error)}): "
            f"it is broken, cut short or only a Git LFS pointer; get it anew with `{_download_command(source)}`."
        ) from error
    return state


def load_strict(module: nn.Module, state: Mapping[str, Tensor], origin: str, dropped: Sequence[str] = ()) -> None:
    """Copy ``state`` into ``module``; names and shapes must agree exactly and every value be finite.

    Parameters
    ----------
    origin
        What the error calls the state, such as ``str(source)``.
    dropped
        Patterns (``fnmatch``) of the names of tensors that are left out on purpose, where there are any.

    Raises
    ------
    ValueError
        Anything disagrees; the module is then left as it was.
    """
    state = {name: tensor for name, tensor in state.items() if not any(fnmatchcase(name, one) for one in dropped)}
    expected = module.state_dict()
    shared = [name for name in expected if name in state]
    misfits = [(name, expected[name].shape, state[name].shape) for name in shared]
    faults = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name}: expected {tuple(want)}, found {tuple(have)}" for name, want, have in misfits if want != have
        ],
        "with NaN or infinite values": [name for name, tensor in state.items() if not tensor.isfinite().all()],
    }
    found = [f"{len(names)} {fault} ({_some(names)})" for fault, names in faults.items() if names]
    if found:
        raise ValueError(
            f"The weights of {origin} do not fit {type(module).__name__}, tensors: {'; '.join(found)}. "
            "Nothing was loaded; give the weights that belong to this configuration, whole and unrenamed."
        )
    module.load_state_dict(dict(state), strict=True)


def state_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (64 hex digits) over names, dtypes, shapes and bytes; the order of ``state`` does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        # one JSON line a tensor: it holds no raw line break, and fixes how many bytes follow
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode() + b"\n")
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def licence_notice(name: str, licence: str, source_url: str) -> None:
    """Log the licence of downloaded weights, once a process and name; as a warning, so that it shows by default."""
    if name in _licences_shown:
        return
    _licences_shown.add(name)
    _logger.warning("The pretrained weights of %s are under %s; terms: %s", name, licence, source_url)


def clear_cache() -> None:
    """Forget configurations read from the hub and licences already shown (the package never does; tests must)."""
    _hub_config.cache_clear()
    _licences_shown.clear()


@lru_cache(maxsize=64)
def _hub_config(source: Source) -> dict[str, Any]:
    return _read_config(_locate(source, CONFIG_FILE), source)


def _read_config(path: Path, source: Source) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON or broken UTF-8
        raise ValueError(
            f"{path} of the {source} is not valid JSON ({_first_line(error)}): "
            f"get it anew with `{_download_command(source)}`."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path} of the {source} holds a JSON {type(config).__name__}, but an object with the model's arguments "
            f"is needed: get it anew with `{_download_command(source)}`."
        )
    return config


def _locate(source: Source, filename: str) -> Path:
    """Path of one of the two files on this machine, downloaded first where the source is the hub."""
    if source.kind == "hub":
        return _download(source, filename)
    folder = Path(source.location).expanduser()
    wanted = f"a checkpoint directory holds {CONFIG_FILE} and {WEIGHTS_FILE}"
    if not folder.exists():
        raise FileNotFoundError(
            f"Checkpoint directory {source.location!r} does not exist: {wanted}; "
            f"make one with `{_download_command(source)}`."
        )
    if not folder.is_dir():
        raise NotADirectoryError(f"Checkpoint {source.location!r} is not a directory: {wanted}; give the one it is in.")
    path = folder / filename
    if not path.is_file():
        raise FileNotFoundError(_missing_file(source, folder, filename, wanted))
    return path


def _missing_file(source: Source, folder: Path, filename: str, wanted: str) -> str:
    message = f"Checkpoint directory {source.location!r} has no {filename}: {wanted}"
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLE_SUFFIXES)
    if pickles and not (folder / WEIGHTS_FILE).is_file():
        return (
            f"{message}; it has only pickled weights ({_some(pickles)}), which are never read: "
            "save them as safetensors (the model's `save_pretrained(directory)`), "
            f"or use `{_download_command(source)}`."
        )
    return f"{message}; get it with `{_download_command(source)}`."


def _download(source: Source, filename: str) -> Path:
    try:
        # looked up at call time, so that a test can put a fake hub in its place
        found = huggingface_hub.hf_hub_download(repo_id=source.location, filename=filename, revision=source.revision)
    except Exception as error:  # the HTTP stack under the library adds error types of its own; none is swallowed
        revision = source.revision if source.revision is not None else "the default branch"
        raise OSError(
            f"Cannot get {filename} of Hugging Face repository {source.location!r} (revision {revision}): "
            f"{_hub_reason(error)}. Without the hub, give a local directory in place of the repository; "
            f"make one where there is network with `{_download_command(source)}`."
        ) from error
    return Path(found)


def _hub_reason(error: Exception) -> str:
    """Why a download failed, in a few words (subclasses before their bases)."""
    reasons: tuple[tuple[type[Exception], str], ...] = (
        (GatedRepoError, "access to the repository is restricted, log in with `hf auth login`"),
        (RepositoryNotFoundError, "the repository does not exist or is private, check its name"),
        (RevisionNotFoundError, "the revision does not exist, give a commit, tag or branch of the repository"),
        (LocalEntryNotFoundError, "the hub cannot be reached (or HF_HUB_OFFLINE is set) and the file is not cached"),
        (
            EntryNotFoundError,
            f"the repository has no such file ({CONFIG_FILE} and {WEIGHTS_FILE} are needed, pickles are never read)",
        ),
        (HFValidationError, "this is not a repository id, which reads 'owner/name'"),
        (ConnectionError, "the hub cannot be reached (or HF_HUB_OFFLINE is set)"),
    )
    for kind, reason in reasons:
        if isinstance(error, kind):
            return reason
    return f"{type(error).__name__}: {_first_line(error)}"


def _download_command(source: Source) -> str:
    """Shell command that makes a local directory of the checkpoint."""
    if source.kind == "bundled":
        return "pip install --force-reinstall darts-msft"
    if source.kind == "directory":
        return f"hf download REPO --local-dir {source.location}"
    revision = f" --revision {source.revision}" if source.revision is not None else ""
    return f"hf download {source.location} --local-dir DIR{revision}"


def _some(names: Sequence[str]) -> str:
    more = f", and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0].strip()
