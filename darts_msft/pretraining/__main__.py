"""`python -m darts_msft.pretraining --out runs/tiny`: pretrains a small MoiraiModule on synthetic series.

The run resumes when the directory holds one; the averaged weights are in `<out>/export`. The same command on the same
machine with the same packages gives the same weights.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from darts_msft.pretraining.settings import Settings
from darts_msft.pretraining.train import Pretraining, train_together

PROGRAM = "python -m darts_msft.pretraining"
SIZES = ("width", "layers")  # settings in which runs that go on together may differ


def at_least(low: int) -> Callable[[str], int]:
    """For argparse: whole numbers from `low` on."""

    def whole_number(text: str) -> int:
        if (value := int(text)) < low:
            raise argparse.ArgumentTypeError(f"must be at least {low}, got {value}")
        return value

    return whole_number


def device_here(text: str) -> str:
    """For argparse: the name of a device that this machine and this torch have."""
    try:
        torch.zeros(1, device=text).item()  # "meta" has no values
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled for it
        raise argparse.ArgumentTypeError(f"{text!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return text


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    text = "directory of the run; several: models of several sizes (--width, --layers) learn from the same batches"
    parser.add_argument("--out", type=Path, required=True, nargs="+", help=text)
    parser.add_argument("--threads", type=at_least(0), default=0, help="CPU threads; 0 takes all")
    parser.add_argument("--log-every", type=at_least(1), default=100, help="steps between log lines")
    parser.add_argument("--save-every", type=at_least(1), default=500, help="steps between checkpoints")
    for field in fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        kind = device_here if field.name == "device" else type(field.default)
        text = f"{field.metadata['help']} (default: %(default)s)"
        several: dict[str, Any] = {"nargs": "+"} if field.name in SIZES else {}
        parser.add_argument(flag, type=kind, default=field.default, help=text, **several)
    parser.add_argument("--any-order", action="store_true", help="on CUDA: faster sums; no two runs are the same")
    return parser


def settings_of(arguments: argparse.Namespace) -> list[Settings]:
    """Of each run, in the order of `--out`; one size given is that of all."""
    count, asked = len(arguments.out), {}
    for field in fields(Settings):
        value = getattr(arguments, field.name)
        values = value if isinstance(value, list) else [value]
        if len(values) not in (1, count):
            raise ValueError(f"{field.name} must be one number or one for each of {count} directories, got {values}")
        asked[field.name] = values * (count // len(values))
    return [Settings(**{name: values[i] for name, values in asked.items()}) for i in range(count)]


def make_repeatable(device: str) -> None:
    """Same command, same weights, also on CUDA.

    Strict on purpose: with `warn_only=True` torch keeps the backward passes of flash and of memory-efficient attention
    nondeterministic; without, it takes their deterministic variants, and stops with an error where an operation has
    none. (No operation of a step is on torch's list of those; this mode has not been run on a GPU yet.)
    """
    if device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # for debugging; slow


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        settings = settings_of(arguments)
    except ValueError as error:
        parser.error(str(error))
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every shape, and every batch has its own
    if not arguments.any_order:
        make_repeatable(arguments.device)
    for out in arguments.out:
        if out.exists() and not out.is_dir():
            parser.error(f"argument --out: {out} is a file; give a directory, new or of a run")
    if len(set(arguments.out)) < len(arguments.out):
        parser.error(f"argument --out: every run needs a directory of its own, got {' '.join(map(str, arguments.out))}")
    try:
        runs = [Pretraining(*one) for one in zip(settings, arguments.out, strict=True)]
        for run in runs:
            run.directory.mkdir(parents=True, exist_ok=True)
            run.resume()
    except (OSError, ValueError, ImportError) as error:  # what the user can put right
        sys.exit(f"{PROGRAM}: error: {error}")
    try:
        train_together(runs, arguments.log_every, arguments.save_every)
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")


if __name__ == "__main__":
    main()
