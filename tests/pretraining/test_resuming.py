"""A pretraining run that stopped and goes on: to the bit, or refused, or warned of."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
import uni2ts
from small_runs import FLAGS, same_bits, start, weights

from darts_msft.pretraining import __main__ as command
from darts_msft.pretraining import train
from darts_msft.pretraining.settings import Settings
from darts_msft.pretraining.train import Pretraining, fingerprint

pytestmark = pytest.mark.usefixtures("two_validation_batches")


class MachineGoneError(RuntimeError):
    """Stands for a machine that goes away."""


def interrupt_after(run: Pretraining, step: int) -> None:
    """Runs up to `step` and dies there, with the batch for the next step already drawn."""
    train_step = run.train_step

    def mortal(task: Any) -> float:
        if run.step == step:
            raise MachineGoneError
        return train_step(task)

    run.train_step = mortal  # type: ignore[method-assign]
    with pytest.raises(MachineGoneError):
        run.run(log_every=1, save_every=2)


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    whole = start(tmp_path / "whole")
    initial = weights(whole)
    whole.run(log_every=1, save_every=2)
    interrupt_after(start(tmp_path / "broken"), step=3)  # saved at 2
    torch.manual_seed(123)
    resumed = start(tmp_path / "broken")
    resumed.resume()
    assert resumed.step == 2
    resumed.run(log_every=1, save_every=2)
    assert resumed.step == whole.step == 5
    assert same_bits(weights(whole), weights(resumed))
    for left, right in zip(whole.optimizers, resumed.optimizers, strict=True):
        assert same_bits(left.state_dict(), right.state_dict())
    assert same_bits(whole.averaged.state_dict(), resumed.averaged.state_dict())
    assert whole.validation_loss(whole.backbones) == resumed.validation_loss(resumed.backbones)
    assert not same_bits(initial, weights(whole))
    first, second = (tmp_path / name / "export" / "model.safetensors" for name in ("whole", "broken"))
    assert first.read_bytes() == second.read_bytes()


OTHERS = {
    "seed": 1,
    "width": 128,
    "layers": 2,
    "tokens": 49,
    "patch_shares": "8:1",
    "learning_rate": 2e-3,
    "hidden_learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup": 3,
    "ema": 0.9,
    "precision": "bfloat16",
    "clear": 6,
    "rates": 0.5,
}


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.save()
    assert OTHERS.keys() | set(train.FREE) == {field.name for field in fields(Settings)}
    other = start(tmp_path, **OTHERS)
    before = weights(other)
    with pytest.raises(ValueError, match="--out") as refused:
        other.resume()
    for name, value in OTHERS.items():
        assert f"{name!r}: {(getattr(first.settings, name), value)}" in str(refused.value)
    assert same_bits(before, weights(other))


# --- with other code, machine or schedule -----------------------------------------------------------------------------


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


def test_other_code_is_refused_by_name_with_both_hashes(tmp_path: Path, edit: Callable[[str, str, str], None]) -> None:
    run = start(tmp_path / "run")
    saved = fingerprint()
    edit("pretraining/objective.py", "", "\nANYTHING = 1\n")
    run.save()  # by the code that it was started with
    now = fingerprint()["pretraining/objective.py"]
    assert now != saved["pretraining/objective.py"]
    with pytest.raises(SystemExit) as exit_:
        command.main([*FLAGS, "--out", str(tmp_path / "run")])
    assert f"{{'pretraining/objective.py': ('{saved['pretraining/objective.py']}', '{now}')}}" in exit_.value.code
    assert not (tmp_path / "run" / "log.jsonl").exists()


def change_state(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    state = torch.load(directory / "state.pt", weights_only=True)
    change(state)
    torch.save(state, directory / "state.pt")


@pytest.mark.parametrize(
    ("now", "saved", "warning"),
    [
        ({"steps": 20}, {}, ""),  # both at the whole rate so far
        ({"steps": 6, "decay": 0.7}, {}, r"step 3 was made at 1\.000 .* 0\.750: "),
        ({}, {"threads": 99}, rf"threads were 99 and are now {torch.get_num_threads()}: "),
        ({}, {"device": "cuda:1"}, "device was cuda:1 and is now cpu: "),
    ],
)
def test_what_makes_other_weights_than_one_run_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, now: dict[str, Any], saved: dict[str, Any], warning: str
) -> None:
    """Saved after 4 of 10 steps, with the decay to come; 0.75 is (6 - 3) / 4."""
    first = start(tmp_path, steps=10, decay=0.5)
    first.step = 4
    first.save()
    change_state(tmp_path, lambda state: (state["settings"] if "device" in saved else state).update(saved))
    start(tmp_path, **{"steps": 10, "decay": 0.5, **now}).resume()
    found = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(found) == bool(warning)
    assert not found or re.match(warning, found[0])


@pytest.mark.parametrize("saved", [True, False])
def test_the_log_has_each_step_once_after_a_kill(tmp_path: Path, saved: bool) -> None:
    """Killed after step 3, with 2 or nothing saved and the last line half written."""
    run = start(tmp_path, steps=4)
    run.run(log_every=1, save_every=2)
    log, state = tmp_path / "log.jsonl", tmp_path / "state.pt"
    left = "".join(log.read_text().splitlines(keepends=True)[:3]) + '{"step": 4, "los'
    log.write_text(left)
    (tmp_path / "log.old1.jsonl").write_text("an older one")
    if saved:
        change_state(tmp_path, lambda state: state.update(step=2))
    else:
        state.unlink()
    again = start(tmp_path, steps=4)
    again.resume()
    again.run(log_every=1, save_every=2)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]
    old = tmp_path / "log.old2.jsonl"
    assert (old.read_text() == left) if not saved else not old.exists()
    assert (tmp_path / "log.old1.jsonl").read_text() == "an older one"


def test_a_packages_version_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    for package in (np, scipy, torch, uni2ts):
        monkeypatch.setattr(package, "__version__", before[package.__name__] + "+cu126")  # the same for another device
    assert fingerprint() == before
    versions = {"numpy": "0.0.1", "scipy": "0.0.2", "torch": "0.0.3", "uni2ts": "0.0.4"}
    for package in (np, scipy, torch, uni2ts):
        monkeypatch.setattr(package, "__version__", versions[package.__name__])
    assert fingerprint() == before | versions
