"""For the tests of the benchmarks. What imports darts_msft is imported late, after pytest's hook for shapes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from darts.datasets.dataset_loaders import DatasetLoader


@pytest.fixture
def only_given_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data folder in the environment, and an empty cache."""
    monkeypatch.delenv("DARTS_MSFT_DATA", raising=False)
    monkeypatch.setattr(DatasetLoader, "_DEFAULT_DIRECTORY", tmp_path / "cache")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The fakes are registered, and every job runs in this process."""
    import benchmark_fakes

    benchmark_fakes.register(monkeypatch)
    yield
    benchmark_fakes.run.data_hash.cache_clear()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs these experiments, with results and data in `tmp_path`; returns the exit code."""
    import benchmark_fakes

    return benchmark_fakes.command(tmp_path, monkeypatch)
