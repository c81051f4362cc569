"""Experiments, what tells them apart, and what is refused; the suites; and the check against published figures."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__
from benchmarks.data.files import REGISTRY
from benchmarks.models import MODELS, OURS, Budget, load_forecaster
from benchmarks.run import measures, store, suites
from benchmarks.run.experiments import PROTOCOL, Experiment

# ---- experiments

BASE = Experiment("lsf", "ETTh1", 96, "msft", 1, {"aggregator": None, "look_back": [96, 512]}, Budget(epochs=2), 4)
CHANGES: list[dict[str, Any]] = [
    {"family": "pf", "test_stride": 1},
    {"dataset": "mine/sales.toml"},
    {"seed": 2},
    {"options": {"aggregator": "c2f", "look_back": [96, 512]}},
    {"budget": Budget(epochs=3)},
    {"budget": Budget(epochs=2, look_backs=(96,))},
    {"test_stride": 1},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_change_changes_the_key_and_seed_and_stride_not_the_choice(changes: dict[str, Any]) -> None:
    changed = replace(BASE, **changes)
    assert changed.key != BASE.key
    assert (changed.choice_key == BASE.choice_key) == (set(changes) <= {"seed", "test_stride"})
    back = Experiment.from_dict(json.loads(json.dumps(changed.to_dict())))
    assert (back, back.key) == (changed, changed.key)


def test_keys_are_the_hash_of_what_differs_from_the_defaults() -> None:
    """Stored results are found by them: a change of their definition, or of a default, would orphan all results."""
    text = (
        '{"budget":{"epochs":2},"dataset":"ETTh1","family":"lsf","horizon":96,"model":"msft",'
        '"options":{"aggregator":null,"look_back":[96,512]}'
    )
    assert BASE.key == hashlib.sha256((text + ',"seed":1,"test_stride":4}').encode()).hexdigest()
    assert BASE.choice_key == hashlib.sha256((text + "}").encode()).hexdigest()
    assert replace(BASE, options={"look_back": (96, 512), "aggregator": None}).key == BASE.key
    assert Experiment("pf", "Solar", 24, "msft", test_stride=7).test_stride == 24  # its windows follow one another
    usual = {"epochs": 10, "patience": 3, "batch_size": 32, "train_windows": None, "validation_windows": None}
    usual |= {"look_backs": (96, 336, 512, 1024, 2048), "zero_shot_choice": False, "baseline_epochs": None}
    usual |= {"zero_shot_look_back": False}
    plain = Experiment("lsf", "ETTh1", 96, "msft")
    assert asdict(Budget()) == usual
    assert (plain.seed, plain.options, plain.budget, plain.test_stride, PROTOCOL) == (0, {}, Budget(), 1, 1)


def test_places_are_not_in_the_key_but_in_the_experiment() -> None:
    """Where data and weights lie is another matter on every machine; their hashes stand beside the key."""
    for one, other in (
        ({"dataset": "/here/sales.toml"}, {"dataset": "there/sales.toml"}),
        ({"options": {"backbone": "/here/tiny"}}, {"options": {}}),
        ({"options": {"backbone": "a", "lr": 0.1}}, {"options": {"backbone": "b", "lr": 0.1}}),
    ):
        first, second = replace(BASE, **one), replace(BASE, **other)
        assert (first.key, first.choice_key) == (second.key, second.choice_key)
        assert first.to_dict() != second.to_dict()
    assert replace(BASE, dataset="a/sales.toml").key != replace(BASE, dataset="a/costs.toml").key


# ---- suites


@pytest.mark.parametrize("name", suites.SUITES)
def test_names_are_registered_and_nothing_is_there_twice(name: str) -> None:
    """A suite begins with seed 0 of everything; what is not trained has one seed."""
    experiments = suites.load(name)
    for each in experiments:
        assert each.dataset in REGISTRY[each.family]
        assert each.model in MODELS
        assert each.family == "lsf" or each.horizon == REGISTRY["pf"][each.dataset][0].season
    assert len({each.key for each in experiments}) == len(experiments) > 0
    seeds = [each.seed for each in experiments]
    assert seeds == sorted(seeds)
    assert {each.model for each in experiments if each.seed > 0}.isdisjoint(suites.UNSEEDED)


def test_long_memory_makes_each_zero_shot_choice_once() -> None:
    """Trained rows follow zero-shot rows of the suite; those at one scale choose by fits."""
    experiments = suites.load("long_memory")
    choices = {each.choice_key for each in experiments if each.model == "zero_shot"}
    for each in experiments:
        if each.model in OURS and each.model != "zero_shot":
            leader, forecaster = measures.leader_of(each), load_forecaster(each.model, each.options, each.budget)
            assert leader is not None
            assert leader.choice_key in choices or len(each.options["look_back"]) == 1 == forecaster.one_scale
            assert ("look_back" in forecaster.followed) != forecaster.one_scale == (each.options.get("num_scales") == 0)
    ett = [each for each in experiments if each.dataset.startswith("ETT")]
    assert {(each.dataset, each.horizon) for each in experiments[:7]} == {("ETTm1", 96)}
    assert {each.seed for each in ett if each.horizon == 96 and each.model != "lora"} == {0, 1, 2}
    assert {each.seed for each in experiments if each not in ett} == {0}


# ---- the check


REFERENCES = {
    "dlinear": {"ETTh1": 0.375, "ETTm1": 0.299, "Weather": 0.176},
    "patchtst": {"ETTh1": 0.375, "ETTm1": 0.290, "Weather": 0.152},
}


def measured(factor: float = 1.0, made: str = "2026-01-01", **changes: Any) -> list[dict[str, Any]]:
    """A result of every experiment of the harness, `factor` times its reference."""
    found = []
    for each in suites.load("harness"):
        reference = REFERENCES[each.model][each.dataset]
        named = {"key": each.key, "experiment": each.to_dict(), "data_hash": "d", **measures.standing(each)}
        named |= {"metrics": {"mse": factor * reference, "mae": 1.0}, "provenance": {"made": made, "dirty": False}}
        file_hash = REGISTRY["lsf"][each.dataset][0].digest
        found.append({"kind": "run", **dict.fromkeys(store.NEEDED["run"]), **named, "file_hash": file_hash, **changes})
    return found


@pytest.mark.parametrize(
    ("entries", "passed"),
    [
        (lambda: measured(1.019), 6),
        (lambda: measured(1.025), 3),  # PatchTST's may be away by 3 %, DLinear's by 2 %
        (lambda: measured(made="2027-01-01") + measured(2.0), 6),  # the newest counts
        (lambda: measured()[1:], 5),  # a seed is missing
        (lambda: measured(defaults="e"), 0),
        (lambda: measured(file_hash="md5:0"), 0),
    ],
)
def test_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: Any, passed: int) -> None:
    pytest.importorskip("neuralforecast")
    for entry in entries():
        store.add(tmp_path, entry)
    code = __main__.main(["check", "--results", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert sum(line.endswith(": passed") for line in lines) == passed
    assert code == (0 if passed == 6 else 1)
