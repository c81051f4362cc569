"""Modules that MSFT adds for each scale: the input adapter and LoRA (arXiv 2506.14087, knowledge activation)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LORA_INIT_STD = 0.01


class InputAdapter(nn.Linear):
    """Linear(D, D) with bias after the frozen input projection; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        with torch.no_grad():
            nn.init.eye_(self.weight)
            nn.init.zeros_(self.bias)


class LoRA(nn.Module):
    """x -> (alpha / rank) B A x, to be added to a frozen linear's output; B starts at zero (Hu et al. 2022).

    `a` is (rank, in_features), normal with standard deviation 0.01; `b` is (out_features, rank).
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scaling = alpha / rank
        self.a = nn.Parameter(torch.randn(rank, in_features) * LORA_INIT_STD)
        self.b = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x: Float[Tensor, "*shape I"]) -> Float[Tensor, "*shape O"]:
        return F.linear(F.linear(x, self.a), self.b * self.scaling)


class StepHead(nn.Linear):
    """A new head for a likelihood that the backbone has none for: (D) of a patch -> (P, R); starts near zero."""

    def __init__(self, width: int, patch_size: int, num_parameters: int) -> None:
        super().__init__(width, patch_size * num_parameters)
        self.patch_size = patch_size
        nn.init.normal_(self.weight, std=LORA_INIT_STD)
        nn.init.zeros_(self.bias)

    def forward(self, patches: Float[Tensor, "B V N D"]) -> Float[Tensor, "B V L R"]:
        return super().forward(patches).unflatten(-1, (self.patch_size, -1)).flatten(-3, -2)
