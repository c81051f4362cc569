"""Series, pieces and gaps are still those that the bundled checkpoint learned from: a stored sample of each part.

Whether they are as they should be is asked in `test_synthetic.py` and `test_objective.py`; here, whether anything
changed: a share, a range, or the order in which random numbers are drawn. Where that is meant, write the samples anew:
`python tests/pretraining/test_golden_series.py`. It refuses a dirty tree.
"""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from darts_msft.pretraining import gaussian, objective, processes, synthetic

FILE = Path(__file__).with_name("golden_series.npz")
Maker = Callable[[np.random.Generator], np.ndarray]


def column(n: int, value: float) -> np.ndarray:
    return np.full(n, value, np.float32)


def cycles(rng: np.random.Generator, factor: int) -> synthetic.Cycles:
    return synthetic.cycles(rng, 120, 120, 512, factor)


def damaged(rng: np.random.Generator) -> np.ndarray:
    context = np.tile(np.arange(256, dtype=np.float32), (120, 1))
    objective.damage(context, rng)
    return np.nan_to_num(context, nan=-1)


def batch(index: int) -> np.ndarray:
    task = objective.Tasks(3, 400)[index]
    return np.concatenate([task.context[:, 0], task.horizon[:, 0]], axis=1)


BASE = np.random.default_rng(0).standard_normal((120, 256)).astype(np.float32)
CASES: dict[str, Maker] = {
    "batch": lambda rng: synthetic.synthetic_series(rng, 240, 256),
    "slowed": lambda rng: synthetic.base_rows(rng, 120, 512, 4, 0.3),
    "cycles": lambda rng: np.stack(cycles(rng, 1), axis=1),
    "slowed cycles": lambda rng: np.stack(cycles(rng, 8), axis=1),
    "related periods": lambda rng: synthetic._related_periods(rng, 150, 512, 1),
    "cyclic": lambda rng: synthetic.cyclic(rng, cycles(rng, 1), 512, 0.3),
    "gain": lambda rng: synthetic.cycle_effects(rng, column(120, 7), 70, column(120, 1))[0],
    "offset": lambda rng: synthetic.cycle_effects(rng, column(120, 7), 70, column(120, 1))[1],
    "modulation": lambda rng: synthetic.modulation(rng, column(100, 8), 256),
    "disturbances": lambda rng: synthetic.disturbances(rng, column(120, 24), BASE),
    "gaussian": lambda rng: gaussian.gaussian_process(rng, 256, np.tile(np.float32([24, 168]), (100, 1))),
    "seasonal": lambda rng: synthetic.seasonal_series(rng, 60, 256),
    "daylight": lambda rng: synthetic.daylight(rng, 60, 256),
    "counts": lambda rng: synthetic.count_series(rng, 60, 256),
    "intermittent": lambda rng: synthetic.intermittent(rng, 60, 256),
    "multiplied": lambda rng: synthetic.multiply(rng, BASE[:60]),
    "mixed": lambda rng: synthetic.mix(rng, BASE),
    "placed": lambda rng: synthetic.place(rng, BASE),
    "resampled": lambda rng: synthetic.resample(rng, BASE, 4),
    "stochastic": lambda rng: processes.stochastic(rng, 120, 128),
    "volatility": lambda rng: processes.volatility(rng, 60, 256),
    "shapes": lambda rng: processes.cycle_shapes(rng, 120),
    "trend": lambda rng: processes.trend(rng, 100, 128),
    "shifts": lambda rng: processes.level_shifts(rng, 60, 128),
    "spikes": lambda rng: processes.spikes(rng, 100, 256),
    "transforms": lambda rng: processes.transform(rng, BASE),
    **{kind: lambda rng, kind=kind: processes.stochastic(rng, 30, 128, kind) for kind in processes.NOISES},
    "layouts": lambda rng: np.array([objective.draw_layout(rng)[:5] for _ in range(200)], float),
    "damage": damaged,
    "task 0": lambda _: batch(0),
    "task 7": lambda _: batch(7),
}


def summary(rows: np.ndarray) -> np.ndarray:
    """Four numbers of each row, with 12 bits: mean, deviation of the changes, a middle and the last value."""
    rows = rows.astype(np.float64)
    ends = [rows[:, rows.shape[1] // 3], rows[:, -1]]
    fraction, exponent = np.frexp(np.stack([rows.mean(axis=1), np.diff(rows, axis=1).std(axis=1), *ends], axis=1))
    return np.ldexp(np.round(fraction * 4096) / 4096, exponent).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_the_series_are_those_of_the_bundled_checkpoint(name: str) -> None:
    """To a thousandth of a row's size; one row in a hundred may differ, where a processor rounds over a threshold."""
    found = summary(CASES[name](np.random.default_rng(5)))
    with np.load(FILE) as stored:
        expected = stored[name]
    assert found.shape == expected.shape
    size = np.abs(expected).max(axis=1, keepdims=True)
    same = (np.abs(found - expected) <= 1e-3 * size + 1e-6).all(axis=1)
    assert same.mean() >= 0.99, f"{(~same).sum()} of {len(same)} rows of {name!r} are others than before"


if __name__ == "__main__":
    if subprocess.run(["git", "status", "--porcelain", "darts_msft"], capture_output=True, check=True).stdout:
        raise SystemExit("darts_msft has changes that are not committed: commit them first")
    np.savez_compressed(FILE, **{name: summary(make(np.random.default_rng(5))) for name, make in CASES.items()})
