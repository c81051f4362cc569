from pathlib import Path

import pytest

from darts_msft.backbones import BUNDLED, PRETRAINED, describe, listing, load_class
from darts_msft.backbones.base import Backbone
from darts_msft.backbones.listing import list_backbones, markdown

ROOT = Path(__file__).parents[2]


def test_every_name_has_a_row_and_the_bundled_one_says_what_it_loads() -> None:
    table = list_backbones()
    assert {*BUNDLED, *PRETRAINED} <= set(table.index)
    _, architecture, config = describe("moirai-tiny")
    backbone = load_class(architecture).from_config(config, patch_size=16)
    row = table.loc["moirai-tiny"]
    assert (row["width"], row["layers"]) == (backbone.spec.width, backbone.spec.num_layers)
    assert row["patch sizes"] == ", ".join(map(str, backbone.traits.patch_sizes))
    assert row["at most"] == f"{backbone.traits.max_tokens} tokens"


@pytest.mark.parametrize(
    ("name", "forecast", "before", "covariates"),
    [
        ("moirai-1.1-R-small", "distribution", "yes", "past, future"),
        ("chronos-2", "quantiles", "yes", "past, future"),
        ("moment-1-small", "points", "no", "none"),
        ("moment-1-small-masked", "points", "yes", "none"),
    ],
)
def test_a_row_says_what_the_encoder_does(name: str, forecast: str, before: str, covariates: str) -> None:
    row = list_backbones().loc[name]
    assert (row["forecast"], row["before training"], row["covariates"]) == (forecast, before, covariates)


@pytest.mark.parametrize("page", ["README.md", "docs/backbones.md"])
def test_the_documented_table_is_this_one(page: str) -> None:
    assert markdown() in (ROOT / page).read_text()


def test_a_missing_package_leaves_its_rows_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_momentfm(architecture: str) -> type[Backbone]:
        if architecture == "moment":
            raise ModuleNotFoundError
        return load_class(architecture)

    monkeypatch.setattr(listing, "load_class", without_momentfm)
    table = list_backbones()
    assert table.loc["moment-1-small", "patch sizes"] == ""
    assert "momentfm" in table.loc["moment-1-small", "install besides"]
    assert table.loc["chronos-2", "patch sizes"] == "16"
