"""Shared by the tests of pretraining: a seeded generator, and validation on few batches for those who ask."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def two_validation_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darts_msft.pretraining.train.VALIDATION_BATCHES", 2)
