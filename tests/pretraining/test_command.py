"""`python -m darts_msft.pretraining` as a user runs it: files, resuming, refusals, flags."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import scipy
import torch
import uni2ts

from darts_msft.pretraining import __main__ as command
from darts_msft.pretraining import train
from darts_msft.pretraining.train import Pretraining, Settings, build_module, fingerprint, make_optimizers

SMALL = {"steps": 2, "tokens": 48, "width": 64, "layers": 1, "warmup": 2}
FLAGS = [text for name, value in SMALL.items() for text in (f"--{name}", str(value))]


# --- a process --------------------------------------------------------------------------------------------------------


def run_together(commands: Iterable[list[str]]) -> list[tuple[int, str]]:
    """Exit status and standard error of each, in a process of its own."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "darts_msft.pretraining", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for flags in commands
    ]
    errors = [process.communicate(timeout=300)[1] for process in started]
    return [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


def test_two_runs_give_the_same_bytes_one_goes_on_and_the_other_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "new" / "first", tmp_path / "second"
    for status, errors in run_together([[f"--out={out}", "--log-every=1", *FLAGS] for out in (first, second)]):
        assert status == 0, errors
    assert {path.name for path in first.iterdir()} == {"state.pt", "log.jsonl", "export"}
    assert {path.name for path in (first / "export").iterdir()} == {"config.json", "model.safetensors"}
    exported = [(out / "export" / "model.safetensors").read_bytes() for out in (first, second)]
    assert exported[0] == exported[1]

    command.main([f"--out={first}", *FLAGS, "--steps=3"])
    assert [json.loads(line)["step"] for line in (first / "log.jsonl").read_text().splitlines()] == [1, 2, 3]
    assert torch.load(first / "state.pt", weights_only=True)["step"] == 3
    assert (first / "export" / "model.safetensors").read_bytes() != exported[0]

    before = {path: path.read_bytes() for path in second.rglob("*.*")}
    with pytest.raises(SystemExit) as exit_:
        command.main([f"--out={second}", *FLAGS, "--seed=1"])
    assert exit_.value.code == (  # Python prints a text on standard error and exits with status 1
        f"python -m darts_msft.pretraining: error: {second / 'state.pt'} holds a run with other settings "
        "(saved, asked): {'seed': (0, 1)}; use the saved ones or another --out directory"
    )
    assert {path: path.read_bytes() for path in second.rglob("*.*")} == before


# --- flags ------------------------------------------------------------------------------------------------------------

GIVEN = {
    "steps": 7,
    "tokens": 50,
    "patch_shares": "8:0.25,32:0.75",
    "width": 96,
    "layers": 2,
    "learning_rate": 0.01,
    "hidden_learning_rate": 0.02,
    "weight_decay": 0.03,
    "warmup": 5,
    "decay": 0.25,
    "ema": 0.5,
    "seed": 3,
    "device": "cpu:0",
    "precision": "bfloat16",
    "workers": 1,
}


def test_every_setting_and_switch_is_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Recorder:
        def __init__(self, settings: Settings, directory: Path) -> None:
            calls.append((asdict(settings), directory))

        def resume(self) -> None:
            calls.append("resumed")

        def run(self, log_every: int, save_every: int) -> None:
            calls.append((log_every, save_every))

    assert set(GIVEN) == {field.name for field in fields(Settings)}
    assert not GIVEN.items() & asdict(Settings()).items()
    monkeypatch.setattr(command, "Pretraining", Recorder)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    flags = [text for name, value in GIVEN.items() for text in ("--" + name.replace("_", "-"), str(value))]
    command.main([*flags, "--out", str(tmp_path / "run"), "--threads=3", "--log-every=11", "--save-every=13"])
    assert calls == [3, (GIVEN, tmp_path / "run"), "resumed", (11, 13)]


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("steps", "0"),
        ("steps", "2.5"),
        ("tokens", "0"),
        *(
            ("patch-shares", value)
            for value in (
                "",
                "16",
                "16:0.5",
                "16:0.5,32:0.6",
                "0:1",
                "16:1.5,32:-0.5",
                "16:a",
                "16:1:1",
                "64:1",
                "8:nan",
            )
        ),
        ("width", "32"),
        ("width", "66"),
        ("width", "200"),
        ("layers", "0"),
        ("learning-rate", "nan"),
        ("hidden-learning-rate", "-0.1"),
        ("weight-decay", "inf"),
        ("warmup", "-1"),
        ("decay", "1.5"),
        ("ema", "1.0"),
        ("ema", "-0.1"),
        ("seed", "-1"),
        ("seed", "1000003"),  # the validation series'
        ("device", "gpu"),
        ("device", "cuda:77"),
        ("device", "meta"),
        ("precision", "float16"),
        ("workers", "-1"),
        ("threads", "-1"),
        ("log-every", "0"),
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


@pytest.mark.parametrize("width", [64, 68, 96, 136])
def test_widths_that_are_not_refused_can_be_trained(tmp_path: Path, width: int) -> None:
    run = start(tmp_path, width=width)
    assert np.isfinite(run.train_step(run.tasks[0]))


def test_a_file_in_place_of_the_directory_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(SystemExit):
        command.main([*FLAGS, "--out", str(tmp_path / "run")])
    assert capsys.readouterr().err.endswith("run is a file; give a directory, new or of a run\n")
    assert (tmp_path / "run").read_text() == "mine"


def test_a_state_that_cannot_be_read_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(tmp_path).save()
    whole = (tmp_path / "state.pt").read_bytes()
    for broken in (b"", b"text", whole[:1000]):
        (tmp_path / "state.pt").write_bytes(broken)
        with pytest.raises(
            SystemExit, match=r"error: .*state\.pt cannot be read as a run's state \(\w+: .*move it away"
        ):
            command.main([*FLAGS, "--out", str(tmp_path)])
        assert (tmp_path / "state.pt").read_bytes() == broken

    def deny(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", "state.pt")

    monkeypatch.setattr(torch, "load", deny)
    with pytest.raises(SystemExit, match=r"error: .*Permission denied: 'state\.pt'$"):
        command.main([*FLAGS, "--out", str(tmp_path)])


def test_a_loss_that_is_not_finite_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "horizon_loss", lambda backbones, task: torch.tensor(torch.nan))
    with pytest.raises(SystemExit, match=r"error: loss is nan at step 0; lower --learning-rate or --hidden"):
        command.main([*FLAGS, "--out", str(tmp_path)])


@pytest.mark.parametrize("steps", [2, 1])
def test_a_run_that_has_its_steps_is_told(tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture) -> None:
    run = start(tmp_path)
    run.step = 2
    run.save()
    command.main([*FLAGS, f"--out={tmp_path}", f"--steps={steps}"])
    assert [record.getMessage() for record in caplog.records] == [
        f"2 steps are made and --steps is {steps}: nothing is left to do; give more --steps to go on"
    ]


def test_a_missing_uni2ts_is_a_message() -> None:
    code = (
        "import runpy, sys; sys.modules['uni2ts'] = None; "
        "runpy.run_module('darts_msft.pretraining', run_name='__main__', alter_sys=True)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert found.returncode == 1
    assert found.stderr.strip() == (
        "python -m darts_msft.pretraining: error: pretraining needs the package `uni2ts`; install it with: "
        "pip install 'darts-msft[moirai]'"
    )


def test_cuda_runs_are_strictly_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `warn_only` torch would keep nondeterministic backward passes of attention."""
    asked: list[tuple[Any, Any]] = []
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *given, **named: asked.append((given, named)))
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    command.make_repeatable("cpu")
    assert (asked, environment) == ([], {})
    command.make_repeatable("cuda:1")
    assert asked == [((True,), {})]
    assert environment == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


# --- resuming with other code -----------------------------------------------------------------------------------------

IN_A_STEP = {
    "backbones/base.py",
    "backbones/moirai.py",
    "backbones/moirai_mixture.py",
    "pretraining/gaussian.py",
    "pretraining/objective.py",
    "pretraining/processes.py",
    "pretraining/synthetic.py",
    "pretraining/train.py",
}


def start(directory: Path, **changes: Any) -> Pretraining:
    return Pretraining(Settings(**(SMALL | changes)), directory)


@pytest.fixture(autouse=True)
def _one_validation_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "VALIDATION_BATCHES", 1)


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Puts text before and after a file of the code that fingerprints are taken from, a copy."""
    copy = tmp_path / "code"
    for folder in ("pretraining", "backbones"):
        shutil.copytree(train.PACKAGE / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(train, "PACKAGE", copy)

    def put(name: str, before: str, after: str) -> None:
        file = copy / name
        file.write_text(before + file.read_text(encoding="utf-8") + after, encoding="utf-8")

    return put


@pytest.mark.parametrize("name", sorted(IN_A_STEP))
def test_an_edit_of_any_file_of_a_step_changes_its_own_hash(edit: Callable[[str, str, str], None], name: str) -> None:
    before = fingerprint()
    edit(name, '"""Another title."""\n# A comment.\n', "\n\n# Another comment.\n")
    assert fingerprint() == before
    edit(name, "", "\nANYTHING = 1\n")
    assert {key for key, value in fingerprint().items() if value != before[key]} == {name}


def test_the_files_of_a_step_are_those_that_run_in_it(tmp_path: Path) -> None:
    ran = set()

    def look(frame: FrameType, *_: Any) -> None:
        ran.add(frame.f_code.co_filename)

    previous = sys.getprofile()
    sys.setprofile(look)
    try:
        run = start(tmp_path)
        run.train_step(run.tasks[0])
    finally:
        sys.setprofile(previous)
    files = [Path(name).resolve() for name in ran]
    ours = {file.relative_to(train.PACKAGE).as_posix() for file in files if file.is_relative_to(train.PACKAGE)}
    assert IN_A_STEP <= ours <= fingerprint().keys()
    assert "pretraining/__main__.py" not in fingerprint()


@pytest.mark.parametrize("package", [np, scipy, torch, uni2ts])
def test_a_packages_version_is_part_of_it(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, name = fingerprint(), package.__name__
    monkeypatch.setattr(package, "__version__", before[name] + "+cu126")  # the same for another device
    assert fingerprint() == before
    monkeypatch.setattr(package, "__version__", "0.0.7")
    assert fingerprint() == before | {name: "0.0.7"}


def test_other_code_is_refused_by_name_with_both_hashes(tmp_path: Path, edit: Callable[[str, str, str], None]) -> None:
    run = start(tmp_path / "run")
    saved = fingerprint()
    edit("pretraining/objective.py", "", "\nANYTHING = 1\n")
    run.save()  # by the code that it was started with
    now = fingerprint()["pretraining/objective.py"]
    assert now != saved["pretraining/objective.py"]
    with pytest.raises(SystemExit) as exit_:
        command.main([*FLAGS, "--out", str(tmp_path / "run")])
    assert exit_.value.code == (
        f"python -m darts_msft.pretraining: error: {tmp_path / 'run' / 'state.pt'} was saved by other code or packages "
        f"(saved, now): {{'pretraining/objective.py': ('{saved['pretraining/objective.py']}', '{now}')}}; "
        "go on with the saved ones, or give another --out directory"
    )
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_files_that_came_or_went_are_refused(tmp_path: Path, edit: Callable[[str, str, str], None]) -> None:
    start(tmp_path / "run").save()
    (train.PACKAGE / "pretraining" / "gaussian.py").rename(train.PACKAGE / "pretraining" / "normal.py")
    with pytest.raises(ValueError, match=r"normal\.py': \(None, .*gaussian\.py': \('\w+', None\)"):
        start(tmp_path / "run").resume()


def change_state(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(directory / "state.pt", weights_only=True)
    change(state)
    torch.save(state, directory / "state.pt")


def test_a_state_that_does_not_say_which_code_saved_it_is_refused(tmp_path: Path) -> None:
    start(tmp_path).save()
    change_state(tmp_path, lambda state: state.pop("fingerprint"))
    with pytest.raises(ValueError, match=r"does not say which code saved it.*another --out directory"):
        start(tmp_path).resume()


def test_another_device_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(tmp_path).save()
    start(tmp_path, steps=6, decay=0.5).resume()
    assert not caplog.records
    change_state(tmp_path, lambda state: state["settings"].update(device="cuda:1"))
    start(tmp_path).resume()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "device was cuda:1 and is now cpu" in caplog.text


@pytest.mark.parametrize(
    ("now", "warning"),
    [
        ({"steps": 20}, None),  # both at the whole rate so far
        ({"steps": 11}, None),
        (
            {"steps": 6, "decay": 0.7},
            "step 3 was made at 1.000 of the rates, where the steps and decay of now have 0.750",
        ),
        ({"decay": 0.8}, "step 3 was made at 1.000 of the rates, where the steps and decay of now have 0.875"),
    ],
)
def test_a_schedule_that_the_steps_so_far_did_not_have_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, now: dict[str, Any], warning: str | None
) -> None:
    """Saved after 4 of 10 steps, with the decay to come; 0.875 is (10 - 3) / 8, and 0.75 is (6 - 3) / 4."""
    first = start(tmp_path, steps=10, decay=0.5)
    first.step = 4
    first.save()
    start(tmp_path, **{"steps": 10, "decay": 0.5, **now}).resume()
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == (
        [] if warning is None else [f"{warning}: the weights will not be those of one run without a stop"]
    )


def test_other_threads_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    start(tmp_path).save()
    change_state(tmp_path, lambda state: state.update(threads=99))
    start(tmp_path).resume()
    assert f"threads were 99 and are now {torch.get_num_threads()}: the weights will not be" in caplog.text


@pytest.mark.parametrize("saved", [True, False])
def test_the_log_has_each_step_once_after_a_kill(tmp_path: Path, saved: bool) -> None:
    """Killed after step 3, with 2 or nothing saved and the last line half written."""
    run = start(tmp_path, steps=4)
    run.run(log_every=1, save_every=2)
    log, state = tmp_path / "log.jsonl", tmp_path / "state.pt"
    left = "".join(log.read_text().splitlines(keepends=True)[:3]) + '{"step": 4, "los'
    log.write_text(left)
    if saved:
        change_state(tmp_path, lambda state: state.update(step=2))
    else:
        state.unlink()
    again = start(tmp_path, steps=4)
    again.resume()
    again.run(log_every=1, save_every=2)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]
    old = tmp_path / "log.old.jsonl"
    assert (old.read_text() == left) if not saved else not old.exists()


def test_a_torch_without_muon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match=r"needs torch 2\.9 or newer.*this is 2\..*pip install -U torch$"):
        make_optimizers(build_module(Settings(width=64, layers=1)), Settings())
