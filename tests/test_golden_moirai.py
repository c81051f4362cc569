"""Forecasts of the bundled MOIRAI stay what `golden_moirai.py` wrote down."""

from __future__ import annotations

import numpy as np
import pytest
from golden_moirai import CASES, FILE, forecasts


@pytest.mark.parametrize("name", CASES)
def test_forecasts_are_as_written_down(name: str) -> None:
    """To 1e-4 of their size: other processors round otherwise, and Adam's first steps magnify that."""
    with np.load(FILE) as saved:
        expected = {key: saved[key] for key in saved if key.startswith(f"{name}/")}
    found = forecasts(name)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        size = np.nanmax(np.abs(np.where(np.isfinite(value), value, 0)), axis=0)
        np.testing.assert_allclose(found[key] / (size + 1), value / (size + 1), rtol=0, atol=1e-4, err_msg=key)
