"""MOIRAI against uni2ts' own forecast path, parameter projection, distributions and checkpoint layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from contract_backbone import official_mixture, random_moirai, random_walks
from darts.utils.data.torch_datasets.utils import PLModuleInput, TorchTrainingSample
from safetensors import safe_open
from torch import Tensor
from torch.distributions import Distribution
from uni2ts.model.moirai.forecast import MoiraiForecast
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe, load_class
from darts_msft.backbones.moirai import MoiraiBackbone
from darts_msft.backbones.moirai_mixture import MoiraiFamily
from darts_msft.scales.mixing import MixedForecast, unpack
from darts_msft.storage.weights import CHECKPOINTS, load_state

PATCH_SIZES = (8, 4, 16)  # not in order: the index of a patch size counts, not its rank
VARIATES = 2
SHAPES = {  # patch size, context, horizon
    "all divides": (8, 32, 16),
    "context and horizon cut through patches": (8, 29, 13),
    "horizon within a patch": (4, 30, 3),
    "large patch, nothing divides": (16, 50, 21),
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def ours(directory: Path, past: Tensor, patch_size: int, horizon: int) -> MixedForecast:
    """The forecast of (B, C, V) by an untrained `MSFTFoundationModel` with one scale."""
    context, variates = past.shape[1:]
    settings: dict[str, Any] = {"patch_size": patch_size, "num_scales": 0, "linear_member": False}
    model = MSFTFoundationModel(context, horizon, backbone=str(directory), **settings)
    model.train_sample = TorchTrainingSample(
        past_target=np.zeros((context, variates), dtype=np.float32),
        future_target=np.zeros((horizon, variates), dtype=np.float32),
    )
    module = model._init_model().eval()
    with torch.no_grad():
        return unpack(module(PLModuleInput(past_target=past)).prediction, num_scales=1)


def theirs(module: MoiraiModule, past: Tensor, patch_size: int, horizon: int) -> Distribution:
    """The distribution of (rows, C) by uni2ts' forecast path, one variate a row; NaN marks missing values.

    uni2ts lets missing values and the filling of a cut patch through its input projection as raw zeros, that is
    as the value -loc/scale, whereas ours enter as the window's location. So they are given to uni2ts as such:
    the context is filled to whole patches, and every missing entry holds the mean of the observed ones. A token
    with nothing observed is no token for us; for uni2ts `past_is_pad` says so.
    """
    past = torch.cat([past.new_full((len(past), -past.shape[1] % patch_size), torch.nan), past], dim=1)
    observed = ~past.isnan()
    location = past.double().nanmean(dim=1, keepdim=True).float()
    empty = ~observed.unflatten(1, (-1, patch_size)).any(dim=2)
    return _their_path(
        module,
        torch.where(observed, past, location),
        observed,
        empty.repeat_interleave(patch_size, 1),
        patch_size,
        horizon,
    )


def _their_path(
    module: MoiraiModule, past: Tensor, observed: Tensor, is_pad: Tensor, patch_size: int, horizon: int
) -> Distribution:
    forecast = MoiraiForecast(
        prediction_length=horizon,
        target_dim=1,
        feat_dynamic_real_dim=0,
        past_feat_dynamic_real_dim=0,
        context_length=past.shape[1],
        module=module,
        patch_size=patch_size,
    )
    with torch.no_grad():
        return forecast._get_distr(patch_size, past.unsqueeze(-1), observed.unsqueeze(-1), is_pad)


def horizon_part(numbers: Tensor, patch_size: int, horizon: int) -> Tensor:
    """(rows, tokens, largest patch, ...) of all tokens -> (rows, H, ...)."""
    tokens = -(-horizon // patch_size)
    return numbers[:, -tokens:, :patch_size].flatten(1, 2)[:, :horizon]


def columns(distribution: Distribution) -> Tensor:
    """uni2ts' mixture parameters (..., R) in our order, logits normalised."""
    mixture = distribution.base_dist
    student, normal, negative_binomial, log_normal = mixture.components
    assert (normal.scale == 1e-3).all()
    flat = [student.df, student.loc, student.scale, normal.loc, negative_binomial.total_count]
    flat += [negative_binomial.logits, log_normal.loc, log_normal.scale]
    return torch.cat([torch.stack(flat, dim=-1), mixture.weights.logits], dim=-1)


def assert_equal(forecast: MixedForecast, expected: Distribution, patch_size: int) -> None:
    """Parameters, normalised logits, location and scale, to 1e-5."""
    params = forecast.params[:, :, :, 0].transpose(1, 2).flatten(0, 1)  # (B V, H, R)
    horizon = params.shape[1]
    params = torch.cat([params[..., :8], params[..., 8:].log_softmax(dim=-1)], dim=-1)
    torch.testing.assert_close(params, horizon_part(columns(expected), patch_size, horizon), **CLOSE)
    for mine, name in zip(forecast[1:3], ("loc", "scale"), strict=True):
        full = getattr(expected, name).expand(-1, -1, max(PATCH_SIZES))
        mine = mine[..., 0].transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(mine, horizon_part(full, patch_size, horizon), **CLOSE)


def gapped(past: Tensor) -> Tensor:
    """(B, C, V) with single missing values, a gap of whole patches, and late starts within and at a patch."""
    past = past.clone()
    past[0, 3::5, 0] = torch.nan
    past[0, 6:25, 1] = torch.nan
    past[1, :7, 0] = torch.nan
    past[1, :16, 1] = torch.nan
    past[2, :19, 0] = torch.nan
    return past


def pasts(context: int) -> Tensor:
    return random_walks(3, VARIATES, context).transpose(1, 2).contiguous()


# --------------------------------------------------------------------------------------------------- the forecast


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "missing values"])
def test_the_forecast_is_uni2ts_own(
    module: MoiraiModule, directory: Path, shape: tuple[int, int, int], missing: bool
) -> None:
    patch_size, context, horizon = shape
    past = gapped(pasts(context)) if missing else pasts(context)
    rows = past.transpose(1, 2).flatten(0, 1)
    assert_equal(ours(directory, past, patch_size, horizon), theirs(module, rows, patch_size, horizon), patch_size)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_untouched_input_gives_the_same_where_zero_is_the_location(
    module: MoiraiModule, directory: Path, shape: tuple[int, int, int]
) -> None:
    """uni2ts' path as it is, with raw zeros for what is missing, on windows whose mean is zero."""
    patch_size, context, horizon = shape
    past = gapped(pasts(context))
    past[0, :, 1] = pasts(context)[0, :, 1]  # no gap inside that swallows a token: uni2ts would attend to it
    past = (past.double() - past.double().nanmean(dim=1, keepdim=True)).float()
    rows = past.transpose(1, 2).flatten(0, 1)
    started = (~rows.isnan()).cummax(dim=1).values
    expected = _their_path(module, rows.nan_to_num(), ~rows.isnan(), ~started, patch_size, horizon)
    assert_equal(ours(directory, past, patch_size, horizon), expected, patch_size)


def test_a_high_level_costs_no_precision(directory: Path) -> None:
    """Windows are standardised in double precision; uni2ts rounds (its deviation is 3e-4 at a level of 1000)."""
    past = (4 * pasts(48)).round()  # whole numbers, so that the level itself rounds nothing
    low, high = (ours(directory, past + level, 8, 8) for level in (0, 2**20))
    torch.testing.assert_close(high.params, low.params, **CLOSE)
    torch.testing.assert_close(high[2], low[2], **CLOSE)


def test_without_scaling(tmp_path: Path) -> None:
    unscaled = random_moirai(patch_sizes=PATCH_SIZES, scaling=False)
    unscaled.save_pretrained(tmp_path)
    past = pasts(32)
    rows = past.transpose(1, 2).flatten(0, 1)
    expected = _their_path(unscaled, rows, torch.ones_like(rows, dtype=torch.bool), torch.zeros_like(rows) > 0, 8, 8)
    forecast = ours(tmp_path, past, 8, 8)
    assert_equal(forecast, expected, 8)
    assert (forecast[1] == 0).all()
    assert (forecast[2] == 1).all()


def test_more_tokens_than_the_checkpoint_was_made_for_are_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match=r"input_chunk_length=280, .* 72 tokens .* the 64 "):
        ours(directory, pasts(4 * 70), 4, 8)


def test_log_prob_is_uni2ts_own(module: MoiraiModule, directory: Path) -> None:
    patch_size, context, horizon = 8, 29, 13
    past = pasts(context)
    forecast = ours(directory, past, patch_size, horizon)
    expected = theirs(module, past.transpose(1, 2).flatten(0, 1), patch_size, horizon)
    family = MoiraiFamily(module.distr_output)
    params, loc, scale = (part.squeeze(3).transpose(1, 2).flatten(0, 1) for part in forecast[:3])
    for deviation in (-2.0, -0.3, 0.0, 0.4, 3.0):
        value = loc + scale * deviation
        everywhere = torch.ones(len(value), expected.batch_shape[1], max(PATCH_SIZES))
        tokens = -(-horizon // patch_size)
        padded = torch.nn.functional.pad(value, (0, tokens * patch_size - horizon), value=1.0)
        everywhere[:, -tokens:, :patch_size] = padded.unflatten(1, (tokens, patch_size))
        density = family.log_prob(params, (value - loc) / scale) - scale.log()
        torch.testing.assert_close(
            density, horizon_part(expected.log_prob(everywhere), patch_size, horizon), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_of_a_mixture_of_unlike_components(dtype: torch.dtype) -> None:
    """Far apart, next to a point, hardly any weight, no finite quantile: the share below is still the level."""
    family = MoiraiFamily(official_mixture())
    rows = torch.tensor(
        [
            [3.0, 0.0, 1.0, 0.5, 4.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0],
            [2.0, 50.0, 1e-4, -50.0, 4.0, -1.0, 0.0, 1.0, 1.0, 1.0, -30.0, -30.0],
            [1e30, -1.0, 1e-7, 1.0, 4.0, -1.0, 3.0, 0.1, 0.0, 0.5, -30.0, 1.0],
            [2.5, 0.0, 3.0, 0.0, 0.1, 60.0, 300.0, 9.0, 2.0, 2.0, -40.0, -40.0],
            [2.5, 0.0, 3.0, 0.0, 11.5, 2.2, 300.0, 9.0, 0.0, 0.0, 3.0, -12.0],
        ],
        dtype=dtype,
    )

    def share(row: list[float], value: float) -> float:
        df, loc, scale, place, count, logit, log_loc, log_scale, *logits = row
        parts = [
            scipy.stats.t.cdf(value, df, loc, scale),
            scipy.stats.norm.cdf(value, place, 1e-3),
            scipy.stats.nbinom.cdf(np.floor(value), count, scipy.special.expit(-logit)),
            scipy.special.ndtr((np.log(max(value, 1e-300)) - log_loc) / log_scale) * (value > 0),
        ]
        return float(scipy.special.softmax(logits) @ parts)

    for level in (0.01, 0.2, 0.5, 0.77, 0.99):
        for row, value in zip(rows.tolist(), family.quantile(rows, level).tolist(), strict=True):
            slack = 1e-6 * (1 + abs(value))
            assert share(row, value - slack) - 1e-5 <= level <= share(row, value + slack) + 1e-5


def test_parameters_that_are_no_numbers_give_none() -> None:
    family = MoiraiFamily(official_mixture())
    rows = torch.full((2, len(family.names)), torch.nan)
    rows[1] = 1.0
    assert family.quantile(rows, 0.3).isnan().tolist() == [True, False]


# ------------------------------------------------------------------------------------------------- checkpoint layout


def test_checkpoints_are_uni2ts_own(module: MoiraiModule, directory: Path, tmp_path: Path) -> None:
    """Both sides read the same weights, and what is saved from ours loads there."""
    source, architecture, config = describe(str(directory))
    assert architecture == "moirai"
    assert load_class(architecture).traits_of(config).patch_sizes == (4, 8, 16)
    backbone = load_class(architecture).from_config(config, 4)
    backbone.load_pretrained(load_state(source), source.location)
    assert isinstance(backbone, MoiraiBackbone)
    backbone.module.save_pretrained(tmp_path)
    for official in (MoiraiModule.from_pretrained(directory), MoiraiModule.from_pretrained(tmp_path)):
        assert tuple(backbone.module.patch_sizes) == tuple(official.patch_sizes) == PATCH_SIZES
        assert list(backbone.module.state_dict()) == list(official.state_dict())
        for name, tensor in official.state_dict().items():
            assert torch.equal(backbone.module.state_dict()[name], tensor), name
            assert torch.equal(module.state_dict()[name], tensor), name


def test_parameter_names_say_component_and_argument() -> None:
    """They are the names of Darts' `predict_likelihood_parameters`, in the order of the columns."""
    family = MoiraiFamily(official_mixture())
    assert family.names == (
        *("studentt0_df", "studentt0_loc", "studentt0_scale", "normalfixedscale1_loc"),
        *("negativebinomial2_total_count", "negativebinomial2_logits", "lognormal3_loc", "lognormal3_scale"),
        *("logit0", "logit1", "logit2", "logit3"),
    )


def test_the_bundled_checkpoint() -> None:
    folder = CHECKPOINTS / "moirai-tiny"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 8 * 2**20
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        stored: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert {tensor.dtype for tensor in stored.values()} <= {torch.float16, torch.bfloat16}
    assert 1e6 <= sum(tensor.numel() for tensor in stored.values()) <= 3e6
    source, architecture, config = describe("moirai-tiny")
    backbone = load_class(architecture).from_config(config, config["patch_sizes"][0])
    backbone.load_pretrained(load_state(source), source.location)
    official = MoiraiModule.from_pretrained(folder).state_dict()
    assert isinstance(backbone, MoiraiBackbone)
    for name, tensor in backbone.module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, official[name].float()), name
        assert torch.equal(tensor, stored[name].float()), name
