"""Scales that look further back: what each sees, lengths beyond a checkpoint's, and weights from backcasts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import PLModuleInput
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import CONTEXT, HORIZON, fitted, from_values, make_model, parameters_of, values_of, wave
from oracles import memory_of, pool_loop

from darts_msft import MSFTFoundationModel
from darts_msft.module import MSFTModule
from darts_msft.scales.backcasts import COUNT

FURTHER: dict[str, Any] = {
    "input_chunk_length": 48,
    "finest_context": 12,
}  # the scales see the last 12, 24 and 48 steps


def noisy(length: int = 100, components: int = 1, seed: int = 0, level: float = 5.0) -> TimeSeries:
    """`wave` with a trend and more noise: the scales differ in what they make of it."""
    noise = np.random.default_rng(seed + 100).standard_normal((length, components)).cumsum(axis=0) / 2
    series = wave(length, components, seed, level=level)
    return series.with_values((series.values() + noise).astype(np.float32))


# --- what a scale sees ------------------------------------------------------------------------------------------------


def test_each_scale_forecasts_what_it_sees_as_the_pretrained_model_alone_would(tiny_moirai: str) -> None:
    """Its averages, as a series of their own."""
    series = noisy()
    model = make_model(tiny_moirai, likelihood=None, upsampling="repeat", **FURTHER)
    for scale, forecast in enumerate(model.scale_forecasts(series)):
        memory = memory_of(48, scale, 12)
        pooled = np.array(pool_loop(series.values()[-memory:, 0].tolist(), 2**scale, backwards=True), dtype=np.float32)
        alone = make_model(
            tiny_moirai,
            likelihood=None,
            num_scales=0,
            input_chunk_length=len(pooled),
            output_chunk_length=HORIZON // 2**scale,
        )
        expected = values_of(alone.predict(HORIZON // 2**scale, from_values(pooled[:, None])))
        np.testing.assert_allclose(values_of(forecast), expected.repeat(2**scale, axis=0), rtol=1e-4)


def test_what_is_older_than_its_memory_is_nothing_to_a_scale(tiny_moirai: str) -> None:
    model, series = make_model(tiny_moirai, likelihood=None, **FURTHER), noisy()
    plain = model.scale_forecasts(series)
    for age in (12, 13, 24, 25, 48, 49):
        values = series.values().copy()
        values[-age] += 10
        moved = model.scale_forecasts(series.with_values(values))
        same = [np.array_equal(values_of(one), values_of(two)) for one, two in zip(plain, moved, strict=True)]
        assert same == [age > memory for memory in (12, 24, 48)]


def test_a_finest_context_of_the_whole_input_is_the_paper_s_form_to_the_bit(tiny_moirai: str) -> None:
    """Finetuned, with everything that joins the scales; without the setting, as in files of version 0.1, it is that."""
    model, whole = fitted(tiny_moirai, lr_head=1e-2), fitted(tiny_moirai, lr_head=1e-2, finest_context=CONTEXT)
    settings = {name: value for name, value in model._module_settings.items() if name != "finest_context"}
    bare = MSFTModule(**settings, **model.pl_module_params)
    bare.load_state_dict(model.model.state_dict())
    past = PLModuleInput(past_target=torch.as_tensor(wave(CONTEXT + 3, seed=4).values()[None, 3:]))
    with torch.no_grad():
        outputs = [module.eval().forecast(module.window(past)) for module in (model.model, whole.model, bare)]
    for other in outputs[1:]:
        assert torch.equal(other.weights, outputs[0].weights)
        assert all(torch.equal(*pair) for pair in zip(other.params, outputs[0].params, strict=True))
    tokens = [part.context_token_counts for part in (bare.plan, whole.model.plan)]
    assert tokens == [(8, 4, 2)] * 2


def test_finetuned_scales_reach_one_another_through_the_aggregator(tiny_moirai: str) -> None:
    """What only the coarsest sees comes to scale 0 there, and nowhere else."""
    series, forecasts = noisy(), []
    values = series.values().copy()
    values[-45] += 10
    for aggregator in ("both", None):
        model = make_model(tiny_moirai, likelihood=None, aggregator=aggregator, lr_new=3e-2, **FURTHER).fit(
            noisy(seed=1)
        )
        finest = [values_of(model.scale_forecasts(one)[0]) for one in (series, series.with_values(values))]
        forecasts.append(np.array_equal(*finest))
    assert forecasts == [False, True]


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "given", "patch_size", "contexts"),
    [
        ((512, 96), {}, 32, (512, 256, 128)),  # the paper's form
        ((1024, 96), {}, 32, (1024, 512, 256)),
        ((2048, 96), {}, 32, (1024, 1024, 512)),
        ((4096, 96), {}, 32, (1024, 1024, 1024)),
        ((8192, 96), {}, 32, (1024, 1024, 1024, 1024)),
        ((12000, 96), {}, 32, (1500, 1500, 1500, 1500)),  # the coarsest sees all
        ((4096, 96), {"num_scales": 1}, 32, (2048, 2048)),
        ((4096, 96), {"finest_context": 512}, 32, (512, 512, 512, 512)),
        ((4096, 96), {"finest_context": 512, "num_scales": 1}, 32, (512, 512)),  # nothing sees all
        ((4096, 96), {"finest_context": 300}, 16, (300, 300, 300, 300)),  # 16 patches in what scale 0 sees
        ((512, 24), {"finest_context": 64}, 16, (64, 64, 64, 64)),
        ((512, 24), {"finest_context": 64, "patch_size": 32}, 32, (64, 64, 64, 64)),  # as many tokens as scale 0
        ((2048, 96), {"mixing": "first"}, 32, (2048, 1024, 512)),  # scale 0 alone forecasts
        ((4096, 1), {"finest_context": 512}, 32, (512,)),  # no coarse step fits the horizon
        ((3000, 96), {"num_scales": 0}, 32, (3000,)),
        ((100, 24), {}, 16, (100, 50)),  # four tokens are left
    ],
)
def test_lengths_where_the_user_leaves_them_open(
    lengths: tuple[int, int], given: dict[str, Any], patch_size: int, contexts: tuple[int, ...]
) -> None:
    """Those of the bundled checkpoint, which knows patches of 16 and 32 steps, and takes 128 tokens."""
    given = {"patch_size": "auto", **given}
    for method in ("msft", "full", "zero_shot"):
        settings = MSFTFoundationModel(*lengths, method=method, **given)._module_settings
        names = ("patch_size", "num_scales", "finest_context")
        assert [settings[name] for name in names] == [patch_size, len(contexts) - 1, contexts[0]]


def test_tokens_beyond_the_checkpoint_are_refused_with_what_to_do() -> None:
    """128 tokens for the bundled one; what a scale really has counts."""
    with pytest.raises(
        ValueError, match=r"input_chunk_length=4096, .*scale 0 sees 4096 steps.* 131 tokens .*the 128 of"
    ) as caught:
        MSFTFoundationModel(4096, 96, num_scales=0)
    for remedy in ("num_scales", "finest_context", "input_chunk_length", "patch_size (16, 32)"):
        assert remedy in str(caught.value)
    for settings in ({"num_scales": 1}, {"finest_context": 4000, "num_scales": 0}):
        MSFTFoundationModel(4096, 96, **settings)
    MSFTFoundationModel(4000, 96, num_scales=0)
    with pytest.raises(ValueError, match="129 tokens"):
        MSFTFoundationModel(4001, 96, num_scales=0)
    with pytest.raises(ValueError, match=r"125 .*and 8 of the method's own"):
        MSFTFoundationModel(4096, 96, method="prompt", finest_context=3904, num_scales=1)


# --- weights by backcasts ---------------------------------------------------------------------------------------------


def by_hand(checkpoint: str, series: TimeSeries, steps: int, shift: int = 0, **settings: Any) -> tuple[Any, Any]:
    """The weights of the scales, and the mean of their medians: from forecasts of the window cut off earlier."""
    model = make_model(checkpoint, likelihood=None, output_chunk_shift=shift, **settings)
    longest = model.input_chunk_length
    window = series[-longest:]
    values, padding = window.values().astype(float), longest - len(window)
    unit, errors = np.nanvar(values, axis=0), []
    for index in range(1, COUNT + 1):
        first = len(values) - index * steps
        # a cut window starts where the whole one does
        cut = window[: first - shift]
        points = np.stack([values_of(one)[:steps, :, 0] for one in model.scale_forecasts(cut)], axis=-1)
        squares = (points - values[first : first + steps, :, None]) ** 2 / unit[:, None]
        told = 2 * (~np.isnan(cut.values())).sum(axis=0) >= model.model.plan.contexts[0]
        errors.append(np.where(told[:, None], squares, np.nan))
    assert padding >= 0
    shares = np.nanmean(np.concatenate(errors), axis=(0, 1)) ** -8
    weights = shares / shares.sum()
    points = np.stack([values_of(one)[..., 0] for one in model.scale_forecasts(window)], axis=-1)
    return weights, points @ weights


def gappy(series: TimeSeries) -> TimeSeries:
    values = series.values().copy()
    values[-30:-24] = values[-5] = values[-14:-12] = np.nan
    return series.with_values(values)


SETTINGS = {"input_chunk_length": (5, 48), "finest_context": 12}
CASES: list[tuple[str, TimeSeries, dict[str, Any], int]] = [  # and how many steps a backcast has
    ("plain", noisy(), {}, 8),
    ("components of different units", noisy(components=2).map(lambda x: x * np.array([[[1e3], [1e-3]]])), {}, 8),
    ("shift", noisy(), {"output_chunk_shift": 3}, 8),
    ("a horizon longer than half of the context", noisy(), {"output_chunk_length": 20}, 12),
    ("a short series in a long window", noisy(27), {}, 8),
    ("missing values", gappy(noisy()), {}, 8),
]


@pytest.mark.parametrize(("series", "changes", "steps"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_an_unfitted_model_weighs_its_scales_by_backcasts(
    tiny_moirai: str, series: TimeSeries, changes: dict[str, Any], steps: int
) -> None:
    settings = {**SETTINGS, **changes}
    shift = settings.pop("output_chunk_shift", 0)
    weights, expected = by_hand(tiny_moirai, series, steps, shift, **settings)
    assert weights.max() < 0.999
    model = make_model(tiny_moirai, likelihood=None, output_chunk_shift=shift, **settings)
    forecast = model.predict(model.output_chunk_length, series)
    np.testing.assert_allclose(values_of(forecast)[..., 0], expected, rtol=2e-3)
    native = make_model(tiny_moirai, output_chunk_shift=shift, **settings)
    frame = native.predict(model.output_chunk_length, series, predict_likelihood_parameters=True).to_dataframe()
    for scale, weight in enumerate(weights):
        columns = [name for name in frame.columns if name.endswith(f"s{scale}_weight")]
        np.testing.assert_allclose(frame[columns].to_numpy(), weight, rtol=2e-2, atol=1e-4)


@pytest.mark.parametrize("likelihood", ["native", None, QuantileRegression([0.1, 0.5, 0.9])])
def test_a_batch_forecasts_as_its_series_one_by_one(tiny_moirai: str, likelihood: Any) -> None:
    """Each has weights of its own, whatever is beside it: gaps, a flat series, another level."""
    flat = wave(60).with_values(np.full((60, 1), 0.3, dtype=np.float32))
    several = [noisy(), gappy(noisy(seed=1)), flat, noisy(seed=2).map(lambda x: 1e4 * x), noisy(40, seed=3)]
    model = make_model(tiny_moirai, likelihood=likelihood, **SETTINGS)
    forecasts = model.predict(HORIZON, several)
    for series, forecast in zip(several, forecasts, strict=True):
        np.testing.assert_allclose(values_of(forecast), values_of(model.predict(HORIZON, series)), rtol=1e-4)


def test_a_forecast_without_weights_of_its_own_is_scale_0_s(tiny_moirai: str) -> None:
    """Where the window is flat; there is none where it has nothing."""
    model = make_model(tiny_moirai, **SETTINGS)
    flat, nothing = (from_values(np.full((50, 1), value, dtype=np.float32)) for value in (3.0, np.nan))
    assert [scale["weight"] for scale in parameters_of(model, flat)[0]] == [1, 0, 0]
    assert np.isnan([scale["weight"] for scale in parameters_of(model, nothing)[0]]).all()


# --- windows that are shorter than the memory, or have gaps -----------------------------------------------------------


@pytest.mark.parametrize("length", [9, 12])
def test_left_padding_changes_nothing_where_scale_0_sees_all(tiny_moirai: str, length: int) -> None:
    """The coarser scales look no further back then: it is the pretrained model's own forecast."""
    series = noisy(length)
    alone = make_model(tiny_moirai, likelihood=None, num_scales=0, input_chunk_length=(5, 12))
    model = make_model(tiny_moirai, likelihood=None, **SETTINGS)
    expected = values_of(alone.predict(HORIZON, series))
    np.testing.assert_allclose(values_of(model.predict(HORIZON, series)), expected, rtol=1e-5)


@pytest.mark.parametrize("fit", [False, True])
def test_a_scale_that_saw_nothing_is_near_where_a_coarser_one_is(tiny_moirai: str, fit: bool) -> None:
    """Not at 0, whose forecast would be mixed in: here the level is 1000 and the deviation 1."""
    values = noisy(60, level=1000.0).values().copy()
    values[-14:] = np.nan  # more than scale 0 sees
    model, series = make_model(tiny_moirai, likelihood=None, n_epochs=1, **FURTHER), from_values(values)
    if fit:
        model.fit(series)
    points = [values_of(one) for one in [*model.scale_forecasts(series), model.predict(HORIZON, series)]]
    assert all(np.abs(one - 1000).max() < 50 for one in points)
    quantiles = values_of(make_model(tiny_moirai, **FURTHER).predict_quantiles(HORIZON, series, (0.1, 0.9)))
    assert np.abs(quantiles - 1000).max() < 50


def test_with_one_scale_the_given_memory_counts_before_training_too(tiny_moirai: str) -> None:
    model, series = make_model(tiny_moirai, likelihood=None, num_scales=0, **FURTHER), noisy()
    short = make_model(tiny_moirai, likelihood=None, num_scales=0, input_chunk_length=12)
    np.testing.assert_allclose(values_of(model.predict(HORIZON, series)), values_of(short.predict(HORIZON, series)))


def test_input_that_no_scale_sees_is_told(caplog: pytest.LogCaptureFixture) -> None:
    MSFTFoundationModel(4096, 96, finest_context=512, num_scales=1)
    assert "sees 1024 of the input's 4096 steps" in caplog.text
    assert "num_scales=3, or finest_context=2048" in caplog.text
    caplog.clear()
    for settings in ({"finest_context": 512}, {"num_scales": 1}, {"finest_context": 2048, "num_scales": 1}):
        MSFTFoundationModel(4096, 96, **settings)
    assert not caplog.records


def test_one_scale_sees_as_much_of_a_long_input_as_the_checkpoint_takes() -> None:
    """What the pretrained model forecasts by itself: 125 of 128 tokens, three are of the horizon."""
    model = MSFTFoundationModel(4096, 96, patch_size=32)
    model.predict(96, noisy(4100))
    assert model.model.one_scale.contexts == (4000,)
