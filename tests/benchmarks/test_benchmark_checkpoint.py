"""The checkpoint's commands: what is chosen where, which part is scored, what is timed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import QuantileRegression
from three_waves import waves

from benchmarks import __main__, checkpoint
from benchmarks.data import datasets
from benchmarks.data.datasets import Dataset
from benchmarks.errors import Misuse
from benchmarks.run.measures import LEVELS, forecast, measure
from darts_msft import MSFTFoundationModel


@pytest.fixture
def data() -> Dataset:
    return waves(family="lsf")


def test_patch_sizes_that_fit(tiny_moirai: str) -> None:
    assert checkpoint.fitting_patches(tiny_moirai, 2016, 32) == [4, 8]
    assert checkpoint.fitting_patches(tiny_moirai, 2016, 33) == [8]
    assert checkpoint.fitting_patches(tiny_moirai, 6, 4) == [4]


# ------------------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def run(tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on the waves in ETTh1's place, where 8 steps are what is chosen at; returns the entries so far."""
    results = tmp_path / "results.json"
    results.write_text(json.dumps([{"dataset": "ETTh1", "weights": "an older entry's"}]))
    monkeypatch.setattr(checkpoint, "load", lambda name, family, folder: waves(name, family))
    monkeypatch.setattr(checkpoint, "CHOICE_HORIZON", 8)

    def command(*words: str) -> list[dict[str, Any]]:
        shared = ["--checkpoint", tiny_moirai, "--results", str(results)]
        checkpoint.run(checkpoint.parse([*words, *shared]))
        entries: list[dict[str, Any]] = json.loads(results.read_text())
        return entries

    return command


CHOOSE = ("choose", "--datasets", "ETTh1", "--contexts", "32", "64", "--stride", "13")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts whose windows were asked for."""
    seen: list[str] = []
    starts = Dataset.starts
    monkeypatch.setattr(Dataset, "starts", lambda self, part, *rest: seen.append(part) or starts(self, part, *rest))
    return seen


def test_choose_reads_the_validation_part_alone(run: Any, read: list[str], data: Dataset, tiny_moirai: str) -> None:
    older, entry = run(*CHOOSE)
    assert set(read) == {"validation"}
    assert older["weights"] == "an older entry's"
    rows = entry["rows"]
    assert [(row["context"], row["patch_size"]) for row in rows] == [(32, 4), (32, 8), (64, 4), (64, 8)]
    assert entry["chosen"]["mse"] == min(row["mse"] for row in rows)
    model = checkpoint.make_model(tiny_moirai, 64, 8, 4, likelihood=QuantileRegression(list(LEVELS)))
    expected = measure(model, data, "validation", 8, 13, 64, LEVELS).metrics
    assert {name: rows[2][name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert set(expected) == {"mse", "mae", "crps", "msis", "coverage"}
    assert (entry["horizon"], entry["stride"]) == (8, 13)
    assert len(entry["commit"]) == 40
    assert entry["weights"] == checkpoint.weights_hash(entry["settings"]["checkpoint"])
    assert entry["data_hash"] == hashlib.sha256(data.values.tobytes()).hexdigest()


@pytest.mark.parametrize("context", ["3", "4"])  # two patches of 4 take more
def test_choose_wants_a_context_that_fits(run: Any, context: str) -> None:
    with pytest.raises(Misuse, match=rf"no patch size of .* fits any context of \[{context}\]"):
        run("choose", "--datasets", "ETTh1", "--contexts", context)


@pytest.mark.parametrize("horizon", [8, 16])
def test_test_forecasts_the_test_part_with_what_was_chosen(
    run: Any, read: list[str], data: Dataset, tiny_moirai: str, horizon: int
) -> None:
    chosen = run(*CHOOSE)[-1]["chosen"]
    read.clear()
    entry = run("test", "--datasets", "ETTh1", "--horizons", str(horizon), "--stride", "5")[-1]
    assert set(read) == {"test"}
    [(name, row)] = entry["rows"].items()
    assert (entry["command"], entry["horizon"], name) == ("test", horizon, "zero-shot")
    assert row["settings"] == {name: chosen[name] for name in ("context", "patch_size")}
    model = checkpoint.make_model(tiny_moirai, chosen["context"], horizon, chosen["patch_size"])
    expected = measure(model, data, "test", horizon, 5, chosen["context"], None).metrics
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert entry["data_hash"] == hashlib.sha256(data.values.tobytes()).hexdigest()


def test_test_is_of_every_window_at_two_horizons_by_default() -> None:
    found = checkpoint.parse(["test"])
    assert (found.horizons, found.stride, found.datasets) == ([96, 336], 1, ["ETTh1", "ETTm1", "Weather"])
    assert checkpoint.CHOICE_HORIZON == 96


def test_test_wants_a_choice_for_the_same_weights(run: Any) -> None:
    with pytest.raises(ValueError, match="choose --datasets ETTh1"):
        run("test", "--datasets", "ETTh1")


def test_the_newest_choice_of_the_same_weights_data_and_horizon_counts() -> None:
    entries = [
        {
            "command": command,
            "weights": weights,
            "dataset": name,
            "data_hash": data_hash,
            "horizon": horizon,
            "chosen": {"context": context, "patch_size": 8},
        }
        for command, weights, name, data_hash, horizon, context in [
            ("choose", "a", "ETTh1", "x", 96, 1),
            ("choose", "a", "ETTh1", "x", 96, 2),
            ("choose", "a", "ETTm1", "x", 96, 3),
            ("choose", "b", "ETTh1", "x", 96, 4),
            ("choose", "a", "ETTh1", "y", 96, 5),
            ("choose", "a", "ETTh1", "x", 336, 6),
            ("test", "a", "ETTh1", "x", 96, 7),
        ]
    ]
    assert checkpoint.find_choice([*entries, {"rows": {}}], "a", "ETTh1", "x") == (2, 8)
    for weights, dataset, data_hash in [("c", "ETTh1", "x"), ("b", "ETTm1", "x"), ("b", "ETTh1", "y")]:
        with pytest.raises(ValueError, match=f"chosen for weights {weights}.* on {dataset} .* {data_hash}.*horizon 96"):
            checkpoint.find_choice(entries, weights, dataset, data_hash)


@pytest.mark.parametrize("levels", [None, (0.1, 0.5, 0.9)])
def test_a_backtest_is_the_network_s_own_forecast_of_each_variable(
    tiny_moirai: str, data: Dataset, levels: tuple[float, ...] | None
) -> None:
    """Each window from the context before it alone, also where that is flat."""
    values = data.values.copy()
    values[480:530, 2] = values[480, 2]
    data, starts, context = replace(data, values=values), range(490, 550, 13), 32
    model = checkpoint.make_model(
        tiny_moirai, context, 8, 8, likelihood=None if levels is None else QuantileRegression(list(levels))
    )
    found = forecast(model, data, starts, 8, context, levels)
    assert found.shape == (len(starts), 8, 3, len(levels or [0]))
    flat = 0
    for index, start in enumerate(starts):
        for variable in range(3):
            past = values[start - context : start, variable]
            outputs = model.model.forecast_scales(torch.from_numpy(past[None, :, None].copy()))
            stats = outputs.stats[0]
            for place, level in enumerate(levels or (0.5,)):
                expected = outputs.family.quantile(outputs.params[0], level) * stats.scale + stats.loc
                # flat contexts are forecast as they are; the network's own forecast is within its least spread
                tolerance = 0.02 if np.ptp(past) == 0 else 1e-4
                np.testing.assert_allclose(
                    found[index, :, variable, place], expected[0, 0].detach().numpy(), rtol=1e-5, atol=tolerance
                )
            flat += np.ptp(past) == 0
    assert flat == 2


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


def test_what_was_not_chosen_yet_is_a_line(tmp_path: Path, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "load", lambda *asked: data)
    monkeypatch.setattr(checkpoint, "quiet", lambda: None)
    with pytest.raises(Misuse, match=r"^no context and patch size were chosen for"):
        checkpoint.main(["test", "--datasets", "ETTh1", "--results", str(tmp_path / "new.json")])
    assert not (tmp_path / "new.json").exists()


def test_a_checkpoint_that_is_not_there_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "quiet", lambda: None)
    with pytest.raises(Misuse, match=r"^--checkpoint: .*nowhere.*a directory with config\.json"):
        checkpoint.main(["speed", "--checkpoint", str(tmp_path / "nowhere"), "--results", str(tmp_path / "new.json")])


@pytest.mark.parametrize(
    ("made", "says"),
    [({}, "has no config.json"), ({"config.json": "{"}, "is not valid JSON"), ({"config.json": "{}"}, "describes no")],
)
def test_a_directory_that_is_no_checkpoint_is_a_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    made: dict[str, str],
    says: str,
) -> None:
    monkeypatch.setattr(checkpoint, "quiet", lambda: None)
    folder = tmp_path / "nothing"
    folder.mkdir()
    for name, text in made.items():
        (folder / name).write_text(text)
    words = ["--checkpoint", str(folder), "--results", str(tmp_path / "new.json")]
    assert __main__.main(["checkpoint", "choose", *words]) == __main__.MISUSED
    error = capsys.readouterr().err
    assert error.startswith("python -m benchmarks checkpoint: --checkpoint: ")
    assert says in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("only_given_places", "run")
def test_data_that_are_not_there_are_a_line(tmp_path: Path, tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "load", datasets.load)
    monkeypatch.setattr(checkpoint, "quiet", lambda: None)
    shared = ["--data", str(tmp_path / "nowhere"), "--results", str(tmp_path / "new.json"), "--checkpoint", tiny_moirai]
    with pytest.raises(Misuse, match="nowhere"):
        checkpoint.main(["choose", "--datasets", "Weather", *shared])
    assert not (tmp_path / "new.json").exists()
