"""`MSFTFoundationModel`: a pretrained time-series encoder, finetuned at several scales, as a Darts model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from darts import TimeSeries
from darts.utils.likelihood_models.torch import TorchLikelihood
from darts.utils.serialization import add_safe_globals
from matplotlib.axes import Axes

from darts_msft import arguments, inspection, persistence, plans, plots
from darts_msft.hooks import DartsHooks
from darts_msft.methods import find_method
from darts_msft.options import AUTO
from darts_msft.quantiles import predict_quantiles
from darts_msft.training.report import Candidate, FitReport
from darts_msft.training.windows import WINDOWS_PER_EPOCH


class MSFTFoundationModel(DartsHooks):
    """Multi-scale finetuning (MSFT) of a pretrained encoder (Qiao et al., NeurIPS 2025, arXiv 2506.14087).

    The series is seen at its own sampling rate (scale 0) and at K coarser ones (scale i averages 2**i steps), which
    look back further. Each scale has its own input adapter and LoRA; a cross-scale aggregator joins them in every
    layer; their forecasts are mixed with learned weights. Without `fit` the pretrained model forecasts: at all scales
    if the coarser ones look further back, weighing them, for each window, by how well they forecast the last part of
    that window's own context; else at one scale.

    `fit` with a `val_series` first scores the pretrained model: at one scale, with as much of the input as the
    checkpoint takes; at all scales, weighted as without `fit`; with the weights that are best there; and with a linear
    member beside the scales. It returns the best of these and of all epochs, so it never ends worse on the validation
    data than zero-shot. An epoch (or several, of fewer than 16 steps in all) that is no better than the best state is
    undone, and the rates fall to a third (not with an `lr_scheduler_cls` or "adalora"). Where there is no zero-shot
    forecast (`method="scratch"`, a `likelihood` with a new head, or an encoder that has none) the untrained state is
    compared.

    Patch size, finest context and K, where they are left open, are chosen first, by the pretrained model's score on
    some validation windows; for good.

    The score is the CRPS of a series and component over the mean absolute error of its seasonal naive on the training
    part (as the MASE has it), averaged over all, so that series of any size count alike; the season is sought in the
    data. Training and validation series are paired by position if there are as many of both; else a validation series
    is measured on itself. So is one that is a quarter livelier than its training part, and a constant one, or, if that
    is constant too, by its level. Windows that `fit_from_dataset` gets in a dataset of another kind are measured by the
    last value's error within them. A second fit is compared with the state that it starts from.
    """

    def __init__(
        self,
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        output_chunk_shift: int = 0,
        backbone: str | os.PathLike[str] = "moirai-tiny",
        revision: str | None = None,
        num_scales: int | str | None = None,
        finest_context: int | None = None,
        patch_size: int | str = "auto",
        method: str = "msft",
        lora_rank: int = 16,
        lora_alpha: float = 16.0,
        aggregator: str | None = "both",
        shared_adapters: bool = False,
        shared_lora: bool = False,
        attention: str = "in_scale",
        prompt_length: int = 8,
        mixing: str = "mixture",
        upsampling: str = "linear",
        weight_learning: str = "stacking",
        weight_init: str | Sequence[float] = "uniform",
        lower: float | str | None = None,
        upper: float | None = None,
        sample_dependence: str = "copula",
        linear_member: bool | None = None,
        windows_per_epoch: int | None = WINDOWS_PER_EPOCH,
        lr_pretrained: float | None = None,
        lr_new: float | None = None,
        lr_head: float | None = None,
        lr_omega: float | None = None,
        lr_lora: float | None = None,
        likelihood: str | TorchLikelihood | None = "native",
        multivariate: str = AUTO,
        **kwargs: Any,
    ) -> None:
        """What is finetuned and how; all other arguments are those of Darts' `FoundationModel`.

        Of those (`batch_size`, `random_state`, `pl_trainer_kwargs`, ...) some have other defaults: `n_epochs=10`, AdamW
        with betas (0.9, 0.98) and weight decay 0.01, `enable_finetuning=True` (False: `fit` does not train; a
        dictionary names what trains, as in Darts); Apple GPUs are not used. An `lr` in `optimizer_kwargs`, or a
        schedule's `max_lr`, is the rate of the new modules and scales the others alike. Gradients are clipped at norm 1
        unless `pl_trainer_kwargs` says otherwise (a Trainer of your own brings its own clipping).

        Past and future covariates are used where the encoder has a place for them (MOIRAI, Chronos-2): each scale sees
        them averaged like the series, and known future values over the horizon; the bundled model's only once it is
        trained, for its pretraining had one variate at a time. The linear member takes known future covariates without
        training, beside any encoder. They are no part of the loss or of the score. Static covariates are not used.

        Parameters
        ----------
        input_chunk_length
            Context C in steps, or (shortest, longest); shorter windows count as padded on the left.
        output_chunk_length
            Horizon H in steps, forecast at once.
        output_chunk_shift
            Steps between context and horizon.
        backbone
            "moirai-tiny" (bundled, offline), a registry name such as "moirai-1.1-R-small" (weights CC BY-NC 4.0), a
            Hugging Face repo id, or a directory with config.json and model.safetensors.
        revision
            Commit or tag of a hub checkpoint; None takes the pinned one (MOIRAI 1.0), else the newest.
        num_scales
            K, the number of new scales, for every method; 0: the series' own rate alone. None: 2 (3 for a long input),
            or as many as leave 4 context tokens and a whole step. "auto": `fit` trains with every K from 0 to that many
            and keeps, for good, the one that is best on the `val_series` (not with `save_checkpoints`).
        finest_context
            Steps that scale 0 sees; scale i sees 2**i times as many, at most the whole input. None: 1,024, or as many
            more as let the coarsest scale see the whole input. As long as the input: the paper's form.
        patch_size
            Steps a token covers, at every scale; "auto": the backbone's largest with 16 patches in what scale 0 sees.
        method
            "msft"; "msft_full" (with every pretrained weight); or, without modules for each scale, "zero_shot" (`fit`
            weighs the scales), "full" (every weight), "linear_probe" (the head), "prompt" (learned tokens before a
            frozen model's context), "lora", "adalora" (through `peft`; AdaLoRA's ranks fall to `lora_rank` over the
            planned steps: early stopping leaves them higher), "scratch" (random weights; no forecast before `fit`).
        lora_rank, lora_alpha
            Rank of the LoRA on q, k and v (0, with MSFT alone: none), and the numerator of its scaling alpha / rank.
        prompt_length
            Tokens of "prompt".
        aggregator
            Branches of the cross-scale aggregator: "both", "c2f" (coarse to fine), "f2c", or None for none.
        shared_adapters, shared_lora
            One input adapter, or one LoRA set, for all scales.
        attention
            "in_scale"; "full": all scales' tokens in one sequence; or "one_sequence": that without an aggregator, our
            reading of the paper's ablation. With these training doesn't start at the pretrained model.
        mixing
            How distributions are mixed: "mixture" (each sample from one scale), "quantile" (averaged quantiles),
            "samples" (paper: averages of one independent path a scale, whose spread is too small), or "first": all
            scales train, with equal weights, and scale 0 alone forecasts (`weight_learning` and `weight_init` are
            refused).
        upsampling
            How a coarse forecast reaches the original rate: "repeat" (paper) or "linear".
        weight_learning
            What the scales' weights learn from: "scale_loss" (paper: the softmax-weighted sum of the scales' losses),
            "mixed_loss" (the mixed forecast's likelihood), "stacking" (closed form: the non-negative weights with the
            lowest CRPS on the validation series, or squared error where quantiles or points are averaged, solved after
            every epoch; without a validation series as "mixed_loss"), "uniform" (not learned).
        weight_init
            Their start: "uniform", "first" (nearly all on scale 0), or K+1 logits.
        lower, upper
            Least and greatest value of a forecast, in the units of the series that the model is given: samples,
            quantiles and points are clipped. None: no bound. `lower="auto"`: 0 for each component that is never below 0
            in all training series of the last `fit`; before a fit, in the window's own context. A file's bounds are
            loaded with its weights where no number is given here.
        sample_dependence
            How the steps and components of a sample path hang together, so that samples of sums and peaks are likely
            ones. "copula": as the errors on the `val_series` of the last `fit` did, and as what the season leaves of
            each window's past does; the more validation data, the less of the latter, which is all there is before a
            fit. "independent": every step is drawn on its own, and the intervals of sums and peaks are far too narrow.
            A single step has the same samples in both (later ones than `output_chunk_length` differ, as they follow
            from paths).
        linear_member
            Whether a ridge regression joins the mixture, which `fit` with a `val_series` solves for in seconds before
            anything else. None: yes, where `mixing` and `weight_learning` are the defaults. False: the paper's method.
        windows_per_epoch
            Training windows an epoch of `fit`, drawn evenly from all positions of all series, others every epoch; 512
            by default, None: all. Where there are fewer: all. With a `stride` they are drawn among every `stride`-th.
            The validation score is of at most 256 windows, evenly from all positions, whatever the `stride`; of wider
            series 1,792 over the number of components (1,024 where nothing is trained), at least 48. The datasets of
            `fit_from_dataset` are used whole, as Darts does.
        lr_pretrained, lr_new, lr_head, lr_omega, lr_lora
            Learning rates of pretrained weights that train (MSFT: output projections and norms), of what the method
            adds (adapters, aggregator, prompt), of the head, of the scales' weights (without effect where these are
            stacked), and of LoRA's matrices ("lora" and "adalora" too); None: the method's own.
        likelihood
            "native" (the encoder's own: MOIRAI's mixture distribution, or quantiles; of one that forecasts points, as
            None), a Darts likelihood on the real line (QuantileRegression, Gaussian, Laplace, Cauchy, Gumbel; it gets a
            new head, but for quantiles within the encoder's own levels), or None for point forecasts (weighted medians
            of the native distribution). With a likelihood too `num_samples=1` (Darts' default) gives the point
            forecast, the weighted mean of the scales' medians; more samples give the distribution.
        multivariate
            Whether the components of a series attend to one another ("joint"), or each is forecast for itself, with all
            covariates ("independent"). "auto": what the encoder is made for (MOIRAI: "independent"; Chronos-2:
            "joint"). "joint" may forecast better where components lead one another, and costs memory with the square of
            their number (MOIRAI, which refuses too many); UniTS allows both too, any other encoder "independent" alone.

        Raises
        ------
        ValueError
            For settings that do not fit together, or that the method has no use for, before anything is trained.
        ModuleNotFoundError
            If the backbone's package is missing, with the install line.
        OSError
            If weights can't be read or downloaded.

        References
        ----------
        .. [1] Z. Qiao, C. Liu, Y. Zhang et al. "Multi-Scale Finetuning for Encoder-based Time Series Foundation
               Models", NeurIPS 2025. https://arxiv.org/abs/2506.14087

        Examples
        --------
        >>> from darts_msft import MSFTFoundationModel
        >>> from darts_msft.datasets import load_sea_temperature
        >>> series = load_sea_temperature()[:1000]
        >>> model = MSFTFoundationModel(input_chunk_length=256, output_chunk_length=48, n_epochs=1, random_state=0)
        >>> model.predict(48, series).values()[23::24, 0]  # zero-shot, after 12 and 24 hours
        array([5.19, 5.18], dtype=float32)
        >>> model = model.fit(series[:750], val_series=series[494:])  # its first window looks back into the other
        >>> model.predict_quantiles(48, series).values()[47]  # 10 %, 50 % and 90 %
        array([4.81, 5.02, 5.23], dtype=float32)
        """
        own = dict(locals())  # of a subclass, Darts knows the arguments in its own signature alone
        arguments.settle_darts_arguments(type(self), self.model_params, find_method(method).trains)
        self._module_settings, likelihood, self._revision = arguments.resolve({**self.model_params, **own})
        windows = arguments.check_windows_per_epoch(windows_per_epoch)
        super().__init__(**kwargs)
        self._windows_per_epoch = windows
        self.pl_module_params["likelihood"] = likelihood
        self._search_scales = num_scales == AUTO

    @staticmethod
    def largest_num_scales(
        input_chunk_length: int | tuple[int, int],
        output_chunk_length: int,
        patch_size: int | str = "auto",
        output_chunk_shift: int = 0,
        backbone: str = "moirai-tiny",
        revision: str | None = None,
    ) -> int:
        """The largest K that a model of these lengths, in steps, can have; the arguments are those of the model.

        `backbone` and `revision` are looked up for `patch_size="auto"` alone: a number is not held against them.
        Raises ValueError where there is no such model.
        """
        return plans.largest_num_scales(
            input_chunk_length, output_chunk_length, output_chunk_shift, patch_size, backbone, revision
        )

    # ---------------------------------------------------------------- what Darts has not

    @property
    def fit_report(self) -> FitReport | None:
        """What the last `fit` compared, kept and trained, and how long it took; None where nothing was compared."""
        return self._fit_report

    @property
    def candidates(self) -> list[Candidate]:
        """The states that the last `fit` scored, that before the first step first; it returned the best (lowest)."""
        return list(self._fit_report.candidates) if self._fit_report is not None else []

    @property
    def scale_weights(self) -> np.ndarray | None:
        """Weights of the scales, then the linear member's if there can be one; (K+2,), sum 1. None: by window.

        Before `fit`, those of the zero-shot forecast: by window, or all on scale 0. Raises ValueError where there is
        no such forecast.
        """
        if self.model is None:
            return inspection.weights_before_fit(self)
        return self._require_module().shared_weights()

    def predict_quantiles(
        self, n: int, series: Any = None, quantiles: Sequence[float] = (0.1, 0.5, 0.9), **kwargs: Any
    ) -> TimeSeries | list[TimeSeries]:
        """Exact quantiles, by level, of the forecast of the next `n` steps, at most `output_chunk_length`.

        Each component becomes one for each level, named as Darts does (`load_q0.100`). `kwargs` are those of `predict`.
        With a QuantileRegression the levels must be its own. Raises ValueError where there are no such quantiles.
        """
        self._prepare_zero_shot(series, kwargs.get("past_covariates"), kwargs.get("future_covariates"))
        return predict_quantiles(self, self._require_module(), n, series, quantiles, kwargs)

    def scale_forecasts(
        self,
        series: TimeSeries | Sequence[TimeSeries],
        past_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
        future_covariates: TimeSeries | Sequence[TimeSeries] | None = None,
    ) -> list[TimeSeries] | list[list[TimeSeries]]:
        """Each scale's point forecast (its median) of the `output_chunk_length` steps after `series`.

        At the original rate, in the series' units; a series for each scale that is used, then the linear member's. Of
        several series: such a list for each. Covariates as in `predict`.

        Raises ValueError for series that are too short or of other components.
        """
        series = self._prepare_zero_shot(series, past_covariates, future_covariates)
        every: dict[str, Any] = {"past_covariates": past_covariates, "future_covariates": future_covariates}
        given = {name: value for name, value in every.items() if value is not None}
        if isinstance(series, TimeSeries):
            return inspection.scale_forecasts(self, series, given)
        each = ({name: value[index] for name, value in given.items()} for index in range(len(series)))
        return [inspection.scale_forecasts(self, one, own) for one, own in zip(series, each, strict=True)]

    def explain(
        self,
        series: TimeSeries,
        past_covariates: TimeSeries | None = None,
        future_covariates: TimeSeries | None = None,
    ) -> pd.DataFrame:
        """Which member carries which step of the point forecast after `series`: a row for each time, component, member.

        Columns: "time", "component", "member", its "weight" (sum 1 over members), its "forecast" (the median) and its
        "pull", weight x (its forecast - the mix), in the series' units: what the member moves the forecast by. Pulls
        of a step add up to 0, and weight x forecast to the point forecast, bounds apart. Covariates as in `predict`.
        """
        return inspection.explain(self, *self._to_explain(series, past_covariates, future_covariates))

    def summary(self) -> str:
        """Backbone, method, what each scale sees in steps and tokens, weights, and the number of parameters."""
        return inspection.summary(self)

    def plot_forecast(
        self,
        series: TimeSeries,
        n: int | None = None,
        actual: TimeSeries | None = None,
        component: str | None = None,
        ax: Axes | None = None,
        **covariates: TimeSeries | None,
    ) -> Axes:
        """Draws the end of `series` and the next `n` steps (None: `output_chunk_length`): median and 80 % interval.

        `actual` may hold what came; `component` is the first by default; `covariates` are those of `predict`, by name.
        Returns matplotlib's axes.
        """
        series, given = self._to_explain(series, **covariates)
        return plots.plot_forecast(self, series, given, n, actual, component, ax)

    def plot_scales(
        self, series: TimeSeries, component: str | None = None, axes: Any = None, **covariates: TimeSeries | None
    ) -> np.ndarray:
        """Draws what each scale sees of `series`, and what each member says, with the mix; returns two axes."""
        return plots.plot_scales(self, *self._to_explain(series, **covariates), component, axes)

    def _to_explain(
        self,
        series: TimeSeries,
        past_covariates: TimeSeries | None = None,
        future_covariates: TimeSeries | None = None,
    ) -> tuple[TimeSeries, dict[str, TimeSeries]]:
        """A series to explain, as the model computes with it, and the covariates that are given."""
        if not isinstance(series, TimeSeries):
            raise ValueError(f"series is a {type(series).__name__}: give one TimeSeries at a time")
        every = {"past_covariates": past_covariates, "future_covariates": future_covariates}
        given = {name: one for name, one in every.items() if one is not None}
        return self._prepare_zero_shot(series, past_covariates, future_covariates), given

    def plot_fit(self, axes: Any = None) -> np.ndarray:
        """Draws the scores that the last `fit` compared, and how far each group of weights moved; returns two axes.

        Raises ValueError where nothing was scored.
        """
        return plots.plot_fit(self, axes)

    def save_adapter(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes what `fit` trained to the directory `path`: adapter.safetensors and adapter.json.

        The frozen weights are not in it: adapter.json has the backbone's name, the hash of what is frozen in this
        model, and the settings that a model must share to load it. Raises ValueError if the model was not fitted, and
        FileExistsError if `path` exists, unless it is an adapter's directory and `overwrite` is True.
        """
        persistence.save_adapter(self, path, overwrite)

    def load_adapter(self, path: str | Path) -> None:
        """Loads what `save_adapter` wrote; the model, fitted or not, then forecasts exactly as the one that saved.

        The next `fit` starts from the adapter. An unfitted model takes the adapter's K and finest context, unless it
        was made with numbers for them. Raises FileNotFoundError if `path` is
        no adapter's directory, and ValueError if the adapter is for other weights or settings, which are named, or not
        whole; the model stays as it was.
        """
        persistence.load_adapter(self, path)

    def merge(self) -> MSFTFoundationModel:
        """Folds adapters into the backbone's weights where that is exact, and returns the model; forecasts stay.

        With "lora" and "adalora" the model is then as one of `method="full"`; MSFT with one LoRA for all scales
        (`shared_lora=True`, or K = 0) as one of `lora_rank=0`, with its input adapters and aggregator. A dictionary
        given as `enable_finetuning` becomes True: its names may be gone. Raises ValueError if the model was not fitted,
        or the method has nothing to fold, or another LoRA for every scale.
        """
        persistence.merge(self)
        return self


add_safe_globals([MSFTFoundationModel, FitReport, Candidate, torch.optim.AdamW])
# models that version 0.1.0 saved name these classes by where they were then; to go with version 0.3
sys.modules["darts_msft.report"] = sys.modules["darts_msft.selection"] = sys.modules[FitReport.__module__]
add_safe_globals([(FitReport, "darts_msft.report.FitReport"), (Candidate, "darts_msft.selection.Candidate")])
