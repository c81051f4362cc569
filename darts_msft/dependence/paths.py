"""The fitted dependence of a model, and sample paths that follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.dependence.copula import MOST_STEPS, Correlations, by_lag, constant_form, lag_means, nearest_correlation
from darts_msft.dependence.reorder import in_order_of, normal_draws, picked
from darts_msft.options import SAMPLE_DEPENDENCES, check_choice

DRAWS = 64  # among which a path that is fed back finds its value, at each step
_MOST_NUMBERS = 20_000_000  # held at once


class SamplePaths(nn.Module):
    """Puts samples of single steps in the order of correlated normal draws ("copula"), or leaves them ("independent").

    Its buffers are the correlations, which a file keeps: until a fit has told others, constant ones of the steps, and
    none between components. Random numbers are its own: those of the samples stay the same.

    Parameters
    ----------
    horizon, components
        H and V.
    how
        One of `SAMPLE_DEPENDENCES`.
    """

    steps: Tensor
    components: Tensor

    def __init__(self, horizon: int, components: int, how: str = "copula") -> None:
        super().__init__()
        check_choice("sample_dependence", how, SAMPLE_DEPENDENCES)
        self.how = how
        for name, value in self.unfitted(horizon, components).items():
            self.register_buffer(name, value)
        self._factors: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def unfitted(horizon: int, components: int) -> dict[str, Tensor]:
        """The buffers where nothing tells others, as in files of version 0.1."""
        form = constant_form(horizon)
        steps = by_lag(form) if horizon <= MOST_STEPS else form
        return {"steps": torch.tensor(steps).float(), "components": torch.eye(components)}

    @property
    def active(self) -> bool:
        """Whether the order of samples is changed."""
        return self.how != "independent"

    @torch.no_grad()
    def take(self, found: Correlations) -> None:
        """Follows these correlations from now on."""
        self.steps.copy_(torch.from_numpy(found.steps))
        self.components.copy_(torch.from_numpy(found.components))
        self._factors = None

    def at_lags(self, lags: list[int]) -> dict[int, float]:
        """The mean correlation of steps so far apart, where the horizon has such."""
        means = lag_means(_numbers(self.steps))
        return {lag: float(means[lag]) for lag in lags if 0 < lag < len(means)}

    @torch.no_grad()
    def order(self, samples: Float[Tensor, "M B H V"]) -> Float[Tensor, "M B H V"]:
        """Each step's samples, so that the m-th of all steps are a path."""
        if not self.active or len(samples) < 2 or samples[0, 0].numel() == 1:
            return samples
        generator = _generator(samples.device)
        size = max(1, _MOST_NUMBERS // max(samples[:, 0].numel(), 1))
        parts = [in_order_of(part, self._scores(part, len(part), generator)) for part in samples.split(size, dim=1)]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def one(self, draw: Callable[[int], Float[Tensor, "M B H V"]]) -> Float[Tensor, "B H V"]:
        """One path of each window, from `draw(count)`, which gives independent samples."""
        if not self.active:
            return draw(1)[0]
        samples = draw(DRAWS)
        return picked(samples, self._scores(samples, 1, _generator(samples.device)))

    def _scores(
        self, samples: Float[Tensor, "M B H V"], count: int, generator: torch.Generator
    ) -> Float[Tensor, "B V H _"]:
        if self._factors is None:
            steps = _numbers(self.steps)
            steps = by_lag(steps) if steps.ndim == 1 else steps
            self._factors = (_factor(steps), _factor(_numbers(self.components)))
        steps, components = (factor.to(samples.device) for factor in self._factors)
        return normal_draws(count, samples.shape[1], steps, components, generator)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self._factors = None


def _numbers(buffer: Tensor) -> np.ndarray:
    numbers: np.ndarray = buffer.detach().cpu().double().numpy()
    return numbers


def _factor(correlation: Float[np.ndarray, "N N"]) -> Float[Tensor, "N N"]:
    """F with F F' = correlation; one that was rounded may need a little help."""
    return torch.from_numpy(np.linalg.cholesky(nearest_correlation(correlation))).float()


def _generator(device: torch.device) -> torch.Generator:
    """Seeded by what the present state draws next; that state stays."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed = int(torch.randint(2**62, (), device=device))
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    return generator
