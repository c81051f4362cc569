"""What is measured: one experiment a result, as a diff against defaults, with a key made of everything that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FAMILIES = ("lsf", "pf")


def _check_whole(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} is not allowed; give an integer of at least {least}")


def _only_known(what: str, given: Mapping[str, Any], cls: type) -> dict[str, Any]:
    known = [entry.name for entry in fields(cls)]
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{what} has no {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    return dict(given)


@dataclass(frozen=True)
class Budget:
    """What a fit may spend, the same for every model of a table.

    epochs: passes over the training windows; patience: epochs without a better validation score before the fit stops;
    batch_size: windows a step; train_windows: at most so many training windows an epoch, evenly spaced (None: all);
    validation_windows: the same for choosing settings and for the best epoch.
    """

    epochs: int = 10
    patience: int = 3
    batch_size: int = 32
    train_windows: int | None = None
    validation_windows: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "batch_size"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("train_windows", "validation_windows"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)

    def stride(self, windows: int, limit: int | None) -> int:
        """Steps between windows so that of `windows` at stride 1 at most `limit` are left (None: all, stride 1)."""
        return 1 if limit is None else max(1, -(-windows // limit))


@dataclass(frozen=True)
class Experiment:
    """One model with its options on one data set and horizon, with one seed and one budget.

    family: "lsf" or "pf"; dataset: a registered name or the path of a user's .toml; horizon: steps forecast at once;
    model: a name of `benchmarks.models.MODELS`; options: what differs from the model's defaults, in JSON's types;
    test_stride: steps between test windows. Windows of "pf" never overlap: there it is always the horizon, and the
    default of 1 stands for it.
    """

    family: str
    dataset: str
    horizon: int
    model: str
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    test_stride: int = 1

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family={self.family!r} is not known; choose one of {', '.join(FAMILIES)}")
        for name in ("dataset", "model"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise ValueError(f"{name}={getattr(self, name)!r} is not allowed; give a name")
        _check_whole("horizon", self.horizon, 1)
        _check_whole("seed", self.seed, 0)
        _check_whole("test_stride", self.test_stride, 1)
        if self.family == "pf":
            if self.test_stride not in (1, self.horizon):
                raise ValueError(
                    f"test_stride={self.test_stride} is not allowed in the family 'pf', whose windows follow one "
                    f"another without overlap; leave it out, or give the horizon, {self.horizon}"
                )
            object.__setattr__(self, "test_stride", self.horizon)
        try:  # as they come back from a file: lists for tuples, strings for keys
            object.__setattr__(self, "options", json.loads(_canonical(dict(self.options))))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"options={self.options!r} can't be written as JSON ({error}); give finite numbers, strings, booleans, "
                "None, lists and dictionaries of them"
            ) from error

    @property
    def key(self) -> str:
        """sha256 of everything above: what tells one result from another."""
        return _sha256(self.to_dict())

    @property
    def choice_key(self) -> str:
        """As `key` without seed and test stride: runs that share it share the settings chosen on validation data."""
        return _sha256({name: value for name, value in self.to_dict().items() if name not in ("seed", "test_stride")})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Experiment:
        """What `to_dict` gave, also after a way through JSON; unknown names are a ValueError."""
        values = _only_known("an experiment", given, cls)
        if "budget" in values:
            values["budget"] = Budget(**_only_known("a budget", values["budget"], Budget))
        return cls(**values)

    def __str__(self) -> str:
        """For people: `lsf ETTh1-96 msft(aggregator=c2f) seed 0`."""
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        model = f"{self.model}({options})" if options else self.model
        return f"{self.family} {self.dataset}-{self.horizon} {model} seed {self.seed}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()
