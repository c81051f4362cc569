"""Chronos-2's cut against Darts' module: variates that attend to one another, covariates, gaps, and bad checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract_backbone import Beside, load_backbone, random_walks, with_gaps
from darts import TimeSeries
from darts.models import Chronos2Model
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, TRAINER, make_model, values_of, wave
from tiny_encoders import LEVELS, chronos2_config, save_chronos2
from torch import Tensor

from darts_msft.backbones.base import standardise
from darts_msft.backbones.chronos2 import Chronos2Backbone

PATCH = 4
BOUND = 1e-5  # of the forecast's range
CASES = {  # targets, past and future covariates, context, horizon, shift
    "one target": (1, 0, 0, 32, 8, 0),
    "targets": (3, 0, 0, 31, 6, 0),
    "past covariates": (2, 2, 0, 32, 8, 0),
    "future covariates": (1, 0, 2, 30, 7, 0),
    "both": (2, 1, 2, 32, 8, 0),
    "shift": (2, 1, 1, 29, 6, 5),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chronos2")
    save_chronos2(path)
    return path


def theirs(directory: Path, past: list[Tensor], future: Tensor | None, horizon: int, shift: int) -> Tensor:
    """(B, V, H, R) of the targets; `past` are targets, past and future covariates, all (B, V, C)."""
    sizes = [part.shape[1] for part in past]
    series = [TimeSeries.from_values(np.zeros((80, max(size, 1)), dtype=np.float32)) for size in sizes]
    model = Chronos2Model(
        past[0].shape[-1],
        horizon,
        shift,
        local_dir=directory,
        likelihood=QuantileRegression(LEVELS),
        pl_trainer_kwargs=TRAINER,
    )
    covariates = dict(zip(("past_covariates", "future_covariates"), series[1:], strict=True))
    model.fit(series[0], **{name: one for (name, one), size in zip(covariates.items(), sizes[1:], strict=True) if size})
    features = [part.transpose(1, 2) if part.shape[1] else None for part in past]
    ahead = None if future is None else future.transpose(1, 2)
    with torch.no_grad():
        output = model.model.eval()(PLModuleInput(*features, ahead)).prediction
    return output.transpose(1, 2)


def ours(directory: Path, past: Tensor, future: Tensor, targets: int, horizon: int) -> Tensor:
    """The same in the series' units, of the bare backbone; `future` (B, V, shift + H) is NaN where it is not known."""
    backbone = load_backbone(directory, PATCH)
    lengths = [-part.shape[-1] % PATCH for part in (past, future)]
    past, future = (
        F.pad(part, padding, value=torch.nan)
        for part, padding in zip((past, future), ((lengths[0], 0), (0, lengths[1])), strict=True)
    )
    stats, observed, known = backbone.statistics(past, future), ~past.isnan(), ~future.isnan()
    with torch.no_grad():
        tokens = backbone.embed(standardise(past, stats), observed, standardise(future, stats), known)
        mask = backbone.token_mask(observed, known, targets)
        for layer in range(backbone.spec.num_layers):
            tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, mask, {}), mask)
        params = backbone.head(tokens, future.shape[-1] - lengths[1], mask)
    return (params * stats.spread.unsqueeze(-1) + stats.loc.unsqueeze(-1))[:, :targets, -horizon:]


@pytest.mark.parametrize("gaps", [False, True], ids=["whole", "gaps"])
@pytest.mark.parametrize("case", CASES)
def test_variates_and_covariates_as_in_darts(directory: Path, case: str, gaps: bool) -> None:
    targets, extra, ahead, context, horizon, shift = CASES[case]
    values = random_walks(3, targets + extra + ahead, context + shift + horizon, seed=4)
    if gaps:
        values = with_gaps(values)
    past, future = values.split([context, shift + horizon], dim=-1)
    future = future.clone()
    future[:, : targets + extra], future[..., :shift] = torch.nan, torch.nan
    given = future[:, targets + extra :, shift:] if ahead else None
    expected = theirs(directory, list(past.split([targets, extra, ahead], dim=1)), given, horizon, shift)
    found = ours(directory, past, future, targets, horizon)
    assert found.shape == expected.shape == (3, targets, horizon, len(LEVELS))
    assert (found - expected).abs().max() < BOUND * (expected.max() - expected.min())


def test_without_a_register_token_or_asinh_as_in_darts(tmp_path: Path) -> None:
    """Darts itself asserts that there is a register token."""
    save_chronos2(tmp_path, use_arcsinh=False)
    values = random_walks(2, 1, 40)
    past, unknown = values[..., :32], torch.full((2, 1, 8), torch.nan)
    none = past[:, :0]
    expected = theirs(tmp_path, [past, none, none], None, 8, 0)
    assert (ours(tmp_path, past, unknown, 1, 8) - expected).abs().max() < BOUND * (expected.max() - expected.min())
    backbone = Chronos2Backbone.from_config(chronos2_config(use_reg_token=False), PATCH)
    assert backbone.traits.layout.middle == 0
    assert backbone.embed(past, past == past, unknown.nan_to_num(), unknown > 0).shape == (2, 1, 8 + 2, 16)


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
