"""`python -m benchmarks.gpu_check`, without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_check


def test_parts_leave_what_they_found_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["", "--device", "cpu", "--quick", "--only", "environment", "--output", str(tmp_path)]
    )
    gpu_check.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == ["environment"]
    assert found["environment"]["finished"] == 0
    assert found["environment"]["rows"][0]["python"].startswith("3.")


def test_a_part_that_takes_too_long_is_ended_and_leaves_what_it_has(tmp_path: Path) -> None:
    found: dict[str, dict[str, object]] = {}
    gpu_check.run_stage(["cost"], 0, tmp_path, ["--device", "cpu", "--quick"], found)
    assert str(found["cost"]["finished"]).startswith("ended")
    assert found["cost"]["rows"] == []


def test_a_failing_case_leaves_its_reason_and_the_next_one_runs(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    gpu_check.rows(path, [({"case": 1}, lambda: {"figure": 1 // 0}), ({"case": 2}, lambda: {"figure": 3})])
    first, second = map(json.loads, path.read_text().splitlines())
    assert "ZeroDivisionError" in first["error"]
    assert second["figure"] == 3
