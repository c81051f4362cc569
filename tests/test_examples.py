"""The examples run as a user runs them, on the bundled series and checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def quickstart(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "01_quickstart.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_quickstart(tmp_path: Path) -> None:
    """One epoch: a table of positive scores, the candidates, and a picture."""
    answer = quickstart("--epochs", "1", "--out", str(tmp_path))
    assert answer.returncode == 0, answer.stderr[-2000:]
    table = {line[:16].strip(): line[16:].replace("*", "").split() for line in answer.stdout.splitlines()}
    models = ("seasonal naive", "DLinear", "zero-shot", "MSFT")
    scores = {name: [float(value) for value in table[name]] for name in models}
    assert all(len(values) == 3 and all(0 < value < 1 for value in values) for values in scores.values())
    assert "validation score: zero-shot" in answer.stdout
    assert (tmp_path / "quickstart_sea_temperature.png").stat().st_size > 20_000


def test_quickstart_names_its_data_sets() -> None:
    answer = quickstart("--dataset", "nope")
    assert answer.returncode == 2
    assert "sea_temperature" in answer.stderr
