"""Settings that a user left open, chosen before training by the pretrained model's score on validation windows."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from darts.models.forecasting.torch_forecasting_model import TorchDataModule
from darts.utils.data.torch_datasets.utils import (
    FEATURE_FIELDS,
    TorchTrainingBatch,
    TorchTrainingSample,
    _batch_collate_fn_train,
)

from darts_msft import arguments
from darts_msft.backbones import load_class
from darts_msft.building import build_module
from darts_msft.forms import Form
from darts_msft.groups import TooLong
from darts_msft.module import MSFTModule
from darts_msft.options import AUTO, MethodConfig, MixingConfig
from darts_msft.training.score import stack_weights
from darts_msft.training.units import Units, find_units
from darts_msft.training.validation_windows import located_loader
from darts_msft.training.windows import spread_over

logger = logging.getLogger("darts_msft")

WINDOWS, VALUES = 64, 32_768  # at most so many windows, with so many values to forecast; but LEAST_WINDOWS
LEAST_WINDOWS = 24
LEAST_GAIN = 0.002  # of the score, for which a default is left, or a scale is added
FINEST_CONTEXTS = (512, 1024)
SETTINGS = ("patch_size", "finest_context", "num_scales")


class Trial(NamedTuple):
    """Settings, and the pretrained model's score with them at K = 0, 1, ..., the scales stacked."""

    patch_size: int
    finest_context: int
    stacked: list[float]

    @property
    def score(self) -> float:
        """At the largest K."""
        return self.stacked[-1]

    @property
    def num_scales(self) -> int:
        """The smallest K that is nearly as good as the largest."""
        enough = self.score * (1 + LEAST_GAIN)
        return next(scales for scales, score in enumerate(self.stacked) if score <= enough)


class Batches(NamedTuple):
    """What judges the settings."""

    windows: list[TorchTrainingBatch]
    units: Units


def choose_settings(model: Any, train: Any, val: Any, judged: dict[Any, Any]) -> dict[str, Any]:
    """Arguments that are best for what the model left open, by the validation dataset `val`; none where all was given.

    First the patch size, at the default finest context, then the finest context, each only if it gains `LEAST_GAIN`;
    then the smallest K whose score is within that of the largest's; 0 only where scale 0 sees the whole input.
    `judged`, which is filled, keeps the windows and scores for other models of the same data, lengths and backbone.
    """
    free, settings = _open_settings(model), model._module_settings
    options = {
        "patch_size": load_class(settings["architecture"]).traits_of(settings["backbone_config"]).patch_sizes,
        "finest_context": tuple(steps for steps in FINEST_CONTEXTS if steps < model.input_chunk_length),
    }
    options = {name: values for name, values in options.items() if name in free and values}
    if not (options or "num_scales" in free) or not _has_labels(model, val):
        return {}
    if "batches" not in judged:
        judged["batches"] = _batches(model, train, val)
    found = _trial(model, judged, {})
    if found is None:
        return {}
    for name, values in options.items():
        for value in values:
            settled = {"patch_size": found.patch_size, "finest_context": found.finest_context, name: value}
            other = None if settled[name] == getattr(found, name) else _trial(model, judged, settled)
            if other is not None and other.score < (1 - LEAST_GAIN) * found.score:
                found = other
    chosen = {name: getattr(found, name) for name in options}
    if "num_scales" in free:
        # with K = 0 the pretrained model at one scale and the whole input would no longer be compared with
        least = 0 if found.finest_context >= model.input_chunk_length else 1
        chosen["num_scales"] = max(found.num_scales, least)
    return chosen


def _open_settings(model: Any) -> set[str]:
    """Those of patch size, finest context and K that the user left to us.

    None of a model that lacks these arguments: a subclass that settles them itself, or a file of version 0.1.
    """
    given = model.model_params
    if not {"mixing", "weight_init", *SETTINGS} <= given.keys():
        return set()
    found = {"patch_size"} if given["patch_size"] == AUTO else set()
    if given["mixing"] == "first" or given["num_scales"] in (0, AUTO):
        return found
    found |= {"finest_context"} if given["finest_context"] is None else set()
    return found | ({"num_scales"} if given["num_scales"] is None and isinstance(given["weight_init"], str) else set())


def _has_labels(model: Any, windows: Any) -> bool:
    """Whether there are windows, with what is to be forecast."""
    if windows is None or len(windows) == 0 or not isinstance(windows[0], TorchTrainingSample):
        return False
    labels = windows[0].future_target
    return labels is not None and len(labels) == model.output_chunk_length


def _batches(model: Any, train: Any, val: Any) -> Batches:
    """Validation windows, evenly, with the units of the score."""
    count = max(LEAST_WINDOWS, min(WINDOWS, VALUES // val[0].future_target.size))
    data = TorchDataModule(train, val, batch_size=model.batch_size, collate_fn=_batch_collate_fn_train)
    return Batches(list(located_loader(data, sampler=spread_over(val, count))), find_units(train, val))


def _trial(model: Any, judged: dict[Any, Any], changes: dict[str, int]) -> Trial | None:
    """With these arguments; None where the model can't have them, or has no finite score."""
    try:
        arguments.resolve({**model.model_params, **changes}, warns=False)
    except ValueError as error:
        logger.debug("settings %s are left out: %s", changes, error)
        return None
    given = {name: model.model_params[name] for name in ("backbone", "revision", *SETTINGS, *_LENGTHS)}
    given["multivariate"] = model.model_params.get("multivariate", AUTO)
    fixed = {"method": "zero_shot", "likelihood": "native", "enable_finetuning": False, "linear_member": False}
    options = {**MethodConfig().to_dict(), **MixingConfig().to_dict()}
    resolved = arguments.resolve({**options, **given, **fixed, **changes}, warns=False)
    settings, batches = resolved.settings, judged["batches"]
    key, scales = (settings["patch_size"], settings["finest_context"]), settings["num_scales"] + 1
    if len(judged.get(key, ())) < scales:
        try:
            module = _module(model, resolved, batches.windows[0])
        except TooLong as error:  # of too many variates
            logger.debug("settings %s are left out: %s", changes, error)
            return None
        judged[key] = _stacked(_form(module, batches))
    stacked = judged[key][:scales]
    return Trial(*key, stacked) if len(stacked) == scales else None


def _stacked(form: torch.Tensor) -> list[float]:
    """The least values of the form for 1, 2, ... scales; none where it is not finite."""
    if not bool(form.isfinite().all()):
        return []
    stacked = []
    for size in range(1, len(form) + 1):
        weights = stack_weights(form[:size, :size])
        stacked.append(float(weights @ form[:size, :size] @ weights))
    return stacked


_LENGTHS = ("input_chunk_length", "output_chunk_length", "output_chunk_shift")


def _module(model: Any, resolved: arguments.Resolved, batch: TorchTrainingBatch) -> MSFTModule:
    """The pretrained model with these settings, on the CPU."""
    parts = {name: getattr(batch, name) for name in FEATURE_FIELDS}
    sample = {name: tuple(part.shape[1:]) for name, part in parts.items() if part is not None}
    parameters = {**model.pl_module_params, "likelihood": resolved.likelihood, "train_sample_shape": sample}
    with torch.random.fork_rng(devices=[]):
        module = build_module(model, resolved.settings, parameters)
    module.to_dtype(batch.past_target.dtype)
    return module.eval()


@torch.no_grad()
def _form(module: MSFTModule, batches: Batches) -> torch.Tensor:
    """The score of these windows as a quadratic form in the scales' weights."""
    module.take(Form.STACKED)
    module.score_in(batches.units)
    add = module.validation_step if module.is_mixture else module.add_errors  # of points: squared errors
    for index, batch in enumerate(batches.windows):
        add(batch, index)
    return module.score.compute().form if module.is_mixture else module.error_products.compute().mean(dim=0)
