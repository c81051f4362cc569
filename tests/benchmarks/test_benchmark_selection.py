"""Which results `table`, `plot` and `report` are of."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fake_results import arguments_of, result, store

from benchmarks import plots, tables
from benchmarks.errors import Misuse
from benchmarks.notes import notes
from benchmarks.run import suites
from benchmarks.run.experiments import PROTOCOL
from benchmarks.run.selection import command, read, select


def lsf(model: str, mse: float, dataset: str = "ETTh1", horizon: int = 96, **changes: Any) -> dict[str, Any]:
    return result(model, dataset, horizon, metrics={"mse": mse, "mae": mse + 0.1}, **changes)


def models(folder: Path, *words: str) -> list[tuple[str, str]]:
    found = select(arguments_of(tables, "--results", str(folder), *words))
    return [(run.experiment["model"], run.experiment["dataset"]) for table in found for run in table.runs()]


def test_only_what_was_asked_for(tmp_path: Path) -> None:
    entries = [lsf("msft", 0.4), lsf("msft", 0.4, horizon=336, suite="lsf"), lsf("dlinear", 0.3, "ETTm1")]
    store(tmp_path, *entries, lsf("dlinear", 0.3, "ETTm1", test_stride=5, suite=None))
    assert models(tmp_path, "--suite", "first") == [("msft", "ETTh1"), ("dlinear", "ETTm1")]
    assert models(tmp_path, "--suite", "first", "--datasets", "ETTm1") == [("dlinear", "ETTm1")]
    assert len(models(tmp_path, "--suite", "first", "lsf")) == 3
    assert models(tmp_path, "--only", "msft", "--horizons", "96", "336") == [("msft", "ETTh1")] * 2
    with pytest.raises(Misuse, match=r"no result has dataset \['Weather'\]; there are ETTh1, ETTm1"):
        models(tmp_path, "--datasets", "Weather", "ETTh1")
    with pytest.raises(Misuse, match=r"none of the 4 results in .* fits all"):
        models(tmp_path, "--datasets", "ETTm1", "--only", "msft")
    with pytest.raises(Misuse, match=r"no result in .* belongs to the suite ablations; run it first"):
        models(tmp_path, "--suite", "ablations")
    with pytest.raises(Misuse, match="belongs to the suite ablations or pf; run it first"):
        models(tmp_path, "--suite", "ablations", "pf")


def test_what_two_suites_share_belongs_to_both(tmp_path: Path) -> None:
    shared = {"options": suites.HARNESS_OPTIONS, "budget": asdict(suites.HARNESS_BUDGETS["dlinear", "ETTh1"])}
    store(tmp_path, lsf("dlinear", 0.4, suite="harness", **shared), lsf("patchtst", 0.4, suite="harness"))
    assert models(tmp_path, "--suite", "card") == [("dlinear", "ETTh1")]
    assert len(models(tmp_path, "--suite", "harness")) == 2


def test_results_of_other_protocols_are_left_out_and_told(tmp_path: Path) -> None:
    store(tmp_path, lsf("msft", 0.4), lsf("full", 0.3, protocol=0), lsf("lora", 0.3, protocol=0))
    arguments = arguments_of(tables, "--results", str(tmp_path))
    (table,) = select(arguments)
    assert [row.model for row in table.rows] == ["msft"]
    assert "Left out, since figures of other protocols can't stand beside these: 2 of protocol 0." in notes(table)
    assert models(tmp_path, "--protocol", "0") == [("full", "ETTh1"), ("lora", "ETTh1")]
    with pytest.raises(Misuse, match="is of protocol 7; there are 2 of protocol 0, 1 of protocol 1"):
        models(tmp_path, "--protocol", "7")
    assert PROTOCOL == 1


def test_weights_by_their_first_digits(tmp_path: Path) -> None:
    store(tmp_path, lsf("msft", 0.4), lsf("msft", 0.3, weights="b" * 64), lsf("dlinear", 0.5, weights=None))
    assert models(tmp_path, "--weights", "bbbb") == [("msft", "ETTh1"), ("dlinear", "ETTh1")]
    (table,) = select(arguments_of(tables, "--results", str(tmp_path), "--weights", "bbbb"))
    assert [table.text(row, table.columns[0], "mse") for row in table.rows] == ["0.300", "0.500"]
    with pytest.raises(Misuse, match="no result is of --weights ccc; there are aaaaaaaa, bbbbbbbb"):
        models(tmp_path, "--weights", "ccc")


def test_no_results_say_how_to_make_some(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match=r"no results in .*; make some first: python -m benchmarks run --suite smoke"):
        read(tmp_path)


def test_commands_are_those_that_were_given() -> None:
    words = ["--results", "my results", "--suite", "first", "fracast", "--datasets", "ETTh1", "a b.toml"]
    arguments = arguments_of(tables, *words, "--horizons", "96", "--weights", "abc", "--protocol", "0")
    line = command("table", arguments)
    assert line.startswith("python -m benchmarks table --results 'my results'")
    assert arguments_of(tables, *shlex.split(line)[4:]) == arguments
    assert command("plot", arguments_of(plots)) == "python -m benchmarks plot"
