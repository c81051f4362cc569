"""Short gaps of what the linear member looks back on."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BRIDGED = 12  # steps of the longest gap


def bridge(values: Float[Tensor, "B L V"]) -> Float[Tensor, "B L V"]:
    """With a straight line over each gap (NaN) of at most `BRIDGED` steps; at the end, the last value again.

    Longer gaps, and those at the beginning, stay. A map from thousands of steps hardly notices a bridge, where without
    it one missing hour would silence it for months.
    """
    if torch.compiler.is_exporting():  # exported files take complete windows
        return values
    count = values.shape[1]
    seen, steps = values.isfinite(), torch.arange(count, device=values.device)[None, :, None].expand(values.shape)
    before = torch.where(seen, steps, -1).cummax(dim=1).values
    after = torch.where(seen, steps, count).flip(1).cummin(dim=1).values.flip(1)
    left = values.gather(1, before.clamp(min=0))
    right = torch.where(after < count, values.gather(1, after.clamp(max=count - 1)), left)
    line = left + (right - left) * ((steps - before) / (after - before))
    short = ~seen & (before >= 0) & (after - before <= BRIDGED + 1)
    return torch.where(short, line, values)


def bridge_array(values: Float[np.ndarray, "B L V"]) -> Float[np.ndarray, "B L V"]:
    """The same of an array."""
    return bridge(torch.from_numpy(np.ascontiguousarray(values))).numpy()
