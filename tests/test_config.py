"""Settings: what is refused, by name and value, and the round trip through JSON."""

import json
import math
import re
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
    ("name", "value"),
    [
        *(("lora_rank", value) for value in (-1, 0.5, True)),
        *(("lora_alpha", value) for value in (-0.5, math.nan)),
        *(("prompt_length", value) for value in (0, 1.0)),
        *((name, value) for name in ("shared_adapters", "shared_lora") for value in (1, None, "True")),
    ],
)
def test_method_options_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}={value!r} "):
        MethodConfig(**{name: value})


@pytest.mark.parametrize("name", [*RATES, "lora"])
def test_learning_rates_out_of_range_are_refused_under_the_users_name(name: str) -> None:
    for value in (-1e-9, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"^lr_{name}={value!r} "):
            LearningRates(**(RATES | {name: value}))
    assert getattr(LearningRates(**(RATES | {name: 0.0})), name) == 0.0


@pytest.mark.parametrize("value", [1.5, 2.0, 0, "3", None, True, np.array([1, 2])])
def test_check_number_refuses_what_is_no_integer_in_range(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^length={re.escape(repr(value))} .*integer of at least 1$"):
        check_number("length", value, 1, integer=True)


@pytest.mark.parametrize("value", ["0.5", None, False, math.nan, math.inf, 0.24, np.bool_(True), 1j])
def test_check_number_refuses_what_is_no_number_in_range(value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^share={re.escape(repr(value))} .*number of at least 0\.25$"):
        check_number("share", value, 0.25)


def test_check_number_gives_python_numbers_up_to_the_bound() -> None:
    found = [check_number("n", np.int64(3), 3, integer=True), check_number("x", np.float32(0.25), 0.25)]
    found += [check_number("x", 7, 0.25)]
    assert found == [3, 0.25, 7]
    assert [type(value) for value in found] == [int, float, int]


def test_unknown_fields_are_refused_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"MethodConfig .*\['rank'\]; .*'lora_alpha', .*'lora_rank'"):
        MethodConfig.from_dict({"rank": 3, "lora_alpha": 1.0})


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


@pytest.mark.parametrize("logits", [(), (0.0, 1.0), (0.0, 1.0, 2.0, 3.0)])
def test_a_wrong_number_of_logits_is_refused_with_both_numbers(logits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=rf"weight_init=\[.*\] has {len(logits)} logits .* 3 scales"):
        MixingConfig(weight_init=logits).initial_logits(2)


@pytest.mark.parametrize("logit", [math.nan, -math.inf, "a", None])
def test_logits_that_are_no_finite_numbers_are_refused(logit: Any) -> None:
    for logits in ([0.0, logit], [logit, 0.0]):
        with pytest.raises(ValueError, match=f"weight_init={re.escape(repr(logits))}.*finite"):
            MixingConfig(weight_init=logits)


@pytest.mark.parametrize("rule", WEIGHT_LEARNINGS)
def test_nothing_is_learned_of_the_weights_where_scale_0_alone_forecasts(rule: str) -> None:
    for mixing in MIXINGS:
        expected = "uniform" if mixing == "first" else rule
        assert MixingConfig(mixing, weight_learning=rule).learning == expected


# --- the way to JSON and back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        MethodConfig(),
        MethodConfig(lora_rank=3, lora_alpha=1.5, aggregator=None, shared_lora=True, attention="full"),
        MethodConfig(lora_rank=np.int64(3), lora_alpha=np.float32(1.5), prompt_length=np.int32(2)),
        MixingConfig(),
        MixingConfig("quantile", "linear", "stacking", "first"),
        MixingConfig(weight_init=[np.float64(0.5), np.int64(1), -1e-7]),
        LearningRates(1e-7 / 3, 0.0, 1.0, 5e-324),
        LearningRates(0.5, 0.25, 0.125, 0.0, lora=np.float32(0.75)),
        LearningRates(*map(np.float32, (0.5, 0.25, 0.125, 0.0))),
    ],
)
def test_json_round_trip_gives_an_equal_config(config: Config) -> None:
    restored = type(config).from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    assert hash(restored) == hash(config)
    assert restored.to_dict() == config.to_dict()


def test_without_a_rate_of_its_own_lora_has_that_of_new() -> None:
    """As in dictionaries that version 0.1 saved."""
    old = LearningRates.from_dict(dict(RATES))
    assert old.of("lora") == old.of("new") == 1e-3
    assert old.scaled_to(5e-4).of("lora") == old.replaced(new=5e-4).of("lora") == 5e-4
    assert old.replaced(lora=2e-3, new=None).to_dict() == {**RATES, "lora": 2e-3}
    assert old.replaced(lora=0.0).of("lora") == 0.0
    with pytest.raises(ValueError, match=r"^lr_new=None "):
        LearningRates.from_dict({**RATES, "new": None})


def test_rates_scale_together() -> None:
    scaled = LearningRates(**RATES, lora=1e-2).scaled_to(5e-4)
    expected = {"pretrained": 5e-5, "new": 5e-4, "head": 1e-4, "omega": 5e-3, "lora": 5e-3}
    assert scaled.to_dict() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"^lr_new=0\.0 "):
        LearningRates(**(RATES | {"new": 0.0})).scaled_to(1e-3)
