"""Bounds of forecasts: what they clip, how "auto" finds them, and that files keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries, concatenate
from darts.utils.data.torch_datasets.training_dataset import TorchTrainingDataset
from darts.utils.likelihood_models.torch import GaussianLikelihood, QuantileRegression
from model_fixtures import CONTEXT, HORIZON, LONG, differing, make_model, naive_unit, values_of, wave
from torchmetrics import MeanAbsoluteError, MetricCollection

from darts_msft import MSFTFoundationModel
from darts_msft.bounds import BoundsConfig
from darts_msft.training.score import stack_weights

BEFORE = Path(__file__).parents[1] / "fixtures" / "v0_1"
OLD: dict[str, Any] = {"num_scales": 1, "lora_rank": 2, "aggregator": "f2c", "upsampling": "repeat"}
QUANTILES = QuantileRegression([0.1, 0.5, 0.9])
INSIDE: dict[str, Any] = {"lower": -0.2, "upper": 0.3}
"""Bounds that cut both ends of the forecasts of `wave(level=0)`."""


def counts(length: int = 100, components: int = 1, seed: int = 0) -> TimeSeries:
    """Never below 0, and 0 in half of the steps."""
    series = wave(length, components, seed)
    return series.with_values(np.maximum(series.values() - 5 - 3 * np.arange(components), 0).astype(np.float32))


def clipped(values: Any) -> np.ndarray:
    return np.clip(values, np.float32(INSIDE["lower"]), np.float32(INSIDE["upper"]))


@pytest.mark.parametrize(
    "settings",
    [
        LONG,
        {"mixing": "quantile"},
        {"likelihood": None},
        {"likelihood": QUANTILES, **LONG},
    ],
)
def test_forecasts_are_those_without_bounds_but_clipped(tiny_moirai: str, settings: dict[str, Any]) -> None:
    plain, bounded = (make_model(tiny_moirai, **settings, **bounds) for bounds in ({}, INSIDE))
    series = [wave(44, 2, level=0.0), wave(42, 2, seed=1, level=-3.0)]
    samples = [1] if settings.get("likelihood", "") is None else [1, 20]
    ways: list[Any] = [
        lambda model, count=count: values_of(model.predict(HORIZON, series, num_samples=count, random_state=0))
        for count in samples
    ]
    if len(samples) == 2:
        ways.append(lambda model: values_of(model.predict_quantiles(HORIZON, series)))
    if settings.get("likelihood") is QUANTILES:
        ways.append(lambda model: values_of(model.predict(HORIZON, series, predict_likelihood_parameters=True)))
    ways.append(lambda model: np.stack([one.values() for one in model.scale_forecasts(series[0])]))
    ways.append(lambda model: values_of(model.historical_forecasts(series, retrain=False, last_points_only=True)[0]))
    for forecast in ways:
        expected = forecast(plain)
        assert (expected.min(), expected.max()) != (clipped(expected).min(), clipped(expected).max())
        np.testing.assert_array_equal(forecast(bounded), clipped(expected))


def test_other_parameters_are_not_values(tiny_moirai: str) -> None:
    plain, bounded = (make_model(tiny_moirai, **bounds) for bounds in ({}, INSIDE))
    options: dict[str, Any] = {"predict_likelihood_parameters": True}
    expected = values_of(plain.predict(HORIZON, wave(), **options))
    np.testing.assert_array_equal(values_of(bounded.predict(HORIZON, wave(), **options)), expected)


def test_what_is_fed_back_is_clipped(tiny_moirai: str) -> None:
    plain, bounded = (make_model(tiny_moirai, **bounds) for bounds in ({}, INSIDE))
    series = wave(60, level=-0.5)
    first = bounded.predict(HORIZON, series)
    second = bounded.predict(HORIZON, concatenate([series, first]))
    found = bounded.predict(2 * HORIZON, series).values()
    np.testing.assert_allclose(found[HORIZON:], second.values(), atol=1e-6)
    assert np.abs(found - clipped(plain.predict(2 * HORIZON, series).values())).max() > 1e-3
    samples = values_of(bounded.predict(3 * HORIZON, series, num_samples=10))
    np.testing.assert_array_equal(samples, clipped(samples))


def test_a_number_is_exact_in_the_precision_of_the_series(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, lower=0.1, upper=0.11)
    values = model.predict(HORIZON, wave(level=0.0, dtype=np.float64)).values()
    assert set(values.flat) <= {0.1, 0.11}
    assert values.dtype == np.float64


# ------------------------------------------------------------------------------------------------------------- "auto"


@pytest.mark.parametrize("method", ["zero_shot", "msft"])
def test_auto_is_0_where_no_training_series_was_below(tiny_moirai: str, method: str) -> None:
    below = counts(60, 2).values().copy()
    below[3, 1] = -0.01
    below[5, 0] = np.nan
    series = counts(60, 2)
    plain, bounded = (
        make_model(tiny_moirai, method=method, **bounds).fit([counts(60, 2), series.with_values(below)])
        for bounds in ({}, {"lower": "auto"})
    )
    free, found = (
        values_of(model.predict(HORIZON, series, num_samples=50, random_state=0)) for model in (plain, bounded)
    )
    assert free[:, 0].min() < -0.1
    np.testing.assert_array_equal(found[:, 0], np.maximum(free[:, 0], 0))
    np.testing.assert_array_equal(found[:, 1], free[:, 1])
    assert found[:, 1].min() < -0.1
    bounded.fit(counts(60, 2, seed=1))  # the last fit's series count
    np.testing.assert_array_equal(bounded.model.bounds.lower, [0, 0])


def test_before_a_fit_auto_goes_by_each_window(tiny_moirai: str) -> None:
    plain, bounded = (make_model(tiny_moirai, **bounds) for bounds in ({}, {"lower": "auto"}))
    series = counts(40, 2)
    values = series.values().copy()
    values[-5, 1] = -0.01
    values[0, 0] = -0.01  # before the input
    values[-3, 0] = np.nan
    windows: Sequence[TimeSeries] = [series, series.with_values(values)]
    options: dict[str, Any] = {"num_samples": 50, "random_state": 0}
    free, found = (values_of(model.predict(HORIZON, windows, **options)) for model in (plain, bounded))
    assert free.min(axis=(1, 3)).max() < -0.1
    np.testing.assert_array_equal(found[0], np.maximum(free[0], 0))
    np.testing.assert_array_equal(found[1, :, 0], np.maximum(free[1, :, 0], 0))
    np.testing.assert_array_equal(found[1, :, 1], free[1, :, 1])


def test_a_component_that_no_fit_has_seen_goes_by_each_window(tiny_moirai: str) -> None:
    values = counts(60, 2).values().copy()
    values[:, 1] = np.nan
    model = make_model(tiny_moirai, method="zero_shot", lower="auto").fit(counts(60, 2).with_values(values))
    found = values_of(model.predict(HORIZON, [wave(60, 2, level=0.0), counts(60, 2)], num_samples=50))
    assert found[0, :, 0].min() == found[1].min() == 0


def test_with_auto_other_windows_than_of_series_are_told(tiny_moirai: str, caplog: pytest.LogCaptureFixture) -> None:
    source = make_model(tiny_moirai).fit(counts(60))

    class Own(TorchTrainingDataset):
        def __init__(self) -> None:
            self.own = source._build_train_dataset([counts(60)], None, None, None, None)

        def __len__(self) -> int:
            return len(self.own)

        def __getitem__(self, index: int) -> Any:
            return self.own[index]

    model = make_model(tiny_moirai, lower="auto").fit_from_dataset(Own())
    assert "lower='auto'" in caplog.text
    assert values_of(model.predict(HORIZON, counts(60), num_samples=50)).min() == 0
    assert values_of(model.predict(HORIZON, wave(60, level=0.0), num_samples=50)).min() < 0


# ------------------------------------------------------------------------------------------------------------- a fit


def windows_of(val: TimeSeries) -> list[tuple[TimeSeries, np.ndarray]]:
    ends = range(CONTEXT, len(val) - HORIZON + 1)
    return [(val[:end], val.values()[end : end + HORIZON]) for end in ends]


def unit_of(model: MSFTFoundationModel, train: TimeSeries) -> float:
    """What the score is relative to."""
    return float(naive_unit(train, model.fit_report.season or 1)[0])


def test_weights_are_stacked_on_clipped_points(tiny_moirai: str) -> None:
    val = counts(48, seed=1)
    plain, bounded = (
        make_model(tiny_moirai, method="zero_shot", likelihood=None, **bounds).fit(counts(), val_series=val)
        for bounds in ({}, {"lower": 0.5})
    )

    def weights(model: MSFTFoundationModel) -> np.ndarray:
        """Those with the lowest squared error on the validation windows."""
        errors = np.stack(
            [[one.values() - truth for one in model.scale_forecasts(past)] for past, truth in windows_of(val)], axis=-1
        ).reshape(3, -1)
        return np.asarray(stack_weights(torch.as_tensor(errors @ errors.T)))

    np.testing.assert_allclose(bounded.scale_weights, weights(bounded), atol=1e-3)
    assert np.abs(weights(bounded) - weights(plain)).max() > 0.02


@pytest.mark.filterwarnings("ignore:You called .self.log:UserWarning")  # Darts logs metrics though there is no logger
@pytest.mark.parametrize("likelihood", ["native", None, QUANTILES, GaussianLikelihood()])
def test_the_score_and_metrics_are_of_the_clipped_forecast(tiny_moirai: str, likelihood: Any) -> None:
    """Where bounds leave one value, both are known. The linear member's draws are clipped too."""
    metrics = MetricCollection([MeanAbsoluteError()])
    member = {"linear_member": likelihood == "native"}
    model = make_model(
        tiny_moirai, lower=9.0, upper=9.000001, likelihood=likelihood, torch_metrics=metrics, **member, **LONG
    )
    val = counts(48, seed=1)
    model.fit(counts(200), val_series=val)
    truths = np.stack([truth for _, truth in windows_of(val)])
    expected = np.abs(9 - truths).mean()
    assert model.fit_report.best == pytest.approx(expected / unit_of(model, counts(200)), rel=1e-4)
    for name in ("train_MeanAbsoluteError", "val_MeanAbsoluteError"):
        assert float(model.trainer.callback_metrics[name]) == pytest.approx(expected, rel=0.01)


def test_training_is_as_without_them(tiny_moirai: str) -> None:
    plain, bounded = (make_model(tiny_moirai, lr_head=1e-2, **bounds).fit(counts()) for bounds in ({}, INSIDE))
    assert differing(plain, bounded) == set()


def test_k_auto_keeps_what_its_fits_found(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, num_scales="auto", lower="auto").fit(counts(), val_series=counts(60, seed=1))
    assert values_of(model.predict(HORIZON, wave(60, level=0.0), num_samples=50)).min() == 0


# -------------------------------------------------------------------------------------------------------------- files


@pytest.fixture(scope="module")
def found(tiny_moirai: str) -> MSFTFoundationModel:
    """Has found a bound of 0, and has another as a number."""
    return make_model(tiny_moirai, method="lora", lower="auto", upper=0.5).fit(counts())


def samples_of(model: MSFTFoundationModel) -> np.ndarray:
    """Of a window with values below 0."""
    return values_of(model.predict(HORIZON, wave(60, level=0.0), num_samples=50, random_state=0))


@pytest.mark.parametrize(
    ("given", "first"),
    [({}, "nothing"), ({"lower": "auto"}, "fit"), ({"lower": 0.1}, "nothing"), ({"lower": 0.1, "upper": 0.2}, "fit")],
)
def test_adapters_and_weights_bring_them_where_no_number_is_given(
    tiny_moirai: str, found: MSFTFoundationModel, tmp_path: Path, given: dict[str, Any], first: str
) -> None:
    model = make_model(tiny_moirai, method="lora", **given)
    if first == "fit":
        model.fit(wave(60, level=0.0))
    found.save_adapter(tmp_path / "adapter")
    model.load_adapter(tmp_path / "adapter")
    lower = given["lower"] if isinstance(given.get("lower"), float) else 0.0
    assert model.model.bounds.lower.item() == np.float32(lower)
    expected = np.clip(samples_of(found), np.float32(lower), np.float32(given.get("upper", 0.5)))
    np.testing.assert_array_equal(samples_of(model), expected)
    if first == "nothing":
        found.save(str(tmp_path / "model.pt"))
        model = make_model(tiny_moirai, method="lora", **given)
        model.load_weights(str(tmp_path / "model.pt"))
        np.testing.assert_array_equal(samples_of(model), expected)


def test_merging_keeps_them(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, method="lora", lower="auto", upper=0.5).fit(counts())
    expected = samples_of(model)
    np.testing.assert_allclose(samples_of(model.merge()), expected, atol=1e-4)


def test_files_of_0_1_have_none(tmp_path: Path) -> None:
    model = make_model(str(BEFORE / "checkpoint"), lower="auto", **OLD)
    model.load_adapter(BEFORE / "msft_adapter")
    assert samples_of(model).min() < 0
    assert values_of(model.predict(HORIZON, counts(), num_samples=50)).min() == 0  # the window says so
    bounded = make_model(str(BEFORE / "checkpoint"), **INSIDE, **OLD)
    bounded.load_adapter(BEFORE / "msft_adapter")
    np.testing.assert_array_equal(samples_of(bounded), clipped(samples_of(model)))
    loaded = MSFTFoundationModel.load(str(BEFORE / "msft.pt"))
    assert values_of(loaded.predict(loaded.output_chunk_length, counts(), num_samples=50)).min() < 0


# -------------------------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize(
    "bounds",
    [
        {"lower": float("nan")},
        {"upper": float("inf")},
        {"lower": True},
        {"lower": "0"},
        {"lower": [0.0, 0.0]},
        {"upper": "auto"},
        {"lower": 1, "upper": 1},
        {"lower": 2.0, "upper": 1.0},
        {"lower": "auto", "upper": -1.0},
    ],
)
def test_bounds_that_are_none_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bounds))) as error:
        BoundsConfig(**bounds)
    assert "\n" not in str(error.value)


def test_a_model_refuses_them_before_anything_is_trained(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"lower=2\.0 is not allowed with upper=1\.0"):
        make_model(tiny_moirai, lower=2.0, upper=1.0)


def test_numbers_of_numpy_are_numbers() -> None:
    found = BoundsConfig(np.float32(0.5), np.int64(7))  # type: ignore[arg-type]
    assert found == BoundsConfig(0.5, 7.0)
    assert type(found.lower) is type(found.upper) is float
