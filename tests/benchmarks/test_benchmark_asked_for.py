"""Which experiments of a suite a command line asks for, and with which options."""

from __future__ import annotations

import argparse
import re
from typing import Any

import pytest

from benchmarks.errors import Misuse
from benchmarks.run import runner
from benchmarks.run.experiments import Experiment


def arguments(**changes: Any) -> argparse.Namespace:
    nothing = dict.fromkeys([*runner.SELECTORS, "stride"])
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
        ("family", "family", ["lsf"]),
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


def test_a_user_s_data_have_horizons_of_their_own() -> None:
    found = runner.select(SUITE, arguments(datasets=["my.toml"], horizons=[28, 24], seeds=[0]))
    models_of = ("msft", "full")
    assert found == [Experiment("lsf", "my.toml", horizon, model) for model in models_of for horizon in (28, 24)]


def test_windows_of_a_user_s_horizon_do_not_overlap_either() -> None:
    suite = [Experiment("lsf", "a", 24, "msft", test_stride=5), Experiment("pf", "b", 48, "msft")]
    for horizon in (28, 96):
        found = runner.select(suite, arguments(datasets=["my.toml"], horizons=[horizon]))
        assert [(each.family, each.horizon, each.test_stride) for each in found] == [
            ("lsf", horizon, 5),
            ("pf", horizon, horizon),
        ]


@pytest.mark.parametrize("datasets", [None, ["a"], ["my.toml", "a"]])
def test_registered_data_sets_keep_the_suite_s_horizons(datasets: list[str] | None) -> None:
    with pytest.raises(Misuse, match=r"--horizons 28: the suite 'mine' has 24, 48 alone; others are for --datasets"):
        runner.select(SUITE, arguments(datasets=datasets, horizons=[24, 28]))


@pytest.mark.parametrize("option", ["--horizons", "--stride"])
@pytest.mark.parametrize("value", ["0", "-3", "2.5", "day"])
def test_steps_are_counted_from_one(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is wrong is said in the words of who typed it."""
    parser = argparse.ArgumentParser()
    runner.add_arguments(parser)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--suite", "lsf", f"{option}={value}"])
    error = capsys.readouterr().err
    assert f"argument {option}: {value} is not allowed; give an integer of at least 1" in error
    assert "test_stride" not in error


def test_two_files_of_the_same_name_are_two_data_sets() -> None:
    found = runner.select(SUITE[:4], arguments(datasets=["a/my.toml", "b/my.toml"], horizons=[24], only=["msft"]))
    assert [each.dataset for each in found] == ["a/my.toml", "b/my.toml"]


def test_options_are_those_of_the_suite_s_models() -> None:
    words = ["backbone=some/where", "lora_rank=4", 'aggregator="c2f"', "look_back=[96,512]", "revision=null"]
    given = {"backbone": "some/where", "lora_rank": 4, "aggregator": "c2f", "look_back": [96, 512], "revision": None}
    suite = [
        Experiment("lsf", "a", 24, "msft", options={"lora_rank": 8, "mixing": "first"}),
        Experiment("lsf", "a", 24, "msft", options={"lora_rank": 2, "mixing": "first"}),
        Experiment("lsf", "a", 24, "dlinear"),
    ]
    found = runner.with_options(suite, words)
    assert [each.options for each in found] == [{"mixing": "first", **given}, {"look_back": [96, 512]}]
    assert runner.with_options(suite, []) == suite
    with pytest.raises(Misuse, match="--option lora_rank: no model of the suite takes it"):
        runner.with_options(suite[2:], ["lora_rank=4"])


def test_options_go_to_the_models_that_have_a_use_for_them() -> None:
    suite = [Experiment("lsf", "a", 24, model) for model in ("msft", "full", "lora")]
    found = runner.with_options(suite, ["lora_rank=4", "patch_size=8"])
    shared = {"patch_size": 8}
    assert [each.options for each in found] == [{"lora_rank": 4, **shared}, shared, {"lora_rank": 4, **shared}]
    with pytest.raises(Misuse, match=r"--option mixing, colour: no model .*; they take look_back, backbone, revision"):
        runner.with_options(suite[1:], ["mixing=first", "lora_rank=4", "colour=red"])


def test_options_reach_the_baselines_too() -> None:
    models_of = ("zero_shot", "dlinear", "seasonal_naive", "chronos2")
    suite = [Experiment("lsf", "a", 24, model) for model in models_of]
    found = runner.with_options(suite, ["local_dir=some/where", "lr=0.1", "look_back=96"])
    assert {each.model: each.options for each in found} == {
        "zero_shot": {"look_back": 96},
        "dlinear": {"look_back": 96, "lr": 0.1},
        "seasonal_naive": {},
        "chronos2": {"look_back": 96, "local_dir": "some/where"},
    }


@pytest.mark.parametrize("word", ["lora_rank", "=4", "look_back=[96", "look_back={", "mixing=", 'aggregator="c2f'])
def test_options_that_are_none(word: str) -> None:
    with pytest.raises(Misuse, match=re.escape(f"--option {word}")):
        runner.option_of(word)


def test_a_stride_where_only_pf_is_asked_for_is_refused() -> None:
    suite = [Experiment("pf", "a", 24, "msft"), Experiment("lsf", "a", 24, "msft")]
    assert [each.test_stride for each in runner.select(suite, arguments(stride=5))] == [24, 5]
    with pytest.raises(Misuse, match=r"--stride 5: nothing that was asked for is of the family lsf"):
        runner.select(suite, arguments(stride=5, family=["pf"]))
