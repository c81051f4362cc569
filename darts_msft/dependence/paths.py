"""The fitted dependence of a model, and sample paths that follow it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.dependence.context import by_lag, constant_form, of_context
from darts_msft.dependence.copula import Correlations, lag_means, nearest_correlation
from darts_msft.dependence.reorder import in_order_of, normal_draws, picked
from darts_msft.options import SAMPLE_DEPENDENCES, check_choice

MOST_STEPS = 1024  # for which a matrix is kept (4 MiB), and one made for each window; beyond, the constant form
DRAWS = 32  # among which a path that is fed back finds its value, at each step
_MOST_NUMBERS = 20_000_000  # held at once


class SamplePaths(nn.Module):
    """Puts samples of single steps in the order of correlated normal draws ("copula"), or leaves them ("independent").

    Correlations are in part the validation windows', in part what the window's own past says. The buffers hold the
    former, of steps and of components, and their share, and are what a file keeps; until a fit the share is 0. Random
    numbers are its own: those of the samples stay the same.

    Parameters
    ----------
    horizon, components
        H and V.
    how
        One of `SAMPLE_DEPENDENCES`.
    """

    steps: Tensor
    trust: Tensor
    components: Tensor

    def __init__(self, horizon: int, components: int, how: str = "copula") -> None:
        super().__init__()
        check_choice("sample_dependence", how, SAMPLE_DEPENDENCES)
        self.how = how
        for name, value in self.unfitted(horizon, components).items():
            self.register_buffer(name, value)

    @staticmethod
    def unfitted(horizon: int, components: int) -> dict[str, Tensor]:
        """The buffers where no fit has told others, as in files of version 0.1."""
        steps = torch.eye(horizon if horizon <= MOST_STEPS else 0)
        return {"steps": steps, "trust": torch.zeros(()), "components": torch.eye(components)}

    @property
    def active(self) -> bool:
        """Whether the order of samples is changed."""
        return self.how != "independent"

    @property
    def learns(self) -> bool:
        """Whether a fit is to estimate the correlations."""
        return self.active and len(self.steps) > 0

    @torch.no_grad()
    def take(self, found: Correlations) -> None:
        """Follows these correlations from now on."""
        for name, value in found._asdict().items():
            getattr(self, name).copy_(torch.as_tensor(value))

    def at_lags(self, lags: list[int]) -> dict[int, float]:
        """The validation windows' mean correlation of steps so far apart, where the horizon has such."""
        means = lag_means(_numbers(self.steps))
        return {lag: float(means[lag]) for lag in lags if 0 < lag < len(means)}

    @torch.no_grad()
    def order(self, samples: Float[Tensor, "M B H V"], past: Float[Tensor, "B C V"]) -> Float[Tensor, "M B H V"]:
        """Each step's samples, so that the m-th of all steps are a path."""
        if not self.active or len(samples) < 2:
            return samples
        generator = _generator(samples.device)
        size = max(1, _MOST_NUMBERS // max(samples[:, :1].numel(), samples.shape[2] ** 2, samples.shape[3] ** 2))
        parts = [
            in_order_of(part, self._scores(len(part), past_part, samples.shape[2], generator))
            for part, past_part in zip(samples.split(size, dim=1), past.split(size), strict=True)
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    @torch.no_grad()
    def one(
        self, draw: Callable[[int], Float[Tensor, "M B H V"]], past: Float[Tensor, "B C V"]
    ) -> Float[Tensor, "B H V"]:
        """One path of each window, from `draw(count)`, which gives independent samples."""
        if not self.active:
            return draw(1)[0]
        samples = draw(DRAWS)
        return picked(samples, self._scores(1, past, samples.shape[2], _generator(samples.device)))

    def _scores(
        self, count: int, past: Float[Tensor, "B C V"], horizon: int, generator: torch.Generator
    ) -> Float[Tensor, "B V H M"]:
        if len(self.steps):
            told = of_context(past, horizon)
            steps = self._joined(by_lag(told.steps), self.steps)
            components = self._joined(told.components, self.components)
        else:
            steps = by_lag(constant_form(horizon).to(past.device)).expand(len(past), -1, -1)
            components = torch.eye(past.shape[2], device=past.device).double().expand(len(past), -1, -1)
        steps, components = (torch.linalg.cholesky(part).float() for part in (steps, components))
        return normal_draws(count, steps, components, generator)

    def _joined(self, context: Float[Tensor, "B N N"], fitted: Float[Tensor, "N N"]) -> Float[Tensor, "B N N"]:
        rounded = fitted.dtype not in (torch.float32, torch.float64)
        own = torch.from_numpy(nearest_correlation(_numbers(fitted))).to(context) if rounded else fitted.to(context)
        return torch.lerp(context, own, self.trust.to(context))


def _numbers(buffer: Tensor) -> np.ndarray:
    numbers: np.ndarray = buffer.detach().cpu().double().numpy()
    return numbers


def _generator(device: torch.device) -> torch.Generator:
    """Seeded by what the present state draws next; that state stays."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed = int(torch.randint(2**62, (), device=device))
    generator = torch.Generator(device=device)
    generator.manual_seed(seed)
    return generator
