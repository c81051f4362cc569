"""The optimiser over parameter groups, each with its own rate, and its schedule."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from darts_msft.training.range_test import keep_ratios


def make_optimisers(module: Any) -> Any:
    """What Lightning's `configure_optimizers` returns: Darts' optimiser and scheduler over the module's groups.

    An `lr` in Darts' `optimizer_kwargs` becomes the rate of the new modules; the other groups keep their ratio.
    Biases, norms and omega have no weight decay.
    """
    settings = dict(module.optimizer_kwargs)
    rates = module.rates.scaled_to(settings.pop("lr")) if "lr" in settings else module.rates
    groups = []
    for name, members in module.parameter_groups().items():
        matrices = [p for key, p in members if p.ndim > 1 and not key.endswith("omega")]
        vectors = [p for key, p in members if p.ndim <= 1 or key.endswith("omega")]
        rate = rates.of(name)
        if matrices:
            groups.append({"params": matrices, "lr": rate, "name": name})
        if vectors:
            groups.append({"params": vectors, "lr": rate, "name": f"{name}_plain", "weight_decay": 0.0})
    if _may_fuse(module, settings):
        settings["fused"] = True
    optimizer = module.optimizer_cls(groups, **settings)
    if module.tuning is not None:
        keep_ratios(optimizer, rates.new)
    if module.lr_scheduler_cls is None:
        return optimizer
    defaults = {"monitor": "val_loss", "interval": "epoch", "frequency": 1, "strict": True, "name": None}
    schedule = {key: module.lr_scheduler_kwargs.get(key, value) for key, value in defaults.items()}
    options = {key: value for key, value in module.lr_scheduler_kwargs.items() if key not in defaults}
    for key in ("max_lr", "base_lr"):  # of one-cycle and cyclic schedules: the groups keep their ratio there too
        if isinstance(options.get(key), int | float):
            options[key] = [options[key] * group["lr"] / rates.new for group in optimizer.param_groups]
    return [optimizer], {"scheduler": module.lr_scheduler_cls(optimizer, **options), **schedule}


def _may_fuse(module: Any, settings: Mapping[str, Any]) -> bool:
    """Whether one pass of the optimiser may serve all parameters, which on CPUs saves a loop over them.

    With mixed precision Lightning would then refuse to clip gradients.
    """
    mixed = module._trainer is not None and "mixed" in str(module._trainer.precision)
    chosen = {"fused", "foreach", "capturable", "differentiable"} & set(settings)
    return (
        module.device.type == "cpu"
        and not mixed
        and not chosen
        and "fused" in signature(module.optimizer_cls).parameters
    )
