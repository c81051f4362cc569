"""Frozen settings with validation and a JSON round trip. Nothing here knows torch or Darts."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from numbers import Integral, Real
from typing import Any, TypeVar

AGGREGATORS = ("both", "c2f", "f2c", None)
ATTENTIONS = ("in_scale", "full", "one_sequence")
MIXINGS = ("mixture", "quantile", "samples", "first")
UPSAMPLINGS = ("repeat", "linear")
SAMPLE_DEPENDENCES = ("copula", "independent")
WEIGHT_LEARNINGS = ("scale_loss", "mixed_loss", "stacking", "uniform")
AUTO = "auto"
FIRST_SCALE_LOGIT = 10.0  # the authors' scripts start the finest scale's logit here (hourly ETT sets)


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises ValueError naming the value and the choices."""
    if not isinstance(value, Hashable) or value not in allowed:
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(repr, allowed))}")


def is_integer(value: object) -> bool:
    """Whether `value` is an integer, of Python or numpy; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_number(name: str, value: object, minimum: float, integer: bool = False) -> int | float:
    """`value` as a Python number; raises ValueError unless it is a finite number of at least `minimum`."""
    if is_integer(value) or (isinstance(value, Real) and not integer and not isinstance(value, bool)):
        number: int | float = int(value) if is_integer(value) else float(value)  # type: ignore[call-overload, arg-type]
        if minimum <= number < float("inf"):
            return number
    kind = "an integer" if integer else "a finite number"
    raise ValueError(f"{name}={value!r} is not allowed; give {kind} of at least {minimum:g}")


def check_flag(name: str, value: object) -> None:
    """Raises ValueError unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} is not allowed; give True or False")


ConfigT = TypeVar("ConfigT", bound="Config")


class Config:
    """Mixin: a frozen dataclass as a plain dictionary and back."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload]

    def changes(self) -> dict[str, Any]:
        """The fields that differ from their defaults."""
        found = fields(self)  # type: ignore[arg-type]
        return {field.name: value for field in found if (value := getattr(self, field.name)) != field.default}

    def _settle(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls: type[ConfigT], values: dict[str, Any]) -> ConfigT:
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        if unknown := set(values) - known:
            raise ValueError(f"{cls.__name__} has no field {sorted(unknown)}; known fields: {sorted(known)}")
        return cls(**values)


@dataclass(frozen=True)
class MethodConfig(Config):
    """What the methods add to the backbone.

    Of MSFT (arXiv 2506.14087, sections on activation and decoupled dependencies):

    `lora_rank` and `lora_alpha` of the per-scale LoRA on q, k, v; `aggregator` names the branches of the
    cross-scale aggregator, or None for none. For ablations, `shared_adapters` and `shared_lora` give all scales one
    set, `attention="full"` lets a token attend to the tokens of all scales, and "one_sequence" is that without an
    aggregator. A `lora_rank` of 0 is no LoRA, as after `merge()`; "msft" and "msft_full" can do without.

    The methods "lora" and "adalora" take `lora_rank` and `lora_alpha` too; `prompt_length` is of prompt tuning.
    """

    lora_rank: int = 16
    lora_alpha: float = 16.0
    aggregator: str | None = "both"
    shared_adapters: bool = False
    shared_lora: bool = False
    attention: str = "in_scale"
    prompt_length: int = 8

    def __post_init__(self) -> None:
        self._settle("lora_rank", check_number("lora_rank", self.lora_rank, 0, integer=True))
        self._settle("lora_alpha", check_number("lora_alpha", self.lora_alpha, 0))
        check_choice("aggregator", self.aggregator, AGGREGATORS)
        check_flag("shared_adapters", self.shared_adapters)
        check_flag("shared_lora", self.shared_lora)
        check_choice("attention", self.attention, ATTENTIONS)
        if self.attention == "one_sequence" and self.aggregator != "both":
            raise ValueError(
                f"aggregator={self.aggregator!r} is not allowed with attention='one_sequence', which has no "
                "aggregator; leave it out, or take attention='full'"
            )
        self._settle("prompt_length", check_number("prompt_length", self.prompt_length, 1, integer=True))

    @property
    def joined(self) -> bool:
        """Whether the attention sees the tokens of all scales as one sequence."""
        return self.attention != "in_scale"

    @property
    def branches(self) -> str | None:
        """The aggregator's branches in the end; None for no aggregator."""
        return None if self.attention == "one_sequence" else self.aggregator


@dataclass(frozen=True)
class MixingConfig(Config):
    """How the scales' forecasts become one.

    With `mixing="first"` that one is scale 0's: the weights are fixed, and `weight_learning` and `weight_init` unused.
    `weight_init` is "uniform", "first" (nearly all weight on scale 0) or the initial logits, one a scale.
    `linear_member` asks for a linear member in the mixture, which needs weights that are stacked.
    """

    mixing: str = "mixture"
    upsampling: str = "linear"
    weight_learning: str = "stacking"
    weight_init: str | tuple[float, ...] = "uniform"
    linear_member: bool = False

    def __post_init__(self) -> None:
        check_flag("linear_member", self.linear_member)
        check_choice("mixing", self.mixing, MIXINGS)
        check_choice("upsampling", self.upsampling, UPSAMPLINGS)
        check_choice("weight_learning", self.weight_learning, WEIGHT_LEARNINGS)
        if self.linear_member and (self.mixing, self.weight_learning) != ("mixture", "stacking"):
            raise ValueError(
                f"linear_member=True is not allowed with mixing={self.mixing!r} and weight_learning="
                f"{self.weight_learning!r}: its weight is stacked; take mixing='mixture' and weight_learning='stacking'"
            )
        if isinstance(self.weight_init, str):
            check_choice("weight_init", self.weight_init, ("uniform", "first"))
        elif not isinstance(self.weight_init, list | tuple):
            raise ValueError(f"weight_init={self.weight_init!r} is not known; give 'uniform', 'first' or K+1 logits")
        elif not all(isinstance(logit, Real) and isfinite(logit) for logit in self.weight_init):
            raise ValueError(
                f"weight_init={list(self.weight_init)!r} is not allowed; give 'uniform', 'first' or K+1 finite numbers"
            )
        else:
            self._settle("weight_init", tuple(float(logit) for logit in self.weight_init))

    @property
    def only_first(self) -> bool:
        """Whether scale 0 alone makes the forecast."""
        return self.mixing == "first"

    @property
    def learning(self) -> str:
        """What the weights learn from in the end: with scale 0 alone there is nothing to learn ("uniform")."""
        return "uniform" if self.only_first else self.weight_learning

    def initial_logits(self, num_scales: int) -> list[float]:
        """Logits of the K+1 scales' weights before the first step; `num_scales` is K."""
        if self.weight_init == "uniform":
            return [0.0] * (num_scales + 1)
        if self.weight_init == "first":
            return [FIRST_SCALE_LOGIT] + [0.0] * num_scales
        if len(self.weight_init) != num_scales + 1:
            raise ValueError(
                f"weight_init={list(self.weight_init)!r} has {len(self.weight_init)} logits but there are "
                f"{num_scales + 1} scales; give one logit a scale, 'uniform' or 'first'"
            )
        return [float(logit) for logit in self.weight_init]


@dataclass(frozen=True)
class LearningRates(Config):
    """Learning rates by parameter group.

    `pretrained`: pretrained weights that stay trainable (output projections, norms); `new`: adapters, aggregator and
    prompt; `head`: the forecasting head; `omega`: the logits of the scales' weights; `lora`: low-rank matrices (None:
    the rate of `new`, as in files of version 0.1).
    """

    pretrained: float
    new: float
    head: float
    omega: float
    lora: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            rate = getattr(self, field.name)
            if rate is not None or field.default is not None:
                self._settle(field.name, check_number(f"lr_{field.name}", rate, 0))

    def of(self, group: str) -> float:
        """The rate of a group, by its name here."""
        rate: float | None = getattr(self, group)
        return self.new if rate is None else rate

    def replaced(self, **given: float | None) -> LearningRates:
        """These rates but for those in `given` that are not None."""
        return replace(self, **{name: rate for name, rate in given.items() if rate is not None})

    def scaled_to(self, new: float) -> LearningRates:
        """The same ratios with another rate for `new` (what Darts' `lr_find` or `optimizer_kwargs` ask for)."""
        if self.new == 0:
            raise ValueError("lr_new=0.0 has no ratio to the other rates; set the rates one by one instead")
        ratio = new / self.new
        scaled = {group: self.of(group) * ratio for group in self.to_dict()}
        return LearningRates(**(scaled | {"new": new}))
