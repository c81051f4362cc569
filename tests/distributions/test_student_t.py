"""Student's t against scipy's exact functions."""

import numpy as np
import pytest
import scipy.special
import torch

from darts_msft.distributions import student_t

FREEDOM = np.concatenate([[2, 2 + 1e-6, 1e4, 1e8, 1e30], 2 / np.linspace(1e-3, 1, 97)])
PRECISIONS = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@PRECISIONS
def test_shares_below_are_scipy_s(dtype: torch.dtype) -> None:
    values = torch.sinh(torch.linspace(-12, 12, 481, dtype=dtype)) / 10
    t, df = torch.meshgrid(values, torch.as_tensor(FREEDOM).to(dtype), indexing="ij")
    found = student_t.cdf(t, df)
    exact = scipy.special.stdtr(df.double().numpy(), t.double().numpy())
    assert found.dtype == dtype
    np.testing.assert_allclose(found.double().numpy(), exact, rtol=0, atol=1e-6)


@PRECISIONS
def test_quantiles_have_their_level_below(dtype: torch.dtype) -> None:
    df = torch.as_tensor(FREEDOM).to(dtype)
    for level in (1e-4, 0.01, 0.1, 0.4999, 0.5, 0.77, 0.95, 0.99, 1 - 1e-4):
        found = student_t.quantile(df, level)
        assert found.dtype == dtype
        below = scipy.special.stdtr(df.double().numpy(), found.double().numpy())
        np.testing.assert_allclose(below, level, rtol=0, atol=1e-6)


@PRECISIONS
def test_far_out_shares_are_0_and_1_and_quantiles_finite(dtype: torch.dtype) -> None:
    ends = torch.tensor([-torch.inf, -1e30, 0.0, 1e30, torch.inf], dtype=dtype)
    for df in torch.tensor([2.0, 7.0, 1e30], dtype=dtype).unsqueeze(-1).expand(-1, 5):
        np.testing.assert_allclose(student_t.cdf(ends, df).numpy(), [0, 0, 0.5, 1, 1], atol=1e-8)
        values = torch.stack([student_t.quantile(df, level) for level in (1e-12, 1e-6, 0.3, 1 - 1e-6, 1 - 1e-12)])
        assert values.isfinite().all()
        assert (values.diff(dim=0) > 0).all()
