"""What a forecast is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options of `darts-msft forecast` once its table is read, as its help has them."""

    horizon: int
    series: str | None
    context: int | None
    frequency: str | None
    finetune: bool
    epochs: int
    lower: float | str | None
    backbone: str
    output: Path
    picture: Path | None
    total: bool
