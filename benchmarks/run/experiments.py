"""What is measured: one experiment a result, as a diff against defaults, with a key made of everything that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from benchmarks.models import Budget

# Raised by hand when measures, splits, recipes or defaults change so that figures before and after can't stand side by
# side: results of another protocol count as not there. Options and budgets don't need it (they are in the key), but
# other defaults of their fields do (those are not).
PROTOCOL = 1
LOCATION = "backbone"  # the option that says where weights are: not in the key, their hash tells them apart


@dataclass(frozen=True)
class Experiment:
    """One model with its options on one data set and horizon, with one seed and one budget."""

    family: str
    dataset: str  # a registered name or the path of a user's .toml
    horizon: int  # in steps
    model: str
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # what differs from the model's defaults, in JSON's types
    budget: Budget = field(default_factory=Budget)
    test_stride: int = 1  # steps between test windows; of "pf" always the horizon

    def __post_init__(self) -> None:
        if self.family == "pf":
            object.__setattr__(self, "test_stride", self.horizon)
        object.__setattr__(self, "options", json.loads(_canonical(dict(self.options))))  # lists for tuples

    @property
    def key(self) -> str:
        """sha256 of all that differs from its default, but places: tells results of the same data and weights apart."""
        return digest(self._without_places())

    @property
    def choice_key(self) -> str:
        """As `key` without seed and test stride: runs that share it share the settings chosen on validation data."""
        found = self._without_places()
        return digest({name: value for name, value in found.items() if name not in ("seed", "test_stride")})

    def _without_places(self) -> dict[str, Any]:
        """As `to_dict`, of a .toml's path the file's name alone, without `LOCATION` and what equals its default."""
        found = self.to_dict()
        if self.dataset.endswith(".toml"):
            found["dataset"] = Path(self.dataset).name
        found["options"] = {name: value for name, value in found["options"].items() if name != LOCATION}
        found["budget"] = _changes(found["budget"], Budget)
        return _changes(found, Experiment)

    def to_dict(self) -> dict[str, Any]:
        return json.loads(_canonical(asdict(self)))

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Experiment:
        """What `to_dict` gave, also after a way through JSON; a TypeError where it has unknown names."""
        return cls(**{**given, "budget": Budget(**given.get("budget", {}))})

    def __str__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        model = f"{self.model}({options})" if options else self.model
        return f"{self.family} {self.dataset}-{self.horizon} {model} seed {self.seed}"


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _changes(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Of a dataclass's fields, in JSON's types, those that differ from their defaults."""
    usual = {entry.name: {} if entry.default is MISSING else entry.default for entry in fields(cls)}
    usual = json.loads(_canonical(usual))  # where a field has a factory, {} is what is left of its default
    return {name: value for name, value in values.items() if value != usual[name]}


def digest(value: Any) -> str:
    """sha256 of a value as JSON, whatever the order of its names."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()
