"""The Student-t of residuals against scipy's fits and integrals."""

import numpy as np
import pytest
from scipy import integrate, stats

from darts_msft.linear.student import choose_student, crps, fit_student


@pytest.mark.parametrize(("df", "error", "scale"), [(2.5, 0.3, 1.0), (4.0, -2.0, 3.0), (30.0, 1.0, 0.1)])
def test_the_crps_is_its_integral(df: float, error: float, scale: float) -> None:
    share, error_in_units = stats.t(df).cdf, error / scale
    below = integrate.quad(lambda u: share(u) ** 2, -np.inf, error_in_units)[0]
    above = integrate.quad(lambda u: share(-u) ** 2, error_in_units, np.inf)[0]
    found = crps(np.array([error]), np.array([scale]), np.array([df]))
    assert found == pytest.approx((below + above) * scale, rel=1e-6)


def test_scale_and_degrees_are_found() -> None:
    unit = np.array([1.0, 10.0, 0.1])
    residuals = stats.t.rvs(4, size=(800, 3, 20), random_state=1) * unit[:, None] * np.linspace(1, 2, 20)
    residuals[np.random.default_rng(0).random(residuals.shape) < 0.1] = np.nan
    found = fit_student(residuals)
    assert found.df.tolist() == [4.0, 4.0, 4.0]
    np.testing.assert_allclose(found.scale, unit[:, None] * np.linspace(1, 2, 20), rtol=0.15)


def test_the_scale_is_the_likeliest() -> None:
    residuals = stats.t.rvs(6, size=(400, 1, 1), random_state=3)
    found = fit_student(residuals)
    df, scale = found.df.item(), found.scale.item()
    best = stats.t.logpdf(residuals, df, scale=scale).sum()
    assert all(stats.t.logpdf(residuals, df, scale=scale * factor).sum() < best for factor in (0.98, 1.02))


def test_a_step_that_nobody_saw_takes_the_component_s_scale() -> None:
    residuals = stats.norm.rvs(size=(50, 2, 4), random_state=0)
    residuals[:, 0, 2] = residuals[:, 1] = np.nan
    found = fit_student(residuals)
    assert found.scale[0, 2] == pytest.approx(found.scale[0, [0, 1, 3]].mean())
    assert np.isnan(found.scale[1]).all()


def test_residuals_of_zero_have_a_scale() -> None:
    assert (fit_student(np.zeros((5, 1, 2))).scale > 0).all()


def test_an_unseen_component_has_the_scale_of_a_unit() -> None:
    residuals = np.random.default_rng(0).normal(size=(60, 2, 3))
    residuals[:, 1] = np.nan
    unit = np.tile([1.0, 5.0], (60, 1))
    assert choose_student(residuals, np.ones((60, 2)), None, unit).scale[1].tolist() == [5.0, 5.0, 5.0]
    nothing = choose_student(np.full((60, 2, 3), np.nan), np.ones((60, 2)), None, unit)
    assert nothing.scale.tolist() == [[1.0] * 3, [5.0] * 3]


@pytest.mark.parametrize("exponents", [(0.5, 0.0), (1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_the_exponents_are_those_of_the_residuals(exponents: tuple[float, float]) -> None:
    rng = np.random.default_rng(5)
    deviation, unrest = np.exp(rng.normal(size=(2, 300, 2)))
    residuals = rng.normal(size=(300, 2, 6)) * (deviation ** exponents[0] * unrest ** exponents[1])[:, :, None]
    found = choose_student(residuals, deviation, unrest, np.ones((300, 2)))
    assert found.exponents == exponents
    np.testing.assert_allclose(found.scale, 1, rtol=0.2)


def test_the_intervals_cover_what_they_say() -> None:
    rng = np.random.default_rng(1)
    calm, lively = rng.normal(size=(200, 1, 4)) * 0.01, rng.normal(size=(200, 1, 4))  # no Student-t: two kinds of hours
    residuals = np.concatenate([np.where(rng.random(calm.shape) < 0.4, calm, lively), lively], axis=1)
    found = choose_student(residuals, np.ones((200, 2)), None, np.ones((200, 2)))
    inside = np.abs(residuals) < stats.t.ppf(0.9, found.df)[:, None] * found.scale
    np.testing.assert_allclose(inside.mean(axis=(0, 2)), 0.8, atol=0.002)
