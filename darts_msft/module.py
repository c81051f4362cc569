"""The Lightning module: what trains, and the training step."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.forms import Form
from darts_msft.options import LearningRates
from darts_msft.outputs import ScaleOutputs
from darts_msft.scales.mixing import upsample_all
from darts_msft.scoring import ScoredModule
from darts_msft.training.loss import combine, mixed_loss, scale_losses
from darts_msft.training.optimisers import make_optimisers
from darts_msft.training.range_test import Divergence

logger = logging.getLogger("darts_msft")


class MSFTModule(ScoredModule):
    """Trains what the method declares."""

    def __init__(self, *, learning_rates: dict[str, Any], enable_finetuning: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Darts saved them, but Lightning doesn't see them all where a checker of types wraps the constructors
        self.save_hyperparameters(ignore=["loss_fn", "torch_metrics"])
        self.rates = LearningRates.from_dict(learning_rates)
        self.diverged = self.frozen = False
        self.tuning: Divergence | None = None  # while Darts' `lr_find` or `scale_batch_size` runs
        self.apply_trainable()

    # ---------------------------------------------------------------- what trains

    def apply_trainable(self) -> None:
        """Freezes everything but what the method declares."""
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad = self.declares(name)
        learns = self.method.trains and self.learning != "uniform"
        self.scale_weights.omega.requires_grad = learns and self.plan.num_scales > 0

    def declares(self, name: str) -> bool:
        """Whether the method trains a parameter of the backbone, by its name there."""
        group = self.method.group_of(name)
        return group is not None and not (group == "head" and self.new_heads is not None)

    def freeze(self) -> None:
        """Nothing trains, though the method would."""
        self.frozen = True
        self.requires_grad_(False)

    def learned_of_backbone(self, backbone: nn.Module) -> set[str]:
        """Names, in the backbone, of what trains there, or would but for `freeze`."""
        return {
            name
            for name, parameter in backbone.named_parameters()
            if (self.declares(name) if self.frozen else parameter.requires_grad)
        }

    def own_names(self) -> frozenset[str]:
        """Names in `state_dict` of what the pretrained model lacks: what trains, and all outside the backbone."""
        learned = {f"backbone.{name}" for name in self.learned_of_backbone(self.backbone)}
        return frozenset(learned | {name for name in self.state_dict() if not name.startswith("backbone.")})

    def to_dtype(self, dtype: torch.dtype) -> None:
        """As Darts', which doesn't know the type that it computes series of float16 in."""
        if dtype == torch.bfloat16:
            self.to(dtype)
        else:
            super().to_dtype(dtype)

    def train(self, mode: bool = True) -> MSFTModule:
        super().train(mode)
        self.backbone.eval()  # no dropout in pretrained layers, most of which are frozen
        return self

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Trainable parameters by learning-rate group: "pretrained", "new", "head", "omega", "lora"."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in self.rates.to_dict()}
        owners = {"new_heads": "head", "scale_weights": "omega"}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                owner, _, rest = name.partition(".")
                if owner == "method":
                    group = self.method.own_group(rest)
                else:
                    group = owners.get(owner) or self.method.group_of(rest) or "pretrained"
                groups[group].append((name, parameter))
        return groups

    def trained_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """`parameter_groups` without the scales' weights where those are solved for, not trained."""
        groups = self.parameter_groups()
        return {name: members for name, members in groups.items() if not (name == "omega" and self.stacks)}

    def configure_optimizers(self) -> Any:
        return make_optimisers(self)

    # ---------------------------------------------------------------- training

    @contextmanager
    def learning_weights(self, validates: bool) -> Iterator[None]:
        """While a fit runs: without validation data, weights that were to be stacked learn from the mixed loss."""
        self.diverged = False
        if self.learning == "stacking" and not validates:
            self.learning = "mixed_loss"  # of the scales among themselves: a linear member keeps its share
        try:
            yield
        finally:
            self.learning = self.mixing.learning

    def tune(self, divergence: Divergence | None, validates: bool = True) -> None:
        """Trains as in a fit with or without validation data, under Darts' tuner, until told None."""
        self.tuning, self.learning, self.diverged = divergence, self.mixing.learning, False
        if divergence is not None and self.learning == "stacking" and not validates:
            self.learning = "mixed_loss"

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if not self._forecasts_zero_shot():
            self.begin_training()

    def on_train_start(self) -> None:
        self.method.begin(self.trainer.estimated_stepping_batches)  # may refuse
        self.begin_training()
        self.steps_seen = self.global_step

    def begin_training(self) -> None:
        if self.kind is not Form.TRAINED:
            share = self.scale_weights.linear.clone()
            self.scale_weights.start()
            if self.learning != self.mixing.learning:
                self.scale_weights.linear.copy_(share)
            self.take(Form.TRAINED)

    @torch.no_grad()
    def train_on_from(self, tensors: Mapping[str, Tensor], was_trained: bool) -> None:
        """What trains takes the values of `tensors`; the scales' weights start anew where those are of no training."""
        for members in self.trained_groups().values():
            for name, parameter in members:
                parameter.copy_(tensors[name])
        if not was_trained:
            self.scale_weights.start()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tells the method of a step: Lightning has stepped by now, and clears gradients with the next batch only."""
        stepped, self.steps_seen = self.global_step > self.steps_seen, self.global_step
        if stepped and not self.diverged:
            self.method.after_step(self.global_step)
        if self.tuning is not None and self.tuning.update(float(outputs["loss"])):
            self.trainer.should_stop = True

    def training_step(self, train_batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        outputs = self.forecast_scales(self.window(train_batch))
        if not outputs.finite:  # a loss that moves nothing
            logger.warning("training stopped at step %d: forecasts are not finite; lower the rates", self.global_step)
            self.trainer.should_stop = self.diverged = True
            return torch.zeros((), device=self.device, requires_grad=True)
        loss = self.training_loss(train_batch, outputs)
        self.log("train_loss", loss, batch_size=len(train_batch.past_target), prog_bar=True, sync_dist=True)
        if len(self.train_metrics):
            self._measure(self.train_metrics, self.mix(outputs), train_batch)
        return loss

    def training_loss(self, batch: TorchTrainingBatch, outputs: ScaleOutputs) -> Float[Tensor, ""]:
        """The scales' losses joined by `combine`, the mixed forecast's own where omega learns from it, and a penalty.

        The penalty is the method's.
        """
        target, sample_weight = self._labels(batch.future_target), None
        if batch.sample_weight is not None:
            sample_weight = self._labels(batch.sample_weight.expand_as(batch.future_target))
        loss_fn = self.train_criterion
        losses = scale_losses(outputs.family, self.plan, outputs.params, outputs.stats, target, sample_weight, loss_fn)
        weights = self.scale_weights()
        loss = combine(losses, weights, self.learning)
        if self.learning == "mixed_loss" and len(losses) > 1:
            blocks = [part.detach() for part in outputs.params]
            params = upsample_all(self.plan, blocks, self.mixing.upsampling).transpose(1, 2)
            loss = loss + mixed_loss(outputs.family, params, outputs.stats, weights, target, sample_weight, loss_fn)
        elif self.learning == "stacking":
            loss = loss + 0 * weights.sum()  # processes that share a fit want a gradient of every parameter
        return loss + self.method.penalty()

    def _labels(self, target: Float[Tensor, "B H V"]) -> Float[Tensor, "B V H2"]:
        """(B, V, H) over the whole horizon; the gap of `output_chunk_shift` is unknown."""
        return nn.functional.pad(rearrange(target, "b h v -> b v h"), (self.output_chunk_shift, 0), value=torch.nan)
