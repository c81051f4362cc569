"""The settings of a pretraining run."""

import math
from dataclasses import dataclass, field
from typing import Any

from darts_msft.pretraining.objective import CLEAR_BATCHES, PATCH_SIZE_SHARES, parse_shares

VALIDATION_SEED = 1_000_003
RANGES = {  # smallest and largest value of a setting
    "steps": (1, math.inf),
    "tokens": (1, math.inf),
    "layers": (1, math.inf),
    "learning_rate": (0, math.inf),
    "hidden_learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "warmup": (0, math.inf),
    "decay": (0, 1),
    "workers": (0, math.inf),
    "clear": (0, math.inf),
    "rates": (0, 1),
    "seconds": (0, math.inf),
}


def _setting(default: Any, text: str) -> Any:
    """A field with this default, and the help of its flag."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """One pretraining run; every field is a command-line flag of the same name, with its text as the help."""

    steps: int = _setting(12_000, "training steps of the whole run")
    tokens: int = _setting(4096, "tokens (patches) a step, about")
    patch_shares: str = _setting(
        ",".join(f"{patch}:{share}" for patch, share in PATCH_SIZE_SHARES.items()),
        "share of the batches by patch size in steps, as P:SHARE,P:SHARE,...",
    )
    width: int = _setting(128, "of the model; it has width // 64 attention heads")
    layers: int = _setting(6, "encoder layers")
    learning_rate: float = _setting(1e-3, "of AdamW: projections, head, norms")
    hidden_learning_rate: float = _setting(3e-3, "of Muon: the encoder layers' matrices")
    weight_decay: float = _setting(0.05, "of both optimisers")
    warmup: int = _setting(400, "steps in which the rates rise linearly")
    decay: float = _setting(0.3, "share of the steps, at the end, in which the rates fall linearly to zero")
    ema: float = _setting(0.999, "decay a step of the exponential moving average of the weights")
    clear: int = _setting(CLEAR_BATCHES, "first batches, which hold more rows with hardly any noise")
    rates: float = _setting(0.0, "share of the batches in which each process is seen at rates 1, 2, 4 and 8")
    seconds: float = _setting(0.0, "after which the rates reach zero if the steps are not made by then; 0: no limit")
    seed: int = _setting(0, "of the weights and the batches")
    device: str = _setting("cpu", "torch's name of the device that trains, say cuda")
    precision: str = _setting("float32", "float32, or bfloat16 (autocast)")
    workers: int = _setting(0, "processes that prepare batches, 0: the training process; the batches are the same")

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                bound = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise ValueError(f"{name} must be {bound}, got {value}")
        parse_shares(self.patch_shares)
        heads = self.width // 64
        if heads < 1 or self.width % (4 * heads):  # half of a head's channels are rotated, in pairs
            raise ValueError(f"width must be at least 64 and a multiple of 4 * (width // 64), got {self.width}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be at least 0 and less than 1, got {self.ema}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be float32 or bfloat16, got {self.precision!r}")
        if self.seed < 0 or self.seed == VALIDATION_SEED:
            raise ValueError(f"seed must not be negative nor that of the validation series, got {self.seed}")
