"""`python -m darts_msft.pretraining` as a user runs it: files, going on, refusals, flags."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import FLAGS, same_bits, start
from torch.utils.data import DataLoader

from darts_msft.pretraining import __main__ as command
from darts_msft.pretraining import train
from darts_msft.pretraining.settings import Settings
from darts_msft.pretraining.train import build_module, make_optimizers

pytestmark = pytest.mark.usefixtures("two_validation_batches")

# --- a process --------------------------------------------------------------------------------------------------------


def test_two_runs_give_the_same_bytes_one_goes_on_and_the_other_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another process prepares the batches of one of them, and not of the steps that it goes on with."""

    def forks(*given: Any, **how: Any) -> DataLoader[Any]:
        """In place of a spawned process, which would import torch anew."""
        return DataLoader(*given, **{**how, "multiprocessing_context": "fork" if how["num_workers"] else None})

    monkeypatch.setattr(train, "DataLoader", forks)
    first, second = tmp_path / "new" / "first", tmp_path / "second"
    command.main([f"--out={first}", "--log-every=1", "--workers=1", *FLAGS])
    command.main([f"--out={second}", *FLAGS])
    assert {path.name for path in first.iterdir()} == {"state.pt", "log.jsonl", "export"}
    exported = [(out / "export" / "model.safetensors").read_bytes() for out in (first, second)]
    assert exported[0] == exported[1]
    states = [torch.load(out / "state.pt", weights_only=True) for out in (first, second)]
    assert all(same_bits(states[0][name], states[1][name]) for name in ("module", "averaged", "optimizers", "step"))

    command.main([f"--out={first}", *FLAGS, "--steps=6"])
    assert [json.loads(line)["step"] for line in (first / "log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert torch.load(first / "state.pt", weights_only=True)["step"] == 6
    assert (first / "export" / "model.safetensors").read_bytes() != exported[0]

    before = {path: path.read_bytes() for path in second.rglob("*.*")}
    with pytest.raises(SystemExit) as exit_:  # Python prints a text on standard error and exits with status 1
        command.main([f"--out={second}", *FLAGS, "--seed=1"])
    assert exit_.value.code.startswith(f"python -m darts_msft.pretraining: error: {second / 'state.pt'} ")
    assert "{'seed': (0, 1)}" in exit_.value.code
    assert {path: path.read_bytes() for path in second.rglob("*.*")} == before


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("steps", "0"),
        *(("patch-shares", value) for value in ("16", "16:0.5,32:0.6", "16:1.5,32:-0.5", "16:a", "64:1", "8:nan")),
        ("width", "66"),
        ("learning-rate", "nan"),
        ("ema", "1.0"),
        ("seed", "1000003"),  # the validation series'
        *(("device", value) for value in ("gpu", "cuda:77", "meta")),
        ("save-every", "often"),
        ("learning", "1"),  # no abbreviations
    ],
)
def test_a_wrong_flag_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main([*FLAGS, "--out", str(tmp_path / "run"), f"--{flag}={value}"])
    assert exit_.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("python -m darts_msft.pretraining: error: ")
    assert flag in message.replace("_", "-")
    assert not list(tmp_path.iterdir())


def test_a_state_that_cannot_be_read_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path).save()
    whole = (tmp_path / "state.pt").read_bytes()
    for broken in (b"", b"text", whole[:1000]):
        (tmp_path / "state.pt").write_bytes(broken)
        with pytest.raises(SystemExit, match=r"error: .*state\.pt cannot be read .*\(\w+: "):
            command.main([*FLAGS, "--out", str(tmp_path)])
        assert (tmp_path / "state.pt").read_bytes() == broken

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "state.pt")

    monkeypatch.setattr(torch, "load", deny)
    with pytest.raises(SystemExit, match=r"error: .*Permission denied: 'state\.pt'$"):
        command.main([*FLAGS, "--out", str(tmp_path)])


def test_a_run_that_has_its_steps_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = start(tmp_path)
    run.step = 2
    run.save()
    command.main([*FLAGS, f"--out={tmp_path}", "--steps=1"])
    (record,) = caplog.records
    assert record.getMessage().startswith("2 steps are made and --steps is 1")


def test_a_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"torch 2\.9 or newer.*this is 2\."):
        make_optimizers(build_module(Settings(width=64, layers=1)), Settings())
