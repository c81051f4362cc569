"""The README: numbers of its table are those of the result files, links lead somewhere, code compiles, it is short."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CARD = ROOT / "darts_msft" / "checkpoints" / "moirai-tiny" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", CARD, *sorted((ROOT / "docs").glob("*.md"))]

OURS: dict[str, Any] = {"patch_size": [16, 32]}
ROWS: dict[str, tuple[str, dict[str, Any], int]] = {  # of the README's table: model, options and epochs of its results
    "MSFT": ("msft", OURS, 5),
    "full finetuning": ("full", OURS, 5),
    "LoRA": ("lora", OURS, 5),
    "zero-shot": ("zero_shot", OURS, 5),
    "DLinear, as in its paper, our runs": ("dlinear", {"look_back": 336, "lr": "paper"}, 10),
    "iTransformer": ("itransformer", {}, 5),
    "seasonal naive": ("seasonal_naive", {}, 5),
}


@cache
def newest_runs() -> list[dict[str, Any]]:
    """The newest result of every experiment; one is measured anew where the weights or the code have changed."""
    runs = [json.loads(file.read_text()) for file in (ROOT / "benchmarks" / "results" / "runs").glob("*.json")]
    return list({run["key"]: run for run in sorted(runs, key=lambda run: run["provenance"]["made"])}.values())


def scores(place: str, model: str, options: dict[str, Any], epochs: int) -> list[float]:
    """The test MSE of each seed at a data set and horizon, such as "ETTh1-96"."""
    return [
        run["metrics"]["mse"]
        for run in newest_runs()
        for of in [run["experiment"]]
        if (of["family"], f"{of['dataset']}-{of['horizon']}", of["test_stride"]) == ("lsf", place, 1)
        and (of["model"], of["options"], of["budget"]["epochs"]) == (model, options, epochs)
    ]


def result_table() -> dict[str, dict[str, str]]:
    """Of the README's section "Results": rows of numbers by column."""
    lines = README.partition("\n## Results\n")[2].partition("\n## ")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {name: dict(zip(header[1:], numbers, strict=True)) for name, *numbers in rows}


def test_the_table_has_the_numbers_of_the_result_files() -> None:
    """Each is the mean over the seeds of its experiment."""
    table = result_table()
    assert table.keys() == ROWS.keys()
    for row, experiment in ROWS.items():
        assert table[row]
        for place, written in table[row].items():
            assert f"{mean(scores(place, *experiment)):.3f}" == written, (row, place)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
    assert links
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_code_compiles() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 170
