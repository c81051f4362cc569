"""Batches of synthetic series: they are reproducible, and what they are made of reaches them as often as it should.

From `factors` on every family is a tone: a cosine with a whole, odd number of cycles in its series, whatever the rate,
so that spectra of batches say which family a row comes from and what was done to it. Shares and ranges are repeated
here from `synthetic` and `processes`, that no slip of the hand changes them.
"""

from collections.abc import Callable

import numpy as np
import pytest
from series_statistics import autocorrelation

from darts_msft.pretraining import processes, synthetic
from darts_msft.pretraining.synthetic import Cycles, synthetic_series

LENGTH = 256
PHASE = np.pi / 4  # flipped and reversed tones differ from it and from each other
TONES = {
    name: 2 * place + 3 for place, name in enumerate((*synthetic.FAMILIES, "trend", "level_shifts", "spikes", 2, 4, 8))
}
"""Cycles in a series: of families, of additions, and of a mark on what is generated 2, 4 or 8 times as long."""
SHARES = {
    "calendar": 0.46,
    "arbitrary": 0.13,
    "gaussian": 0.14,
    "stochastic": 0.11,
    "seasonal": 0.05,
    "daylight": 0.04,
    "count": 0.04,
    "intermittent": 0.03,
}
BOUNDED = ["daylight", "count", "intermittent"]
OFF = {"RESAMPLED": 0.0, "MIXED": 0.0, "MULTIPLIED": 0.0, "FLIPPED": 0.0, "REVERSED": 0.0, "ADDITIONS": ()}


def tone(cycles: float | np.ndarray, length: int, phase: float = PHASE) -> np.ndarray:
    """Rows of deviation 1, one for each number of cycles."""
    turns = np.reshape(cycles, (-1, 1)) * np.arange(length)[None] / length
    return (np.sqrt(2) * np.cos(2 * np.pi * turns + phase)).astype(np.float32)


def family(rng: np.random.Generator, names: np.ndarray | list[str], length: int) -> np.ndarray:
    """Tones of all sizes, as a family's rows may be; longer ones carry the mark of their rate."""
    rows = tone(np.array([TONES[name] for name in names], float), length)
    if length != LENGTH:
        rows = rows + 0.5 * tone(TONES[length // LENGTH], length)
    return (rows * 10 ** rng.uniform(-1, 1, (len(rows), 1))).astype(np.float32)


@pytest.fixture
def factors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Replaces every family by its tone; lists (rate asked for, rate of the length) of each call that says both."""
    asked: list[tuple[int, int]] = []
    periods_of = synthetic.cycles

    def cycles(rng: np.random.Generator, calendar: int, arbitrary: int, length: int, factor: int) -> Cycles:
        asked.append((factor, length // LENGTH))
        return periods_of(rng, calendar, arbitrary, length, factor)

    def cyclic(rng: np.random.Generator, periods: Cycles, length: int, quiet: float) -> np.ndarray:
        return family(rng, np.where(periods.free > 0, "arbitrary", "calendar"), length)

    def stand_in(name: str) -> Callable[..., np.ndarray]:
        def make(rng: np.random.Generator, n: int, length: int, factor: int, quiet: float = 0) -> np.ndarray:
            asked.append((factor, length // LENGTH))
            return family(rng, [name] * n, length)

        return make

    monkeypatch.setattr(synthetic, "cycles", cycles)
    monkeypatch.setattr(synthetic, "cyclic", cyclic)
    monkeypatch.setattr(
        synthetic, "gaussian_process", lambda rng, length, periods: family(rng, ["gaussian"] * len(periods), length)
    )
    monkeypatch.setattr(processes, "stochastic", lambda rng, n, length: family(rng, ["stochastic"] * n, length))
    monkeypatch.setattr(synthetic, "intermittent", lambda rng, n, length: family(rng, ["intermittent"] * n, length))
    for name, maker in (("seasonal", "seasonal_series"), ("daylight", "daylight"), ("count", "count_series")):
        monkeypatch.setattr(synthetic, maker, stand_in(name))
    return asked


def only(monkeypatch: pytest.MonkeyPatch, *stages: str) -> None:
    """Switches off what is done to rows, but for `stages`."""
    for name, value in OFF.items():
        if name not in stages:
            monkeypatch.setattr(synthetic, name, value)
    if "TRANSFORMS" not in stages:
        monkeypatch.setattr(processes, "TRANSFORMS", {"none": 1.0})


def rows_of(batches: int, size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([synthetic_series(rng, size, LENGTH) for _ in range(batches)]).astype(np.float64)


def parts(rows: np.ndarray, *names: object) -> np.ndarray:
    """Complex amplitude of each row's tones, relative to the row's deviation: a lone tone has size 1."""
    spectrum = np.fft.rfft(rows - rows.mean(axis=1, keepdims=True)) / rows.std(axis=1, keepdims=True)
    return spectrum[:, [TONES[name] for name in (names or TONES)]] * np.sqrt(2) / LENGTH


def families_of(rows: np.ndarray) -> np.ndarray:
    return np.array(list(SHARES))[np.argmax(np.abs(parts(rows, *SHARES)), axis=1)]


# --- whole batches ----------------------------------------------------------------------------------------------------


def test_the_generator_decides_every_bit() -> None:
    first, again, other = (synthetic_series(np.random.default_rng(seed), 40, 256) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_unusable_lengths_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="at least 128"):
        synthetic_series(rng, 3, 100)


@pytest.mark.parametrize(("length", "size"), [(128, 1), (128, 300), (500, 3), (1024, 256), (4096, 33)])
def test_batches_are_finite_float32_and_never_constant(length: int, size: int) -> None:
    rng = np.random.default_rng(11)
    for _ in range(3):
        batch = synthetic_series(rng, size, length)
        assert batch.shape == (size, length)
        assert batch.dtype == np.float32
        assert np.isfinite(batch).all()
        assert (np.ptp(batch, axis=1) > 0).all()


def test_batches_spread_over_scales_signs_and_degrees_of_noise() -> None:
    batch = synthetic_series(np.random.default_rng(5), 1000, 512).astype(np.float64)
    scale = np.log10(batch.std(axis=1))
    assert scale.min() < -0.8
    assert scale.max() > 3.7
    assert 0.1 < (batch.mean(axis=1) < 0).mean() < 0.5
    roughness = 1 - autocorrelation(batch, 1)  # 0 smooth, 1 white
    assert (roughness < 0.05).mean() > 0.15
    assert (roughness > 0.4).mean() > 0.15


def test_copying_the_best_calendar_period_pays_in_most_rows() -> None:
    batch = processes.standardise(synthetic_series(np.random.default_rng(5), 500, 1024))
    target, horizon = batch[:, -96:], np.arange(928, 1024)
    error = {0: np.abs(target - batch[:, 927:928]).mean(axis=1)}
    for period in (7, 12, 24, 48, 96, 144, 168, 288):
        back = -(-(horizon - 927) // period) * period  # whole periods back into the context
        error[period] = np.abs(target - batch[:, horizon - back]).mean(axis=1)
    assert (np.min([error[key] for key in error if key], axis=0) < error[0]).mean() > 0.65
    assert (error[24] < 0.7 * error[0]).mean() > 0.12  # 24 helps its own multiples too


def test_flipping_and_reversing_act_on_the_share_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def shapes(**shares: float) -> np.ndarray:
        for name in ("FLIPPED", "REVERSED"):
            monkeypatch.setattr(synthetic, name, shares.get(name, 0.0))
        batch = synthetic_series(np.random.default_rng(2), 100, 256).astype(np.float64)
        return (batch - batch.mean(axis=1, keepdims=True)) / batch.std(axis=1, keepdims=True)

    plain = shapes()
    np.testing.assert_allclose(shapes(FLIPPED=1.0), -plain, atol=1e-3)
    np.testing.assert_allclose(shapes(REVERSED=1.0), plain[:, ::-1], atol=1e-3)


# --- families ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("factors")
def test_every_family_reaches_the_batch_with_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    rows = rows_of(2, 5000)
    np.testing.assert_allclose(np.abs(parts(rows, *SHARES)).max(axis=1), 1, atol=1e-3)
    found = families_of(rows)
    assert {name: (found == name).mean() for name in SHARES} == pytest.approx(SHARES, abs=0.015)


def test_resampled_rows_have_their_share_and_every_factor(
    monkeypatch: pytest.MonkeyPatch, factors: list[tuple[int, int]]
) -> None:
    """A quarter (0.24) as many points as the batch has are generated for them, whatever the factor."""
    only(monkeypatch, "RESAMPLED")
    rows = rows_of(300, 50)
    marked = np.abs(parts(rows, 2, 4, 8)) > 0.2
    expected = [0.24 / factor / 3 for factor in (2, 4, 8)]
    np.testing.assert_allclose(marked.mean(axis=0), expected, rtol=0.25)
    assert (marked @ [2, 4, 8]).mean() == pytest.approx(0.24, abs=0.03)
    assert {name: (families_of(rows[marked.any(axis=1)]) == name).mean() for name in SHARES} == pytest.approx(
        SHARES, abs=0.06
    )
    assert set(factors) == {(factor, factor) for factor in (1, 2, 4, 8)}  # so that short cycles stay long enough


def test_calendar_rows_have_the_cycles_of_their_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sub-daily: day, week, year; of them 4 % tides (12.42 h), twice of which make the long cycle, without weekdays."""
    minutes = {5: 0.06, 10: 0.15, 15: 0.20, 20: 0.02, 30: 0.10, 60: 0.31, 180: 0.02}
    expected = {(7, 1, 365.25): 0.07, (52.18, 1, 260.9): 0.03, (12, 1, 60): 0.04}
    for step, share in minutes.items():
        day = 1440 / step
        expected |= {(day, 7, 365.25 * day): 0.96 * share, (day * 12.42 / 24, 1, day / 2): 0.04 * share}
    seen: list[Cycles] = []

    def cyclic(rng: np.random.Generator, periods: Cycles, length: int, quiet: float, clean: bool = False) -> np.ndarray:
        seen.append(periods)
        return tone(np.full(len(periods.short), 3), length)

    monkeypatch.setattr(synthetic, "cyclic", cyclic)
    only(monkeypatch)
    monkeypatch.setattr(synthetic, "FAMILIES", dict.fromkeys(SHARES, 0.0) | {"calendar": 1.0})
    rows_of(1, 20000)
    periods = np.stack(seen[0][:3], axis=1)
    close = np.array([np.isclose(periods, cycles, rtol=1e-3).all(axis=1) for cycles in expected])
    assert (close.sum(axis=0) == 1).all()
    np.testing.assert_allclose(close.mean(axis=1), list(expected.values()), atol=0.0025, rtol=0.06)


# --- what is added, mapped and multiplied -----------------------------------------------------------------------------


@pytest.mark.usefixtures("factors")
def test_trends_shifts_and_spikes_are_added_in_their_shares_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes count in deviations of the row; families with exact zeros stay as they are."""
    expected = {"trend": (0.35, 0.3, 6.0), "level_shifts": (0.06, 0.5, 3.0), "spikes": (0.07, 0.5, 2.0)}
    made = {getattr(processes, name): TONES[name] for name in expected}

    def marker(make: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        return lambda rng, n, length: tone(np.full(n, made[make]), length)

    only(monkeypatch, "ADDITIONS")
    marked = tuple((share, marker(make), low, high) for share, make, low, high in synthetic.ADDITIONS)
    monkeypatch.setattr(synthetic, "ADDITIONS", marked)
    mapped: list[np.ndarray] = []
    monkeypatch.setattr(processes, "transform", lambda rng, x: mapped.append(x) or x)
    rows = rows_of(2, 6000)
    np.testing.assert_allclose(mapped[0].std(axis=1), 1, atol=1e-3)  # what is mapped is standardised again
    bounded = np.isin(families_of(rows), BOUNDED)
    base = np.abs(parts(rows, *SHARES)).max(axis=1)
    for name, (share, low, high) in expected.items():
        size = np.abs(parts(rows, name))[:, 0] / base
        added = size > 0.01
        assert not added[bounded].any()
        assert added[~bounded].mean() == pytest.approx(share, rel=0.15), name
        logs = np.log(size[added])
        assert np.log(low) - 1e-3 < logs.min() < logs.max() < np.log(high) + 1e-3, name
        assert logs.mean() == pytest.approx(np.log(low * high) / 2, abs=0.15), name
        assert np.ptp(logs) > 0.9 * np.log(high / low), name


@pytest.mark.usefixtures("factors")
def test_transforms_reach_two_fifths_of_the_unbounded_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds are told apart by what a tone becomes: few values, ties at one end, skewed or flattened."""
    only(monkeypatch, "TRANSFORMS")
    rows = rows_of(2, 6000)
    bounded = np.isin(families_of(rows), BOUNDED)
    pure = np.abs(parts(rows, *SHARES)).max(axis=1) > 0.9995
    assert pure[bounded].all()
    x = np.sort(rows[~bounded], axis=1)
    x = (x - x[:, :1]) / np.ptp(x, axis=1)[:, None]
    few = ((np.diff(x, axis=1) > 1e-3).sum(axis=1) < 30) & ~pure[~bounded]
    low, high = (x < 1e-5).mean(axis=1) > 0.08, (x > 1 - 1e-5).mean(axis=1) > 0.08
    bent = ~pure[~bounded] & ~few & ~low & ~high
    skewed = bent & (np.abs(x.mean(axis=1) - 0.5) > 0.02)
    found = {
        "none": pure[~bounded],
        "exp or softplus": skewed,
        "logistic": bent & ~skewed,
        "floor": low & ~few,
        "cap": high & ~few,
        "round": few,
    }
    expected = {"none": 0.6, "exp or softplus": 0.21, "logistic": 0.05, "floor": 0.07, "cap": 0.03, "round": 0.04}
    assert {name: those.mean() for name, those in found.items()} == pytest.approx(expected, abs=0.015)


@pytest.mark.usefixtures("factors")
def test_some_unbounded_rows_are_multiplied_by_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "MULTIPLIED")
    rows = rows_of(2, 6000)
    bounded = np.isin(families_of(rows), BOUNDED)
    noise = 1 - (np.abs(parts(rows, *SHARES)) ** 2).sum(axis=1)
    assert noise[bounded].max() < 1e-4
    assert (noise[~bounded] > 1e-4).mean() == pytest.approx(0.06, abs=0.012)


# --- whole rows -------------------------------------------------------------------------------------------------------


def test_an_eighth_of_the_rows_mixes_two_or_three_of_any_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are tones of 2, 3, 4, ... cycles and of any size: parts count alike, and are no neighbours."""
    size = 120

    def ordered(rng: np.random.Generator, n: int, length: int, *_: float) -> np.ndarray:
        return (tone(np.arange(n) + 2, length) * 10 ** rng.uniform(-2, 2, (n, 1))).astype(np.float32)

    only(monkeypatch, "MIXED")
    monkeypatch.setattr(synthetic, "base_rows", ordered)
    rows = rows_of(100, size)
    amplitude = np.sort(np.abs(np.fft.rfft(processes.standardise(rows))[:, 2 : size + 2]) * np.sqrt(2) / LENGTH, axis=1)
    np.testing.assert_allclose((amplitude**2).sum(axis=1), 1, atol=1e-3)
    count = (amplitude > 1e-3).sum(axis=1)
    assert (count > 1).mean() == pytest.approx(0.12, abs=0.015)
    assert (count > 2).sum() / (count > 1).sum() == pytest.approx(0.5, abs=0.07)
    assert count.max() == 3
    weights = amplitude[count > 1] / amplitude[count > 1].sum(axis=1, keepdims=True)
    assert weights.max(axis=1).mean() == pytest.approx(0.66, abs=0.05)
    neighbours = np.diff(np.argsort(np.abs(np.fft.rfft(rows[count == 2])), axis=1)[:, -2:], axis=1)
    assert (np.abs(neighbours) == 1).mean() < 0.06


@pytest.mark.usefixtures("factors")
def test_few_rows_are_turned_upside_down_or_back_to_front(monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, "FLIPPED", "REVERSED")
    rows = rows_of(2, 6000)
    value = parts(rows, *SHARES)
    angle = np.angle(value[np.arange(len(rows)), np.abs(value).argmax(axis=1)])
    quarter = np.floor(angle / (np.pi / 2)).astype(int) % 4  # of the circle: plain, reversed and flipped, flipped, ...
    expected = [0.92 * 0.95, 0.08 * 0.05, 0.08 * 0.95, 0.92 * 0.05]
    assert [(quarter == place).mean() for place in range(4)] == pytest.approx(expected, abs=0.01)


@pytest.mark.usefixtures("factors")
def test_rows_lie_anywhere_at_any_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets in deviations: none, that of a minimum 0 (1.41 for a tone), or 0.3 to 30, mostly upwards."""
    only(monkeypatch)
    rows = rows_of(2, 5000)
    scale, offset = np.log10(rows.std(axis=1)), rows.mean(axis=1) / rows.std(axis=1)
    assert -1.001 < scale.min() < -0.99
    assert 3.99 < scale.max() < 4.001
    np.testing.assert_allclose(np.quantile(scale, [0.25, 0.5, 0.75]), [0.25, 1.5, 2.75], atol=0.1)
    centred, based = np.abs(offset) < 0.01, np.isclose(rows.min(axis=1), 0, atol=1e-4 * rows.std(axis=1))
    assert centred.mean() == pytest.approx(0.3, abs=0.025)
    assert based.mean() == pytest.approx(0.3, abs=0.025)
    far = offset[~centred & ~based]
    assert (far < 0).mean() == pytest.approx(0.25, abs=0.03)
    logs = np.log(np.abs(far))
    np.testing.assert_allclose((logs.min(), logs.mean(), logs.max()), np.log([0.3, 3, 30]), atol=0.1)


def test_mixing_replaces_a_share_by_convex_combinations(rng: np.random.Generator) -> None:
    x = processes.standardise(rng.standard_normal((2000, 128)).astype(np.float32))
    mixed = synthetic.mix(rng, x)
    changed = ~np.isclose(mixed, x, atol=1e-5).all(axis=1)
    assert changed.mean() == pytest.approx(synthetic.MIXED, abs=0.03)
    for row in np.flatnonzero(changed)[:20]:
        parts = x[[row, (row + 1) % 2000, (row + 2) % 2000]].T
        weights, rest, *_ = np.linalg.lstsq(parts, mixed[row], rcond=None)
        assert rest < 1e-4
        assert weights.min() > -1e-3
    assert synthetic.mix(rng, np.zeros((3, 128), np.float32)).std(axis=1).min() > 0.5  # constant rows become noise


def test_placing_changes_only_offset_and_scale(rng: np.random.Generator) -> None:
    x = processes.standardise(rng.standard_normal((500, 128)).astype(np.float32))
    placed = synthetic.place(rng, x)
    np.testing.assert_allclose(processes.standardise(placed / placed.std(axis=1, keepdims=True)), x, atol=1e-3)
    assert 0.2 < np.isclose(placed.min(axis=1), 0, atol=1e-6).mean() < 0.4
