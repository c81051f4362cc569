"""The comparison with Darts' Chronos2Model: both sides forecast and train, and what was found is kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.cost import chronos2
from benchmarks.cost.cases import walks


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(chronos2.PRETRAINED, "tiny", replace(chronos2.PRETRAINED["chronos-2"], width=64, layers=1))
    for place, name in ((chronos2, "quiet"), (torch, "set_num_threads")):
        monkeypatch.setattr(place, name, lambda *_: None)


def test_an_entry_has_a_row_for_each_forecast_and_step(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    chronos2.main(["tiny"], [128], horizon=16, batch=2, rounds=2, threads=1, results=file)
    (entry,) = json.loads(file.read_text())
    assert [(row["size"], row["context"], row["what"]) for row in entry["rows"]] == [
        ("tiny", 128, "forecast"),
        ("tiny", 128, "step"),
    ]
    for row in entry["rows"]:
        assert {name: len(found) for name, found in row["seconds"].items()} == {"msft": 2, "darts": 2}
        assert row["ratio"] > 0


def test_both_have_the_same_weights_and_take_a_step(tmp_path: Path) -> None:
    """Darts' on all weights, MSFT on what it trains, each with all its scales; the memory is the same."""
    chronos2.save_random(str(tmp_path), "tiny")
    values = walks(2, 128 + 16)
    pair = chronos2.ours(str(tmp_path), 128, 16, 2), chronos2.theirs(str(tmp_path), 128, 16, 2, True)
    for model, clips in zip(pair, (True, False), strict=True):
        model.fit(chronos2.TimeSeries.from_values(values[0]))
        before = {name: value.detach().clone() for name, value in model.model.named_parameters()}
        chronos2.training_step(model, 16, values, clips)()
        moved = {name for name, value in model.model.named_parameters() if not torch.equal(value, before[name])}
        free = {name for name, value in model.model.named_parameters() if value.requires_grad}
        assert moved <= free
        assert any("output_patch_embedding" in name for name in moved)
    plan = pair[0].model.plan
    assert (plan.contexts, plan.reach) == ((32, 32, 32), 128)
    assert all(value.requires_grad for value in pair[1].model.parameters())
