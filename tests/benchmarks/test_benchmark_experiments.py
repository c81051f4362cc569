"""Experiments: what tells them apart, and what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from benchmarks.data.registry import REGISTRY
from benchmarks.errors import Misuse
from benchmarks.run.experiments import PROTOCOL, Budget, Experiment
from benchmarks.run.suites import first_budget


@pytest.mark.parametrize(
    ("windows", "limit", "stride"),
    [(10, None, 1), (10, 10, 1), (10, 20, 1), (10, 9, 2), (10, 5, 2), (10, 4, 3), (10, 1, 10), (1, 1, 1)],
)
def test_a_stride_keeps_at_most_the_limit_and_is_the_least_that_does(windows: int, limit: Any, stride: int) -> None:
    assert Budget(validation_windows=limit).validation_stride(windows, season=1) == stride
    if limit is not None:
        assert len(range(0, windows, stride)) <= limit
        assert stride == 1 or len(range(0, windows, stride - 1)) > limit


@pytest.mark.parametrize("name", ["ETTh1", "ETTm1", "Weather"])
@pytest.mark.parametrize("horizon", [96, 336])
def test_sampled_validation_origins_are_at_all_times_of_the_day(name: str, horizon: int) -> None:
    """As the suite "first" samples them; 2880, 11520 and 5270 validation steps."""
    season = REGISTRY["lsf"][name].file.season
    windows = {"ETTh1": 2880, "ETTm1": 11520, "Weather": 5270}[name] - horizon + 1
    origins = range(0, windows, first_budget(name).validation_stride(windows, season))
    assert len({origin % season for origin in origins}) == season
    assert 0.8 * 200 < len(origins) <= 200


@pytest.mark.parametrize(("windows", "batches"), [(None, None), (1, 1), (32, 1), (33, 2), (512, 16)])
def test_training_windows_come_in_whole_batches(windows: int | None, batches: int | None) -> None:
    assert Budget(batch_size=32, train_windows=windows).train_batches == batches


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0 .* at least 1"),
        ({"baseline_epochs": 0}, "baseline_epochs=0 .* at least 1"),
        ({"patience": 1.5}, "patience=1.5"),
        ({"batch_size": True}, "batch_size=True"),
        ({"train_windows": 0}, "train_windows=0"),
        ({"validation_windows": "all"}, "validation_windows='all'"),
        ({"look_backs": 512}, "look_backs=512 .* give a list"),
        ({"look_backs": ()}, r"look_backs=\(\) .* give a list"),
        ({"look_backs": (96, 0)}, "look_backs=0 .* at least 1"),
        ({"look_backs": (512, 96)}, "ascending"),
        ({"look_backs": (96, 96)}, "each once"),
        ({"zero_shot_choice": 1}, "zero_shot_choice=1 .* True or False"),
    ],
)
def test_unusable_budgets_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Misuse, match=message):
        Budget(**changes)


BASE = Experiment("lsf", "ETTh1", 96, "msft", 1, {"aggregator": None, "look_back": [96, 512]}, Budget(epochs=2), 4)
CHANGES: list[dict[str, Any]] = [
    {"family": "pf", "test_stride": 1},
    {"dataset": "ETTh2"},
    {"horizon": 192},
    {"model": "full"},
    {"seed": 2},
    {"options": {"aggregator": None}},
    {"options": {"aggregator": "c2f", "look_back": [96, 512]}},
    {"budget": Budget(epochs=3)},
    {"budget": Budget(epochs=2, train_windows=1000)},
    {"budget": Budget(epochs=2, look_backs=(96,))},
    {"budget": Budget(epochs=2, zero_shot_choice=True)},
    {"budget": Budget(epochs=2, baseline_epochs=2)},
    {"dataset": "mine/sales.toml"},
    {"test_stride": 1},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_change_changes_the_key_and_seed_and_stride_not_the_choice(changes: dict[str, Any]) -> None:
    changed = replace(BASE, **changes)
    assert changed.key != BASE.key
    assert (changed.choice_key == BASE.choice_key) == (set(changes) <= {"seed", "test_stride"})


def test_keys_are_the_hash_of_canonical_json() -> None:
    """Stored results are found by them: a change of their definition would orphan all results."""
    text = (
        '{"budget":{"epochs":2},"dataset":"ETTh1","family":"lsf","horizon":96,"model":"msft",'
        '"options":{"aggregator":null,"look_back":[96,512]}'
    )
    assert BASE.key == hashlib.sha256((text + ',"seed":1,"test_stride":4}').encode()).hexdigest()
    assert BASE.choice_key == hashlib.sha256((text + "}").encode()).hexdigest()
    reordered = replace(BASE, options={"look_back": (96, 512), "aggregator": None})
    assert reordered.key == BASE.key


def test_what_is_as_usual_is_not_in_the_key() -> None:
    """So a new field of an experiment or a budget leaves the keys of all results as they are."""
    usual = '{"dataset":"ETTh1","family":"lsf","horizon":96,"model":"msft"}'
    plain = Experiment("lsf", "ETTh1", 96, "msft")
    assert plain.key == plain.choice_key == hashlib.sha256(usual.encode()).hexdigest()
    assert plain.to_dict().keys() > {"seed", "options", "budget", "test_stride"}


def test_a_changed_default_takes_a_new_protocol() -> None:
    """Keys don't hold defaults: whoever changes one here raises `PROTOCOL`, or old results stand for new ones."""
    look_backs = (96, 336, 512, 1024, 2048)
    usual = {"epochs": 10, "patience": 3, "batch_size": 32, "train_windows": None, "validation_windows": None}
    assert asdict(Budget()) == {**usual, "look_backs": look_backs, "zero_shot_choice": False, "baseline_epochs": None}
    plain = Experiment("lsf", "ETTh1", 96, "msft")
    assert (plain.seed, plain.options, plain.budget, plain.test_stride, PROTOCOL) == (0, {}, Budget(), 1, 1)


def test_places_are_not_in_the_key_but_in_the_experiment() -> None:
    """Where data and weights lie is another matter on every machine; their hashes stand beside the key."""
    for one, other in (
        ({"dataset": "/here/sales.toml"}, {"dataset": "there/sales.toml"}),
        ({"options": {"backbone": "/here/tiny"}}, {"options": {}}),
        ({"options": {"local_dir": "a", "lr": 0.1}}, {"options": {"local_dir": "b", "lr": 0.1}}),
    ):
        first, second = replace(BASE, **one), replace(BASE, **other)
        assert (first.key, first.choice_key) == (second.key, second.choice_key)
        assert first != second
        assert first.to_dict() != second.to_dict()
    assert replace(BASE, dataset="sales").key != replace(BASE, dataset="sales.toml").key
    assert replace(BASE, dataset="a/sales.toml").key != replace(BASE, dataset="a/costs.toml").key


@pytest.mark.parametrize("changes", [{}, *CHANGES], ids=str)
def test_round_trip_through_json(changes: dict[str, Any]) -> None:
    experiment = replace(BASE, **changes)
    back = Experiment.from_dict(json.loads(json.dumps(experiment.to_dict())))
    assert back == experiment
    assert back.key == experiment.key
    assert json.loads(json.dumps(experiment.to_dict())) == experiment.to_dict()


def test_probabilistic_windows_never_overlap() -> None:
    assert Experiment("pf", "Solar", 24, "msft").test_stride == 24
    assert Experiment("pf", "Solar", 24, "msft", test_stride=24) == Experiment("pf", "Solar", 24, "msft")
    with pytest.raises(ValueError, match=r"test_stride=2 is not allowed in the family 'pf'.*24"):
        Experiment("pf", "Solar", 24, "msft", test_stride=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "LSF"}, "family='LSF' is not known; choose one of lsf, pf"),
        ({"dataset": ""}, "dataset=''"),
        ({"model": None}, "model=None"),
        ({"horizon": 0}, "horizon=0 .* at least 1"),
        ({"seed": -1}, "seed=-1 .* at least 0"),
        ({"test_stride": 0}, "test_stride=0"),
        ({"options": {"levels": {0.1}}}, "can't be written as JSON"),
        ({"options": {"lr": float("nan")}}, "can't be written as JSON"),
    ],
)
def test_unusable_experiments_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Misuse, match=message):
        replace(BASE, **changes)


def test_unknown_names_in_a_file_are_refused() -> None:
    with pytest.raises(Misuse, match="an experiment has no 'stride'; it has family, dataset"):
        Experiment.from_dict({**BASE.to_dict(), "stride": 1})
    with pytest.raises(Misuse, match="a budget has no 'steps'"):
        Experiment.from_dict({**BASE.to_dict(), "budget": {"steps": 1}})


def test_for_people() -> None:
    assert str(replace(BASE, options={"lora_rank": 4})) == "lsf ETTh1-96 msft(lora_rank=4) seed 1"
    assert str(replace(BASE, options={})) == "lsf ETTh1-96 msft seed 1"
