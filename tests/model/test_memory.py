"""What many forecasts and fits leave in memory: nothing."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch
from darts import TimeSeries
from model_fixtures import HORIZON, make_model, wave

from darts_msft import MSFTFoundationModel

LARGE = (torch.Tensor, torch.nn.Module, TimeSeries, pl.Trainer, MSFTFoundationModel)


def alive() -> Counter[str]:
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if issubclass(type(one), LARGE))


def a_forecast(model: MSFTFoundationModel, _: str) -> None:
    model.predict(HORIZON, wave(60), num_samples=2)


def another_fit(model: MSFTFoundationModel, _: str) -> None:
    model.fit(wave(), val_series=wave(60, seed=1))


def a_model_and_its_fit(_: MSFTFoundationModel, checkpoint: str) -> None:
    make_model(checkpoint, linear_member=True).fit(wave(), val_series=wave(60, seed=1))


@pytest.mark.parametrize("again", [a_forecast, another_fit, a_model_and_its_fit])
def test_nothing_stays(tiny_moirai: str, again: Callable[[MSFTFoundationModel, str], None]) -> None:
    model = make_model(tiny_moirai).fit(wave())
    for _ in range(2):
        again(model, tiny_moirai)
    before = alive()
    for _ in range(3):
        again(model, tiny_moirai)
    assert alive() == before
