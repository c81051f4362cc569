"""Settings: what is refused, in which words, and the round trip through JSON."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from darts_msft.options import (
    AGGREGATORS,
    ATTENTIONS,
    MIXINGS,
    UPSAMPLINGS,
    WEIGHT_LEARNINGS,
    Config,
    LearningRates,
    MethodConfig,
    MixingConfig,
    check_choice,
    check_number,
)

RATES = {"pretrained": 1e-4, "new": 1e-3, "head": 2e-4, "omega": 1e-2}


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "choices"),
    [
        (MethodConfig, "aggregator", AGGREGATORS),
        (MethodConfig, "attention", ATTENTIONS),
        (MixingConfig, "mixing", MIXINGS),
        (MixingConfig, "upsampling", UPSAMPLINGS),
        (MixingConfig, "weight_learning", WEIGHT_LEARNINGS),
        (MixingConfig, "weight_init", ("uniform", "first")),
    ],
)
def test_every_choice_is_accepted_and_another_one_refused_with_them_all(
    kind: type[Config], name: str, choices: tuple[Any, ...]
) -> None:
    for choice in choices:
        assert getattr(kind(**{name: choice}), name) == choice
    with pytest.raises(ValueError, match=f"{name}='typo'") as error:
        kind(**{name: "typo"})
    assert all(repr(choice) in str(error.value) for choice in choices)


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("lora_rank", -1, 0),
        ("lora_rank", 0.5, 0),
        ("lora_rank", True, 0),
        ("lora_alpha", -0.5, 0),
        ("lora_alpha", math.nan, 0),
    ],
)
def test_method_numbers_out_of_range_are_refused(name: str, value: float, bound: int) -> None:
    kind = "an integer" if name == "lora_rank" else "a finite number"
    with pytest.raises(ValueError, match=f"^{name}={value!r} .*{kind} of at least {bound}$"):
        MethodConfig(**{name: value})


@pytest.mark.parametrize("value", [1, 0, None, "no", "True"])
@pytest.mark.parametrize("name", ["shared_adapters", "shared_lora"])
def test_switches_are_true_or_false(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value!r} is not allowed; give True or False$"):
        MethodConfig(**{name: value})
    assert getattr(MethodConfig(**{name: True}), name)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", list(RATES))
def test_learning_rates_out_of_range_are_refused_under_the_users_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^lr_{name}={value!r} .*a finite number of at least 0$"):
        LearningRates(**(RATES | {name: value}))
    assert getattr(LearningRates(**(RATES | {name: 0.0})), name) == 0.0


@pytest.mark.parametrize("value", [1.5, 2.0, "3", None, True, math.nan, 0])
def test_check_number_refuses_what_is_no_integer_in_range(value: object) -> None:
    with pytest.raises(ValueError, match=f"^length={value!r} .*an integer of at least 1$"):
        check_number("length", value, 1, integer=True)
    check_number("length", 1, 1, integer=True)


@pytest.mark.parametrize("value", ["0.5", None, False, math.nan, math.inf, 0.24])
def test_check_number_refuses_what_is_no_number_in_range(value: object) -> None:
    with pytest.raises(ValueError, match=rf"^share={value!r} .*a finite number of at least 0\.25$"):
        check_number("share", value, 0.25)
    check_number("share", 0.25, 0.25)
    check_number("share", 7, 0.25)


def test_check_choice_names_value_and_choices() -> None:
    with pytest.raises(ValueError, match=r"^how=3 is not known; choose one of 'a', None$"):
        check_choice("how", 3, ("a", None))
    check_choice("how", None, ("a", None))


def test_unknown_fields_are_refused_beside_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match=r"MethodConfig has no field \['rank'\]; .*'aggregator', .*'lora_alpha', .*'lora_rank'"
    ):
        MethodConfig.from_dict({"rank": 3, "lora_alpha": 1.0})


@pytest.mark.parametrize("kind", [MethodConfig(), MixingConfig(), LearningRates(**RATES)])
def test_settings_are_frozen(kind: Config) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind, next(iter(kind.to_dict())), 1)


# --- the scales' weights ----------------------------------------------------------------------------------------------


def softmax(logits: list[float]) -> list[float]:
    return [math.exp(logit) / sum(map(math.exp, logits)) for logit in logits]


def test_initial_logits_are_uniform_or_nearly_all_on_scale_0_or_the_given_ones() -> None:
    assert softmax(MixingConfig(weight_init="uniform").initial_logits(3)) == [0.25] * 4
    for num_scales in (0, 1, 3):
        weights = softmax(MixingConfig(weight_init="first").initial_logits(num_scales))
        assert len(weights) == num_scales + 1
        assert weights[0] > 0.999
    assert MixingConfig(weight_init=(1.0, -2.5, 0.0)).initial_logits(2) == [1.0, -2.5, 0.0]


@pytest.mark.parametrize("logits", [(), (0.0,), (0.0, 1.0), (0.0, 1.0, 2.0, 3.0)])
def test_a_wrong_number_of_logits_is_refused_with_both_numbers(logits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=rf"weight_init=\[.*\] has {len(logits)} logits .* 3 scales"):
        MixingConfig(weight_init=logits).initial_logits(2)


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(logit: float) -> None:
    with pytest.raises(ValueError, match=f"weight_init.*{logit!r}.*finite"):
        MixingConfig(weight_init=(0.0, logit))


@pytest.mark.parametrize("rule", WEIGHT_LEARNINGS)
def test_nothing_is_learned_of_the_weights_where_scale_0_alone_forecasts(rule: str) -> None:
    assert MixingConfig("first", weight_learning=rule).learning == "uniform"
    for mixing in set(MIXINGS) - {"first"}:
        assert MixingConfig(mixing, weight_learning=rule).learning == rule


# --- the way to JSON and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        MethodConfig(),
        MethodConfig(lora_rank=3, lora_alpha=1.5, aggregator=None),
        MethodConfig(shared_adapters=True, shared_lora=True, attention="full"),
        MixingConfig(),
        MixingConfig("first", weight_learning="scale_loss"),
        MixingConfig("samples"),
        MixingConfig("quantile", "linear", "stacking", "first"),
        MixingConfig(weight_init=(0.1, -1e-7, 3.0)),
        LearningRates(**RATES),
        LearningRates(1e-7 / 3, 0.0, 1.0, 5e-324),
    ],
)
def test_json_round_trip_gives_an_equal_config(config: Config) -> None:
    restored = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    assert hash(restored) == hash(config)
    assert restored.to_dict() == config.to_dict()


def test_numpy_numbers_become_python_s() -> None:
    """So that they can be written as JSON, and an adapter's description compares equal."""
    method = MethodConfig(lora_rank=np.int64(3), lora_alpha=np.float32(1.5), prompt_length=np.int32(2))
    assert method == MethodConfig(lora_rank=3, lora_alpha=1.5, prompt_length=2)
    rates = LearningRates(*map(np.float32, (0.5, 0.25, 0.125, 0.0)))
    mixing = MixingConfig(weight_init=[np.float64(0.5), np.int64(1)])
    for config in (method, rates, mixing):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert [type(value) for value in (method.lora_rank, method.lora_alpha, rates.new)] == [int, float, float]


@pytest.mark.parametrize("value", [np.bool_(True), np.array([1, 2]), "2", None, 1 + 0j])
def test_what_is_no_number_is_refused(value: Any) -> None:
    for integer in (False, True):
        with pytest.raises(ValueError, match=r"share=.* is not allowed"):
            check_number("share", value, 0, integer=integer)


@pytest.mark.parametrize("value", [["a"], np.array([1, 2]), {}])
def test_a_choice_that_has_no_hash_is_refused_alike(value: Any) -> None:
    with pytest.raises(ValueError, match=r"how=.* is not known; choose one of 'a', None"):
        check_choice("how", value, ("a", None))


@pytest.mark.parametrize("logits", [["a", 0.0], [None, 0.0], [[0.0], 1.0]])
def test_logits_that_are_no_numbers_are_refused(logits: Any) -> None:
    with pytest.raises(ValueError, match=r"weight_init=\[.* is not allowed; give .* K\+1 finite numbers"):
        MixingConfig(weight_init=logits)


def test_changes_are_what_differs_from_the_defaults() -> None:
    assert MethodConfig().changes() == {}
    assert MethodConfig(aggregator=None, lora_rank=16).changes() == {"aggregator": None}
    assert MixingConfig("first", weight_init=(0.0,)).changes() == {"mixing": "first", "weight_init": (0.0,)}


def test_rates_scale_together() -> None:
    scaled = LearningRates(**RATES).scaled_to(5e-4)
    assert scaled.to_dict() == pytest.approx({"pretrained": 5e-5, "new": 5e-4, "head": 1e-4, "omega": 5e-3})
    assert scaled.new == 5e-4
    with pytest.raises(ValueError, match=r"lr_new=0\.0 .*ratio"):
        LearningRates(**(RATES | {"new": 0.0})).scaled_to(1e-3)
