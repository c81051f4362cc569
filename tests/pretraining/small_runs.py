"""Pretraining runs that take a second."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from darts_msft.pretraining.settings import Settings
from darts_msft.pretraining.train import Pretraining

SMALL = {"steps": 5, "tokens": 48, "width": 64, "layers": 1, "warmup": 2, "decay": 0.4}
FLAGS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]


def start(directory: Path, **changes: Any) -> Pretraining:
    return Pretraining(Settings(**(SMALL | changes)), directory)


def weights(run: Pretraining) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.module.state_dict().items()}


def same_bits(first: Any, second: Any) -> bool:
    """Nested states are equal to the bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_bits(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_bits, first, second))
    if isinstance(first, Tensor | np.ndarray):
        return bool((torch.as_tensor(first) == torch.as_tensor(second)).all())
    return bool(first == second)
