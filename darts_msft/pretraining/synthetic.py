"""Synthetic series for pretraining: cycles at real sampling rates, Gaussian processes, noises, counts, and mixtures.

No measured data enters. Shares below are fractions of the rows of a batch unless said otherwise; lengths are in steps.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from darts_msft.pretraining import processes as p
from darts_msft.pretraining.gaussian import gaussian_process

FAMILIES = {
    "calendar": 0.46,  # cycles of the calendar
    "arbitrary": 0.13,  # cycles of any period
    "gaussian": 0.14,  # compositions of kernels
    "stochastic": 0.11,  # no cycle
    "seasonal": 0.05,  # a pattern that changes from cycle to cycle
    "daylight": 0.04,  # zero at night
    "count": 0.04,  # whole numbers
    "intermittent": 0.03,  # zero most of the time
}
"""What a row starts as."""
SHORTEST = 128  # steps of a series
RATES: dict[str, tuple[float, float, int, float]] = {
    "5min": (0.06, 288, 7, 105192),
    "10min": (0.15, 144, 7, 52596),
    "15min": (0.20, 96, 7, 35064),
    "20min": (0.02, 72, 7, 26298),
    "30min": (0.10, 48, 7, 17532),
    "hourly": (0.31, 24, 7, 8766),
    "3hourly": (0.02, 8, 7, 2922),
    "daily": (0.07, 7, 1, 365.25),
    "weekly": (0.03, 52.18, 1, 260.9),
    "monthly": (0.04, 12, 1, 60),
}
"""Share of calendar rows; short cycle in steps; short cycles in a week (1: no weekdays); long cycle in steps."""
TIDES = 0.04  # share of sub-daily calendar rows that follow the moon (12.42 h) instead of the day
RESAMPLED = 0.24  # share of generated points spent on rows that are then averaged or thinned by 2, 4 or 8 steps
MIXED = 0.12  # rows replaced by a convex combination of two or three (TSMixup, Ansari et al. 2024, Chronos, 4.1)
ADDITIONS = ((0.35, p.trend, 0.3, 6.0), (0.06, p.level_shifts, 0.5, 3.0), (0.07, p.spikes, 0.5, 2.0))
"""Share of rows with it, what is added to the standardised row, and the range of its size (log-uniform)."""
MULTIPLIED = 0.06  # rows lifted to a minimum of 0 and multiplied by noise
QUIET = 0.05  # cyclic rows in which all that no past cycle tells is at most a twentieth of its usual size
FLIPPED, REVERSED = 0.08, 0.05  # rows turned upside down or back to front
WEEKDAYS, HOLIDAYS = 0.55, 0.15  # rows with weekday effects; of them, with odd days off (rates below a day alone)
HEAVY, UNEVEN = 0.2, 0.35  # cyclic rows whose noise has heavy tails; whose noise changes with phase or regime
SMALL, LARGE = 0.1, 1e4  # range of the final scale (MOIRAI takes windows below 0.003 for constant)

Rows = p.Rows
PerRow = p.PerRow


class Cycles(NamedTuple):
    """Periods of a group of rows."""

    short: PerRow
    """Short cycle (day), steps."""
    middle: PerRow
    """Short cycles in a middle one (7: a week); 1: no middle cycle."""
    long: PerRow
    """Long cycle (year), steps."""
    free: PerRow
    """1 where the periods are not the calendar's, so that phases may drift, else 0."""


def synthetic_series(
    rng: np.random.Generator, size: int, length: int, quiet: float = QUIET
) -> Float[np.ndarray, "size length"]:
    """`size` series of `length` steps, float32 and finite; a pure function of the generator's state and `quiet`."""
    if length < SHORTEST:
        raise ValueError(f"length must be at least {SHORTEST} steps, got {length}.")
    factor = int(rng.choice([2, 4, 8]))
    slow = int(rng.binomial(size, RESAMPLED / factor))
    fast = base_rows(rng, size - slow, length, 1, quiet)
    slowed = resample(rng, base_rows(rng, slow, factor * length, factor, quiet), factor)
    x = mix(rng, rng.permutation(p.standardise(np.concatenate([fast, slowed]))))
    x *= 1 - 2 * p.switch(rng, FLIPPED, size)[:, None]
    back = p.switch(rng, REVERSED, size) > 0
    x[back] = x[back, ::-1]
    return place(rng, x)


def base_rows(rng: np.random.Generator, n: int, length: int, factor: int = 1, quiet: float = QUIET) -> Rows:
    """Rows of all families, ordered by family; `factor` says by how much they will be resampled afterwards."""
    shares = np.array(list(FAMILIES.values()))
    counts = dict(zip(FAMILIES, rng.multinomial(n, shares / shares.sum()).tolist(), strict=True))
    x = np.concatenate(
        [
            cyclic(rng, cycles(rng, counts["calendar"], counts["arbitrary"], length, factor), length, quiet),
            gaussian_process(rng, length, _related_periods(rng, counts["gaussian"], length, factor)),
            p.stochastic(rng, counts["stochastic"], length),
            seasonal_series(rng, counts["seasonal"], length, factor),
        ]
    )
    x = p.standardise(x)
    for share, make, low, high in ADDITIONS:
        rows = np.flatnonzero(rng.random(len(x)) < share)
        x[rows] += p.log_uniform(rng, low, high, len(rows))[:, None] * make(rng, len(rows), length)
    x = p.transform(rng, p.standardise(x))
    rows = np.flatnonzero(rng.random(len(x)) < MULTIPLIED)
    x[rows] = multiply(rng, x[rows])
    bounded = (
        daylight(rng, counts["daylight"], length, factor),
        count_series(rng, counts["count"], length, factor, quiet),
        intermittent(rng, counts["intermittent"], length),
    )
    return np.concatenate([x, *bounded])


def cycles(rng: np.random.Generator, calendar: int, arbitrary: int, length: int, factor: int) -> Cycles:
    """Periods of `calendar` rows (`RATES`), then of `arbitrary` ones.

    Short cycles that resampling by `factor` would leave with fewer than 4 steps are stretched beforehand.
    """
    table = np.array(list(RATES.values()), np.float32)
    short, middle, long = table[rng.choice(len(table), calendar, p=table[:, 0] / table[:, 0].sum())].T[1:]
    moon = (rng.random(calendar) < TIDES) & (middle == 7)
    long = np.where(moon, short / 2, long)
    short, middle = np.where(moon, short * 12.42 / 24, short), np.where(moon, 1, middle)
    stretch = np.where(short < 4 * factor, factor, 1)
    free = _arbitrary_periods(rng, arbitrary, length, factor)
    group = np.where(rng.random(arbitrary) < 0.6, 1, rng.integers(2, 13, arbitrary))
    beyond = free * p.log_uniform(rng, 1.5, 40, arbitrary)
    return Cycles(
        np.concatenate([short * stretch, free]).astype(np.float32),
        np.concatenate([middle, group]).astype(np.float32),
        np.concatenate([long * stretch, beyond]).astype(np.float32),
        np.repeat(np.array([0, 1], np.float32), [calendar, arbitrary]),
    )


def _arbitrary_periods(rng: np.random.Generator, n: int, length: int, factor: int = 1) -> PerRow:
    """Periods in steps: log-uniform from 4 to half the length, half of them whole; a third from the calendar."""
    free = p.log_uniform(rng, 4 * factor, length / 2, n)
    free = np.where(rng.random(n) < 0.5, np.round(free), free)
    known = np.array([rate[1] for rate in RATES.values()]) * factor
    return np.where(rng.random(n) < 1 / 3, rng.choice(known, n), free).astype(np.float32)


def _related_periods(rng: np.random.Generator, n: int, length: int, factor: int) -> Float[np.ndarray, "n 2"]:
    """Two periods a row, in steps: day and week, or day (any cycle) and year; two thirds are the calendar's."""
    short, middle, long, _ = cycles(rng, n - n // 3, n // 3, length, factor)
    return np.stack([short, np.where(middle > 1, short * middle, long)], axis=1)


def cyclic(rng: np.random.Generator, periods: Cycles, length: int, quiet: float = QUIET, clean: bool = False) -> Rows:
    """Cycles within cycles plus mean-reverting levels and noise.

    y = A(t) (G[c] s(u) + O[c]) + long cycle + level + noise, with u the phase and c the number of the short cycle, s
    its shape, G and O its gain and offset (weekday, holiday, AR(1) from cycle to cycle), A a slow modulation. Phases
    drift where `free` is 1. In a share `quiet` of rows level, noise and the variation from cycle to cycle are scaled by
    0.001 to 0.05; with `clean` there are no level and no noise at all.
    """
    short, middle, long, free = periods
    n = len(short)
    t = np.arange(length, dtype=np.float32)[None]
    phase = t / short[:, None] + (rng.integers(0, 84, n) + rng.random(n)).astype(np.float32)[:, None] + 3
    moving = np.flatnonzero(free * (rng.random(n) < 0.3))
    drift = p.smooth(rng, p.log_uniform(rng, length / 10, 2 * length, len(moving)), length)
    phase[moving] += p.log_uniform(rng, 0.01, 0.4, len(moving))[:, None] * np.clip(drift, -4, 4)
    phase = np.maximum(phase, 0)

    unrest = np.where(rng.random(n) < quiet, p.log_uniform(rng, 0.001, 0.05, n), np.float32(1))
    gain, offset = cycle_effects(rng, middle, int(phase.max(initial=0)) + 2, unrest)
    blend = p.switch(rng, 0.5, n)
    shape = p.look_up(p.cycle_shapes(rng, n), phase)
    y = p.per_cycle(gain, phase, blend) * shape + p.per_cycle(offset, phase, blend)
    y *= modulation(rng, short, length)
    year = t / long[:, None] + rng.random((n, 1), np.float32)
    slow = p.look_up(p.cycle_shapes(rng, n, {"harmonic": 0.9, "saw": 0.1}), year)
    y += p.switch(rng, 0.6, n)[:, None] * p.log_uniform(rng, 0.1, 2.0, n)[:, None] * slow
    if clean:
        return p.standardise(y)
    return y + unrest[:, None] * disturbances(rng, short, p.standardise(shape))


def cycle_effects(rng: np.random.Generator, middle: PerRow, count: int, unrest: PerRow) -> tuple[Rows, Rows]:
    """Gain and offset of each short cycle (row, cycle): weekday pattern, odd holidays, AR(1) from cycle to cycle.

    `unrest` scales the AR(1), which no calendar explains.
    """
    n = len(middle)
    day = np.arange(count)[None] % np.maximum(middle, 1)[:, None].astype(int)
    on = p.switch(rng, WEEKDAYS, n)[:, None] * (middle > 1)[:, None]
    off_gain, off_level = rng.uniform(0.1, 1.1, (n, 1)), rng.normal(-0.4, 0.7, (n, 1))
    weekend = (day < np.where(rng.random((n, 1)) < 0.75, 2, 1)) & (rng.random((n, 1)) < 0.8)
    holiday = (rng.random((n, count)) < 0.04) & (rng.random((n, 1)) < HOLIDAYS)
    rest = on * (weekend | holiday)
    jitter = on * rng.uniform(0, 0.25, (n, 1)) * np.take_along_axis(rng.standard_normal((n, 16)), day, 1)
    gain = (1 + rest * (off_gain - 1)) * (1 + 0.5 * jitter)
    memory = p.log_uniform(rng, 0.3, 20, n)
    varying = unrest * p.switch(rng, 0.7, n) * p.log_uniform(rng, 0.02, 0.6, n)
    gain = gain * np.exp(np.clip(varying[:, None] * p.ar1(rng, memory, count), -3, 1.5))
    wander = unrest * p.switch(rng, 0.6, n) * p.log_uniform(rng, 0.03, 1.2, n)
    offset = rest * off_level + jitter + wander[:, None] * p.ar1(rng, p.log_uniform(rng, 0.3, 20, n), count)
    return gain.astype(np.float32), offset.astype(np.float32)


def modulation(rng: np.random.Generator, short: PerRow, length: int) -> Rows:
    """Slow positive factor for a cycle's amplitude: 1, another cycle (3 to 30 times as long), or a random drift."""
    n = len(short)
    log = np.zeros((n, length), np.float32)
    beat, wander = np.flatnonzero(rng.random(n) < 0.15), np.flatnonzero(rng.random(n) < 0.25)
    rate = 1 / (short[beat] * p.log_uniform(rng, 3, 30, len(beat)))
    turns = np.arange(length, dtype=np.float32)[None] * rate[:, None] + rng.random((len(beat), 1), np.float32)
    log[beat] += rng.uniform(0.1, 0.9, (len(beat), 1)) * np.cos(2 * np.pi * turns)
    drift = p.smooth(rng, p.log_uniform(rng, length / 10, 2 * length, len(wander)), length)
    log[wander] += p.log_uniform(rng, 0.05, 0.7, len(wander))[:, None] * np.clip(drift, -3, 2)
    return np.exp(log)


def disturbances(rng: np.random.Generator, short: PerRow, shape: Rows) -> Rows:
    """A mean-reverting level (memory 0.1 to 10 short cycles, some smooth) and fast noise (memory up to 6 steps).

    Their deviations, relative to the cycle's, run over two orders of magnitude; the noise of some rows follows the
    cycle (`shape`, standardised) or switches between regimes.
    """
    n, length = shape.shape
    memory = np.clip(p.log_uniform(rng, 0.1, 10, n) * short, 1, 2 * length)
    gentle = rng.random(n) < 0.4
    level = np.empty((n, length), np.float32)
    level[gentle] = p.smooth(rng, memory[gentle], length)
    level[~gentle] = p.ar1(rng, memory[~gentle], length)
    level *= (p.switch(rng, 0.8, n) * p.log_uniform(rng, 0.03, 2.5, n))[:, None]
    noise = p.ar1(rng, p.log_uniform(rng, 0.1, 6, n), length, p.switch(rng, HEAVY, n))
    kind = rng.random(n)
    with_cycle, regimes = np.flatnonzero(kind < UNEVEN / 2), np.flatnonzero((kind >= UNEVEN / 2) & (kind < UNEVEN))
    noise[with_cycle] *= np.exp(rng.normal(0, 0.7, (len(with_cycle), 1)) * np.clip(shape[with_cycle], -2, 2))
    noise[regimes] *= p.volatility(rng, len(regimes), length)
    return level + p.log_uniform(rng, 0.02, 1.3, n)[:, None] * noise


def count_series(rng: np.random.Generator, n: int, length: int, factor: int = 1, quiet: float = QUIET) -> Rows:
    """Non-negative whole numbers: Poisson or (half) over-dispersed counts around a cycle; a third mostly zero."""
    cycle = cyclic(rng, cycles(rng, n - n // 3, n // 3, length, factor), length, quiet, clean=True)
    sparse = rng.random((n, 1)) < 1 / 3
    mean = np.where(sparse, p.log_uniform(rng, 0.08, 0.8, n)[:, None], p.log_uniform(rng, 0.8, 300, n)[:, None])
    rate = mean * np.exp(np.clip(rng.uniform(0.1, 1.0, (n, 1)) * cycle, -5, 3))
    spread = p.log_uniform(rng, 0.5, 20, n)[:, None]
    uneven = np.flatnonzero(rng.random(n) < 0.5)
    rate[uneven] *= rng.standard_gamma(np.broadcast_to(spread[uneven], (len(uneven), length))) / spread[uneven]
    return rng.poisson(np.clip(rate, 0, 1e6)).astype(np.float32)


def seasonal_series(rng: np.random.Generator, n: int, length: int, factor: int = 1) -> Rows:
    """A pattern that lasts 2 to 100 cycles (`seasonal`), plus a process without a cycle of 2 to 70 % of its size."""
    keep = np.exp(-1 / p.log_uniform(rng, 2, 100, n))
    pattern = p.seasonal(rng, _arbitrary_periods(rng, n, length, factor), length, keep)
    return pattern + p.log_uniform(rng, 0.02, 0.7, n)[:, None] * p.stochastic(rng, n, length)


def daylight(rng: np.random.Generator, n: int, length: int, factor: int = 1) -> Rows:
    """Solar power or radiation: y = max(cos(2 pi d) - h(year), 0)^k times a clearness in (0, 1]; exactly 0 at night.

    d is the time of day in days, h moves with the year's cycle (day length and height); the clearness varies from day
    to day and from step to step, in clear places hardly.
    """
    table = np.array([rate[1:] for rate in RATES.values() if rate[1] >= 24], np.float32)
    short, _, long = table[rng.integers(len(table), size=n)].T[:, :, None]
    t = np.arange(length, dtype=np.float32)[None]
    day = t / short + rng.random((n, 1), np.float32)
    season = np.cos(2 * np.pi * (t / long + rng.random((n, 1))))
    height = np.cos(2 * np.pi * day) - rng.uniform(-0.2, 0.3, (n, 1)) - rng.uniform(0, 0.4, (n, 1)) * season
    clouds = p.per_cycle(p.ar1(rng, p.log_uniform(rng, 0.3, 5, n), int(day.max(initial=0)) + 2), day, np.ones(n))
    fast = p.ar1(rng, p.log_uniform(rng, 0.3, 20, n) * factor, length)
    clouds = clouds + rng.uniform(0.1, 1.0, (n, 1)) * fast + rng.uniform(-2, 1, (n, 1))
    cover = rng.random((n, 1)) / (1 + np.exp(-2 * clouds))
    return (np.maximum(height, 0) ** rng.uniform(0.7, 1.6, (n, 1)) * (1 - cover)).astype(np.float32)


def intermittent(rng: np.random.Generator, n: int, length: int) -> Rows:
    """Rain or rare demand: max(z - q, 0)^k, with z a unit AR(1) of 0.2 to 50 steps; 50 to 97 % of the values are 0."""
    z = p.ar1(rng, p.log_uniform(rng, 0.2, 50, n), length)
    above = np.maximum(z - ndtri(rng.uniform(0.5, 0.97, (n, 1))), 0)
    return (above ** rng.uniform(0.5, 2.5, (n, 1))).astype(np.float32)


def multiply(rng: np.random.Generator, x: Rows) -> Rows:
    """Rows lifted to a minimum of 0, times log-normal noise with a memory of up to 20 steps."""
    noise = p.ar1(rng, p.log_uniform(rng, 0.1, 20, len(x)), x.shape[1])
    size = p.log_uniform(rng, 0.03, 0.6, len(x))[:, None]
    return (x - x.min(axis=1, keepdims=True)) * np.exp(size * np.clip(noise, -4, 4))


def resample(rng: np.random.Generator, x: Float[np.ndarray, "n fine"], factor: int) -> Rows:
    """Rows seen at a rate `factor` times lower: averages of that many steps, or (a quarter) every such step."""
    blocks = x.reshape(len(x), x.shape[1] // factor, factor)
    return np.where(p.switch(rng, 0.25, len(x))[:, None] > 0, blocks[:, :, 0], blocks.mean(axis=2))


def mix(rng: np.random.Generator, x: Rows) -> Rows:
    """Replace a share of the standardised rows by convex combinations of two or three; standardise all again.

    A row that is constant then (a count series of zeros, say) becomes white noise.
    """
    n = len(x)
    rows = np.flatnonzero(rng.random(n) < MIXED)
    weight = rng.standard_gamma(1.5, (len(rows), 3))
    weight[:, 2] *= rng.random(len(rows)) < 0.5
    weight /= weight.sum(axis=1, keepdims=True)
    partner = (rows[:, None] + np.array([0, 1, 2])) % n
    mixed = x.copy()
    mixed[rows] = np.einsum("nk,nkt->nt", weight, x[partner])
    mixed = p.standardise(mixed)
    flat = np.flatnonzero(~mixed.any(axis=1))
    mixed[flat] = rng.standard_normal((len(flat), x.shape[1]), dtype=np.float32)
    return mixed


def place(rng: np.random.Generator, x: Rows) -> Rows:
    """Give standardised rows a scale (log-uniform) and an offset: none, that of a minimum 0, or up to 30 deviations."""
    n = len(x)
    choice = rng.random((n, 1))
    far = p.log_uniform(rng, 0.3, 30, n)[:, None] * rng.choice([-1.0, 1.0], (n, 1), p=[0.25, 0.75])
    offset = np.where(choice < 0.3, 0.0, np.where(choice < 0.6, -x.min(axis=1, keepdims=True), far))
    return ((x + offset) * p.log_uniform(rng, SMALL, LARGE, n)[:, None]).astype(np.float32)
