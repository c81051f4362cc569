"""AdaLoRA: its ranks, its penalty, how it resumes, and gradients that overflowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from contract_method import make_module
from model_fixtures import changed, make_model, parameters_snapshot, wave

from darts_msft import MSFTFoundationModel
from darts_msft.methods.adalora import AdaLoRA

STEPS = 20
LATER = wave(44, seed=1)


def make(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    return make_model(checkpoint, **{"method": "adalora", "num_scales": None, "lora_rank": 2, **changes})


def values(module: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The e of every linear."""
    found = [value for name, value in module.named_parameters() if ".lora_E." in name]
    assert found
    return found


def nonzero_ranks(module: torch.nn.Module) -> int:
    return sum(int(value.count_nonzero()) for value in values(module))


class Steps(pl.Callback):
    """The optimiser's steps after each batch."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.after.append(trainer.global_step)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_ranks_fall_to_the_target_once_a_step(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, accumulated: int
) -> None:
    told, after_step = [], AdaLoRA.after_step

    def record(self: AdaLoRA, step: int) -> None:
        after_step(self, step)
        told.append((step, nonzero_ranks(self.tuner.model)))

    monkeypatch.setattr(AdaLoRA, "after_step", record)
    steps = Steps()
    trainer = {"accumulate_grad_batches": accumulated, "callbacks": [steps]}
    model = make(tiny_moirai, n_epochs=6, lora_rank=3, batch_size=8, trainer=trainer).fit(wave())
    total, matrices = model.trainer.global_step, 3  # one layer's q, k and v
    assert len(steps.after) > total if accumulated > 1 else len(steps.after) == total
    assert [step for step, _ in told] == list(range(1, total + 1))
    warm, last = int(0.1 * total), total - int(0.3 * total)
    high, low = 5 * matrices, 3 * matrices  # 1.5 x 3, rounded up
    left = [min(max((last - step) / (last - warm), 0), 1) for step in range(1, total + 1)]
    assert [rank for _, rank in told] == [int((high - low) * share**3 + low) for share in left]
    assert nonzero_ranks(model.model) == low


def test_the_penalty_is_the_distance_from_orthogonal_rows_and_training_lowers_it(tiny_moirai: str) -> None:
    module, parts = make_module(Path(tiny_moirai), "adalora"), []
    for name, value in module.named_parameters():
        rows = value.detach() if ".lora_A." in name else value.detach().T if ".lora_B." in name else None
        if rows is not None:
            products = [[float(a @ b) - (i == j) for j, b in enumerate(rows)] for i, a in enumerate(rows)]
            parts.append(np.sqrt(np.square(products).sum()))
    assert len(parts) == 6
    before = float(module.method.penalty().detach())
    assert before == pytest.approx(0.1 * np.mean(parts), rel=1e-5)
    assert float(make(tiny_moirai, n_epochs=3).fit(wave()).model.method.penalty().detach()) < before


def test_a_fit_of_one_step_is_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"^method='adalora' .* has 1;"):
        make(tiny_moirai, trainer={"max_steps": 1}).fit(wave())


def test_it_resumes_where_it_was(tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the ranks fall, and after."""

    def run(name: str) -> MSFTFoundationModel:
        settings = {"work_dir": str(tmp_path), "model_name": name, "save_checkpoints": True, "n_epochs": 5}
        return make(tiny_moirai, trainer={"enable_checkpointing": True}, **settings)

    whole, after_step = run("whole").fit(wave(), val_series=LATER), AdaLoRA.after_step
    for epoch in (2, 4):
        killed_at = epoch * whole.trainer.global_step // 5 + 1

        def kill(self: AdaLoRA, step: int, at: int = killed_at) -> None:
            if step == at:
                raise ConnectionAbortedError("killed")
            after_step(self, step)

        with monkeypatch.context() as patch:
            patch.setattr(AdaLoRA, "after_step", kill)
            with pytest.raises(ConnectionAbortedError):
                run(f"killed{epoch}").fit(wave(), val_series=LATER)
        resumed = MSFTFoundationModel.load_from_checkpoint(f"killed{epoch}", work_dir=str(tmp_path), best=False)
        resumed.fit(wave(), val_series=LATER)
        assert nonzero_ranks(resumed.model) == 2 * 3
        assert changed(parameters_snapshot(whole), parameters_snapshot(resumed)) == set()


# --------------------------------------------------------------------------------------------- importance and overflow


def begun(checkpoint: str) -> tuple[AdaLoRA, Any]:
    """AdaLoRA in a backbone, with a fit of STEPS steps begun, and the backbone."""
    module = make_module(Path(checkpoint), "adalora")
    module.method.begin(STEPS)
    return module.method, module.backbone


def take_step(method: AdaLoRA, backbone: Any, step: int, gradient: float) -> None:
    for parameter in backbone.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    method.after_step(step)


def averages(method: AdaLoRA) -> dict[tuple[str, str], torch.Tensor]:
    state = method.training_state()
    return {(kind, name): value for kind in method._IMPORTANCE for name, value in state[kind].items()}


def test_what_a_checkpoint_brings_moves_to_the_parameters_device(tiny_moirai: str) -> None:
    method, backbone = begun(tiny_moirai)
    take_step(method, backbone, 1, 0.5)
    saved = method.training_state()
    resumed, other = begun(tiny_moirai)
    resumed.load_training_state(saved)
    other.to("meta")
    resumed.begin(STEPS)
    found = averages(resumed)
    assert len(found) == 3 * 3 * 3  # averages, of A, B and E, of q, k and v
    assert {value.device.type for value in found.values()} == {"meta"}


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_overflow_leaves_the_importance_as_it_was(tiny_moirai: str, bad: float) -> None:
    method, backbone = begun(tiny_moirai)
    take_step(method, backbone, 1, 0.5)
    before = {key: value.clone() for key, value in averages(method).items()}
    take_step(method, backbone, 2, bad)
    after = averages(method)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    take_step(method, backbone, 3, 0.25)
    assert all(bool(value.isfinite().all()) for value in averages(method).values())
    assert any(not torch.equal(averages(method)[key], value) for key, value in before.items())


@pytest.mark.parametrize("overflows", [3, STEPS])
def test_overflow_masks_nothing_and_ranks_fall_after_it(tiny_moirai: str, overflows: int) -> None:
    """As float16's first steps overflow while its loss scale settles; or all of them."""
    method, backbone = begun(tiny_moirai)
    for value in values(backbone):
        torch.nn.init.ones_(value)
    for step in range(1, STEPS + 1):
        take_step(method, backbone, step, float("inf") if step <= overflows else 0.5)
    assert nonzero_ranks(backbone) == (3 * 3 if overflows == STEPS else 2 * 3)
