"""A full disk, a read-only folder and kill -9 while something is written: what was there before still loads."""

from __future__ import annotations

import os
import pickle
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from child_process import run_in_child
from darts import TimeSeries
from model_fixtures import HORIZON, make_model, wave
from pytorch_lightning import Trainer

from darts_msft import MSFTFoundationModel
from darts_msft.storage import adapter_files, whole


@pytest.fixture(scope="module")
def first(tiny_moirai: str) -> MSFTFoundationModel:
    return make_model(tiny_moirai).fit(wave())


@pytest.fixture
def folder(first: MSFTFoundationModel, tmp_path: Path) -> Path:
    first.save(str(tmp_path / "model.pt"))
    first.save_adapter(tmp_path / "adapter")
    return tmp_path


def files_in(folder: Path, hidden: bool = True) -> dict[str, bytes]:
    """All files, or those that don't lie in a hidden folder, in which a process that is killed leaves its own."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if hidden or not name.startswith(".")}


def forecast_of_a_file(path: Path, series: TimeSeries) -> TimeSeries:
    return MSFTFoundationModel.load(str(path)).predict(HORIZON, series)


def retrained(folder: Path) -> MSFTFoundationModel:
    """Another model than the one saved there."""
    model = MSFTFoundationModel.load(str(folder / "model.pt")).fit(wave(seed=5))
    assert model.predict(HORIZON, wave(60)) != forecast_of_a_file(folder / "model.pt", wave(60))
    return model


def save(model: MSFTFoundationModel, folder: Path) -> None:
    model.save(str(folder / "model.pt"))


def save_adapter(model: MSFTFoundationModel, folder: Path) -> None:
    model.save_adapter(folder / "adapter", overwrite=True)


# ------------------------------------------------------------------------------------------- errors of the system


def on_a_full_disk(folder: Path) -> None:
    model = retrained(folder)
    for size in (100, 50_000):  # the latter is enough for all but the weights
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        for write, name in ((save, "model.pt"), (save_adapter, "adapter")):
            with pytest.raises(OSError, match=rf"{name}' was not written.*File too large"):
                write(model, folder)


def in_a_read_only_folder(folder: Path) -> None:
    model = retrained(folder)
    folder.chmod(0o555)
    if os.geteuid() == 0:  # may write everywhere
        os.seteuid(65534)
    for write in (save, save_adapter):
        with pytest.raises(PermissionError):
            write(model, folder)


@pytest.mark.parametrize("how", [on_a_full_disk, in_a_read_only_folder])
def test_what_can_not_be_written_leaves_what_was_there(how: Callable[[Path], None], folder: Path) -> None:
    before = files_in(folder)
    assert run_in_child(how, folder) == 0
    folder.chmod(0o755)
    assert files_in(folder) == before


def fit_on_a_full_disk(checkpoint: str, folder: Path) -> None:
    trainer = {"enable_checkpointing": True}
    model, series = make_model(checkpoint, trainer, save_checkpoints=True, work_dir=str(folder)), wave(60)
    expected = model.predict(HORIZON, series)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    with pytest.raises(OSError, match="File too large"):
        model.fit(wave())
    assert model.predict(HORIZON, series) == expected


def test_a_fit_that_can_not_write_its_checkpoints_leaves_the_model(tiny_moirai: str, tmp_path: Path) -> None:
    assert run_in_child(fit_on_a_full_disk, tiny_moirai, tmp_path) == 0
    assert not [name for name in files_in(tmp_path) if name.endswith(".ckpt")]


def test_a_folder_that_is_not_there_is_named(first: MSFTFoundationModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none/model\.pt"):
        first.save(str(tmp_path / "none" / "model.pt"))


# ---------------------------------------------------------------------------------------------------------- kill -9


def killed_while(folder: Path, write: Callable[..., None], when: str) -> None:
    model, kill = retrained(folder), partial(os.kill, os.getpid(), signal.SIGKILL)
    if when == "half written":
        save_file = adapter_files.save_file
        adapter_files.save_file = lambda *given: (save_file(*given), kill())
        Trainer.save_checkpoint = lambda *given, **options: kill()
    else:
        whole.os.replace = lambda *given: kill()
    write(model, folder)


@pytest.mark.parametrize("write", [save, save_adapter])
@pytest.mark.parametrize("when", ["half written", "written"])
def test_a_killed_process_leaves_what_was_there(
    write: Callable[..., None], when: str, folder: Path, first: MSFTFoundationModel
) -> None:
    before = files_in(folder)
    assert run_in_child(killed_while, folder, write, when) == -signal.SIGKILL
    assert files_in(folder, hidden=False) == before
    save(first, folder)  # what it left is in nobody's way
    save_adapter(first, folder)


# ------------------------------------------------------------------------------------------------------ what is saved


def test_a_model_is_saved_where_another_was(tiny_moirai: str, folder: Path, first: MSFTFoundationModel) -> None:
    """Also one that was loaded from there, and one without weights, which must not come to the other's."""
    path, series = folder / "model.pt", wave(60)
    expected = first.predict(HORIZON, series)
    MSFTFoundationModel.load(str(path)).save(path)
    assert forecast_of_a_file(path, series) == expected
    retrained(folder).save(str(path))
    assert forecast_of_a_file(path, series) != expected
    make_model(tiny_moirai).save(str(path))
    assert forecast_of_a_file(path, series) == make_model(tiny_moirai).predict(HORIZON, series)
    assert not [name for name in files_in(folder) if name.startswith(".")]


# -------------------------------------------------------------------------------------------------------------- broken


class Evil:
    def __reduce__(self) -> Any:
        return os.abort, ()


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "a bit is another": flipped,
    "pickled": lambda _: pickle.dumps(Evil()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["model.pt", "model.pt.ckpt"])
def test_a_file_that_is_not_as_it_was_written_is_refused(
    tiny_moirai: str, first: MSFTFoundationModel, tmp_path: Path, name: str, damage: str
) -> None:
    """torch alone reads changed numbers without a word."""
    first.save(tmp_path / "model.pt")
    (tmp_path / name).write_bytes(DAMAGES[damage]((tmp_path / name).read_bytes()))
    for load in (MSFTFoundationModel.load, make_model(tiny_moirai).load_weights):
        with pytest.raises(ValueError, match=f"{name}' is no file of a saved model, or broken.*save the model anew"):
            load(tmp_path / "model.pt")
