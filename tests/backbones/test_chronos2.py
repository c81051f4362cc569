"""Chronos-2 against Darts' own model of the same weights: components, covariates, gaps; and bad checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_backbone import Beside
from darts import TimeSeries
from darts.models import Chronos2Model
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, TRAINER, make_model, values_of, wave
from tiny_encoders import LEVELS, chronos2_config, save_chronos2

from darts_msft.backbones.chronos2 import Chronos2Backbone

PATCH = 4
BOUND = 1e-5  # of the forecast's range: sinh magnifies


@pytest.fixture(scope="module")
def directory(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("chronos2")


def walks(length: int, components: int, seed: int) -> TimeSeries:
    """The first one lacks single steps, and whole patches; the last one starts late."""
    values = 20 + np.random.default_rng(seed).standard_normal((length, components)).cumsum(axis=0)
    values[length // 2 :: 7, 0] = values[length // 2 : length // 2 + 10, 0] = np.nan
    values[:15, -1] = np.nan
    return TimeSeries.from_values(values.astype(np.float32))


def assert_darts_own(directory: Path, series: TimeSeries, context: Any, horizon: int, shift: int, **given: Any) -> None:
    chunks = {"output_chunk_length": horizon, "output_chunk_shift": shift, "likelihood": QuantileRegression(LEVELS)}
    theirs = Chronos2Model(context, local_dir=directory, pl_trainer_kwargs=TRAINER, **chunks).fit(series, **given)
    ours = make_model(str(directory), input_chunk_length=context, num_scales=0, patch_size="auto", **chunks)
    expected, found = (
        values_of(model.predict(horizon, series, **given, predict_likelihood_parameters=True))
        for model in (theirs, ours)
    )
    assert expected.shape == found.shape == (horizon, series.n_components * len(LEVELS), 1)
    assert np.ptp(expected) > 1
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


@pytest.mark.parametrize(
    ("context", "horizon", "shift", "length"),
    [(32, 16, 0, 40), (30, 7, 0, 40), (33, 8, 4, 40), (29, 6, 5, 40), ((12, 48), 8, 0, 25)],
    ids=["whole patches", "cut patches", "shift", "a shift that cuts", "a range of contexts"],
)
@pytest.mark.parametrize(("targets", "past", "future"), [(3, 0, 0), (2, 1, 2)])
def test_an_unfitted_model_at_one_scale_is_darts_own(
    directory: Path, context: Any, horizon: int, shift: int, length: int, targets: int, past: int, future: int
) -> None:
    series, given = walks(length, targets, seed=0), {}
    if past:
        given["past_covariates"] = walks(length, past, seed=1)
    if future:
        given["future_covariates"] = walks(length + shift + horizon, future, seed=2)
    assert_darts_own(directory, series, context, horizon, shift, **given)


def test_a_forecast_that_is_fed_back_is_darts_own(directory: Path) -> None:
    series, given = (
        walks(40, 2, seed=0),
        {"past_covariates": walks(60, 1, seed=1), "future_covariates": walks(70, 2, 2)},
    )
    theirs = Chronos2Model(32, 8, local_dir=directory, pl_trainer_kwargs=TRAINER).fit(series, **given)
    ours = make_model(str(directory), num_scales=0, patch_size="auto", likelihood=None)
    expected, found = (values_of(model.predict(20, series, **given)) for model in (theirs, ours))
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


def test_without_a_register_token_or_asinh_as_in_darts(tmp_path: Path) -> None:
    """Darts itself asserts that there is a register token."""
    save_chronos2(tmp_path, use_arcsinh=False)
    assert_darts_own(tmp_path, walks(40, 1, seed=0), 32, 8, 0)
    backbone, past, ahead = (
        Chronos2Backbone.from_config(chronos2_config(use_reg_token=False), PATCH),
        torch.zeros(2, 1, 32),
        torch.zeros(2, 1, 8),
    )
    assert backbone.traits.layout.middle == 0
    assert backbone.embed(past, past == past, ahead, ahead > 0).shape == (2, 1, 8 + 2, 16)


def test_group_attention_s_queries_and_keys_are_of_use_where_variates_are_joint() -> None:
    """A lone variate has none; among several every linear is a target that adapters act on."""
    torch.manual_seed(0)
    joint, alone = (Chronos2Backbone.from_config(chronos2_config(), PATCH, joint=one) for one in (True, False))
    assert set(joint.spec.adapter_targets) - set(alone.spec.adapter_targets) == {"group_q", "group_k"}
    assert not joint.spec.unused
    tokens = torch.randn(2, 3, 5, 16)
    for name, (_, inputs, outputs) in joint.spec.adapter_targets.items():
        adapter = {name: Beside(torch.nn.Linear(inputs, outputs))}
        moved, plain = (joint.attention(0, tokens, None, adapters) for adapters in (adapter, {}))
        assert (moved - plain).abs().max() > 1e-3, name
    joint.attention(0, tokens, None, {})[:, 0].sum().backward()
    queries = joint.encoder.block[0].layer[1].self_attention.q.weight
    assert queries.grad.abs().max() > 0
    # the way without a softmax over one is that of a variate beside one that nobody may attend to
    mask = torch.ones(2, 3, 5, dtype=torch.bool)
    mask[:, 1:] = False
    beside = joint.attention(0, tokens, mask, {})[:, :1]
    torch.testing.assert_close(joint.attention(0, tokens[:, :1], mask[:, :1], {}), beside, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"output_patch_size": 8}, "output_patch_size=8"),
        ({"input_patch_stride": 2}, "input_patch_stride=2"),
        ({"quantiles": None}, "quantiles"),
        ({"time_encoding_scale": None}, "time_encoding_scale"),
    ],
)
def test_a_configuration_that_is_not_chronos_2_s_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=rf"^config\.json[^\n]*{told}[^\n]*$"):
        Chronos2Backbone.from_config(chronos2_config(**changes), PATCH)
    other = {**chronos2_config(), "feed_forward_proj": "gated-gelu"}
    with pytest.raises(ValueError, match=r"^config\.json[^\n]*gated-gelu[^\n]*$"):
        Chronos2Backbone.traits_of(other)
    with pytest.raises(ValueError, match=r"^config\.json: chronos_config=3[^\n]*$"):
        Chronos2Backbone.traits_of({**other, "chronos_config": 3})


@pytest.mark.parametrize("method", ["lora", "msft"])
def test_updates_of_linears_that_share_their_last_name_are_merged(directory: Path, method: str) -> None:
    """Those along time and between variates are told apart."""
    model = make_model(str(directory), method=method, num_scales=0, likelihood=None, lr_lora=3e-2).fit(wave())
    expected = values_of(model.predict(HORIZON, wave(60, seed=1)))
    assert not np.allclose(expected, values_of(make_model(str(directory)).predict(HORIZON, wave(60, seed=1))))
    found = values_of(model.merge().predict(HORIZON, wave(60, seed=1)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_its_limits_are_those_of_the_configuration(directory: Path) -> None:
    settings = {"patch_size": "auto", "num_scales": 0, "linear_member": False}
    make_model(str(directory), input_chunk_length=64, output_chunk_length=16, **settings)
    with pytest.raises(ValueError, match=r"^input_chunk_length=65[^\n]*64 steps"):
        make_model(str(directory), input_chunk_length=65, **settings)
    with pytest.raises(ValueError, match=r"17 steps, more than the 16"):
        make_model(str(directory), output_chunk_length=9, output_chunk_shift=8, **settings)
