"""What many forecasts and fits leave in memory: nothing."""

from __future__ import annotations

import gc
from collections import Counter

import pytorch_lightning as pl
import torch
from darts import TimeSeries
from model_fixtures import HORIZON, make_model, wave

from darts_msft import MSFTFoundationModel

LARGE = (torch.Tensor, torch.nn.Module, TimeSeries, pl.Trainer, MSFTFoundationModel)


def alive() -> Counter[str]:
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), LARGE))


def test_nothing_stays(tiny_moirai: str) -> None:
    """Of two forecasts, two more fits, and two models and their fits."""
    model = make_model(tiny_moirai).fit(wave())

    def act() -> None:
        model.predict(HORIZON, wave(60), num_samples=2)
        for one in (model, make_model(tiny_moirai, linear_member=True)):
            one.fit(wave(), val_series=wave(60, seed=1))

    act()
    act()
    before = alive()
    act()
    act()
    assert alive() == before
