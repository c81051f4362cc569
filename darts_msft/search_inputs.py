"""What `tune` is given: checks before anything is fitted, and the settings that each method has a use for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression
from darts.utils.ts_utils import series2seq

from darts_msft.methods import find_method, methods_with
from darts_msft.options import check_number

LOOK_BACKS = (512, 1024, 2048, 4096)
LEAST_SHARE = 4  # a training series is so many times as long as a look-back
UNTRAINED = "zero_shot"

Pairs = list[tuple[TimeSeries, TimeSeries]]
"""Training series, each with what follows it."""


def check_asked(
    horizon: int, minutes: float, methods: Sequence[str], max_epochs: int, settings: dict[str, Any]
) -> None:
    """Raises ValueError for arguments that no search can have."""
    if wrong := sorted({"input_chunk_length", "output_chunk_length", "method", "n_epochs"} & settings.keys()):
        raise ValueError(
            f"{wrong[0]}={settings[wrong[0]]!r} is searched, or follows from other arguments: leave it out"
        )
    if given := [name for name in settings if name.endswith("covariates")]:
        raise ValueError(
            f"{given[0]} can't be given: tune takes future_covariates alone; fit a MSFTFoundationModel with others"
        )
    check_number("horizon", horizon, 1, integer=True)
    check_number("max_epochs", max_epochs, 1, integer=True)
    if not minutes > 0:
        raise ValueError(f"minutes={minutes!r}: give more than 0")
    if isinstance(methods, str):
        raise ValueError(f"methods={methods!r}: give a list of methods, such as [{methods!r}]")
    for method in methods:
        if not find_method(method).trains:
            raise ValueError(f"methods={methods!r}: {method!r} trains nothing, and is tried anyway; leave it out")
    used = set().union(*(settings_for(method, settings) for method in (UNTRAINED, *methods)))
    if useless := [name for name in settings if name not in used]:
        raise ValueError(
            f"{useless[0]}={settings[useless[0]]!r} is without effect with methods={methods!r}: leave it out, or add a "
            "method that uses it"
        )


def settings_for(method: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that other methods alone have a use for."""
    return {name: value for name, value in settings.items() if _has_use(method, name, settings)}


def _has_use(method: str, name: str, settings: dict[str, Any]) -> bool:
    if not find_method(method).trains:
        native = isinstance(settings.get("likelihood"), str | QuantileRegression | None)
        if name in ("enable_finetuning", "loss_fn") or (name == "likelihood" and not native):  # that needs a new head
            return False
    else:
        new_head = name == "lr_head" and {"likelihood", "loss_fn"} & settings.keys()  # which trains with any method
        by_name = name.startswith("lr_") and isinstance(settings.get("enable_finetuning"), dict)
        if new_head or by_name:
            return True
    users = methods_with(name)
    return not users or method in users


def pairs_of(series: Any, val_series: Any) -> Pairs:
    """Raises ValueError where a validation series doesn't follow its training series."""
    train, val = list(series2seq(series)), list(series2seq(val_series))
    if len(train) != len(val):
        raise ValueError(f"there are {len(train)} training and {len(val)} validation series: give one for each")
    for number, (one, other) in enumerate(zip(train, val, strict=True)):
        if other.start_time() != one.end_time() + one.freq:
            raise ValueError(
                f"val_series {number} begins at {other.start_time()}: give what follows its training series, from "
                f"{one.end_time() + one.freq} on; the steps before that are added here"
            )
    return list(zip(train, val, strict=True))


def known_of(future_covariates: Any, pairs: Pairs) -> list[TimeSeries] | None:
    """Raises ValueError where there is not one for each training series, from its first step to the last to forecast."""
    if future_covariates is None:
        return None
    known = list(series2seq(future_covariates))
    if len(known) != len(pairs):
        raise ValueError(
            f"there are {len(pairs)} training series and {len(known)} future_covariates: give one for each"
        )
    for number, (one, (train, val)) in enumerate(zip(known, pairs, strict=True)):
        if one.start_time() > train.start_time() or one.end_time() < val.end_time():
            raise ValueError(
                f"future_covariates {number} are from {one.start_time()} to {one.end_time()}: give them from "
                f"{train.start_time()} to {val.end_time()}, as its training and validation series are"
            )
    return known


def look_backs_of(asked: Sequence[int] | None, shortest: int, ahead: int) -> list[int]:
    """In rising order; None: those that the shortest training series is long enough for, with what comes after."""
    if asked is None:
        most = min(shortest // LEAST_SHARE, shortest - ahead)
        if most < 1:
            raise ValueError(
                f"the shortest training series has {shortest} steps, of which {ahead} are to forecast: give at least "
                f"{max(ahead + 1, LEAST_SHARE)} steps, or a smaller horizon"
            )
        return [back for back in LOOK_BACKS if back <= most] or [most]
    if not len(asked):
        raise ValueError(f"look_backs={asked!r}: give at least one number of steps")
    found = sorted({int(check_number("look_backs", back, 1, integer=True)) for back in asked})
    if found[-1] + ahead > shortest:
        raise ValueError(
            f"look_backs={asked!r}: {found[-1]} steps and {ahead} to forecast are more than the {shortest} of the "
            f"shortest training series; give at most {shortest - ahead}"
        )
    return found
