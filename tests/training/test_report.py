"""The report of a fit: what it says of series, members, the naive forecast, and time."""

from __future__ import annotations

import logging
import pickle
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from darts.utils.data.torch_datasets.training_dataset import SequentialTorchTrainingDataset
from model_fixtures import CONTEXT, HORIZON, LEARNS, LONG, STILL, TRAINER, from_values, make_model, naive_unit, wave

from darts_msft import MSFTFoundationModel
from darts_msft.training.report import Candidate, FitReport

REPORT = FitReport("zero-shot", (Candidate("zero-shot", 0.5, 0),), 1, 2, (), 0.5)


def hourly(level: float, size: float, length: int, seed: int) -> Any:
    """A day's wave of any level and size, with noise."""
    noise = 0.3 * np.random.default_rng(seed).standard_normal(length)
    values = level + size * (np.sin(2 * np.pi * np.arange(length) / 24) + noise)
    return from_values(values[:, None].astype(np.float32))


# --- the score and the naive forecast ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"method": "zero_shot"}, {"method": "msft", **STILL}])
def test_a_series_counts_the_same_in_any_unit(tiny_moirai: str, how: dict[str, Any]) -> None:
    """At a thousand times the level and size a series has the same score, and the same part in the mean."""
    options = {**LONG, **how, "likelihood": None}
    reports = []
    for size in (1.0, 1000.0):
        train = [hourly(0, 1, 150, 0), hourly(0, size, 150, 1)]
        val = [hourly(0, 1, 48, 2), hourly(0, size, 48, 3)]
        reports.append(make_model(tiny_moirai, **options).fit(train, val_series=val).fit_report)
    one, other = reports
    assert [c.score for c in one.candidates] == pytest.approx([c.score for c in other.candidates], rel=1e-3)
    assert one.naive == pytest.approx(other.naive, rel=1e-3)
    assert one.before == pytest.approx(one.per_series["before"].mean())
    assert one.best == pytest.approx(one.per_series["kept"].mean())
    assert one.naive == pytest.approx(one.per_series["naive"].mean())


def test_each_series_has_its_own_errors(tiny_moirai: str) -> None:
    """By hand: points and the seasonal naive over all windows of each series, in its unit."""
    train, val = [wave(100), wave(120, seed=3) * 5.0], [wave(50, seed=1), wave(60, seed=2) * 5.0]
    # a window has 32 steps, a season 24
    model = make_model(tiny_moirai, method="zero_shot", likelihood=None, **LONG).fit(train, val_series=val)
    alone, frame = make_model(tiny_moirai, likelihood=None, num_scales=0), model.fit_report.per_series
    for number, (series, before) in enumerate(zip(val, train, strict=True)):
        values = series.values()
        starts = range(CONTEXT, len(values) - HORIZON + 1)
        naive = [np.abs(values[at : at + HORIZON] - values[at - 24 :][:HORIZON]) for at in starts]
        ours = [np.abs(values[at : at + HORIZON] - alone.predict(HORIZON, series[:at]).values()) for at in starts]
        # the shorter series' windows come again, so that both have as many
        repeats = np.arange(60 - CONTEXT - HORIZON + 1) % len(starts)
        for name, errors in (("naive", naive), ("before", ours)):
            expected = np.mean([errors[::-1][at] for at in repeats]) / naive_unit(before)[0]
            assert frame.loc[number, name] == pytest.approx(expected, rel=1e-4)


def test_a_season_longer_than_the_input(tiny_moirai: str) -> None:
    """The last value is the naive forecast; the unit stays the season's."""
    train, val = hourly(0, 1, 300, 0), hourly(0, 1, 60, 1)
    options = {"input_chunk_length": 16, "method": "zero_shot", "finest_context": 8, "num_scales": 1}
    report = make_model(tiny_moirai, **options).fit(train, val_series=val).fit_report
    values = val.values()
    errors = [np.abs(values[at : at + HORIZON] - values[at - 1]) for at in range(16, 60 - HORIZON + 1)]
    assert (report.season, report.naive_season) == (24, None)
    assert report.naive == pytest.approx(np.mean(errors) / naive_unit(train)[0], rel=1e-4)


def test_windows_shorter_than_a_season(tiny_moirai: str) -> None:
    """Padded on the left: the naive forecast is the last value there, and the unit of such a series too."""
    train = [hourly(0, 1, 300, 0), hourly(0, 1, 20, 2)]
    options = {"input_chunk_length": (8, CONTEXT), "method": "zero_shot", "finest_context": 16, "num_scales": 1}
    for lengths, share in (((20, 20), None), ((60, 60), 1.0), ((60, 20), "mixed")):
        val = [hourly(0, 1, length, seed) for seed, length in enumerate(lengths, 3)]
        report = make_model(tiny_moirai, **options).fit(train, val_series=val).fit_report
        assert (report.season, report.season_share) == (24, 0.5)  # the second training series is shorter
        if share is None:
            assert report.naive_season is None
            values = [one.values() for one in val]
            unit = [naive_unit(train[0])[0], naive_unit(train[1], season=1)[0]]
            errors = [[np.abs(one[at:][:HORIZON] - one[at - 1]) for at in range(8, 20 - HORIZON + 1)] for one in values]
            expected = np.mean([np.mean(one) / own for one, own in zip(errors, unit, strict=True)])
            assert report.naive == pytest.approx(expected, rel=1e-4)
        elif share == 1.0:
            # some of the windows have no more than 8 to 23 steps
            assert 0.5 < report.naive_share < 1
        else:
            assert 0.2 < report.naive_share < 0.5
        assert report.naive_season == (None if share is None else 24)


def test_datasets_of_series_are_as_series(tiny_moirai: str) -> None:
    lengths = {"input_chunk_length": CONTEXT, "output_chunk_length": HORIZON}
    train, val = [wave(100), wave(100, seed=1)], [wave(60, seed=2), wave(60, seed=3)]
    one, other = (make_model(tiny_moirai, method="zero_shot", **LONG) for _ in range(2))
    one.fit(train, val_series=val)
    other.fit_from_dataset(*(SequentialTorchTrainingDataset(part, **lengths) for part in (train, val)))
    assert one.fit_report.candidates == other.fit_report.candidates
    assert one.fit_report.by_series == other.fit_report.by_series


def test_samplers_and_workers_change_nothing(tiny_moirai: str) -> None:
    train, val = [wave(100), wave(100, seed=1) * 9.0], [wave(60, seed=2), wave(60, seed=3) * 9.0]
    shuffled = {"sampler": np.random.default_rng(0).permutation(2 * 21).tolist(), "shuffle": False}
    frames = []
    for how in ({}, shuffled, {"num_workers": 1, "persistent_workers": True}):
        model = make_model(tiny_moirai, method="zero_shot", likelihood=None, **LONG)
        frames.append(model.fit(train, val_series=val, dataloader_kwargs=how).fit_report.per_series)
    for frame in frames[1:]:
        np.testing.assert_allclose(frame["before"], frames[0]["before"], rtol=1e-5)
        np.testing.assert_allclose(frame["naive"], frames[0]["naive"], rtol=1e-5)


# --- by series --------------------------------------------------------------------------------------------------------


def test_series_that_got_worse_are_named() -> None:
    rows = ((0, "a", 1.0, 0.5, 0.4), (1, "a", 1.0, None, 0.9), (2, "a", 0.1, 0.2, 0.3))
    frame = replace(REPORT, by_series=rows).per_series
    assert frame["worse"].tolist() == [False, False, True]
    assert frame["ratio"].tolist() == pytest.approx([0.8, np.nan, 1.5], nan_ok=True)
    assert frame["component"].tolist() == ["a"] * 3


def test_kept_scores_are_those_of_the_best_state(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, n_epochs=2, **LEARNS)
    train, val = [wave(100, 2), wave(100, 2, seed=1)], [wave(60, 2, seed=2), wave(60, 2, seed=3)]
    report = model.fit(train, val_series=val).fit_report
    assert len(report.per_series) == 4
    assert report.kept.startswith("epoch")
    assert report.per_series["kept"].mean() == pytest.approx(report.best, rel=1e-6)
    assert report.per_series["before"].mean() == pytest.approx(report.before, rel=1e-6)
    again = model.fit(train, val_series=val, epochs=1).fit_report
    np.testing.assert_allclose(again.per_series["before"], report.per_series["kept"], rtol=1e-6)


def test_series_beyond_those_that_are_scored_have_no_score(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darts_msft.training.windows.VALIDATION_WINDOWS", 4)
    val = [wave(50, 2, seed=seed) for seed in range(8)]
    report = make_model(tiny_moirai, method="zero_shot").fit(wave(100, 2), val_series=val).fit_report
    scored = report.per_series.groupby("series")["kept"].count()
    assert scored.tolist() == [0, 2] * 4
    assert not report.per_series["worse"][::4].any()
    assert "4 of 8 series" in str(report)
    everything = make_model(tiny_moirai, method="zero_shot").fit(wave(100, 2), val_series=val[:4]).fit_report
    assert everything.per_series.notna().all(axis=None)
    assert "of 4 series" not in str(everything)


# --- in words ---------------------------------------------------------------------------------------------------------


def test_it_warns_where_the_naive_forecast_is_better() -> None:
    assert replace(REPORT, naive=0.6).warning is None
    worse = replace(REPORT, naive=0.4)
    assert worse.warning is not None
    assert worse.warning in str(worse)
    both = replace(worse, observed=0.3)
    assert both.warning is not None
    assert both.warning.startswith("only 30%")
    assert both.warning.endswith(f"; also, {worse.warning}")


def test_it_names_components_without_a_score(tiny_moirai: str) -> None:
    val = wave(CONTEXT + HORIZON + 40, 2, seed=1)
    values = val.values().copy()
    values[CONTEXT:, 1] = np.nan
    report = (
        make_model(tiny_moirai, method="zero_shot").fit(wave(100, 2), val_series=val.with_values(values)).fit_report
    )
    assert report.warning is not None
    assert "nothing of 1 was scored on the validation series" in report.warning
    rows = ((0, "a", 1.0, 1.0, 0.5), (0, "b", None, None, None), (1, "a", None, None, None), (1, "b", 1.0, 1.0, 0.5))
    assert replace(REPORT, naive=0.6, by_series=rows).warning is None


@pytest.mark.parametrize("method", ["zero_shot", "lora"])
def test_it_says_so_where_most_of_the_validation_part_is_a_gap(tiny_moirai: str, method: str) -> None:
    val = wave(CONTEXT + HORIZON + 40, seed=1)
    values = val.values().copy()
    values[-30:-1] = np.nan
    report = make_model(tiny_moirai, method=method).fit(wave(100), val_series=val.with_values(values)).fit_report
    windows = np.lib.stride_tricks.sliding_window_view(values[CONTEXT:, 0], HORIZON)
    assert report.observed == pytest.approx(np.isfinite(windows).mean())
    assert report.warning is not None
    assert report.warning.startswith(f"only {report.observed:.0%} of the values to forecast")
    assert report.warning in str(report)
    whole = make_model(tiny_moirai, method=method).fit(wave(100), val_series=val).fit_report
    assert whole.observed == 1
    assert "gaps" not in str(whole)


def test_the_last_epoch_as_the_best_one() -> None:
    first, second = Candidate("epoch 1", 0.4, 5), Candidate("epoch 2", 0.3, 10)
    assert replace(REPORT, candidates=(*REPORT.candidates, first, second)).still_improving
    assert not replace(REPORT, candidates=(*REPORT.candidates, replace(first, score=0.2), second)).still_improving
    assert not REPORT.still_improving


def test_a_report_of_an_older_version_can_be_read() -> None:
    new = ("moved", "naive", "season", "naive_season", "measured_on", "weights", "has_linear", "lookback", "by_series")
    report = replace(REPORT)
    for name in new:
        del report.__dict__[name]
    old = pickle.loads(pickle.dumps(report))
    assert old == REPORT
    assert (old.per_series, old.naive, old.warning) == (None, None, None)
    assert "0.5000" in str(old)


# --- time and precision -----------------------------------------------------------------------------------------------


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Moves the clock on by some seconds."""
    now, moved = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now() + sum(moved))
    return lambda seconds=1000.0: moved.append(seconds)


@pytest.mark.parametrize(
    "settings", [{"method": "zero_shot"}, {"method": "linear_probe"}, {"num_scales": "auto", "n_epochs": 0}], ids=str
)
def test_what_comes_before_the_first_epoch_is_timed(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, later: Callable[..., None], settings: dict[str, Any]
) -> None:
    """The choices, and the linear member's fit."""
    monkeypatch.setattr("darts_msft.hooks.choose_settings", lambda *_: later() or {})
    monkeypatch.setattr("darts_msft.hooks.fit_linear_member", lambda *_: later())
    model = make_model(tiny_moirai, linear_member=True, **settings).fit(wave(), val_series=wave(60, seed=1))
    assert 2000 < model.fit_report.seconds < 9000


def test_its_look_back_is_told(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, method="zero_shot", linear_member=True, **LONG)
    report = model.fit(wave(400), val_series=wave(120, seed=1)).fit_report
    assert report.lookback == model.model.linear.weight.shape[1]
    assert report.has_linear
    assert report.weights == tuple(model.scale_weights)


def test_the_expected_time_is_told_after_the_first_steps(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, later: Callable[..., None]
) -> None:
    class Slow(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            later(10)

    caplog.set_level(logging.INFO, logger="darts_msft")
    options = {"method": "linear_probe", "num_scales": 0, "n_epochs": 3, "trainer": {"callbacks": [Slow()]}}
    monkeypatch.setattr("darts_msft.training.timing.SHORTEST", 1e9)
    make_model(tiny_moirai, **options).fit(wave())  # too short to be told of
    assert "takes about" not in caplog.text
    monkeypatch.setattr("darts_msft.training.timing.SHORTEST", 0.5)
    model = make_model(tiny_moirai, **options).fit(wave())
    assert caplog.text.count("takes about") == 1
    step = re.search(r"3 epochs of 4 steps, ([\d.]+) s each", caplog.text)  # 61 windows in batches of 16
    assert step is not None
    assert 10 <= float(step[1]) < 12
    assert not [one for one in model.trainer.callbacks if type(one).__name__ == "ExpectedTime"]


@pytest.mark.parametrize(("rich", "num_scales"), [(True, 0), (False, 0), (True, "auto")])
def test_the_expected_time_is_shown_by_default(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], rich: bool, num_scales: Any
) -> None:
    """Above the bar, as by default no line of INFO is shown; not of the parts of a search."""
    if not rich:
        monkeypatch.setattr("darts_msft.display.find_spec", lambda name: None)
    monkeypatch.setattr("darts_msft.training.timing.SHORTEST", 0.0)
    trainer = {"enable_progress_bar": True}
    make_model(tiny_moirai, trainer, method="linear_probe", num_scales=num_scales).fit(wave(60), val_series=wave(60))
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if "the fit takes about" in line]
    assert len(lines) == (0 if num_scales == "auto" else 1)
    assert all(line.strip().startswith("the fit takes") for line in lines)


def test_double_precision_is_warned_of_once(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    double = wave(dtype=np.float64)
    model = make_model(tiny_moirai, method="linear_probe", num_scales=0)
    model.predict(HORIZON, double)
    model.fit(double)
    assert caplog.text.count("2 to 3 times") == 1
    make_model(tiny_moirai, method="linear_probe", num_scales=0).fit(double)
    assert caplog.text.count("2 to 3 times") == 2
    caplog.clear()
    asked = {**TRAINER, "precision": "64-true"}
    make_model(tiny_moirai, method="linear_probe", num_scales=0, pl_trainer_kwargs=asked).fit(double)
    MSFTFoundationModel(CONTEXT, HORIZON, backbone=tiny_moirai, patch_size=4, num_scales=0).predict(HORIZON, wave())
    assert "2 to 3 times" not in caplog.text


def test_it_has_twelve_lines_at_most_and_few_epochs_in_them() -> None:
    epochs = tuple(Candidate(f"epoch {at}", 1 / at, at) for at in range(1, 201))
    everything = {"weight_learning": "stacking", "weights": (1.0,), "moved": {"head": 0.1}, "naive": 0.001}
    told = str(replace(REPORT, candidates=REPORT.candidates + epochs, num_scales_scores={0: 0.1, 1: 0.2}, **everything))
    assert len(told.splitlines()) <= 12
    assert max(map(len, told.splitlines())) < 250
    assert "200: 0.0050" in told
