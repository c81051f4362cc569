"""No series breaks the fit of the linear member: it never raises or warns, and its forecasts are finite."""

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch

from darts_msft.linear.equations import Frame
from darts_msft.linear.fitting import fit_linear
from darts_msft.linear.gaps import bridge_array
from darts_msft.linear.windows import cut_windows

HORIZON, LOOKBACKS = 6, [12, 24]


def wave(steps: int, seed: int) -> np.ndarray:
    return np.sin(2 * np.pi * np.arange(steps) / 12) + 0.3 * np.random.default_rng(seed).standard_normal(steps)


def missing(values: np.ndarray, start: float, stop: float, by: int = 1, to: float = np.nan) -> np.ndarray:
    """Without a stretch, whose ends are shares of the length."""
    values[int(start * len(values)) : int(stop * len(values)) : by] = to
    return values


SERIES: dict[str, Callable[[int, int], np.ndarray]] = {
    "wave": wave,
    "exact wave": lambda steps, _: np.sin(2 * np.pi * np.arange(steps) / 12),
    "zero": lambda steps, _: np.zeros(steps),
    "constant": lambda steps, _: np.full(steps, 3.0),
    "nearly constant": lambda *how: 3 + 1e-9 * wave(*how),
    "at the edge of constant": lambda *how: 3 + 5e-6 * wave(*how),
    "huge level": lambda *how: 1e12 + wave(*how),
    "huge level and spread": lambda *how: 1e12 + 1e8 * wave(*how),
    "huge level in single precision": lambda *how: (1e9 + 1e4 * wave(*how)).astype(np.float32).astype(float),
    "huge spread": lambda *how: 1e20 * wave(*how),
    "tiny spread": lambda *how: 1e-9 * wave(*how),
    "tiniest spread": lambda *how: 1e-30 * wave(*how),
    "step": lambda steps, _: (np.arange(steps) > steps // 2) * 1.0,
    "ramp": lambda steps, _: np.arange(steps) * 1.0,
    "growth": lambda steps, _: np.exp(np.arange(steps) / 10),
    "two values": lambda steps, _: np.arange(steps) % 2 * 1.0,
    "one spike": lambda steps, _: missing(np.zeros(steps), 0.5, 1, by=steps, to=1e6),
    "lives at its end": lambda *how: missing(wave(*how), 0, 0.9, to=5.0),
    "loud, then calm": lambda *how: np.where(np.arange(how[0]) < how[0] // 3, 1.0, 2e-3) * wave(*how),
    "a stretch is missing": lambda *how: missing(wave(*how), 0.3, 0.6),
    "every seventh is missing": lambda *how: missing(wave(*how), 0, 1, by=7),
    "all are missing": lambda steps, _: np.full(steps, np.nan),
    "infinite now and then": lambda *how: missing(wave(*how), 0.1, 1, by=60, to=np.inf),
}

LAYOUTS: dict[str, Callable[[np.ndarray, np.ndarray], list[np.ndarray]]] = {
    "alone": lambda one, _: [one[:, None]],
    "beside a wave": lambda one, other: [np.stack([one, other], axis=1)],
    "duplicated": lambda one, _: [np.stack([one, one, -one], axis=1)],
    "with a wave": lambda one, other: [one[:, None], other[:, None]],
}


def assert_sound(series: list[np.ndarray], validation: np.ndarray | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        windows = None if validation is None else cut_windows([validation], Frame(LOOKBACKS[-1], HORIZON), 50)
        fit = fit_linear(series, HORIZON, LOOKBACKS, validation=windows, season=12)
    if fit is None:
        return
    for one in [*series, *([] if validation is None else [validation])]:
        starts = range(0, len(one) - LOOKBACKS[-1] + 1, 7)
        past = np.stack([one[start : start + LOOKBACKS[-1]] for start in starts])
        forecast = fit.member.forecast(torch.tensor(past))
        complete = torch.tensor(np.isfinite(bridge_array(past)[:, -fit.member.lookback :]).all(axis=1))
        assert torch.equal(forecast.tells, complete)
        assert forecast.loc.movedim(1, 2)[complete].isfinite().all()
        scale = forecast.scale.movedim(1, 2)[complete]
        assert scale.isfinite().all()
        assert (scale > 0).all()


@pytest.mark.parametrize("name", SERIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hard_series(name: str, layout: str) -> None:
    make, arrange = SERIES[name], LAYOUTS[layout]
    train = arrange(make(150, 1), wave(150, 3))
    hard, easy = (arrange(one, wave(80, 4))[0] for one in (make(80, 2), wave(80, 2)))
    assert_sound(train, hard)
    if layout == "alone":
        assert_sound(train, None)
        assert_sound(train, easy)
        assert_sound(arrange(wave(150, 1), wave(150, 3)), hard)


@pytest.mark.parametrize("seed", range(24))
def test_stretches_of_any_size(seed: int) -> None:
    """Of 1e-8 to 1e3, at any level, with spikes: what is left where a fold is taken out may be rounding alone."""
    random = np.random.default_rng(seed)
    parts = [
        part * 10.0 ** random.uniform(-8, 3)
        for part in np.array_split(random.standard_normal(200).cumsum(), random.integers(1, 7))
    ]
    values = np.concatenate(parts) + random.choice([0.0, 10.0 ** random.uniform(0, 12)])
    if seed % 4 == 0:
        values[random.integers(200)] += 10.0 ** random.uniform(0, 6) * np.abs(values).max()
    series = values[:, None] * np.array([1.0, -1e6])[: random.integers(1, 3)]
    assert_sound([series], series[-100:] if seed % 2 else None)
