"""The store of results: whole files only, none ever changed; and every file of the published one is readable."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from child_process import run_in_child

from benchmarks.errors import Misuse
from benchmarks.models import OURS
from benchmarks.run import measures, store, suites
from benchmarks.run.experiments import Experiment


def result(kind: str = "run", data: str = "d", weights: str | None = "w") -> dict[str, Any]:
    """An entry with all that one of its kind needs, most of it null."""
    experiment = Experiment("lsf", "ETTh1", 96, "msft")
    named = {"key": experiment.key, "experiment": experiment.to_dict(), "data_hash": data, "weights": weights}
    named |= {"metrics": {"mse": 1.0, "mae": 1.0}} if kind == "run" else {}
    return {"kind": kind, **dict.fromkeys(store.NEEDED[kind]), **named, "provenance": {"dirty": False}}


def read(folder: str | Path, kind: str = "run") -> list[dict[str, Any]]:
    return [entry for _, entry in store.entries(folder, kind)]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# ---- what is published


def test_every_stored_result_is_readable_under_its_key() -> None:
    for kind, least in (("run", 164), ("choice", 121), ("candidate", 349)):
        entries = store.entries(store.FOLDER, kind)
        assert len(entries) >= least
        for path, entry in entries if kind != "candidate" else ():
            experiment = Experiment.from_dict(entry["experiment"])
            assert entry["key"] == (experiment.key if kind == "run" else experiment.choice_key), path
            assert path.name.startswith(f"{experiment.family}-{experiment.dataset}-{experiment.horizon}-"), path


def test_the_suites_find_what_was_measured_for_them() -> None:
    """By key, weights, protocol and recipe: nothing is measured again but ours, whose stored runs are of one scale."""
    keys = {entry["key"] for _, entry in store.entries(store.FOLDER, "run")}
    found = Counter[str]()
    for suite in ("harness", "card", "first", "fracast", "ablations"):
        for each in suites.load(suite):
            if each.key in keys and each.model not in (*OURS, "fracast", "patchtst"):  # the last two are of extras
                same = measures.standing(each)
                assert store.find(store.FOLDER, "run", each.key, **same), each
                found[suite] += 1
    assert found >= Counter({"harness": 9, "card": 24, "first": 37})


# ---- adding and finding


def test_what_is_added_is_found_and_never_replaced(tmp_path: Path) -> None:
    assert read("/nowhere") == []
    entries = [result(), result(data="e"), result(weights=None), result("choice")]
    paths = [store.add(tmp_path, each) for each in entries]
    stem, key = f"lsf-ETTh1-96-msft-{entries[0]['key'][:10]}", entries[0]["key"]
    assert [path.name for path in paths] == [f"{stem}.json", f"{stem}-2.json", f"{stem}-3.json", f"{stem}.json"]
    assert [json.loads(path.read_text()) for path in paths] == entries
    assert sorted(files(tmp_path)) == sorted(paths)
    assert store.find(tmp_path, "run", key, data_hash="e", weights="w") == entries[1]
    assert store.find(tmp_path, "run", key, data_hash="d", weights=None) == entries[2]
    assert store.find(tmp_path, "run", key, data_hash="e", weights=None) is None
    assert store.find(tmp_path, "run", key[:10] + "0" * 54) is None  # the whole key counts
    own = Experiment("pf", "/data/my sales.toml", 24, "msft").to_dict()
    assert store.add(tmp_path, {**result(), "experiment": own}).name.startswith("pf-my_sales-24-msft-")


@pytest.mark.parametrize("metrics", [{"mse": None, "mae": 0.1}, {"mse": 0.1}])
def test_a_result_without_its_figures_is_named(tmp_path: Path, metrics: dict[str, Any]) -> None:
    path = store.add(tmp_path, {**result(), "metrics": metrics})
    with pytest.raises(Misuse, match=rf"{path.name} is not a result \(its metrics mse, mae are not all numbers\)"):
        store.entries(tmp_path, "run")


def test_a_write_that_is_broken_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    table = tmp_path / "tables.md"
    store.write(table, "old")
    for step, act in (
        ("fsync", lambda: store.add(tmp_path, result())),
        ("link", lambda: store.add(tmp_path, result())),
        ("fsync", lambda: store.write(table, "new")),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, broken)
            with pytest.raises(OSError, match="no space"):
                act()
    with pytest.raises(ValueError, match="JSON"):
        store.add(tmp_path, {**result(), "metrics": {"mse": float("nan")}})
    assert files(tmp_path) == [table]
    assert table.read_text() == "old"
    store.write(table, "new")
    assert table.read_text() == "new"


def killed(folder: Path) -> None:
    """Between the write of a result and its name, with a claim."""
    os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, misc]
    with store.claim(folder, "run", "k", wait=True):
        store.add(folder, result())


def test_what_a_kill_in_the_middle_of_a_write_leaves_is_no_result_and_no_claim(tmp_path: Path) -> None:
    assert run_in_child(killed, tmp_path) == -9
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert read(tmp_path) == []
    assert store.find(tmp_path, "run", result()["key"]) is None
    with store.claim(tmp_path, "run", "k", wait=False) as ours:
        assert ours
    assert store.add(tmp_path, result()).name == f"lsf-ETTh1-96-msft-{result()['key'][:10]}.json"
    assert read(tmp_path) == [result()]


@pytest.mark.parametrize(
    "changes",
    [
        {"experiment": None},
        {"experiment": {**result()["experiment"], "colour": "red"}},
        "[1, 2]",
        '{"kind": "run"}',
        '{"kind": "run',
    ],
    ids=str,
)
def test_a_file_that_is_no_result_is_named(tmp_path: Path, changes: Any) -> None:
    path = store.add(tmp_path, result())
    path.write_text(changes if isinstance(changes, str) else json.dumps({**result(), **changes}))
    for ask in (lambda: read(tmp_path), lambda: store.find(tmp_path, "run", result()["key"])):
        with pytest.raises(Misuse, match=path.name):
            ask()


# ---- who is at it


def test_a_claim_is_one_block_s_alone(tmp_path: Path) -> None:
    with store.claim(tmp_path, "run", "k", wait=False) as first:
        assert first
        others = (("run", "k", False), ("run", "k", False), ("choice", "k", True), ("run", "other", True))
        for kind, key, free in others:  # a refused one has ended nothing
            with store.claim(tmp_path, kind, key, wait=False) as ours:
                assert ours == free
    with pytest.raises(KeyError), store.claim(tmp_path, "run", "k", wait=False):
        raise KeyError
    with store.claim(tmp_path, "run", "k", wait=False) as again:
        assert again
    assert files(tmp_path) == []


def test_rows_take_the_place_of_those_that_they_are_about(tmp_path: Path) -> None:
    path = tmp_path / "more" / "list.json"
    store.add_rows(path, [{"mse": 1}, {"mse": 2}], data="a", seed=0)
    store.add_rows(path, [{"mse": 3}], data="a", seed=1)
    store.add_rows(path, [{"mse": 4}], data="a", seed=0)
    expected = [{"data": "a", "seed": 1, "mse": 3}, {"data": "a", "seed": 0, "mse": 4}]
    assert store.read_list(path) == expected
    store.add_rows(path, [{"mse": 5}])  # about nothing: beside all
    assert store.read_list(path) == [*expected, {"mse": 5}]
    assert files(tmp_path) == [path]
    path.write_text('{"rows": []}')
    with pytest.raises(Misuse, match="is no JSON list"):
        store.add_rows(path, [], data="a")
    assert path.read_text() == '{"rows": []}'
