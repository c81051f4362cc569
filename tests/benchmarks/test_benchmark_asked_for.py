"""Which experiments of a suite a command line asks for, and with which options."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from benchmarks import runner
from benchmarks.errors import Misuse
from benchmarks.experiments import Experiment


def arguments(**changes: Any) -> argparse.Namespace:
    nothing = dict.fromkeys(("only", "datasets", "horizons", "seeds", "stride"))
    return argparse.Namespace(suite="mine", **{**nothing, "option": [], **changes})


SUITE = [
    Experiment("lsf", dataset, horizon, model, seed)
    for seed in (0, 1)
    for dataset in ("a", "b")
    for horizon in (24, 48)
    for model in ("msft", "full")
]


@pytest.mark.parametrize(
    ("option", "name", "values"),
    [
        ("only", "model", ["full"]),
        ("datasets", "dataset", ["b"]),
        ("horizons", "horizon", [48]),
        ("seeds", "seed", [1, 0]),
    ],
)
def test_a_part_of_a_suite_in_its_order(option: str, name: str, values: list[Any]) -> None:
    found = runner.select(SUITE, arguments(**{option: values}))
    assert found == [each for each in SUITE if getattr(each, name) in values]


def test_all_of_what_is_asked_for_counts() -> None:
    found = runner.select(SUITE, arguments(only=["msft"], datasets=["a"], horizons=[24], seeds=[1], stride=5))
    assert found == [Experiment("lsf", "a", 24, "msft", 1, test_stride=5)]
    assert runner.select(SUITE, arguments()) == SUITE


def test_a_user_s_data_take_the_place_of_the_suite_s() -> None:
    found = runner.select(SUITE, arguments(datasets=["my.toml"], seeds=[0]))
    models_of = ("msft", "full")
    assert found == [Experiment("lsf", "my.toml", horizon, model) for horizon in (24, 48) for model in models_of]
    beside = runner.select(SUITE, arguments(datasets=["my.toml", "b"], seeds=[0], horizons=[24], only=["full"]))
    assert [each.dataset for each in beside] == ["b", "my.toml"]


def test_two_files_of_the_same_name_are_two_data_sets() -> None:
    found = runner.select(SUITE[:4], arguments(datasets=["a/my.toml", "b/my.toml"], horizons=[24], only=["msft"]))
    assert [each.dataset for each in found] == ["a/my.toml", "b/my.toml"]


def test_options_are_those_of_our_methods() -> None:
    words = ["backbone=some/where", "lora_rank=4", 'aggregator="c2f"', "look_back=[96,512]", "revision=null"]
    given = {"backbone": "some/where", "lora_rank": 4, "aggregator": "c2f", "look_back": [96, 512], "revision": None}
    suite = [
        Experiment("lsf", "a", 24, "msft", options={"lora_rank": 8, "mixing": "first"}),
        Experiment("lsf", "a", 24, "msft", options={"lora_rank": 2, "mixing": "first"}),
        Experiment("lsf", "a", 24, "dlinear"),
    ]
    found = runner.with_options(suite, words)
    assert [each.options for each in found] == [{"mixing": "first", **given}, {}]
    assert runner.with_options(suite, []) == suite
    with pytest.raises(Misuse, match="--option lora_rank: no method of darts-msft in the suite takes it"):
        runner.with_options(suite[2:], ["lora_rank=4"])


def test_options_go_to_the_methods_that_have_a_use_for_them() -> None:
    suite = [Experiment("lsf", "a", 24, model) for model in ("msft", "full", "lora")]
    found = runner.with_options(suite, ["lora_rank=4", "patch_size=8"])
    shared = {"patch_size": 8}
    assert [each.options for each in found] == [{"lora_rank": 4, **shared}, shared, {"lora_rank": 4, **shared}]
    with pytest.raises(Misuse, match=r"--option mixing, colour: no method .*; they take look_back, backbone, revision"):
        runner.with_options(suite[1:], ["mixing=first", "lora_rank=4", "colour=red"])


@pytest.mark.parametrize("word", ["lora_rank", "=4", "look_back=[96", "look_back={", "mixing=", 'aggregator="c2f'])
def test_options_that_are_none(word: str) -> None:
    with pytest.raises(Misuse, match=re.escape(f"--option {word}")):
        runner.option_of(word)
