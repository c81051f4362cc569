"""Never worse than zero-shot: the best state on the validation data, the one before the first step included."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Candidate:
    """A state that was scored: its label ("zero-shot", "epoch 3"), validation score (lower is better), and steps.

    `step` counts the fit's optimiser steps before it.
    """

    label: str
    score: float
    step: int


class BestState:
    """Keeps the tensors in `names` of the best-scored state, on the CPU."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.candidates: list[Candidate] = []
        self.best: Candidate | None = None
        self._tensors: dict[str, Tensor] = {}

    def consider(self, module: nn.Module, candidate: Candidate) -> None:
        """Copies the module's state if it scored better than all before; the earlier one stays on a tie."""
        self.candidates.append(candidate)
        if self.best is None or candidate.score < self.best.score:
            self.best = candidate
            state = module.state_dict()
            self._tensors = {name: state[name].detach().cpu().clone() for name in self.names}

    def restore(self, module: nn.Module) -> None:
        """Puts the best state back."""
        if self.best is None:
            raise ValueError("no state was scored yet; call consider() first")
        module.load_state_dict(self._tensors, strict=False)
        self._tensors = {}

    def to_dict(self) -> dict[str, Any]:
        """Candidates and the best state's tensors, as plain data for a checkpoint."""
        return {"candidates": [asdict(one) for one in self.candidates], "tensors": dict(self._tensors)}

    @classmethod
    def from_dict(cls, names: frozenset[str], saved: dict[str, Any]) -> BestState:
        """The selection that `to_dict` described."""
        state = cls(names)
        state.candidates = [Candidate(**one) for one in saved["candidates"]]
        state.best = min(state.candidates, key=lambda one: one.score, default=None)
        state._tensors = {name: tensor.cpu() for name, tensor in saved["tensors"].items()}
        return state
