"""That the tests see a wrong shape in any function of darts_msft, and on what later call."""

from __future__ import annotations

import pytest
import torch
from beartype.roar import BeartypeCallHintViolation

from darts_msft.distributions import student_t


def test_a_wrong_shape_is_an_error_also_after_right_ones() -> None:
    three, four = torch.ones(3), torch.ones(4)
    student_t.cdf(three, three)
    student_t.cdf(three, three)
    with pytest.raises(BeartypeCallHintViolation):
        student_t.cdf(three, four)
