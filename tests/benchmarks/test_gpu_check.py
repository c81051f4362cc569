"""`python -m benchmarks.gpu_check`, without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_check


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_part_leaves_a_line_for_each_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "found" / "gpu.jsonl"
    words = ["--device", "cpu", "--quick", "--only", "agreement", "--output", str(file)]
    monkeypatch.setattr(sys, "argv", ["", *words])
    with pytest.raises(SystemExit) as ended:
        gpu_check.main()
    first, case, last = lines_of(file)
    assert first["python"].startswith("3.")
    assert (case["architecture"], case["relative_difference"], case["finite"]) == ("moirai", 0.0, True)
    assert last == {"part": "agreement", "finished": "exit status 0"}
    assert not ended.value.code


def test_a_part_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "gpu.jsonl"
    assert not gpu_check.start_part("cost", 0, file, ["--device", "cpu", "--quick"])
    assert lines_of(file) == [{"part": "cost", "finished": "ended at its limit of 0 s"}]


def test_a_failing_case_leaves_its_reason_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [({"case": 1}, lambda: {"figure": 1 // 0}), ({"case": 2}, lambda: {"figure": 3})]
    monkeypatch.setattr(gpu_check, "cost", lambda device, quick: iter(cases))
    gpu_check.run_part("cost", tmp_path / "gpu.jsonl", "cpu", True)
    first, second = lines_of(tmp_path / "gpu.jsonl")
    assert "ZeroDivisionError" in first["error"]
    assert second["figure"] == 3


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ({"relative_difference": 1e-6, "finite": True}, False),
        ({"relative_difference": 1e-3, "finite": True}, True),
        ({"relative_difference": float("nan")}, True),
        ({"relative_difference_after_load": 1.0}, True),
        ({"finite": False}, True),
        ({"finite_scores": False}, True),
        ({"error": "RuntimeError: no"}, True),
        ({"part": "cost", "finished": "exit status 0"}, False),
    ],
)
def test_what_must_not_be_is_a_failure(line: dict[str, Any], wrong: bool) -> None:
    assert gpu_check.is_wrong(line) == wrong
