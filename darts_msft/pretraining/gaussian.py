"""Gaussian processes with composed kernels, drawn as sums of cosines."""

import numpy as np
from jaxtyping import Float
from scipy.special import ive

from darts_msft.pretraining.processes import PerRow, Rows, log_uniform, standardise

FEATURES = 32  # cosines a draw
KERNELS = 5  # at most in a composition, as in KernelSynth


def gaussian_process(rng: np.random.Generator, length: int, periods: Float[np.ndarray, "n 2"]) -> Rows:
    """Approximate draws from random sums and products of kernels, after KernelSynth (Ansari et al. 2024, Chronos, 4.2).

    f(t) = sum_m a_m cos(2 pi (v_m t + phi_m)), a_m normal, phi_m uniform. v_m is drawn from the kernel's spectral
    measure (random Fourier features, Rahimi and Recht 2007): a sum of kernels mixes the measures, a product adds their
    frequencies. The cost is linear in `length`, where an exact draw (Cholesky) is cubic. Kernels: RBF, rational
    quadratic, periodic (one of the row's two `periods`, in steps) plus its mean over all lags, a constant; a linear
    kernel multiplies or adds a line, white noise is added.
    """
    n = len(periods)
    frequency = _composed_frequency(rng, n, length, periods)
    amplitude = rng.standard_normal((n, FEATURES), dtype=np.float32)
    offset = rng.random((n, FEATURES))
    t = np.arange(length)[None]
    total = np.zeros((n, length), np.float32)
    for m in range(FEATURES):
        cycles = (frequency[:, m : m + 1] * t + offset[:, m : m + 1]).astype(np.float32)
        total += amplitude[:, m : m + 1] * np.cos(np.float32(2 * np.pi) * cycles)
    total = standardise(total)
    slope, level = rng.normal(0, 1.5, (n, 1)), rng.normal(0, 1, (n, 1))
    line = slope * np.linspace(-1, 1, length)[None] + level
    role = rng.random((n, 1))
    total = np.where(role < 0.12, total + line, np.where(role < 0.24, total * line, total))
    noise = log_uniform(rng, 0.003, 0.7, n)[:, None] * rng.standard_normal((n, length), dtype=np.float32)
    return standardise(total + noise)


def _composed_frequency(
    rng: np.random.Generator, n: int, length: int, periods: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, "n features"]:
    """Frequencies of a composition: one to `KERNELS` kernels, each multiplied with the one before it or a new summand.

    A feature belongs to one summand and adds up the frequencies of that summand's factors.
    """
    new = np.concatenate([np.zeros((n, 1), int), rng.random((n, KERNELS - 1)) < 0.5], axis=1)
    summand = np.cumsum(new, axis=1)
    used = rng.integers(1, KERNELS + 1, (n, 1))
    summand[np.arange(KERNELS)[None] >= used] = -1
    mine = rng.integers(0, summand.max(axis=1)[:, None] + 1, (n, FEATURES))
    frequency = np.zeros((n, FEATURES))
    for kernel in range(KERNELS):
        period = np.where(rng.random(n) < 0.6, periods[:, 0], periods[:, 1])
        frequency += _kernel_frequency(rng, n, length, period) * (summand[:, kernel : kernel + 1] == mine)
    return frequency


def _kernel_frequency(rng: np.random.Generator, n: int, length: int, period: PerRow) -> Float[np.ndarray, "n features"]:
    """Draws from one kernel's spectral measure a row: half periodic, a quarter RBF, a quarter rational quadratic.

    The periodic kernel's Fourier coefficients are I_0 and, on either side, I_k of 1 / l^2. Here all I_k have the same
    share, the sign being drawn afterwards, so that I_0 has twice its weight: the kernel plus its mean over all lags.
    In a sum that constant is taken off with the row's mean; in a product it adds the other factor by itself.
    """
    shape = (n, FEATURES)
    kind = rng.random((n, 1))
    scale = log_uniform(rng, 0.01, 1.0, n)[:, None] * length
    bell = rng.standard_normal(shape) / (2 * np.pi * scale)
    quadratic = bell * np.sqrt(rng.standard_gamma(np.broadcast_to(rng.uniform(0.5, 4, (n, 1)), shape)))
    order = np.arange(9)[None]
    weight = ive(order, 1 / log_uniform(rng, 0.3, 2.0, n)[:, None] ** 2)
    level = np.cumsum(weight, axis=1) / weight.sum(axis=1, keepdims=True)
    harmonic = (rng.random((*shape, 1)) > level[:, None, :]).sum(axis=2) * rng.choice([-1, 1], shape)
    return np.where(kind < 0.5, harmonic / period[:, None], np.where(kind < 0.75, bell, quadratic))
