"""MOIRAI with several variates that attend to one another, and covariates, against uni2ts' own path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from darts.utils.data.torch_datasets.utils import PLModuleInput, TorchTrainingSample
from test_moirai import columns, horizon_part
from torch import Tensor
from uni2ts.model.moirai.forecast import MoiraiForecast
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft import MSFTFoundationModel
from darts_msft.scales.mixing import MixedForecast, unpack

PATCH, CONTEXT = 8, 32
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def ours(directory: Path, batch: PLModuleInput, horizon: int, multivariate: str) -> MixedForecast:
    settings = {"patch_size": PATCH, "num_scales": 0, "linear_member": False, "multivariate": multivariate}
    model = MSFTFoundationModel(CONTEXT, horizon, backbone=str(directory), **settings)
    names = ("past_target", "past_covariates", "historic_future_covariates", "future_covariates")
    given = {name: part for name in names if (part := getattr(batch, name)) is not None}
    arrays = {name: part[0].numpy() for name, part in given.items()}
    target = np.zeros((horizon, batch.past_target.shape[-1]), dtype=np.float32)
    model.train_sample = TorchTrainingSample(**arrays, future_target=target)
    with torch.no_grad():
        return unpack(model._init_model().eval()(batch).prediction, num_scales=1)


def theirs(module: MoiraiModule, batch: PLModuleInput, horizon: int, padded: int) -> list[Tensor]:
    """Parameters (B, V, H, R), location and scale (B, V, H) of the targets; the first `padded` steps are none."""
    past, count = batch.past_target, batch.past_target.shape[-1]
    seen = torch.ones(past.shape[:2], dtype=torch.bool)
    seen[:, :padded] = False
    features: dict[str, Tensor] = {}
    if batch.future_covariates is not None:
        known = torch.cat([batch.historic_future_covariates, batch.future_covariates], dim=1)
        whole = torch.nn.functional.pad(seen, (0, horizon), value=True)
        features |= {"feat_dynamic_real": known.nan_to_num(0.0)}
        features |= {"observed_feat_dynamic_real": whole.unsqueeze(-1).expand_as(known)}
    if batch.past_covariates is not None:
        features |= {"past_feat_dynamic_real": batch.past_covariates.nan_to_num(0.0)}
        features |= {"past_observed_feat_dynamic_real": seen.unsqueeze(-1).expand_as(batch.past_covariates)}
    forecast = MoiraiForecast(
        prediction_length=horizon,
        target_dim=count,
        feat_dynamic_real_dim=0 if batch.future_covariates is None else batch.future_covariates.shape[-1],
        past_feat_dynamic_real_dim=0 if batch.past_covariates is None else batch.past_covariates.shape[-1],
        context_length=CONTEXT,
        module=module,
        patch_size=PATCH,
    )
    observed = seen.unsqueeze(-1).expand_as(past)
    with torch.no_grad():
        found = forecast._get_distr(PATCH, past.nan_to_num(0.0), observed, ~seen, **features)
    tokens, first = -(-horizon // PATCH), count * CONTEXT // PATCH
    params = columns(found)
    full = [getattr(found, name).expand(*params.shape[:3]) for name in ("loc", "scale")]
    parts = [part[:, first : first + count * tokens] for part in (params, *full)]
    split = [part.unflatten(1, (count, tokens)).flatten(0, 1) for part in parts]
    return [horizon_part(part, PATCH, horizon).unflatten(0, (len(past), count)) for part in split]


def batch_of(targets: int, past: int, future: int, horizon: int, padded: int) -> PLModuleInput:
    steps = np.random.default_rng(0).standard_normal((2, CONTEXT + horizon, targets + past + future))
    values = torch.as_tensor(10 + steps.cumsum(axis=1), dtype=torch.float32)
    values[:, :padded] = torch.nan
    own, others, known = values.split([targets, past, future], dim=-1)
    return PLModuleInput(
        past_target=own[:, :CONTEXT],
        past_covariates=others[:, :CONTEXT] if past else None,
        historic_future_covariates=known[:, :CONTEXT] if future else None,
        future_covariates=known[:, CONTEXT:] if future else None,
    )


@pytest.mark.parametrize(
    ("targets", "past", "future", "horizon", "padded"),
    [
        *[(1, 0, 0, 16, 0), (3, 0, 0, 16, 0), (2, 0, 1, 16, 0), (2, 2, 0, 16, 0)],
        *[(2, 1, 2, 16, 0), (2, 2, 0, 20, 0), (2, 1, 2, 16, 16), (1, 1, 1, 16, 0)],
    ],
)
@pytest.mark.parametrize("multivariate", ["joint", "independent"])
def test_forecasts_are_uni2ts_own(
    directory: Path,
    module: MoiraiModule,
    multivariate: str,
    targets: int,
    past: int,
    future: int,
    horizon: int,
    padded: int,
) -> None:
    """Jointly, and for each target alone with all covariates."""
    batch = batch_of(targets, past, future, horizon, padded)
    found = ours(directory, batch, horizon, multivariate)
    params = found.params[:, :, :, 0].transpose(1, 2)
    params = torch.cat([params[..., :8], params[..., 8:].log_softmax(dim=-1)], dim=-1)
    apart = [batch.replace(past_target=batch.past_target[..., one : one + 1]) for one in range(targets)]
    each = [theirs(module, one, horizon, padded) for one in ([batch] if multivariate == "joint" else apart)]
    expected, loc, scale = (torch.cat(parts, dim=1) for parts in zip(*each, strict=True))
    torch.testing.assert_close(params, expected, **CLOSE)
    torch.testing.assert_close(found[1][..., 0].transpose(1, 2).expand_as(loc), loc, **CLOSE)
    torch.testing.assert_close(found[2][..., 0].transpose(1, 2).expand_as(scale), scale, **CLOSE)
