"""Small data files, a small registered data set, and a small .toml, for the tests of the benchmark data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.data.files import REGISTRY, RawFile, Split

SMALL = RawFile("small.csv", "https://example.org/small", "h", 2, shape=(10, 2))
TOML = """
csv = "mine.csv"
time = "when"
frequency = "h"
season = 2
[split]
train = 6
validation = 2
test = 2
"""


def hourly(rows: int = 10, time: str = "date", start: str = "2024-03-01") -> pd.DataFrame:
    """Two variables that no standardisation maps onto one another."""
    stamps = pd.date_range(start, periods=rows, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    return pd.DataFrame({time: stamps, "a": np.arange(rows) ** 2.0, "b": 100.0 - np.arange(rows) % 3})


def register(monkeypatch: pytest.MonkeyPatch, file: RawFile, family: str = "pf") -> None:
    monkeypatch.setitem(REGISTRY[family], "small", (file, Split(6, 2, 2)))


def put(frame: pd.DataFrame, folder: Path, name: str = "small.csv", **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / name, index=False, **how)
    return folder / name


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def described(folder: Path, frame: pd.DataFrame | None = None, toml: str = TOML) -> str:
    put(hourly(time="when") if frame is None else frame, folder, "mine.csv")
    (folder / "mine.toml").write_text(toml)
    return str(folder / "mine.toml")
