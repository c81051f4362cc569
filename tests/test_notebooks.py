"""The notebooks' code runs, with short fits; what is stored in them is that code's, and small."""

from __future__ import annotations

import base64
import json
import re
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("Agg")
FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
FILES = sorted(FOLDER.glob("*.ipynb"))
SHORT = {"n_epochs": 1, "windows_per_epoch": 32}
LARGEST = 100_000  # bytes of a picture


@pytest.fixture
def execute(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import execute

    return execute


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_code_runs(file: Path, execute: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHRONOS_2", raising=False)
    for place in ("training.windows.VALIDATION_WINDOWS", "linear.windows.HELD_OUT", "stacking.WINDOWS"):
        monkeypatch.setattr(f"darts_msft.{place}", 16)
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, code in enumerate(execute.code_cells(json.loads(file.read_text()))):
            for name, value in SHORT.items():
                code = re.sub(rf"{name}=\d+", f"{name}={value}", code)
            shown += len(execute.run_cell(code, names, number))
    assert shown >= 2
    plt.close("all")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_stored_is_the_code_s_and_small(file: Path, execute: Any) -> None:
    notebook = json.loads(file.read_text())
    assert notebook["metadata"].get("code") == execute.code_hash(notebook), "run examples/notebooks/execute.py"
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    pictures = [
        base64.b64decode(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert all(picture[:4] == b"\x89PNG" and len(picture) < LARGEST for picture in pictures)
