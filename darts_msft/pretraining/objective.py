"""The masked-horizon objective: forecast the end of a series from the patches before it.

Reference: Woo et al. 2024 (MOIRAI), section 3.2: random context length, horizon share 0.15-0.5,
several patch sizes, negative log-likelihood of the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from darts_msft.backbones.base import Backbone, standardise
from darts_msft.backbones.families import DensityFamily
from darts_msft.pretraining.synthetic import QUIET, synthetic_series

PATCH_SIZE_SHARES = {16: 0.5, 32: 0.5}
HORIZON_SHARE = (0.15, 0.5)
MIN_TOKENS, MAX_TOKENS = 3, 128  # tokens of one series, context and horizon together; the median is 32
POOLING_SHARES = {1: 0.7, 2: 0.2, 4: 0.1}  # series are averaged over so many steps: the same process at several rates
MIN_LENGTH, MAX_LENGTH = 512, 4096  # steps of a generated series
MOST_POOLED, MAX_LENGTH_OF_RATES = 8, 16_384  # of a batch in which each process is seen at several rates
PIECES = 4  # at most so many pieces of one generated series are used: they are not independent
DAMAGED_SHARE = 0.25  # share of batches with left padding and missing values
MIN_OBSERVED = 8  # a context that damage would leave with fewer values stays whole
CLEAR_BATCHES, CLEAR_QUIET = 5_500, 0.3  # the first batches hold more quiet rows (`synthetic.QUIET`)
FARTHEST = 50.0  # targets are clipped at so many deviations of their context: some contexts are all but constant


class Layout(NamedTuple):
    """What the series of one batch have in common."""

    patch_size: int
    context_tokens: int
    horizon_tokens: int
    pooling: int
    """Generated steps averaged into one."""
    length: int
    """Steps of the generated series that the pieces are cut from."""
    several_rates: bool = False
    """Each series is cut once at every rate: 1, 2, 4 ... up to `pooling` steps averaged into one."""

    @property
    def tokens(self) -> int:
        return self.context_tokens + self.horizon_tokens

    @property
    def pieces(self) -> int:
        """Pieces cut from one generated series."""
        if self.several_rates:
            return self.pooling.bit_length()
        return min(PIECES, self.length // (self.tokens * self.patch_size * self.pooling))


@dataclass(frozen=True)
class Task:
    """One training batch: `context` (B, 1, C) and `horizon` (B, 1, H) in series units; NaN marks missing values."""

    patch_size: int
    context: Float[Tensor, "B 1 C"]
    horizon: Float[Tensor, "B 1 H"]
    whole: bool
    """No value is missing."""

    @property
    def tokens(self) -> int:
        """Of all series together."""
        return (self.context.numel() + self.horizon.numel()) // self.patch_size

    def pin_memory(self) -> Task:
        """Called by `DataLoader`."""
        return Task(self.patch_size, self.context.pin_memory(), self.horizon.pin_memory(), self.whole)

    def to(self, device: str) -> Task:
        context, horizon = (x.to(device, non_blocking=True) for x in (self.context, self.horizon))
        return Task(self.patch_size, context, horizon, self.whole)


class Tasks(Dataset[Task]):
    """Training batches of about `tokens` tokens, each a pure function of (seed, index).

    Copying cycles is to be learned first, from many rows with hardly any noise (`CLEAR_BATCHES`). Later such rows are
    to be few, since their likelihood, which has no bound, would rule the mean.
    """

    def __init__(
        self,
        seed: int,
        tokens: int,
        shares: Mapping[int, float] = PATCH_SIZE_SHARES,
        clear: int = CLEAR_BATCHES,
        rates: float = 0.0,
    ) -> None:
        self.seed, self.tokens, self.shares, self.clear, self.rates = seed, tokens, dict(shares), clear, rates

    def __getitem__(self, index: int) -> Task:
        rng = np.random.default_rng([self.seed, index])
        layout = draw_layout(rng, self.shares, self.rates)
        size = max(1, round(self.tokens / layout.tokens))
        quiet = CLEAR_QUIET if index < self.clear else QUIET
        series = synthetic_series(rng, -(-size // layout.pieces), layout.length, quiet)
        return make_task(series, layout, rng, size)


def parse_shares(text: str) -> dict[int, float]:
    """Shares of the batches by patch size, in steps, from text such as 16:0.5,32:0.5; a ValueError for other text.

    A sum within 0.002 of 1, as that of thirds written with three digits, is scaled to 1.
    """
    largest = MAX_LENGTH // MAX_TOKENS
    try:
        pairs = [part.split(":") for part in text.split(",")]
        shares = {int(patch_size): float(share) for patch_size, share in pairs}
    except ValueError:
        shares = {}
    good = all(1 <= patch_size <= largest and 0 < share <= 1 for patch_size, share in shares.items())
    total = sum(shares.values())
    if not shares or not good or not np.isclose(total, 1, rtol=0, atol=2e-3):
        raise ValueError(
            f"patch_shares must be patch size (at most {largest}):share, separated by commas, with the sum 1, such as "
            f"16:0.5,32:0.5, got {text!r}"
        )
    return {patch_size: share / total for patch_size, share in shares.items()}


def draw_layout(
    rng: np.random.Generator, shares: Mapping[int, float] = PATCH_SIZE_SHARES, rates: float = 0.0
) -> Layout:
    """The only place where lengths are drawn; `rates` is the share of layouts of several rates.

    Tokens are MIN_TOKENS (MAX_TOKENS / MIN_TOKENS)^(u^(2/3)) with u uniform: between log-uniform (exponent u, median
    20) and uniform (median 66). Generated series are one, two or four times as long as a piece, within their bounds.
    """
    patch_size = int(rng.choice(list(shares), p=list(shares.values())))
    tokens = round(MIN_TOKENS * (MAX_TOKENS / MIN_TOKENS) ** (rng.random() ** (2 / 3)))
    horizon_tokens = min(max(1, round(tokens * rng.uniform(*HORIZON_SHARE))), tokens // 2)
    if rates and rng.random() < rates:
        pooling = MOST_POOLED
        while pooling * tokens * patch_size > MAX_LENGTH_OF_RATES:
            pooling //= 2
        length = max(MIN_LENGTH, pooling * tokens * patch_size)
        return Layout(patch_size, tokens - horizon_tokens, horizon_tokens, pooling, length, several_rates=True)
    pooling = int(rng.choice(list(POOLING_SHARES), p=list(POOLING_SHARES.values())))
    while pooling * tokens * patch_size > MAX_LENGTH:
        pooling //= 2
    length = int(np.clip(pooling * tokens * patch_size * rng.choice([1, 2, 4]), MIN_LENGTH, MAX_LENGTH))
    return Layout(patch_size, tokens - horizon_tokens, horizon_tokens, pooling, length)


def cut(series: Float[np.ndarray, "rows length"], layout: Layout, rng: np.random.Generator) -> Float[np.ndarray, "n s"]:
    """`layout.pieces` pieces of each row, at random places without overlap, pooled."""
    span = layout.tokens * layout.patch_size * layout.pooling
    slots = series.shape[1] // span
    first = rng.integers(series.shape[1] - slots * span + 1)
    pieces = rearrange(series[:, first : first + slots * span], "row (slot span) -> row slot span", slot=slots)
    chosen = rng.permuted(np.tile(np.arange(slots), (len(series), 1)), axis=1)[:, : layout.pieces]
    taken = np.take_along_axis(pieces, chosen[..., None], axis=1)
    return reduce(taken, "row piece (step pool) -> (row piece) step", "mean", pool=layout.pooling)


def cut_at_rates(
    series: Float[np.ndarray, "rows length"], layout: Layout, rng: np.random.Generator
) -> Float[np.ndarray, "n s"]:
    """A piece of each row at every rate, each at a random place: the coarser, the more of the process it sees."""
    steps = layout.tokens * layout.patch_size
    pieces = []
    for pooling in (2**i for i in range(layout.pieces)):
        first = rng.integers(series.shape[1] - steps * pooling + 1)
        part = series[:, first : first + steps * pooling]
        pieces.append(reduce(part, "row (step pool) -> row step", "mean", pool=pooling))
    return np.concatenate(pieces)


def damage(context: Float[np.ndarray, "rows C"], rng: np.random.Generator) -> None:
    """Puts NaN, in place, where a random left part, single values or a block of each row are missing."""
    rows, steps = context.shape
    position = np.arange(steps)
    start = (rng.uniform(-0.5, 0.8, rows) * steps)[:, None]
    missing = position < start
    missing |= rng.uniform(size=context.shape) < rng.choice([0, 0, 0.05, 0.3], (rows, 1))
    left = rng.uniform(0, steps, (rows, 1))
    width = rng.choice([0, 0, 0.05, 0.2], (rows, 1)) * steps
    missing |= (position >= left) & (position < left + width)
    missing[(~missing).sum(axis=1) < MIN_OBSERVED] = False
    context[missing] = np.nan


def make_task(series: Float[np.ndarray, "rows length"], layout: Layout, rng: np.random.Generator, size: int) -> Task:
    """Turns generated series into one batch of at most `size` rows."""
    pieces = (cut_at_rates if layout.several_rates else cut)(series, layout, rng)
    pieces = pieces[rng.permutation(len(pieces))[:size]]
    context, horizon = (part.copy() for part in np.split(pieces, [layout.context_tokens * layout.patch_size], axis=1))
    if rng.uniform() < DAMAGED_SHARE:
        damage(context, rng)
    whole = not np.isnan(context).any()
    return Task(layout.patch_size, torch.from_numpy(context)[:, None], torch.from_numpy(horizon)[:, None], whole)


def horizon_loss(backbones: Mapping[int, Backbone], task: Task) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the horizon, in units of each context's standard deviation."""
    backbone = backbones[task.patch_size]
    observed, known = ~torch.isnan(task.context), torch.zeros_like(task.horizon, dtype=torch.bool)
    nothing = torch.zeros_like(task.horizon)
    exact = backbone.statistics(task.context, torch.full_like(task.horizon, torch.nan))
    tokens = backbone.embed(standardise(task.context, exact), observed, nothing, known)
    mask, stats = backbone.token_mask(observed, known, targets=1), exact.to(task.context.dtype)
    attended = None if task.whole else mask
    for layer in range(backbone.spec.num_layers):
        tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, attended, {}), None)
    params = backbone.head(tokens, task.horizon.shape[-1], mask).float()
    target = ((task.horizon - stats.loc) / stats.spread).clamp(-FARTHEST, FARTHEST)
    return -cast(DensityFamily, backbone.family).log_prob(params, target).mean()
