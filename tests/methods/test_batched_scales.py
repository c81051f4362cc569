"""Scales of nearly equal token counts run as one batch, which must be one call a scale: forecasts and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_backbone import MAKERS, random_walks
from contract_method import HORIZON, VARIATES, make_module, perturbed
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from torch import Tensor

from darts_msft import encoder
from darts_msft.module import MSFTModule

CONTEXT, FINEST = 64, 16  # four patches at every scale, and one or two of the horizon
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "msft": ("msft", {}),
    "msft, one LoRA": ("msft", {"shared_lora": True}),
    "msft without LoRA": ("msft", {"lora_rank": 0}),
    "full": ("full", {}),
    "prompt": ("prompt", {}),
}


@pytest.fixture(scope="module", params=MAKERS)
def directory(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Path:
    """A tiny checkpoint of every architecture."""
    return checkpoint_of(request.param)


def batch_with_gaps() -> TorchTrainingBatch:
    """Missing values, a whole missing patch at all scales, and a series that starts late; in double precision."""
    walks = random_walks(3, VARIATES, CONTEXT + HORIZON).transpose(1, 2).double()
    past, future = (part.clone() for part in walks.split([CONTEXT, HORIZON], dim=1))
    past[0, ::5, 0] = torch.nan
    past[1, -48:-30] = torch.nan
    past[1, -9:-4] = torch.nan
    past[-1, :50] = torch.nan
    future[0, 1, 0] = torch.nan
    return TorchTrainingBatch(past_target=past, future_target=future)


def step(module: MSFTModule) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """The scales' forecasts, the gradients of a training step, and how often the attention was called."""
    calls, attention = 0, module.backbone.attention

    def counted(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        return attention(*arguments)

    module.zero_grad()
    batch = batch_with_gaps()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.backbone, "attention", counted)
        outputs = module.forecast_scales(module.window(batch))
    module.training_loss(batch, outputs).backward()
    gradients = {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
    return outputs.params, gradients, calls


@pytest.mark.parametrize("name", METHODS)
def test_one_batch_is_one_call_a_scale(directory: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, options = METHODS[name]
    module = perturbed(make_module(directory, method, CONTEXT, finest_context=FINEST, **options)).double().train()
    params, gradients, calls = step(module)
    monkeypatch.setattr(encoder, "MOST_PADDING", -1.0)
    expected, expected_gradients, more_calls = step(module)
    assert more_calls == (1 if module.backbone.mixes_time else 3) * calls
    for ours, theirs in zip(params, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[key], rtol=1e-9, atol=1e-10, msg=key)


@pytest.mark.parametrize("name", ["msft", "prompt"])
def test_a_few_windows_at_a_time_forecast_as_all(directory: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, options = METHODS[name]
    module = perturbed(make_module(directory, method, CONTEXT, finest_context=FINEST, **options)).double().eval()
    seen: list[int] = []
    attention = module.backbone.attention

    def noted(layer: int, tokens: Tensor, *rest: Any) -> Tensor:
        seen.append(len(tokens))
        return attention(layer, tokens, *rest)

    monkeypatch.setattr(module.backbone, "attention", noted)
    forecasts, sizes = [], []
    for tokens in (10**6, 1):
        monkeypatch.setattr(encoder, "CACHED_TOKENS", tokens)
        with torch.no_grad():
            forecasts.append(module.forecast_scales(module.window(batch_with_gaps())).params)
        sizes.append(seen.copy())
        seen.clear()
    scales = len(module.plan.scales)
    assert set(sizes[1]) <= {1, scales}  # a window, or its scales as one batch
    assert sum(sizes[1]) == sum(sizes[0])
    assert max(sizes[0]) > scales
    for ours, theirs in zip(*forecasts, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
