"""From a window to its forecast: pyramid -> backbone -> encoder loop -> head -> mixing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from darts.models.forecasting.pl_forecasting_module import PLForecastingModule
from darts.utils.data.torch_datasets.utils import ModuleStage, PLModuleInput, PLModuleOutput, TorchInferenceBatch
from darts.utils.likelihood_models.torch import QuantileRegression
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from darts_msft.backbones import load_class
from darts_msft.backbones.base import Backbone, Stats, with_stats
from darts_msft.backbones.window_units import statistics_in_any_unit
from darts_msft.bounds import Bounds, BoundsConfig
from darts_msft.dependence.paths import SamplePaths
from darts_msft.embedding import embed_scale
from darts_msft.encoder import encode, unless_all
from darts_msft.forms import Form, first_form, in_forms
from darts_msft.groups import check_group
from darts_msft.likelihoods import MIXTURES, ByLevel, ScaleMixture, family_for
from darts_msft.linear.member import LinearForecast, LinearMember
from darts_msft.methods import find_method
from darts_msft.methods.base import Method
from darts_msft.methods.zero_shot import ZeroShot
from darts_msft.options import MethodConfig, MixingConfig
from darts_msft.outputs import ScaleOutputs
from darts_msft.scales.adapters import FlatHeads, StepHead
from darts_msft.scales.backcasts import cut_backcasts
from darts_msft.scales.mixing import LinearPart, ScaleWeights, mix_points, pack, upsample_all
from darts_msft.scales.pyramid import ScalePlan
from darts_msft.states import completed
from darts_msft.window_statistics import constant_where_flat, nan_where_unseen, of_those_that_saw
from darts_msft.windows_of_batches import Batch, Widths, Window, joined, module_input, window_of


class Parts(NamedTuple):
    """What a forecast runs."""

    plan: ScalePlan
    method: Method
    new_heads: StepHead | FlatHeads | None


class ForecastingModule(PLForecastingModule):
    """A backbone with a finetuning method attached.

    Everything that the constructor needs is plain data, so that a checkpoint rebuilds the module without the hub:
    the architecture's name and configuration, the patch size (steps), K, the method, and its settings. Before training
    the pretrained model forecasts, in one of the forms of `Form`.
    """

    form: Tensor
    takes_other_horizon = False  # in states that it loads

    def __init__(
        self,
        architecture: str,
        backbone_config: dict[str, Any],
        patch_size: int,
        num_scales: int,
        method: str,
        method_config: dict[str, Any],
        mixing_config: dict[str, Any],
        finest_context: int | None = None,
        bounds_config: dict[str, Any] | None = None,
        multivariate: str = "independent",
        sample_dependence: str = "copula",
        trains_points: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.multivariate, self.widths = multivariate, Widths.of_shapes(self.train_sample_shape)
        encoder = load_class(architecture)
        group = self.widths.group(multivariate, encoder.traits_of(backbone_config).future_covariates)
        if not trains_points:  # the losses are ours, where a user gave none
            self.criterion = self.train_criterion = self.val_criterion = None
        self.backbone = encoder.from_config(backbone_config, patch_size, **({"joint": True} if group > 1 else {}))
        spec, traits = self.backbone.spec, self.backbone.traits
        horizon = kwargs["output_chunk_length"] + self.output_chunk_shift
        context = kwargs["input_chunk_length"]
        self.plan = ScalePlan(context, horizon, patch_size, num_scales, traits.layout, finest_context)
        config = MethodConfig.from_dict(method_config)
        most_tokens = check_group(traits, self.plan, group, config.joined)
        # with K = 0 the user says what scale 0 sees
        self.one_scale = self.plan.one_scale(traits.max_context, most_tokens) if num_scales else self.plan
        self.method = find_method(method)(spec, self.plan, config)
        self.mixing = MixingConfig.from_dict(mixing_config)
        self.scale_weights = ScaleWeights(
            self.mixing.initial_logits(num_scales), self.mixing.linear_member, self.n_targets
        )
        self.linear = LinearMember() if self.mixing.linear_member else None  # until a fit
        self.bounds = Bounds(self.n_targets, BoundsConfig.from_dict(bounds_config or {}))
        self.paths = SamplePaths(self.output_chunk_length, self.n_targets, sample_dependence)
        self.family = family_for(self.likelihood, traits.family, trains_points)
        self.new_heads = self._make_new_heads()
        self.untouched = ZeroShot(spec, self.plan, config)
        self.method.attach(self.backbone)
        self.register_buffer("form", torch.tensor(first_form(self.plan, self.can_weigh_scales)))
        self.settle()

    def _make_new_heads(self) -> StepHead | FlatHeads | None:
        """Heads for all scales, where the pretrained one can't learn to serve the likelihood."""
        spec, traits, size = self.backbone.spec, self.backbone.traits, len(self.family.names)
        if traits.pretrained_head and self.family is traits.family:
            return None
        ahead = traits.layout.horizon
        return StepHead(spec.width, self.plan.patch_size, size) if ahead else FlatHeads(spec.width, self.plan, size)

    @property
    def can_forecast_untrained(self) -> bool:
        """Whether there is a pretrained model whose head serves the likelihood."""
        return self.method.pretrained and self._forecasts_zero_shot()

    @property
    def can_weigh_scales(self) -> bool:
        """Whether the pretrained model can forecast at several scales, with weights."""
        return self.plan.num_scales > 0 and not self.mixing.only_first and self.can_forecast_untrained

    @property
    def has_linear(self) -> bool:
        """Whether there is a linear member to forecast with."""
        return self.linear is not None and not self.linear.absent

    @property
    def mixes_linear(self) -> bool:
        """Whether it takes part in the forecast."""
        return self.has_linear and self.kind in (Form.TRAINED, Form.WITH_LINEAR)

    def take(self, form: Form) -> None:
        """Forecasts by `form` from now on."""
        self.form.fill_(form)
        self.settle()

    def settle(self) -> None:
        """Chooses what a forecast runs, by `form`: where the module is made, where a state is loaded, and by `take`."""
        self.kind = Form(int(self.form))
        if self.kind is Form.ONE_SCALE or self.mixing.only_first:
            self.scale_weights.only_finest()
        if self.kind is Form.TRAINED:
            self.parts = Parts(self.plan, self.method, self.new_heads)
        else:
            self.parts = Parts(self.one_scale if self.kind is Form.ONE_SCALE else self.plan, self.untouched, None)
        if isinstance(self.likelihood, ScaleMixture):
            self.likelihood.name_parameters(linear=self.has_linear)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        state = completed(state_dict, self) if strict else in_forms(state_dict)
        result = super().load_state_dict(state, strict=strict, assign=assign)
        self.settle()
        return result

    @contextmanager
    def bare_backbone(self) -> Iterator[Backbone]:
        """The backbone without what the method put into it, under its own parameter names."""
        self.method.detach(self.backbone)
        try:
            yield self.backbone
        finally:
            self.method.attach(self.backbone)

    def load_pretrained(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Copies a checkpoint's tensors into the backbone, strictly; `origin` names it in errors."""
        with self.bare_backbone() as backbone:
            backbone.load_pretrained(state, origin)

    # ---------------------------------------------------------------- forecasting

    @property
    def is_mixture(self) -> bool:
        """Whether the forecast is the weighted sum of the scales' distributions."""
        return isinstance(self.likelihood, ScaleMixture) and self.likelihood.mixing in MIXTURES

    hears_others = property(lambda self: self.kind is Form.TRAINED or not self.backbone.traits.pretrained_alone)
    """Whether the scales' forecasts of a variate depend on others, where there are any."""

    def window(self, batch: Batch) -> Window:
        """What a forecast sees of a batch of Darts'."""
        return window_of(batch, self.output_chunk_length, self.output_chunk_shift)

    def forecast_scales(self, window: Window) -> ScaleOutputs:
        """The scales' forecasts of the targets, each at its own rate, with the weights that all windows share."""
        plan, method, new_heads = self.parts
        heard = window if self.backbone.traits.future_covariates else window.without_known()
        rows = heard.rows(self.multivariate == "joint", self.hears_others)
        windows = list(zip(plan.pool_context(rows.past), plan.pool_horizon(rows.future), strict=True))
        seen = [~torch.isnan(past).all(dim=-1, keepdim=True) for past, _ in windows]
        stats = of_those_that_saw(seen, statistics_in_any_unit(self.backbone, rows.past, windows))
        if not self.backbone.traits.own_statistics:
            stats = stats[:1] * len(stats)
        tokens, masks = [], []
        for scale, of_scale in enumerate(windows):
            seen_rows = rows._replace(past=of_scale[0], future=of_scale[1])
            embedded, mask = embed_scale(self.backbone, method, plan, scale, seen_rows, stats[scale])
            tokens.append(embedded)
            masks.append(mask)
        added = method.add_tokens(tokens, [unless_all(mask) for mask in masks])
        encoded = method.drop_tokens(encode(self.backbone, method, *added), masks)
        encoded, masks = ([one[:, : rows.targets] for one in parts] for parts in (encoded, masks))
        params = self._heads(new_heads, encoded, plan.horizons, masks)
        family = self.backbone.family if new_heads is None else self.family
        weights = self.scale_weights()[: len(params)].expand(count := len(window.past), -1)
        kind = torch.promote_types(window.past.dtype, torch.float32)  # half precision is too coarse, and has no draws
        params, locs, spreads = (
            [rearrange(one[:, : rows.targets].to(kind), "(b t) v ... -> b (t v) ...", b=count) for one in parts]
            for parts in (params, *zip(*stats, strict=True))
        )
        return ScaleOutputs(plan, params, list(map(Stats, locs, spreads)), family, weights)

    def _heads(
        self,
        new_heads: StepHead | FlatHeads | None,
        encoded: Sequence[Float[Tensor, "B V _ D"]],
        horizons: Sequence[int],
        masks: Sequence[Bool[Tensor, "B V _"]],
    ) -> list[Float[Tensor, "B V _ R"]]:
        if new_heads is None:
            return self.backbone.heads(encoded, horizons, masks)
        scales = enumerate(zip(encoded, horizons, masks, strict=True))
        return [new_heads(self.backbone.readout(*one), scale, one[1]) for scale, one in scales]

    def forecast(self, window: Window) -> ScaleOutputs:
        """As `forecast_scales`, but windows without variation are forecast as constant, and backcasts weigh the scales.

        Backcasts are forecast in the same pass as the windows.
        """
        past_target = window.past_target
        if self.kind is not Form.BACKCASTS:
            outputs = self.forecast_scales(window)
            stats = constant_where_flat(outputs.plan, past_target, outputs.stats)
            return outputs._replace(stats=stats, linear=self.linear_forecast(window) if self.mixes_linear else None)
        finest = self.plan.contexts[0]
        backcasts = cut_backcasts(past_target, self.output_chunk_length, self.output_chunk_shift, finest)
        windows = joined([window, *(window.ending(end, self.output_chunk_shift) for end in backcasts.ends)])
        outputs = self.forecast_scales(windows)
        outputs = outputs._replace(stats=constant_where_flat(outputs.plan, windows.past_target, outputs.stats))
        own, earlier = (outputs.rows(rows) for rows in (slice(len(past_target)), slice(len(past_target), None)))
        points = rearrange(self._medians(earlier), "(j b) h v s -> j b h v s", b=len(past_target))
        return own._replace(weights=backcasts.weights(points))

    def linear_forecast(self, window: Window) -> LinearForecast:
        """The linear member's, of the targets."""
        assert self.linear is not None
        known = window.known
        ahead = None if known is None else (known[0], known[1][:, self.output_chunk_shift :])
        return cast(LinearForecast, self.linear(window.past_target, ahead))

    def linear_part(self, outputs: ScaleOutputs) -> LinearPart | None:
        """The linear member's forecast with its weight, which is 0 where it can't tell."""
        if outputs.linear is None:
            return None
        assert self.linear is not None
        loc, scale, tells = outputs.linear
        loc, scale = loc.nan_to_num(0.0), scale.nan_to_num(1.0)
        return LinearPart(loc, scale, self.linear.df.to(loc).expand_as(loc), self.scale_weights.linear.to(loc) * tells)

    def shared_weights(self) -> np.ndarray | None:
        """The weights of the scales, then the linear member's if there is one, where all windows share them.

        The mean over components.
        """
        if self.kind is Form.BACKCASTS:
            return None
        weights: np.ndarray = self.scale_weights.by_variate().detach().cpu().double().numpy().mean(axis=0)
        return weights

    def mix(self, outputs: ScaleOutputs) -> Float[Tensor, "B H V Z"]:
        """One forecast at the original rate, as the numbers that `self.likelihood` (or a point forecast) wants."""
        if isinstance(self.likelihood, ScaleMixture):
            blocks = [with_stats(params, stats) for params, stats in zip(outputs.params, outputs.stats, strict=True)]
            steps = self._at_original_rate(outputs, blocks)
            missing = self.likelihood.num_scales - steps.shape[-2]
            # scales that were not run have no weight, and the finest one's numbers
            steps = torch.cat([steps, steps[..., :1, :].expand(*steps.shape[:-2], missing, -1)], dim=-2)
            linear = self.linear_part(outputs)
            if linear is None and self.likelihood.with_linear:
                linear = LinearPart.unused(steps[..., 0, 0])
            return pack(steps, nn.functional.pad(outputs.weights, (0, missing)), linear)
        levels = self.likelihood.quantiles if isinstance(self.likelihood, QuantileRegression) else [0.5]
        return self._mix_quantiles(outputs, levels)

    def _mix_quantiles(self, outputs: ScaleOutputs, levels: Sequence[float]) -> Float[Tensor, "B H V Q"]:
        """The members' quantiles, averaged with their weights."""
        values = self._at_original_rate(outputs, self._quantiles(outputs, levels))
        mixed = mix_points(values.transpose(-1, -2), outputs.weights)
        if (linear := self.linear_part(outputs)) is None:
            return mixed
        columns = [linear.beside(mixed[..., index], linear.quantile(level)) for index, level in enumerate(levels)]
        return torch.stack(columns, dim=-1)

    def _quantiles(self, outputs: ScaleOutputs, levels: Sequence[float]) -> list[Float[Tensor, "B V _ Q"]]:
        """Each scale's, in the series' units."""
        quantiles: Sequence[Tensor] = outputs.params
        if outputs.family.levels != tuple(levels):
            # one search for the steps of all scales; elsewhere the columns are them
            steps = torch.cat(outputs.params, dim=-2)
            found = torch.stack([outputs.family.quantile(steps, level) for level in levels], dim=-1)
            quantiles = found.split([params.shape[-2] for params in outputs.params], dim=-2)
        scaled = zip(quantiles, outputs.stats, strict=True)
        return [part * spread.unsqueeze(-1) + loc.unsqueeze(-1) for part, (loc, spread) in scaled]

    def _at_original_rate(
        self, outputs: ScaleOutputs, blocks: list[Float[Tensor, "B V _ Q"]]
    ) -> Float[Tensor, "B H V S Q"]:
        return upsample_all(outputs.plan, blocks, self.mixing.upsampling)[:, self.output_chunk_shift :]

    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        if x_in.stage is ModuleStage.PREDICT:
            self._check_zero_shot()
        return PLModuleOutput(prediction=self.mix(self.forecast(self.window(x_in))))

    def _forecasts_zero_shot(self) -> bool:
        """Whether there is a pretrained head that serves the likelihood: as it is, or its quantiles."""
        native = self.backbone.traits
        return native.pretrained_head and (self.family is native.family or bool(self.family.levels))

    def _check_zero_shot(self) -> None:
        if self.parts.new_heads is None and not self._forecasts_zero_shot():
            asked = "loss_fn" if self.likelihood is None else f"likelihood={self.likelihood!r}"
            raise ValueError(
                f"{asked} needs a new head that is not trained yet; call fit() "
                "first, or take likelihood='native' or QuantileRegression for zero-shot forecasts"
            )

    def check_export(self) -> None:
        """Refuses what torch's exporter can't follow: such encoders, and medians that are sought until found."""
        if self.backbone.not_exported:
            name = type(self.backbone).__name__
            raise ValueError(f"to_onnx() can't export {name}, {self.backbone.not_exported}; take another backbone")
        family = self.backbone.family if self.parts.new_heads is None else self.family
        if family.has_points or (isinstance(self.likelihood, ScaleMixture) and self.kind is not Form.BACKCASTS):
            return
        what, remedy = "the scales are weighed by", "fit() it with training and a val_series, or take num_scales=0"
        if self.likelihood is None:
            what, remedy = "likelihood=None forecasts", "take likelihood='native', or a loss_fn, which trains points"
        raise ValueError(
            f"to_onnx() can't export this model: {what} medians of the encoder's distribution, which are sought until "
            f"they are found; {remedy}"
        )

    def predict_step(self, batch: TorchInferenceBatch, batch_idx: int, dataloader_idx: int | None = None) -> Any:
        """Darts' step; but where nothing is fed back, the network runs once for all samples."""
        once = self.pred_n <= self.output_chunk_length and self.likelihood is not None
        if not once or self.pred_num_samples == 1 or self.predict_likelihood_parameters:
            return super().predict_step(batch, batch_idx, dataloader_idx)
        forecast = self(module_input(batch, self.output_chunk_length)).prediction
        samples = self._sample(forecast, self.pred_num_samples, batch.past_target)
        samples = self.paths.order(samples, batch.past_target)
        samples = nan_where_unseen(self.parts.plan, batch.past_target, samples)
        return samples[:, :, : self.pred_n], batch.series_schema, batch.pred_time

    def _produce_predict_output(self, x: PLModuleInput) -> PLModuleOutput:
        """Darts' step, which also makes what is fed back, within bounds; but a single sample is the point forecast.

        NaN for components of which nothing was seen.
        """
        output = self._predicted(x)
        return output.replace(prediction=nan_where_unseen(self.parts.plan, x.past_target, output.prediction))

    def _predicted(self, x: PLModuleInput) -> PLModuleOutput:
        if self.predict_likelihood_parameters:
            output = super()._produce_predict_output(x)
            if isinstance(self.likelihood, QuantileRegression | ByLevel):
                output = output.replace(prediction=self.bounds.clip_quantiles(output.prediction, x.past_target))
            return output
        if self.likelihood is None or self.pred_num_samples > 1:
            forecast = self(x).prediction
            if self.likelihood is None:
                return PLModuleOutput(prediction=self._sample(forecast, 1, x.past_target)[0])
            # later chunks see the path itself: what is left of each chunk's errors hardly depends on earlier ones
            path = self.paths.one(lambda count: self._sample(forecast, count, x.past_target), x.past_target)
            return PLModuleOutput(prediction=path)
        self._check_zero_shot()
        return PLModuleOutput(prediction=self.point(self.window(x)))

    def point(self, window: Window) -> Float[Tensor, "B H V"]:
        """The weighted mean of the members' medians, within bounds."""
        return self.bounds(self._mix_quantiles(self.forecast(window), [0.5]).squeeze(-1), window.past_target)

    def _sample(
        self, forecast: Float[Tensor, "B H V Z"], count: int, past_target: Float[Tensor, "B C V"]
    ) -> Float[Tensor, "M B H V"]:
        """Draws within the bounds; of a point forecast, the point."""
        if isinstance(self.likelihood, ScaleMixture):
            samples = self.likelihood.sample_many(forecast, count)
        elif self.likelihood is None:
            samples = forecast.squeeze(-1).unsqueeze(0)
        else:
            samples = torch.stack([self.likelihood.sample(forecast) for _ in range(count)])
        return self.bounds(samples, past_target)

    def _medians(self, outputs: ScaleOutputs) -> Float[Tensor, "B H V S"]:
        return self._at_original_rate(outputs, self._quantiles(outputs, [0.5])).squeeze(-1)
