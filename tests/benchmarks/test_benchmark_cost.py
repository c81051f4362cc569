"""The benchmark of costs: what is measured, that both sides do the same work, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from benchmarks.cost import cases, measure
from benchmarks.cost.cases import Case
from benchmarks.errors import Misuse
from benchmarks.run.provenance import ProcessFailed
from benchmarks.run.store import FOLDER

Patch = pytest.MonkeyPatch

ANSWER = {"seconds": [1.0], "peak_memory_bytes": 1}  # of a process


def case(backbone: str, what: str = "forecast", method: str = "msft", scales: int = 0, context: int = 32) -> Case:
    return Case("tiny", backbone, what, method, scales, context, 4, 2, 8, 3, 7, 1, "cpu")


def asked(**changes: Any) -> dict[str, Any]:
    """A step of the bundled model at a context of 512 steps."""
    usual = {"models": ["moirai-tiny"], "cases": ["step"], "contexts": [512], "horizon": 96, "batch": 2, "series": 2}
    more = {"samples": 7, "rounds": 1, "threads": 1, "accelerator": "cpu", "data": None}
    return {**usual, **more, **changes}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: Patch) -> None:
    """What a case does to its process, and the server that it would be forked from, stay away."""
    for place, name in ((cases, "quiet"), (torch, "set_num_threads"), (measure, "preload")):
        monkeypatch.setattr(place, name, lambda *_: None)


@pytest.fixture
def measured(monkeypatch: Patch) -> list[Case]:
    """No process is started: a case takes as many seconds as its method's name is long. The cases in their order."""
    order: list[Case] = []

    def fake(function: Callable[..., Any], case: Case) -> dict[str, Any]:
        order.append(case)
        return {"seconds": [float(len(case.method))], "peak_memory_bytes": len(order)}

    monkeypatch.setattr(measure, "isolated", fake)
    return order


def test_entries_have_what_fits_and_are_added_to_those_before(tmp_path: Path, measured: list[Case]) -> None:
    path = tmp_path / "found.json"
    assert measure.run(asked(), path).failed == []
    scaled = [("msft", 0), ("msft", 1), ("msft", 2), ("msft", 3), ("one_sequence", 2)]
    assert [(each.method, each.scales) for each in measured] == [("full", 0), ("full_uni2ts", 0), *scaled]
    first = path.read_text()
    left_out = measure.run(asked(contexts=[1024, 8192]), path).left_out
    assert ("full", 0, 8192) in {(part["method"], part["K"], part["context"]) for part in left_out}
    entries = json.loads(path.read_text())
    assert entries[:1] == json.loads(first)
    assert [{each["context"] for each in entry["rows"]} for entry in entries] == [{512}, {1024}]
    assert {"made", "commit", "versions", "settings"} <= set(entries[0])


def test_long_memory_is_measured_over_one_scale_of_the_same_method_s_kind(tmp_path: Path, measured: list[Case]) -> None:
    path = tmp_path / "found.json"
    rows = measure.run(asked(cases=["long"], contexts=[512, 2048]), path).rows
    seen = [(row["what"], row["method"], row["K"], row["finest"]) for row in rows]
    steps = [("full", 0, 2048), ("full", 2, 512), ("msft", 2, 512), ("msft_full", 2, 512)]
    forecasts = [("zero_shot", 0, 2048), ("zero_shot", 2, 512), ("msft", 2, 512)]
    assert seen == [*(("step", *one) for one in steps), *(("forecast", *one) for one in forecasts)]
    assert {row["context"] for row in rows} == {2048}
    assert [list(row["ratio"].values()) for row in rows] == [[1], [1], [1], [9 / 4], [1], [1], [4 / 9]]
    assert "| msft_full" in measure.table(json.loads(path.read_text())[0])


def test_what_is_whole_is_kept(tmp_path: Path, monkeypatch: Patch) -> None:
    answers = [ANSWER, ProcessFailed("Traceback\nMemoryError: too much"), *[ANSWER] * 6, KeyboardInterrupt()]
    monkeypatch.setattr(measure, "isolated", Mock(side_effect=answers))
    with pytest.raises(KeyboardInterrupt):
        measure.run(asked(contexts=[512, 1024]), tmp_path / "found.json")
    (entry,) = json.loads((tmp_path / "found.json").read_text())
    assert {each["context"] for each in entry["rows"]} == {512}
    assert "full_uni2ts" not in {each["method"] for each in entry["rows"]}
    assert [part["reason"] for part in entry["failed"]] == ["MemoryError: too much"]


def test_both_predictors_forecast_the_same(tiny_moirai: str) -> None:
    """Their medians agree within sampling error, so they run the same network on the same series."""
    theirs, ours = (
        cases.forecasting(replace(case(tiny_moirai, method=method), samples=2000))()
        for method in ("uni2ts", "zero_shot")
    )
    assert len(theirs) == len(ours) == 3
    for their, our in zip(theirs, ours, strict=True):
        assert their.samples.shape == our.all_values()[:, 0].T.shape == (2000, 8)
        spread = np.subtract(*np.quantile(their.samples, [0.75, 0.25], axis=0))
        middle = our.quantile(0.5).values()[:, 0]
        assert np.all(np.abs(np.median(their.samples, axis=0) - middle) < 0.2 * spread)


@pytest.mark.parametrize(("context", "tolerance"), [(32, 1e-4), (30, 1e-2)])
def test_uni2ts_has_our_loss(tiny_moirai: str, monkeypatch: Patch, context: int, tolerance: float) -> None:
    """Up to the units (uni2ts' densities are of the values, ours of standardised ones) and to how padding enters."""
    monkeypatch.setitem(cases.ARGUMENTS, "full", {"method": "full", "optimizer_kwargs": {"lr": 0.0}})
    each = replace(case(tiny_moirai, "step", "full", 0, context), horizon=6)  # no whole patches
    ours, theirs = (
        cases.training_step(replace(each, method=method)).args[0]().item() for method in ("full", "full_uni2ts")
    )
    units = np.log(cases.walks(2, context + 6)[:, :context].std(axis=1, ddof=1)).mean()
    assert ours == pytest.approx(theirs - units, rel=tolerance)


def test_the_stored_entries_are_readable() -> None:
    entries = json.loads((FOLDER / "efficiency.json").read_text())
    assert entries
    for entry in entries:
        text = measure.table(entry)
        assert all(f"### {row['what']}" in text for row in entry["rows"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"contexts": [8192]}, "8192"),
        ({"accelerator": "cuda"}, "cuda"),
        ({"cases": ["memory"], "data": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path: Path, monkeypatch: Patch, changes: Any, named: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Misuse, match=named):
        measure.run(asked(**changes), tmp_path / "found.json")
    assert not (tmp_path / "found.json").exists()
