"""Shared by the tests of pretraining: a seeded generator, and validation on few batches."""

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(autouse=True)
def _two_validation_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darts_msft.pretraining.train.VALIDATION_BATCHES", 2)
