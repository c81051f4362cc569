"""A pretraining run: what its seed decides, what it is validated on, and the files it leaves."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import same_bits, start, weights
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.backbones import describe, load_class
from darts_msft.pretraining import train
from darts_msft.pretraining.objective import Task
from darts_msft.pretraining.train import train_together

pytestmark = pytest.mark.usefixtures("two_validation_batches")

# --- seeds ------------------------------------------------------------------------------------------------------------


def test_the_validation_loss_is_the_mean_over_the_held_back_batches(tmp_path: Path) -> None:
    run = start(tmp_path)
    first, second = (run.loss(task, run.backbones).item() for task in run.validation)
    assert first != second
    assert run.validation_loss(run.backbones) == pytest.approx((first + second) / 2, rel=1e-6)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_export_loads_as_a_moirai_module(tmp_path: Path) -> None:
    """Saving twice leaves whole files and nothing else."""
    run = start(tmp_path, steps=2)
    run.run(log_every=1, save_every=1)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert files == {"state.pt", "log.jsonl", "export/config.json", "export/model.safetensors"}
    loaded = MoiraiModule.from_pretrained(str(tmp_path / "export"))
    assert isinstance(loaded, MoiraiModule)
    assert (loaded.d_model, loaded.num_layers, tuple(loaded.patch_sizes)) == (64, 1, (16, 32))
    _, architecture, config = describe(str(tmp_path / "export"))
    assert load_class(architecture).traits_of(config).pretrained_alone
    averaged = run.averaged.module.state_dict()
    assert not same_bits(weights(run), averaged)
    expected = {name: value.half().float() for name, value in averaged.items()}
    assert same_bits(expected, {name: value.float() for name, value in loaded.state_dict().items()})
    saved = load_file(tmp_path / "export" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float16}
    assert {value.dtype for value in run.module.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_what_is_saved_and_logged_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, saved, losses = start(tmp_path, steps=7), [], []
    train_step = run.train_step

    def recorded(task: Task) -> torch.Tensor:
        losses.append(train_step(task))
        return losses[-1]

    monkeypatch.setattr(run, "train_step", recorded)
    monkeypatch.setattr(run, "save", lambda: saved.append(run.step))
    run.run(log_every=2, save_every=3)
    assert saved == [3, 6, 7]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 7]
    assert [line["step"] for line in lines if "validation_loss" in line] == [3, 6, 7]
    means = [np.mean(part) for part in (losses[:2], losses[2:3], losses[3:4], losses[4:6], losses[6:])]
    assert [line["loss"] for line in lines] == pytest.approx(means, abs=1e-5)


def test_models_that_learn_together_are_those_that_learn_alone(tmp_path: Path) -> None:
    alone = [start(tmp_path / f"alone {layers}", layers=layers) for layers in (1, 2)]
    for run in alone:
        run.run()
    together = [start(tmp_path / f"with {layers}", layers=layers) for layers in (1, 2)]
    train_together(together)
    for run, other in zip(alone, together, strict=True):
        assert same_bits(weights(run), weights(other))
        exported = [(one.directory / "export" / "model.safetensors").read_bytes() for one in (run, other)]
        assert exported[0] == exported[1]


def test_where_the_time_is_up_the_rates_are_at_zero_and_the_weights_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every look at the clock takes a second; of ten seconds the last four are those of the decay."""
    run, shares = start(tmp_path, steps=10_000, seconds=10.0, warmup=0), []
    clock = itertools.count()
    monkeypatch.setattr(train.time, "perf_counter", lambda: float(next(clock)))
    run.optimizers[0].register_step_pre_hook(lambda optimizer, *_: shares.append(optimizer.param_groups[0]["lr"]))
    run.run()
    full = run.settings.hidden_learning_rate
    assert shares[0] == full
    assert 0 < shares[-1] < full / 2
    assert shares == sorted(shares, reverse=True)
    assert run.step < 10
    assert torch.load(run.state_file, weights_only=True)["step"] == run.step
