"""How far a fit moved what it trained: a group that hardly moves is a defect that no score shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt

import torch
from torch import Tensor

Groups = Mapping[str, Iterable[tuple[str, Tensor]]]
"""By group, the names and tensors in it."""


def snapshot(groups: Groups) -> dict[str, Tensor]:
    """Copies of all tensors on the CPU, by name."""
    return {name: tensor.detach().cpu().clone() for members in groups.values() for name, tensor in members}


def moved(groups: Groups, start: Mapping[str, Tensor]) -> dict[str, float]:
    """By group, norm(end - start) / max(norm(start), norm(end)), over all of the group's tensors together.

    0 where nothing moved, 1 for what grew from zero, 2 at most. `start` is an earlier `snapshot`; what it lacks is left
    out, and so are groups without tensors.
    """
    found = {}
    for group, members in groups.items():
        pairs = [(start[name], tensor) for name, tensor in members if name in start]
        if pairs:
            change = _norm(_double(end) - _double(begin) for begin, end in pairs)
            size = max(_norm(_double(begin) for begin, _ in pairs), _norm(_double(end) for _, end in pairs))
            found[group] = change / size if size else 0.0
    return found


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().to(torch.float64)


def _norm(tensors: Iterable[Tensor]) -> float:
    """Of all numbers together."""
    return sqrt(sum(float(tensor.square().sum()) for tensor in tensors))
