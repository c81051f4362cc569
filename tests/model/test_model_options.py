"""What the options are held against: the method's rates, the parameters' names, and the largest number of scales."""

from __future__ import annotations

from typing import Any

import pytest
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import make_model, wave

from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("likelihood", ["native", QuantileRegression([0.1, 0.5, 0.9])])
def test_rates_are_of_the_groups_that_train(tiny_moirai: str, method: str, likelihood: Any) -> None:
    """Exactly those are taken, and used."""
    found = find_method(method)
    scales = 2 if found.multi_scale else None
    model = make_model(tiny_moirai, method=method, num_scales=scales, likelihood=likelihood).fit(wave(60))
    groups = {name for name, members in model.model.parameter_groups().items() if members} if found.trains else set()
    assert groups == {*found.groups, *(["head"] if found.trains and likelihood != "native" else [])}
    for group in ("pretrained", "new", "head", "omega"):
        arguments = {"method": method, "num_scales": scales, "likelihood": likelihood, f"lr_{group}": 0.5}
        if group in groups:
            assert make_model(tiny_moirai, **arguments)._module_settings["learning_rates"][group] == 0.5
            continue
        with pytest.raises(ValueError, match=rf"^lr_{group}=0\.5 .* without effect with method='{method}'"):
            make_model(tiny_moirai, **arguments)


def test_who_names_what_trains_may_give_any_rate(tiny_moirai: str) -> None:
    model = make_model(
        tiny_moirai, method="lora", num_scales=None, enable_finetuning={"unfreeze": ["*param_proj*"]}, lr_head=0.5
    )
    assert model._module_settings["learning_rates"]["head"] == 0.5


def test_patterns_that_match_nothing_are_refused(tiny_moirai: str) -> None:
    for mode in ("unfreeze", "freeze"):
        model = make_model(tiny_moirai, enable_finetuning={mode: ["method.lora.*", "method.lorra.*"]})
        with pytest.raises(ValueError, match=r"no parameter matches 'method\.lorra\.\*'; .* 'method\.lora\.") as caught:
            model.fit(wave(60))
        assert repr({mode: ["method.lora.*", "method.lorra.*"]}) in str(caught.value)


# ------------------------------------------------------------------------------------------- the largest num_scales


@pytest.mark.parametrize("context", [32, (8, 32), (32, 32), 33])
@pytest.mark.parametrize("patch_size", [4, 8, "auto"])
@pytest.mark.parametrize(("horizon", "shift"), [(8, 0), (3, 0), (3, 1)])
def test_largest_num_scales_is_the_last_that_is_taken(
    tiny_moirai: str, context: int | tuple[int, int], patch_size: int | str, horizon: int, shift: int
) -> None:
    arguments = {
        "input_chunk_length": context,
        "output_chunk_length": horizon,
        "output_chunk_shift": shift,
        "patch_size": patch_size,
        "backbone": tiny_moirai,
    }
    largest = MSFTFoundationModel.largest_num_scales(**arguments)
    make_model(tiny_moirai, **arguments | {"num_scales": largest})
    with pytest.raises(ValueError, match=f"allowed are 0 to {largest}"):
        make_model(tiny_moirai, **arguments | {"num_scales": largest + 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((32, 8, 0), "patch_size=0 is not allowed; give an integer of at least 1"),
        ((4, 8, 4), "input_chunk_length=4 is too short for patch_size=4.*at least 5 steps"),
        ((-32, 8, 4), "input_chunk_length=-32"),
        ((32, 0, 4), "output_chunk_length=0"),
        ((32, 8, 4, -1), "output_chunk_shift=-1"),
        ((32, 8, "big"), "patch_size='big'.*'auto'"),
        ((32, 8, "auto", 0, "moirai-tinny"), "backbone='moirai-tinny'"),
    ],
)
def test_largest_num_scales_refuses_what_the_model_refuses(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MSFTFoundationModel.largest_num_scales(*arguments)
