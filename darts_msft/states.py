"""States of modules as they are loaded: those of older versions, and of other horizons."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch

from darts_msft.bounds import Bounds
from darts_msft.dependence.paths import SamplePaths
from darts_msft.forms import in_forms
from darts_msft.linear.member import LinearMember

logger = logging.getLogger("darts_msft")

OF_HORIZON = ("linear.", "scale_weights.linear", "paths.")  # learned of the horizon's steps one by one


def completed(state: Mapping[str, Any], module: Any) -> dict[str, Any]:
    """A whole state, with what an older version's lacks: form, bounds, paths, and that it has no linear member.

    What a model of another horizon learned of its steps is left out.
    """
    if module.takes_other_horizon:
        if state.get("linear.weight", torch.empty(0)).numel():
            logger.warning("the linear member of these weights is of another horizon: it is left out until a fit")
        state = {name: value for name, value in state.items() if not name.startswith(OF_HORIZON)}
    kind = module.scale_weights.omega.detach()
    absent = {f"bounds.{name}": value for name, value in Bounds.unknown(module.n_targets).items()}
    unfitted = SamplePaths.unfitted(module.output_chunk_length, module.n_targets)
    absent |= {f"paths.{name}": value for name, value in unfitted.items()}
    if not (module.linear is None or "linear.weight" in state):
        absent |= {f"linear.{name}": value for name, value in LinearMember().state_dict().items()}
        absent["scale_weights.linear"] = torch.zeros(module.n_targets)
    elif module.linear is not None:
        absent["linear.effects"] = torch.zeros(0, 0)  # of covariates, which it didn't see
    return {name: value.to(kind) for name, value in absent.items()} | in_forms(state)
