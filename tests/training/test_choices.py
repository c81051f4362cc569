"""Settings that were left open are those with the best zero-shot score on the validation windows."""

from __future__ import annotations

from typing import Any

import pytest
from model_fixtures import CONTEXT, HORIZON, make_model, wave

from darts_msft import MSFTFoundationModel
from darts_msft.training import choices
from darts_msft.training.choices import LEAST_GAIN

TRAIN, VAL = wave(150), wave(90, seed=1)  # 51 windows: all of them judge
OPEN: dict[str, Any] = {"patch_size": "auto", "finest_context": None, "num_scales": None, "method": "zero_shot"}
STACKED = "zero-shot, scales stacked"


@pytest.fixture
def short_contexts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates for scale 0's context that fit the tests' short series."""
    monkeypatch.setattr(choices, "FINEST_CONTEXTS", (12, 16))


def fit(checkpoint: str, **settings: Any) -> MSFTFoundationModel:
    return make_model(checkpoint, **{"method": "zero_shot", **settings}).fit(TRAIN, val_series=VAL)


def score_of(checkpoint: str, **settings: Any) -> float:
    """Of the pretrained model with its scales stacked."""
    report = fit(checkpoint, **settings).fit_report
    return next(one.score for one in report.candidates if one.label == STACKED)


def chosen(model: MSFTFoundationModel) -> dict[str, Any]:
    return {name: model._module_settings[name] for name in choices.SETTINGS}


def test_the_patch_size_is_the_better_one(tiny_moirai: str) -> None:
    sizes = make_model(tiny_moirai)._module_settings["backbone_config"]["patch_sizes"]
    scores = {size: score_of(tiny_moirai, patch_size=size, num_scales=1) for size in sizes if size < CONTEXT // 2}
    found = chosen(fit(tiny_moirai, patch_size="auto", num_scales=1))
    default = make_model(tiny_moirai, patch_size="auto", num_scales=1)._module_settings["patch_size"]
    best = min(scores, key=scores.__getitem__)
    expected = best if scores[best] < (1 - LEAST_GAIN) * scores[default] else default
    assert len(scores) > 1
    assert found["patch_size"] == expected


@pytest.mark.usefixtures("short_contexts")
def test_the_finest_context_is_the_best_one(tiny_moirai: str) -> None:
    scores = {steps: score_of(tiny_moirai, finest_context=steps) for steps in (12, 16, CONTEXT)}
    found = chosen(fit(tiny_moirai, finest_context=None))
    assert found["finest_context"] == min(scores, key=scores.__getitem__)


def test_k_is_the_smallest_that_is_nearly_as_good(tiny_moirai: str) -> None:
    model = fit(tiny_moirai, num_scales=None)
    default = make_model(tiny_moirai, num_scales=None)._module_settings["num_scales"]
    at_default = score_of(tiny_moirai, num_scales=default)
    k = chosen(model)["num_scales"]
    assert model.model_params["num_scales"] == k
    for scales in range(1, default + 1):
        nearly = score_of(tiny_moirai, num_scales=scales) <= at_default * (1 + LEAST_GAIN)
        assert nearly or scales != k
        assert not nearly or scales >= k


@pytest.mark.usefixtures("short_contexts")
def test_what_was_given_stays(tiny_moirai: str) -> None:
    for given in ({"patch_size": 4}, {"finest_context": 20}, {"num_scales": 1}, {"num_scales": 0}):
        model = fit(tiny_moirai, **{**OPEN, **given})
        assert given.items() <= chosen(model).items()


def test_nothing_is_chosen_without_validation_series_nor_twice(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = []
    monkeypatch.setattr(choices, "_trial", lambda *args: trials.append(args))
    make_model(tiny_moirai, **{**OPEN, "method": "full"}).fit(TRAIN)
    assert not trials
    model = make_model(tiny_moirai, **{**OPEN, "method": "full"}).fit(TRAIN, val_series=VAL)
    count = len(trials)
    assert count > 0
    model.fit(TRAIN, val_series=VAL)
    assert len(trials) == count


@pytest.mark.usefixtures("short_contexts")
def test_a_fit_that_fails_leaves_them_open(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tiny_moirai, **{**OPEN, "method": "full"})
    before, asked = dict(model._module_settings), dict(model.model_params)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(type(model), "_train", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        model.fit(TRAIN, val_series=VAL)
    assert model._module_settings == before
    assert model.model_params == asked
    assert model.predict(HORIZON, TRAIN).values().shape == (HORIZON, 1)


def test_what_was_chosen_is_loaded(tiny_moirai: str, tmp_path: Any) -> None:
    model = make_model(tiny_moirai, **{**OPEN, "method": "full"}).fit(TRAIN, val_series=VAL)
    model.save_adapter(tmp_path / "adapter")
    other = make_model(tiny_moirai, **{**OPEN, "method": "full"})
    other.load_adapter(tmp_path / "adapter")
    assert chosen(other) == chosen(model)
