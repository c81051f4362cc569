"""Modules that are added to a backbone: input adapter and LoRA (arXiv 2506.14087, knowledge activation), new heads."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from darts_msft.scales.pyramid import ScalePlan

HEAD_INIT_STD = 0.01


class InputAdapter(nn.Linear):
    """Linear(D, D) with bias after the frozen input projection; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        with torch.no_grad():
            nn.init.eye_(self.weight)
            nn.init.zeros_(self.bias)


class LoRA(nn.Module):
    """W x + (alpha / rank) B A x beside a frozen linear W; B starts at zero (Hu et al. 2022).

    Computed with the sum W + (alpha / rank) B A where that is cheaper and loses nothing.

    `a` is (rank, in_features), uniform within +-1 / sqrt(in_features) as in `peft`; `b` is (out_features, rank).
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scaling = alpha / rank
        self.a = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(rank, in_features), a=sqrt(5)))
        self.b = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, linear: nn.Linear, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        return through_loras([self], linear, x)


def through_loras(
    loras: Sequence[LoRA], linear: nn.Linear, x: Float[Tensor, "SB *shape I"]
) -> Float[Tensor, "SB *shape O"]:
    """`linear` with each scale's own LoRA beside it, in batched products.

    `x` has as many windows of each scale, scale after scale. All LoRAs have the same rank and scaling.
    """
    a, b, scaling = [lora.a for lora in loras], [lora.b for lora in loras], loras[0].scaling
    inputs, outputs = a[0].shape[1], len(b[0])
    # for a forecast of few tokens: rank (I + O) products for each of them, against rank I O for W + B A
    few = not torch.is_grad_enabled() and x.shape[:-1].numel() * (inputs + outputs) < len(loras) * inputs * outputs
    if few or linear.weight.requires_grad or _sum_rounds(linear.weight.device, linear.weight.dtype):
        inner = _by_scale(x, len(loras)) @ _stack(a).mT @ (_stack(b) * scaling).mT
        return linear(x) + inner.reshape(*x.shape[:-1], outputs)
    updated: Tensor = _LowRankUpdate.apply(x, linear.weight, linear.bias, scaling, *a, *b)
    return updated


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """With an axis of scales in front, where there are several."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts))


def _by_scale(x: Float[Tensor, "SB *shape I"], scales: int) -> Float[Tensor, "*S rows I"]:
    return x.reshape(-1, x.shape[-1]) if scales == 1 else x.reshape(scales, -1, x.shape[-1])


def _sum_rounds(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products with W + B A may lose a small update: in half precision, under autocast, and as TF32."""
    if torch.is_autocast_enabled(device.type) or dtype not in (torch.float32, torch.float64):
        return True
    return device.type == "cuda" and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"


class _LowRankUpdate(torch.autograd.Function):
    """x (W + scaling B A)^T + bias, W frozen: one product each way for x, thin ones for A and B, and no sum of outputs.

    `factors` are the scales' A, then their B, and x has as many rows of each scale, scale after scale.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, scaling: float, *factors: Tensor) -> Tensor:
        scales = len(factors) // 2
        a, b = _stack(factors[:scales]), _stack(factors[scales:]) * scaling
        if scales == 1:
            merged = torch.addmm(weight, b, a)
            product = F.linear(x, merged, bias)
        else:
            merged, rows = torch.baddbmm(weight, b, a), _by_scale(x, scales)
            product = torch.bmm(rows, merged.mT) if bias is None else torch.baddbmm(bias, rows, merged.mT)
            product = product.reshape(*x.shape[:-1], len(weight))
        ctx.scales, ctx.scaling = scales, scaling
        ctx.save_for_backward(x, merged, a, b)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        x_rows, rows = _by_scale(x, ctx.scales), _by_scale(gradient, ctx.scales)
        grad_x = (rows @ merged).reshape(x.shape) if ctx.needs_input_grad[0] else None
        grad_bias = rows.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[2] else None
        grad_a, grad_b = (rows @ b).mT @ x_rows, rows.mT @ (x_rows @ a.mT) * ctx.scaling
        by_scale = (grad_a, grad_b) if ctx.scales == 1 else (*grad_a.unbind(), *grad_b.unbind())
        return grad_x, None, grad_bias, None, *by_scale


class StepHead(nn.Module):
    """A new head on the horizon's tokens, one for all scales: (D) of a patch -> (P, R); starts near zero."""

    def __init__(self, width: int, patch_size: int, num_parameters: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.linear = _near_zero(width, patch_size * num_parameters, HEAD_INIT_STD)

    def forward(self, patches: Float[Tensor, "B V NH D"], scale: int, horizon: int) -> Float[Tensor, "B V H R"]:
        steps: Tensor = self.linear(patches).unflatten(-1, (self.patch_size, -1)).flatten(-3, -2)
        return steps[..., :horizon, :]


class FlatHeads(nn.ModuleList):
    """New heads on all of a context's tokens at once, one a scale: (N_i, D) -> (H_i, R); they start near zero."""

    def __init__(self, width: int, plan: ScalePlan, num_parameters: int) -> None:
        lengths = zip(plan.context_token_counts, plan.horizons, strict=True)
        super().__init__(
            _near_zero(count * width, steps * num_parameters, HEAD_INIT_STD / sqrt(count)) for count, steps in lengths
        )

    def forward(self, tokens: Float[Tensor, "B V N D"], scale: int, horizon: int) -> Float[Tensor, "B V H R"]:
        steps: Tensor = self[scale](tokens.flatten(-2)).unflatten(-1, (horizon, -1))
        return steps


def _near_zero(inputs: int, outputs: int, std: float) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear
