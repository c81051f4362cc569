"""The laws of finetuning methods, for every registered method on every backbone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import MAKERS, WITHOUT_HEAD, forecast_apart, load_backbone
from contract_method import (
    CONTEXT,
    HORIZON,
    PATCH,
    SCALES,
    VARIATES,
    attached,
    forecast_of,
    free_names,
    gradients_of,
    make_model,
    make_module,
    parameters_at_start,
    params_of,
    perturbed,
    pool,
    predict,
    reached_from,
    series,
    table_of,
    what_trains,
    windows,
)
from darts.utils.data.torch_datasets.utils import PLModuleInput
from torch import Tensor
from trained_names import matching

from darts_msft import MSFTFoundationModel
from darts_msft.backbones.base import with_stats
from darts_msft.forms import Form
from darts_msft.methods import METHODS, find_method
from darts_msft.methods.base import Method
from darts_msft.module import MSFTModule

ONLY = {"moment_masked": {"zero_shot", "msft", "full", "prompt"}}
"""Methods of another form of an architecture that is here with every method."""
CASES = [
    case
    for case in itertools.product(METHODS, MAKERS)
    if (case[0] != "zero_shot" or case[1] not in WITHOUT_HEAD) and case[0] in ONLY.get(case[1], METHODS)
]
PRETRAINED = [case for case in CASES if find_method(case[0]).pretrained and case[1] not in WITHOUT_HEAD]
UNCHANGED = [case for case in PRETRAINED if case[0] != "prompt"]  # training starts at the pretrained model's forecast
TRAINED = [case for case in CASES if find_method(case[0]).trains]
FULLY = ("moirai",)
"""The architecture that runs with all settings: what a setting changes is code that they all share."""
JOINING = [case for case in CASES if "attention" in find_method(case[0]).options and case[1] in FULLY]
CLOSER = [case for case in CASES if case[1] in FULLY or case[0] in ("msft", "prompt", "lora", "zero_shot")]
"""What these laws hold a method to on other architectures it shares with one of these."""
EVERYWHERE: dict[str, dict[str, Any]] = {"default": {}, "one scale": {"num_scales": 0}}
SETTINGS: dict[str, dict[str, Any]] = {
    **EVERYWHERE,
    "fixed weights": {"weight_learning": "uniform"},
    "scale 0 alone": {"mixing": "first"},
    "no aggregator": {"aggregator": None, "weight_learning": "scale_loss"},
    "coarse to fine": {"aggregator": "c2f", "weight_learning": "uniform"},
    "fine to coarse": {"aggregator": "f2c", "mixing": "first"},
    "shared between scales": {"shared_adapters": True, "shared_lora": True},
    "shifted": {"output_chunk_shift": 3},
}
JOINED = {"full attention": {"attention": "full"}}  # does not start at the pretrained model
# at other rates AdaLoRA prunes a whole matrix within so few steps, and that leaves it as it began: zero
RATES = {"adalora": {"lr_lora": 3e-3}}
Fitted = tuple[MSFTFoundationModel, dict[str, Tensor], np.ndarray]  # the parameters are those before the first step
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def _each(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, indirect=True, ids="-".join)


def _each_with(cases: list[tuple[str, str]], settings: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    """All settings that a case's method has a use for, where they are to run."""
    pairs = [
        pytest.param(case, values, id="-".join((*case, name)))
        for case in cases
        for name, values in (settings if case[1] in FULLY else EVERYWHERE).items()
        if values.keys() <= {*find_method(case[0]).options, "num_scales", "output_chunk_shift"}
    ]
    return pytest.mark.parametrize(("case", "settings"), pairs, indirect=["case"])


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> tuple[Path, str]:
    """The directory of a tiny checkpoint, and a method's name."""
    method, backbone = request.param
    return checkpoint_of(backbone), method


@pytest.fixture(scope="module")
def moved(case: tuple[Path, str]) -> MSFTModule:
    """Away from its start, as training leaves it; no test changes a parameter."""
    return perturbed(make_module(*case))


# --------------------------------------------------------------------------------------------------------- the start


@_each_with(UNCHANGED, SETTINGS)
def test_at_the_start_every_scale_is_the_pretrained_model(case: tuple[Path, str], settings: dict[str, Any]) -> None:
    module, past = attached(make_module(*case, **settings)), windows()
    backbone = load_backbone(case[0], PATCH)
    with torch.no_grad():
        outputs = module.forecast_scales(module.window(PLModuleInput(past_target=past)))
        assert len(outputs.params) == settings.get("num_scales", SCALES) + 1
        for scale, (params, stats) in enumerate(zip(outputs.params, outputs.stats, strict=True)):
            ahead = -(-(HORIZON + settings.get("output_chunk_shift", 0)) // 2**scale)
            bare = forecast_apart(backbone, pool(past, 2**scale), ahead, PATCH)
            torch.testing.assert_close(params, bare.params, **CLOSE)
            for found, expected in zip(stats, bare.stats, strict=True):
                torch.testing.assert_close(found, expected, **CLOSE)


@_each([case for case in PRETRAINED if case in CLOSER])
def test_before_training_the_forecast_is_scale_0_alone(case: tuple[Path, str]) -> None:
    module, past = make_module(*case), windows()
    backbone = load_backbone(case[0], PATCH)
    with torch.no_grad():
        params, stats = forecast_apart(backbone, past.transpose(1, 2), HORIZON, PATCH)
        expected = with_stats(params, stats).transpose(1, 2)
    if backbone.family.deterministic:  # the point itself
        point, loc, spread = expected.unbind(dim=-1)
        torch.testing.assert_close(predict(module, past).squeeze(-1), point * spread + loc, **CLOSE)
        return
    scales = SCALES + 1
    steps = predict(module, past).unflatten(-1, (scales, -1))
    torch.testing.assert_close(steps[..., 0, :-1], expected, **CLOSE)
    assert torch.equal(steps[..., -1], torch.eye(scales)[0].expand(3, HORIZON, VARIATES, scales))


@_each([case for case in PRETRAINED if case in CLOSER])
def test_without_its_hooks_the_method_leaves_no_trace(case: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters off equals the base: whatever the method trained, the backbone itself is as it was."""
    module, past = perturbed(make_module(*case), groups=("new", "lora")), windows()
    backbone, scales = load_backbone(case[0], PATCH), range(SCALES + 1)
    with torch.no_grad(), module.bare_backbone() as own:
        # a data set's own tokens train in the backbone
        prompts = {name: value for name, value in own.named_parameters() if Method.matches(name, own.spec.prompts)}
        backbone.load_state_dict({**backbone.state_dict(), **prompts})
        bare = [forecast_apart(backbone, pool(past, 2**i), -(-HORIZON // 2**i), PATCH).params for i in scales]
    with_hooks = params_of(module, past)
    for hook in ("adapt_input", "adapters", "aggregate", "add_tokens", "drop_tokens"):
        monkeypatch.setattr(module.method, hook, getattr(Method, hook).__get__(module.method))
    with module.bare_backbone():
        without = params_of(module, past)
    for base, on, off in zip(bare, with_hooks, without, strict=True):
        torch.testing.assert_close(off, base, **CLOSE)
        if list(module.method.parameters()) or "lora" in module.method.groups:
            assert (on - base).abs().max() > 1e-3


# ------------------------------------------------------------------------------------------------------- what trains


@_each_with(CASES, SETTINGS | JOINED)
def test_exactly_what_the_table_names_trains(case: tuple[Path, str], settings: dict[str, Any]) -> None:
    """It asks for gradients, gets them, and the optimiser holds it in the table's group, at that group's rate."""
    module = attached(make_module(*case, **settings))
    expected = what_trains(module, *case, **settings)
    assert free_names(module) == set(expected)
    if not find_method(case[1]).trains:
        return
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    groups = module.configure_optimizers().param_groups
    held = [(names[id(parameter)], group["name"]) for group in groups for parameter in group["params"]]
    assert len(held) == len(dict(held))
    assert {name: group.removesuffix("_plain") for name, group in held} == expected
    rates = find_method(case[1]).rates
    assert all(group["lr"] == getattr(rates, group["name"].removesuffix("_plain")) for group in groups)
    gradients = gradients_of(module)
    assert set(gradients) == set(expected)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    idle = {name for name, gradient in gradients.items() if not gradient.any()}
    # at the start LoRA's a waits for b; one component of a mixture may be too far from the labels to be moved
    assert {expected[name] for name in idle if not name.endswith(".a") and ".lora_A." not in name} <= {"head"}
    assert idle < set(gradients)


@_each([case for case in TRAINED if case in CLOSER])
def test_nothing_that_trains_is_dead(case: tuple[Path, str], moved: MSFTModule) -> None:
    """Once training has moved it, all has a part in the loss, and each component of the head in the forecast."""
    expected = what_trains(moved, *case)
    losses, forecasts = gradients_of(moved), gradients_of(moved, of_forecast=True)
    assert not [name for name, group in expected.items() if group != "head" and not losses[name].any()]
    assert not [name for name, group in expected.items() if group == "head" and not forecasts[name].any()]


@pytest.fixture(scope="module")
def fitted(case: tuple[Path, str]) -> Fitted:
    """A model after a short `fit`, its parameters before the first step, and its forecast."""
    with parameters_at_start() as before:
        model = make_model(*case, **RATES.get(case[1], {})).fit(series())
    # a method that trains nothing takes no step
    before = before or {name: value.clone() for name, value in model.model.named_parameters()}
    return model, before, forecast_of(model)


def test_fit_changes_what_the_table_names_and_nothing_else(case: tuple[Path, str], fitted: Fitted) -> None:
    module, before = fitted[0].model, fitted[1]
    expected, names = set(what_trains(module, *case)), set(before)
    assert not [one for one in table_of(*case) if not matching(names, [one])]
    assert free_names(module) == expected
    assert {name for name, value in module.named_parameters() if not torch.equal(value, before[name])} == expected
    weighed = "scale_weights.omega" if module.kind is Form.ONE_SCALE else ""  # scale 0 alone: other logits are -inf
    assert not [name for name, value in module.named_parameters() if not value.isfinite().all() and name != weighed]
    bare = {name.replace(".base_layer.", "."): value for name, value in before.items()}  # peft keeps linears there
    for name, value in load_backbone(case[0], PATCH).named_parameters():
        assert torch.equal(bare[f"backbone.{name}"], value) == module.method.pretrained, name


@_each([case for case in TRAINED if case[1] == "moirai"])
def test_the_same_seed_gives_the_same_bits(case: tuple[Path, str], fitted: Fitted) -> None:
    model = make_model(*case, **RATES.get(case[1], {})).fit(series())
    _same_state(model, fitted[0])


def _same_state(one: MSFTFoundationModel, other: MSFTFoundationModel) -> None:
    states = one.model.state_dict(), other.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert not [name for name, value in states[0].items() if not torch.equal(value, states[1][name])]


def test_every_method_fits_and_forecasts_at_one_scale(case: tuple[Path, str]) -> None:
    model = make_model(*case, num_scales=0, **RATES.get(case[1], {})).fit(series(), val_series=series(40, seed=3))
    starts = {True: "zero-shot", False: "untrained head"}[model.model.backbone.traits.pretrained_head]
    trains = find_method(case[1]).trains
    labels = [starts if model.model.method.pretrained else "untrained", "epoch 1"] if trains else []
    assert [one.label for one in model.candidates] == labels
    assert np.isfinite(forecast_of(model)).all()


# ----------------------------------------------------------------------------------------------------------- on disk


def test_a_saved_model_loads_without_the_pretrained_weights(
    case: tuple[Path, str], fitted: Fitted, tmp_path: Path
) -> None:
    expected = fitted[2]
    fitted[0].save(str(tmp_path / "model.pt"))
    away = case[0].rename(tmp_path / "away")
    try:
        loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
        assert np.array_equal(forecast_of(loaded), expected)
    finally:
        away.rename(case[0])
    assert np.isfinite(expected).all()
    _same_state(loaded, fitted[0])


def test_an_adapter_loads_into_a_new_model(case: tuple[Path, str], fitted: Fitted, tmp_path: Path) -> None:
    fitted[0].save_adapter(tmp_path / "adapter")
    new = make_model(*case, random_state=5)
    new.load_adapter(tmp_path / "adapter")
    _same_state(new, fitted[0])
    assert np.array_equal(forecast_of(new), fitted[2])
    new.save_adapter(tmp_path / "again")
    files = [(tmp_path / name / "adapter.safetensors").read_bytes() for name in ("adapter", "again")]
    assert files[0] == files[1]


@_each([case for case in CASES if case[1] == "moirai"])
def test_an_adapter_loads_into_any_model_of_its_settings(
    case: tuple[Path, str], fitted: Fitted, tmp_path: Path
) -> None:
    """Into one that forecast a series of another width zero-shot, and one fitted on something else."""
    fitted[0].save_adapter(tmp_path / "adapter")
    expected = fitted[2]
    used, other = (make_model(*case, random_state=5) for _ in range(2))
    if find_method(case[1]).pretrained and fitted[0].model.backbone.traits.pretrained_head:
        used.predict(HORIZON, series()["0"].astype(np.float64))
        with pytest.raises(ValueError, match="save_adapter"):  # never fitted
            used.save_adapter(tmp_path / "nothing")
    assert np.array_equal(forecast_of(other.fit(series(seed=4))), expected) != find_method(case[1]).trains
    for model in (used, other):
        model.load_adapter(tmp_path / "adapter")
        assert np.array_equal(forecast_of(model), expected)
        _same_state(model, fitted[0])
        assert model.fit_report is None
    with pytest.raises(ValueError, match="save_adapter"):
        make_model(*case).save_adapter(tmp_path / "nothing")
    assert {file.name for file in tmp_path.iterdir()} == {"adapter"}


# --------------------------------------------------------------------------------------------- after some training


@_each(CLOSER)
def test_input_adapters_get_the_context_s_tokens_alone(case: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = attached(make_module(*case)), {}
    monkeypatch.setattr(
        module.method, "adapt_input", lambda tokens, scale: seen.update({scale: tokens.shape[-2]}) or tokens
    )
    predict(module, windows())
    counts = [6, 3, 2]  # 22, 11 and 6 steps in patches of 4
    assert seen == dict(enumerate(counts))


@_each(JOINING)
@pytest.mark.parametrize(
    ("settings", "reached"),
    [
        ({"aggregator": None}, [{0}, {1}, {2}]),
        ({"aggregator": "c2f"}, [{0}, {0, 1}, {0, 1, 2}]),
        ({"aggregator": "f2c"}, [{0, 1, 2}, {1, 2}, {2}]),
        ({"aggregator": None, "attention": "full"}, [{0, 1, 2}] * 3),
        ({"attention": "full"}, [{0, 1, 2}] * 3),
    ],
)
def test_scales_hear_of_one_another_as_the_settings_say(
    case: tuple[Path, str], settings: dict[str, Any], reached: list[set[int]]
) -> None:
    """`reached[i]`: the scales whose forecasts change with what scale i sees."""
    module = perturbed(make_module(*case, **settings))
    assert [reached_from(module, scale) for scale in range(3)] == reached


@_each(CLOSER)
def test_series_and_variates_stand_alone_in_training_mode_too(moved: MSFTModule) -> None:
    """Batch equals loop, in any order; frozen layers have no dropout while others learn."""
    module, past = moved.eval(), windows()
    together = predict(module, past)
    for row in range(3):
        torch.testing.assert_close(predict(module, past[row : row + 1])[0], together[row], **CLOSE)
    permuted = predict(module, past[[2, 0, 1]][..., [1, 0]])
    torch.testing.assert_close(permuted, together[[2, 0, 1]][:, :, [1, 0]], **CLOSE)
    assert torch.equal(predict(module.train(), past), together)


@_each([case for case in CLOSER if case[1] not in WITHOUT_HEAD])  # a flat head has the context's length
def test_longer_left_padding_changes_nothing(case: tuple[Path, str], moved: MSFTModule) -> None:
    module, past, more = moved.eval(), windows(), 35  # whole patches, and not
    roomy = make_module(*case, context=CONTEXT + more)
    roomy.load_state_dict(module.state_dict())
    longer = torch.cat([torch.full((3, more, VARIATES), torch.nan), past], dim=1)
    torch.testing.assert_close(predict(roomy, longer), predict(module, past), **CLOSE)
