"""The comparison of methods runs as a user runs it, on the bundled series and checkpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "02_compare_methods.py"


def test_one_method_that_trains_and_one_that_does_not(tmp_path: Path) -> None:
    options = {"dataset": "sea_temperature", "seeds": 0, "epochs": 1, "stride": 500, "test-stride": 800}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    arguments += ["--out", str(tmp_path), "--methods", "zero_shot", "linear_probe"]
    command = [sys.executable, "-W", "ignore", str(EXAMPLE), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    found = json.loads((tmp_path / "methods_sea_temperature.json").read_text())
    known = "[0-9a-f]{40}(-dirty)?" if (EXAMPLE.parents[1] / ".git").exists() else "unknown: .*"
    assert re.fullmatch(known, found["commit"])
    assert found["settings"]["epochs"] == 1
    rows = found["rows"]
    assert [row["method"] for row in rows] == ["zero_shot", "linear_probe"]
    assert (rows[0]["trained"], rows[0]["validation"]) == (0, None)
    assert rows[1]["trained"] > 0
    assert 0 < rows[1]["validation"] < 1
    table = [line.split() for line in answer.stdout.splitlines()]
    for row in rows:
        (cells,) = [line for line in table if line[:1] == [row["method"]]]
        assert cells[1:4] == [f"{row[name]:.4f}" for name in ("MSE", "MAE", "CRPS")]
        assert cells[4] == f"{row['trained']:,}"
    assert (tmp_path / "methods_sea_temperature.png").stat().st_size > 10_000
    assert all(re.fullmatch("[0-9a-f]{64}", found[name]) for name in ("data_hash", "weights"))
    before = (tmp_path / "methods_sea_temperature.json").read_bytes()
    again = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 2
    assert "give another --out" in again.stderr
    assert (tmp_path / "methods_sea_temperature.json").read_bytes() == before
