"""AdaLoRA's importance averages: on their parameters' device, and unharmed by gradients that overflowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import make_model, wave

from darts_msft.backbones import describe, load_class
from darts_msft.methods.adalora import AdaLoRA
from darts_msft.options import MethodConfig
from darts_msft.scales.pyramid import ScalePlan

STEPS = 20


def attached(checkpoint: str) -> tuple[AdaLoRA, Any]:
    """AdaLoRA in a backbone, with a fit of STEPS steps begun, and the backbone."""
    _, architecture, config = describe(checkpoint)
    backbone = load_class(architecture).from_config(config, 4)
    method = AdaLoRA(backbone.spec, ScalePlan(32, 8, 4, 0, backbone.spec.horizon_tokens), MethodConfig(lora_rank=2))
    method.attach(backbone)
    method.begin(STEPS)
    return method, backbone


def take_step(method: AdaLoRA, backbone: Any, step: int, gradient: float) -> None:
    for parameter in backbone.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    method.after_step(step)


def averages(method: AdaLoRA) -> dict[tuple[str, str], torch.Tensor]:
    state = method.training_state()
    return {(kind, name): value for kind in method._IMPORTANCE for name, value in state[kind].items()}


def test_what_a_checkpoint_brings_moves_to_the_parameters_device(tiny_moirai: str) -> None:
    method, backbone = attached(tiny_moirai)
    take_step(method, backbone, 1, 0.5)
    saved = method.training_state()
    resumed, other = attached(tiny_moirai)
    resumed.load_training_state(saved)
    other.to("meta")
    resumed.begin(STEPS)
    found = averages(resumed)
    assert len(found) == 3 * 3 * 3  # averages, of A, B and E, of q, k and v
    assert {value.device.type for value in found.values()} == {"meta"}


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_overflow_leaves_the_importance_as_it_was(tiny_moirai: str, bad: float) -> None:
    method, backbone = attached(tiny_moirai)
    take_step(method, backbone, 1, 0.5)
    before = {key: value.clone() for key, value in averages(method).items()}
    take_step(method, backbone, 2, bad)
    after = averages(method)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    take_step(method, backbone, 3, 0.25)
    assert all(bool(value.isfinite().all()) for value in averages(method).values())
    assert any(not torch.equal(averages(method)[key], value) for key, value in before.items())


def test_overflow_in_every_step_masks_nothing(tiny_moirai: str) -> None:
    method, backbone = attached(tiny_moirai)
    values = [value for name, value in backbone.named_parameters() if ".lora_E." in name]
    for value in values:
        torch.nn.init.ones_(value)
    for step in range(1, STEPS + 1):
        take_step(method, backbone, step, float("inf"))
    assert all(bool((value == 1).all()) for value in values)


def test_overflow_in_the_first_steps_of_a_fit(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ranks still fall to the target, as float16's first steps overflow while its loss scale settles."""
    after_step = AdaLoRA.after_step

    def overflow(self: AdaLoRA, step: int) -> None:
        if step <= 3:
            for parameter in self.tuner.model.parameters():
                parameter.grad = None if parameter.grad is None else torch.full_like(parameter, torch.inf)
        after_step(self, step)

    monkeypatch.setattr(AdaLoRA, "after_step", overflow)
    settings: dict[str, Any] = {"method": "adalora", "num_scales": None, "lora_rank": 2}
    model = make_model(tiny_moirai, n_epochs=5, **settings).fit(wave())
    names = [name for name, _ in model.model.named_parameters() if ".lora_E." in name]
    parameters = dict(model.model.named_parameters())
    assert sum(int(parameters[name].count_nonzero()) for name in names) == 2 * 3
