"""What Darts' ensembles ask of their members before they take them.

Darts asks a member whether it was fitted, and tells it nothing; that it is an ensemble that asks is known only from
a private variable of Darts. Its versions are bounded in pyproject.toml, and a test is red where they keep it otherwise.
"""

from __future__ import annotations

from typing import Any

from darts.models.forecasting.forecasting_model import _MODEL_CALL_STACK_VAR


def trained_by_new_ensemble(model: Any) -> bool | None:
    """Whether the Darts ensemble that is just being made of `model` and others trains them; None: none is being made.

    An ensemble takes fitted members only if it does not train them, and unfitted ones only if it does. Darts keeps the
    arguments of the models that are being made, by context.
    """
    stack = _MODEL_CALL_STACK_VAR.get()
    arguments = stack[-1] if stack else {}
    members = arguments.get("forecasting_models")
    if not isinstance(members, list) or not any(one is model for one in members):
        return None
    return bool(arguments.get("train_forecasting_models"))
