"""Multi-scale finetuning of pretrained time-series encoders, as Darts models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from darts_msft.model import MSFTFoundationModel
    from darts_msft.search import Tuned, tune
    from darts_msft.stacking import StackedEnsemble

__version__ = "0.2.0"

__all__ = ["MSFTFoundationModel", "StackedEnsemble", "Tuned", "__version__", "tune"]

_PLACES = {"MSFTFoundationModel": "model", "StackedEnsemble": "stacking", "Tuned": "search", "tune": "search"}


def __getattr__(name: str) -> Any:
    """Imported where it is first asked for: Darts and torch take seconds, which `darts-msft --help` has no use for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
