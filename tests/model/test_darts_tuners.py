"""Darts' `lr_find` and `scale_batch_size`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from darts.utils.serialization import add_safe_globals
from model_fixtures import HORIZON, make_model, wave
from torch.optim import AdamW

from darts_msft.training.range_test import Divergence, RangeTest

STEPS = 30
seen: list[dict[str, float]] = []


class Watched(AdamW):
    """Keeps the rates of each step, by group."""

    def step(self, closure: Any = None) -> Any:
        seen.append({group["name"]: group["lr"] for group in self.param_groups})
        return super().step(closure)


add_safe_globals([Watched])  # Lightning restores the model from a checkpoint


def test_a_rate_is_found_that_trains_what_was_measured(tiny_moirai: str) -> None:
    """The groups keep their ratio while they are tried; the model is as before, and the result is reproducible."""
    found = []
    for _ in range(2):
        seen.clear()
        model = make_model(tiny_moirai, optimizer_cls=Watched, lr_new=1e-2, lr_pretrained=1e-3)
        found.append(model.lr_find(wave(), val_series=wave(60, seed=1), num_training=STEPS))
        assert model.model is None
    tried = list(seen)
    assert len(tried) == STEPS
    rate = found[0].suggestion()
    assert rate == found[1].suggestion()
    assert 1e-8 < rate < 1
    seen.clear()
    make_model(tiny_moirai, optimizer_cls=Watched, lr_new=1e-2, lr_pretrained=1e-3, optimizer_kwargs={"lr": rate}).fit(
        wave()
    )
    step = tried[found[0].results["lr"].index(rate)]
    assert step == pytest.approx(seen[0])
    assert len(set(step.values())) > 1


def test_the_steepest_fall_is_by_the_logarithm_of_the_rate() -> None:
    """Not noise at a tiny rate, though that is far steeper by the rate itself."""
    test = RangeTest("exponential", 1e-8, 1, 100)
    rates = np.geomspace(1e-8, 1, 100)
    noise = 1e-3 * np.random.default_rng(0).standard_normal(100)
    losses = -1 / (1 + np.exp(-4 * (np.log10(rates) + 4))) + noise  # falls at 1e-4
    test.results = {"lr": rates.tolist(), "loss": losses.tolist()}
    assert abs(math.log10(test.suggestion() or 0) + 4) < 0.5


def test_losses_of_either_sign_diverge_alike() -> None:
    for level in (-5.0, 0.0):
        steady = Divergence(4.0)
        assert not any(steady.update(level - 0.01 * step) for step in range(50))
        assert any(steady.update(level + step) for step in range(2000))


def test_the_batch_size(tiny_moirai: str) -> None:
    """All windows in a batch, where they fit; of forecasts also before a fit."""
    model, series = make_model(tiny_moirai, batch_size=2), wave(32 + HORIZON + 15)
    assert model.scale_batch_size(series, val_series=series, steps_per_trial=1, init_val=4) == model.batch_size == 16
    zero_shot = make_model(tiny_moirai, batch_size=2)
    assert zero_shot.scale_batch_size([wave(60)] * 8, method="predict", n=2, steps_per_trial=1, init_val=4) == 8


@pytest.mark.parametrize("what", ["lr_find", "scale_batch_size"])
def test_a_model_that_trains_nothing_has_no_rate(tiny_moirai: str, what: str) -> None:
    with pytest.raises(ValueError, match="enable_finetuning"):
        getattr(make_model(tiny_moirai, enable_finetuning=False), what)(wave())
