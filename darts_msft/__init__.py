"""Multi-scale finetuning of time series foundation models, as Darts forecasting models."""

__version__ = "0.1.0"
