"""How a model answers Darts' tuners of the learning rate and of the batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from darts.models.forecasting.foundation_model import FoundationModel

from darts_msft.before_fit import PretrainedModel
from darts_msft.display import without_asides
from darts_msft.module import MSFTModule
from darts_msft.signatures import as_in_darts
from darts_msft.training.range_test import LEAST_STEPS, Divergence, RangeTest


class TunedModel(PretrainedModel):
    """Its trials train as its fits do."""

    _tuning: tuple[Divergence, bool] | None = None  # while a tuner runs, and whether there are validation data

    @as_in_darts
    def lr_find(self, *args: Any, **kwargs: Any) -> Any:
        """Darts' `lr_find`: what it suggests is the rate of the new modules, as an `lr` in `optimizer_kwargs`.

        The other groups' rates keep their ratio to it. Raises ValueError for a model that trains nothing.
        """
        call = signature(FoundationModel.lr_find).bind(self, *args, **kwargs)
        call.apply_defaults()
        asked = call.arguments
        if asked["num_training"] < LEAST_STEPS:
            raise ValueError(f"num_training={asked['num_training']} steps tell no rate: give at least {LEAST_STEPS}")
        divergence = Divergence(asked["early_stop_threshold"])
        asked["early_stop_threshold"] = None  # Lightning's takes losses for positive
        validates = asked["fit_kwargs"].pop("val_series", None) is not None
        asked["fit_kwargs"].setdefault("epochs", asked["num_training"])  # enough, however few windows there are
        with self._tuner_runs("lr_find", divergence, validates):
            found = super().lr_find(*call.args[1:], **call.kwargs)
        return None if found is None else RangeTest.of(found)  # None in Lightning's `fast_dev_run`

    @as_in_darts
    def scale_batch_size(self, series: Any, *args: Any, **kwargs: Any) -> Any:
        """Darts' `scale_batch_size`; with `method="predict"` a model that was never fitted forecasts zero-shot."""
        asked = signature(FoundationModel.scale_batch_size).bind(self, series, *args, **kwargs)
        asked.apply_defaults()
        if asked.arguments["method"] != "fit":
            series = self._prepare_zero_shot(series)
            return super().scale_batch_size(series, *args, **kwargs)
        validates = asked.arguments["method_kwargs"].get("val_series") is not None
        with self._tuner_runs("scale_batch_size", Divergence(None), validates):
            return super().scale_batch_size(series, *args, **kwargs)

    @contextmanager
    def _tuner_runs(self, what: str, divergence: Divergence, validates: bool) -> Iterator[None]:
        """Meanwhile the module trains as in a fit, but for the fit's callback."""
        if not self._requires_training:
            method, asked = self.model_params["method"], self.enable_finetuning
            raise ValueError(
                f"{what}() needs a model that trains, which this one, of method={method!r} and "
                f"enable_finetuning={asked!r}, does not: leave enable_finetuning out, or take another method"
            )
        self._tuning = divergence, validates
        try:
            with without_asides():
                yield
        finally:
            self._tuning = None
            if isinstance(self.model, MSFTModule):
                self.model.tune(None)
