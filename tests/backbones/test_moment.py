"""MOMENT's two forms against momentfm's own `embed` and `short_forecast`, on the same weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_backbone import embed, forecast, load_backbone, random_walks
from contract_method import attached, make_module, windows
from darts.utils.data.torch_datasets.utils import PLModuleInput
from model_fixtures import HORIZON, make_model, wave
from tiny_point_encoders import MOMENT_CONFIG, MOMENT_T5, random_moment
from torch import Tensor

from darts_msft.backbones import ARCHITECTURES, load_class
from darts_msft.backbones.moment import MaskedMoment, MomentBackbone

LENGTH: int = MOMENT_CONFIG["seq_len"]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def flat(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("moment")


@pytest.fixture(scope="module")
def masked(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("moment_masked")


def as_momentfm_wants(context: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros in the place of missing values and on the left, and the mask, which all variates share."""
    missing = LENGTH - context.shape[-1]
    padded = torch.nn.functional.pad(context.nan_to_num(0.0), (missing, 0))
    observed = torch.nn.functional.pad(~context[:, 0].isnan(), (missing, 0))
    return padded, observed.float()


@pytest.mark.parametrize("context", [LENGTH, 56, 44])
@torch.no_grad()
def test_embeddings_are_momentfm_s(flat: Path, context: int) -> None:
    """Of short contexts too, which stand at the end there, and with a patch missing inside."""
    walks = random_walks(3, 2, context)
    walks[1, :, -20:-16] = torch.nan
    own = random_moment(task_name="embedding")
    own.load_state_dict({name: part for name, part in random_moment().state_dict().items() if "head" not in name})
    padded, observed = as_momentfm_wants(walks)
    expected = own.embed(x_enc=padded, input_mask=observed, reduction="none").embeddings[:, :, -context // 4 :]
    backbone = load_backbone(flat, 4)
    tokens, mask, _ = embed(backbone, walks, HORIZON, 4)
    for layer in range(2):
        tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, mask, {}), mask)
    found = backbone.readout(tokens, HORIZON, mask)
    assert mask.sum() == 3 * 2 * (context // 4) - 2
    torch.testing.assert_close(found[mask], expected[mask], **CLOSE)
    assert not found[~mask].any()


@pytest.mark.parametrize(("context", "horizon"), [(88, 8), (60, 6), (40, 16)])
@torch.no_grad()
def test_the_masked_form_s_forecast_is_short_forecast(masked: Path, context: int, horizon: int) -> None:
    walks = random_walks(3, 2, context)
    padded, observed = as_momentfm_wants(walks)
    expected = random_moment().short_forecast(x_enc=padded, input_mask=observed, forecast_horizon=horizon).forecast
    params, stats = forecast(load_backbone(masked, 4), walks, horizon, 4)
    assert expected.amax() - expected.amin() > 10
    torch.testing.assert_close(params.squeeze(-1) * stats.spread + stats.loc, expected, **CLOSE)


def test_scales_share_statistics_in_the_flat_form_alone(flat: Path, masked: Path) -> None:
    for path, shared in ((flat, True), (masked, False)):
        module = attached(make_module(path, "msft"))
        first, *others = module.forecast_scales(module.window(PLModuleInput(past_target=windows()))).stats
        assert len(others) == 2
        assert all(torch.equal(first.spread, other.spread) == shared for other in others)


def test_the_configuration_chooses_the_form(flat: Path, masked: Path) -> None:
    assert type(load_backbone(flat, 4)) is MomentBackbone
    assert type(load_backbone(masked, 4)) is MaskedMoment


def test_what_a_configuration_may_leave_out() -> None:
    config = {"t5_config": MOMENT_T5, "patch_len": 4, "seq_len": 96}
    assert MomentBackbone.from_config(config, 4).spec.width == 16
    with pytest.raises(ValueError, match=r"^config\.json lacks d_model in t5_config[^\n]*$"):
        MomentBackbone.from_config({**config, "t5_config": {"d_kv": 5}}, 4)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "settings", [{"method": "zero_shot"}, {"method": "full", "enable_finetuning": False}], ids=["method", "frozen"]
)
def test_the_flat_form_can_t_forecast_without_training(flat: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*without a head[^\n]*'linear_probe'[^\n]*fit\(\)$"):
        make_model(str(flat), **settings)
    with pytest.raises(ValueError, match=r"fit\(\)"):
        make_model(str(flat)).predict(HORIZON, wave())


@pytest.mark.parametrize(("context", "allowed"), [(88, True), (92, False)])
def test_context_and_horizon_of_the_masked_form_share_the_length(masked: Path, context: int, allowed: bool) -> None:
    settings = {"input_chunk_length": context, "num_scales": 0}
    if allowed:
        make_model(str(masked), **settings)
        return
    with pytest.raises(ValueError, match="tokens"):
        make_model(str(masked), **settings)


def test_a_context_longer_than_the_flat_form_takes(flat: Path) -> None:
    make_model(str(flat), input_chunk_length=96, num_scales=0)
    with pytest.raises(ValueError, match="96"):
        make_model(str(flat), input_chunk_length=97, num_scales=0)


@pytest.mark.parametrize("package", ["momentfm", "transformers"])
def test_a_missing_package_names_both_install_lines(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "momentfm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, ARCHITECTURES["moment"].location.partition(":")[0])
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=r"^[^\n]+$") as caught:
        load_class("moment")
    message = str(caught.value)
    assert repr(package) in message
    assert 'pip install "darts-msft[moment]"' in message
    assert "pip install --no-deps momentfm==0.1.4" in message
