"""What tests of the synthetic series measure."""

import numpy as np


def autocorrelation(x: np.ndarray, lag: int) -> np.ndarray:
    """Of each row, at a lag in steps."""
    x = x - x.mean(axis=1, keepdims=True)
    return (x[:, lag:] * x[:, :-lag]).mean(axis=1) / (x**2).mean(axis=1)
