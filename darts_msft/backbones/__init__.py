"""Pretrained models by name, and the classes that run them, imported when asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from darts_msft.backbones.base import Backbone
from darts_msft.storage.weights import Source, bundled, load_config, pinned

MOIRAI_LICENCE = "CC BY-NC 4.0 (non-commercial)"
APACHE = "Apache-2.0"


@dataclass(frozen=True)
class Architecture:
    """A kind of backbone, of which there can be many checkpoints.

    Attributes
    ----------
    location
        Its class, as "module:Class"; the module is imported when a checkpoint is asked for.
    config_fields
        The fields of config.json that tell its checkpoints from others.
    source, citation
        Where the code that runs is from, and the paper.
    install
        The command that installs the packages that it needs besides those of darts-msft.
    licence
        Of published weights that are not on the hub.
    published
        What the config.json files of its published checkpoints have in common, as far as `Traits` depend on it.
    """

    location: str
    config_fields: tuple[str, ...]
    source: str = ""
    citation: str = ""
    install: str = ""
    licence: str = ""
    published: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint on the Hugging Face hub.

    Attributes
    ----------
    repo, revision
        `revision` is a commit; None takes the newest (no pin known).
    licence
        Of the weights.
    architecture, width, layers
        Its `Architecture`, the width of a token and the number of the encoder's layers.
    options
        Fields that are added to config.json, where one checkpoint can be run in several ways.
    """

    repo: str
    revision: str | None
    licence: str
    architecture: str
    width: int
    layers: int
    options: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES = {
    "moirai": Architecture(
        "darts_msft.backbones.moirai:MoiraiBackbone",
        ("distr_output", "d_model", "num_layers", "patch_sizes"),
        source="uni2ts 0.1.3 (timecopilot-uni2ts), Apache-2.0",
        citation="Woo et al. 2024, arXiv 2402.02592",
        published={
            "distr_output": {
                "_target_": "uni2ts.distribution.MixtureOutput",
                "components": [
                    {"_target_": f"uni2ts.distribution.{name}Output"}
                    for name in ("StudentT", "NormalFixedScale", "NegativeBinomial", "LogNormal")
                ],
            },
            "patch_sizes": (8, 16, 32, 64, 128),
            "max_seq_len": 512,
        },
    ),
    "chronos2": Architecture(
        "darts_msft.backbones.chronos2:Chronos2Backbone",
        ("chronos_config", "d_kv", "rope_theta"),
        source="Darts 0.48.1, after amazon-science/chronos-forecasting, Apache-2.0",
        citation="Ansari et al. 2025, arXiv 2510.15821",
        published={
            "chronos_config": {
                "input_patch_size": 16,
                "input_patch_stride": 16,
                "output_patch_size": 16,
                "quantiles": (0.01, *(round(0.05 * i, 2) for i in range(1, 20)), 0.99),
                "context_length": 8192,
                "max_output_patches": 64,
            }
        },
    ),
    "patchtst_fm": Architecture(
        "darts_msft.backbones.patchtst_fm:PatchTSTFMBackbone",
        ("d_patch", "n_layer", "quantile_levels"),
        source="Darts 0.48.1, after ibm-granite/granite-tsfm, Apache-2.0",
        citation="Wen et al. 2026, arXiv 2602.06909",
        published={
            "d_patch": 16,
            "quantile_levels": tuple(round(0.01 * i, 2) for i in range(1, 100)),
            "context_length": 8192,
        },
    ),
    "moment": Architecture(
        "darts_msft.backbones.moment:MomentBackbone",
        ("t5_config", "patch_len", "seq_len"),
        source="momentfm 0.1.4, MIT",
        citation="Goswami et al. 2024, arXiv 2402.03885",
        install='pip install "darts-msft[moment]", then pip install --no-deps momentfm==0.1.4',
        published={"patch_len": 8, "seq_len": 512},
    ),
    "units": Architecture(
        "darts_msft.backbones.units:UnitsBackbone",
        ("prompt_num", "patch_len", "e_layers", "d_model", "n_heads"),
        source="written anew after github.com/mims-harvard/UniTS (MIT)",
        citation="Gao et al. 2024, arXiv 2403.00131",
        licence="MIT",
        published={"prompt_num": 10, "patch_len": 16},
    ),
}

BUNDLED = ("moirai-tiny",)

PRETRAINED = {
    **{
        f"moirai-{version}-R-{size}": Pretrained(
            f"Salesforce/moirai-{version}-R-{size}", revision, MOIRAI_LICENCE, "moirai", width, layers
        )
        for version, size, width, layers, revision in (
            ("1.0", "small", 384, 6, "f5bd5d01f0d67de856107d43abdd637380aae0a3"),
            ("1.0", "base", 768, 12, "4fa939a8800d9da346c0280f3d9aeba0d2d35877"),
            ("1.0", "large", 1024, 24, "b6b84e3fbeb9e6927d4271d625441fb51ab6bbd8"),
            ("1.1", "small", 384, 6, None),
            ("1.1", "base", 768, 12, None),
            ("1.1", "large", 1024, 24, None),
        )
    },
    "chronos-2": Pretrained(
        "amazon/chronos-2", "29ec3766d36d6f73f0696f85560a422f50e8498c", APACHE, "chronos2", 768, 12
    ),
    "chronos-2-synth": Pretrained(
        "autogluon/chronos-2-synth", "3607918a9fd027d5c465d8213e46b98e2c041cea", APACHE, "chronos2", 768, 12
    ),
    "chronos-2-small": Pretrained(
        "autogluon/chronos-2-small", "ddec01313e50b6bc58ebaa92ede81bc24a3d9f9a", APACHE, "chronos2", 512, 6
    ),
    "patchtst-fm-r1": Pretrained(
        "ibm-granite/granite-timeseries-patchtst-fm-r1",
        "151f9c6d576281b95c2ff784d0863bd3f12c80f1",
        APACHE,
        "patchtst_fm",
        1024,
        20,
    ),
    "patchtst-fm-r1-research": Pretrained(
        "ibm-research/patchtst-fm-r1",
        None,
        "CC BY-NC-SA 4.0 (non-commercial, share alike)",
        "patchtst_fm",
        1024,
        20,
    ),
    **{
        f"moment-1-{size}{ending}": Pretrained(
            f"AutonLab/MOMENT-1-{size}", revision, "MIT", "moment", width, layers, options
        )
        for ending, options in (("", {}), ("-masked", {"masked_horizon": True}))
        for size, width, layers, revision in (
            ("small", 512, 8, "411e288267f82cce86296dbe4d6c8bc533cc162f"),
            ("base", 768, 12, "5e44b0ea26376a176360f87831124e018f876d96"),
            ("large", 1024, 24, "ca58581bc7bea2ebed4e80dc0a3e4b8b609c6ecc"),
        )
    },
}


def register(name: str, architecture: Architecture) -> None:
    """Makes an encoder of your own known: directories and repositories with its `config_fields` are then run by it.

    A saved model holds the name: register before `MSFTFoundationModel.load`. Doing it again with the same architecture
    changes nothing; ValueError for a name that another one has.
    """
    if ARCHITECTURES.setdefault(name, architecture) != architecture:
        raise ValueError(
            f"name={name!r} is that of another architecture ({ARCHITECTURES[name].location}); give one that is not "
            f"among {', '.join(map(repr, ARCHITECTURES))}"
        )


def find_source(backbone: str, revision: str | None = None) -> Source:
    """Where the weights of `backbone` are: a registry name, a directory, or a Hugging Face repo id.

    `revision` overrides the pinned one of a hub checkpoint.
    """
    if not isinstance(backbone, str):
        raise ValueError(f"backbone={backbone!r} is not a string; give {_choices()}")
    if revision is not None and (backbone in BUNDLED or Path(backbone).is_dir()):
        raise ValueError(f"revision={revision!r} is for hub checkpoints; backbone={backbone!r} is local: leave it out")
    if backbone in BUNDLED:
        source = bundled(backbone)
        if source is None:
            raise FileNotFoundError(f"backbone={backbone!r} is not in this installation; reinstall darts-msft")
        return source
    if backbone in PRETRAINED:
        pretrained = PRETRAINED[backbone]
        return Source("hub", pretrained.repo, revision or pretrained.revision)
    if backbone and Path(backbone).expanduser().is_dir():
        return Source("directory", backbone)
    if backbone.count("/") == 1 and not backbone.startswith((".", "/", "~")):
        pins = {pretrained.repo: pretrained.revision for pretrained in PRETRAINED.values()}
        return Source("hub", backbone, revision or pins.get(backbone))
    names = {name.lower(): name for name in (*BUNDLED, *PRETRAINED)}
    near = [names[name] for name in difflib.get_close_matches(backbone.lower(), list(names), n=3, cutoff=0.4)]
    hint = f"did you mean {' or '.join(map(repr, near))}? Otherwise give" if near else "give"
    raise ValueError(f"backbone={backbone!r} is neither a known name nor a directory; {hint} {_choices()}")


def licence_of(source: Source) -> str | None:
    """The licence of known hub weights; None for the bundled ones and for weights that are the user's affair."""
    return next((entry.licence for entry in PRETRAINED.values() if entry.repo == source.location), None)


def find_architecture(config: Mapping[str, Any], origin: str) -> str:
    """The name of the architecture that a checkpoint's config.json describes."""
    for name, architecture in ARCHITECTURES.items():
        if set(architecture.config_fields) <= set(config):
            return name
    raise ValueError(
        f"config.json of {origin!r} describes no architecture that darts-msft knows ({', '.join(ARCHITECTURES)}): "
        f"it has the fields {sorted(config)[:12]}; give a checkpoint of one of these with config.json and "
        "model.safetensors, or register() yours"
    )


def load_class(architecture: str) -> type[Backbone]:
    """The backbone class of an architecture; a missing optional package is an error with the install line."""
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture={architecture!r} is not known; register() it as it was when the model was made, or take one "
            f"of {', '.join(map(repr, ARCHITECTURES))}"
        )
    known = ARCHITECTURES[architecture]
    module, _, attribute = known.location.partition(":")
    try:
        found: type[Backbone] = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if not known.install or error.name == module:
            raise
        raise ModuleNotFoundError(
            f"the architecture {architecture!r} needs the package {error.name!r}; install it with: {known.install}",
            name=error.name,
        ) from error
    return found


def describe(backbone: str, revision: str | None = None) -> tuple[Source, str, dict[str, Any]]:
    """Source (a hub checkpoint at a commit), architecture and configuration of `backbone`."""
    source = pinned(find_source(backbone, revision))
    config = load_config(source)
    if backbone in PRETRAINED:
        config |= PRETRAINED[backbone].options
    return source, find_architecture(config, source.location), config


def _choices() -> str:
    return (
        f"one of {', '.join([*BUNDLED, *PRETRAINED])}, a directory with config.json and model.safetensors, or a repo id"
    )
