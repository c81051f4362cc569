"""Normal equations of a regression from L past steps to H future ones, over all windows of a series, exactly.

A window is L past steps, `shift` steps that nobody looks at, and H future steps: N = L + shift + H. The mean of its
past is taken from all of it, so the regression does not feel the series' level. With x the series and W = T - N + 1
windows, the products of a window's steps, G[i, j] = sum_n x[n + i] x[n + j], follow from the first row:
G[i + 1, j + 1] = G[i, j] - x[i] x[j] + x[W + i] x[W + j]; this row is a correlation, one FFT. Removing the mean is a
projection of G. All sums are in double precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import fft

_ROUNDING = 1e-7  # of the largest value: what single precision leaves of a constant
_BLOCK = 128  # columns


class Frame(NamedTuple):
    """What a window is made of, in steps."""

    lookback: int
    horizon: int
    shift: int = 0

    @property
    def length(self) -> int:
        """N, all steps of a window."""
        return self.lookback + self.shift + self.horizon


class Stretch(NamedTuple):
    """The steps from `start` to before `stop` of a series."""

    start: int
    stop: int


class Equations(NamedTuple):
    """Means over windows of the products of inputs x and targets y, both without the mean of the window's past."""

    gram: Float[np.ndarray, "L L"]  # x x'
    cross: Float[np.ndarray, "L H"]  # x y'
    windows: int  # how many


def merge(parts: Iterable[Equations | None]) -> Equations | None:
    """All their windows together; None where there are none."""
    merged = None
    for part in parts:
        if merged is None or part is None:
            merged = merged or part
            continue
        windows = merged.windows + part.windows
        gram, cross = (a + (b - a) * (part.windows / windows) for a, b in zip(merged[:2], part[:2], strict=True))
        merged = Equations(gram, cross, windows)
    return merged


def without(everything: Equations | None, part: Equations | None) -> Equations | None:
    """The windows that are not in `part`; None where there are none."""
    if everything is None or part is None:
        return everything
    windows = everything.windows - part.windows
    if windows <= 0:
        return None
    gram, cross = (a + (a - b) * (part.windows / windows) for a, b in zip(everything[:2], part[:2], strict=True))
    return Equations(gram, cross, windows)


def equations_of(
    series: Sequence[Float[np.ndarray, "_"]], frame: Frame, touching: Sequence[Stretch | None] | None = None
) -> Equations | None:
    """Of all windows without a gap (NaN); each series counts in units of its standard deviation.

    `touching` asks for those alone that have a step in the stretch of their series. None where no window fits. A series
    that doesn't vary says nothing.
    """
    whole = [Stretch(0, len(one)) for one in series] if touching is None else touching
    around = frame.length - 1
    parts = (
        standardised(one)[max(stretch.start - around, 0) : stretch.stop + around]
        for one, stretch in zip(series, whole, strict=True)
        if stretch is not None
    )
    return merge(_of_segment(segment, frame) for part in parts for segment in segments(part, frame.length))


def spread_of(values: Float[np.ndarray, "_"]) -> float:
    """Standard deviation of the observed values; 0 where they don't vary beyond rounding."""
    seen = values[np.isfinite(values)]
    deviation = float(np.std(seen, dtype=np.float64)) if seen.size else 0.0
    return deviation if deviation > _ROUNDING * float(np.abs(seen).max(initial=0.0)) else 0.0


def standardised(values: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """Without its mean and in units of its spread; all missing where it doesn't vary."""
    spread = spread_of(values)
    if not spread:
        return np.full(len(values), np.nan)
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    return (values - np.nanmean(values)) / spread


def segments(values: Float[np.ndarray, "T"], least: int) -> Iterator[Float[np.ndarray, "_"]]:
    """Stretches without a gap, of at least `least` steps."""
    gaps: Bool[np.ndarray, "_"] = np.concatenate([[True], np.isnan(values), [True]])
    ends = np.flatnonzero(gaps)
    for start, end in zip(ends[:-1], ends[1:] - 1, strict=True):
        if end - start >= least:
            yield values[start:end]


def _of_segment(x: Float[np.ndarray, "T"], frame: Frame) -> Equations:
    count = len(x) - frame.length + 1
    products = window_products(x, frame.length) / count
    past, future = slice(frame.lookback), slice(frame.lookback + frame.shift, None)
    gram, cross = products[past, past], products[past, future]
    # the mean of the past is m = 1' x / L: taken from inputs (on both sides) and targets
    with_mean = gram.mean(axis=1)  # E[x m]
    mean_square = with_mean.mean()  # E[m m]
    mean_target = cross.mean(axis=0)  # E[m y]
    gram, cross = (part - with_mean[:, None] for part in (gram, cross))
    gram -= with_mean - mean_square
    cross -= mean_target - mean_square
    return Equations(gram, cross, count)


def window_products(x: Float[np.ndarray, "T"], length: int) -> Float[np.ndarray, "N N"]:
    """Sums over all windows of `length` steps of the products of their steps."""
    count = len(x) - length + 1
    head, tail = x[: length - 1], x[count:]
    products = np.empty((length, length))
    size = fft.next_fast_len(len(x), real=True)  # nothing wraps around into these lags
    products[0] = fft.irfft(fft.rfft(x, size) * fft.rfft(x[:count], size).conj(), size)[:length]
    # what each has more than the one before it on its diagonal: one product less and one more
    products[1:, 1:] = np.stack([tail, head], axis=1) @ np.stack([tail, -head])
    for i in range(length - 1):
        products[i + 1, i + 1 :] += products[i, i:-1]
    for start in range(0, length, _BLOCK):  # the lower triangle, a few columns at a time: a transpose tires the caches
        rows = slice(start, start + _BLOCK)
        products[start + _BLOCK :, rows] = products[rows, start + _BLOCK :].T
        products[rows, rows] = np.triu(products[rows, rows]) + np.triu(products[rows, rows], 1).T
    return products
