"""What `fit` reports: in numbers, in a log line, and after saving."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import HORIZON, make_model, validation_scores, wave

from darts_msft import MSFTFoundationModel
from darts_msft.module import MSFTModule

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2, "n_epochs": 2}


def test_report_says_what_fit_did(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, **LEARNS)
    assert model.fit_report is None
    start = time.perf_counter()
    model.fit(wave(), val_series=wave(60, seed=1))
    took = time.perf_counter() - start
    report = model.fit_report
    assert report is not None
    assert (report.before, report.best) == validation_scores(model)
    assert [state.label for state in report.candidates] == ["zero-shot", "epoch 0", "epoch 1"]
    assert list(report.candidates) == model.candidates
    winner = min(report.candidates, key=lambda state: state.score)
    assert report.kept == winner.label
    # stacked weights of the scales are solved for, not trained
    trained = sum(v.numel() for name, v in model.model.named_parameters() if v.requires_grad and "omega" not in name)
    everything = sum(value.numel() for value in model.model.parameters())
    assert (report.trained_parameters, report.all_parameters) == (trained, everything)
    assert report.trained_share == pytest.approx(trained / everything)
    assert report.epochs == 2
    assert 0 < sum(report.epoch_seconds) < report.seconds < took
    assert report.seconds_per_epoch == pytest.approx(sum(report.epoch_seconds) / 2)
    text = str(report)
    assert f"kept: {winner.label}, validation CRPS {winner.score:.4f} (zero-shot {report.before:.4f})" in text
    assert f"{trained:,} of {everything:,} parameters" in text
    assert 3 <= len(text.splitlines()) <= 4
    assert (report.weight_learning, report.weight_learning_asked) == ("stacking", "stacking")
    assert "weights of the scales: stacking\n" in text


def test_without_validation_there_is_no_score(tiny_moirai: str) -> None:
    report = make_model(tiny_moirai).fit(wave(60)).fit_report
    assert report is not None
    assert (report.before, report.best, report.candidates) == (None, None, ())
    assert report.kept == "last weights (without a validation score)"
    assert report.epochs == 1
    assert "validation CRPS" not in str(report)
    assert (report.weight_learning, report.weight_learning_asked) == ("mixed_loss", "stacking")
    assert "weights of the scales: mixed_loss (stacking had no validation score)" in str(report)


def test_forecasting_zero_shot_reports_nothing(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    model.predict(HORIZON, wave())
    assert model.fit_report is None
    assert model.candidates == []
    frozen = make_model(tiny_moirai, enable_finetuning=False).fit(wave(), val_series=wave(60, seed=1))
    assert frozen.fit_report is None


def test_an_epoch_is_never_the_state_before(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The score before the first step is not finite here, that of the epoch is."""
    score = MSFTModule.settle_score
    monkeypatch.setattr(MSFTModule, "settle_score", lambda self: score(self) if self.global_step else math.nan)
    report = make_model(tiny_moirai).fit(wave(), val_series=wave(60, seed=1)).fit_report
    assert report is not None
    assert [state.label for state in report.candidates] == ["epoch 0"]
    assert report.before is None
    assert report.best == report.candidates[0].score
    assert str(report).startswith(f"kept: epoch 0, validation CRPS {report.best:.4f} (no finite score before)")


@pytest.mark.parametrize("clean", [False, True])
def test_report_survives_saving(tiny_moirai: str, tmp_path: Path, clean: bool) -> None:
    model = make_model(tiny_moirai, **LEARNS).fit(wave(), val_series=wave(60, seed=1))
    model.save(str(tmp_path / "model.pt"), clean=clean)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert loaded.fit_report == model.fit_report
    assert loaded.candidates == model.candidates


def test_weights_of_another_fit_have_no_report(tiny_moirai: str, tmp_path: Path) -> None:
    make_model(tiny_moirai).fit(wave(60)).save(str(tmp_path / "model.pt"))
    model = make_model(tiny_moirai).fit(wave(60))
    model.model = None
    model.load_weights(str(tmp_path / "model.pt"))
    assert model.fit_report is None


def test_second_fit_replaces_the_report(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, **LEARNS).fit(wave(), val_series=wave(60, seed=1))
    first = model.fit_report
    model.fit(wave(), val_series=wave(60, seed=1), epochs=1)
    assert first is not None
    assert model.fit_report is not None
    assert model.fit_report.before == first.best
    assert model.fit_report.epochs == 1


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"weight_learning": "mixed_loss"}, "mixed_loss"),
        ({"weight_learning": "scale_loss"}, "scale_loss"),
        ({"weight_learning": "uniform"}, "uniform"),
        ({"mixing": "first"}, "uniform"),
        ({"num_scales": 0}, None),
        ({"num_scales": None, "method": "lora"}, None),
    ],
)
def test_report_says_how_the_weights_were_learned(
    tiny_moirai: str, settings: dict[str, Any], found: str | None
) -> None:
    report = make_model(tiny_moirai, **settings).fit(wave(60)).fit_report
    assert report is not None
    assert (report.weight_learning, report.weight_learning_asked) == (found, found)
    assert ("weights of the scales" in str(report)) is (found is not None)
    assert "(stacking" not in str(report)


@pytest.mark.parametrize("validated", [False, True])
def test_one_log_line(tiny_moirai: str, caplog: pytest.LogCaptureFixture, validated: bool) -> None:
    caplog.set_level(logging.INFO, logger="darts_msft")
    model = make_model(tiny_moirai).fit(wave(60), val_series=wave(60, seed=1) if validated else None)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("darts_msft")]
    assert lines == ["fit: " + str(model.fit_report).replace("\n", "; ")]
