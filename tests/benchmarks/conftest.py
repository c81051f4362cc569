"""For the tests of the benchmarks."""

from pathlib import Path

import pytest
from darts.datasets.dataset_loaders import DatasetLoader


@pytest.fixture
def only_given_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder in the environment, and an empty cache."""
    monkeypatch.delenv("DARTS_MSFT_DATA", raising=False)
    monkeypatch.setattr(DatasetLoader, "_DEFAULT_DIRECTORY", tmp_path / "cache")
