"""`num_scales="auto"`: every K is fitted alike, and the best on the validation series stays."""

from __future__ import annotations

import logging
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from model_fixtures import HORIZON, LEARNS, differing, fitted, make_model, values_of, wave

from darts_msft import MSFTFoundationModel
from darts_msft.training import choices

VAL = wave(60, seed=1)


def auto(checkpoint: str, **changes: Any) -> MSFTFoundationModel:
    """The default K is 1 here: 4 tokens at scale 1."""
    return make_model(checkpoint, **{"num_scales": "auto", **LEARNS, **changes})


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON, wave(), num_samples=5, random_state=0))


@pytest.fixture(scope="module")
def searched(tiny_moirai: str) -> MSFTFoundationModel:
    """A model after the search, which tests must not fit again."""
    return auto(tiny_moirai).fit(wave(), val_series=VAL)


def single(checkpoint: str, scales: int) -> MSFTFoundationModel:
    return fitted(checkpoint, validated=True, num_scales=scales, **LEARNS)


def test_before_fit_auto_is_the_default(tiny_moirai: str) -> None:
    assert np.array_equal(forecast_of(auto(tiny_moirai)), forecast_of(make_model(tiny_moirai, num_scales=None)))


def test_the_best_of_all_k_is_kept(tiny_moirai: str, searched: MSFTFoundationModel) -> None:
    report = searched.fit_report
    scores = {scales: single(tiny_moirai, scales).fit_report.best for scales in (0, 1)}
    assert report.num_scales_scores == scores
    best = min(scores, key=lambda scales: scores[scales])
    assert (len(searched.scale_weights), searched.model_params["num_scales"]) == (best + 1, best)
    assert report.best == scores[best]
    assert differing(searched, single(tiny_moirai, best)) == set()
    assert f"0: {scores[0]:.4f}, 1: {scores[1]:.4f}" in str(report)
    samples = {"num_samples": 5, "random_state": 0}  # of the training series, which is known too
    forecasts = [values_of(one.predict(HORIZON, **samples)) for one in (searched, single(tiny_moirai, best))]
    assert np.array_equal(*forecasts)


def test_a_k_with_more_tokens_than_the_checkpoint_takes_is_left_out(
    tiny_moirai: str, caplog: pytest.LogCaptureFixture
) -> None:
    """512 at most; 4,200 steps in patches of 4 are 1,050 tokens, and 525 with one new scale that sees them all."""
    long = {"input_chunk_length": 4200, "likelihood": None, "n_epochs": 1}
    caplog.set_level(logging.INFO, logger="darts_msft")
    model = auto(tiny_moirai, **long).fit(wave(4300), val_series=wave(4212, seed=1), stride=80)
    assert list(model.fit_report.num_scales_scores) == [2, 3]
    assert all(f"leaves {scales} out: input_chunk_length=4200" in caplog.text for scales in (0, 1))


def test_what_the_choices_find_is_found_once(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every K chooses a patch size no more, and a finest context from scores that K's larger ones know."""
    monkeypatch.setattr(choices, "FINEST_CONTEXTS", (12, 16))
    seen: list[tuple[int, int, int]] = []
    form = choices._form

    def noted(module: Any, batches: Any) -> Any:
        seen.append((module.plan.patch_size, module.plan.finest_context, module.plan.num_scales))
        return form(module, batches)

    windows: list[Any] = []
    found = choices._batches
    with monkeypatch.context() as patched:
        patched.setattr(choices, "_form", noted)
        patched.setattr(choices, "_batches", lambda *args: windows.append(args) or found(*args))
        model = auto(tiny_moirai, finest_context=None, method="linear_probe", lr_new=None).fit(wave(), val_series=VAL)
    assert len(windows) == 1
    assert len({one[:2] for one in seen}) == len(seen)
    scores = model.fit_report.num_scales_scores
    assert len(scores) > 1
    for scales, score in scores.items():  # as if chosen alone
        alone = auto(tiny_moirai, finest_context=None, method="linear_probe", lr_new=None, num_scales=scales)
        assert alone.fit(wave(), val_series=VAL).fit_report.best == score


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lightning ignores further interrupts for good."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupted_search_has_the_best_so_far(tiny_moirai: str) -> None:
    """The larger K comes first; an epoch has four steps."""

    class Interrupts(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
            if module.plan.num_scales == 0 and trainer.global_step == 2:
                raise KeyboardInterrupt

    model = auto(tiny_moirai, trainer={"callbacks": [Interrupts()]})
    with pytest.raises(SystemExit):
        model.fit(wave(), val_series=VAL)
    scores = model.fit_report.num_scales_scores
    assert scores[1] == single(tiny_moirai, 1).fit_report.best
    assert model.model_params["num_scales"] == min(scores, key=scores.__getitem__)
    assert model.predict(HORIZON).values().shape == (HORIZON, 1)


def test_a_forecast_before_fit_leaves_nothing(tiny_moirai: str) -> None:
    """What was found is not taken for a zero-shot model, which is built anew for a series of another kind."""
    model, alone = auto(tiny_moirai), make_model(tiny_moirai, num_scales=0, **LEARNS)
    for one in (model, alone):
        one.predict(HORIZON, wave())
        one.fit(wave(60), val_series=VAL)
    assert model.fit_report.num_scales_scores[0] == alone.fit_report.best
    with pytest.raises(ValueError, match="components"):
        model.predict(HORIZON, wave(components=2))
    assert model.fit_report is not None


def test_the_whole_search_is_timed_and_told_in_one_line(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="darts_msft")
    start = time.perf_counter()
    report = auto(tiny_moirai, n_epochs=2).fit(wave(60), val_series=VAL).fit_report
    took = time.perf_counter() - start
    own = [(one.levelno, one.getMessage()) for one in caplog.records if one.name.startswith("darts_msft")]
    told = "num_scales='auto': " + str(report).replace("\n", "; ")
    assert [line for level, line in own if level == logging.INFO] == [told]
    fits = [line for level, line in own if level == logging.DEBUG and line.startswith("fit: ")]
    assert len(fits) == 2
    seconds = [float(re.search(r"([\d.]+) s in all", line)[1]) for line in fits]
    assert sum(seconds) - 0.11 < report.seconds < took  # what the search itself does is part of it


def test_all_that_a_fit_sets_arrives(tiny_moirai: str, searched: MSFTFoundationModel, tmp_path: Path) -> None:
    """Red where Darts' `fit` sets an attribute that neither a search nor a loaded adapter brings into the model."""
    alone = single(tiny_moirai, len(searched.scale_weights) - 1)
    alone.save_adapter(tmp_path / "adapter")
    loaded = auto(tiny_moirai)
    loaded.load_adapter(tmp_path / "adapter")
    models = (alone, searched, loaded)
    names = {name for model in models for name in model.__dict__}  # an attribute may stay the class's own
    after_fit, after_search, after_loading = (
        {name: type(getattr(model, name, "missing")).__name__ for name in names} for model in models
    )
    assert after_search == after_fit
    without = {"training_series": "NoneType", "_fit_report": "NoneType"}  # there was no fit here
    assert after_loading == after_fit | without


def test_a_useless_k_loses(tiny_moirai: str) -> None:
    """With absurd rates, and scale 0 alone in the forecast, every K returns to zero-shot: the smallest wins the tie."""
    model = auto(tiny_moirai, mixing="first", lr_new=1.0, lr_head=1.0, lr_pretrained=1.0)
    report = model.fit(wave(60), val_series=VAL).fit_report
    assert len(set(report.num_scales_scores.values())) == 1
    assert report.kept == "zero-shot"
    assert len(model.scale_weights) == 1


def test_chosen_k_stays(tiny_moirai: str, searched: MSFTFoundationModel, tmp_path: Path) -> None:
    """After saving and loading, in models that load the weights, and where Darts fits again."""
    weights = searched.scale_weights
    searched.save(str(tmp_path / "model.pt"))
    make_model(tiny_moirai, num_scales=len(weights) - 1, **LEARNS).load_weights(str(tmp_path / "model.pt"))
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    assert loaded.fit_report == searched.fit_report
    assert np.array_equal(forecast_of(searched), forecast_of(loaded))
    loaded.fit(wave(), val_series=VAL)  # the same training series, and so the same units
    assert len(loaded.scale_weights) == len(weights)
    assert loaded.fit_report.before == pytest.approx(searched.fit_report.best, rel=1e-9)
    loaded.historical_forecasts(wave(60), start=50, forecast_horizon=2, stride=20, retrain=True)  # no second search


def test_no_validation_score(tiny_moirai: str) -> None:
    model, nothing = auto(tiny_moirai), wave(60).with_values(np.full((60, 1), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match=r"num_scales='auto' picks K by the validation score.*val_series"):
        model.fit(wave(60))
    with pytest.raises(ValueError, match="no finite validation score"):
        model.fit(wave(60), val_series=nothing)


def test_options_reach_every_k(tiny_moirai: str) -> None:
    options: dict[str, Any] = {"dataloader_kwargs": {"batch_size": 8, "shuffle": False}, "epochs": 2}
    model = auto(tiny_moirai).fit(wave(60), val_series=VAL, **options)
    alone = make_model(tiny_moirai, num_scales=len(model.scale_weights) - 1, **LEARNS)
    options["dataloader_kwargs"] = {"batch_size": 8, "shuffle": False}  # Darts takes some out
    assert differing(model, alone.fit(wave(60), val_series=VAL, **options)) == set()
    assert model.epochs_trained == 2


@pytest.mark.parametrize(("what", "scales"), [("adapter", 0), ("adapter after a forecast", 1), ("weights", 1)])
def test_what_is_loaded_keeps_its_k(tiny_moirai: str, tmp_path: Path, what: str, scales: int) -> None:
    source, model = fitted(tiny_moirai, num_scales=scales, **LEARNS), auto(tiny_moirai)
    if what == "weights":
        source.save(str(tmp_path / "model.pt"))
        model.load_weights(str(tmp_path / "model.pt"), load_encoders=False, skip_checks=True)
    else:
        source.save_adapter(tmp_path / "adapter")
        if what != "adapter":
            model.predict(HORIZON, wave())
        model.load_adapter(tmp_path / "adapter")
        assert model.model_params["num_scales"] == scales
    assert np.array_equal(forecast_of(model), forecast_of(source))
    model.fit(wave(60), val_series=VAL)
    assert model.candidates[0].label == "before this fit"
    assert model.fit_report.num_scales_scores is None
    assert len(model.scale_weights) == scales + 1


def test_what_the_fits_cannot_share_is_refused(tiny_moirai: str, tmp_path: Path) -> None:
    for name, value in (("weight_init", [0.0, 0.0]), ("save_checkpoints", True)):
        with pytest.raises(ValueError, match=re.escape(f"{name}={value} is not allowed with num_scales='auto'")):
            auto(tiny_moirai, work_dir=str(tmp_path / "run"), **{name: value})
    assert not (tmp_path / "run").exists()
