"""How the learning rates change over a fit."""

from __future__ import annotations

WARM_UP = 0.1  # share of the steps in which the rates rise


class WarmUpAndDecay:
    """Factor of the rates at a step: it rises linearly over the first tenth of `steps` and falls linearly to 0.

    Each epoch then ends nearer to the best state that it could have; at constant rates epochs differ by chance.
    """

    def __init__(self, steps: int) -> None:
        self.steps, self.warm_up = steps, max(1, round(WARM_UP * steps))

    def __call__(self, step: int) -> float:
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        return max(0.0, (self.steps - step) / max(1, self.steps - self.warm_up))
