"""The store of results: whole files only, none ever changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import results
from benchmarks.experiments import Experiment


def result(kind: str = "run", data: str = "d", weights: str | None = "w", **changes: Any) -> dict[str, Any]:
    experiment = Experiment("lsf", "ETTh1", 96, "msft", **changes)
    key = experiment.key if kind == "run" else experiment.choice_key
    return {"kind": kind, "key": key, "experiment": experiment.to_dict(), "data_hash": data, "weights": weights}


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    first, second, choice = result(), result(seed=1), result("choice")
    for each in (first, second, choice):
        path = results.add(tmp_path, each)
        assert json.loads(path.read_text()) == each
        assert path.name == f"lsf-ETTh1-96-msft-{each['key'][:10]}.json"
    assert sorted(results.read(tmp_path, "run"), key=lambda r: r["experiment"]["seed"]) == [first, second]
    assert results.read(tmp_path, "choice") == [choice]
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"runs", "choices"}
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 3


def test_nothing_is_there_before_the_first() -> None:
    assert results.read("/nowhere", "run") == []
    assert results.find("/nowhere", "run", "0" * 64) is None


def test_same_key_of_other_data_or_weights_is_another_file(tmp_path: Path) -> None:
    found = [result(), result(data="e"), result(weights=None)]
    paths = [results.add(tmp_path, each) for each in found]
    stem = f"lsf-ETTh1-96-msft-{found[0]['key'][:10]}"
    assert [path.name for path in paths] == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json"]
    assert [json.loads(path.read_text()) for path in paths] == found
    key = found[0]["key"]
    assert results.find(tmp_path, "run", key, data_hash="e", weights="w") == found[1]
    assert results.find(tmp_path, "run", key, data_hash="d", weights=None) == found[2]
    assert results.find(tmp_path, "run", key, data_hash="e", weights=None) is None
    assert results.find(tmp_path, "run", key) in found
    assert results.find(tmp_path, "choice", key) is None


def test_the_whole_key_counts(tmp_path: Path) -> None:
    results.add(tmp_path, result())
    key = result()["key"]
    assert results.find(tmp_path, "run", key[:10] + "0" * 54) is None
    assert results.find(tmp_path, "run", key) is not None


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_write_that_is_broken_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, broken)
        with pytest.raises(OSError, match="no space"):
            results.add(tmp_path, result())
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    results.add(tmp_path, result())


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, link = [], os.link

    def watched(part: Any, path: Any) -> None:
        seen.append((json.loads(Path(part).read_text()), Path(path).exists()))
        assert results.read(tmp_path, "run") == []  # the unfinished one is no result
        link(part, path)

    monkeypatch.setattr(os, "link", watched)
    results.add(tmp_path, result())
    assert seen == [(result(), False)]


def test_what_a_kill_in_the_middle_of_a_write_leaves_is_no_result(tmp_path: Path) -> None:
    """The process dies between the write and the name."""
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(results.__file__).parents[1])]!r}
import test_benchmark_results as here
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
here.results.add({str(tmp_path)!r}, here.result())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert results.read(tmp_path, "run") == []
    assert results.find(tmp_path, "run", result()["key"]) is None
    path = results.add(tmp_path, result())
    assert path.name == f"lsf-ETTh1-96-msft-{result()['key'][:10]}.json"
    assert results.read(tmp_path, "run") == [result()]


def test_figures_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        results.add(tmp_path, {**result(), "metrics": {"mse": float("nan")}})
    assert results.read(tmp_path, "run") == []


def test_a_users_data_set_is_named_by_its_file(tmp_path: Path) -> None:
    experiment = Experiment("pf", "/data/my sales.toml", 24, "msft").to_dict()
    path = results.add(tmp_path, {**result(), "experiment": experiment})
    assert path.name.startswith("pf-my_sales-24-msft-")
    assert path.parent == tmp_path / "runs"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = results.add(tmp_path, result())
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=rf"{path.name} is not a result"):
        results.read(tmp_path, "run")


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind='table' is not known; choose one of run, choice"):
        results.read(tmp_path, "table")
