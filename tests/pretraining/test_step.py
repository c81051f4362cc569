"""A training step: rates, decay, clipping, and the average of the weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import same_bits, start, weights
from torch import Tensor

from darts_msft.pretraining.muon import GroupedMuon
from darts_msft.pretraining.train import Pretraining

pytestmark = pytest.mark.usefixtures("two_validation_batches")

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


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, losses = start(tmp_path), iter([1.0, 1.0, 1.0, torch.nan])
    loss = run.loss
    monkeypatch.setattr(run, "loss", lambda *arguments: loss(*arguments) * next(losses, 1.0))
    with pytest.raises(FloatingPointError, match="loss is nan, the mean of 2 steps up to 4"):
        run.run(log_every=2, save_every=4)
    assert not run.state_file.exists()


NORMS = {"norm", "norm1", "norm2", "q_norm", "k_norm"}
ENCODER_MATRICES = {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "fc_gate"}


def test_which_weights_decay_and_at_whose_rate(tmp_path: Path) -> None:
    """Muon for the layers' matrices. Without gradients a step only decays the weights: by rate times weight decay."""
    run = start(tmp_path, learning_rate=0.1, hidden_learning_rate=0.2, weight_decay=0.5)
    assert [type(optimizer) for optimizer in run.optimizers] == [GroupedMuon, torch.optim.AdamW]
    for parameter in run.module.parameters():
        torch.nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in run.optimizers:
        optimizer.step()
    held = [id(p) for optimizer in run.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, run.module.parameters()))
    seen = set()
    for name, parameter in run.module.named_parameters():
        if "var_attn_bias" in name:  # the loss does not use it
            continue
        seen.add(leaf := name.split(".")[-2])
        expected = 1.0 if leaf in NORMS else 0.9 if leaf in ENCODER_MATRICES else 0.95
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected), msg=name)
    assert seen == NORMS | ENCODER_MATRICES | {"mask_encoding", "in_proj", "weights_logits", "df", "loc", "scale"}


def gradients_at_each_step(run: Pretraining, factor: float, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All gradients, flat, as the optimisers find them in two steps on one batch, of a loss times `factor`."""
    loss, found = run.loss, []
    monkeypatch.setattr(run, "loss", lambda *arguments: factor * loss(*arguments))

    def look(*_: Any) -> None:
        present = [parameter.grad.flatten() for parameter in run.module.parameters() if parameter.grad is not None]
        found.append(torch.cat(present).clone())

    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(look)
    for _ in range(2):
        run.train_step(run.tasks[0])
    assert len(found) == 4
    return found


def test_large_gradients_are_clipped_to_norm_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = [gradient.norm().item() for gradient in gradients_at_each_step(start(tmp_path), 1e4, monkeypatch)]
    assert norms == pytest.approx([1.0] * 4, rel=1e-3)


def test_small_gradients_are_whole_and_of_one_step_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At rates of 0 the weights stay, and so must the gradient."""
    run = start(tmp_path, learning_rate=0.0, hidden_learning_rate=0.0)
    loss = run.loss(run.tasks[0], run.backbones)
    expected = torch.autograd.grad(loss, tuple(run.module.parameters()), allow_unused=True)
    flat = torch.cat([gradient.flatten() for gradient in expected if gradient is not None])
    for gradient in gradients_at_each_step(run, 1e-3, monkeypatch):
        torch.testing.assert_close(gradient, 1e-3 * flat, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("ema", "kept"), [(0.5, 2 / 11), (0.15, 0.15)])
def test_each_step_enters_the_average(tmp_path: Path, ema: float, kept: float) -> None:
    """The first with its whole weight; after n steps what was is kept by (1 + n) / (10 + n), if `ema` is not less."""
    run, weights_of = start(tmp_path, ema=ema, warmup=0), []
    for step in range(2):
        run.train_step(run.tasks[step])
        weights_of.append(weights(run))
    first, second = weights_of
    assert not same_bits(first, second)
    for name, value in run.averaged.module.state_dict().items():
        torch.testing.assert_close(value, first[name] * kept + second[name] * (1 - kept), msg=name)


def test_muon_in_groups_steps_as_torchs_does() -> None:
    """Two steps over square, tall and wide matrices, and one without a gradient."""
    shapes = [(8, 8), (8, 8), (24, 8), (8, 24), (8, 8)]
    torch.manual_seed(0)
    start = [torch.randn(shape) for shape in shapes]
    copies = [[torch.nn.Parameter(value.clone()) for value in start] for _ in range(2)]
    grouped = GroupedMuon(copies[0], lr=0.1, weight_decay=0.5)
    reference = torch.optim.Muon(copies[1], lr=0.1, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for _ in range(2):
        gradients = [torch.randn(shape) for shape in shapes[:-1]]
        for parameters, optimizer in zip(copies, (grouped, reference), strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=False):
                parameter.grad = gradient.clone()
            optimizer.step()
    for ours, theirs, before in zip(*copies, start, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.01)
        assert torch.equal(ours, before) == (before is start[-1])
    assert grouped.state_dict()["state"].keys() == reference.state_dict()["state"].keys()
