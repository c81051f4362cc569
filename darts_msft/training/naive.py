"""The seasonal naive forecast of windows: what every model should beat."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class NaiveForecast(NamedTuple):
    """Its points, and where these repeat a season, not the last value."""

    points: Float[Tensor, "B H V"]
    seasonal: Bool[Tensor, "B H V"]


def naive_forecast(past: Float[Tensor, "B C V"], season: int | None, horizon: int, shift: int = 0) -> NaiveForecast:
    """The last season of the window, repeated; the last value where a window is shorter than that, or has a gap there.

    The first of the `horizon` steps is `shift` + 1 steps after the window. NaN for a component without any value.
    """
    length = past.shape[1]
    order = torch.arange(length, device=past.device)[:, None]
    latest = torch.where(past.isnan(), -1, order).amax(dim=1, keepdim=True).clamp(min=0)
    last = past.gather(1, latest).expand(-1, horizon, -1)
    if season is None or season > length:
        return NaiveForecast(last, torch.zeros_like(last, dtype=torch.bool))
    steps = length - season + (shift + torch.arange(horizon, device=past.device)) % season
    found = past[:, steps]
    return NaiveForecast(torch.where(found.isnan(), last, found), ~found.isnan())
