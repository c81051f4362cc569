"""Shared by all tests: which are skipped, and where data outside the repository lies.

Import nothing from darts_msft here: the jaxtyping hook must be in place before the package is first imported.
"""

import functools
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads only wait for one another
gc.disable()  # a tenth of the time that imports take
settings.register_profile("few", max_examples=25, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=3000, database=None, deadline=None, print_blob=True)
settings.load_profile("few")

_NEEDS_NETWORK = {"network": "needs the network", "weights": "needs official pretrained weights"}


def pytest_configure() -> None:
    import typechecking  # imports numpy, which reads OMP_NUM_THREADS

    typechecking.install()


def pytest_collection_finish() -> None:
    gc.freeze()  # what was imported stays
    gc.enable()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-network", action="store_true", help="also run tests marked network or weights")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker, reason in _NEEDS_NETWORK.items():
            if item.get_closest_marker(marker) is None:
                continue
            if config.getoption("--run-network"):
                item.add_marker(pytest.mark.enable_socket)
            else:
                item.add_marker(pytest.mark.skip(reason=f"{reason}; run pytest with --run-network"))


@pytest.fixture(autouse=True, scope="module")
def _every_module_checks_shapes() -> None:
    import typechecking

    typechecking.start_afresh()


@pytest.fixture(scope="session", autouse=True)
def _what_is_always_the_same_is_done_once() -> Iterator[None]:
    """Of a tiny fit's time, other packages take a fifth for what doesn't matter here."""
    import torch
    from lightning_fabric.utilities import registry

    from darts_msft.backbones import moirai

    decode = functools.cache(lambda text: moirai_decode(json.loads(text)))
    moirai_decode = moirai.decode_distr_output
    with pytest.MonkeyPatch.context() as patch:
        # every trainer looks for callbacks in all installed packages
        patch.setattr(registry, "entry_points", functools.cache(registry.entry_points))
        # uni2ts reads a distribution's description by way of hydra
        patch.setattr(moirai, "decode_distr_output", lambda config: decode(json.dumps(config)))
        if not torch.cuda.is_available():  # every seed is kept, with its traceback, for a device that may come
            patch.setattr(torch.cuda.random, "_lazy_call", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def ett_dir() -> Path:
    """The folder with ETTh1.csv and ETTm1.csv: DARTS_MSFT_DATA, else ../shared/data; skips where neither has them."""
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DARTS_MSFT_DATA") or shared)
    if not (folder / "ETTh1.csv").is_file():
        pytest.skip(f"no ETTh1.csv in {folder}; set DARTS_MSFT_DATA to a folder that has it")
    return folder


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of an architecture's tiny checkpoint, by its name in `contract_backbone.MAKERS`."""

    @functools.cache
    def saved(name: str) -> Path:
        from contract_backbone import MAKERS

        path = tmp_path_factory.mktemp(name)
        MAKERS[name](path)
        return path

    return saved


@pytest.fixture(scope="session")
def tiny_moirai(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random MOIRAI checkpoint on disk: width 64, one layer, patches of 4 and 8 steps, two components.

    Most of a forecast's time is the search for a mixture's quantiles; `mixed_moirai` has all components.
    """
    return _save_moirai(tmp_path_factory.mktemp("tiny-moirai"), "StudentTOutput", "LogNormalOutput")


@pytest.fixture(scope="session")
def mixed_moirai(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As `tiny_moirai`, with the four components of the official checkpoints."""
    names = ("StudentTOutput", "NormalFixedScaleOutput", "NegativeBinomialOutput", "LogNormalOutput")
    return _save_moirai(tmp_path_factory.mktemp("mixed-moirai"), *names)


def _save_moirai(folder: Path, *components: str) -> str:
    import torch
    from uni2ts import distribution
    from uni2ts.model.moirai.module import MoiraiModule

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = MoiraiModule(
            distribution.MixtureOutput([getattr(distribution, name)() for name in components]),
            d_model=64,
            num_layers=1,
            patch_sizes=(4, 8),
            max_seq_len=512,
            attn_dropout_p=0.0,
            dropout_p=0.0,
        )
    module.save_pretrained(folder)
    return str(folder)
