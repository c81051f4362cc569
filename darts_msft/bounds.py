"""The least and the greatest value that a forecast may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.options import AUTO, Config


@dataclass(frozen=True)
class BoundsConfig(Config):
    """The bounds that a user asks for, in the series' units; None: no bound.

    With `lower="auto"` it is 0 where the series have never been below.
    """

    lower: float | str | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        least = 0.0 if isinstance(self.lower, str) and self.lower == AUTO else self._number("lower", f"{AUTO!r} or ")
        greatest = self._number("upper")
        if least is not None and greatest is not None and least >= greatest:
            raise ValueError(
                f"lower={self.lower!r} is not allowed with upper={self.upper!r}; give a lower bound below the upper one"
            )

    def _number(self, name: str, others: str = "") -> float | None:
        value = getattr(self, name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
            raise ValueError(f"{name}={value!r} is not allowed; give a finite number, {others}None")
        self._settle(name, float(value))
        return float(value)


class Bounds(nn.Module):
    """Clips forecasts, in the series' units, component by component.

    Its buffers are what a model's file keeps. A bound that was asked for as a number stays that number; else it is what
    a fit has found, or what comes with a file. Where none of these says it, `lower` is infinity: then, with "auto", the
    window that is forecast does, and otherwise there is no bound.

    Parameters
    ----------
    components
        V.
    asked
        What the user asks for.
    """

    lower: Tensor
    upper: Tensor

    def __init__(self, components: int, asked: BoundsConfig) -> None:
        super().__init__()
        self.asked = asked
        for name, value in self.unknown(components).items():
            self.register_buffer(name, value)
        self._keep_given()

    @staticmethod
    def unknown(components: int) -> dict[str, Float[Tensor, "V"]]:
        """The buffers where nothing says a bound, as in files of version 0.1."""
        return {name: torch.full((components,), torch.inf) for name in ("lower", "upper")}

    @property
    def learns(self) -> bool:
        """Whether a fit is to find bounds."""
        return self.asked.lower == AUTO

    @torch.no_grad()
    def learn(self, lowest: Float[Tensor, "V"]) -> None:
        """Sets the bounds by the lowest values that a fit has seen; NaN where it has seen none."""
        self.lower.copy_(torch.where(lowest >= 0, 0, -torch.inf).where(~torch.isnan(lowest), torch.inf))

    def forward(self, values: Float[Tensor, "*M B H V"], past: Float[Tensor, "B C V"]) -> Float[Tensor, "*M B H V"]:
        """Forecasts of the windows `past`, clipped."""
        lower = torch.where(self.lower < torch.inf, self.lower, self._of_windows(past).to(self.lower))
        return values.clamp(lower[:, None].to(values), self.upper.to(values))

    def clip_quantiles(self, values: Float[Tensor, "B H VQ"], past: Float[Tensor, "B C V"]) -> Float[Tensor, "B H VQ"]:
        """As Darts lays them out: all of a component's, then the next one's."""
        quantiles = rearrange(values, "b h (v q) -> q b h v", v=past.shape[-1])
        return rearrange(self(quantiles, past), "q b h v -> b h (v q)")

    def _of_windows(self, past: Float[Tensor, "B C V"]) -> Float[Tensor, "B V"]:
        """0 where "auto" is asked for and a window has values, none of them below 0."""
        missing = torch.isnan(past)
        never_below = ((past >= 0) | missing).all(dim=1) & ~missing.all(dim=1)
        return torch.where(never_below & self.learns, 0.0, -torch.inf)

    @torch.no_grad()
    def _keep_given(self) -> None:
        for name, value in self.asked.to_dict().items():
            if isinstance(value, float):
                getattr(self, name).fill_(value)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._keep_given()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bounds:
        super()._apply(fn, recurse)
        self._keep_given()  # not rounded twice: from Python's number to single and then to double precision
        return self
