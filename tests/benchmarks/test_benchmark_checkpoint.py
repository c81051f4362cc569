"""The checkpoint's commands: what is chosen where, what reaches the fits, which part is scored, what is timed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from parted_waves import waves

from benchmarks import checkpoint, parts
from benchmarks.errors import Misuse
from benchmarks.parts import Data
from darts_msft import MSFTFoundationModel


@pytest.fixture
def data() -> Data:
    return waves()


def test_patch_sizes_that_fit(tiny_moirai: str) -> None:
    assert checkpoint.fitting_patches(tiny_moirai, 2016, 32) == [4, 8]
    assert checkpoint.fitting_patches(tiny_moirai, 2016, 33) == [8]
    assert checkpoint.fitting_patches(tiny_moirai, 6, 4) == [4]


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def run(tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on the waves in ETTh1's place; returns the entries written so far."""
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"dataset": "ETTh1", "weights": "an older entry's"}]))
    monkeypatch.setattr(checkpoint, "load", lambda name, folder: waves(name))

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


FINETUNE = (
    *("finetune", "--datasets", "ETTh1", "--horizons", "8", "--context", "32", "--patch-size", "4"),
    *("--epochs", "1", "--train-stride", "16", "--stride", "13"),
)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every fit with a validation series was given, and its model."""
    seen: list[dict[str, Any]] = []
    fit = MSFTFoundationModel.fit

    def spy(self: MSFTFoundationModel, series: TimeSeries, **options: Any) -> Any:
        if "val_series" in options:  # zero-shot forecasts call `fit` without
            seen.append({"model": self, "series": series, **options})
        return fit(self, series, **options)

    monkeypatch.setattr(MSFTFoundationModel, "fit", spy)
    return seen


def test_finetune_keeps_a_row_for_each_method_and_seed(run: Any) -> None:
    run(*CHOOSE)
    entry = run(*FINETUNE, "--methods", "linear_probe", "zero_shot", "--seeds", "0", "1")[-1]
    rows = [(row["method"], row["seed"]) for row in entry["rows"]]
    assert rows == [("linear_probe", 0), ("linear_probe", 1), ("zero_shot", 0), ("zero_shot", 1)]
    for row in entry["rows"][:2]:
        assert row["mse"] > 0
        assert row["trainable_parameters"] > 0
        assert row["candidates"][0][0] == "zero-shot"
        assert row["scale_weights"] == [1]
    for row in entry["rows"][2:]:
        assert row["trainable_parameters"] == 0
        assert row["mse"] == entry["zero-shot"]["mse"] > 0


@pytest.mark.parametrize(("part", "bounds"), [("validation", (240, 320)), ("test", (320, 400))])
def test_finetune_scores_the_part_that_is_asked_for(
    run: Any, data: Data, tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, part: str, bounds: tuple[int, int]
) -> None:
    """Only windows within the part are scored, all of them, for the method and for zero-shot."""
    scored: list[tuple[int, int]] = []
    forecast = parts.forecast

    def spy(model: Any, data: Data, starts: range, horizon: int, *rest: Any) -> Any:
        scored.extend((start, start + horizon) for start in starts)
        return forecast(model, data, starts, horizon, *rest)

    monkeypatch.setattr(parts, "forecast", spy)
    entry = run(*FINETUNE, "--part", part, "--methods", "zero_shot")[-1]
    windows = [(start, start + 8) for start in range(bounds[0], bounds[1] - 8 + 1, 13)]
    assert scored == windows * 2
    assert entry["settings"]["part"] == part
    errors = parts.score(checkpoint.make_model(tiny_moirai, 32, 8, 4), data, part, 8, 13)
    assert entry["zero-shot"] == pytest.approx(errors, rel=1e-5)
    assert {name: entry["rows"][0][name] for name in errors} == pytest.approx(errors, rel=1e-5)


def test_finetune_scores_the_test_part_by_default(run: Any) -> None:
    assert checkpoint.parse(["finetune"]).part == "test"
    default = run(*FINETUNE, "--methods", "zero_shot")[-1]
    assert default["zero-shot"] == run(*FINETUNE, "--methods", "zero_shot", "--part", "test")[-1]["zero-shot"]


def test_fits_see_no_test_values_and_have_the_epochs_and_stride(run: Any, data: Data, fits: Any) -> None:
    entry = run(*FINETUNE, "--methods", "msft", "--epochs", "3", "--train-stride", "20")[-1]
    [fit] = fits
    np.testing.assert_array_equal(fit["series"].values(), data.values[:240])
    np.testing.assert_array_equal(fit["val_series"].values(), data.values[240 - 32 : 320])
    assert fit["stride"] == 20
    assert fit["model"].fit_report.epochs == 3
    assert fit["model"].input_chunk_length == 32
    [row] = entry["rows"]
    assert [label for label, _ in row["candidates"]][:4] == ["zero-shot", "epoch 0", "epoch 1", "epoch 2"]
    assert row["trainable_parameters"] == fit["model"].fit_report.trained_parameters
    assert row["scale_weights"] == fit["model"].scale_weights.tolist()
    assert len(row["scale_weights"]) == 2


def test_seeds_reach_the_fit(run: Any, fits: Any) -> None:
    """Another seed gives other figures, the same seed the same ones."""
    words = (*FINETUNE, "--methods", "full", "--epochs", "2", "--seeds", "0", "1", "0")
    first, other, again = run(*words)[-1]["rows"]
    assert first["candidates"] == again["candidates"]
    assert first["mse"] == again["mse"]
    assert first["candidates"][0] == other["candidates"][0]  # before the first step
    assert first["candidates"][1] != other["candidates"][1]
    assert [fit["model"].fit_report.kept for fit in fits] != ["zero-shot"] * 3
    assert first["mse"] != other["mse"]


# --------------------------------------------------------------------------------------------------------------- speed


def test_speed_is_that_of_256_forecasts_of_96_steps_from_512() -> None:
    assert checkpoint.SPEED == {"forecasts": 256, "context": 512, "horizon": 96, "samples": 100, "rounds": 3}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Forecasts cost no work but time of a pretended clock: an hour where weights are loaded, then 4, 9, 2, 4, ... s.

    Everything else takes a day: making a model, and looking for the patch sizes.
    """
    clock, seen = SimpleNamespace(now=0.0), []
    make_model, fitting_patches = checkpoint.make_model, checkpoint.fitting_patches

    def predict(self: MSFTFoundationModel, n: int, series: Any, **options: Any) -> Any:
        first = not [call for call in seen if call["model"] is self]
        clock.now += 3600 if first else (4, 9, 2)[(len([call for call in seen if call["model"] is self]) - 1) % 3]
        seen.append({"model": self, "n": n, "series": series, "threads": torch.get_num_threads(), **options})
        return series

    def a_day(function: Any) -> Any:
        def slow(*arguments: Any, **options: Any) -> Any:
            clock.now += 86_400
            return function(*arguments, **options)

        return slow

    monkeypatch.setattr(MSFTFoundationModel, "predict", predict)
    monkeypatch.setattr(checkpoint, "make_model", a_day(make_model))
    monkeypatch.setattr(checkpoint, "fitting_patches", a_day(fitting_patches))
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return seen


@pytest.mark.parametrize("threads", [1, 3])
def test_speed_times_predict_alone_on_the_threads_asked_for(run: Any, calls: Any, threads: int) -> None:
    """The median of three calls after the one that loads the weights, at each patch size that fits."""
    before = torch.get_num_threads()
    entry = run("speed", "--threads", str(threads))[-1]
    assert entry["seconds_by_patch_size"] == {"4": 4.0, "8": 4.0}
    assert torch.get_num_threads() == before
    assert entry["threads"] == threads
    assert {call["threads"] for call in calls} == {threads}
    timed = [call for call in calls if len(call["series"]) == 256]
    assert [call["model"].model_params["patch_size"] for call in timed] == [4] * 3 + [8] * 3
    for call in timed:
        assert (call["n"], call["num_samples"]) == (96, 100)
        assert call["model"].input_chunk_length == 512
        assert call["model"].output_chunk_length == 96
        assert {len(series) for series in call["series"]} == {512}
        assert len({series.values().tobytes() for series in call["series"]}) == 256
    sizes = {name: entry[name] for name in ("forecasts", "context", "horizon", "samples", "rounds")}
    assert sizes == {"forecasts": 256, "context": 512, "horizon": 96, "samples": 100, "rounds": 3}


def test_speed_gives_the_threads_back_where_a_forecast_fails(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(MSFTFoundationModel, "predict", fail)
    before = torch.get_num_threads()
    with pytest.raises(MemoryError):
        run("speed", "--threads", str(before + 1))
    assert torch.get_num_threads() == before


def test_speed_counts_the_bytes_of_the_weights(run: Any, tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint.SPEED, "forecasts", 4)
    monkeypatch.setitem(checkpoint.SPEED, "rounds", 1)
    entry = run("speed", "--threads", "1")[-1]
    assert entry["weight_file_bytes"] == (Path(tiny_moirai) / "model.safetensors").stat().st_size
    assert all(seconds > 0 for seconds in entry["seconds_by_patch_size"].values())


def test_results_that_are_no_list_are_noticed_before_any_work(run: Any, tmp_path: Path, calls: Any) -> None:
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(Misuse, match="holds no list of entries"):
        run("speed")
    assert calls == []
