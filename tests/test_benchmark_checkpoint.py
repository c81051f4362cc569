"""The checkpoint's benchmark: splits, windows, errors, forecasts in chunks, and what is chosen where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression

from benchmarks import checkpoint, dlinear, parts
from benchmarks.parts import QUANTILES, Data, Score

CONTEXT, HORIZON = 32, 8


@pytest.fixture
def data() -> Data:
    """Three noisy daily waves on different levels; the third is flat for stretches longer than a context."""
    time = np.arange(400)[:, None]
    noise = np.random.default_rng(0).standard_normal((400, 3))
    values = np.sin(2 * np.pi * time / 24 + np.arange(3)) * [1, 5, 2] + [10, -20, 0] + 0.2 * noise
    values[:, 2] = np.where(time[:, 0] % 120 < 60, 0, values[:, 2])
    return Data.make("waves", 24, values, [240, 320, 400])


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


def test_patch_sizes_that_fit(tiny_moirai: str) -> None:
    assert checkpoint.fitting_patches(tiny_moirai, 2016, 32) == [4, 8]
    assert checkpoint.fitting_patches(tiny_moirai, 2016, 33) == [8]
    assert checkpoint.fitting_patches(tiny_moirai, 6, 4) == [4]


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def run(data: Data, tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on the waves in ETTh1's place; returns the entries written so far."""
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"dataset": "ETTh1", "weights": "an older entry's"}]))
    named = Data("ETTh1", data.day, data.values, data.bounds)
    monkeypatch.setattr(checkpoint, "load", lambda name, folder: named)

    def command(*words: str) -> list[dict[str, Any]]:
        shared = ["--checkpoint", tiny_moirai, "--results", str(results)]
        checkpoint.run(checkpoint.parse([*words, *shared]))
        entries: list[dict[str, Any]] = json.loads(results.read_text())
        return entries

    return command


CHOOSE = ("choose", "--datasets", "ETTh1", "--contexts", "32", "64", "--stride", "13", "--horizon", "8")


def test_choose_reads_the_validation_part_alone(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read, starts = [], Data.starts
    monkeypatch.setattr(Data, "starts", lambda self, part, *rest: read.append(part) or starts(self, part, *rest))
    older, entry = run(*CHOOSE)
    assert set(read) == {"validation"}
    assert older["weights"] == "an older entry's"
    rows = entry["rows"]
    assert [(row["context"], row["patch_size"]) for row in rows] == [(32, 4), (32, 8), (64, 4), (64, 8)]
    assert entry["chosen"]["mse"] == min(row["mse"] for row in rows)
    assert all(0 <= row["coverage"] <= 1 and row["pinball"] < row["mae"] for row in rows)
    assert len(entry["commit"]) == 40
    assert entry["weights"] == checkpoint.weights_hash(entry["settings"]["checkpoint"])


def test_test_forecasts_with_what_was_chosen(run: Any, data: Data, tiny_moirai: str) -> None:
    chosen = run(*CHOOSE)[-1]["chosen"]
    models = ("--models", "zero-shot", "seasonal naive")
    rows = run("test", "--datasets", "ETTh1", "--horizons", "8", "--stride", "5", *models)[-1]["rows"]
    pair = {name: chosen[name] for name in ("context", "patch_size")}
    assert rows["zero-shot"]["settings"] == pair
    model = checkpoint.make_model(tiny_moirai, chosen["context"], 8, chosen["patch_size"])
    assert rows["zero-shot"]["mse"] == pytest.approx(parts.score(model, data, "test", 8, 5)["mse"], rel=1e-5)
    assert rows["seasonal naive"]["mae"] == parts.naive_score(data, "test", 8, 5)["mae"]


def test_test_wants_a_choice_for_the_same_weights(run: Any) -> None:
    with pytest.raises(ValueError, match="choose --datasets ETTh1"):
        run("test", "--datasets", "ETTh1")


def test_the_newest_choice_of_the_same_weights_counts() -> None:
    entries = [
        {"command": command, "weights": weights, "dataset": name, "chosen": {"context": context, "patch_size": 8}}
        for command, weights, name, context in [
            ("choose", "a", "ETTh1", 1),
            ("choose", "a", "ETTh1", 2),
            ("choose", "a", "ETTm1", 3),
            ("choose", "b", "ETTh1", 4),
        ]
    ]
    assert checkpoint.find_choice([*entries, {"rows": {}}], "a", "ETTh1") == (2, 8)
    with pytest.raises(ValueError, match="no context and patch size were chosen for weights c"):
        checkpoint.find_choice(entries, "c", "ETTh1")


def test_finetune_keeps_a_row_for_each_method_and_seed(run: Any) -> None:
    run(*CHOOSE)
    words = ("--datasets", "ETTh1", "--horizons", "8", "--context", "32", "--patch-size", "4", "--epochs", "1")
    part = ("--part", "validation", "--train-stride", "16", "--stride", "13")
    entry = run("finetune", *words, *part, "--methods", "msft", "--seeds", "0", "1")[-1]
    assert [(row["method"], row["seed"]) for row in entry["rows"]] == [("msft", 0), ("msft", 1)]
    for row in entry["rows"]:
        assert row["mse"] > 0
        assert row["trainable_parameters"] > 0
        assert row["candidates"][0][0] == "zero-shot"
    assert entry["zero-shot"]["mse"] > 0


def test_speed_counts_the_bytes_of_the_weights(run: Any, tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint.SPEED, "forecasts", 4)
    monkeypatch.setitem(checkpoint.SPEED, "rounds", 1)
    before = torch.get_num_threads()
    entry = run("speed", "--threads", "2")[-1]
    assert torch.get_num_threads() == before
    assert entry["weight_file_bytes"] == (Path(tiny_moirai) / "model.safetensors").stat().st_size
    assert entry["seconds_by_patch_size"].keys() == {"4", "8"}
    assert entry["forecasts"] == 4


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
