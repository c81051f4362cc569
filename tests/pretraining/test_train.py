"""The pretraining run: resuming, seeds, refusals, and the files it leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.pretraining import train
from darts_msft.pretraining.train import Pretraining, Settings, TaskStream

SMALL = {"steps": 5, "tokens": 48, "width": 64, "layers": 1, "warmup": 2, "decay": 0.4}


@pytest.fixture(autouse=True)
def _two_validation_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "VALIDATION_BATCHES", 2)


def start(directory: Path, **changes: Any) -> Pretraining:
    return Pretraining(Settings(**(SMALL | changes)), directory)


def weights(run: Pretraining) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.module.state_dict().items()}


def same_bits(first: Any, second: Any) -> bool:
    """Nested states are equal to the bit."""
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_bits(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_bits, first, second))
    if isinstance(first, Tensor | np.ndarray):
        return bool((torch.as_tensor(first) == torch.as_tensor(second)).all())
    return bool(first == second)


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


# --- resuming ---------------------------------------------------------------------------------------------------------


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
    assert same_bits(whole.optimizer.state_dict(), resumed.optimizer.state_dict())
    assert whole.stream.state() == resumed.stream.state()
    assert whole.validation_loss() == resumed.validation_loss()
    assert not same_bits(initial, weights(whole))
    first, second = (tmp_path / name / "export" / "model.safetensors" for name in ("whole", "broken"))
    assert first.read_bytes() == second.read_bytes()


def test_the_task_stream_continues_where_its_state_was_taken() -> None:
    stream = TaskStream(seed=3, tokens=64)
    tasks = iter(stream)
    next(tasks)
    state = stream.state()
    expected = [next(tasks) for _ in range(3)]
    other = TaskStream(seed=4, tokens=64)
    other.load_state(state)
    for task, found in zip(expected, iter(other), strict=False):
        assert task.patch_size == found.patch_size
        torch.testing.assert_close(task.context, found.context, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(task.horizon, found.horizon)


def test_tasks_hold_about_the_asked_number_of_tokens() -> None:
    for task, _ in zip(TaskStream(seed=0, tokens=300), range(12), strict=False):
        tokens = (task.context.shape[-1] + task.horizon.shape[-1]) // task.patch_size
        assert abs(len(task.context) * tokens - 300) <= tokens / 2 + 1e-9


def test_a_finished_run_goes_on_with_more_steps(tmp_path: Path) -> None:
    start(tmp_path, steps=2).run(log_every=1, save_every=2)
    longer = start(tmp_path, steps=3)
    longer.resume()
    longer.run(log_every=1, save_every=2)
    assert longer.step == 3
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


def test_nothing_to_resume_starts_at_zero(tmp_path: Path) -> None:
    run = start(tmp_path / "none")
    run.resume()
    assert run.step == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 1),
        ("width", 128),
        ("layers", 2),
        ("tokens", 49),
        ("learning_rate", 2e-3),
        ("weight_decay", 0.1),
        ("warmup", 3),
    ],
)
def test_other_settings_are_refused_with_both_values(tmp_path: Path, name: str, value: float) -> None:
    first = start(tmp_path)
    first.save()
    saved = getattr(first.settings, name)
    other = start(tmp_path, **{name: value})
    before = weights(other)
    with pytest.raises(ValueError, match=rf"{name}.*{saved}.*{value}.*--out"):
        other.resume()
    assert same_bits(before, weights(other))


# --- seeds ------------------------------------------------------------------------------------------------------------


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    trained = []
    for index, seed in enumerate((0, 0, 1)):
        torch.manual_seed(index)  # what was drawn before must not matter
        run = start(tmp_path / str(index), seed=seed, steps=2)
        run.run(log_every=1, save_every=2)
        trained.append(weights(run))
    assert same_bits(trained[0], trained[1])
    assert not same_bits(trained[0], trained[2])


def test_every_run_is_validated_on_the_same_series(tmp_path: Path) -> None:
    first, second = start(tmp_path / "a", seed=0), start(tmp_path / "b", seed=1)
    for task, other in zip(first.validation, second.validation, strict=True):
        torch.testing.assert_close(task.context, other.context, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(task.horizon, other.horizon)
    trained_on, held_back = next(iter(first.stream)), first.validation[0]
    assert not set(trained_on.horizon.flatten().tolist()) & set(held_back.horizon.flatten().tolist())


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_export_loads_as_a_moirai_module(tmp_path: Path) -> None:
    run = start(tmp_path, steps=1)
    run.run(log_every=1, save_every=1)
    loaded = MoiraiModule.from_pretrained(str(tmp_path / "export"))
    assert isinstance(loaded, MoiraiModule)
    assert (loaded.d_model, loaded.num_layers, tuple(loaded.patch_sizes)) == (64, 1, (8, 16, 32))
    expected = {name: value.half().float() for name, value in weights(run).items()}
    assert same_bits(expected, {name: value.float() for name, value in loaded.state_dict().items()})
    saved = load_file(tmp_path / "export" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float16}
    assert {value.dtype for value in run.module.state_dict().values() if value.is_floating_point()} == {torch.float32}


def test_saving_twice_leaves_whole_files_and_nothing_else(tmp_path: Path) -> None:
    run = start(tmp_path)
    for _ in range(2):
        run.save()
    assert not list(tmp_path.rglob("*.part"))
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "export"}
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"config.json", "model.safetensors"}


# --- a step -----------------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_stays_and_falls_to_zero(tmp_path: Path) -> None:
    run = start(tmp_path, steps=20, warmup=4, decay=0.5, learning_rate=8.0)
    rates = []
    for step in range(21):
        run.step = step
        rates.append(run.learning_rate())
    assert rates[:4] == pytest.approx([2.0, 4.0, 6.0, 8.0])
    assert rates[4:11] == pytest.approx([8.0] * 7)
    assert rates[11:] == pytest.approx([8.0 * left / 10 for left in range(9, -1, -1)])


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_weights(tmp_path: Path) -> None:
    run = start(tmp_path)
    before, task = weights(run), next(iter(run.stream))
    task.horizon[:] = torch.inf
    with pytest.raises(FloatingPointError, match="at step 0"):
        run.train_step(task)
    assert same_bits(before, weights(run))


def test_steps_lower_the_loss_on_one_batch(tmp_path: Path) -> None:
    run = start(tmp_path, steps=30, decay=0.1)
    task = next(iter(run.stream))
    losses = [run.train_step(task) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
    assert run.step == 12
