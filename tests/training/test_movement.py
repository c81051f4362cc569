"""How far a fit moved each group of what it trains: by hand, and in the fit's report."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import STILL, ZERO_SHOT, make_model, parameters_snapshot, wave

from darts_msft.training.movement import moved, snapshot

Pairs = list[tuple[list[Any], list[Any]]]  # (before, after) of a group's tensors

GROUPS: dict[str, tuple[Pairs, float | None]] = {
    "shrinks": ([([3.0, 0.0], [0.0, 0.0]), ([[0.0, 4.0]], [[0.0, 2.0]])], 13**0.5 / 5),
    "grows": ([([3.0], [0.0]), ([[4.0]], [[12.0]])], 73**0.5 / 12),
    "from zero": ([([0.0, 0.0], [1e-9, 0.0])], 1.0),
    "turns round": ([([1.0, -2.0], [-1.0, 2.0])], 2.0),
    "stays": ([([1.0, 2.0], [1.0, 2.0])], 0.0),
    "stays zero": ([([0.0], [0.0])], 0.0),
    "is huge": ([([1e30], [-1e30])], 2.0),
    "is empty": ([], None),
}


def test_the_norm_of_the_change_over_the_larger_norm() -> None:
    tensors = {
        group: [(f"{group}{i}", torch.tensor(before)) for i, (before, _) in enumerate(pairs)]
        for group, (pairs, _) in GROUPS.items()
    }
    start = snapshot(tensors)
    for group, (pairs, _) in GROUPS.items():
        for (_, tensor), (_, after) in zip(tensors[group], pairs, strict=True):
            tensor.copy_(torch.tensor(after))
    expected = {group: share for group, (_, share) in GROUPS.items() if share is not None}
    assert moved(tensors, start) == pytest.approx(expected, abs=1e-15)
    assert moved(tensors, {}) == {}  # a fit that an older version began
    halves = {"head": [("a", torch.tensor([1.0, 1.0], dtype=torch.bfloat16))]}
    assert moved(halves, {"a": torch.tensor([1.0, 0.0], dtype=torch.bfloat16)}) == {"head": pytest.approx(0.5**0.5)}


def by_hand(model: Any, start: dict[str, np.ndarray], end: dict[str, np.ndarray]) -> dict[str, float]:
    found = {}
    for group, members in model.model.parameter_groups().items():
        names = [name for name, _ in members]
        if names:
            before, after = (np.concatenate([state[name].ravel() for name in names]) for state in (start, end))
            found[group] = np.linalg.norm(after - before) / max(np.linalg.norm(before), np.linalg.norm(after))
    return found


def test_the_report_of_a_fit(tiny_moirai: str) -> None:
    """Without validation data the weights of the scales are trained too."""
    settings: dict[str, Any] = {"n_epochs": 2, "weight_init": "first"}
    start = parameters_snapshot(make_model(tiny_moirai, **settings, **STILL).fit(wave(60)))
    model = make_model(tiny_moirai, **{**STILL, "lr_lora": 1e-2, "lr_new": 1e-3, "lr_omega": 0.1}, **settings)
    report = model.fit(wave(60)).fit_report
    assert report.moved == pytest.approx(by_hand(model, start, parameters_snapshot(model)), rel=1e-4)
    assert list(report.moved) == ["pretrained", "new", "head", "omega", "lora"]
    assert report.moved["pretrained"] == report.moved["head"] == 0
    assert 0 < report.moved["new"] < 0.1 < report.moved["lora"] < 1
    line = ", ".join(f"{group} {100 * share:.3g}%" for group, share in report.moved.items())
    assert f"moved: {line}" in str(report)
    assert "moved: pretrained 0%, new " in str(report)


def test_what_counts_is_the_last_state_and_what_trained(tiny_moirai: str) -> None:
    """Stacked weights are solved for; the absurd rates' states are thrown away."""
    val = wave(50, seed=1)
    report = make_model(tiny_moirai, **dict.fromkeys(STILL, 1.0)).fit(wave(60), val_series=val).fit_report
    assert report.kept in ZERO_SHOT
    assert report.moved.keys() == {"pretrained", "new", "head", "lora"}
    assert min(report.moved.values()) > 0.5
    probe = make_model(tiny_moirai, method="linear_probe").fit(wave(60), val_series=val)
    assert probe.fit_report.moved.keys() == {"head"}
    names = {"unfreeze": ["*out_proj*"]}
    few = make_model(tiny_moirai, enable_finetuning=names).fit(wave(60), val_series=val).fit_report.moved
    assert few.keys() == {"pretrained"}
