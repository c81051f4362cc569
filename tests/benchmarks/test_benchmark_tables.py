"""Which runs share a table, and its figures, places, ranks and notes."""

from __future__ import annotations

import csv
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import of, result, store, tables_of

from benchmarks.errors import Misuse
from benchmarks.run.store import FOLDER
from benchmarks.show.frame import read
from benchmarks.show.tables import Table, as_csv, tables


@pytest.fixture(scope="module")
def published() -> list[Table]:
    return tables(read(FOLDER))


@cache
def run_in(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "runs" / name).read_text())
    return found


def test_every_published_figure_is_the_mean_of_its_files(published: list[Table]) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(published))))
    for line in lines:
        runs = [run_in(name) for name in line["files"].split()]
        values = [run["metrics"][line["metric"]] for run in runs]
        assert float(line["mean"]) == pytest.approx(np.mean(values), rel=1e-12)
        assert (
            line["spread"] == "" if len(runs) == 1 else float(line["spread"]) == pytest.approx(np.std(values, ddof=1))
        )
        assert line["seeds"].split() == [str(run["experiment"]["seed"]) for run in runs]
        assert {(run["experiment"]["model"], run["data_hash"]) for run in runs} == {(line["model"], line["data_hash"])}
    assert len(lines) > 200


def test_the_published_files_are_what_is_shown_today(published: list[Table]) -> None:
    assert (FOLDER / "tables.csv").read_text(encoding="utf-8") == as_csv(published)
    text = "\n\n".join(table.markdown() for table in published) + "\n"
    assert (FOLDER / "tables.md").read_text(encoding="utf-8") == text
    assert max(len(table.notes) for table in published) <= 5


def test_means_spreads_and_rows_of_one_table(tmp_path: Path) -> None:
    runs = [
        of("dlinear", 0.4, options={"look_back": [336, 512]}),
        of("msft", 0.3),
        of("msft", 0.32, seed=1),
        of("msft", 0.37, seed=2),
    ]
    (table,) = tables_of(tmp_path, *runs)
    assert list(table.means.index) == ["MSFT", "DLinear"]
    assert table.means.loc["MSFT", ("ETTh1 96", "mse")] == pytest.approx(0.33)
    assert table.spreads.loc["MSFT", ("ETTh1 96", "mse")] == pytest.approx(np.std([0.3, 0.32, 0.37], ddof=1))
    assert list(table.text[("ETTh1 96", "mse")]) == ["0.330 ± 0.036", "0.400"]
    close = {"msft": 0.3001, "full": 0.3002, "my_<b>model": 0.31, "fracast": 0.32}
    (table,) = tables_of(tmp_path / "close", *(of(model, value) for model, value in close.items()))
    assert list(table.places[("ETTh1 96", "mse")].fillna(0)) == [1, 1, 0, 0]  # equal figures share a place
    assert "| my\\_&lt;b&gt;model |" in table.markdown()
    assert "pretrained on ETT" in table.markdown()


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"budget": {"epochs": 7}}, "7 epochs, patience 3"),
        ({"options": {"look_back": 336}}, "with look_back=336"),
        ({"test_stride": 5}, "quick look, test windows 5 steps apart"),
        ({"options": {"num_scales": 1}}, "variants of MSFT"),
    ],
)
def test_what_can_not_stand_side_by_side_has_its_own_table(tmp_path: Path, changes: dict[str, Any], title: str) -> None:
    found = tables_of(tmp_path, of("full", 0.3), of("msft", 0.4), of("msft", 0.5, **changes))
    assert len(found) == 2
    (other,) = [table for table in found if title in table.title]
    assert 0.5 in other.means.to_numpy()
    if "options" in changes and "num_scales" in changes["options"]:
        assert list(other.means.index) == ["MSFT", "MSFT (num_scales=1)"]
    assert len({table.title for table in found}) == 2


def test_scales_and_memory_name_a_row_also_where_they_were_no_choice_yet(tmp_path: Path) -> None:
    """A result from before the option `finest_context` is of one scale, or of MSFT's in the paper's form."""
    before = {"settings": {"look_back": 512}}
    runs = [of("full", 0.3), of("full", 0.4, seed=1, options={"num_scales": 0}), of("full", 0.6, seed=2, **before)]
    runs += [of("msft", 0.3), of("msft", 0.5, seed=1, **before), of("zero_shot", 0.5, options={"stacked": False})]
    (table,) = tables_of(tmp_path, *runs, of("dlinear", 0.5, **before))
    rows = ["MSFT", "MSFT (finest_context=look_back, upsampling=repeat)"]
    rows += ["full finetuning", "full finetuning (num_scales=0)", "zero-shot (stacked=False)", "DLinear"]
    assert list(table.means.index) == rows
    assert table.means.loc["full finetuning (num_scales=0)"].iloc[0] == pytest.approx(0.5)


@pytest.mark.parametrize("change", [{"weights": "b" * 64}, {"defaults": "e" * 64}, {"options": {"lr": [1, 2]}}])
def test_a_row_is_of_its_newest_state(tmp_path: Path, change: dict[str, Any]) -> None:
    provenance = {**result("msft")["provenance"], "made": "2026-05-05T00:00:00+00:00"}
    newer = of("msft", 0.3, seed=1, provenance=provenance, **change)
    (table,) = tables_of(tmp_path, of("msft", 0.5), newer, of("full", 0.4))
    assert table.means.loc["MSFT", ("ETTh1 96", "mse")] == 0.3
    assert table.left_out == 1
    assert any("Left out: 1 " in note for note in table.notes)


def test_only_what_was_asked_for_is_read(tmp_path: Path) -> None:
    folder = store(tmp_path, of("msft", 0.3, suite="mine"), of("full", 0.4, protocol=99), of("lora", 0.4))
    assert set(read(folder).model) == {"msft", "lora"}
    assert set(read(folder, ["first"]).model) == {"lora"}
    with pytest.raises(Misuse, match="pf"):
        read(folder, ["pf"])
    with pytest.raises(Misuse, match="protocol"):
        read(tmp_path / "empty")
    with pytest.raises(Misuse, match=r"-2\.json and"):  # of one experiment
        tables_of(tmp_path, of("lora", 0.4))
    better = (("msft", 0.9), ("full", 0.79), ("dlinear", 0.5))  # the nearest to 0.8 is
    runs = [result(name, family="pf", metrics={"crps": 1, "msis": 1, "coverage": each}) for name, each in better]
    (table,) = tables_of(tmp_path / "pf", *runs)
    assert table.places[("ETTh1 96", "coverage")].dropna().to_dict() == {"full finetuning": 1, "MSFT": 2}
