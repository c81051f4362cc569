"""Building blocks of the synthetic series: noises, cycle shapes, trends, breaks and transforms.

Every function takes the generator first and treats rows independently. Time is in steps, phase in cycles, frequency in
cycles a step; a "unit" process has mean 0 and variance about 1.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.signal import lfilter

Rows = Float[np.ndarray, "n length"]
PerRow = Float[np.ndarray, " n"]
Tables = Float[np.ndarray, "n bins"]
Grid = Float[np.ndarray, "1 bins"]

BINS = 512  # resolution of a cycle's shape
SHAPES = {"harmonic": 0.36, "bumps": 0.16, "solar": 0.14, "working": 0.10, "rough": 0.16, "saw": 0.08}
"""Share of each cycle shape; see `cycle_shapes`."""
NOISES = {
    "white": 0.10,
    "ar1": 0.20,
    "arma": 0.12,
    "walk": 0.16,
    "oscillation": 0.12,
    "coloured": 0.16,
    "smooth_walk": 0.14,
}
"""Share of each stochastic process; see `stochastic`."""
TRANSFORMS = {"none": 0.60, "exp": 0.15, "softplus": 0.06, "logistic": 0.05, "floor": 0.07, "cap": 0.03, "round": 0.04}
"""Share of each pointwise transform; see `transform`."""


def log_uniform(rng: np.random.Generator, low: float | int, high: float | int, n: int) -> PerRow:
    """Draws whose logarithm is uniform between those of `low` and `high`."""
    return np.exp(rng.uniform(np.log(low), np.log(high), n)).astype(np.float32)


def switch(rng: np.random.Generator, share: float, n: int) -> PerRow:
    """1 for the given share of rows, else 0."""
    return (rng.random(n) < share).astype(np.float32)


def choose(rng: np.random.Generator, shares: dict[str, float], n: int) -> np.ndarray:
    """A name a row, drawn with the given weights (normalised here)."""
    weights = np.array(list(shares.values()))
    return np.array(list(shares))[rng.choice(len(weights), n, p=weights / weights.sum())]


def standardise(x: Rows) -> Rows:
    """Each row to mean 0 and deviation 1; a constant row becomes zeros."""
    x = x - x.mean(axis=1, keepdims=True)
    deviation = x.std(axis=1, keepdims=True)
    return np.where(deviation > 1e-6, x / np.maximum(deviation, 1e-6), 0.0).astype(np.float32)


# --- noises -----------------------------------------------------------------------------------------------------------


def innovations(rng: np.random.Generator, heavy: PerRow, length: int) -> Rows:
    """Gaussian, or Student-t with 2.2 to 6 degrees of freedom where `heavy`; unit variance (t: 2.2 taken as 2.5)."""
    e = rng.standard_normal((len(heavy), length), dtype=np.float32)
    rows = np.flatnonzero(heavy)
    freedom = log_uniform(rng, 2.2, 6.0, len(rows))[:, None]
    chi2 = 2 * rng.standard_gamma(np.broadcast_to(freedom / 2, (len(rows), length)), dtype=np.float32)
    variance = np.maximum(freedom, 2.5) / (np.maximum(freedom, 2.5) - 2)
    e[rows] *= np.sqrt(freedom / np.maximum(chi2, 1e-6) / variance)
    return np.clip(e, -60, 60)


def autoregress(e: np.ndarray, pole: np.ndarray) -> np.ndarray:
    """x[t] = pole x[t-1] + sqrt(1 - |pole|^2) e[t] a row, started in its stationary state; unit variance."""
    gain = np.sqrt(np.maximum(1 - np.abs(pole) ** 2, 1e-12)).astype(np.float32)
    driven = e * gain[:, None]
    driven[:, 0] = e[:, 0]
    for row in range(len(e)):
        if pole[row] != 0:
            driven[row] = lfilter(np.ones(1, e.dtype), np.array([1, -pole[row]], e.dtype), driven[row])
    return driven


def ar1(rng: np.random.Generator, memory: PerRow, length: int, heavy: PerRow | None = None) -> Rows:
    """Unit AR(1) whose autocorrelation falls to 1/e after `memory` steps."""
    heavy = np.zeros(len(memory), np.float32) if heavy is None else heavy
    return autoregress(innovations(rng, heavy, length), np.exp(-1 / np.maximum(memory, 0.05)).astype(np.float32))


def smooth(rng: np.random.Generator, memory: PerRow, length: int, smoothing: float = 0.4) -> Rows:
    """AR(1) of `memory` steps followed by an exponential average of `smoothing` times as many: air pressure.

    Its deviation is 1 in the end; the average begins at the first value, so a sixth more at the start of a row.
    """
    x = ar1(rng, memory, length)
    a = np.exp(-1 / np.maximum(memory, 0.05))
    b = np.exp(-1 / np.maximum(memory * smoothing, 0.05)).astype(np.float32)
    driven = x * (1 - b)[:, None]
    driven[:, 0] = x[:, 0]
    for row in range(len(x)):
        driven[row] = lfilter(np.ones(1, np.float32), np.array([1, -b[row]], np.float32), driven[row])
    variance = (1 - b) / (1 + b) * (1 + a * b) / (1 - a * b)
    return (driven / np.sqrt(variance)[:, None]).astype(np.float32)


def coloured(rng: np.random.Generator, slope: PerRow, length: int) -> Rows:
    """Noise with power spectrum f^-slope (0 white, 1 pink, 2 brown), from a white spectrum of twice the length."""
    frequency = np.fft.rfftfreq(2 * length).astype(np.float32)
    frequency[0] = frequency[1]
    spectrum = rng.standard_normal((len(slope), len(frequency), 2), dtype=np.float32).view(np.complex64)[..., 0]
    spectrum *= np.exp(-0.5 * slope[:, None] * np.log(frequency)[None])
    return standardise(np.fft.irfft(spectrum, axis=1)[:, :length].astype(np.float32))


def volatility(rng: np.random.Generator, n: int, length: int) -> Rows:
    """A positive factor for noise: half of the rows switch between two regimes, half are log-normal."""
    switches = rng.random((n, length), dtype=np.float32) < log_uniform(rng, 1.0, 12.0, n)[:, None] / length
    regimes = np.where(np.cumsum(switches, axis=1) % 2 == 0, 1.0, log_uniform(rng, 1.5, 8.0, n)[:, None])
    wandering = np.exp(0.6 * ar1(rng, log_uniform(rng, 10, length / 2, n), length))
    return np.where(switch(rng, 0.5, n)[:, None] > 0, regimes, wandering).astype(np.float32)


def arma(rng: np.random.Generator, e: Rows) -> Rows:
    """ARMA(2, 2) driven by `e`, two real poles and a moving average of two taps; a fifth summed up (ARIMA)."""
    n, length = e.shape
    x = e
    for longest in (length / 4, 20):
        sign = rng.choice(np.array([-1, 1], np.float32), n, p=[0.2, 0.8])
        x = autoregress(x, sign * np.exp(-1 / log_uniform(rng, 0.3, longest, n)))
    taps = rng.uniform(-0.9, 0.9, (2, n, 1)).astype(np.float32)
    y = x.copy()
    y[:, 1:] += taps[0] * x[:, :-1]
    y[:, 2:] += taps[1] * x[:, :-2]
    summed = np.flatnonzero(rng.random(n) < 0.2)
    y[summed] = np.cumsum(y[summed], axis=1)
    return y


def seasonal(rng: np.random.Generator, periods: PerRow, length: int, keep: PerRow) -> Rows:
    """x[t] = k x[t - s] + sqrt(1 - k^2) e[t] for a whole period s (steps): a pattern that changes from cycle to cycle.

    `keep` is k, near 1 for a pattern that lasts; e is an AR(1) with a memory of 0.3 to 12 steps; unit variance.
    """
    e = ar1(rng, log_uniform(rng, 0.3, 12, len(periods)), length)
    for row, period in enumerate(np.maximum(np.round(periods).astype(int), 2)):
        cycles = np.pad(e[row], (0, -length % period)).reshape(-1, period)
        cycles[1:] *= np.sqrt(1 - keep[row] ** 2)
        past = np.array([1, -keep[row]], np.float32)
        e[row] = lfilter(np.ones(1, np.float32), past, cycles, axis=0).ravel()[:length]
    return e


def stochastic(rng: np.random.Generator, n: int, length: int, kind: str | None = None) -> Rows:
    """Series without a cycle: white noise, AR(1), ARMA, walks, damped oscillations, coloured noise, smooth walks."""
    kinds = choose(rng, NOISES if kind is None else {kind: 1.0}, n)
    e = innovations(rng, switch(rng, 0.3, n), length)
    uneven = np.flatnonzero(rng.random(n) < 0.25)
    e[uneven] *= volatility(rng, len(uneven), length)
    memory = log_uniform(rng, 0.5, length, n)
    x = e.copy()
    for name in NOISES:
        rows = np.flatnonzero(kinds == name)
        if name == "ar1":
            x[rows] = autoregress(e[rows], np.exp(-1 / memory[rows]))
        elif name == "arma":
            x[rows] = arma(rng, e[rows])
        elif name == "walk":
            x[rows] = np.cumsum(e[rows] + 0.1 * rng.standard_normal((len(rows), 1), dtype=np.float32), axis=1)
        elif name == "oscillation":
            turn = np.exp(2j * np.pi / log_uniform(rng, 4, length / 3, len(rows)))
            pole = (np.exp(-1 / log_uniform(rng, 5, length, len(rows))) * turn).astype(np.complex64)
            pair = e[rows] + 1j * rng.standard_normal((len(rows), length), dtype=np.float32)
            x[rows] = autoregress(pair.astype(np.complex64), pole).real
        elif name == "coloured":
            x[rows] = coloured(rng, rng.uniform(0.2, 2.6, len(rows)).astype(np.float32), length)
        elif name == "smooth_walk":
            pace = autoregress(e[rows], np.exp(-1 / log_uniform(rng, 2, 60, len(rows))))
            x[rows] = autoregress(pace, np.exp(-1 / log_uniform(rng, 30, 4 * length, len(rows))))
    return standardise(x)


# --- cycles -----------------------------------------------------------------------------------------------------------


def cycle_shapes(rng: np.random.Generator, n: int, shares: dict[str, float] = SHAPES) -> Tables:
    """One cycle a row on `BINS` points from midnight to midnight; deviation 1, minimum 0 (half of the rows) or mean 0.

    harmonic: few to many harmonics with decaying random amplitudes; bumps: one to three peaks (rush hours); solar: a
    clipped cosine around noon; working: a plateau with soft edges, some with a dip; rough: a random motif of 6 to 64
    values (only copying predicts it); saw: unequal rise and fall.
    """
    kinds = choose(rng, shares, n)
    u = np.linspace(0, 1, BINS, endpoint=False, dtype=np.float32)[None]
    table = np.zeros((n, BINS), np.float32)
    makers = (_harmonic, _bumps, _solar, _working, _rough, _saw)
    for name, make in zip(SHAPES, makers, strict=True):
        rows = np.flatnonzero(kinds == name)
        if len(rows):
            table[rows] = make(rng, u, len(rows))
    table = standardise(table)
    return table - switch(rng, 0.5, n)[:, None] * table.min(axis=1, keepdims=True)


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)[:, None]


def _harmonic(rng: np.random.Generator, u: Grid, m: int) -> Tables:
    order = np.arange(1, 11, dtype=np.float32)[None]  # cycles a cycle
    power = order ** -_column(rng.uniform(0.7, 3, m))
    gauss = np.exp(-0.5 * (order / _column(rng.uniform(0.6, 5, m))) ** 2)
    envelope = np.where(_column(switch(rng, 0.5, m)) > 0, power, gauss)
    weights = envelope * rng.standard_normal((2, m, 10), dtype=np.float32)
    spectrum = np.zeros((m, u.shape[1] // 2 + 1), np.complex64)
    spectrum[:, 1:11] = weights[0] - 1j * weights[1]
    return np.fft.irfft(spectrum, u.shape[1]).astype(np.float32) * np.float32(u.shape[1] / 2)


def _bumps(rng: np.random.Generator, u: Grid, m: int) -> Tables:
    total = np.zeros((m, u.shape[1]), np.float32)
    for bump in range(3):
        height = _column(rng.uniform(0.3, 1, m) * (1.0 if bump == 0 else rng.random(m) < 0.5))
        sharpness = _column(log_uniform(rng, 1, 60, m))
        total += height * np.exp(sharpness * (np.cos(2 * np.pi * (u - _column(rng.uniform(0.2, 1.0, m)))) - 1))
    return total


def _solar(rng: np.random.Generator, u: Grid, m: int) -> Tables:
    height = np.cos(2 * np.pi * (u - _column(rng.normal(0.52, 0.04, m)))) - _column(rng.uniform(-0.45, 0.45, m))
    return np.maximum(height, 0) ** _column(rng.uniform(0.7, 2.0, m))


def _working(rng: np.random.Generator, u: Grid, m: int) -> Tables:
    softness = _column(log_uniform(rng, 0.004, 0.05, m))

    def step(at: np.ndarray) -> np.ndarray:
        return 0.5 + 0.5 * np.tanh((u - _column(at)) / softness)

    day = step(rng.uniform(0.2, 0.42, m)) * (1 - step(rng.uniform(0.6, 0.9, m)))
    noon = _column(rng.uniform(0, 0.5, m) * (rng.random(m) < 0.5))
    return day * (1 - noon * np.exp(-(((u - 0.53) / 0.03) ** 2)))


def _rough(rng: np.random.Generator, u: Grid, m: int) -> Tables:
    knots = rng.standard_normal((m, 64), dtype=np.float32)
    place = u * _column(rng.integers(6, 65, m))
    count = np.ceil(place.max(axis=1, keepdims=True)).astype(int)
    left = place.astype(int)
    first, second = np.take_along_axis(knots, left, 1), np.take_along_axis(knots, (left + 1) % count, 1)
    blend = np.where(_column(switch(rng, 0.3, m)) > 0, 0.0, place - left)
    return first + blend * (second - first)


def _saw(rng: np.random.Generator, u: Grid, m: int) -> Tables:
    rise = _column(rng.uniform(0.03, 0.97, m))
    return np.where(u < rise, u / rise, (1 - u) / (1 - rise)) ** _column(log_uniform(rng, 0.5, 2, m))


def look_up(table: Tables, phase: Rows) -> Rows:
    """Value of each row's cycle shape at `phase` (cycles, any real), interpolated linearly."""
    bins = table.shape[1]
    wrapped = np.concatenate([table, table[:, :1]], axis=1).ravel()
    place = (phase - np.floor(phase)) * np.float32(bins)
    left = np.minimum(place.astype(np.int32), bins - 1)
    place -= left
    left += (np.arange(len(table), dtype=np.int32) * (bins + 1))[:, None]
    low = wrapped[left]
    return low + place * (wrapped[left + 1] - low)


def per_cycle(table: Float[np.ndarray, "n cycles"], phase: Rows, blend: PerRow) -> Rows:
    """Value of the current cycle (column floor(phase)), moving linearly to the next one's where `blend` is 1."""
    cycle = np.floor(phase).astype(np.int32)
    share = (phase - cycle) * blend[:, None]
    cycle += (np.arange(len(table), dtype=np.int32) * table.shape[1])[:, None]
    flat = table.ravel()
    low = flat[cycle]
    return low + share * (flat[cycle + 1] - low)


# --- trends, breaks, transforms ---------------------------------------------------------------------------------------


def trend(rng: np.random.Generator, n: int, length: int) -> Rows:
    """Linear, piecewise linear (one to four bends) or saturating; runs over a range of about 1."""
    t = np.linspace(0, 1, length, dtype=np.float32)[None]
    total = _column(rng.normal(0, 1, n)) * t
    bends = rng.integers(0, 5, n) * (rng.random(n) < 0.6)
    for bend in range(4):
        slope = rng.normal(0, 1.5, n) * (bends > bend)
        total = total + _column(slope) * np.maximum(t - _column(rng.uniform(0, 1, n)), 0)
    sign, middle, pace = rng.choice([-1.0, 1.0], (n, 1)), rng.random((n, 1)), rng.uniform(3, 25, (n, 1))
    saturating = sign / (1 + np.exp(-(t - middle) * pace))
    total = np.where(_column(switch(rng, 0.2, n)) > 0, saturating, total)
    return total / np.maximum(np.ptp(total, axis=1, keepdims=True), 1e-3)


def level_shifts(rng: np.random.Generator, n: int, length: int) -> Rows:
    """One to three permanent steps of size about 1."""
    total = np.zeros((n, length), np.float32)
    count = rng.integers(1, 4, n)
    for shift in range(3):
        at = rng.integers(0, length, n)[:, None]
        total += _column(rng.normal(0, 1.2, n) * (count > shift)) * (np.arange(length)[None] >= at)
    return total


def spikes(rng: np.random.Generator, n: int, length: int) -> Rows:
    """Rare jumps of size 2 to 10 (one sign a row), at once over or decaying within some steps."""
    hit = rng.random((n, length), dtype=np.float32) < log_uniform(rng, 1.5 / length, 0.02, n)[:, None]
    size = 2 + np.minimum(rng.standard_exponential((n, length), dtype=np.float32) * 1.5, 8)
    jumps = hit * size * _column(rng.choice([-1.0, 1.0], n))
    fade = np.exp(-1 / log_uniform(rng, 0.1, 12, n)) * switch(rng, 0.5, n)
    for row in np.flatnonzero(fade):
        jumps[row] = lfilter(np.ones(1, np.float32), np.array([1, -fade[row]], np.float32), jumps[row])
    return jumps.astype(np.float32)


def transform(rng: np.random.Generator, z: Rows, kind: str | None = None) -> Rows:
    """Pointwise map of standardised rows: none, exp, softplus, logistic (bounded), floor, cap (clipping) or round."""
    kinds = choose(rng, TRANSFORMS if kind is None else {kind: 1.0}, len(z))
    strength = rng.random(len(z)).astype(np.float32)[:, None]
    maps = {
        "exp": lambda x, s: np.exp(np.clip((0.2 + 0.9 * s) * x, -12, 6)),
        "softplus": lambda x, s: np.logaddexp(0, (1 + 3 * s) * x + 1 - 2 * s),
        "logistic": lambda x, s: 1 / (1 + np.exp(-(0.7 + 2 * s) * x)),
        "floor": lambda x, s: np.maximum(x, -1 + 1.5 * s),
        "cap": lambda x, s: np.minimum(x, 0.2 + 1.3 * s),
        "round": lambda x, s: np.round(x * (1 + 8 * s)) / (1 + 8 * s),
    }
    z = z.copy()
    for name, mapping in maps.items():
        rows: Bool[np.ndarray, " n"] = kinds == name
        z[rows] = mapping(z[rows], strength[rows])
    return z
