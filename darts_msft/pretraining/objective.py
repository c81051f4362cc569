"""The masked-horizon objective: forecast the end of a series from the patches before it.

Reference: Woo et al. 2024 (MOIRAI), section 3.2: random context length, horizon share 0.15-0.5,
several patch sizes, negative log-likelihood of the mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from darts_msft.backbones.base import Backbone

PATCH_SIZE_SHARES = {8: 0.2, 16: 0.4, 32: 0.4}
HORIZON_SHARE = (0.15, 0.5)
MIN_TOKENS, MAX_TOKENS = 12, 64  # tokens of one series, context and horizon together
DAMAGED_SHARE = 0.25  # share of batches with left padding and missing values
POOLING = (1, 1, 1, 2, 4)  # series are averaged over so many steps: the same process at several rates


@dataclass(frozen=True)
class Task:
    """One training batch: `context` (B, 1, C) and `horizon` (B, 1, H) in series units; NaN marks missing values."""

    patch_size: int
    context: Float[Tensor, "B 1 C"]
    horizon: Float[Tensor, "B 1 H"]


def draw_layout(rng: np.random.Generator, max_length: int) -> tuple[int, int, int, int]:
    """Patch size, context tokens, horizon tokens and pooling factor, of series of at most `max_length` steps."""
    patch_size = int(rng.choice(list(PATCH_SIZE_SHARES), p=list(PATCH_SIZE_SHARES.values())))
    tokens = int(rng.integers(MIN_TOKENS, min(MAX_TOKENS, max_length // patch_size) + 1))
    horizon_tokens = max(1, round(tokens * rng.uniform(*HORIZON_SHARE)))
    pooling = int(rng.choice([factor for factor in POOLING if factor * tokens * patch_size <= max_length]))
    return patch_size, tokens - horizon_tokens, horizon_tokens, pooling


def cut(series: Float[np.ndarray, "rows length"], steps: int, pooling: int) -> Float[np.ndarray, "rows2 steps"]:
    """Cuts each row into pieces of `steps * pooling` steps and averages `pooling` steps into one."""
    pieces = series.shape[1] // (steps * pooling)
    usable = series[:, series.shape[1] - pieces * steps * pooling :]
    return reduce(usable, "row (piece step pool) -> (row piece) step", "mean", piece=pieces, pool=pooling)


def damage(context: Float[np.ndarray, "rows C"], rng: np.random.Generator) -> None:
    """Puts NaN, in place, where a random left part, single values or a block of each row are missing."""
    rows, steps = context.shape
    position = np.arange(steps)
    start = (rng.uniform(-0.5, 0.8, rows) * steps)[:, None]
    context[position < start] = np.nan
    context[rng.uniform(size=context.shape) < rng.choice([0, 0, 0.05, 0.3], (rows, 1))] = np.nan
    left = rng.uniform(0, steps, (rows, 1))
    width = rng.choice([0, 0, 0.05, 0.2], (rows, 1)) * steps
    context[(position >= left) & (position < left + width)] = np.nan


def make_task(
    series: Float[np.ndarray, "rows length"], layout: tuple[int, int, int, int], rng: np.random.Generator, size: int
) -> Task:
    """Turns raw series into one batch of at most `size` rows."""
    patch_size, context_tokens, horizon_tokens, pooling = layout
    pieces = cut(series, (context_tokens + horizon_tokens) * patch_size, pooling)
    pieces = pieces[rng.permutation(len(pieces))[:size]]
    context, horizon = np.split(pieces, [context_tokens * patch_size], axis=1)
    if rng.uniform() < DAMAGED_SHARE:
        context = context.copy()
        damage(context, rng)
    to_tensor = torch.from_numpy
    return Task(patch_size, to_tensor(np.ascontiguousarray(context))[:, None], to_tensor(horizon.copy())[:, None])


def horizon_loss(backbones: Mapping[int, Backbone], task: Task) -> Float[Tensor, ""]:
    """Mean negative log-likelihood of the horizon, in units of each context's standard deviation."""
    backbone = backbones[task.patch_size]
    values, stats = backbone.normalise(task.context)
    observed = ~torch.isnan(task.context)
    horizon = task.horizon.shape[-1]
    tokens = backbone.embed(values, observed, horizon // task.patch_size)
    mask = None
    if not observed.all():
        mask = rearrange(observed, "b v (n p) -> b v n p", p=task.patch_size).any(dim=-1)
        mask = torch.cat([mask, mask.new_ones((*mask.shape[:2], horizon // task.patch_size))], dim=-1)
    for layer in range(backbone.spec.num_layers):
        tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, mask, {}))
    params = backbone.head(tokens, 0, horizon).float()
    target = (task.horizon - stats.loc) / stats.scale
    return -backbone.family.log_prob(params, target).mean()
