"""Bad input is answered in one line before any training; odd input is served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import (
    CONTEXT,
    HORIZON,
    LONG,
    STILL,
    ZERO_SHOT,
    differing,
    fitted,
    from_values,
    make_model,
    values_of,
    wave,
)
from trained_names import TRAINED_NAMES

from darts_msft import MSFTFoundationModel

FIRST = {"mixing": "first"}
POINTS = {"num_scales": None, "likelihood": None}
LORA, FULL = ({"num_scales": None, "method": method} for method in ("lora", "full"))

REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_scales": 3}, ["num_scales=3", "32", "8 steps", "allowed are 0 to 2"]),
    ({"num_scales": 2, "output_chunk_length": 3}, ["num_scales=2", "horizon of 3", "allowed are 0 to 1"]),
    ({"num_scales": "best"}, ["num_scales='best'", "'auto'"]),
    ({"input_chunk_length": 8, "patch_size": 8, "num_scales": 0}, ["input_chunk_length=8", "at least 9"]),
    ({"input_chunk_length": (CONTEXT, 10)}, ["input_chunk_length", "10", "32"]),
    ({"patch_size": 16}, ["patch_size=16", "'auto' or one of 4, 8"]),
    ({"aggregator": "c2c"}, ["aggregator='c2c'", "'both', 'c2f', 'f2c', None"]),
    ({"weight_init": [0.0, 1.0]}, ["weight_init=[0.0, 1.0]", "2 logits", "3 scales"]),
    ({"lr_new": -1e-3}, ["lr_new=-0.001", "at least 0"]),
    ({"lora_rnk": 4}, ["no argument 'lora_rnk'", "'lora_rank'"]),
    ({"hub_model_name": "amazon/chronos-2"}, ["no argument 'hub_model_name'", "backbone='amazon/chronos-2'"]),
    ({"hub_model_revision": "main"}, ["no argument 'hub_model_revision'", "revision='main'"]),
    ({"local_dir": Path("weights")}, ["no argument 'local_dir'", "backbone='weights'"]),
    ({"zzz": 4}, ["no argument 'zzz'", "help()"]),
    (
        {**FULL, "lr_new": 1.0, "aggregator": "c2f"},
        ["lr_new=1.0 (of 'msft', 'msft_full', 'prompt')", "='c2f' ("],
    ),
    ({**LORA, "prompt_length": 3}, ["prompt_length=3 (of 'prompt')", "method='lora'"]),
    ({"finest_context": 4}, ["finest_context=4", "patch_size=4", "give 5 to 32 steps, or None"]),
    ({"finest_context": 33}, ["finest_context=33", "input_chunk_length=32", "give 5 to 32 steps, or None"]),
    ({**LORA, "lr_new": 1e-3}, ["lr_new=0.001 (of 'msft', 'msft_full', 'prompt')", "method='lora'"]),
    ({**FULL, "lr_lora": 1e-3}, ["lr_lora=0.001 (of 'msft', 'msft_full', 'lora', 'adalora')", "method='full'"]),
    ({"num_scales": None, "method": "zero_shot", "lr_omega": 0.1}, ["lr_omega=0.1 (of 'msft', ", "'scratch')"]),
    ({**FIRST, "weight_learning": "uniform"}, ["weight_learning='uniform'", "mixing='first'"]),
    ({**FIRST, "weight_init": [1.0, 0, 0]}, ["weight_init=(1.0, 0.0, 0.0)", "mixing='first'"]),
    ({"loss_fn": torch.nn.L1Loss()}, ["loss_fn=L1Loss()", "likelihood='native'", "likelihood=None"]),
    (
        {"method": "zero_shot", "num_scales": None, "loss_fn": torch.nn.L1Loss(), "likelihood": None},
        ["loss_fn=L1Loss()", "method='zero_shot'"],
    ),
]


@pytest.mark.parametrize(("settings", "parts"), REFUSED, ids=lambda value: str(value)[:50])
def test_settings_are_refused_at_construction(tiny_moirai: str, settings: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^.+$") as caught:
        make_model(tiny_moirai, **settings)
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, str(caught.value)


@pytest.mark.parametrize(("method", "trains"), TRAINED_NAMES["moirai"].items())
@pytest.mark.parametrize("likelihood", ["native", QuantileRegression([0.1, 0.5, 0.9])])
def test_rates_are_of_the_groups_that_train(
    tiny_moirai: str, method: str, trains: dict[str, Any], likelihood: Any
) -> None:
    """Exactly those are taken; a likelihood's new head trains with every method that trains."""
    taken = {*trains, *(["head"] if trains and likelihood != "native" else [])}
    for group in ("pretrained", "new", "lora", "head", "omega"):
        arguments = {"method": method, "num_scales": None, "likelihood": likelihood, f"lr_{group}": 0.5}
        if group in taken:
            make_model(tiny_moirai, **arguments)
            continue
        with pytest.raises(ValueError, match=rf"^lr_{group}=0\.5 .* without effect with method='{method}'"):
            make_model(tiny_moirai, **arguments)


def test_names_of_what_trains(tiny_moirai: str) -> None:
    """Who gives them may give any rate; a pattern that matches nothing is refused."""
    make_model(tiny_moirai, **LORA, enable_finetuning={"unfreeze": ["*param_proj*"]}, lr_head=0.5)
    for mode in ("unfreeze", "freeze"):
        model = make_model(tiny_moirai, enable_finetuning={mode: ["method.lora.*", "method.lorra.*"]})
        with pytest.raises(ValueError, match=r"enable_finetuning=.*'method\.lorra\.\*'; .* 'method\.lora\."):
            model.fit(wave(60))


@pytest.mark.parametrize(
    "lengths", [(32, 8, 4, 0), ((8, 32), 3, "auto", 1), ((32, 32), 3, 8, 0), (33, 3, 4, 1), (33, 8, 8, 0)]
)
def test_largest_num_scales_is_the_last_that_is_taken(tiny_moirai: str, lengths: tuple[Any, ...]) -> None:
    names = ("input_chunk_length", "output_chunk_length", "patch_size", "output_chunk_shift", "backbone")
    arguments = dict(zip(names, (*lengths, tiny_moirai), strict=True))
    largest = MSFTFoundationModel.largest_num_scales(**arguments)
    make_model(tiny_moirai, **arguments | {"num_scales": largest})
    with pytest.raises(ValueError, match=f"allowed are 0 to {largest}"):
        make_model(tiny_moirai, **arguments | {"num_scales": largest + 1})


WRONG_TYPES: dict[str, list[Any]] = {
    "input_chunk_length": [32.0, "32", (32,), None],
    "output_chunk_length": [8.5, 0],
    "output_chunk_shift": [1.5, -2],
    "num_scales": [1.5, True],
    "finest_context": [16.0, "16", True, 0],
    "patch_size": [4.5],
    "backbone": [3],
    "method": [["msft"]],
    "lora_rank": [2.0],
    "lr_new": ["fast"],
    "mixing": [["first"]],
    "weight_init": [0.5, ["a", 0, 0], [None, 0, 0]],
    "likelihood": [0.5],
}


def test_types(tiny_moirai: str, tmp_path: Path) -> None:
    """Wrong types are refused by name and value; numpy's numbers are stored as Python's, and so can be saved."""
    for name, values in WRONG_TYPES.items():
        for value in values:
            with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}")):
                make_model(tiny_moirai, **{name: value})
    plain: dict[str, Any] = {"input_chunk_length": (20, 32), "output_chunk_shift": 1, "num_scales": 1, "patch_size": 4}
    plain |= {"finest_context": 16}
    plain |= {"lora_alpha": 4.0, "lr_new": 0.5, "weight_init": [0.5, 0.25]}
    kinds = {int: np.int64, float: np.float32}

    def as_numpy(value: Any) -> Any:
        return type(value)(map(as_numpy, value)) if isinstance(value, list | tuple) else kinds[type(value)](value)

    models = [
        make_model(tiny_moirai, **one) for one in (plain, {name: as_numpy(value) for name, value in plain.items()})
    ]
    assert repr(models[0].model_params) == repr(models[1].model_params)
    models[1].fit(wave(60)).save(str(tmp_path / "model.pt"))
    MSFTFoundationModel.load(str(tmp_path / "model.pt"))


def test_zero_shot_takes_series_of_any_width_and_precision(tiny_moirai: str) -> None:
    """Nothing was fitted, so nothing ties the model to the first series it saw."""
    model = make_model(tiny_moirai, **LONG)
    for components, dtype in ((1, np.float32), (2, np.float64), (1, np.float64), (1, np.float32)):
        forecast = model.predict(HORIZON, wave(50, components, dtype=dtype), num_samples=2)
        assert (forecast.n_components, forecast.dtype) == (components, dtype)


def test_static_covariates_and_integer_times_change_nothing(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, likelihood=None)
    expected = values_of(model.predict(HORIZON, wave()))
    site = wave().with_static_covariates(pd.DataFrame({"site": [3.0]}))
    counted = model.predict(HORIZON, TimeSeries.from_values(wave().values()))
    assert np.array_equal(values_of(model.predict(HORIZON, site)), expected)
    assert np.array_equal(values_of(counted), expected)
    assert list(counted.time_index) == list(range(100, 100 + HORIZON))


def test_double_precision(tiny_moirai: str, tmp_path: Path) -> None:
    """The numbers are in double precision throughout, also after saving, and agree with single precision."""
    series, val = wave(60, dtype=np.float64), wave(50, seed=1, dtype=np.float64)
    model = make_model(tiny_moirai).fit(series, val_series=val)
    assert {value.dtype for value in model.model.parameters()} == {torch.float64}
    model.save(str(tmp_path / "model.pt"))
    for one in (model, MSFTFoundationModel.load(str(tmp_path / "model.pt"))):
        assert one.predict(HORIZON, series, num_samples=3).dtype == np.float64
        assert one.predict(HORIZON, series, predict_likelihood_parameters=True).dtype == np.float64
    zero_shot = [make_model(tiny_moirai, likelihood=None).predict(HORIZON, one) for one in (series, wave(60))]
    np.testing.assert_allclose(*map(values_of, zero_shot), rtol=1e-3)


def test_integers_are_served(tiny_moirai: str) -> None:
    counts = from_values(np.random.default_rng(0).poisson(20, size=(60, 1)))
    model = make_model(tiny_moirai).fit(counts)
    forecast = values_of(model.predict(HORIZON, counts, num_samples=200, random_state=0))
    assert np.isfinite(forecast).all()
    assert 5 < np.median(forecast) < 40


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("likelihood", ["native", None])
def test_flat_context_gives_a_flat_forecast(tiny_moirai: str, likelihood: str | None, trained: bool) -> None:
    options = {"likelihood": likelihood, **LONG}
    model = fitted(tiny_moirai, **options) if trained else make_model(tiny_moirai, **options)
    for value, expected in ((3.25, 3.25), (0.0, 0.0), (-1e6, -1e6), (np.nan, np.nan)):
        flat = from_values(np.full((CONTEXT, 1), value, dtype=np.float32))
        for samples in (1,) if likelihood is None else (1, 5):
            forecast = values_of(model.predict(2 * HORIZON, flat, num_samples=samples))
            np.testing.assert_allclose(forecast[:HORIZON], expected, rtol=1e-6)
            np.testing.assert_allclose(forecast, expected, rtol=1e-2)  # what is fed back is rounded


def test_flat_component_leaves_the_other_alone(tiny_moirai: str) -> None:
    """Also in the weights of the scales: the forecast is that of a series without it."""
    varied, model = wave(50, 2), make_model(tiny_moirai, likelihood=None, **LONG)
    values = varied.values().copy()
    values[:, 0] = 2.0
    forecast = values_of(model.predict(HORIZON, varied.with_values(values)))[:, :, 0]
    assert (forecast[:, 0] == 2.0).all()
    alone = values_of(model.predict(HORIZON, varied[varied.columns[1]]))[:, 0, 0]
    np.testing.assert_allclose(forecast[:, 1], alone, rtol=1e-5)


def test_flat_series_do_not_spoil_training(tiny_moirai: str) -> None:
    """Their own forecasts are right in the score too."""
    flat = wave(60).with_values(np.full((60, 1), 3.0, dtype=np.float32))
    model = make_model(tiny_moirai, lr_head=1e-2, n_epochs=2)
    model.fit([wave(60), flat], val_series=[wave(60, seed=1), flat])
    assert model.fit_report.best < model.fit_report.before < np.inf
    assert np.isfinite(values_of(model.predict(HORIZON, wave(), num_samples=5))).all()
    only_flat = make_model(tiny_moirai, num_scales=0).fit(wave(60), val_series=flat).fit_report
    assert only_flat.before == pytest.approx(0, abs=1e-6)


def scaled(series: TimeSeries, scale: float) -> TimeSeries:
    return series.with_values((series.values().astype(np.float64) * scale).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-20, 1e15])
def test_magnitudes(tiny_moirai: str, scale: float) -> None:
    model, point = make_model(tiny_moirai), make_model(tiny_moirai, likelihood=None)
    model.fit(scaled(wave(60), scale), val_series=scaled(wave(50, seed=1), scale))
    assert np.isfinite(values_of(model.predict(HORIZON, scaled(wave(), scale), num_samples=5))).all()
    assert differing(make_model(tiny_moirai, **STILL).fit(wave(60)), model)  # no step was skipped
    assert all(np.isfinite(candidate.score) for candidate in model.candidates)
    assert [candidate.label for candidate in model.candidates] == [*ZERO_SHOT, "epoch 1"]
    if scale > 1:
        forecasts = [values_of(point.predict(HORIZON, series)) for series in (wave(), scaled(wave(), scale))]
        np.testing.assert_allclose(forecasts[1], scale * forecasts[0], rtol=1e-3)


def test_an_error_code_is_told_once(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    values = wave(200).values().copy()
    values[77] = -9999
    for _ in range(2):
        make_model(tiny_moirai, method="zero_shot").fit(wave(200).with_values(values), val_series=wave(60, seed=1))
    assert caplog.text.count("-9999 of '0' at 2024-01-04 05:00:00 (1 in all)") == 1
