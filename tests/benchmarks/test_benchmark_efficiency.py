"""The benchmark of costs: what is measured, that both sides do the same work, ratios, verdicts, and what is kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries

from benchmarks import efficiency, efficiency_cases, efficiency_report
from benchmarks.efficiency import Model, Record
from benchmarks.efficiency_cases import Case, Settings
from benchmarks.errors import Misuse
from benchmarks.run.processes import ProcessFailed

SETTINGS = Settings(horizon=8, samples=7, series=3, threads=1, accelerator="cpu")


def case(backbone: str, what: str = "forecast", method: str = "msft", scales: int = 0, context: int = 32) -> Case:
    return Case("tiny", backbone, what, method, scales, context, patch=4, batch=2)


def asked(*words: str) -> Any:
    return efficiency.parse(["--horizon", "8", "--batch", "2", *words])


def row(what: str, method: str, seconds: float, context: int = 512, **more: Any) -> dict[str, Any]:
    place = {"model": "tiny", "what": what, "method": method, "K": 0, "context": context, "patch": 4, "batch": 2}
    found = {"seconds": seconds, "iqr": 0.1, "runs": 3, "peak_memory_bytes": 10**6, "ratio": {}}
    return {**place, **found, **more}


def goal(rows: list[dict[str, Any]], word: str) -> Any:
    """The verdict on the goal that has the word, and its detail."""
    (found,) = [each for each in efficiency_report.verdicts(rows) if word in each["goal"]]
    return found["holds"], found["detail"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """No process is started: each case takes as many seconds as its name is long. The cases in their order."""
    order: list[Case] = []

    def fake(function: Callable[..., Any], case: Case, settings: Settings, *more: Any) -> Any:
        if function is efficiency_cases.profile:
            return "operations"
        order.append(case)
        return {"seconds": [float(len(case.method))], "peak_memory_bytes": len(order), "peak_restarted": True}

    monkeypatch.setattr(efficiency, "isolated", fake)
    return order


# ------------------------------------------------------------------------------------------------- what is measured


def test_contexts_and_scales_that_do_not_fit_are_listed() -> None:
    record = Record()
    models = [Model("moirai-tiny", "moirai-tiny", (32,))]
    words = asked("--horizon", "96", "--contexts", "512", "8192", "--cases", "step")
    (group,) = efficiency.plan(words, models, record)
    assert [(each.method, each.scales) for each in group] == [
        ("full", 0),
        ("full_uni2ts", 0),
        *(("msft", scales) for scales in range(4)),
        ("one_sequence", 2),
    ]
    scale, context = record.left_out
    assert (scale["method"], scale["K"], scale["context"]) == ("msft", 4, 512)
    assert "allowed are 0 to 3" in scale["reason"]
    assert (context["model"], context["context"]) == ("moirai-tiny", 8192)
    assert "259 tokens" in context["reason"]


def test_the_first_patch_size_that_fits_is_taken(tiny_moirai: str) -> None:
    record, model = Record(), Model("tiny", tiny_moirai, (4, 8))
    found = list(efficiency.plan(asked("--contexts", "64", "3000", "--cases", "forecast"), [model], record))
    assert [{(each.context, each.patch) for each in group} for group in found] == [{(64, 4)}, {(3000, 8)}]
    left_out = [(part["method"], part["K"], part["context"]) for part in record.left_out]
    assert left_out == [("msft", 4, 64), ("msft", 4, 3000), ("one_sequence", 2, 3000)]


def test_cases_take_turns_there_and_back(measured: list[Case]) -> None:
    record, group = Record(), [case("", method=method) for method in ("zero_shot", "uni2ts", "msft")]
    efficiency.measure_group(group, 3, SETTINGS, record)
    assert measured == [*group, *reversed(group), *group]
    assert [(row["seconds"], row["runs"]) for row in record.rows] == [(9, 3), (6, 3), (4, 3)]
    assert record.rows[2]["ratio"] == {"zero_shot": 4 / 9, "uni2ts": 4 / 6}
    assert [row["peak_memory_bytes"] for row in record.rows] == [7, 8, 9]


def test_a_case_that_fails_once_has_no_row(measured: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    working = efficiency.isolated

    def failing(function: Any, each: Case, *more: Any) -> Any:
        if each.method == "uni2ts" and len(measured) > 3:
            raise ProcessFailed("Traceback\nMemoryError: too much")
        return working(function, each, *more)

    monkeypatch.setattr(efficiency, "isolated", failing)
    record, group = Record(), [case("", method=method) for method in ("zero_shot", "uni2ts", "msft")]
    efficiency.measure_group(group, 2, SETTINGS, record)
    assert [row["method"] for row in record.rows] == ["zero_shot", "msft"]
    assert list(record.rows[1]["ratio"]) == ["zero_shot"]
    assert [part["reason"] for part in record.failed] == ["MemoryError: too much"]


def test_backtests_are_of_two_lengths_and_batches_by_zero_shot_and_msft(
    measured: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = efficiency.isolated

    def fake(*words: Any) -> Any:
        return {**working(*words), "windows": 5, "result_bytes": 6, "beyond_result_bytes": 7}

    monkeypatch.setattr(efficiency, "isolated", fake)
    record = Record()
    efficiency.backtest(asked("--horizon", "96"), Model("moirai-tiny", "moirai-tiny", (32,)), record)
    expected = [
        (method, scales, batch, length)
        for method, scales in (("zero_shot", 0), ("msft", 2))
        for batch in (32, 256)
        for length in (2880, 11520)
    ]
    assert [(each["method"], each["K"], each["batch"], each["length"]) for each in record.rows] == expected
    assert {(each["windows"], each["result_bytes"], each["beyond_result_bytes"]) for each in record.rows} == {(5, 6, 7)}


# --------------------------------------------------------------------------------------------------- the same work


def test_a_backtest_has_every_window(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    series = TimeSeries.from_values(np.random.default_rng(0).standard_normal((46100, 2)))
    monkeypatch.setattr(efficiency_cases, "load_dataset", lambda name, folder: series)
    monkeypatch.setattr(efficiency_cases, "be_quiet", lambda threads: None)
    found = efficiency_cases.measure_backtest(replace(case(tiny_moirai), length=20), SETTINGS, None)
    assert found["windows"] == 20 - 8 + 1
    assert found["result_bytes"] > 13 * 8 * 2 * 4
    assert found["beyond_result_bytes"] == found["peak_memory_bytes"] - found["result_bytes"]
    assert found["peak_restarted"] is (sys.platform == "linux")


def test_a_case_is_timed_and_profiled(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficiency_cases, "be_quiet", lambda threads: None)
    monkeypatch.setattr(efficiency_cases, "LEAST_SECONDS", 0.05)
    step = case(tiny_moirai, "step", scales=2)
    assert 0.05 < sum(efficiency_cases.measure(step, SETTINGS)["seconds"]) < 5
    lines = efficiency_cases.profile(step, SETTINGS).splitlines()
    assert 5 < sum("aten::" in line for line in lines) <= efficiency_cases.PROFILE_ROWS


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin a new peak")
def test_a_peak_with_what_came_before_says_so(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(efficiency_cases, "be_quiet", lambda threads: None)
    monkeypatch.setattr(efficiency_cases, "LEAST_SECONDS", 0.01)
    each = case(tiny_moirai, "forecast")
    parts = [efficiency_cases.measure(each, SETTINGS)]
    assert efficiency.row_of(each, parts)["peak_restarted"] is True
    np.ones(50_000_000).sum()  # 400 MB, given back at once
    monkeypatch.setattr(efficiency_cases, "CLEAR_REFS", tmp_path / "no folder" / "clear_refs")
    parts.append(efficiency_cases.measure(each, SETTINGS))
    assert parts[1]["peak_memory_bytes"] > 300e6
    assert efficiency.row_of(each, parts)["peak_restarted"] is False


@pytest.mark.parametrize("method", ["uni2ts", "zero_shot", "msft"])
def test_every_predictor_draws_as_many_samples_of_each_series(tiny_moirai: str, method: str) -> None:
    found = efficiency_cases.forecasting(case(tiny_moirai, method=method), SETTINGS)()
    shapes = [
        np.shape(each.samples) if method == "uni2ts" else each.all_values()[:, 0].T.shape  # (samples, steps)
        for each in found
    ]
    assert shapes == [(7, 8)] * 3


def test_both_predictors_forecast_the_same(tiny_moirai: str) -> None:
    """Their medians agree within sampling error, so they run the same network on the same series."""
    settings = replace(SETTINGS, samples=2000)
    theirs = efficiency_cases.forecasting(case(tiny_moirai, method="uni2ts"), settings)()
    ours = efficiency_cases.forecasting(case(tiny_moirai, method="zero_shot"), settings)()
    for their, our in zip(theirs, ours, strict=True):
        spread = np.subtract(*np.quantile(their.samples, [0.75, 0.25], axis=0))
        middle = our.quantile(0.5).values()[:, 0]
        assert np.all(np.abs(np.median(their.samples, axis=0) - middle) < 0.2 * spread)


@pytest.mark.parametrize(("method", "scales", "seen"), [("zero_shot", 0, 1), ("msft", 2, 3), ("one_sequence", 2, 3)])
def test_every_scale_of_msft_is_at_work(tiny_moirai: str, method: str, scales: int, seen: int) -> None:
    module = efficiency_cases.load(case(tiny_moirai, method=method, scales=scales), SETTINGS).model
    assert len(module.forecast_scales(torch.zeros(1, 32, 1)).params) == seen
    assert module.method.joined == (method == "one_sequence")


@pytest.mark.parametrize(("context", "tolerance"), [(32, 1e-5), (30, 1e-2)])
def test_uni2ts_full_finetuning_has_the_loss_of_ours(tiny_moirai: str, context: int, tolerance: float) -> None:
    """Up to the units: uni2ts' densities are of the values themselves, ours of standardised ones.

    Padding enters the network as zero there, as the location here.
    """
    settings = replace(SETTINGS, horizon=6)  # no whole patches
    ours, theirs = (
        efficiency_cases.training_step(case(tiny_moirai, "step", method, 0, context), settings).args[0]
        for method in ("full", "full_uni2ts")
    )
    module, batch = ours.args
    units = module.forecast_scales(batch.past_target).stats[0].scale.log().mean().item()
    assert ours().item() == pytest.approx(theirs().item() - units, rel=tolerance)


def test_a_step_trains(tiny_moirai: str) -> None:
    step = efficiency_cases.training_step(case(tiny_moirai, "step", "msft", 2), SETTINGS)
    loss = step.args[0]
    before = loss().item()
    for _ in range(10):
        step()
    assert loss().item() < before


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin a new peak")
def test_memory_before_does_not_count() -> None:
    np.ones(50_000_000).sum()  # 400 MB, given back at once
    memory = efficiency_cases.Memory("cpu")
    assert memory.peak() < 50e6
    np.ones(25_000_000).sum()
    assert memory.peak() == pytest.approx(200e6, rel=0.1)


def test_size_of_forecasts_counts_values_and_what_is_around_them() -> None:
    short = [TimeSeries.from_values(np.zeros((96, 7), np.float32)) for _ in range(200)]
    size, values = efficiency_cases.size_of(short), 200 * 96 * 7 * 4
    assert values < size < values + 200 * 10_000
    assert efficiency_cases.size_of(short * 3) == pytest.approx(3 * size, rel=0.1)


def test_imports_are_summed_from_the_start_up_on() -> None:
    log = """import time: self [us] | cumulative | imported package
import time:       983 |       2938 | site
import time:        10 |         40 |   torch.inner
import time:       200 |    1000000 | torch
other text
import time:       200 |     500000 | darts"""
    assert efficiency_cases.imported(log) == 1.5


# --------------------------------------------------------------------------------------------- ratios and verdicts


def test_ratios_are_to_the_reference_of_the_same_context() -> None:
    rows = [row("step", "full", 2.0), row("step", "msft", 3.0), row("step", "full", 8.0, 2048)]
    rows += [row("step", "msft", 6.0, 2048), row("forecast", "msft", 5.0), row("forecast", "full", 1.0)]
    found = [each["ratio"] for each in efficiency_report.with_ratios(rows)]
    assert found == [{"full": 1.0}, {"full": 1.5}, {"full": 1.0}, {"full": 0.75}, {}, {}]


def test_a_goal_holds_where_all_of_msft_keeps_it() -> None:
    rows = [row("step", "msft", 1.0, ratio={"full": 1.3}), row("step", "one_sequence", 9.0, ratio={"full": 9.0})]
    assert goal(rows, "1.3") == (True, "1 of 1 cases keep it; worst 1.30 (tiny, context 512, K = 0)")
    rows.append(row("step", "msft", 1.0, 2048, ratio={"full": 1.31}))
    assert goal(rows, "1.3") == (False, "1 of 2 cases keep it; worst 1.31 (tiny, context 2048, K = 0)")
    assert goal(rows, "1.6") == (None, "")


def test_five_times_as_many_forecasts_are_a_fifth_of_the_seconds() -> None:
    rows = [row("forecast", "uni2ts", 10.0), row("forecast", "msft", 2.0)]
    assert goal(efficiency_report.with_ratios(rows), "uni2ts")[0]
    rows[1]["seconds"] = 2.1
    assert goal(efficiency_report.with_ratios(rows), "uni2ts")[0] is False


def test_memory_may_not_grow_with_the_windows() -> None:
    def backtests(batch: int, *beyond: int) -> list[dict[str, Any]]:
        lengths = zip((100, 400), beyond, strict=True)
        found = [row("memory", "zero_shot", 1.0, length=each, beyond_result_bytes=much) for each, much in lengths]
        return [{**each, "batch": batch} for each in found]

    assert goal(backtests(32, 100, 150), "bounded")[0]
    holds, detail = goal(backtests(32, 100, 150) + backtests(256, 1000, 1510), "bounded")
    assert holds is False
    assert "1 of 2 cases keep it" in detail
    assert "zero_shot, batch 256" in detail
    assert goal(backtests(32, 100, 150)[:1], "bounded")[0] is None


def test_peaks_that_could_not_be_begun_anew_are_told() -> None:
    rows = [
        {**row("step", "full", 1.0), "peak_restarted": True},
        {**row("forecast", "msft", 1.0), "peak_restarted": True},
    ]
    entry = {"made": "today", "commit": "0" * 40, "threads": 2, "device": "cpu", "rows": rows, "goals": []}
    entry |= {"left_out": [], "failed": []}
    assert "Peaks of" not in efficiency_report.render(entry)
    rows[1]["peak_restarted"] = False
    told = "Peaks of forecast: the system can't begin a new one, so they may be those of loading the model."
    assert told in efficiency_report.render(entry)


# ---------------------------------------------------------------------------------------------------- what is kept


def quick(results: Path, *words: str) -> Any:
    options = ("--models", "moirai-tiny", "--cases", "step", "--contexts", "512", "--horizon", "96", "--rounds", "1")
    return efficiency.parse([*options, "--results", str(results), *words])


def test_an_entry_is_added_to_those_before(tmp_path: Path, measured: list[Case], capsys: Any) -> None:
    path = tmp_path / "found.json"
    assert efficiency.run(quick(path)) == 0
    first = path.read_text()
    assert efficiency.run(quick(path, "--contexts", "1024")) == 0
    entries = json.loads(path.read_text())
    assert entries[:1] == json.loads(first)
    assert [{each["context"] for each in entry["rows"]} for entry in entries] == [{512}, {1024}]
    assert (tmp_path / "found" / entries[0]["profiles"][0]).read_text().endswith("operations")
    out = capsys.readouterr().out
    assert "| moirai-tiny | 512 | 32 | 32 | msft, K = 3 | 4.000 | 0.000 | 1 | 0 | 1.00 | 0.36 |" in out
    assert "full finetuning's: **holds**; 4 of 4 cases keep it; worst 1.00" in out


def test_an_interrupted_run_keeps_what_is_whole(
    tmp_path: Path, measured: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    working = efficiency.isolated

    def interrupted(function: Any, each: Case, *more: Any) -> Any:
        if each.context == 1024:
            raise KeyboardInterrupt
        return working(function, each, *more)

    monkeypatch.setattr(efficiency, "isolated", interrupted)
    path = tmp_path / "found.json"
    with pytest.raises(KeyboardInterrupt):
        efficiency.run(quick(path, "--contexts", "512", "1024"))
    (entry,) = json.loads(path.read_text())
    assert {each["context"] for each in entry["rows"]} == {512}


def test_nothing_that_fits_is_an_error_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    words = ["--models", "moirai-tiny", "--cases", "step", "--contexts", "8192", "--results", str(path)]
    with pytest.raises(Misuse, match="nothing was measured: input_chunk_length=8192"):
        efficiency.main(words)
    assert not path.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rounds", "0"), "--rounds 0 is not allowed; give an integer of at least 1"),
        (("--contexts", "512", "-1"), "--contexts -1 is not allowed; give numbers of steps"),
        (("--accelerator", "cuda"), "--accelerator cuda: torch sees no CUDA device"),
        (("--cases", "memory"), "--cases memory needs ETTm1.csv"),
        (("--cases", "memory", "--data", "nowhere"), "--cases memory: .*nowhere"),
    ],
)
def test_what_cannot_be_measured_is_refused_before(
    tmp_path: Path, only_given_places: None, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Misuse, match=says):
        efficiency.run(quick(tmp_path / "found.json", *words))


@pytest.mark.parametrize("content", ["{", "{}"])
def test_a_file_that_holds_no_results_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "found.json"
    path.write_text(content)
    with pytest.raises(Misuse, match="restore it, or give another file"):
        efficiency.run(quick(path))
    assert path.read_text() == content
