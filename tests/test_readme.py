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

LONG: dict[str, Any] = {"look_back": [4096], "finest_context": [512, 1024], "patch_size": [32]}
SHORT: dict[str, Any] = {**LONG, "look_back": [1024]}
ONE: dict[str, Any] = {"num_scales": 0, "look_back": [512, 1024, 2048], "patch_size": [32]}
ONE_SHORT: dict[str, Any] = {**ONE, "look_back": [512, 1024]}
BACKCASTS = {"stacked": False}
LINEAR = {"linear_member": True, "likelihood": "default"}
Rows = dict[str, tuple[str, list[dict[str, Any]], int]]
TABLES: dict[str, Rows] = {  # by section, of its table's rows: model, options (by place) and epochs of their results
    "Longer memory": {
        "zero-shot, one scale": ("zero_shot", [ONE, ONE_SHORT], 5),
        "zero-shot, scales weighted by backcasts": ("zero_shot", [LONG | BACKCASTS, SHORT | BACKCASTS], 5),
        "zero-shot, scales weighted by `fit`": ("zero_shot", [LONG, SHORT], 5),
        "zero-shot, scales and linear member, by `fit`": ("zero_shot", [LONG | LINEAR, SHORT | LINEAR], 5),
        "MSFT": ("msft", [LONG, SHORT], 5),
        "MSFT with all weights": ("msft_full", [LONG, SHORT], 5),
        "full finetuning, one scale": ("full", [ONE, ONE_SHORT], 5),
        "DLinear, our budget": ("dlinear", [{"look_back": [336, 512, 1024, 2048]}, {"look_back": [336, 512, 1024]}], 5),
    },
}


@cache
def newest_runs() -> list[dict[str, Any]]:
    """The newest result of every experiment; one is measured anew where the weights or the code have changed."""
    runs = [json.loads(file.read_text()) for file in (ROOT / "benchmarks" / "results" / "runs").glob("*.json")]
    return list({run["key"]: run for run in sorted(runs, key=lambda run: run["provenance"]["made"])}.values())


def scores(place: str, model: str, options: list[dict[str, Any]], epochs: int) -> list[float]:
    """The test MSE of each seed at a data set and horizon, such as "ETTh1-96"."""
    return [
        run["metrics"]["mse"]
        for run in newest_runs()
        for of in [run["experiment"]]
        if (of["family"], f"{of['dataset']}-{of['horizon']}") == ("lsf", place)
        and (of["model"], of["budget"]["epochs"]) == (model, epochs)
        and of["options"] in options
    ]


def table_of(section: str) -> dict[str, dict[str, str]]:
    """A section's rows of numbers by column."""
    lines = README.partition(f"\n## {section}\n")[2].partition("\n## ")[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    return {name: dict(zip(header[1:], numbers, strict=True)) for name, *numbers in rows}


@pytest.mark.parametrize("section", TABLES)
def test_the_table_has_the_numbers_of_the_result_files(section: str) -> None:
    """Each is the mean over the seeds of its experiment; a cell is empty where there is none."""
    table = table_of(section)
    assert table.keys() == TABLES[section].keys()
    for row, experiment in TABLES[section].items():
        assert table[row]
        for place, written in table[row].items():
            found = scores(place, *experiment)
            assert written == (f"{mean(found):.3f}" if found else ""), (row, place)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")) if "://" not in link]
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
