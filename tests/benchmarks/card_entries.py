"""What the tests of the model card share: its text, and the entries that its figures come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from written_figures import read_log, text

import darts_msft
from benchmarks import checkpoint, sizes
from benchmarks.run import listings

Entry = dict[str, Any]

FOLDER = Path(darts_msft.__file__).parent / "checkpoints" / "moirai-tiny"
MEASURED = listings.read(checkpoint.RESULTS)
SIZES = listings.read(sizes.RESULTS)
LOG = read_log(FOLDER / "log.jsonl")
DATASETS = ("ETTh1", "ETTm1", "Weather")
EARLIER = "2077fe536eb95cccd2d07f420f2406f9522222974b97b53784b656a908636cde"  # weights of the checkpoint before


def card() -> str:
    return text(FOLDER / "README.md")


def newest(entries: list[Entry], **wanted: Any) -> Entry:
    """The last entry that was added with these values."""
    found = [entry for entry in entries if wanted.items() <= entry.items()]
    assert found, f"no entry with {wanted}: measure it, or take its figures out of the text"
    return found[-1]
