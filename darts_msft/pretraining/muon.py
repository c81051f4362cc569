"""torch's Muon with one product for all matrices of a shape: on a GPU its many small kernels cost more than they do."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class GroupedMuon(getattr(torch.optim, "Muon", torch.optim.Optimizer)):  # type: ignore[misc]  # before torch 2.9
    """`torch.optim.Muon` (Jordan et al. 2024) with the rates of `match_rms_adamw`; the same settings and state.

    The steps are torch's but for the rounding of bfloat16 products.
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        if closure is not None:
            raise ValueError("GroupedMuon takes no closure; call backward before the step")
        for group in self.param_groups:
            params: list[Tensor] = []
            grads: list[Tensor] = []
            momenta: list[Tensor] = []
            self._init_group(group, params, grads, momenta)
            if not params:
                continue
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            updates = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov's
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            by_shape = defaultdict(list)
            for param, update in zip(params, updates, strict=True):
                by_shape[param.shape].append((param, update))
            for (rows, columns), pairs in by_shape.items():
                found = orthogonal(
                    torch.stack([update for _, update in pairs]), group["ns_coefficients"], group["ns_steps"]
                )
                rate = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                torch._foreach_add_([param for param, _ in pairs], list(found.float().unbind()), alpha=-rate)


def orthogonal(
    matrices: Float[Tensor, "n rows columns"], coefficients: tuple[float, float, float], steps: int, eps: float = 1e-7
) -> Float[Tensor, "n rows columns"]:
    """Newton and Schulz's iteration in bfloat16: singular values near one, singular vectors as they were."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1).clamp(min=eps)[:, None, None]
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
