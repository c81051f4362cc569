"""Reading checkpoints from directories, the package and the hub (a fake one), and what bad ones are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from contract_backbone import random_moirai
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import save_file
from torch import Tensor

from darts_msft.storage import weights
from darts_msft.storage.weights import Source, bundled, load_config, load_state, load_strict, pinned, state_hash

REPO = "someone/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Load = Callable[[Source], Any]


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    weights.clear_cache()
    yield
    weights.clear_cache()


def assert_refused(call: Callable[[], Any], kind: type[Exception], *parts: str) -> None:
    """By an error of one line that names all of `parts`."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == []


def directory_with(folder: Path, config: str | None = '{"width": 3}', state: dict[str, Tensor] | None = None) -> Source:
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(config, encoding="utf-8")
    if state is not None:
        save_file(state, folder / "model.safetensors")
    return Source("directory", str(folder))


class FakeHub:
    """Stands for ``hf_hub_download``: serves files of one folder, notes what was asked, or raises."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder, self.error = folder, error
        self.asked: list[tuple[str, str, str | None]] = []

    def __call__(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        self.asked.append((repo_id, filename, revision))
        if self.error is not None:
            raise self.error
        return str(self.folder / filename)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    return hub


def http_error(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    """A hub error as the library raises it: several lines, made from a response."""
    response: Any = SimpleNamespace(headers={}, request=None)
    return kind("404 Client Error.\n\nSeveral\nlines", response=response)


# ------------------------------------------------------------------------------------------------- reading a directory


def test_directory_made_by_save_pretrained_reads_back_bit_equal(tmp_path: Path) -> None:
    moirai = random_moirai()
    moirai.save_pretrained(tmp_path)
    source = Source("directory", str(tmp_path))
    config, state, expected = load_config(source), load_state(source), moirai.state_dict()
    assert (config["d_model"], config["num_layers"], config["patch_sizes"]) == (64, 2, [4, 8])
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    other = type(moirai).from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    load_strict(other, state, str(source))
    assert state_hash(other.state_dict()) == state_hash(expected)


def test_floating_point_becomes_float32_and_the_rest_keeps_its_type(tmp_path: Path) -> None:
    number = torch.tensor([1 / 3])
    floats = {str(dtype): number.to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
    others = {"index": torch.tensor([2**24 + 1]), "flag": torch.tensor([True])}
    state = load_state(directory_with(tmp_path, state=floats | others))
    assert state.keys() == floats.keys() | others.keys()
    for name, tensor in state.items():
        assert tensor.dtype == (torch.float32 if name in floats else others[name].dtype)
        assert torch.equal(tensor, floats[name].float() if name in floats else others[name])


def test_state_does_not_alias_the_file(tmp_path: Path) -> None:
    source = directory_with(tmp_path, state={"w": torch.zeros(4)})
    first = load_state(source)
    with (tmp_path / "model.safetensors").open("r+b") as file:  # in place: the same file, other values
        file.seek(-4, 2)
        file.write(torch.ones(1).numpy().tobytes())
    assert torch.equal(load_state(source)["w"], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert torch.equal(first["w"], torch.zeros(4))


def test_directory_config_is_read_anew_and_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    source = Source("directory", "~/mine")
    directory_with(tmp_path / "mine", '{"sizes": [8]}')
    load_config(source)["sizes"].append(16)
    assert load_config(source) == {"sizes": [8]}
    directory_with(tmp_path / "mine", '{"sizes": [32]}')
    assert load_config(source) == {"sizes": [32]}


@pytest.mark.parametrize("load", [load_config, load_state])
def test_a_missing_directory_or_a_file_in_its_place(load: Load, tmp_path: Path) -> None:
    folder, file = str(tmp_path / "nowhere"), tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, file)
    need = ("config.json", "model.safetensors")
    assert_refused(
        lambda: load(Source("directory", folder)), FileNotFoundError, repr(folder), *need, f"--local-dir {folder}"
    )
    assert_refused(lambda: load(Source("directory", str(file))), NotADirectoryError, repr(str(file)), *need)
    assert_refused(lambda: load(Source("bundled", folder)), FileNotFoundError, "pip install --force-reinstall")


@pytest.mark.parametrize(("load", "absent"), [(load_config, "config.json"), (load_state, "model.safetensors")])
def test_missing_file(load: Load, absent: str, tmp_path: Path) -> None:
    """Pickled weights are never read, and matter only where there are no others."""
    source = directory_with(tmp_path, state={"w": torch.zeros(1)})
    (tmp_path / absent).unlink()
    assert_refused(lambda: load(source), FileNotFoundError, repr(str(tmp_path)), f"no {absent}", "hf download")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(FileNotFoundError) as caught:
        load(source)
    assert ("pytorch_model.bin" in str(caught.value)) == (absent == "model.safetensors")
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    (tmp_path / absent).unlink(missing_ok=True)
    assert_refused(lambda: load(source), FileNotFoundError, "pytorch_model.bin", "safetensors", "hf download")


@pytest.mark.parametrize(
    ("content", "complaint"), [(b'{"width": ', "JSON"), (b"\xff\xfe{}", "JSON"), (b"[1, 2]", "list")]
)
def test_broken_config(content: bytes, complaint: str, tmp_path: Path, hub: FakeHub) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    for source in (Source("directory", str(tmp_path)), Source("hub", REPO, COMMIT)):
        wanted = (str(file), complaint, "hf download", source.location)
        assert_refused(lambda source=source: load_config(source), ValueError, *wanted)


@pytest.mark.parametrize("damage", ["cut", "empty", "pointer"])
def test_broken_safetensors(damage: str, tmp_path: Path) -> None:
    source = directory_with(tmp_path, state={"w": torch.zeros(64)})
    file = tmp_path / "model.safetensors"
    content = {"cut": file.read_bytes()[:-8], "empty": b"", "pointer": b"version https://git-lfs.github.com/spec/v1\n"}
    file.write_bytes(content[damage])
    assert_refused(lambda: load_state(source), ValueError, str(file), "safetensors", "hf download")


# ------------------------------------------------------------------------------------------------------ the bundled one


def test_bundled_finds_complete_directories_inside_its_folder_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Path(weights.__file__).resolve().parents[1] / "checkpoints" == weights.CHECKPOINTS
    folder = tmp_path / "checkpoints"
    monkeypatch.setattr(weights, "CHECKPOINTS", folder)
    assert bundled("tiny") is None
    folder.mkdir()
    directory_with(folder / "tiny")
    assert bundled("tiny") is None  # no weights yet
    for place in (tmp_path, folder, tmp_path / "outside", folder / "tiny"):
        directory_with(place, state={"w": torch.ones(1)})
    source = bundled("tiny")
    assert source == Source("bundled", str(folder / "tiny"))
    assert load_config(source) == {"width": 3}
    assert torch.equal(load_state(source)["w"], torch.ones(1))
    for name in ("", ".", "..", "../outside", "tiny/", "someone/tiny"):
        assert bundled(name) is None, name


# -------------------------------------------------------------------------------------------------------------- the hub


def test_hub_is_asked_for_repository_file_and_revision(tmp_path: Path, hub: FakeHub) -> None:
    directory_with(tmp_path, '{"sizes": [8]}', {"w": torch.ones(2)})
    source = Source("hub", REPO, COMMIT)
    hub.error = ConnectionError("no route")
    with pytest.raises(OSError, match="reached"):
        load_config(source)
    hub.error = None  # a failed download is tried again
    load_config(source)["sizes"].append(16)
    assert load_config(source) == {"sizes": [8]}  # a fresh copy, without asking again
    assert hub.asked == [(REPO, "config.json", COMMIT)] * 2
    assert torch.equal(load_state(source)["w"], torch.ones(2))
    assert hub.asked[2:] == [(REPO, "model.safetensors", COMMIT)]
    load_config(Source("hub", REPO))
    assert hub.asked[3:] == [(REPO, "config.json", None)]  # another revision is another configuration


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (http_error(RepositoryNotFoundError), "private"),
        (http_error(GatedRepoError), "hf auth login"),
        (http_error(RevisionNotFoundError), "revision does not exist"),
        (http_error(RemoteEntryNotFoundError), "no such file"),
        (HFValidationError("bad\nid"), "owner/name"),
        (ConnectionError("no route"), "reached"),
        (RuntimeError("first\nsecond"), "RuntimeError: first"),
        (RuntimeError(), "no message"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_hub_errors(error: Exception, reason: str, hub: FakeHub) -> None:
    hub.error = error
    command = f"`hf download {REPO} --local-dir DIR"
    source, wanted = Source("hub", REPO, COMMIT), (repr(REPO), reason, COMMIT, f"{command} --revision {COMMIT}`")
    assert_refused(lambda: load_config(source), OSError, "config.json", *wanted)
    assert_refused(lambda: load_state(source), OSError, "model.safetensors", *wanted)
    assert_refused(lambda: load_state(Source("hub", REPO)), OSError, "default branch", f"{command}`")


def test_the_library_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert_refused(lambda: load_state(Source("hub", REPO, COMMIT)), OSError, repr(REPO), "HF_HUB_OFFLINE")


def test_an_unpinned_checkpoint_is_pinned_to_the_commit_of_its_configuration(
    tmp_path: Path, hub: FakeHub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.folder = tmp_path / "snapshots" / COMMIT
    hub.folder.mkdir(parents=True)
    directory_with(hub.folder, "{}", {"w": torch.ones(2)})
    with caplog.at_level("INFO", logger="darts_msft"):
        assert pinned(Source("hub", REPO, "v1")) == Source("hub", REPO, "v1")
        assert not caplog.messages
        assert pinned(Source("hub", REPO)) == Source("hub", REPO, COMMIT)
    assert [f"revision={COMMIT!r}" in message for message in caplog.messages] == [True]
    hub.folder = tmp_path  # no cache of the hub's, whose folders have a commit's name
    directory_with(tmp_path)
    assert pinned(Source("hub", REPO)) == Source("hub", REPO)


# --------------------------------------------------------------------------------------------------------------- Source


def test_source_refuses_what_has_no_meaning() -> None:
    assert_refused(lambda: Source("directory", ""), ValueError, "''")
    assert_refused(lambda: Source("directory", "here", "v1"), ValueError, "'v1'", "'hub'")
    # the annotation check of the test run would answer first, so the rule is called by itself
    source = object.__new__(Source)
    vars(source).update(kind="s3", location="bucket", revision=None)
    assert_refused(source.__post_init__, ValueError, "'s3'", "'bundled'", "'directory'", "'hub'")
