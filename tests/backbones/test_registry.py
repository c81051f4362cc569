"""Names, directories and repo ids of pretrained models: where they lead, and what bad ones are told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from contract_backbone import save_moirai
from contract_method import make_module
from model_fixtures import HORIZON, wave
from model_fixtures import make_model as make_tiny

from darts_msft import backbones
from darts_msft.backbones import (
    ARCHITECTURES,
    BUNDLED,
    PRETRAINED,
    Architecture,
    describe,
    find_architecture,
    find_source,
    licence_of,
    load_class,
    register,
)
from darts_msft.backbones.base import Backbone
from darts_msft.storage import weights
from darts_msft.storage.weights import CHECKPOINTS, Source, load_state

SMALL = "moirai-1.0-R-small"
SMALL_REPO = "Salesforce/moirai-1.0-R-small"
OWN = Architecture("pathlib:Path", ("own_width",))
Asked = list[tuple[str, str, str | None]]


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    weights.clear_cache()
    yield
    weights.clear_cache()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moirai")
    save_moirai(path)
    return path


def save_own(folder: Path) -> None:
    """A configuration of `OWN`."""
    (folder / "config.json").write_text('{"own_width": 16}')


@pytest.fixture
def hub(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """A hub that serves the tiny checkpoint whatever is asked; the list holds what was."""
    asked: Asked = []

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.append((repo_id, filename, revision))
        return str(directory / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


# ---------------------------------------------------------------------------------------------------- where names lead


def test_names_lead_to_pinned_repositories() -> None:
    for name, entry in PRETRAINED.items():
        assert find_source(name) == find_source(entry.repo) == Source("hub", entry.repo, entry.revision)
        assert licence_of(find_source(name)) == entry.licence
        if name.startswith("moirai"):
            assert (entry.repo, entry.licence) == (f"Salesforce/{name}", "CC BY-NC 4.0 (non-commercial)")
    pins = {entry.repo: entry.revision for entry in PRETRAINED.values() if entry.revision is not None}
    assert len(pins) == len(set(pins.values())) >= 3
    assert all(len(pin) == 40 and int(pin, 16) for pin in pins.values())
    assert len(PRETRAINED) >= 6
    assert find_source("someone/else") == Source("hub", "someone/else", None)
    assert licence_of(find_source("someone/else")) is None
    for name in (SMALL, SMALL_REPO, "someone/else"):
        assert find_source(name, revision="v2").revision == "v2"


def test_bundled_names_lead_into_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BUNDLED:
        assert find_source(name) == Source("bundled", str(CHECKPOINTS / name))
        assert licence_of(find_source(name)) is None
    monkeypatch.setattr(weights, "CHECKPOINTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="'moirai-tiny'"):
        find_source("moirai-tiny")


def test_directories(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_source(str(directory)) == Source("directory", str(directory))
    assert licence_of(find_source(str(directory))) is None
    monkeypatch.chdir(directory.parent)
    assert find_source(directory.name) == Source("directory", directory.name)
    monkeypatch.setenv("HOME", str(directory.parent))
    assert describe(f"~/{directory.name}")[1] == "moirai"


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("moirai-tin", "moirai-tiny"),
        ("MOIRAI-1.0-R-LARGE", "moirai-1.0-R-large"),
        *((wrong, None) for wrong in ("", "zzzz", "./nowhere", "/no/such/place", "~/nowhere", "a/b/c")),
    ],
)
def test_an_unknown_name_is_told_the_near_ones_and_the_choices(wrong: str, near: str | None) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        find_source(wrong)
    message = str(caught.value)
    assert f"backbone={wrong!r}" in message
    hint = message.partition("did you mean ")[2].partition("?")[0]
    assert (repr(near) in hint) if near else not hint
    assert all(name in message for name in (*BUNDLED, *PRETRAINED, "config.json", "model.safetensors"))


@pytest.mark.parametrize("name", ["moirai-tiny", "directory"])
def test_a_revision_of_local_weights_is_refused(directory: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^revision='v2'"):
        find_source(str(directory) if name == "directory" else name, revision="v2")


def test_a_config_of_no_known_architecture(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        describe(str(tmp_path))
    save_own(tmp_path)
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        describe(str(tmp_path))
    message = str(caught.value)
    assert all(name in message for name in (str(tmp_path), *ARCHITECTURES, "own_width", "model.safetensors"))
    fields = ARCHITECTURES["moirai"].config_fields
    config = dict.fromkeys(fields)
    assert find_architecture(config, "here") == "moirai"
    for field in fields:  # each one counts
        with pytest.raises(ValueError, match="'there'"):
            find_architecture({name: None for name in config if name != field}, "there")


# ------------------------------------------------------------------------------------------------------- architectures


def test_classes_are_loaded_by_name(directory: Path) -> None:
    assert all(issubclass(load_class(name), Backbone) for name in ARCHITECTURES)
    assert describe(str(directory))[1] == "moirai"


def test_an_encoder_of_one_s_own_is_registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_own(tmp_path)
    monkeypatch.setattr(backbones, "ARCHITECTURES", dict(ARCHITECTURES))
    for _ in range(2):  # again is no harm
        register("mine", OWN)
    assert describe(str(tmp_path))[1] == "mine"
    assert load_class("mine") is Path
    with pytest.raises(ValueError, match=r"^name='moirai'[^\n]*MoiraiBackbone[^\n]*$"):
        register("moirai", OWN)
    assert backbones.ARCHITECTURES["moirai"] == ARCHITECTURES["moirai"]


def test_an_architecture_that_nobody_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a saved model."""
    with pytest.raises(ValueError, match=r"^architecture='mine'[^\n]*register[^\n]*$"):
        load_class("mine")


def test_a_missing_package_is_told_with_its_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needy.py").write_text("import surely_not_installed")
    (tmp_path / "config.json").write_text('{"needy": 1}')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(backbones, "ARCHITECTURES", {})
    register("needy", Architecture("needy:Needy", ("needy",), install="pip install this"))
    register("lost", Architecture("no_such_module:Lost", ("lost",), install="pip install that"))
    assert describe(str(tmp_path))[1] == "needy"  # imports nothing
    with pytest.raises(ModuleNotFoundError, match=r"^[^\n]*'surely_not_installed'[^\n]*pip install this$"):
        load_class("needy")
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module'$"):
        load_class("lost")


# ------------------------------------------------------------------------------------------------------- from the hub


def test_one_checkpoint_can_be_run_in_several_ways(hub: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """By options of its name, beside config.json."""
    other = replace(PRETRAINED[SMALL], options={"attn_dropout_p": 0.5, "way": "other"})
    monkeypatch.setitem(PRETRAINED, "other-way", other)
    plain, changed = describe(SMALL)[2], describe("other-way")[2]
    assert changed == {**plain, "attn_dropout_p": 0.5, "way": "other"} != plain
    assert describe(SMALL)[2] == plain


def test_a_model_by_name_comes_from_the_hub_at_its_pin_or_revision(hub: Asked, directory: Path) -> None:
    module = make_module(Path(SMALL), "msft")
    pin = PRETRAINED[SMALL].revision
    assert set(hub) == {(SMALL_REPO, "config.json", pin), (SMALL_REPO, "model.safetensors", pin)}
    for name, tensor in load_state(Source("directory", str(directory))).items():
        assert torch.equal(module.backbone.get_parameter(f"module.{name}"), tensor)
    hub.clear()
    make_module(Path(SMALL), "msft", revision="v2")
    assert {revision for _, _, revision in hub} == {"v2"}


def test_weights_are_of_the_commit_that_the_model_was_made_from(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no commit is pinned, the newest one may have moved on between construction and the first forecast."""
    commits, asked = ["a" * 40, "b" * 40], []

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.append((filename, revision))
        folder = tmp_path / "snapshots" / (revision or commits[0])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / filename).write_bytes((directory / filename).read_bytes())
        return str(folder / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = make_tiny("moirai-1.1-R-small")
    commits.reverse()
    model.predict(HORIZON, wave())
    assert {revision for filename, revision in asked if filename == "model.safetensors"} == {"a" * 40}


def test_the_licence_of_known_hub_weights_is_logged_once(
    hub: Asked, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_module(directory, "msft")
    assert not [message for message in caplog.messages if "terms" in message]
    for _ in range(2):
        make_module(Path(SMALL), "msft")
    (notice,) = [record for record in caplog.records if "CC BY-NC 4.0" in record.getMessage()]
    assert notice.levelname == "WARNING"
    assert "https://huggingface.co/Salesforce/moirai-1.0-R-small" in notice.getMessage()
