"""A `loss_fn` of torch: it trains the point forecast, as in Darts' models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from model_fixtures import HORIZON, from_values, make_model, values_of, wave
from tiny_encoders import save_patchtst_fm
from torch import Tensor, nn

from darts_msft import MSFTFoundationModel
from darts_msft.training.loss import loss_of_points

POINTS: dict[str, Any] = {"likelihood": None, "num_scales": 0, "method": "linear_probe"}


@pytest.mark.parametrize("weighted", [False, True])
def test_missing_values_count_as_the_others(weighted: bool) -> None:
    points, target = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]]), torch.tensor([[[1.5, torch.nan, 6.0, torch.nan]]])
    weight = torch.tensor([[[2.0, 5.0, 1.0, 5.0]]])
    loss_fn = nn.MSELoss(reduction="none" if weighted else "mean")
    expected = (2 * 0.25 + 9) / 2 if weighted else (0.25 + 9) / 2
    assert loss_of_points(loss_fn, points, target, weight).item() == pytest.approx(expected)
    assert loss_of_points(loss_fn, points, torch.full_like(target, torch.nan), weight).item() == 0


class Seen(nn.Module):
    """The absolute error; notes what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.reduction = "mean"
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, forecast: Tensor, value: Tensor) -> Tensor:
        self.calls.append((forecast, value))
        return nn.functional.l1_loss(forecast, value, reduction=self.reduction)


def test_it_sees_values_in_the_series_units(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the shape of Darts; the series has levels of 5 and 8."""
    loss_fn = Seen()
    monkeypatch.setattr("copy.deepcopy", lambda one, memo=None: one)
    model = make_model(tiny_moirai, loss_fn=loss_fn, likelihood=None, num_scales=1)
    monkeypatch.undo()
    model.model_params["loss_fn"] = model.pl_module_params["loss_fn"] = loss_fn
    model.fit(wave(components=2))
    calls = model.model.train_criterion.calls
    assert [tuple(value.shape[1:]) for _, value in calls[:2]] == [(HORIZON, 2), (HORIZON // 2, 2)]
    assert calls[0][1].mean(dim=(0, 1)).tolist() == pytest.approx([5, 8], abs=0.2)


def skewed(seed: int = 0) -> TimeSeries:
    """10 at one step of every four, else 0: the median is 0, the mean 2.5."""
    blocks = np.random.default_rng(seed).permuted(np.tile([10, 0, 0, 0], (100, 1)), axis=1)
    return from_values(blocks.reshape(-1, 1).astype(np.float32))


def level_of(tiny_moirai: str, loss_fn: nn.Module, weight: TimeSeries | None = None) -> float:
    """Of the forecasts of a model that was trained on it."""
    model = make_model(tiny_moirai, loss_fn=loss_fn, **POINTS, n_epochs=10, lr_head=3e-3, windows_per_epoch=256)
    model.fit(skewed(), sample_weight=weight)
    return float(values_of(model.predict(HORIZON, [skewed(1)[:end] for end in range(100, 140)])).mean())


def test_the_squared_error_gives_the_mean_and_the_absolute_one_the_median(tiny_moirai: str) -> None:
    assert level_of(tiny_moirai, nn.MSELoss()) == pytest.approx(2.5, abs=0.5)
    assert level_of(tiny_moirai, nn.L1Loss()) == pytest.approx(0, abs=0.5)


def test_values_without_weight_are_not_learned(tiny_moirai: str) -> None:
    assert level_of(tiny_moirai, nn.MSELoss(), skewed().map(lambda value: (value < 5).astype(np.float32))) < 0.5


def test_an_encoder_of_values_starts_from_its_pretrained_median(tmp_path: Path) -> None:
    save_patchtst_fm(tmp_path)
    series = wave(60, seed=3)
    model = make_model(str(tmp_path), loss_fn=nn.HuberLoss(), likelihood=None)
    before = values_of(model.predict(HORIZON, series))
    assert np.array_equal(before, values_of(make_model(str(tmp_path), likelihood=None).predict(HORIZON, series)))
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "zero-shot"
    assert isinstance(model.model.train_criterion, nn.HuberLoss)


def test_a_loaded_model_trains_on_by_its_loss(tiny_moirai: str, tmp_path: Path) -> None:
    model = make_model(tiny_moirai, loss_fn=nn.HuberLoss(delta=0.25), **POINTS).fit(wave())
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    series = wave(60, seed=3)
    assert np.array_equal(values_of(loaded.predict(HORIZON, series)), values_of(model.predict(HORIZON, series)))
    for loss_fn in (loaded.model.criterion, loaded.model.train_criterion, loaded.model.val_criterion):
        assert isinstance(loss_fn, nn.HuberLoss)
        assert loss_fn.delta == 0.25
    for one in (model, loaded):
        torch.manual_seed(0)
        one.fit(wave())
    assert np.array_equal(values_of(loaded.predict(HORIZON, series)), values_of(model.predict(HORIZON, series)))


def test_weights_of_another_head_are_refused(tiny_moirai: str, tmp_path: Path) -> None:
    make_model(tiny_moirai, loss_fn=nn.L1Loss(), **POINTS).fit(wave()).save(str(tmp_path / "model.pt"))
    with pytest.raises(ValueError, match=r"^loss_fn=None here but L1Loss\(\) in the saved model"):
        make_model(tiny_moirai, **POINTS).load_weights(str(tmp_path / "model.pt"))


def test_an_adapter_of_points(tiny_moirai: str, tmp_path: Path) -> None:
    model, series = make_model(tiny_moirai, loss_fn=nn.L1Loss(), **POINTS).fit(wave()), wave(60, seed=3)
    model.save_adapter(tmp_path / "adapter")
    other = make_model(tiny_moirai, loss_fn=nn.MSELoss(), **POINTS)
    other.load_adapter(tmp_path / "adapter")
    assert np.array_equal(values_of(other.predict(HORIZON, series)), values_of(model.predict(HORIZON, series)))
    with pytest.raises(ValueError, match="likelihood: saved 'points'"):
        make_model(tiny_moirai, **POINTS).load_adapter(tmp_path / "adapter")


def test_without_a_head_there_is_no_forecast(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"^loss_fn needs a new head that is not trained yet"):
        make_model(tiny_moirai, loss_fn=nn.L1Loss(), **POINTS).predict(HORIZON, wave(60))
