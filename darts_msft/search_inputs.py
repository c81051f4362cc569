"""What `tune` is given: checks before anything is fitted, and the settings that each method has a use for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression
from darts.utils.ts_utils import series2seq

from darts_msft.methods import find_method, methods_with
from darts_msft.options import check_number

LOOK_BACKS = (512, 1024, 2048, 4096)
LEAST_SHARE = 4  # a training series is so many times as long as a look-back
UNTRAINED = "zero_shot"


class Data(NamedTuple):
    """Training series, what follows each, and what is known ahead of both."""

    train: list[TimeSeries]
    val: list[TimeSeries]
    known: list[TimeSeries] | None

    def scored(self, back: int) -> list[TimeSeries]:
        """The validation series behind what a look-back of so many steps needs."""
        return [one[-back:].append(val) for one, val in zip(self.train, self.val, strict=True)]

    def mark(self, made: dict[str, Any]) -> str:
        """Of the data and the arguments that all candidates share; of an object without a name, its class."""
        told = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(sorted(made.items(), key=lambda item: item[0])))
        digest = hashlib.sha256(told.encode())
        for one in [*chain.from_iterable(zip(self.train, self.val, strict=True)), *(self.known or [])]:
            digest.update(one.all_values(copy=False).tobytes())
            digest.update(str(one.start_time()).encode())
        return digest.hexdigest()


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


def data_of(series: Any, val_series: Any, future_covariates: Any) -> Data:
    """Raises ValueError for validation series that don't follow the training series, or covariates that end before."""
    train, val = list(series2seq(series)), list(series2seq(val_series))
    if len(train) != len(val):
        raise ValueError(f"there are {len(train)} training and {len(val)} validation series: give one for each")
    for number, (one, other) in enumerate(zip(train, val, strict=True)):
        if other.start_time() != one.end_time() + one.freq:
            raise ValueError(
                f"val_series {number} begins at {other.start_time()}: give what follows its training series, from "
                f"{one.end_time() + one.freq} on; the steps before that are added here"
            )
    if future_covariates is None:
        return Data(train, val, None)
    known = list(series2seq(future_covariates))
    if len(known) != len(train):
        raise ValueError(
            f"there are {len(train)} training series and {len(known)} future_covariates: give one for each"
        )
    for number, (one, first, last) in enumerate(zip(known, train, val, strict=True)):
        if one.start_time() > first.start_time() or one.end_time() < last.end_time():
            raise ValueError(
                f"future_covariates {number} are from {one.start_time()} to {one.end_time()}: give them from "
                f"{first.start_time()} to {last.end_time()}, the steps of its training and validation series"
            )
    return Data(train, val, known)


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
