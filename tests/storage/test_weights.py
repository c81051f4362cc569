"""Reading checkpoints and what the errors say. No network: the hub is faked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
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
from torch import Tensor, nn

from darts_msft.storage import weights
from darts_msft.storage.weights import Source, bundled, load_config, load_state, load_strict, pinned, state_hash

REPO = "someone/some-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    weights.clear_cache()
    yield
    weights.clear_cache()


def error_of(call: Callable[[], Any], kind: type[Exception]) -> str:
    """Message of the error that ``call`` raises; it must be one line."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


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
        self.folder = folder
        self.error = error
        self.asked: list[tuple[str, str, str | None]] = []

    def __call__(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        self.asked.append((repo_id, filename, revision))
        if self.error is not None:
            raise self.error
        return str(self.folder / filename)


def http_error(kind: type[HfHubHTTPError]) -> HfHubHTTPError:
    """A hub error as the library raises it: several lines, made from a response."""
    response: Any = SimpleNamespace(headers={}, request=None)
    return kind("404 Client Error.\n\nSeveral\nlines", response=response)


# ---------------------------------------------------------------------------------------------- a real MOIRAI module


@pytest.fixture(scope="module")
def moirai() -> nn.Module:
    pytest.importorskip("uni2ts")
    from uni2ts.distribution import (
        LogNormalOutput,
        MixtureOutput,
        NegativeBinomialOutput,
        NormalFixedScaleOutput,
        StudentTOutput,
    )
    from uni2ts.model.moirai.module import MoiraiModule

    torch.manual_seed(0)
    components = [StudentTOutput(), NormalFixedScaleOutput(), NegativeBinomialOutput(), LogNormalOutput()]
    return MoiraiModule(
        distr_output=MixtureOutput(components),
        d_model=64,
        num_layers=1,
        patch_sizes=(8, 16),
        max_seq_len=32,
        attn_dropout_p=0.0,
        dropout_p=0.0,
    )


def test_directory_made_by_save_pretrained_reads_back_bit_equal(moirai: Any, tmp_path: Path) -> None:
    moirai.save_pretrained(tmp_path)
    source = Source("directory", str(tmp_path))

    config = load_config(source)
    assert (config["d_model"], config["num_layers"], config["patch_sizes"]) == (64, 1, [8, 16])

    state, expected = load_state(source), moirai.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)

    other = type(moirai).from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(7.0)
    load_strict(other, state, str(source))
    assert state_hash(other.state_dict()) == state_hash(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_file_gives_its_values_as_float32(moirai: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    stored = {name: tensor.to(dtype) for name, tensor in moirai.state_dict().items()}
    state = load_state(directory_with(tmp_path, state=stored))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert all(torch.equal(state[name], stored[name].float()) for name in stored)


# ------------------------------------------------------------------------------------------------- reading a directory


def test_integer_tensors_keep_their_type(tmp_path: Path) -> None:
    stored = {"index": torch.tensor([2**24 + 1]), "flag": torch.tensor([True]), "w": torch.ones(1, dtype=torch.float64)}
    state = load_state(directory_with(tmp_path, state=stored))
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        "index": torch.int64,
        "flag": torch.bool,
        "w": torch.float32,
    }
    assert state["index"].item() == 2**24 + 1


def test_state_does_not_alias_the_file(tmp_path: Path) -> None:
    source = directory_with(tmp_path, state={"w": torch.zeros(4)})
    first = load_state(source)
    with (tmp_path / "model.safetensors").open("r+b") as file:  # in place: the same file, other values
        file.seek(-4, 2)
        file.write(torch.ones(1).numpy().tobytes())
    assert torch.equal(load_state(source)["w"], torch.tensor([0.0, 0.0, 0.0, 1.0]))
    assert torch.equal(first["w"], torch.zeros(4))


def test_directory_config_is_read_anew_and_is_a_fresh_copy(tmp_path: Path) -> None:
    source = directory_with(tmp_path, '{"sizes": [8]}')
    load_config(source)["sizes"].append(16)
    assert load_config(source) == {"sizes": [8]}
    directory_with(tmp_path, '{"sizes": [32]}')
    assert load_config(source) == {"sizes": [32]}


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory_with(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config(Source("directory", "~/mine")) == {"width": 3}


@pytest.mark.parametrize("load", [load_config, load_state])
def test_missing_directory(load: Callable[[Source], Any], tmp_path: Path) -> None:
    folder = str(tmp_path / "nowhere")
    message = error_of(lambda: load(Source("directory", folder)), FileNotFoundError)
    for part in (
        repr(folder),
        "does not exist",
        "config.json",
        "model.safetensors",
        f"hf download REPO --local-dir {folder}",
    ):
        assert part in message


def test_a_file_is_not_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, file)
    message = error_of(lambda: load_state(Source("directory", str(file))), NotADirectoryError)
    assert repr(str(file)) in message
    assert "config.json and model.safetensors" in message


@pytest.mark.parametrize(("load", "absent"), [(load_config, "config.json"), (load_state, "model.safetensors")])
def test_missing_file(load: Callable[[Source], Any], absent: str, tmp_path: Path) -> None:
    source = directory_with(tmp_path, state={"w": torch.zeros(1)})
    (tmp_path / absent).unlink()
    message = error_of(lambda: load(source), FileNotFoundError)
    for part in (repr(str(tmp_path)), f"has no {absent}", "config.json and model.safetensors", "hf download REPO"):
        assert part in message
    assert "pickle" not in message


@pytest.mark.parametrize("load", [load_config, load_state])
def test_only_pickled_weights_are_refused(load: Callable[[Source], Any], tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    message = error_of(lambda: load(Source("directory", str(tmp_path))), FileNotFoundError)
    for part in ("pytorch_model.bin", "pickled weights", "never read", "safetensors", "save_pretrained", "hf download"):
        assert part in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b'{"width": ', "not valid JSON"), (b"\xff\xfe{}", "not valid JSON"), (b"[1, 2]", "holds a JSON list")],
)
def test_broken_config(content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    message = error_of(lambda: load_config(Source("directory", str(tmp_path))), ValueError)
    for part in (str(tmp_path / "config.json"), complaint, "hf download"):
        assert part in message


@pytest.mark.parametrize("damage", ["cut", "empty", "pointer"])
def test_broken_safetensors(damage: str, tmp_path: Path) -> None:
    source = directory_with(tmp_path, state={"w": torch.zeros(64)})
    file = tmp_path / "model.safetensors"
    content = {"cut": file.read_bytes()[:-8], "empty": b"", "pointer": b"version https://git-lfs.github.com/spec/v1\n"}
    file.write_bytes(content[damage])
    message = error_of(lambda: load_state(source), ValueError)
    for part in (str(file), "not a readable safetensors file", "Git LFS pointer", "hf download"):
        assert part in message


# ------------------------------------------------------------------------------------------------------ the bundled one


def test_bundled_finds_a_complete_directory_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHECKPOINTS", tmp_path / "checkpoints")
    assert bundled("tiny") is None
    (tmp_path / "checkpoints").mkdir()
    directory_with(tmp_path / "checkpoints" / "tiny")
    assert bundled("tiny") is None  # no weights yet
    directory_with(tmp_path / "checkpoints" / "tiny", state={"w": torch.ones(1)})
    source = bundled("tiny")
    assert source == Source("bundled", str(tmp_path / "checkpoints" / "tiny"))
    assert load_config(source) == {"width": 3}
    assert torch.equal(load_state(source)["w"], torch.ones(1))


@pytest.mark.parametrize("name", ["", ".", "..", "../outside", "tiny/", "someone/tiny"])
def test_bundled_stays_inside_its_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoints"
    monkeypatch.setattr(weights, "CHECKPOINTS", folder)
    folder.mkdir()
    for place in (tmp_path, folder, tmp_path / "outside", folder / "tiny"):
        directory_with(place, state={"w": torch.ones(1)})
    assert bundled("tiny") is not None
    assert bundled(name) is None


def test_bundled_checkpoints_lie_beside_the_package() -> None:
    assert Path(weights.__file__).resolve().parents[1] / "checkpoints" == weights.CHECKPOINTS


def test_broken_bundled_checkpoint_asks_for_a_new_installation(tmp_path: Path) -> None:
    message = error_of(lambda: load_config(Source("bundled", str(tmp_path / "gone"))), FileNotFoundError)
    assert "pip install --force-reinstall darts-msft" in message


# -------------------------------------------------------------------------------------------------------------- the hub


def test_hub_is_asked_for_repository_file_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory_with(tmp_path, '{"sizes": [8]}', {"w": torch.ones(2)})
    hub = FakeHub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    source = Source("hub", REPO, COMMIT)

    load_config(source)["sizes"].append(16)
    assert load_config(source) == {"sizes": [8]}  # a fresh copy, without asking again
    assert hub.asked == [(REPO, "config.json", COMMIT)]

    assert torch.equal(load_state(source)["w"], torch.ones(2))
    assert hub.asked[1:] == [(REPO, "model.safetensors", COMMIT)]

    load_config(Source("hub", REPO))
    assert hub.asked[2:] == [(REPO, "config.json", None)]  # another revision is another configuration


def test_a_failed_download_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory_with(tmp_path)
    hub = FakeHub(tmp_path, ConnectionError("no route"))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub)
    error_of(lambda: load_config(Source("hub", REPO)), OSError)
    hub.error = None
    assert load_config(Source("hub", REPO)) == {"width": 3}


@pytest.mark.parametrize("load", [load_config, load_state])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (http_error(RepositoryNotFoundError), "does not exist or is private"),
        (http_error(GatedRepoError), "access to the repository is restricted"),
        (http_error(RevisionNotFoundError), "the revision does not exist"),
        (http_error(RemoteEntryNotFoundError), "has no such file"),
        (HFValidationError("bad\nid"), "not a repository id"),
        (ConnectionError("no route"), "cannot be reached"),
        (RuntimeError("first\nsecond"), "RuntimeError: first"),
        (RuntimeError(), "RuntimeError: no message"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_hub_errors(
    load: Callable[[Source], Any], error: Exception, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(tmp_path, error))
    message = error_of(lambda: load(Source("hub", REPO, COMMIT)), OSError)
    filename = "config.json" if load is load_config else "model.safetensors"
    for part in (filename, repr(REPO), f"revision {COMMIT}", reason, "local directory"):
        assert part in message
    assert f"`hf download {REPO} --local-dir DIR --revision {COMMIT}`" in message


def test_an_unpinned_checkpoint_is_pinned_to_the_commit_of_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    directory_with(snapshot, "{}", {"w": torch.ones(2)})
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(snapshot))
    with caplog.at_level("INFO", logger="darts_msft"):
        assert pinned(Source("hub", REPO, "v1")) == Source("hub", REPO, "v1")
        assert not caplog.messages
        assert pinned(Source("hub", REPO)) == Source("hub", REPO, COMMIT)
    assert [f"revision={COMMIT!r}" in message for message in caplog.messages] == [True]


def test_hub_error_without_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(tmp_path, ConnectionError("no route")))
    message = error_of(lambda: load_config(Source("hub", REPO)), OSError)
    assert "the default branch" in message
    assert f"`hf download {REPO} --local-dir DIR`" in message


def test_the_library_itself_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    message = error_of(lambda: load_state(Source("hub", REPO, COMMIT)), OSError)
    for part in (repr(REPO), "HF_HUB_OFFLINE", "not cached", "local directory"):
        assert part in message


def test_broken_file_from_the_hub_names_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", FakeHub(tmp_path))
    message = error_of(lambda: load_config(Source("hub", REPO, COMMIT)), ValueError)
    for part in (REPO, COMMIT, "not valid JSON", f"hf download {REPO}"):
        assert part in message


# --------------------------------------------------------------------------------------------------------------- Source


def test_source_refuses_what_has_no_meaning() -> None:
    assert "'' is empty" in error_of(lambda: Source("directory", ""), ValueError)
    message = error_of(lambda: Source("directory", "here", "v1"), ValueError)
    assert "'v1'" in message
    assert "'hub'" in message


def test_source_refuses_an_unknown_kind() -> None:
    # the annotation check of the test run would answer first, so the rule is called by itself
    source = object.__new__(Source)
    vars(source).update(kind="s3", location="bucket", revision=None)
    message = error_of(source.__post_init__, ValueError)
    for part in ("'s3'", "'bundled'", "'directory'", "'hub'"):
        assert part in message


def test_source_reads_well_in_messages() -> None:
    assert str(Source("hub", REPO, "v1")) == f"hub checkpoint '{REPO}' at revision v1"
    assert str(Source("directory", "here")) == "directory checkpoint 'here'"
