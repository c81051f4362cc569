"""Multi-scale finetuning of pretrained time-series encoders, as Darts models."""

from darts_msft.model import MSFTFoundationModel
from darts_msft.search import Tuned, tune
from darts_msft.stacking import StackedEnsemble

__version__ = "0.2.0"

__all__ = ["MSFTFoundationModel", "StackedEnsemble", "Tuned", "__version__", "tune"]
