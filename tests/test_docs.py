"""The documentation's code runs, page by page, as it stands."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("Agg")
DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {page.name: BLOCK.findall(page.read_text()) for page in sorted(DOCS.glob("*.md"))}


@pytest.mark.slow
@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_the_page_s_code_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("training.windows.VALIDATION_WINDOWS", "linear.windows.HELD_OUT"):  # to save time
        monkeypatch.setattr(f"darts_msft.{place}", 32)
    names: dict[str, object] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, block in enumerate(PAGES[page]):
            block = block.replace("minutes=10", "minutes=0.1")
            exec(compile(block, f"{page}, block {number}", "exec"), names)
    plt.close("all")
