"""Student's t around points: its scale and degrees of freedom from residuals, and its CRPS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import special

EXPONENTS = ((0.5, 0.0), (1.0, 0.0))  # of deviation and unrest; on ETT, Weather and departures 0.5 is better than 0
RESTLESS = ((0.25, 0.25), (0.5, 0.5), (0.25, 0.75), (0.0, 1.0))  # where the unrest is known
COVERED = 0.8  # of the residuals are to lie in the interval of that share
_STILL = 1e-3  # units of spread in a window that tells nothing
DEGREES = (2.5, 3.0, 4.0, 6.0, 10.0, 30.0)  # tried, the last is nearly the normal distribution
_ROUNDS = 15  # of the scale's fixed point


_JUDGED = 24  # steps at which the exponents are compared


class Student(NamedTuple):
    """Of every component: one scale a step, one number of degrees of freedom."""

    scale: Float[np.ndarray, "V H"]
    df: Float[np.ndarray, "V"]
    exponents: tuple[float, float] = (0.0, 0.0)
    """The scale is in units of the window's own deviation and unrest, to these powers."""


def choose_student(
    residuals: Float[np.ndarray, "B V H"],
    deviation: Float[np.ndarray, "B V"],
    unrest: Float[np.ndarray, "B V"] | None,
    unit: Float[np.ndarray, "B V"],
) -> Student:
    """With the exponents of the lowest CRPS, in units; a component whose residuals nobody saw gets a scale of a unit.

    Deviation and unrest are those of the windows' own past. Windows in which the former is next to nothing, or the unit
    0, don't count. At last the scales are stretched so that the 80 % intervals hold 80 % of a component's residuals.
    """
    known = ((deviation > _STILL * unit) & (unit > 0))[:, :, None]
    unit = np.where(known, unit[:, :, None], 1.0)
    residuals = np.where(known, residuals, np.nan)
    steps = np.unique(np.linspace(0, residuals.shape[2] - 1, _JUDGED).astype(int))
    nobody = Student(unit.mean(axis=0).repeat(residuals.shape[2], axis=1), np.full(unit.shape[1], DEGREES[-1]))
    best, found, own = np.inf, nobody, np.ones_like(unit)
    for exponents in EXPONENTS if unrest is None else EXPONENTS + RESTLESS:
        spread = deviation ** exponents[0] * (1.0 if unrest is None else unrest ** exponents[1])
        spread = np.where(known, spread[:, :, None], 1.0)
        student = fit_student(residuals / spread)
        scale = np.where(np.isnan(student.scale), (unit / spread).mean(axis=0), student.scale)
        value = crps(residuals[:, :, steps] / unit, scale[:, steps] * spread / unit, student.df[:, None])
        seen = ~np.isnan(value)
        count = seen.sum(axis=(0, 2))
        score = float((np.where(seen, value, 0.0).sum(axis=(0, 2))[count > 0] / count[count > 0]).sum())
        if count.any() and score < best:
            best, found, own = score, Student(scale, student.df, exponents), spread
    return found._replace(scale=found.scale * _stretch(residuals / (found.scale * own), found.df))


def _stretch(standardised: Float[np.ndarray, "B V H"], df: Float[np.ndarray, "V"]) -> Float[np.ndarray, "V 1"]:
    """What the scales of each component want to be multiplied with to cover as much as they say."""
    half = special.stdtrit(df, (1 + COVERED) / 2)
    rows = (np.abs(one[~np.isnan(one)]) for one in np.moveaxis(standardised, 1, 0))
    reached = [float(np.quantile(one, COVERED)) if one.size else 0.0 for one in rows]
    return np.array([share / width if share > 0 else 1.0 for share, width in zip(reached, half, strict=True)])[:, None]


def fit_student(residuals: Float[np.ndarray, "B V H"]) -> Student:
    """The likeliest, from residuals with gaps (NaN).

    A step that nobody saw has the mean scale of the component's others, NaN without any. With fixed degrees of
    freedom d the scale s solves s^2 = mean((d + 1) r^2 / (d + r^2 / s^2)), by iteration.
    """
    square = residuals.astype(np.float64) ** 2
    seen = ~np.isnan(square)
    count = seen.sum(axis=0)
    square = np.where(seen, square, 0.0)
    start = square.sum(axis=0) / count.clip(1)
    floor = (1e-12 * start.max(axis=1, keepdims=True)).clip(1e-300)
    best, chosen, variances = np.full(len(start), -np.inf), np.full(len(start), DEGREES[-1]), start
    for df in DEGREES:
        variance = np.maximum(start, floor)
        for _ in range(_ROUNDS):
            variance = np.maximum(((df + 1) * square / (df + square / variance)).sum(axis=0) / count.clip(1), floor)
        total = np.where(seen, _log_density(square / variance, df) - np.log(variance) / 2, 0.0).sum(axis=(0, 2))
        better = total > best
        best, chosen = np.maximum(best, total), np.where(better, df, chosen)
        variances = np.where(better[:, None], variance, variances)
    scale, steps = np.where(count > 0, np.sqrt(variances), 0.0), (count > 0).sum(axis=1, keepdims=True)
    typical = np.where(steps > 0, scale.sum(axis=1, keepdims=True) / steps.clip(1), np.nan)
    return Student(np.where(count > 0, scale, typical), chosen)


def crps(
    residuals: Float[np.ndarray, "*shape"], scale: Float[np.ndarray, "*shape"], df: Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape"]:
    """Continuous ranked probability score, in the residuals' unit; exact (Jordan, Krueger & Lerch 2019, appendix A)."""
    z = residuals / scale
    density = np.exp(_log_density(np.square(z), df))
    ratio = np.exp(special.betaln(0.5, df - 0.5) - 2 * special.betaln(0.5, df / 2))
    spread = 2 * density * (df + z * z) - 2 * np.sqrt(df) * ratio
    return scale * (z * (2 * special.stdtr(df, z) - 1) + spread / (df - 1))


def _log_density(square: Float[np.ndarray, "*shape"], df: Float[np.ndarray, "*#shape"] | float) -> np.ndarray:
    """At scale 1, of t^2."""
    constant = -special.betaln(0.5, np.asarray(df) / 2) - 0.5 * np.log(df)
    return constant - (np.asarray(df) + 1) / 2 * np.log1p(square / df)
