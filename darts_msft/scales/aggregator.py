"""The cross-scale aggregator: tokens of neighbouring scales that cover the same time exchange information.

Source: arXiv 2506.14087, decoupled dependency modelling. It acts along time and never mixes variates.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.scales.pyramid import ScalePlan


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
        self.share = 0.5 if branches == "both" else 1.0
        self.c2f = _zero_linears(plan.num_scales, width) if branches in ("both", "c2f") else None
        self.f2c = _zero_linears(plan.num_scales, width) if branches in ("both", "f2c") else None
        for scale in range(plan.num_scales):
            covers = plan.cover(scale)
            # the oldest coarse tokens, and those before them, may cover none: they take no part
            first = int(covers.any(dim=1).int().argmax())
            self.register_buffer(f"covers_{scale}", covers[first:], persistent=False)

    def forward(
        self, tokens: Sequence[Float[Tensor, "B V _ D"]], masks: Sequence[Bool[Tensor, "B V _"] | None]
    ) -> list[Float[Tensor, "B V _ D"]]:
        """`tokens[i]` is (B, V, N_i, D); `masks[i]` (B, V, N_i) marks valid tokens, None means all."""
        fused = list(tokens)
        if self.c2f is not None:
            for scale, update in self._coarse_to_fine(self.c2f, tokens, masks).items():
                fused[scale] = torch.add(fused[scale], update, alpha=self.share)
        if self.f2c is not None:
            for scale, update in self._fine_to_coarse(self.f2c, tokens, masks).items():
                fused[scale] = torch.add(fused[scale], update, alpha=self.share)
        return fused

    def _coarse_to_fine(
        self, linears: nn.ModuleList, tokens: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> dict[int, Tensor]:
        """What the branch adds to each scale's tokens."""
        updates: dict[int, Tensor] = {}
        for scale in range(self.plan.num_scales, 0, -1):
            covers = self.get_buffer(f"covers_{scale - 1}")
            source = _last(tokens[scale], covers)
            if scale in updates:
                source = source + _last(updates[scale], covers)
            mask = masks[scale]
            message = _masked(linears[scale - 1](source), None if mask is None else mask[..., -len(covers) :])
            updates[scale - 1] = repeat_tokens(message, covers)
        return updates

    def _fine_to_coarse(
        self, linears: nn.ModuleList, tokens: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> dict[int, Tensor]:
        updates: dict[int, Tensor] = {}
        for scale in range(self.plan.num_scales):
            source = tokens[scale] + updates[scale] if scale in updates else tokens[scale]
            pooled, present = pool_tokens(source, masks[scale], self.get_buffer(f"covers_{scale}"))
            message = _masked(linears[scale](pooled), present)
            older = tokens[scale + 1].shape[-2] - message.shape[-2]
            updates[scale + 1] = F.pad(message, (0, 0, older, 0)) if older else message
        return updates


def _last(coarse: Float[Tensor, "B V Nc D"], covers: Float[Tensor, "Nl Nf"]) -> Float[Tensor, "B V Nl D"]:
    """The coarse tokens that cover finer ones."""
    return coarse[..., -len(covers) :, :]


def repeat_tokens(coarse: Float[Tensor, "B V Nc D"], covers: Float[Tensor, "Nc Nf"]) -> Float[Tensor, "B V Nf D"]:
    """Each coarse token, repeated over the fine tokens that it covers (`ScalePlan.cover`)."""
    return covers.T.to(coarse.dtype).expand(*coarse.shape[:-2], -1, -1) @ coarse


def pool_tokens(
    fine: Float[Tensor, "B V Nf D"], mask: Bool[Tensor, "B V Nf"] | None, covers: Float[Tensor, "Nc Nf"]
) -> tuple[Float[Tensor, "B V Nc D"], Bool[Tensor, "B V Nc"]]:
    """Averages of the fine tokens that each coarse one covers, and where there is one.

    Only tokens that `mask` marks True count (None: all).
    """
    counted = covers.to(fine.dtype)
    if mask is not None:
        counted = counted * mask.unsqueeze(-2)
    count = counted.sum(dim=-1, keepdim=True)
    means = (counted / count.clamp(min=1)).expand(*fine.shape[:-2], *covers.shape)
    return means @ fine, (count > 0).squeeze(-1).expand(means.shape[:-1])


def _zero_linears(count: int, width: int) -> nn.ModuleList:
    linears = nn.ModuleList(nn.Linear(width, width) for _ in range(count))
    for parameter in linears.parameters():
        nn.init.zeros_(parameter)
    return linears


def _masked(message: Tensor, mask: Tensor | None) -> Tensor:
    return message if mask is None else message * mask.unsqueeze(-1).to(message.dtype)
