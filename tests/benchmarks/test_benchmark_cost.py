"""The benchmark of costs: what is measured, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.cost import cases, measure
from benchmarks.cost.cases import Case
from benchmarks.errors import Misuse
from benchmarks.run.store import FOLDER

Patch = pytest.MonkeyPatch


def asked(**changes: Any) -> dict[str, Any]:
    """The bundled model at a context of 512 steps."""
    usual = {"models": ["moirai-tiny"], "contexts": [512], "horizon": 96, "batch": 2, "samples": 7, "rounds": 1}
    return {**usual, "threads": 1, "accelerator": "cpu", **changes}


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


def test_long_memory_is_measured_over_one_scale(tmp_path: Path, measured: list[Case]) -> None:
    """In turns, there and back; entries are added to those before."""
    path = tmp_path / "found.json"
    rows = measure.run(asked(contexts=[2048], rounds=2), path)["rows"]
    seen = [(row["what"], row["method"], row["K"], row["finest"]) for row in rows]
    steps = [("full", 0, 2048), ("full", 2, 512), ("msft", 2, 512), ("msft_full", 2, 512)]
    forecasts = [("zero_shot", 0, 2048), ("zero_shot", 2, 512), ("msft", 2, 512)]
    assert seen == [*(("step", *one) for one in steps), *(("forecast", *one) for one in forecasts)]
    turns = [(each.method, each.scales) for each in measured[:8]]
    assert turns == [one[:2] for one in steps] + [one[:2] for one in steps[::-1]]
    assert [list(row["ratio"].values()) for row in rows] == [[1], [1], [1], [9 / 4], [1], [1], [4 / 9]]
    assert [row["peak_memory_bytes"] for row in rows[:4]] == [8, 7, 6, 5]
    assert "| msft_full" in measure.table(json.loads(path.read_text())[0])
    first = path.read_text()
    measure.run(asked(models=["chronos-2-small"]), path)
    entries = json.loads(path.read_text())
    assert entries[:1] == json.loads(first)
    assert [(row["what"], row["method"]) for row in entries[1]["rows"]] == [
        *(("step", "darts"), ("step", "msft"), ("forecast", "darts"), ("forecast", "msft"))
    ]
    assert {"made", "commit", "versions", "settings"} <= set(entries[0])


def test_what_is_whole_is_kept(tmp_path: Path, monkeypatch: Patch) -> None:
    """The second case fails, the fourth of the second group is interrupted."""
    calls: list[Case] = []

    def isolated(function: Any, case: Case) -> dict[str, Any]:
        calls.append(case)
        if len(calls) == 2:
            raise RuntimeError("Traceback\nMemoryError: too much")
        if len(calls) == 8:
            raise KeyboardInterrupt
        return {"seconds": [1.0], "peak_memory_bytes": None}

    monkeypatch.setattr(measure, "isolated", isolated)
    with pytest.raises(KeyboardInterrupt):
        measure.run(asked(contexts=[512, 1024]), tmp_path / "found.json")
    (entry,) = json.loads((tmp_path / "found.json").read_text())
    assert {(each["context"], each["what"]) for each in entry["rows"]} == {(512, "step"), (512, "forecast")}
    assert [(each["method"], each["K"]) for each in entry["rows"][:3]] == [("full", 0), ("msft", 2), ("msft_full", 2)]
    assert [part["reason"] for part in entry["failed"]] == ["MemoryError: too much"]


def test_both_have_chronos2_s_weights_and_take_a_step(tmp_path: Path, monkeypatch: Patch) -> None:
    """Darts' on all weights, MSFT on what it trains, each with all its scales; the memory is the same."""
    tiny = replace(cases.PRETRAINED["chronos-2"], width=64, layers=1)
    monkeypatch.setitem(cases.PRETRAINED, "chronos-tiny", tiny)
    cases.save_random_chronos2(tmp_path, "chronos-tiny")
    groups = measure.groups_of(asked(contexts=[128]), "chronos-tiny", str(tmp_path))
    models: list[Any] = []
    load = cases.load
    monkeypatch.setattr(cases, "load", lambda case: models.append(load(case)) or models[-1])
    for case in groups[0]:
        step = cases.training_step(case)
        before = {name: value.detach().clone() for name, value in models[-1].model.named_parameters()}
        step()
        moved = {name for name, value in models[-1].model.named_parameters() if not torch.equal(value, before[name])}
        free = {name for name, value in models[-1].model.named_parameters() if value.requires_grad}
        assert moved <= free
        assert any("output_patch_embedding" in name for name in moved)
    plan = models[1].model.plan
    assert (plan.contexts, plan.reach) == ((32, 32, 32), 128)
    assert all(value.requires_grad for value in models[0].model.parameters())
    for case in groups[1]:
        assert [one.values().shape for one in cases.forecasting(case)()] == [(96, 3)] * 2


def test_a_case_has_seconds_and_a_peak(tiny_moirai: str) -> None:
    found = cases.measure(Case("tiny", tiny_moirai, "forecast", "msft", 1, 32, 4, 2, 8, 3, 7, 1, "cpu"))
    assert min(found["seconds"]) > 0
    assert found["peak_memory_bytes"] is None or found["peak_memory_bytes"] > 0


@pytest.mark.parametrize("file", ["efficiency.json", "long_memory/cost.json"])
def test_the_stored_entries_are_readable(file: str) -> None:
    entries = json.loads((FOLDER / file).read_text())
    assert entries
    for entry in entries:
        text = measure.table(entry)
        assert all(f"### {row['what']}" in text for row in entry["rows"])


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Misuse, match="cuda"):
        measure.run(asked(accelerator="cuda"), tmp_path / "found.json")
    assert not (tmp_path / "found.json").exists()
