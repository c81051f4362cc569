"""The store of results: whole files only, none ever changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_results
import pytest

from benchmarks import __main__
from benchmarks.errors import Misuse
from benchmarks.run import store as results
from benchmarks.run.experiments import Experiment


def result(
    kind: str = "run", data: str = "d", weights: str | None = "w", dirty: bool = False, **changes: Any
) -> dict[str, Any]:
    """An entry with all that one of its kind needs, most of it null."""
    experiment = Experiment("lsf", "ETTh1", 96, "msft", **changes)
    key = experiment.key if kind == "run" else experiment.choice_key
    named = {"key": key, "experiment": experiment.to_dict(), "data_hash": data, "weights": weights, "protocol": 1}
    named |= {"metrics": {"mse": 1.0, "mae": 1.0}} if kind == "run" else {}
    return {"kind": kind, **dict.fromkeys(results.NEEDED[kind]), **named, "provenance": {"dirty": dirty}}


def read(folder: str | Path, kind: str = "run") -> list[dict[str, Any]]:
    return [entry for _, entry in results.entries(folder, kind)]


def test_what_is_added_is_read_again(tmp_path: Path) -> None:
    first, second, choice = result(), result(seed=1), result("choice")
    paths = [results.add(tmp_path, each) for each in (first, second, choice)]
    assert sorted(path for path, _ in results.entries(tmp_path, "run")) == sorted(paths[:2])
    for path, each in zip(paths, (first, second, choice), strict=True):
        assert json.loads(path.read_text()) == each
        assert path.name == f"lsf-ETTh1-96-msft-{each['key'][:10]}.json"
    assert sorted(read(tmp_path), key=lambda r: r["experiment"]["seed"]) == [first, second]
    assert read(tmp_path, "choice") == [choice]
    assert {path.parent.name for path in tmp_path.rglob("*") if path.is_file()} == {"runs", "choices"}
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 3


def test_nothing_is_there_before_the_first() -> None:
    assert read("/nowhere") == []
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
        assert read(tmp_path) == []  # the unfinished one is no result
        link(part, path)

    monkeypatch.setattr(os, "link", watched)
    results.add(tmp_path, result())
    assert seen == [(result(), False)]


def test_what_a_kill_in_the_middle_of_a_write_leaves_is_no_result(tmp_path: Path) -> None:
    """The process dies between the write and the name."""
    script = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(results.__file__).parents[2])]!r}
import test_benchmark_results as here
os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
here.results.add({str(tmp_path)!r}, here.result())
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert read(tmp_path) == []
    assert results.find(tmp_path, "run", result()["key"]) is None
    path = results.add(tmp_path, result())
    assert path.name == f"lsf-ETTh1-96-msft-{result()['key'][:10]}.json"
    assert read(tmp_path) == [result()]


def test_figures_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        results.add(tmp_path, {**result(), "metrics": {"mse": float("nan")}})
    assert read(tmp_path) == []


def test_a_users_data_set_is_named_by_its_file(tmp_path: Path) -> None:
    experiment = Experiment("pf", "/data/my sales.toml", 24, "msft").to_dict()
    path = results.add(tmp_path, {**result(), "experiment": experiment})
    assert path.name.startswith("pf-my_sales-24-msft-")
    assert path.parent == tmp_path / "runs"


def damaged(text: str) -> list[str]:
    """A result's text, no more a result."""
    entry = json.loads(text)
    without = {name: value for name, value in entry.items() if name != "protocol"}
    experiment = entry["experiment"]
    no_seed = {name: value for name, value in experiment.items() if name != "seed"}
    return [
        text[:-20],
        text.replace('"d"', "NaN"),
        text.replace('"d"', "Infinity"),
        "[1, 2]",
        json.dumps({**entry, "kind": "choice"}),
        json.dumps(without),
        *(
            json.dumps({**entry, "experiment": wrong})
            for wrong in (None, no_seed, {**experiment, "horizon": "96"}, {**experiment, "budget": None})
        ),
        *(json.dumps({**entry, "metrics": wrong}) for wrong in (None, {}, {"mse": 1.0}, {"mse": 1.0, "mae": None})),
    ]


@pytest.mark.parametrize("place", range(14))
def test_a_file_that_is_no_result_is_named(tmp_path: Path, place: int) -> None:
    path = results.add(tmp_path, result())
    path.write_text(damaged(path.read_text())[place])
    with pytest.raises(Misuse, match=rf"{path.name} is not a .*; restore it"):
        read(tmp_path)
    with pytest.raises(Misuse, match=rf"{path.name} is not a"):
        results.find(tmp_path, "run", result()["key"])


@pytest.mark.parametrize(
    ("family", "lost", "says"),
    [
        ("lsf", ("experiment", "seed"), "its experiment lacks seed"),
        ("lsf", ("metrics", "mae"), "its metrics lack a figure for mae"),
        ("pf", ("metrics", "crps"), "its metrics lack a figure for crps"),
    ],
)
def test_what_is_missing_inside_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: str, lost: tuple[str, str], says: str
) -> None:
    whole = fake_results.result("msft", family=family)
    path = results.add(tmp_path, whole)
    assert __main__.main(["table", "--results", str(tmp_path)]) == 0
    del whole[lost[0]][lost[1]]
    path.write_text(json.dumps(whole))
    capsys.readouterr()
    assert __main__.main(["table", "--results", str(tmp_path)]) == __main__.MISUSED
    remedy = "restore it, or delete it to have it measured again"
    assert capsys.readouterr().err == f"python -m benchmarks table: {path} is not a whole result: {says}; {remedy}\n"


def test_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="kind='table' is not known; choose one of run, choice, candidate"):
        read(tmp_path, "table")


def test_uncommitted_code_has_no_place_in_the_repository_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    monkeypatch.setattr(results, "FOLDER", own)
    (tmp_path / "elsewhere").mkdir()
    results.add(tmp_path / "elsewhere", result(dirty=True))
    results.add(own, result())
    for same in (own, tmp_path / "elsewhere" / ".." / "own"):
        with pytest.raises(Misuse, match=r"uncommitted changes.*--dirty"):
            results.add(same, result(dirty=True))
    assert len(read(own)) == 1
    results.add(own, result(dirty=True), dirty=True)
    assert len(read(own)) == 2


def test_other_files_are_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tables.md"
    results.write(path, "old")
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space"):
            results.write(path, "new")
    assert path.read_text() == "old"
    results.write(path, b"\xff")
    assert path.read_bytes() == b"\xff"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


# --------------------------------------------------------------------------------------------------------- who is at it


def test_a_claim_is_one_block_s_alone(tmp_path: Path) -> None:
    with results.claim(tmp_path, "run", "k", wait=False) as first:
        assert first
        with results.claim(tmp_path, "run", "k", wait=False) as second:
            assert not second
        with results.claim(tmp_path, "run", "k", wait=False) as third:  # the refused one has ended nothing
            assert not third
        for kind, key in (("choice", "k"), ("run", "other")):
            with results.claim(tmp_path, kind, key, wait=False) as other:
                assert other
    with results.claim(tmp_path, "run", "k", wait=False) as again:
        assert again
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_claim_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), results.claim(tmp_path, "run", "k", wait=False):
        raise KeyError
    with results.claim(tmp_path, "run", "k", wait=False) as again:
        assert again


def test_never_two_at_once_and_all_in_the_end(tmp_path: Path) -> None:
    """Sixteen threads wait for one claim and take turns; files that come and go must not let two in."""
    inside, most, turns = [], [], []

    def work(number: int) -> None:
        for _ in range(20):
            with results.claim(tmp_path, "run", "k", wait=True) as ours:
                assert ours
                inside.append(number)
                most.append(len(inside))
                time.sleep(0)
                inside.remove(number)
                turns.append(number)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
    assert len(turns) == 16 * 20
    assert max(most) == 1


def test_a_dead_process_has_no_claim(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys, time
sys.path.insert(0, {str(Path(results.__file__).parents[2])!r})
from benchmarks.run import store as results
with results.claim({str(tmp_path)!r}, "run", "k", wait=True):
    print("mine", flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "mine\n"
        with results.claim(tmp_path, "run", "k", wait=False) as ours:
            assert not ours
    finally:
        process.kill()
        process.communicate()
    with results.claim(tmp_path, "run", "k", wait=False) as ours:
        assert ours
