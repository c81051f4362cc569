"""The pretraining run: resuming, seeds, refusals, and the files it leaves."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.pretraining import train
from darts_msft.pretraining.train import VALIDATION_SEED, Pretraining, Settings, warmed_ema

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
    for left, right in zip(whole.optimizers, resumed.optimizers, strict=True):
        assert same_bits(left.state_dict(), right.state_dict())
    assert same_bits(whole.averaged.state_dict(), resumed.averaged.state_dict())
    assert whole.validation_loss(whole.backbones) == resumed.validation_loss(resumed.backbones)
    assert not same_bits(initial, weights(whole))
    first, second = (tmp_path / name / "export" / "model.safetensors" for name in ("whole", "broken"))
    assert first.read_bytes() == second.read_bytes()


def test_workers_change_no_bit(tmp_path: Path) -> None:
    """Also where they join a run that was started without them."""
    alone = start(tmp_path / "alone")
    alone.run(log_every=1, save_every=2)
    interrupt_after(start(tmp_path / "joined"), step=2)
    joined = start(tmp_path / "joined", workers=2)
    joined.resume()
    joined.run(log_every=1, save_every=2)
    assert joined.step == 5
    assert same_bits(weights(alone), weights(joined))
    assert same_bits(alone.averaged.state_dict(), joined.averaged.state_dict())


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
        ("ema", 0.9),
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
    trained_on, held_back = first.tasks[0], first.validation[0]
    assert not set(trained_on.horizon.flatten().tolist()) & set(held_back.horizon.flatten().tolist())


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_export_loads_as_a_moirai_module(tmp_path: Path) -> None:
    run = start(tmp_path, steps=3)
    run.run(log_every=1, save_every=3)
    loaded = MoiraiModule.from_pretrained(str(tmp_path / "export"))
    assert isinstance(loaded, MoiraiModule)
    assert (loaded.d_model, loaded.num_layers, tuple(loaded.patch_sizes)) == (64, 1, (8, 16, 32))
    averaged = run.averaged.module.state_dict()
    assert not same_bits(weights(run), averaged)
    expected = {name: value.half().float() for name, value in averaged.items()}
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
    run = start(tmp_path, steps=20, warmup=4, decay=0.5)
    shares = []
    for step in range(21):
        run.step = step
        shares.append(run.schedule())
    assert shares[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert shares[4:11] == pytest.approx([1.0] * 7)
    assert shares[11:] == pytest.approx([left / 10 for left in range(9, -1, -1)])


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_weights(tmp_path: Path) -> None:
    run = start(tmp_path)
    before, task = weights(run), run.tasks[0]
    task.horizon[:] = torch.nan
    with pytest.raises(FloatingPointError, match="at step 0"):
        run.train_step(task)
    assert same_bits(before, weights(run))


def test_steps_lower_the_loss_on_one_batch(tmp_path: Path) -> None:
    run = start(tmp_path, steps=30, decay=0.1)
    task = run.tasks[0]
    losses = [run.train_step(task) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
    assert run.step == 12


def test_bfloat16_gives_nearly_the_same_loss(tmp_path: Path) -> None:
    exact, short = start(tmp_path), start(tmp_path, precision="bfloat16")
    losses = [run.loss(run.tasks[0], run.backbones).item() for run in (exact, short)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


# --- the average ------------------------------------------------------------------------------------------------------


def averages_of(values: list[float], decay: float) -> list[float]:
    """The average after each of these values of one weight that starts at 1000."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1000)
    averaged, found = AveragedModel(model, multi_avg_fn=warmed_ema(decay)), []
    for value in values:
        torch.nn.init.constant_(model.weight, value)
        averaged.update_parameters(model)
        found.append(averaged.module.weight.item())
    return found


def test_the_average_is_a_slow_loops() -> None:
    values = np.random.default_rng(0).normal(size=40)
    found, average = averages_of(values.tolist(), decay=0.7), values[0]
    for n, value in enumerate(values):
        decay = 0.0 if n == 0 else min(0.7, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * value
        assert found[n] == pytest.approx(average, abs=1e-5)


def test_the_average_forgets_the_start_early() -> None:
    found = averages_of([100.0] * 10 + [0.0] * 90, decay=0.999)
    assert found[99] < 0.01
    ramp = averages_of([float(step) for step in range(300)], decay=0.999)
    assert 299 / ramp[-1] == pytest.approx(1.1, abs=0.03)  # a tenth of the steps behind


def test_both_losses_and_both_weights_are_kept(tmp_path: Path) -> None:
    run = start(tmp_path)
    run.run(log_every=1, save_every=5)
    line = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    losses = [run.validation_loss(backbones) for backbones in (run.backbones, run.averaged_backbones)]
    assert losses[0] != losses[1]
    assert [line["validation_loss"], line["averaged_validation_loss"]] == pytest.approx(losses, abs=1e-5)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert same_bits(state["module"], run.module.state_dict())
    assert same_bits(state["averaged"], run.averaged.state_dict())


@pytest.mark.parametrize(
    "wrong", [{"ema": 1.0}, {"ema": -0.1}, {"precision": "float16"}, {"seed": -1}, {"seed": VALIDATION_SEED}]
)
def test_unusable_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
