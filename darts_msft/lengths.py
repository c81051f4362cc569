"""Series that are too short for a model, refused with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darts import TimeSeries


def check_lengths(model: Any, series: Any, what: str, after: int = 0, name: str = "series") -> None:
    """Raises ValueError where one of `series` is shorter than the model's shortest context and `after` steps.

    `what` says what they are for. Whatever is no series is left to Darts' own checks.
    """
    every = [series] if isinstance(series, TimeSeries) else series
    if not isinstance(every, Sequence):
        return
    shortest, longest = model.min_input_chunk_length, model.input_chunk_length
    for index, one in enumerate(every):
        if not isinstance(one, TimeSeries) or len(one) >= shortest + after:
            continue
        which = name if isinstance(series, TimeSeries) else f"{name}[{index}]"
        needed = f"{shortest} of context and {after} after it" if after else f"{shortest} of context"
        fitting = len(one) - after
        shorter = (
            f", or make the model with a pair input_chunk_length=(shortest, longest), such as ({fitting}, {longest}), "
            "which takes shorter contexts"
            if fitting > 0
            else ""
        )
        out = ", or leave it out here: a fit of the others serves it too" if len(every) > 1 else ""
        raise ValueError(
            f"{which} is too short: it has {len(one)} steps, but {what} takes {shortest + after} ({needed}): give a "
            f"longer one{shorter}{out}"
        )
