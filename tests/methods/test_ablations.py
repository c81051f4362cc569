"""The ablation switches of MSFT on whole models: what each one changes, and what it leaves.

What each of them trains, and how the scales hear of one another, is in `test_method_contract.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import MAKERS, embed, forecast_apart, load_backbone
from contract_method import (
    PATCH,
    SCALES,
    attached,
    gradients_of,
    make_module,
    params_of,
    perturbed,
    pool,
    predict,
    training_batch,
    windows,
)
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import (
    HORIZON,
    TRAINER,
    changed,
    make_model,
    parameters_of,
    parameters_snapshot,
    values_of,
    wave,
)

from darts_msft import MSFTFoundationModel

SWITCHES: dict[str, dict[str, Any]] = {
    "shared": {"shared_adapters": True, "shared_lora": True},
    "full attention": {"attention": "full"},
    "one sequence": {"attention": "one_sequence"},
    "samples": {"mixing": "samples"},
    "scale 0 only": {"mixing": "first"},
}


@pytest.fixture(scope="module", params=["moirai", "units", "chronos2"])
def directory(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Path:
    """A tiny checkpoint: of tokens alone, of a feed-forward that mixes time, of tokens of no time."""
    return checkpoint_of(request.param)


# --------------------------------------------------------------------------------------------------- one for all scales


def names_of_scales(name: str) -> list[str]:
    """A shared parameter's counterparts, one a scale, in a model that shares nothing."""
    owner = "method.input_adapters." if "input_adapters" in name else ".".join(name.split(".")[:3]) + "."
    rest = name.removeprefix(owner).partition(".")[2]
    return [f"{owner}{scale}.{rest}" for scale in range(SCALES + 1)]


@pytest.mark.parametrize(("switch", "part"), [("shared_adapters", "input_adapters"), ("shared_lora", "lora")])
def test_a_shared_set_gets_the_sum_of_what_the_scales_would(directory: Path, switch: str, part: str) -> None:
    """One set of parameters, equal to as many with equal values; its gradient is the sum of theirs."""
    shared = perturbed(make_module(directory, "msft", **{switch: True}))
    apart = attached(make_module(directory, "msft"))
    own = {name for name, _ in shared.named_parameters() if name.startswith(f"method.{part}.")}
    state = dict(shared.state_dict())
    for name in own:
        value = state.pop(name)
        state |= dict.fromkeys(names_of_scales(name), value)
    apart.load_state_dict(state)
    assert torch.equal(predict(shared, windows()), predict(apart, windows()))
    found, expected = gradients_of(shared), gradients_of(apart)
    for name in own:
        total = sum(expected[counterpart] for counterpart in names_of_scales(name))
        torch.testing.assert_close(found[name], total, rtol=1e-4, atol=1e-5)
        assert found[name].any()
    for name in set(found) - own:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- full attention


@torch.no_grad()
def test_untrained_full_attention_is_the_backbone_on_one_long_sequence(directory: Path) -> None:
    """Scale after scale, each with all its tokens, by the backbone alone; masks included."""
    backbone = load_backbone(directory, PATCH)
    module, past = attached(make_module(directory, "msft", attention="full")), windows()
    horizons = [-(-6 // 2**scale) for scale in range(SCALES + 1)]
    contexts = [pool(past, 2**scale).flatten(0, 1).unsqueeze(1) for scale in range(SCALES + 1)]
    scales = [embed(backbone, *scale, PATCH) for scale in zip(contexts, horizons, strict=True)]
    tokens, masks, _ = zip(*scales, strict=True)
    counts, sequence, mask = [part.shape[-2] for part in tokens], torch.cat(tokens, dim=-2), torch.cat(masks, dim=-1)
    for layer in range(backbone.spec.num_layers):
        attended = backbone.attention(layer, sequence, mask, {}).split(counts, dim=-2)
        parts = [backbone.feed_forward(layer, *scale) for scale in zip(attended, masks, strict=True)]
        sequence = torch.cat(parts, dim=-2)
    found = params_of(module, past)
    for scale, part in enumerate(sequence.split(counts, dim=-2)):
        expected = backbone.head(part, horizons[scale], masks[scale]).reshape(found[scale].shape)
        torch.testing.assert_close(found[scale], expected, rtol=1e-5, atol=1e-5)
        alone = forecast_apart(backbone, pool(past, 2**scale), horizons[scale], PATCH).params
        assert (found[scale] - alone).abs().max() > 1e-3  # so this switch does not start at the pretrained model


def test_one_sequence_is_full_attention_without_aggregator(directory: Path) -> None:
    """In one argument: the same parameters, and the same forecast."""
    one = perturbed(make_module(directory, "msft", attention="one_sequence"))
    two = attached(make_module(directory, "msft", attention="full", aggregator=None))
    two.load_state_dict(one.state_dict())
    assert torch.equal(predict(one, windows()), predict(two, windows()))


@pytest.mark.parametrize("attention", ["full", "one_sequence"])
def test_a_joined_sequence_that_is_too_long_is_refused_at_once(tmp_path: Path, attention: str) -> None:
    MAKERS["moirai"](tmp_path)  # at most 64 tokens
    arguments = {"patch_size": 4, "num_scales": 2, "backbone": str(tmp_path)}
    MSFTFoundationModel(137, 8, **arguments, attention="in_scale")
    # context and horizon: 34 + 2, 17 + 1 and 9 + 1 tokens
    MSFTFoundationModel(136, 8, **arguments, attention=attention)
    with pytest.raises(ValueError, match=rf"attention='{attention}' .* 3 scales .* 66 tokens .* than the 64 "):
        MSFTFoundationModel(137, 8, **arguments, attention=attention)


# --------------------------------------------------------------------------------------------------------- scale 0 only


def test_the_forecast_is_that_of_scale_0_and_omega_stays(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, mixing="first", likelihood=None, lr_head=1e-2, lr_new=1e-2).fit(wave())
    assert model.scale_weights.tolist() == [1, 0, 0]
    scales = [part.values() for part in model.scale_forecasts(wave())]
    assert len(scales) == 3
    np.testing.assert_array_equal(model.predict(HORIZON, wave()).values(), scales[0])
    assert all(np.abs(scales[0] - other).max() > 1e-4 for other in scales[1:])
    model = make_model(tiny_moirai, mixing="first").fit(wave())
    assert {tuple(scale["weight"] for scale in step) for step in parameters_of(model, wave())} == {(1, 0, 0)}


def test_all_scales_train_with_equal_weights(directory: Path) -> None:
    """The loss is that of uniform weights, and reaches them all."""
    first = perturbed(make_module(directory, "msft", mixing="first"))
    uniform = attached(make_module(directory, "msft", weight_learning="uniform"))
    uniform.load_state_dict(first.state_dict())
    batch = training_batch()
    losses = [module.training_loss(batch, module.forecast_scales(module.window(batch))) for module in (first, uniform)]
    assert losses[0].item() == losses[1].item()
    found = gradients_of(first)
    assert all(found[f"method.input_adapters.{scale}.weight"].any() for scale in range(SCALES + 1))


# ------------------------------------------------------------------------------------------------------------- each one


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"attention": "joint"}, "attention='joint' .*'in_scale', 'full', 'one_sequence'"),
        *(
            ({"attention": "one_sequence", "aggregator": aggregator}, f"aggregator={aggregator!r} .*'one_sequence'")
            for aggregator in ("c2f", "f2c", None)
        ),
        ({"mixing": "sample"}, "mixing='sample' .*'mixture', 'quantile', 'samples', 'first'"),
        *(
            ({"mixing": "samples", "likelihood": likelihood}, "mixing='samples' .*likelihood=")
            for likelihood in (None, QuantileRegression([0.1, 0.5, 0.9]))
        ),
    ],
)
def test_wrong_values_are_refused_by_the_model(tiny_moirai: str, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}"):
        make_model(tiny_moirai, **settings)


@pytest.fixture(scope="module")
def zero_shot(tiny_moirai: str) -> list[list[dict[str, float]]]:
    return parameters_of(make_model(tiny_moirai), wave())


@pytest.mark.parametrize("settings", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_starts_zero_shot_learns_and_survives_saving(
    tiny_moirai: str, tmp_path: Path, settings: dict[str, Any], zero_shot: list[list[dict[str, float]]]
) -> None:
    model = make_model(tiny_moirai, lr_new=1e-2, lr_head=1e-2, n_epochs=2, **settings)
    assert parameters_of(model, wave()) == zero_shot
    model.fit(wave(), val_series=wave(44, seed=1))
    pretrained, epochs = model.candidates[:-2], model.candidates[-2:]
    assert [candidate.step > 0 for candidate in model.candidates] == [False] * len(pretrained) + [True, True]
    assert min(candidate.score for candidate in epochs) < pretrained[0].score
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"), pl_trainer_kwargs=TRAINER)
    drawn = [values_of(m.predict(HORIZON + 4, wave(), num_samples=10, random_state=0)) for m in (model, loaded)]
    np.testing.assert_array_equal(*drawn)
    assert changed(parameters_snapshot(model), parameters_snapshot(loaded)) == set()
    plain = make_model(tiny_moirai)
    with pytest.raises(ValueError, match=next(iter(settings))):  # not taken for a model without the switch
        plain.load_weights(str(tmp_path / "model.pt"), load_encoders=False)
