"""The cross-scale aggregator: tokens of neighbouring scales that cover the same time exchange information.

Source: arXiv 2506.14087, decoupled dependency modelling. It acts along time and never mixes variates.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.pyramid import ScalePlan


class CrossScaleAggregator(nn.Module):
    """One layer's aggregator, with the branches that `branches` names ("both", "c2f", "f2c").

        coarse to fine, i = K..1:   h[i-1] <- h[i-1] + Repeat(Linear_c2f[i](h[i]))
        fine to coarse, i = 0..K-1: h[i+1] <- h[i+1] + Linear_f2c[i](AvgPool(h[i]))

    Both branches start from the same tokens; with two branches the result is their mean. The linear map and
    the average commute, and mapping the pooled tokens costs half. All maps start at zero.
    """

    def __init__(self, plan: ScalePlan, width: int, branches: str) -> None:
        super().__init__()
        self.plan = plan
        self.c2f = _zero_linears(plan.num_scales, width) if branches in ("both", "c2f") else None
        self.f2c = _zero_linears(plan.num_scales, width) if branches in ("both", "f2c") else None

    def forward(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        """`tokens[i]` is (B, V, N_i, D); `masks[i]` (B, V, N_i) marks valid tokens, None means all."""
        branches = []
        if self.c2f is not None:
            branches.append(self._coarse_to_fine(self.c2f, tokens, masks))
        if self.f2c is not None:
            branches.append(self._fine_to_coarse(self.f2c, tokens, masks))
        if len(branches) == 1:
            return branches[0]
        return [(first + second) / 2 for first, second in zip(*branches, strict=True)]

    def _coarse_to_fine(
        self, linears: nn.ModuleList, tokens: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        fused = list(tokens)
        for scale in range(self.plan.num_scales, 0, -1):
            message = _masked(linears[scale - 1](fused[scale]), masks[scale])
            fused[scale - 1] = fused[scale - 1] + self.plan.repeat_tokens(message, scale)
        return fused

    def _fine_to_coarse(
        self, linears: nn.ModuleList, tokens: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        fused = list(tokens)
        for scale in range(self.plan.num_scales):
            pooled, present = self.plan.pool_tokens(fused[scale], masks[scale], scale)
            fused[scale + 1] = fused[scale + 1] + _masked(linears[scale](pooled), present)
        return fused


def _zero_linears(count: int, width: int) -> nn.ModuleList:
    linears = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
    for parameter in linears.parameters():
        nn.init.zeros_(parameter)
    return linears


def _masked(message: Tensor, mask: Tensor | None) -> Tensor:
    return message if mask is None else message * mask.unsqueeze(-1).to(message.dtype)
