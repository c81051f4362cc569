"""The checkpoint's benchmark data: splits, windows, errors, forecasts in chunks; and DLinear, chosen on validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression
from parted_waves import waves

from benchmarks import checkpoint, dlinear, parts
from benchmarks.parts import QUANTILES, Data, Score

CONTEXT, HORIZON = 32, 8


@pytest.fixture
def data() -> Data:
    return waves()


def make(checkpoint_folder: str, **changes: Any) -> Any:
    return checkpoint.make_model(checkpoint_folder, CONTEXT, HORIZON, 8, **changes)


# ---------------------------------------------------------------------------------------------------------------- data


def test_only_training_values_set_the_scale(data: Data) -> None:
    np.testing.assert_allclose(data.values[:240].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(data.values[:240].std(axis=0), 1, atol=1e-5)
    raw = data.values.copy()
    raw[240:] *= 100
    np.testing.assert_allclose(Data.make("", 24, raw, [240, 320, 390]).values, raw[:390], atol=1e-3)


def test_windows_lie_within_their_part_and_look_back_into_the_one_before(data: Data) -> None:
    starts = data.starts("validation", HORIZON, 3)
    assert (starts[0], starts.step) == (240, 3)
    assert starts[-1] + HORIZON <= 320 < starts[-1] + 3 + HORIZON
    expected = [data.values[start : start + HORIZON] for start in starts]
    np.testing.assert_array_equal(data.targets(starts, HORIZON), expected)
    np.testing.assert_array_equal(data.series("test", 5).values(), data.values[315:])


def test_horizon_longer_than_the_part_is_refused(data: Data) -> None:
    with pytest.raises(ValueError, match=r"horizon=81 .* at most 80"):
        data.starts("test", 81, 1)


@pytest.mark.parametrize(
    ("name", "ends", "variables"),
    [
        ("ETTh1", (8640, 11520, 14400), 7),
        ("ETTm1", (34560, 46080, 57600), 7),
        ("Weather", (36887, 42157, 52696), 21),
    ],
)
def test_splits_of_the_literature(ett_dir: Path, name: str, ends: tuple[int, ...], variables: int) -> None:
    loaded = parts.load(name, str(ett_dir))
    assert tuple(loaded.bounds[part][1] for part in parts.PARTS) == ends
    assert loaded.values.shape == (ends[-1], variables)
    np.testing.assert_allclose(loaded.values[: ends[0]].std(axis=0, dtype=np.float64), 1, atol=1e-4)


def test_seasonal_naive_has_the_published_figure(ett_dir: Path) -> None:
    errors = parts.naive_score(parts.load("ETTh1", str(ett_dir)), "test", 96, 1)
    assert errors["mse"] == pytest.approx(0.512, abs=1e-3)
    assert errors["mae"] == pytest.approx(0.433, abs=1e-3)


def test_unknown_data_set_and_wrong_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'Traffic' is not known; choose one of ETTh1, ETTm1, Weather"):
        parts.load("Traffic", None)
    with pytest.raises(FileNotFoundError, match=r"weather\.csv does not exist"):
        parts.load("Weather", str(tmp_path))
    (tmp_path / "weather.csv").write_text("date,OT\n")
    with pytest.raises(ValueError, match=r"MD5 sum is .* expected 2e79e5e4"):
        parts.load("Weather", str(tmp_path))


# -------------------------------------------------------------------------------------------------------------- errors


def test_errors_against_a_loop() -> None:
    generator = np.random.default_rng(1)
    target = generator.standard_normal((5, 4, 2))
    quantiles = np.sort(generator.standard_normal((5, 4, 2, 5)), axis=-1)
    total = Score(QUANTILES)
    total.add(quantiles[:2], target[:2])
    total.add(quantiles[2:], target[2:])
    square, absolute, pinball, inside = [], [], [], []
    for place in np.ndindex(target.shape):
        value, forecast = target[place], quantiles[place]
        square.append((value - forecast[2]) ** 2)
        absolute.append(abs(value - forecast[2]))
        inside.append(forecast[0] <= value <= forecast[4])
        for level, quantile in zip((0.1, 0.3, 0.5, 0.7, 0.9), forecast, strict=True):
            pinball.append(level * (value - quantile) if value >= quantile else (1 - level) * (quantile - value))
    expected = {"mse": square, "mae": absolute, "pinball": pinball, "coverage": inside}
    assert total.result() == pytest.approx({name: np.mean(values) for name, values in expected.items()})


def test_missing_windows_are_noticed() -> None:
    with pytest.raises(ValueError, match="do not cover the targets"):
        Score().add(np.zeros((2, 4, 1, 1)), np.zeros((3, 4, 1)))


def test_naive_errors_against_a_loop(data: Data) -> None:
    square = []
    for start in range(320, 400 - 30 + 1, 7):
        for step in range(30):
            square.append((data.values[start + step] - data.values[start - 24 + step % 24]) ** 2)
    assert parts.naive_score(data, "test", 30, 7)["mse"] == pytest.approx(np.mean(square), rel=1e-5)


# ----------------------------------------------------------------------------------------------------------- forecasts


@pytest.mark.parametrize("levels", [(0.5,), QUANTILES])
def test_backtest_equals_forecasts_one_by_one(tiny_moirai: str, data: Data, levels: tuple[float, ...]) -> None:
    """Each window's forecast is `predict`'s from the context before it, and the network's own, variable by variable."""
    likelihood = QuantileRegression(list(levels)) if len(levels) > 1 else None
    model, starts = make(tiny_moirai, likelihood=likelihood), range(320, 360, 13)
    found = parts.forecast(model, data, starts, HORIZON, len(levels))
    assert found.shape == (len(starts), HORIZON, 3, len(levels))
    for index, start in enumerate(starts):
        context = data.values[start - CONTEXT : start]
        options = {"predict_likelihood_parameters": len(levels) > 1}
        single = model.predict(HORIZON, TimeSeries.from_values(context), **options).values()
        np.testing.assert_allclose(found[index].reshape(HORIZON, -1), single, rtol=1e-4, atol=1e-5)
        for variable in range(3):
            outputs = model.model.forecast_scales(torch.from_numpy(context[None, :, [variable]].copy()))
            for place, level in enumerate(levels):
                stats = outputs.stats[0]
                values = outputs.family.quantile(outputs.params[0], level) * stats.scale + stats.loc
                # flat contexts are forecast as they are; the network's own forecast is within its least spread
                tolerance = 0.02 if np.ptp(context[:, variable]) == 0 else 1e-4
                np.testing.assert_allclose(
                    found[index, :, variable, place], values[0, 0].detach().numpy(), atol=tolerance
                )


def test_chunks_do_not_change_the_score(tiny_moirai: str, data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(tiny_moirai)
    whole = parts.score(model, data, "test", HORIZON, 5)
    monkeypatch.setattr(parts, "CHUNK", 4)
    assert parts.score(model, data, "test", HORIZON, 5) == pytest.approx(whole, rel=1e-5)


def test_context_longer_than_what_lies_before_is_refused(tiny_moirai: str, data: Data) -> None:
    with pytest.raises(ValueError, match="no 32 steps before it; take a context of at most 20"):
        parts.forecast(make(tiny_moirai), data, range(20, 30), HORIZON)


# ------------------------------------------------------------------------------------------------------------- DLinear


def test_dlinear_takes_what_is_best_on_validation(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlinear, "LOOK_BACKS", (8, 48))
    monkeypatch.setattr(dlinear, "LEARNING_RATES", (1e-6, 1e-2))
    monkeypatch.setattr(dlinear, "EPOCHS", 2)
    model, found = dlinear.best(data, HORIZON, 4)
    tried = [(row["look_back"], row["lr"], row["validation_mse"]) for row in found["tried"]]
    assert [row[:2] for row in tried] == [(8, 1e-6), (8, 1e-2), (48, 1e-6), (48, 1e-2)]
    assert found["validation_mse"] == min(mse for _, _, mse in tried) < max(mse for _, _, mse in tried)
    assert found["lr"] == 1e-2
    assert model.input_chunk_length == found["look_back"]
    assert parts.score(model, data, "validation", HORIZON, 4)["mse"] == pytest.approx(found["validation_mse"])
    assert model.model.linear_trend.weight.shape == (HORIZON, found["look_back"])  # shared by the variables
