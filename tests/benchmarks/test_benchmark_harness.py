"""The check of the harness against the papers' figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_results import arguments_of, result, store

from benchmarks.data.registry import REGISTRY
from benchmarks.run import harness, jobs, suites
from benchmarks.run.harness import REFERENCES, TOLERANCES


def measured(factor: float = 1.0, **changes: Any) -> list[dict[str, Any]]:
    """All of the suite's results, at the references times a factor."""
    found = []
    for experiment in suites.load("harness"):
        told = experiment.to_dict()
        digest = REGISTRY["lsf"][experiment.dataset].file.digest
        now = {**jobs.standing(jobs.forecaster_of(experiment)), "file_hash": digest, **changes}
        mse = factor * REFERENCES[experiment.model, experiment.dataset]
        metrics = {"mse": mse, "mae": mse}
        place = told.pop("model"), told.pop("dataset"), told.pop("horizon"), told.pop("family")
        found.append(result(*place, metrics=metrics, **told, **now))
    return found


def check(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = harness.main(arguments_of(harness, "--results", str(folder)))
    return code, capsys.readouterr().out.splitlines()


def test_every_experiment_of_the_suite_has_a_reference() -> None:
    assert {(e.model, e.dataset) for e in suites.load("harness")} == set(REFERENCES)
    assert {model for model, _ in REFERENCES} == set(TOLERANCES)


@pytest.mark.parametrize(("factor", "failed"), [(1.019, 0), (0.981, 0), (1.025, 3), (0.975, 3), (1.04, 6), (0.96, 6)])
def test_what_is_out_of_its_tolerance_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], factor: float, failed: int
) -> None:
    """Two percent of DLinear's, three of PatchTST's, in either direction."""
    code, lines = check(store(tmp_path, *measured(factor)), capsys)
    assert len(lines) == 6
    assert sum("FAILED" in line for line in lines) == failed
    assert code == (1 if failed else 0)
    if failed == 3:
        assert all(line.startswith("dlinear") for line in lines if "FAILED" in line)


def test_the_figure_is_the_mean_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = measured()
    for entry in entries:
        if entry["experiment"]["model"] == "dlinear" and entry["experiment"]["dataset"] == "ETTh1":
            entry["metrics"]["mse"] = 0.375 + 0.01 * (entry["experiment"]["seed"] - 1) + 0.001
    code, lines = check(store(tmp_path, *entries), capsys)
    assert code == 0
    assert lines[0] == (
        "dlinear ETTh1: 0.3760 (0.3660, 0.3760, 0.3860 of seeds 0, 1, 2), reference 0.375, +0.3% of at most 2%: passed"
    )


def test_what_is_missing_fails_and_says_how_to_measure_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [entry for entry in measured() if entry["experiment"]["dataset"] != "Weather"]
    entries = [e for e in entries if (e["experiment"]["dataset"], e["experiment"]["seed"]) != ("ETTh1", 2)]
    code, lines = check(store(tmp_path, *entries), capsys)
    assert code == 1
    assert lines[0].endswith("of seeds 0, 1), reference 0.375, +0.0% of at most 2%: FAILED, no result of seed 2")
    assert lines[1].endswith("passed")
    missing = "FAILED, no result of seed 0, 1, 2; python -m benchmarks run --suite harness measures it"
    assert lines[2] == f"dlinear Weather: {missing}"
    assert check(tmp_path / "nothing", capsys)[0] == 1


def test_the_newest_result_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = measured(), measured(2.0)
    for entry in good:
        entry["provenance"]["made"] = "2027-01-01T00:00:00+00:00"
    for order in ((good, bad), (bad, good)):
        folder = tmp_path / str(order[0] is good)
        assert check(store(folder, *order[0], *order[1]), capsys)[0] == 0


@pytest.mark.parametrize("other", [{"defaults": "e" * 64}, {"protocol": 0}, {"file_hash": "md5:0"}])
def test_what_is_of_other_code_or_data_counts_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    code, lines = check(store(tmp_path, *measured(**other)), capsys)
    assert code == 1
    assert all("FAILED, no result of seed" in line for line in lines)
