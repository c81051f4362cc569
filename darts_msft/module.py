"""The Lightning module: pyramid -> backbone -> encoder loop -> head -> mixing, and its training."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from darts.utils.data.torch_datasets.utils import (
    ModuleStage,
    PLModuleInput,
    PLModuleOutput,
    TorchInferenceBatch,
    TorchTrainingBatch,
)
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.backbones import load_class
from darts_msft.backbones.base import Backbone, Family, Stats
from darts_msft.encoder import encode
from darts_msft.likelihoods import DartsFamily, ScaleMixture
from darts_msft.methods import find_method
from darts_msft.options import LearningRates, MethodConfig, MixingConfig
from darts_msft.scales.adapters import StepHead
from darts_msft.scales.mixing import ScaleWeights, mix_points, pack, upsample_all
from darts_msft.scales.pyramid import ScalePlan
from darts_msft.training.loss import combine, scale_losses
from darts_msft.training.validation import ValidatedModule

logger = logging.getLogger("darts_msft")

METHOD_KEY = "darts_msft_method"  # in Lightning's checkpoints: what an interrupted fit's method goes on from


class ScaleOutputs(NamedTuple):
    """Each scale's parameters (B, V, H_i, R), standardised, the statistics behind them, and whose they are."""

    params: list[Float[Tensor, "B V _ R"]]
    stats: list[Stats]
    family: Family


class MSFTModule(ValidatedModule):
    """A backbone with a finetuning method attached.

    Everything that the constructor needs is plain data, so that a checkpoint rebuilds the module without the hub:
    the architecture's name and configuration, the patch size (steps), K, the method, and its settings.
    Until training starts (`trained` is False) the forecast is the pretrained model's at scale 0.
    """

    def __init__(
        self,
        architecture: str,
        backbone_config: dict[str, Any],
        patch_size: int,
        num_scales: int,
        method: str,
        method_config: dict[str, Any],
        mixing_config: dict[str, Any],
        learning_rates: dict[str, Any],
        enable_finetuning: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.backbone = load_class(architecture).from_config(backbone_config, patch_size)
        horizon = kwargs["output_chunk_length"] + self.output_chunk_shift
        horizon_tokens = self.backbone.spec.horizon_tokens
        self.plan = ScalePlan(kwargs["input_chunk_length"], horizon, patch_size, num_scales, horizon_tokens)
        self.method = find_method(method)(self.backbone.spec, self.plan, MethodConfig.from_dict(method_config))
        self.mixing = MixingConfig.from_dict(mixing_config)
        self.rates = LearningRates.from_dict(learning_rates)
        self.scale_weights = ScaleWeights(
            self.mixing.initial_logits(num_scales), learned=self.mixing.learning != "uniform"
        )
        base = self.likelihood.base if isinstance(self.likelihood, ScaleMixture) else self.likelihood
        self.new_family = None if base is None else DartsFamily(base)
        self.step_head = (
            StepHead(self.backbone.spec.width, patch_size, len(self.new_family.names)) if self.new_family else None
        )
        self.stacking = self.mixing.learning == "stacking" and num_scales > 0
        if not self.method.pretrained:
            self.untrained_label = "untrained"
        elif not self._forecasts_zero_shot():
            self.untrained_label = "untrained head"
        self.prepare_validation(num_scales + 1)
        self.method.attach(self.backbone)
        self.apply_trainable()

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

    # ---------------------------------------------------------------- what trains

    def apply_trainable(self) -> None:
        """Freezes everything but what the method declares."""
        for name, parameter in self.backbone.named_parameters():
            group = self.method.group_of(name)
            parameter.requires_grad = group is not None and not (group == "head" and self.step_head is not None)

    def train(self, mode: bool = True) -> MSFTModule:
        super().train(mode)
        self.backbone.eval()  # no dropout in pretrained layers, most of which are frozen
        return self

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trainable parameters by learning-rate group: "pretrained", "new", "head", "omega"."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in self.rates.to_dict()}
        owners = {"method": "new", "step_head": "head", "scale_weights": "omega"}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                owner, _, rest = name.partition(".")
                group = owners[owner] if owner in owners else self.method.group_of(rest) or "pretrained"
                groups[group].append((name, parameter))
        return groups

    def configure_optimizers(self) -> Any:
        """Darts' optimiser and scheduler over our parameter groups.

        An `lr` in Darts' `optimizer_kwargs` becomes the rate of the new modules; the other groups keep their ratio.
        Biases, norms and omega have no weight decay.
        """
        settings = dict(self.optimizer_kwargs)
        rates = self.rates.scaled_to(settings.pop("lr")) if "lr" in settings else self.rates
        groups = []
        for name, members in self.parameter_groups().items():
            matrices = [p for key, p in members if p.ndim > 1 and not key.endswith("omega")]
            vectors = [p for key, p in members if p.ndim <= 1 or key.endswith("omega")]
            rate = getattr(rates, name)
            if matrices:
                groups.append({"params": matrices, "lr": rate, "name": name})
            if vectors:
                groups.append({"params": vectors, "lr": rate, "name": f"{name}_plain", "weight_decay": 0.0})
        optimizer = self.optimizer_cls(groups, **settings)
        if self.lr_scheduler_cls is None:
            return optimizer
        defaults = {"monitor": "val_loss", "interval": "epoch", "frequency": 1, "strict": True, "name": None}
        schedule = {key: self.lr_scheduler_kwargs.get(key, value) for key, value in defaults.items()}
        options = {key: value for key, value in self.lr_scheduler_kwargs.items() if key not in defaults}
        for key in ("max_lr", "base_lr"):  # of one-cycle and cyclic schedules: the groups keep their ratio there too
            if isinstance(options.get(key), int | float):
                options[key] = [options[key] * group["lr"] / rates.new for group in optimizer.param_groups]
        return [optimizer], {"scheduler": self.lr_scheduler_cls(optimizer, **options), **schedule}

    # ---------------------------------------------------------------- forecasting

    def forecast_scales(self, past_target: Float[Tensor, "B C V"]) -> ScaleOutputs:
        """Every scale's forecast at its own rate; before training, scale 0's alone from the pretrained head."""
        trained = bool(self.trained)
        plan = self.plan if trained else self.plan.only_finest()
        contexts = plan.pool_context(rearrange(past_target, "b c v -> b v c"))
        tokens, masks, stats = [], [], []
        for scale, context in enumerate(contexts):
            values, scale_stats = self.backbone.normalise(context)
            observed = plan.pad_context(~torch.isnan(context), scale)
            count = plan.horizon_token_counts[scale]
            embedded = self.backbone.embed(plan.pad_context(values, scale), observed, count)
            past, future = embedded.split([embedded.shape[-2] - count, count], dim=-2)
            tokens.append(torch.cat([self.method.adapt_input(past, scale), future], dim=-2))
            mask = plan.token_mask(observed, scale)
            masks.append(None if bool(mask.all()) else mask)
            stats.append(scale_stats)
        seen = self.method.add_tokens(tokens, masks) if trained else (tokens, masks)
        encoded = encode(self.backbone, self.method, *seen)
        encoded = self.method.drop_tokens(encoded, masks) if trained else encoded
        dtype = past_target.dtype
        if self.step_head is not None and trained:
            read = [self.backbone.readout(part, steps) for part, steps in zip(encoded, plan.horizons, strict=True)]
            heads = zip(read, plan.horizons, strict=True)
            params = [self.step_head(part)[..., :steps, :].to(dtype) for part, steps in heads]
        else:
            scales = zip(encoded, plan.horizons, strict=True)
            params = [self.backbone.head(part, scale, steps).to(dtype) for scale, (part, steps) in enumerate(scales)]
        family = self.new_family if self.new_family is not None and trained else self.backbone.family
        return ScaleOutputs(params, stats, family)

    def mixing_weights(self) -> Float[Tensor, "S"]:
        """The scales' weights; before training, and with mixing="first", all of it lies on scale 0."""
        if bool(self.trained) and not self.mixing.only_first:
            weights: Tensor = self.scale_weights()
            return weights
        return nn.functional.one_hot(torch.tensor(0), self.plan.num_scales + 1).to(self.scale_weights.omega)

    @torch.no_grad()
    def scale_points(self, past_target: Float[Tensor, "1 C V"]) -> list[Any]:
        """Each scale's median of one window at the original rate: arrays of (H, V), in the series' units."""
        self.eval()
        past_target = past_target.to(self.scale_weights.omega)
        outputs = self.forecast_scales(past_target)
        outputs = outputs._replace(stats=_constant_where_flat(past_target, outputs.stats))
        return list(self._medians(outputs)[0].permute(2, 0, 1).cpu().numpy())

    def mix(self, outputs: ScaleOutputs) -> Float[Tensor, "B H V Z"]:
        """One forecast at the original rate, as the numbers that `self.likelihood` (or a point forecast) wants."""
        weights = self.mixing_weights()[: len(outputs.stats)]
        if isinstance(self.likelihood, ScaleMixture):
            blocks = [
                self.backbone.denormalise(params, stats)
                for params, stats in zip(outputs.params, outputs.stats, strict=True)
            ]
            steps = self._at_original_rate(blocks)
            missing = self.likelihood.num_scales - steps.shape[-2]  # before training there is scale 0 alone
            steps = torch.cat([steps, steps[..., :1, :].expand(*steps.shape[:-2], missing, -1)], dim=-2)
            return pack(steps, torch.cat([weights, weights.new_zeros(missing)]))
        levels = [0.5] if self.new_family is None else self.new_family.levels or [0.5]
        values = self._at_original_rate(
            [self._quantiles(outputs, scale, levels) for scale in range(len(outputs.stats))]
        )
        return mix_points(values.transpose(-1, -2), weights)

    def _quantiles(self, outputs: ScaleOutputs, scale: int, levels: Sequence[float]) -> Float[Tensor, "B V H Q"]:
        params, (loc, spread) = outputs.params[scale], outputs.stats[scale]
        if isinstance(outputs.family, DartsFamily) and outputs.family.levels == levels:
            return params * spread.unsqueeze(-1) + loc.unsqueeze(-1)  # the columns are the quantiles, with gradients
        quantiles = [outputs.family.quantile(params, level) * spread + loc for level in levels]
        return torch.stack(quantiles, dim=-1)

    def _at_original_rate(self, blocks: list[Float[Tensor, "B V _ Q"]]) -> Float[Tensor, "B H V S Q"]:
        return upsample_all(self.plan, blocks, self.mixing.upsampling)[:, self.output_chunk_shift :]

    def forward(self, x_in: PLModuleInput) -> PLModuleOutput:
        outputs = self.forecast_scales(x_in.past_target)
        if x_in.stage is ModuleStage.PREDICT:
            self._check_zero_shot()
            outputs = outputs._replace(stats=_constant_where_flat(x_in.past_target, outputs.stats))
        return PLModuleOutput(prediction=self.mix(outputs))

    def _forecasts_zero_shot(self) -> bool:
        """Whether the pretrained head serves the likelihood: the native distribution, its quantiles, its median."""
        return self.new_family is None or self.new_family.levels is not None

    def _check_zero_shot(self) -> None:
        if not bool(self.trained) and not self._forecasts_zero_shot():
            raise ValueError(
                f"likelihood={self.likelihood!r} needs a new head that is not trained yet; call fit() "
                "first, or take likelihood='native' or QuantileRegression for zero-shot forecasts"
            )

    def predict_step(self, batch: TorchInferenceBatch, batch_idx: int, dataloader_idx: int | None = None) -> Any:
        """Darts' step; but where nothing is fed back, the network runs once for all samples."""
        once = self.pred_n <= self.output_chunk_length and self.likelihood is not None
        if not once or self.pred_num_samples == 1 or self.predict_likelihood_parameters:
            return super().predict_step(batch, batch_idx, dataloader_idx)
        samples = self._sample(self(PLModuleInput(past_target=batch.past_target)).prediction, self.pred_num_samples)
        return samples[:, :, : self.pred_n], batch.series_schema, batch.pred_time

    def forecast_samples(self, past_target: Float[Tensor, "B C V"], count: int) -> Float[Tensor, "M B H V"]:
        outputs = self.forecast_scales(past_target)
        if not _finite(outputs):
            return self._broken(past_target).unsqueeze(0)
        return self._sample(self.mix(outputs), count)

    def forecast_medians(self, past_target: Float[Tensor, "B C V"]) -> Float[Tensor, "B H V S"]:
        outputs = self.forecast_scales(past_target)
        if not _finite(outputs):
            return self._broken(past_target).unsqueeze(-1).expand(-1, -1, -1, len(outputs.stats))
        return self._medians(outputs)

    def _broken(self, past_target: Float[Tensor, "B C V"]) -> Float[Tensor, "B H V"]:
        batch, _, variates = past_target.shape
        return past_target.new_full((batch, self.plan.horizon - self.output_chunk_shift, variates), torch.nan)

    def _sample(self, forecast: Float[Tensor, "B H V Z"], count: int) -> Float[Tensor, "M B H V"]:
        if isinstance(self.likelihood, ScaleMixture):
            return self.likelihood.sample_many(forecast, count)
        if self.likelihood is None:
            return forecast.squeeze(-1).unsqueeze(0)
        return torch.stack([self.likelihood.sample(forecast) for _ in range(count)])

    def _medians(self, outputs: ScaleOutputs) -> Float[Tensor, "B H V S"]:
        points = [self._quantiles(outputs, scale, [0.5]) for scale in range(len(outputs.stats))]
        return self._at_original_rate(points).squeeze(-1)

    # ---------------------------------------------------------------- training

    def weight_learning(self, asked: bool = False) -> str | None:
        if self.plan.num_scales == 0:
            return None
        solved = any(candidate.step > 0 for candidate in self.selection.candidates)
        return "mixed_loss" if self.stacking and not (asked or solved) else self.mixing.learning

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self._forecasts_zero_shot():
            self.trained.fill_(True)

    def on_train_start(self) -> None:
        self.method.begin(self.trainer.estimated_stepping_batches)
        self.steps_seen = self.global_step
        super().on_train_start()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tells the method of a step: Lightning has stepped by now, and clears gradients with the next batch only."""
        stepped, self.steps_seen = self.global_step > self.steps_seen, self.global_step
        if stepped and not self.diverged:
            self.method.after_step(self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.fitting:
            checkpoint[METHOD_KEY] = self.method.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if METHOD_KEY in checkpoint:
            self.method.load_training_state(checkpoint[METHOD_KEY])

    def training_step(self, train_batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        outputs = self.forecast_scales(train_batch.past_target)
        if not _finite(outputs):  # a loss that moves nothing
            logger.warning("training stopped at step %d: forecasts are not finite; lower the rates", self.global_step)
            self.trainer.should_stop = self.diverged = True
            return torch.zeros((), device=self.device, requires_grad=True)
        loss = self.training_loss(train_batch, outputs)
        self.log("train_loss", loss, batch_size=len(train_batch.past_target), prog_bar=True, sync_dist=True)
        if len(self.train_metrics):
            output = PLModuleOutput(prediction=self.mix(outputs))
            self._update_metrics(output, train_batch.future_target, self.train_metrics)
        return loss

    def training_loss(self, batch: TorchTrainingBatch, outputs: ScaleOutputs) -> Float[Tensor, ""]:
        """The scales' losses joined by `combine`, the mixed forecast's own where omega learns from it, and a penalty.

        The penalty is the method's.
        """
        target, sample_weight = self._labels(batch.future_target), None
        if batch.sample_weight is not None:
            sample_weight = self._labels(batch.sample_weight.expand_as(batch.future_target))
        losses = scale_losses(outputs.family, self.plan, outputs.params, outputs.stats, target, sample_weight)
        weights = self.scale_weights()
        loss = combine(losses, weights, self.mixing.learning)
        if self.mixing.learning in ("mixed_loss", "stacking") and len(losses) > 1:
            params = upsample_all(self.plan, [part.detach() for part in outputs.params], self.mixing.upsampling)
            loc = torch.stack([stats.loc for stats in outputs.stats], dim=-1)
            scale = torch.stack([stats.scale for stats in outputs.stats], dim=-1)
            own = outputs.family.mixed_loss(params.transpose(1, 2), loc, scale, weights, target, sample_weight)
            loss = loss + own
        return loss + self.method.penalty()

    def _labels(self, target: Float[Tensor, "B H V"]) -> Float[Tensor, "B V H2"]:
        """(B, V, H) over the whole horizon; the gap of `output_chunk_shift` is unknown."""
        return nn.functional.pad(rearrange(target, "b h v -> b v h"), (self.output_chunk_shift, 0), value=torch.nan)


def _finite(outputs: ScaleOutputs) -> bool:
    return all(bool(torch.isfinite(params).all()) for params in outputs.params)


def _constant_where_flat(past_target: Float[Tensor, "B C V"], stats: list[Stats]) -> list[Stats]:
    """Windows without variation, or without any observation, are forecast as their location, without spread."""
    observed = ~torch.isnan(past_target)
    highest = torch.where(observed, past_target, -torch.inf).amax(dim=1)
    lowest = torch.where(observed, past_target, torch.inf).amin(dim=1)
    flat = (highest <= lowest) | ~observed.any(dim=1)
    return [Stats(loc, torch.where(flat.unsqueeze(-1), 0, scale)) for loc, scale in stats]
