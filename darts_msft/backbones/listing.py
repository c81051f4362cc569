"""The pretrained models known by name, as a table: `python -m darts_msft.backbones.listing` prints it for the docs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pandas as pd

from darts_msft.backbones import ARCHITECTURES, BUNDLED, PRETRAINED, describe, load_class
from darts_msft.backbones.base import Traits

TOLD = ("patch sizes", "at most", "forecast", "before training", "variates", "covariates")  # by its traits


def list_backbones() -> pd.DataFrame:
    """What `backbone=` takes by name, a row each.

    Columns: the width of a token and the encoder's layers; patch sizes in steps; the most that a scale takes; the form
    of the forecast; whether there is one before training; how the variates of a series are treated, the default first;
    covariates that are used; the licence of the weights; and what to install besides. Architectures whose checkpoints
    are not on the hub in a readable form have a row for directories. Where an architecture's package is missing, what
    it would tell is empty: its row says what to install.
    """
    rows = {name: _bundled(name) for name in BUNDLED}
    for name, known in PRETRAINED.items():
        config = {**ARCHITECTURES[known.architecture].published, **known.options}
        rows[name] = {"width": known.width, "layers": known.layers, **_told(known.architecture, config, known.licence)}
    named = {known.architecture for known in PRETRAINED.values()}
    for architecture, found in ARCHITECTURES.items():
        if architecture not in named and found.published:
            rows[f"a directory ({architecture})"] = _told(architecture, found.published, found.licence)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("backbone")
    return table.astype({"width": "Int64", "layers": "Int64"})


def _bundled(name: str) -> dict[str, Any]:
    _, architecture, config = describe(name)
    return {"width": config["d_model"], "layers": config["num_layers"], **_told(architecture, config, "Apache-2.0")}


def _told(architecture: str, config: Mapping[str, Any], licence: str) -> dict[str, Any]:
    known = {"licence": licence, "install besides": ARCHITECTURES[architecture].install}
    try:
        traits = load_class(architecture).traits_of(config)
    except ModuleNotFoundError:
        return dict.fromkeys(TOLD, "") | known
    kinds = {"past": traits.past_covariates, "future": traits.future_covariates}
    return {
        "patch sizes": ", ".join(map(str, traits.patch_sizes)),
        "at most": _limits(traits),
        "forecast": _form(traits),
        "before training": "yes" if traits.pretrained_head else "no",
        "variates": ", ".join(traits.multivariate),
        "covariates": ", ".join(kind for kind, used in kinds.items() if used) or "none",
        **known,
    }


def _form(traits: Traits) -> str:
    if traits.family.deterministic:
        return "points"
    return "quantiles" if traits.family.levels else "distribution"


def _limits(traits: Traits) -> str:
    limits = (
        (traits.max_tokens, "{:,} tokens"),
        (traits.max_context, "{:,} steps"),
        (traits.max_horizon, "horizon {:,}"),
    )
    return ", ".join(text.format(limit) for limit, text in limits if limit is not None)


def markdown() -> str:
    """`list_backbones` in Markdown; models that differ in size alone share a row."""
    table = list_backbones().reset_index()
    table["backbone"] = [f"`{name}`" if name in {*BUNDLED, *PRETRAINED} else name for name in table["backbone"]]
    sizes = ["backbone", "width", "layers"]
    alike = table.groupby([column for column in table if column not in sizes], sort=False)
    rows = [
        (", ".join(of["backbone"]), *(", ".join(map(str, of[size].dropna().unique())) for size in sizes[1:]), *told)
        for told, of in alike
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(markdown() + "\n")
