"""What a fit, a forecast and a backtest show, by what is printed and by their callbacks."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
from darts.utils.likelihood_models.torch import QuantileRegression
from lightning_utilities.core import rank_zero
from pytorch_lightning.callbacks import ModelSummary, ProgressBar, TQDMProgressBar

from darts_msft import MSFTFoundationModel, display
from tests.model_fixtures import HORIZON, LEARNS, fitted, make_model, wave


def bars(text: str) -> list[str]:
    """The last state of each progress bar."""
    lines = [line.rstrip("\r").split("\r")[-1] for line in text.split("\n")]
    return [line for line in lines if re.search(r"\d+/\d+", line)]


def test_a_session_shows_bars_and_nothing_else(
    tiny_moirai: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With Lightning's own bars, its log and every warning; epochs count from one, and losses have names."""
    model = MSFTFoundationModel(48, 8, n_epochs=2, num_scales=1, backbone=tiny_moirai, patch_size=4, random_state=0)
    series, later = wave(90), {"start": 0.9, "retrain": False, "forecast_horizon": 2}
    session: dict[str, Callable[[], Any]] = {
        "fit": lambda: model.fit(series[:72], val_series=series),
        "fit again": lambda: model.fit(series[:72], epochs=1),
        "predict": lambda: model.predict(8, series),
        "backtest": lambda: model.backtest(series, **later),
        "loop": lambda: model.backtest(series, **later, enable_optimization=False),
    }
    shown = {}
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.INFO, "pytorch_lightning"):
        warnings.simplefilter("always")
        for part, act in session.items():
            act()
            shown[part] = "".join(capfd.readouterr())
    assert {part: len(bars(text)) for part, text in shown.items()} == dict.fromkeys(session, 1)
    assert not re.search("|".join(re.escape(aside) for aside in display.ASIDES), "".join(shown.values()))
    assert not [record.getMessage() for record in caplog.records if "lightning" in record.name]
    assert not [str(one.message) for one in warned if not issubclass(one.category, DeprecationWarning)]
    assert "epoch 1 of 1" in shown["fit again"]
    for name in ("epoch 2 of 2", "train NLL", "validation", "CRPS"):
        assert name in shown["fit"]


def test_bars_of_a_fit_without_training_say_what_they_score(
    tiny_moirai: str, capfd: pytest.CaptureFixture[str]
) -> None:
    options = {"method": "zero_shot", "num_scales": 1, "finest_context": 16}
    MSFTFoundationModel(48, 8, backbone=tiny_moirai, patch_size=4, **options).fit(wave(72), val_series=wave(90))
    shown = [re.split(r"\W{3,}", line)[0] for line in bars("".join(capfd.readouterr()))]
    assert shown == ["scoring zero-shot", "scoring scales weighted by backcasts"]


class Watch(pl.Callback):
    """The trainers' progress bars and tables, by what they ran."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, list[str], bool]] = []

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        names = [type(one).__name__ for one in trainer.callbacks if isinstance(one, ProgressBar)]
        table = any(isinstance(one, ModelSummary) for one in trainer.callbacks)
        self.seen.append((stage, names, table))


def watched(checkpoint: str, **trainer: Any) -> list[tuple[str, list[str], bool]]:
    """Of a fit, a forecast and a loop of forecasts."""
    watch = Watch()
    given = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, **trainer}
    given["callbacks"] = [watch, *trainer.get("callbacks", [])]
    model = make_model(checkpoint, pl_trainer_kwargs=given).fit(wave(60))
    model.predict(1, wave(60))
    model.historical_forecasts(wave(60), start=-2, start_format="position", retrain=False, enable_optimization=False)
    return watch.seen


@pytest.mark.parametrize(
    ("trainer", "bar", "table"),
    [
        ({}, "RichBar", False),
        ({"enable_progress_bar": False}, None, False),
        ({"enable_model_summary": True}, "RichBar", True),
        ({"callbacks": [TQDMProgressBar()]}, "TQDMProgressBar", False),
    ],
)
def test_the_users_trainer_arguments_win(
    tiny_moirai: str, trainer: dict[str, Any], bar: str | None, table: bool
) -> None:
    own = [] if bar is None else [bar]
    looped = own if "callbacks" in trainer else []  # a bar of the user's shows every forecast
    expected = [("fit", own, table), ("predict", own, table), *[("predict", looped, table)] * 2]
    assert watched(tiny_moirai, **trainer) == expected


def test_bars_asked_for_are_shown_for_every_forecast(tiny_moirai: str) -> None:
    assert [own for _, own, _ in watched(tiny_moirai, enable_progress_bar=True)] == [["RichBar"]] * 4


def test_the_bar_without_rich(tiny_moirai: str, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.setattr(display, "find_spec", lambda name: None)
    given = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    likelihood = QuantileRegression([0.1, 0.5, 0.9])
    model = make_model(tiny_moirai, pl_trainer_kwargs=given, n_epochs=2, likelihood=likelihood, **LEARNS)
    model.fit(wave(60), val_series=wave(60, seed=1))
    text = "".join(capfd.readouterr())
    assert "epoch 1 of 2:" in text
    assert "epoch 2 of 2:" in text
    assert "epoch 3" not in text
    assert "train quantile loss=" in text
    assert "validation CRPS=" in text


def test_other_lines_and_other_peoples_loggers_stay(tiny_moirai: str, caplog: Any, recwarn: Any) -> None:
    class Speaks(pl.Callback):
        def on_predict_start(self, *args: Any) -> None:
            rank_zero.log.info("from Lightning")
            rank_zero.log.info("GPU available: a line inside")
            logging.getLogger("another").info("GPU available: someone else's")
            warnings.warn("a warning inside", UserWarning, stacklevel=1)

    caplog.set_level(logging.INFO)
    rank_zero.log.addHandler(caplog.handler)
    try:
        make_model(tiny_moirai, {"callbacks": [Speaks()]}).predict(HORIZON, wave())
        fitted(tiny_moirai).predict(HORIZON, wave())
        rank_zero.log.info("GPU available: a line outside")
    finally:
        rank_zero.log.removeHandler(caplog.handler)
    lines = [record.getMessage() for record in caplog.records]
    assert {"from Lightning", "GPU available: someone else's", "GPU available: a line outside"} <= set(lines)
    assert "GPU available: a line inside" not in lines
    assert "a warning inside" in [str(one.message) for one in recwarn]
    left = {one[1].pattern for one in warnings.filters if isinstance(one[1], re.Pattern)}
    assert not left & set(display.WARNINGS)


def test_a_terminal_is_told_what_takes_time_before_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich")
    shows: dict[str, Any] = {"quiet": False, "elsewhere": True}
    for name, shown in shows.items():
        with display.busy(name, shown):
            pass
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    with display.busy("outer", True), display.busy("inner", True):
        pass
    with display.one_bar(), display.busy("nested", True):
        pass
    text = capsys.readouterr().out
    assert "outer" in text
    assert not re.search("quiet|elsewhere|nested", text)
