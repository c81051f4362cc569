"""Adapters on disk, and merging them: what a fit trained, apart from the pretrained weights.

The functions take the `MSFTFoundationModel`, whose methods of the same names call them.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from darts.utils.likelihood_models.torch import TorchLikelihood
from torch import Tensor

from darts_msft.arguments import brings_head, resolve
from darts_msft.backbones import load_class
from darts_msft.backbones.base import Traits
from darts_msft.building import build_for, install
from darts_msft.likelihoods import ScaleMixture
from darts_msft.methods import find_method
from darts_msft.module import MSFTModule
from darts_msft.options import AUTO, MethodConfig, MixingConfig
from darts_msft.plans import longest_context
from darts_msft.states import completed
from darts_msft.storage.adapter_files import (
    check_identity,
    check_tensors,
    read_description,
    read_tensors,
    tensors_of,
    write_adapter,
)
from darts_msft.storage.weights import state_hash
from darts_msft.windows_of_batches import Widths

_CONFIGS = {"method_config": MethodConfig().to_dict(), "mixing_config": MixingConfig().to_dict()}
_CHOSEN = ("num_scales", "finest_context", "patch_size")  # what is chosen for a user who gives none
_FREE = (
    "learning_rates",
    "bounds_config",
    "sample_dependence",
    "trains_points",
)  # what may differ between models that share an adapter
# what of a model's identity is known once it has weights
_OF_A_MODULE = ("n_components", "covariates", "dtype", "frozen_sha256")


def save_adapter(model: Any, path: str | Path, overwrite: bool) -> None:
    module = _fitted_module(model, "save_adapter")
    if str(module.dtype) not in ("torch.float32", "torch.float64"):
        raise ValueError(f"adapters are float32 or float64, but this model is {module.dtype}: fit float32 series")
    origin = {"backbone": model.model_params["backbone"], "revision": model._revision}
    identity = {**_identity(model, model._module_settings), **_kind_of(module)}
    write_adapter(path, _adapter_of(module), identity, origin, overwrite)


def load_adapter(model: Any, path: str | Path) -> None:
    saved = _completed(read_description(path), model._module_settings)
    settings, likelihood, module = model._module_settings, model.pl_module_params["likelihood"], model.model
    taken: dict[str, Any] = {}
    if model._fresh:
        # the file says what an unfitted model leaves open; the pretrained weights are read only if all else fits
        own = _identity(model, settings)
        check_identity(path, saved, own | {name: saved.get(name) for name in (*_OF_A_MODULE, *_left_open(model))})
        taken = {name: saved[name] for name in _left_open(model) if model._search_scales or saved[name] != own[name]}
        if taken:
            settings, likelihood, _ = resolve({**model.model_params, **taken})
        parameters = {**model.pl_module_params, "likelihood": likelihood}
        widths = Widths(saved["n_components"], *saved["covariates"])
        module = build_for(model, settings, parameters, widths, saved["dtype"])
    check_identity(path, saved, {**_identity(model, settings), **_kind_of(module)})
    tensors = completed(read_tensors(path, saved), module)
    check_tensors(path, tensors, _adapter_of(module), of_any_size="linear.")
    module.load_state_dict(tensors, strict=False)
    model._model_params.update(taken)
    model._module_settings, model.pl_module_params["likelihood"] = settings, likelihood
    model._fit_report, model._search_scales = None, False
    install(model, module)


def merge(model: Any) -> None:
    module = _fitted_module(model, "merge")
    folded = module.method.merge(module.backbone)
    changes = module.method.after_merge
    defaults = _defaults_of_the_useless(changes["method"]) if "method" in changes else {}
    # a model of an older version had other defaults
    own = {name: value for name, value in _identity(model, model._module_settings).items() if name in _CHOSEN}
    arguments = {**copy.deepcopy(model.model_params), **own, **defaults, **changes}
    if isinstance(model.enable_finetuning, dict):  # patterns of names that are no more
        arguments["enable_finetuning"] = True
    settings = resolve(arguments).settings
    merged = MSFTModule(**copy.deepcopy(settings), **model.pl_module_params)
    merged.to_dtype(module.dtype)
    kept = merged.state_dict().keys()
    rest = {k: v for k, v in module.state_dict().items() if k in kept and not k.startswith("backbone.")}
    merged.load_state_dict({**rest, **{f"backbone.{name}": value for name, value in folded.items()}}, strict=True)
    model._module_settings, model._model_params = settings, arguments
    model.enable_finetuning = arguments["enable_finetuning"]
    install(model, merged.to(module.device))


def check_saved(model: Any, saved: Any) -> None:
    """Refuses weights of a saved model whose scales are others, or that alone has a linear member.

    What the user of this model left open becomes as it is there, for good.
    """
    taken = {name: saved._module_settings.get(name, saved.input_chunk_length) for name in _left_open(model)}
    mine = {**model._module_settings, **taken}
    for name in reversed(_CHOSEN):  # in version 0.1 scale 0 saw the whole input
        own, theirs = (
            settings.get(name, one.input_chunk_length)
            for settings, one in ((mine, model), (saved._module_settings, saved))
        )
        if own != theirs:
            raise ValueError(f"{name} is {own} here but {theirs} in the saved model; create the model with {theirs}")
    own, theirs = (one._module_settings.get("multivariate", "independent") for one in (model, saved))
    if own != theirs:
        raise ValueError(f"multivariate is {own!r} here but {theirs!r} in the saved model; create the model with that")
    own, theirs = (one._module_settings["mixing_config"].get("linear_member", False) for one in (model, saved))
    if theirs and not own:
        raise ValueError("the saved model has a linear member; create the model with linear_member=True")
    if taken:
        settle(model, taken)
    _check_horizon(model, saved)


def _check_horizon(model: Any, saved: Any) -> None:
    """Another horizon than the saved model's: refused where the new head is of its length."""
    here, there = ((one.output_chunk_length, one.output_chunk_shift) for one in (model, saved))
    model._other_horizon = here != there
    own, theirs = (_has_new_head(one) for one in (model, saved))
    if own != theirs:
        mine, other = (one.model_params.get("loss_fn") for one in (model, saved))
        raise ValueError(
            f"loss_fn={mine!r} here but {other!r} in the saved model, and with one of them there is a new head; create "
            f"the model with loss_fn={other!r}"
        )
    if model._other_horizon and own and not _traits(model._module_settings).layout.horizon:
        raise ValueError(
            f"output_chunk_length and output_chunk_shift are {here} here but {there} in the saved model, whose new "
            "head is of that length; create the model with these"
        )


def _has_new_head(model: Any) -> bool:
    settings = model._module_settings
    return brings_head(model.model_params["likelihood"], _traits(settings), settings.get("trains_points", False))


def _traits(settings: dict[str, Any]) -> Traits:
    return load_class(settings["architecture"]).traits_of(settings["backbone_config"])


def settle(model: Any, chosen: dict[str, Any]) -> None:
    """Takes these for arguments that were left open, for good."""
    model._module_settings, likelihood, _ = resolve({**model.model_params, **chosen}, warns=False)
    model.pl_module_params = {**model.pl_module_params, "likelihood": likelihood}
    model._model_params = type(model._model_params)({**model._model_params, **chosen})


def _fitted_module(model: Any, what: str) -> MSFTModule:
    """The module of a model that was finetuned; `what` needs it."""
    if model._fresh or not isinstance(model.model, MSFTModule):
        raise ValueError(f"{what}() needs a model that was finetuned: call fit(), load() or load_adapter() first")
    return model.model


def _identity(model: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that another model must share to forecast the same with the same adapter."""
    options = _options_of(settings["method"])
    own = {part: {name: value for name, value in settings[part].items() if name in options} for part in _CONFIGS}
    length = model.model_params["input_chunk_length"]
    return {
        **{name: value for name, value in settings.items() if name not in _FREE},
        **own,
        "finest_context": settings.get("finest_context", longest_context(length)),  # version 0.1 had none
        "multivariate": settings.get("multivariate", "independent"),
        "trains_points": settings.get("trains_points", False),
        "input_chunk_length": length if isinstance(length, int) else list(length),
        "output_chunk_length": model.model_params["output_chunk_length"],
        "output_chunk_shift": model.output_chunk_shift,
        "likelihood": "points" if _has_new_points(settings) else _likelihood_name(model.pl_module_params["likelihood"]),
    }


def _has_new_points(settings: dict[str, Any]) -> bool:
    """Whether a `loss_fn` trains a new head of points, in the place of the encoder's own."""
    return settings.get("trains_points", False) and not _traits(settings).family.has_points


def _left_open(model: Any) -> list[str]:
    """Which of `_CHOSEN` the user of an unfitted model did not give."""
    return [name for name in _CHOSEN if model.model_params.get(name) in (None, AUTO)]


def _options_of(method: str) -> set[str]:
    """The options that are part of a model's identity: how the scales' weights were learned is not."""
    return set(find_method(method).options) - {"weight_learning", "weight_init"}


def _completed(saved: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """An adapter's description, with what an older version's lacks.

    Its method had no use for these options: any value goes with it, such as that in the model's own `settings`. Scale
    0 saw the whole context.
    """
    filled = {"multivariate": "independent", "covariates": [0, 0], "trains_points": False, **saved}
    if isinstance(config := saved.get("backbone_config"), dict):
        known = {name: value for name, value in settings["backbone_config"].items() if name == "pretrained_alone"}
        filled["backbone_config"] = {**known, **config}
    if "input_chunk_length" in saved:
        filled.setdefault("finest_context", longest_context(saved["input_chunk_length"]))
    for part in _CONFIGS:
        if saved.get("method") == settings["method"] and isinstance(saved.get(part), dict):
            options = _options_of(settings["method"]) & settings[part].keys()
            filled[part] = {**{name: settings[part][name] for name in options}, **saved[part]}
    return filled


def _defaults_of_the_useless(method: str) -> dict[str, Any]:
    """The defaults of the arguments that a method has no use for."""
    found = find_method(method)
    useful = {*found.options, *(f"lr_{group}" for group in found.groups)}
    options = {name: value for part in _CONFIGS.values() for name, value in part.items()}
    every = options | dict.fromkeys(("lr_new", "lr_omega", "lr_lora"))
    return {name: value for name, value in every.items() if name not in useful}


def _kind_of(module: MSFTModule) -> dict[str, Any]:
    dtype = str(module.dtype).removeprefix("torch.")
    covariates = [module.widths.past, module.widths.future]
    return dict(zip(_OF_A_MODULE, (module.n_targets, covariates, dtype, state_hash(_frozen(module))), strict=True))


def _adapter_of(module: MSFTModule) -> dict[str, Tensor]:
    """What an adapter holds: all that the pretrained weights lack. Random weights are nowhere else: they all are in."""
    return tensors_of(module, module.own_names() if module.method.pretrained else frozenset(module.state_dict()))


def _frozen(module: MSFTModule) -> dict[str, Tensor]:
    """The weights that an adapter lacks and that its forecast rests on, under the bare backbone's names."""
    if not module.method.pretrained:
        return {}
    with module.bare_backbone() as backbone:
        trained = module.learned_of_backbone(backbone)
        unused = module.method.spec.unused
        state = backbone.state_dict().items()
        return {name: v for name, v in state if name not in trained and not module.method.matches(name, unused)}


def _likelihood_name(likelihood: TorchLikelihood | None) -> str:
    """Without what the other settings say."""
    if isinstance(likelihood, ScaleMixture):
        return "native" if likelihood.base is None else repr(likelihood.base)
    return repr(likelihood)
