"""Slow plain-Python versions of the method's steps, written from its description; shared by several test files.

Time is counted in steps of the data's own rate; 0 is the first step of the horizon, so that the context lies below 0.
"""

import math

Stretch = tuple[int, int]
"""First step that a token covers, and the first one after it."""


def pool_loop(values: list[float], step: int, backwards: bool) -> list[float]:
    """Averages of `step` observed values, in groups counted from the right end (`backwards`) or the left one."""
    ordered = list(reversed(values)) if backwards else list(values)
    pooled = []
    for first in range(0, len(ordered), step):
        group = [value for value in ordered[first : first + step] if not math.isnan(value)]
        pooled.append(sum(group) / len(group) if group else math.nan)
    return list(reversed(pooled)) if backwards else pooled


def memory_of(context: int, scale: int, finest_context: int | None) -> int:
    """How many of the last steps a scale sees: twice as many as the next finer one, until it sees all."""
    memory = context if finest_context is None else finest_context
    for _ in range(scale):
        memory = min(2 * memory, context)
    return memory


def token_stretches(
    context: int,
    horizon: int,
    patch_size: int,
    scale: int,
    horizon_tokens: bool = True,
    finest_context: int | None = None,
) -> list[Stretch]:
    """Each token's stretch of time, left to right; tokens are added outwards from the origin until all is covered.

    All is the horizon and what the scale sees of the context.
    """
    width, context = patch_size * 2**scale, memory_of(context, scale, finest_context)
    before: list[Stretch] = []
    while sum(stop - start for start, stop in before) < context:
        stop = before[0][0] if before else 0
        before.insert(0, (stop - width, stop))
    after: list[Stretch] = []
    while horizon_tokens and sum(stop - start for start, stop in after) < horizon:
        start = after[-1][1] if after else 0
        after.append((start, start + width))
    return before + after


def covering(stretch: Stretch, coarse: list[Stretch]) -> int:
    """Index of the token of `coarse` that covers `stretch`."""
    found = [index for index, (start, stop) in enumerate(coarse) if start <= stretch[0] and stretch[1] <= stop]
    assert len(found) == 1
    return found[0]


def covered(stretch: Stretch, fine: list[Stretch]) -> list[int]:
    """Indices of the tokens of `fine` that `stretch` covers."""
    return [index for index, (start, stop) in enumerate(fine) if stretch[0] <= start and stop <= stretch[1]]
