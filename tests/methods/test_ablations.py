"""The ablation switches of MSFT on whole models: what each one changes, and what it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import MAKERS, forecast, load_backbone
from contract_method import (
    PATCH,
    SCALES,
    attached,
    make_module,
    perturbed,
    pool,
    predict,
    training_batch,
    windows,
)
from darts.utils.likelihood_models.torch import GaussianLikelihood, QuantileRegression
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
from scipy import stats
from torch import Tensor
from toy_backbone import registered_toy

from darts_msft import MSFTFoundationModel
from darts_msft.module import MSFTModule
from darts_msft.training.loss import scale_losses

SWITCHES: dict[str, dict[str, Any]] = {
    "shared adapters": {"shared_adapters": True},
    "shared LoRA": {"shared_lora": True},
    "full attention": {"attention": "full"},
    "no decoupling": {"attention": "full", "aggregator": None},
    "one sequence": {"attention": "one_sequence"},
    "samples": {"mixing": "samples"},
    "scale 0 only": {"mixing": "first"},
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(params=MAKERS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A tiny checkpoint of every architecture."""
    MAKERS[request.param](tmp_path)
    with registered_toy():
        yield tmp_path


def gradients(module: MSFTModule) -> dict[str, Tensor]:
    batch = training_batch()
    module.training_loss(batch, module.forecast_scales(batch.past_target)).backward()
    return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}


def softplus(raw: np.ndarray) -> np.ndarray:
    """What Darts' Gaussian likelihood makes of the raw output for its standard deviation."""
    return np.log1p(np.exp(raw))


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
    sizes = [sum(p.numel() for p in getattr(module.method, part).parameters()) for module in (shared, apart)]
    assert sizes[1] == sizes[0] * (SCALES + 1) > 0
    assert torch.equal(predict(shared, windows()), predict(apart, windows()))
    found, expected = gradients(shared), gradients(apart)
    for name in own:
        total = sum(expected[counterpart] for counterpart in names_of_scales(name))
        torch.testing.assert_close(found[name], total, rtol=1e-4, atol=1e-5)
        assert found[name].any()
    for name in set(found) - own:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def test_what_is_not_shared_stays_one_a_scale(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, shared_adapters=True).fit(wave(50))
    assert len(model.model.method.input_adapters) == 1
    assert all(len(layer) == 3 for layer in model.model.method.lora)
    model = make_model(tiny_moirai, shared_lora=True).fit(wave(50))
    assert len(model.model.method.input_adapters) == 3
    assert all(len(layer) == 1 for layer in model.model.method.lora)


# ------------------------------------------------------------------------------------------------------- full attention


@torch.no_grad()
def test_untrained_full_attention_is_the_backbone_on_one_long_sequence(directory: Path) -> None:
    """Scale after scale, each with context and horizon tokens, by the backbone alone; masks included."""
    module, past = attached(make_module(directory, "msft", attention="full")), windows()
    backbone, tokens, masks, counts, horizons = load_backbone(directory, PATCH), [], [], [], []
    for scale in range(SCALES + 1):
        context = pool(past, 2**scale)
        missing = -context.shape[-1] % PATCH
        padded = torch.cat([torch.full((*context.shape[:2], missing), torch.nan), context], dim=-1)
        horizons.append(-(-6 // 2**scale))
        ahead = -(-horizons[-1] // PATCH) if backbone.spec.horizon_tokens else 0
        tokens.append(backbone.embed(backbone.normalise(padded)[0], ~padded.isnan(), ahead))
        observed = ~padded.unflatten(-1, (-1, PATCH)).isnan().all(dim=-1)
        masks.append(torch.cat([observed, torch.ones(*observed.shape[:2], ahead, dtype=torch.bool)], dim=-1))
        counts.append(tokens[-1].shape[-2])
    sequence, mask = torch.cat(tokens, dim=-2), torch.cat(masks, dim=-1)
    for layer in range(backbone.spec.num_layers):
        sequence = backbone.feed_forward(layer, backbone.attention(layer, sequence, mask, {}))
    found = module.forecast_scales(past).params
    for scale, part in enumerate(sequence.split(counts, dim=-2)):
        torch.testing.assert_close(found[scale], backbone.head(part, scale, horizons[scale]), **CLOSE)
        alone = forecast(backbone, pool(past, 2**scale), horizons[scale], PATCH, scale).params
        assert (found[scale] - alone).abs().max() > 1e-3  # so this switch does not start at the pretrained model


@pytest.mark.parametrize(("attention", "aggregator"), [("full", None), ("full", "both"), ("in_scale", None)])
def test_with_full_attention_every_scale_hears_of_every_other(
    directory: Path, attention: str, aggregator: str | None
) -> None:
    module = perturbed(make_module(directory, "msft", attention=attention, aggregator=aggregator))
    past, adapt_input = windows(gaps=False), module.method.adapt_input
    with torch.no_grad():
        plain = module.forecast_scales(past).params
        for scale in range(SCALES + 1):
            module.method.adapt_input = lambda tokens, i, s=scale: (
                adapt_input(tokens, i) + (tokens.cos() if i == s else 0)
            )
            moved = module.forecast_scales(past).params
            reached = {i for i, (a, b) in enumerate(zip(plain, moved, strict=True)) if not torch.equal(a, b)}
            assert reached == (set(range(SCALES + 1)) if attention == "full" else {scale})


def test_with_full_attention_each_scale_still_has_its_own_lora(directory: Path) -> None:
    """The last scale's LoRA acts on its own tokens alone: what they ask, and what others hear from them."""
    module = attached(make_module(directory, "msft", attention="full", aggregator=None))
    seen: dict[int, list[int]] = {}
    for scale, lora in enumerate(module.method.lora[0]):
        for adapter in lora.values():
            adapter.register_forward_pre_hook(lambda _, args, s=scale: seen.setdefault(s, []).append(args[1].shape[-2]))
    predict(module, windows())
    expected = {scale: {count} for scale, count in enumerate(module.plan.token_counts)}
    assert {scale: set(counts) for scale, counts in seen.items()} == expected


def test_one_sequence_is_full_attention_without_aggregator(directory: Path) -> None:
    """In one argument: the same parameters, and the same forecast."""
    one = perturbed(make_module(directory, "msft", attention="one_sequence"))
    two = attached(make_module(directory, "msft", attention="full", aggregator=None))
    two.load_state_dict(one.state_dict())
    assert one.method.aggregators is None
    assert [name for name, _ in one.named_parameters()] == [name for name, _ in two.named_parameters()]
    torch.testing.assert_close(predict(one, windows()), predict(two, windows()), rtol=0, atol=0)


def test_with_one_scale_full_attention_changes_nothing(tiny_moirai: str) -> None:
    forecasts = [
        values_of(make_model(tiny_moirai, num_scales=0, attention=how).fit(wave(50)).predict(HORIZON, wave()))
        for how in ("in_scale", "full", "one_sequence")
    ]
    np.testing.assert_array_equal(forecasts[0], forecasts[1])
    np.testing.assert_array_equal(forecasts[0], forecasts[2])


@pytest.mark.parametrize("attention", ["full", "one_sequence"])
def test_a_joined_sequence_that_is_too_long_is_refused_at_once(tmp_path: Path, attention: str) -> None:
    MAKERS["moirai"](tmp_path)  # at most 64 tokens
    arguments = {"patch_size": 4, "num_scales": 2, "backbone": str(tmp_path)}
    MSFTFoundationModel(137, 8, **arguments, attention="in_scale")
    MSFTFoundationModel(
        136, 8, **arguments, attention=attention
    )  # context and horizon: 34 + 2, 17 + 1 and 9 + 1 tokens
    with pytest.raises(
        ValueError,
        match=rf"attention='{attention}' joins 3 scales to a sequence of 66 tokens of 4 steps, more than the 64 of "
        r"backbone=.*; lower num_scales, shorten the context, take a larger patch_size \(4, 8\), or "
        r"attention='in_scale'$",
    ):
        MSFTFoundationModel(137, 8, **arguments, attention=attention)


# --------------------------------------------------------------------------------------------------------- scale 0 only


def test_the_forecast_is_that_of_scale_0_and_omega_stays(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, mixing="first", likelihood=None, lr_head=1e-2, lr_new=1e-2)
    model.fit(wave(), val_series=wave(60, seed=1))
    model.model.begin_training()
    assert model.scale_weights.tolist() == [1, 0, 0]
    assert model.model.scale_weights.omega.tolist() == [0, 0, 0]
    assert not model.model.scale_weights.omega.requires_grad
    scales = [part.values() for part in model.scale_forecasts(wave())]
    assert len(scales) == 3
    np.testing.assert_array_equal(model.predict(HORIZON, wave()).values(), scales[0])
    assert all(np.abs(scales[0] - other).max() > 1e-4 for other in scales[1:])


def test_all_scales_train_with_equal_weights(directory: Path) -> None:
    """The loss is the mean over the scales, and reaches them all."""
    module, batch = perturbed(make_module(directory, "msft", mixing="first")), training_batch()
    outputs = module.forecast_scales(batch.past_target)
    target = batch.future_target.transpose(1, 2)
    losses = scale_losses(outputs.family, module.plan, outputs.params, outputs.stats, target, None)
    assert module.training_loss(batch, outputs).item() == pytest.approx(losses.mean().item(), rel=1e-6)
    found = gradients(module)
    for scale in range(SCALES + 1):
        assert found[f"method.input_adapters.{scale}.weight"].any()
    assert "scale_weights.omega" not in found


def test_samples_and_parameters_are_those_of_scale_0(tiny_moirai: str) -> None:
    first = make_model(tiny_moirai, mixing="first", lr_head=1e-2, likelihood=GaussianLikelihood()).fit(wave())
    parameters = first.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    columns = {name[2:]: parameters.values()[:, index] for index, name in enumerate(parameters.columns)}
    assert [columns[f"s{scale}_weight"][0] for scale in range(3)] == [1, 0, 0]
    samples = values_of(first.predict(HORIZON, wave(), num_samples=2000, random_state=0))[:, 0]
    mean = columns["s0_loc"] + columns["s0_scale"] * columns["s0_mu"]
    for step, draws in enumerate(samples):
        reference = stats.norm(mean[step], columns["s0_scale"][step] * softplus(columns["s0_sigma"][step]))
        assert stats.kstest(draws, reference.cdf).pvalue > 1e-4


def test_its_validation_score_is_that_of_scale_0(directory: Path) -> None:
    """The same noise and the same weights in `omega`, all on scale 0: the mixture is scale 0's forecast too."""
    first = perturbed(make_module(directory, "msft", mixing="first"))
    mixed = attached(make_module(directory, "msft"))
    mixed.load_state_dict(first.state_dict())
    with torch.no_grad():
        mixed.scale_weights.set(torch.tensor([1.0, 0.0, 0.0]))
    scores = [module._add_score(training_batch()).item() for module in (first, mixed)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


# ----------------------------------------------------------------------------------------------------- averaged samples


def test_averaged_samples_of_a_model_have_the_weighted_mean_and_a_small_variance(tiny_moirai: str) -> None:
    model = make_model(
        tiny_moirai, mixing="samples", likelihood=GaussianLikelihood(), lr_head=1e-2, weight_init=[0.0, 0.5, 1.0]
    ).fit(wave())
    parameters = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    columns = {name[2:]: parameters.values()[:, index] for index, name in enumerate(parameters.columns)}
    mean, variance = np.zeros(HORIZON), np.zeros(HORIZON)
    for scale, weight in enumerate(model.scale_weights):
        mean += weight * (columns[f"s{scale}_loc"] + columns[f"s{scale}_scale"] * columns[f"s{scale}_mu"])
        variance += (weight * columns[f"s{scale}_scale"] * softplus(columns[f"s{scale}_sigma"])) ** 2
    samples = values_of(model.predict(HORIZON, wave(), num_samples=6000, random_state=0))[:, 0]
    assert (np.abs(samples.mean(axis=1) - mean) < 5 * np.sqrt(variance / 6000)).all()
    np.testing.assert_allclose(samples.var(axis=1), variance, rtol=0.12)


def test_before_training_averaged_samples_are_scale_0_s(tiny_moirai: str) -> None:
    drawn = [
        values_of(make_model(tiny_moirai, mixing=how).predict(HORIZON, wave(), num_samples=1500, random_state=seed))
        for seed, how in enumerate(("samples", "mixture"))
    ]
    for step in range(HORIZON):
        assert stats.ks_2samp(drawn[0][step, 0], drawn[1][step, 0]).pvalue > 1e-3


@pytest.mark.parametrize("likelihood", [None, QuantileRegression([0.1, 0.5, 0.9])])
def test_averaged_samples_need_samples(tiny_moirai: str, likelihood: Any) -> None:
    with pytest.raises(
        ValueError, match=r"mixing='samples' averages .* likelihood=.* none of; take mixing='mixture', 'quantile' or"
    ):
        make_model(tiny_moirai, mixing="samples", likelihood=likelihood)


# ------------------------------------------------------------------------------------------------------------- each one


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": "joint"}, "attention='joint' is not known; choose one of 'in_scale', 'full', 'one_sequence'"),
        *(
            (
                {"attention": "one_sequence", "aggregator": aggregator},
                f"aggregator={aggregator!r} is not allowed with attention='one_sequence', which has no aggregator; "
                "leave it out, or take attention='full'",
            )
            for aggregator in ("c2f", "f2c", None)
        ),
        ({"mixing": "sample"}, "mixing='sample' is not known; choose one of 'mixture', 'quantile', 'samples', 'first'"),
    ],
)
def test_wrong_values_are_refused_by_the_model(tiny_moirai: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_model(tiny_moirai, **settings)


@pytest.mark.parametrize("settings", SWITCHES.values(), ids=SWITCHES)
def test_zero_shot_is_the_same_with_every_switch(tiny_moirai: str, settings: dict[str, Any]) -> None:
    plain, switched = (parameters_of(make_model(tiny_moirai, **kind), wave()) for kind in ({}, settings))
    assert switched == plain


@pytest.mark.parametrize("settings", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_learns_and_survives_saving(tiny_moirai: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = make_model(tiny_moirai, lr_new=1e-2, lr_head=1e-2, n_epochs=3, **settings)
    model.fit(wave(), val_series=wave(60, seed=1))
    assert len(model.candidates) == 4
    assert min(candidate.score for candidate in model.candidates[1:]) < model.candidates[0].score
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"), pl_trainer_kwargs=TRAINER)
    drawn = [values_of(m.predict(HORIZON + 4, wave(), num_samples=10, random_state=0)) for m in (model, loaded)]
    np.testing.assert_array_equal(*drawn)
    assert changed(parameters_snapshot(model), parameters_snapshot(loaded)) == set()
    plain = make_model(tiny_moirai)
    with pytest.raises(ValueError, match=next(iter(settings))):  # not taken for a model without the switch
        plain.load_weights(str(tmp_path / "model.pt"), load_encoders=False)
