"""What the tests of written figures share: the texts of the README and of the model card, and the tables in them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any


@cache
def text(path: Path) -> str:
    """On one line, so that it may be wrapped anywhere."""
    return " ".join(path.read_text(encoding="utf-8").split())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_log(path: Path) -> list[dict[str, Any]]:
    """A file of one JSON object a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(path: Path, head: str) -> dict[str, list[str]]:
    """The rows of the tables with the row `head`, by their first cell."""
    rows: dict[str, list[str]] = {}
    inside = False
    for line in path.read_text(encoding="utf-8").splitlines():
        inside = line == head or (inside and line.startswith("|"))
        if inside and line != head and not line.startswith("|---"):
            label, *rest = (cell.strip() for cell in line.strip("|").split("|"))
            assert label not in rows
            rows[label] = rest
    return rows
