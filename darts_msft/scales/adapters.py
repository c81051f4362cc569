"""Modules that MSFT adds for each scale: the input adapter and LoRA (arXiv 2506.14087, knowledge activation)."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        return _with_update(linear, x, self.a, self.b * self.scaling)


def lora_of_each_scale(
    loras: Sequence[LoRA], linear: nn.Linear, x: Float[Tensor, "SB *shape I"]
) -> Float[Tensor, "SB *shape O"]:
    """As many windows of each scale, scale after scale, through the scale's own LoRA, in batched products."""
    a, b = torch.stack([lora.a for lora in loras]), torch.stack([lora.b * lora.scaling for lora in loras])
    by_scale = x.reshape(len(loras), -1, x.shape[-1])
    return _with_update(linear, by_scale, a, b).reshape(*x.shape[:-1], -1)


def _with_update(
    linear: nn.Linear, x: Float[Tensor, "*shape I"], a: Float[Tensor, "*S r I"], b: Float[Tensor, "*S O r"]
) -> Float[Tensor, "*shape O"]:
    """W x + B A x; with a leading axis of scales, which x has as well, (S, rows, I), each scale's own A and B."""
    rows, products = x.shape[a.ndim - 2 : -1].numel(), a.shape[-1] * b.shape[-2]
    # for a forecast of few tokens: rank (I + O) products for each of them, against rank I O for W + B A
    cheaper = not torch.is_grad_enabled() and rows * (a.shape[-1] + b.shape[-2]) < products
    if cheaper or linear.weight.requires_grad or _sum_rounds(linear.weight.device, linear.weight.dtype):
        return linear(x) + x @ a.mT @ b.mT
    updated: Tensor = _LowRankUpdate.apply(x, linear.weight, linear.bias, a, b)
    return updated


def _sum_rounds(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products with W + B A may lose a small update: in half precision, under autocast, and as TF32."""
    if torch.is_autocast_enabled(device.type) or dtype not in (torch.float32, torch.float64):
        return True
    return device.type == "cuda" and dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"


class _LowRankUpdate(torch.autograd.Function):
    """x (W + B A)^T + bias, W frozen: one product each way for x, thin ones for A and B, and no sum of two outputs.

    `a` and `b` may have an axis of scales in front, and x, (S, rows, I), then has it as well.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        batched = a.ndim == 3
        merged = torch.baddbmm(weight, b, a) if batched else torch.addmm(weight, b, a)
        ctx.save_for_backward(x, merged, a, b)
        if not batched:
            return F.linear(x, merged, bias)
        return torch.bmm(x, merged.mT) if bias is None else torch.baddbmm(bias, x, merged.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, merged, a, b = ctx.saved_tensors
        x_rows, rows = (part.flatten(a.ndim - 2, -2) for part in (x, gradient))
        grad_x = gradient @ merged if ctx.needs_input_grad[0] else None
        grad_bias = rows.flatten(0, -2).sum(dim=0) if ctx.needs_input_grad[2] else None
        return grad_x, None, grad_bias, (rows @ b).mT @ x_rows, rows.mT @ (x_rows @ a.mT)


class StepHead(nn.Linear):
    """A new head for a likelihood that the backbone has none for: (D) of a patch -> (P, R); starts near zero."""

    def __init__(self, width: int, patch_size: int, num_parameters: int) -> None:
        super().__init__(width, patch_size * num_parameters)
        self.patch_size = patch_size
        nn.init.normal_(self.weight, std=HEAD_INIT_STD)
        nn.init.zeros_(self.bias)

    def forward(self, patches: Float[Tensor, "B V N D"]) -> Float[Tensor, "B V L R"]:
        return super().forward(patches).unflatten(-1, (self.patch_size, -1)).flatten(-3, -2)
