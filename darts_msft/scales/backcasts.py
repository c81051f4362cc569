"""Weights of the scales for each window by itself: how well each scale forecasts the end of the window's own context.

For models that were not fitted: there are no other data to weigh the scales by. Combining forecasts by inverse powers
of their past squared errors is after Bates and Granger (1969), "The Combination of Forecasts". Axes as in
`backbones/base.py`; J is the number of backcasts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

COUNT = 2
POWER = 8.0  # w_i ~ MSE_i ** -POWER: a scale that doesn't help gets next to nothing


class Backcasts(NamedTuple):
    """J earlier times to forecast from, and what followed."""

    ends: tuple[int, ...]  # J steps of the window, from which on they are forecast
    truth: Float[Tensor, "J B h V"]
    unit: Float[Tensor, "B V"]  # each window's variance
    tells: Bool[Tensor, "J B V"]  # whether a scale's error says how well it would forecast the window itself

    def weights(self, points: Float[Tensor, "J B H V S"]) -> Float[Tensor, "B S"]:
        """The scales' weights from their forecasts of the windows: inverse powers of their mean squared errors.

        Each component counts in units of its variance in the window. A window that says nothing gets scale 0 alone.
        """
        unit = self.unit[:, None, :, None]
        error = (points[:, :, : self.truth.shape[2]] - self.truth.unsqueeze(-1)).double().square() / unit
        tells = self.tells[:, :, None, :, None] & (unit > 0)
        mean = torch.where(tells, error, torch.nan).nanmean(dim=(0, 2, 3)).clamp(min=1e-12)
        weights = (-POWER * mean.log()).softmax(dim=-1)
        alone = F.one_hot(torch.zeros((), dtype=torch.long, device=mean.device), mean.shape[-1]).to(weights)
        return torch.where(weights.isfinite().all(dim=-1, keepdim=True), weights, alone).to(points)


def cut_backcasts(past_target: Float[Tensor, "B C V"], horizon: int, shift: int, finest_context: int) -> Backcasts:
    """Backcasts of the last steps, `horizon` of them or fewer: together they take half of the context at most.

    `shift` steps lie between a window's end and what it forecasts, as in the forecast itself. A backcast tells nothing
    where half of what scale 0 sees, `finest_context` steps, was not observed before it; and none does where the window
    has nothing older than what scale 0 sees: the coarser scales have no longer memory then.
    """
    length = past_target.shape[1]
    steps = max(1, min(horizon, (length - shift) // (2 * COUNT)))
    windows, truth = [], []
    times = tuple(length - steps * index for index in range(1, COUNT + 1))
    for ends in times:
        window = past_target[:, : max(ends - shift, 0)]
        windows.append(window)
        truth.append(past_target[:, max(ends, 0) : max(ends, 0) + steps])
    values = past_target.double()
    unit = (values - values.nanmean(dim=1, keepdim=True)).square().nanmean(dim=1)
    varies = values.nan_to_num(-torch.inf).amax(dim=1) > values.nan_to_num(torch.inf).amin(dim=1)
    unit = torch.where(varies, unit, 0.0)  # rounding leaves a little where nothing varies
    seen = torch.stack([(~torch.isnan(window)).sum(dim=1) for window in windows])
    older = ~torch.isnan(past_target[:, : length - finest_context]).all(dim=(1, 2))
    tells = (2 * seen >= finest_context) & older[:, None]
    return Backcasts(times, torch.stack(truth), unit, tells)
