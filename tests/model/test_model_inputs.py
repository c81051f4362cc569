"""Bad input is answered in one line before any training; odd input is served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from darts import TimeSeries
from model_fixtures import (
    CONTEXT,
    HORIZON,
    chosen_state,
    from_values,
    make_model,
    parameters_snapshot,
    validation_scores,
    values_of,
    wave,
)
from safetensors.torch import load_file, save_file

OTHER = {"num_scales": None}  # of methods at the series' own rate

REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"num_scales": 3}, ["num_scales=3", "32", "8 steps", "allowed are 0 to 2", "longer context"]),
    ({"num_scales": 2, "output_chunk_length": 3}, ["num_scales=2", "horizon of 3", "allowed are 0 to 1", "lower it"]),
    ({"num_scales": -1}, ["num_scales=-1", "at least 0"]),
    ({"input_chunk_length": 4, "num_scales": None}, ["input_chunk_length=4", "patch_size=4", "at least 5 steps"]),
    ({"input_chunk_length": 8, "patch_size": 8, "num_scales": 0}, ["input_chunk_length=8", "at least 9", "smaller"]),
    ({"input_chunk_length": 0}, ["input_chunk_length=0", "at least 1"]),
    ({"input_chunk_length": (CONTEXT, 10)}, ["input_chunk_length", "10", "32"]),
    ({"output_chunk_length": 0}, ["output_chunk_length=0", "at least 1"]),
    ({"output_chunk_shift": -2}, ["output_chunk_shift=-2", "at least 0"]),
    ({"patch_size": 16}, ["patch_size=16", "'auto' or one of 4, 8"]),
    ({"patch_size": "big"}, ["patch_size='big'", "'auto' or one of 4, 8"]),
    ({"backbone": "moirai-1.1-R-smal"}, ["'moirai-1.1-R-smal'", "did you mean 'moirai-1.1-R-small'", "a directory"]),
    ({"backbone": "/nowhere/weights"}, ["'/nowhere/weights'", "a directory with config.json", "moirai-tiny"]),
    ({"method": "lorra"}, ["method='lorra'", "choose one of 'msft'"]),
    ({"aggregator": "c2c"}, ["aggregator='c2c'", "'both', 'c2f', 'f2c', None"]),
    ({"mixing": "average"}, ["mixing='average'", "'mixture', 'quantile'"]),
    ({"upsampling": "cubic"}, ["upsampling='cubic'", "'repeat', 'linear'"]),
    ({"weight_learning": "guess"}, ["weight_learning='guess'", "'scale_loss', 'mixed_loss', 'stacking', 'uniform'"]),
    ({"weight_init": "last"}, ["weight_init='last'", "'uniform', 'first'"]),
    ({"weight_init": [0.0, 1.0]}, ["weight_init=[0.0, 1.0]", "2 logits", "3 scales", "one logit a scale"]),
    ({"weight_init": [0.0, 1.0, float("nan")]}, ["weight_init", "nan"]),
    ({"lr_new": -1e-3}, ["lr_new=-0.001", "at least 0"]),
    ({"lr_pretrained": -1.0}, ["lr_pretrained=-1.0", "at least 0"]),
    ({"lr_head": float("inf")}, ["lr_head=inf", "finite"]),
    ({"lr_omega": float("nan")}, ["lr_omega=nan", "finite"]),
    ({"lora_rank": -1}, ["lora_rank=-1", "at least 0"]),
    ({**OTHER, "method": "lora", "lora_rank": 0}, ["lora_rank=0", "at least 1", "method='zero_shot'"]),
    ({"lora_alpha": -1.0}, ["lora_alpha=-1.0", "at least 0"]),
    ({"lora_rnk": 4}, ["MSFTFoundationModel has no argument 'lora_rnk'", "did you mean 'lora_rank'"]),
    ({"n_epoch": 4}, ["no argument 'n_epoch'", "'n_epochs'"]),
    ({"zzz": 4}, ["no argument 'zzz'", "help()"]),
    (
        {**OTHER, "method": "full", "lora_rank": 4, "aggregator": "c2f", "lr_new": 1.0},
        [
            "lr_new=1.0 (of 'msft', 'prompt', 'lora', 'adalora')",
            "lora_rank=4 (of 'msft', 'lora', 'adalora')",
            "aggregator='c2f' (of 'msft')",
            "without effect with method='full'; leave it out",
        ],
    ),
    ({**OTHER, "method": "lora", "shared_lora": True}, ["shared_lora=True (of 'msft')", "method='lora'"]),
    ({**OTHER, "method": "lora", "mixing": "quantile"}, ["mixing='quantile' (of 'msft')", "method='lora'"]),
    ({**OTHER, "method": "lora", "lr_head": 0.1}, ["lr_head=0.1", "'full', 'linear_probe'", "method='lora'"]),
    ({**OTHER, "method": "zero_shot", "lr_head": 0.1}, ["lr_head=0.1", "method='zero_shot'"]),
    ({"mixing": "first", "weight_learning": "uniform"}, ["weight_learning='uniform'", "mixing='first'", "leave it"]),
    ({"mixing": "first", "weight_init": [1.0, 0, 0]}, ["weight_init=(1.0, 0.0, 0.0)", "mixing='first'"]),
    ({"loss_fn": torch.nn.L1Loss(), "likelihood": None}, ["loss_fn", "likelihood"]),
]


@pytest.mark.parametrize(("settings", "parts"), REFUSED, ids=lambda value: str(value)[:50])
def test_settings_are_refused_at_construction(tiny_moirai: str, settings: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        make_model(tiny_moirai, **settings)
    message = str(caught.value)
    assert "\n" not in message
    missing = [part for part in parts if part not in message]
    assert not missing, message


WRONG_TYPES = """
import sys
sys.path.insert(0, sys.argv[2])
from model_fixtures import make_model
for change in ({"input_chunk_length": 32.0}, {"input_chunk_length": "32"}, {"input_chunk_length": (32,)},
               {"input_chunk_length": None}, {"output_chunk_length": 8.5}, {"num_scales": 1.5}, {"num_scales": True},
               {"lora_rank": 2.0}, {"lr_new": "fast"}, {"backbone": 3}, {"weight_init": 0.5}, {"likelihood": 0.5},
               {"patch_size": 4.5}, {"output_chunk_shift": 1.5}, {"method": ["msft"]}, {"mixing": ["first"]},
               {"weight_init": ["a", 0, 0]}, {"weight_init": [None, 0, 0]}):
    try:
        make_model(sys.argv[1], **change)
        print("ACCEPTED", change)
    except ValueError as error:
        name, value = next(iter(change.items()))
        print("OK" if f"{name}={value!r}" in str(error) else "UNCLEAR", change, str(error).replace(chr(10), " | "))
    except Exception as error:
        print("RAISED", change, type(error).__name__, error)
"""


def test_wrong_types_are_refused_by_name(tiny_moirai: str) -> None:
    """In a process of its own: here the type-checking hook would answer before the package does."""
    command = [sys.executable, "-W", "ignore", "-c", WRONG_TYPES, tiny_moirai, str(Path(__file__).parents[1])]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    lines = [line for line in answer.stdout.splitlines() if line.split(" ", 1)[0].isupper()]
    assert len(lines) == 18
    assert [line for line in lines if not line.startswith("OK ")] == []


NUMPY_NUMBERS = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from model_fixtures import make_model, wave
from darts_msft import MSFTFoundationModel
plain = {"input_chunk_length": (20, 32), "output_chunk_length": 8, "output_chunk_shift": 1, "num_scales": 1,
         "patch_size": 4, "lora_rank": 2, "lora_alpha": 4.0, "lr_new": 0.5, "weight_init": [0.5, 0.25]}
kinds = {int: np.int64, float: np.float32}
def scalars(value):
    return type(value)(map(scalars, value)) if isinstance(value, (list, tuple)) else kinds[type(value)](value)
models = [make_model(sys.argv[1], **given) for given in (plain, {name: scalars(v) for name, v in plain.items()})]
assert repr(models[0]._module_settings) == repr(models[1]._module_settings)
assert repr(models[0].model_params) == repr(models[1].model_params)
models[1].fit(wave(60)).save(sys.argv[3])
MSFTFoundationModel.load(sys.argv[3])
"""


def test_numpy_numbers_are_python_s(tiny_moirai: str, tmp_path: Path) -> None:
    """In a process of its own, as above: stored as Python's own numbers, and so they can be saved and loaded."""
    command = [sys.executable, "-W", "ignore", "-c", NUMPY_NUMBERS, tiny_moirai, str(Path(__file__).parents[1])]
    answer = subprocess.run([*command, str(tmp_path / "model.pt")], capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr


# ------------------------------------------------------------------------------------------------------- weights


def spoil_missing(state: dict[str, torch.Tensor]) -> None:
    del state["mask_encoding.weight"]


def spoil_unexpected(state: dict[str, torch.Tensor]) -> None:
    state["extra.weight"] = torch.zeros(1)


def spoil_nan(state: dict[str, torch.Tensor]) -> None:
    state["mask_encoding.weight"][0, 0] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (spoil_missing, ["1 missing (mask_encoding.weight)"]),
        (spoil_unexpected, ["1 unexpected (extra.weight)"]),
        (spoil_nan, ["1 with NaN or infinite values (mask_encoding.weight)"]),
    ],
)
@pytest.mark.parametrize("call", ["fit", "predict"])
def test_weights_that_do_not_fit(
    tiny_moirai: str, tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], None], parts: list[str], call: str
) -> None:
    folder = Path(shutil.copytree(tiny_moirai, tmp_path / "weights"))
    state = load_file(folder / "model.safetensors")
    spoil(state)
    save_file(state, folder / "model.safetensors")
    model = make_model(str(folder))
    with pytest.raises(ValueError, match="give the weights that belong to this configuration") as caught:
        model.fit(wave(50)) if call == "fit" else model.predict(HORIZON, wave(50))
    assert all(part in str(caught.value) for part in [*parts, str(folder)])


def test_configuration_of_something_else(tiny_moirai: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_moirai, tmp_path / "weights"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="no architecture that darts-msft knows"):
        make_model(str(folder))


# ------------------------------------------------------------------------------------------ Darts' own refusals


def test_irregular_series_is_darts_own_refusal(tiny_moirai: str) -> None:
    times = pd.DatetimeIndex(["2024-01-01", "2024-01-02", "2024-01-04", "2024-02-01"])
    with pytest.raises(ValueError, match="frequency"):
        make_model(tiny_moirai).fit(TimeSeries.from_times_and_values(times, np.zeros((4, 1))))


def test_short_series_are_darts_own_refusal(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match="Expected min length: `40`"):
        make_model(tiny_moirai).fit(wave(CONTEXT + HORIZON - 1))
    with pytest.raises(ValueError, match="Expected min length: `32`"):
        make_model(tiny_moirai).predict(HORIZON, wave(CONTEXT - 1))
    with pytest.raises(ValueError, match="too short"):
        make_model(tiny_moirai).fit(wave(50), val_series=wave(CONTEXT))


@pytest.mark.parametrize("kind", ["past_covariates", "future_covariates"])
def test_covariates_are_darts_own_refusal(tiny_moirai: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"does not support `{kind}`"):
        make_model(tiny_moirai).fit(wave(50), **{kind: wave(70)})


def test_another_number_of_components_is_darts_own_refusal(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai).fit(wave(50))
    with pytest.raises(ValueError, match="equal number of components"):
        model.predict(HORIZON, wave(50, 2))


def test_zero_shot_takes_series_of_any_width(tiny_moirai: str) -> None:
    """Nothing was fitted, so nothing ties the model to the first series it saw."""
    model = make_model(tiny_moirai, likelihood=None)
    assert model.predict(HORIZON, wave(50)).n_components == 1
    assert model.predict(HORIZON, wave(50, 2)).n_components == 2


def test_static_covariates_are_ignored(tiny_moirai: str) -> None:
    series = wave(50).with_static_covariates(pd.DataFrame({"site": [3.0]}))
    model = make_model(tiny_moirai, likelihood=None)
    assert np.array_equal(values_of(model.predict(HORIZON, series)), values_of(model.predict(HORIZON, wave(50))))


# ------------------------------------------------------------------------------------------------ served input


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_follows_the_series(tiny_moirai: str, dtype: Any) -> None:
    model = make_model(tiny_moirai).fit(wave(60, dtype=dtype), val_series=wave(50, seed=1, dtype=dtype))
    assert {value.dtype for value in parameters_snapshot(model).values()} == {np.dtype(dtype)}
    assert model.predict(HORIZON, wave(60, dtype=dtype), num_samples=3).dtype == dtype
    assert model.predict(HORIZON, wave(60, dtype=dtype), predict_likelihood_parameters=True).dtype == dtype


def test_precisions_agree(tiny_moirai: str) -> None:
    double = make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave().astype(np.float64))
    single = make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave())
    np.testing.assert_allclose(values_of(double), values_of(single), rtol=1e-3)


def test_zero_shot_precision_follows_each_series(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai)
    for dtype in (np.float64, np.float32):
        assert model.predict(HORIZON, wave(50, dtype=dtype), num_samples=2).dtype == dtype


def test_integers_are_served(tiny_moirai: str) -> None:
    counts = from_values(np.random.default_rng(0).poisson(20, size=(60, 1)))
    model = make_model(tiny_moirai).fit(counts)
    forecast = values_of(model.predict(HORIZON, counts, num_samples=200, random_state=0))
    assert np.isfinite(forecast).all()
    assert 5 < np.median(forecast) < 40


def test_integer_time_index(tiny_moirai: str) -> None:
    series = TimeSeries.from_values(wave().values())
    forecast = make_model(tiny_moirai, likelihood=None).predict(HORIZON, series)
    assert list(forecast.time_index) == list(range(100, 100 + HORIZON))
    np.testing.assert_array_equal(
        values_of(forecast), values_of(make_model(tiny_moirai, likelihood=None).predict(HORIZON, wave()))
    )


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(("value", "expected"), [(3.25, 3.25), (0.0, 0.0), (-1e6, -1e6), (np.nan, 0.0)])
@pytest.mark.parametrize("likelihood", ["native", None])
def test_flat_context_gives_a_flat_forecast(
    tiny_moirai: str, likelihood: str | None, value: float, expected: float, trained: bool
) -> None:
    model = make_model(tiny_moirai, likelihood=likelihood)
    if trained:
        model.fit(wave(50))
    flat = from_values(np.full((CONTEXT, 1), value, dtype=np.float32))
    for samples in (1,) if likelihood is None else (1, 5):
        forecast = values_of(model.predict(2 * HORIZON, flat, num_samples=samples))
        np.testing.assert_allclose(forecast, expected, rtol=1e-6)


def test_flat_component_leaves_the_other_alone(tiny_moirai: str) -> None:
    varied, model = wave(50, 2), make_model(tiny_moirai, likelihood=None)
    values = varied.values().copy()
    values[:, 0] = 2.0
    forecast = values_of(model.predict(HORIZON, varied.with_values(values)))[:, :, 0]
    assert (forecast[:, 0] == 2.0).all()
    np.testing.assert_allclose(forecast[:, 1], values_of(model.predict(HORIZON, varied))[:, 1, 0], rtol=1e-5)


def test_flat_series_do_not_spoil_training(tiny_moirai: str) -> None:
    flat = wave().with_values(np.full((100, 1), 3.0, dtype=np.float32))
    model = make_model(tiny_moirai, lr_head=1e-2, n_epochs=2)
    model.fit([wave(), flat], val_series=[wave(60, seed=1), flat])
    assert all(np.isfinite(value).all() for value in parameters_snapshot(model).values())
    before, after = validation_scores(model)
    assert np.isfinite(before)
    assert after < before


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e15])
def test_magnitudes_are_finite(tiny_moirai: str, scale: float) -> None:
    def scaled(series: TimeSeries) -> TimeSeries:
        return series.with_values((series.values().astype(np.float64) * scale).astype(np.float32))

    model = make_model(tiny_moirai)
    for _ in range(2):
        assert np.isfinite(values_of(model.predict(HORIZON, scaled(wave()), num_samples=5))).all()
        model.fit(scaled(wave(60)), val_series=scaled(wave(50, seed=1)))
        assert np.isfinite(validation_scores(model)).all()
    assert all(np.isfinite(value).all() for value in parameters_snapshot(model).values())


@pytest.mark.parametrize("scale", [1e3, 1e15])
def test_forecasts_scale_with_the_series(tiny_moirai: str, scale: float) -> None:
    model = make_model(tiny_moirai, likelihood=None)
    large = wave().with_values((wave().values() * scale).astype(np.float32))
    np.testing.assert_allclose(
        values_of(model.predict(HORIZON, large)), scale * values_of(model.predict(HORIZON, wave())), rtol=1e-3
    )


def test_training_that_runs_is_chosen(tiny_moirai: str) -> None:
    """Guards the tests above: with ordinary input, `fit` does leave the zero-shot state."""
    assert chosen_state(make_model(tiny_moirai, lr_head=1e-2).fit(wave(), val_series=wave(60, seed=1))) == "epoch 0"
