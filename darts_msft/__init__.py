"""Multi-scale finetuning of pretrained time-series encoders, as Darts models."""

from darts_msft.model import MSFTFoundationModel

__version__ = "0.2.0"

__all__ = ["MSFTFoundationModel", "__version__"]
