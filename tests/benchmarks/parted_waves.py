"""A small data set in the form that `benchmarks.parts` gives them."""

from __future__ import annotations

import numpy as np

from benchmarks.parts import Data


def waves(name: str = "waves") -> Data:
    """Three noisy daily waves on different levels; the third is flat for stretches longer than 32 steps."""
    time = np.arange(400)[:, None]
    noise = np.random.default_rng(0).standard_normal((400, 3))
    values = np.sin(2 * np.pi * time / 24 + np.arange(3)) * [1, 5, 2] + [10, -20, 0] + 0.2 * noise
    values[:, 2] = np.where(time[:, 0] % 120 < 60, 0, values[:, 2])
    return Data.make(name, 24, values, [240, 320, 400])
