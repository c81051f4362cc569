"""How a module forecasts, as its state holds it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import torch

from darts_msft.scales.pyramid import ScalePlan


class Form(IntEnum):
    """How a module forecasts: as pretrained in one of three ways, or as trained."""

    ONE_SCALE = 0
    """Scale 0 alone, with the whole input or as much of it as the checkpoint takes: what the pretrained model is."""
    BACKCASTS = 1
    """All scales, weighted for each window by backcasts of its own end."""
    STACKED = 2
    """All scales, with the weights that were solved for on validation data."""
    TRAINED = 3
    WITH_LINEAR = 4
    """All scales and the linear member, with the weights that were solved for on validation data."""


def first_form(plan: ScalePlan, can_weigh_scales: bool) -> Form:
    """How a pretrained model forecasts before any fit.

    Coarser scales that see no more than scale 0 may do harm: without data to weigh them by, they are left out.
    """
    return Form.BACKCASTS if can_weigh_scales and plan.looks_further_back else Form.ONE_SCALE


def in_forms(state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's state; that of version 0.1 said only whether the module was trained, and had another head's name."""
    state = {name.replace("step_head.", "new_heads.linear."): value for name, value in state.items()}
    if "trained" in state:
        state["form"] = torch.tensor(Form.TRAINED if bool(state.pop("trained")) else Form.ONE_SCALE)
    return state
