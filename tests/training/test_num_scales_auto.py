"""`num_scales="auto"`: every K is fitted alike, and the best on the validation series stays."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts.metrics import mae
from model_fixtures import CONTEXT, HORIZON, TRAINER, changed, make_model, parameters_snapshot, values_of, wave

from darts_msft import MSFTFoundationModel

LEARNS: dict[str, Any] = {"lr_new": 1e-2, "lr_head": 1e-2}


def auto(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    """The default K is 1 here: 4 tokens at scale 1."""
    return make_model(checkpoint, **{"num_scales": "auto", **LEARNS, **changes})


def test_before_fit_auto_is_the_default(tiny_moirai: str) -> None:
    searching, default = auto(tiny_moirai), make_model(tiny_moirai, num_scales=None)
    samples = {"num_samples": 5, "random_state": 0}
    forecast, expected = (values_of(one.predict(HORIZON, wave(), **samples)) for one in (searching, default))
    assert np.array_equal(forecast, expected)


@pytest.mark.parametrize("forecast_first", [False, True])
def test_the_best_of_all_k_is_kept(tiny_moirai: str, forecast_first: bool) -> None:
    val = wave(60, seed=1)
    model = auto(tiny_moirai)
    if forecast_first:
        model.predict(HORIZON, wave())
    model.fit(wave(), val_series=val)
    report = model.fit_report
    assert report is not None
    assert report.num_scales_scores is not None
    singles = {scales: make_model(tiny_moirai, num_scales=scales, **LEARNS) for scales in (0, 1)}
    if forecast_first:
        for single in singles.values():
            single.predict(HORIZON, wave())
    scores = {scales: single.fit(wave(), val_series=val).fit_report.best for scales, single in singles.items()}
    assert report.num_scales_scores == scores
    best = min(scores, key=lambda scales: scores[scales])
    assert len(model.scale_weights) == best + 1
    assert report.best == scores[best]
    assert changed(parameters_snapshot(model), parameters_snapshot(singles[best])) == set()
    assert f"0: {scores[0]:.4f}, 1: {scores[1]:.4f}" in str(report)
    forecast, expected = (
        values_of(one.predict(HORIZON, num_samples=5, random_state=0)) for one in (model, singles[best])
    )
    assert np.array_equal(forecast, expected)  # the training series is known too


def test_the_whole_search_is_timed_and_told_in_one_line(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="darts_msft")
    start = time.perf_counter()
    report = auto(tiny_moirai, n_epochs=2).fit(wave(), val_series=wave(60, seed=1)).fit_report
    took = time.perf_counter() - start
    assert report is not None
    own = [record for record in caplog.records if record.name.startswith("darts_msft")]
    lines = {level: [one.getMessage() for one in own if one.levelno == level] for level in {one.levelno for one in own}}
    assert lines[logging.INFO] == ["num_scales='auto': " + str(report).replace("\n", "; ")]
    fits = [line for line in lines[logging.DEBUG] if line.startswith("fit: ")]
    assert len(fits) == 2
    seconds = [float(re.search(r"([\d.]+) s in all", line)[1]) for line in fits]
    assert report.seconds == pytest.approx(sum(seconds), abs=0.11)
    assert max(seconds) < report.seconds < took


def kinds_of(model: MSFTFoundationModel) -> dict[str, str]:
    return {name: type(value).__name__ for name, value in model.__dict__.items()}


def test_all_that_a_fit_sets_arrives(tiny_moirai: str, tmp_path: Path) -> None:
    """Red where Darts' `fit` sets an attribute that neither a search nor a loaded adapter brings into the model."""
    model = auto(tiny_moirai).fit(wave(), val_series=wave(60, seed=1))
    single = make_model(tiny_moirai, num_scales=len(model.scale_weights) - 1, **LEARNS)
    single.fit(wave(), val_series=wave(60, seed=1))
    assert kinds_of(model) == kinds_of(single)
    single.save_adapter(tmp_path / "adapter")
    loaded = make_model(tiny_moirai, num_scales=len(model.scale_weights) - 1, **LEARNS)
    loaded.load_adapter(tmp_path / "adapter")
    without = {"training_series": "NoneType", "_fit_report": "NoneType"}  # there was no fit here
    assert kinds_of(loaded) == kinds_of(single) | without


def test_a_useless_k_loses(tiny_moirai: str) -> None:
    """With absurd rates every K returns to zero-shot: the smallest wins the tie."""
    model = auto(tiny_moirai, lr_new=1.0, lr_head=1.0, lr_pretrained=1.0)
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.fit_report is not None
    assert model.fit_report.kept == "zero-shot"
    assert len(model.scale_weights) == 1


def test_chosen_k_stays(tiny_moirai: str, tmp_path: Path) -> None:
    model = auto(tiny_moirai).fit(wave(), val_series=wave(60, seed=1))
    weights, before = model.scale_weights, model.fit_report
    model.save(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert loaded.fit_report == before
    samples = {"num_samples": 5, "random_state": 0}
    assert np.array_equal(*(values_of(one.predict(HORIZON, wave(), **samples)) for one in (model, loaded)))
    loaded.fit(wave(), val_series=wave(60, seed=1))
    assert len(loaded.scale_weights) == len(weights)
    assert loaded.fit_report is not None
    assert before is not None
    assert loaded.fit_report.before == before.best
    same = make_model(tiny_moirai, num_scales=len(weights) - 1, **LEARNS)
    same.load_weights(str(tmp_path / "model.pt"))
    model.historical_forecasts(wave(90), start=80, forecast_horizon=2, stride=20, retrain=True)  # no second search


def test_without_validation_series_nothing_is_trained(tiny_moirai: str) -> None:
    model = auto(tiny_moirai)
    with pytest.raises(ValueError, match=r"num_scales='auto' picks K by the validation score.*val_series"):
        model.fit(wave())
    assert model.model is None


def test_validation_series_without_values(tiny_moirai: str) -> None:
    val = wave(60).with_values(np.full((60, 1), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match="no finite validation score"):
        auto(tiny_moirai).fit(wave(), val_series=val)


def test_unknown_word_is_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"num_scales='best' is not known.*None or 'auto'"):
        make_model(tiny_moirai, num_scales="best")


def test_options_reach_every_k(tiny_moirai: str) -> None:
    options = {"batch_size": 8, "shuffle": False}
    model = auto(tiny_moirai).fit(wave(60), val_series=wave(60, seed=1), dataloader_kwargs=options, epochs=2)
    single = make_model(tiny_moirai, num_scales=len(model.scale_weights) - 1, **LEARNS)
    single.fit(wave(60), val_series=wave(60, seed=1), dataloader_kwargs={"batch_size": 8, "shuffle": False}, epochs=2)
    assert changed(parameters_snapshot(model), parameters_snapshot(single)) == set()
    assert model.epochs_trained == 2


def test_a_forecast_before_fit_leaves_nothing(tiny_moirai: str, tmp_path: Path) -> None:
    """What was found is not taken for a zero-shot model, which is built anew for a series of another kind."""
    model = auto(tiny_moirai)
    model.predict(HORIZON, wave())
    model.fit(wave(), val_series=wave(60, seed=1))
    before = parameters_snapshot(model)
    with pytest.raises(ValueError, match="components"):
        model.predict(HORIZON, wave(components=2))
    assert changed(before, parameters_snapshot(model)) == set()
    assert model.fit_report is not None
    model.save_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("forecast_first", [False, True])
@pytest.mark.parametrize("scales", [0, 1])
def test_a_loaded_adapter_keeps_its_k(tiny_moirai: str, tmp_path: Path, scales: int, forecast_first: bool) -> None:
    source = make_model(tiny_moirai, num_scales=scales, **LEARNS).fit(wave())
    source.save_adapter(tmp_path / "adapter")
    model = auto(tiny_moirai)
    if forecast_first:
        model.predict(HORIZON, wave())
    model.load_adapter(tmp_path / "adapter")
    samples = {"num_samples": 5, "random_state": 0}
    assert np.array_equal(*(values_of(one.predict(HORIZON, wave(), **samples)) for one in (model, source)))
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "before this fit"
    assert model.fit_report is not None
    assert model.fit_report.num_scales_scores is None
    assert len(model.scale_weights) == scales + 1
    assert model.model_params["num_scales"] == scales


def test_an_adapter_for_other_settings_is_refused(tiny_moirai: str, tmp_path: Path) -> None:
    make_model(tiny_moirai, num_scales=0, **LEARNS).fit(wave()).save_adapter(tmp_path / "adapter")
    with pytest.raises(ValueError, match=r"another model; method_config\.lora_rank: saved 16, here 4\. Nothing"):
        auto(tiny_moirai, lora_rank=4).load_adapter(tmp_path / "adapter")


def test_loaded_weights_keep_their_k(tiny_moirai: str, tmp_path: Path) -> None:
    make_model(tiny_moirai, num_scales=1, **LEARNS).fit(wave()).save(str(tmp_path / "model.pt"))
    model = auto(tiny_moirai)
    model.load_weights(str(tmp_path / "model.pt"), load_encoders=False, skip_checks=True)
    model.fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "before this fit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_init": [0.0, 0.0]}, r"weight_init=\[0.0, 0.0\] is not allowed with num_scales='auto'.*'uniform'"),
        ({"save_checkpoints": True}, "save_checkpoints=True is not allowed with num_scales='auto'.*pick K first"),
    ],
)
def test_what_the_fits_cannot_share_is_refused(
    tiny_moirai: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        auto(tiny_moirai, work_dir=str(tmp_path / "run"), pl_trainer_kwargs={}, **changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("scales", [[0, 1], ["auto"]])
def test_gridsearch(tiny_moirai: str, scales: list[Any]) -> None:
    series, val = wave(), wave(60, seed=1)
    grid = {
        "input_chunk_length": [CONTEXT],
        "output_chunk_length": [HORIZON],
        "backbone": [tiny_moirai],
        "patch_size": [4],
        "n_epochs": [1],
        "likelihood": [None],
        "num_scales": scales,
        "lr_new": [1e-3, 1e-2],
        "random_state": [0],
        "pl_trainer_kwargs": [TRAINER],
    }
    best, found, score = MSFTFoundationModel.gridsearch(
        grid, series[:-HORIZON], val_series=series[-HORIZON:], metric=mae, fit_kwargs={"val_series": val}
    )
    assert found["num_scales"] in scales
    expected = {}
    for rate in grid["lr_new"]:
        for scale in scales:
            model = MSFTFoundationModel(**{k: v[0] for k, v in grid.items()} | {"num_scales": scale, "lr_new": rate})
            model.fit(series[:-HORIZON], val_series=val)
            expected[rate, scale] = mae(series[-HORIZON:], model.predict(HORIZON))
    assert score == pytest.approx(min(expected.values()))
    assert expected[found["lr_new"], found["num_scales"]] == pytest.approx(score)
    assert best.fit(series[:-HORIZON], val_series=val).predict(HORIZON).n_timesteps == HORIZON
