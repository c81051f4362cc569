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

import torch

from darts_msft.pretraining.train import Pretraining, Settings

PROGRAM = "python -m darts_msft.pretraining"


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
    parser.add_argument("--out", type=Path, required=True, help="directory of the run")
    parser.add_argument("--threads", type=at_least(0), default=0, help="CPU threads; 0 takes all")
    parser.add_argument("--log-every", type=at_least(1), default=100, help="steps between log lines")
    parser.add_argument("--save-every", type=at_least(1), default=500, help="steps between checkpoints")
    for field in fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        kind = device_here if field.name == "device" else type(field.default)
        text = f"{field.metadata['help']} (default: %(default)s)"
        parser.add_argument(flag, type=kind, default=field.default, help=text)
    return parser


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
        settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    except ValueError as error:
        parser.error(str(error))
    make_repeatable(settings.device)
    if arguments.out.exists() and not arguments.out.is_dir():
        parser.error(f"argument --out: {arguments.out} is a file; give a directory, new or of a run")
    try:
        run = Pretraining(settings, arguments.out)
        arguments.out.mkdir(parents=True, exist_ok=True)
        run.resume()
    except (OSError, ValueError, ImportError) as error:  # what the user can put right
        sys.exit(f"{PROGRAM}: error: {error}")
    try:
        run.run(arguments.log_every, arguments.save_every)
    except (OSError, FloatingPointError) as error:
        sys.exit(f"{PROGRAM}: error: {error}")


if __name__ == "__main__":
    main()
