"""The MOIRAI with random weights that is held against uni2ts' own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def module() -> Any:
    """Two heads, so that their order counts; patch sizes not in order: the index of one counts, not its rank."""
    from contract_backbone import random_moirai  # the plugin that checks shapes comes before the package

    return random_moirai(width=128, patch_sizes=(8, 4, 16))


@pytest.fixture(scope="module")
def directory(module: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("moirai")
    module.save_pretrained(path)
    return path
