"""AdaLoRA through the `peft` library (Zhang et al. 2023, arXiv 2303.10512)."""

from __future__ import annotations

from math import inf
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from darts_msft.backbones.base import Backbone, Spec
from darts_msft.methods.low_rank import ADAPTER, LowRank, peft
from darts_msft.options import LearningRates, MethodConfig
from darts_msft.scales.pyramid import ScalePlan

WARM_UP, FINAL = 0.1, 0.3  # shares of the steps before ranks fall, and after they have fallen
ALLOCATIONS = 100  # about so many times a fit, the least important directions are masked
ORTHOGONALITY = 0.1  # the paper's gamma, of its 0.1, 0.3 and 0.5


class FiniteAllocator(peft.tuners.adalora.RankAllocator):
    """peft's, but a step whose gradients overflowed (mixed precision skips it) leaves the importance as it was."""

    def update_ipt(self, model: nn.Module) -> None:
        gradients = [value.grad for name, value in model.named_parameters() if ".lora_" in name]
        if all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None):
            super().update_ipt(model)

    def mask_to_budget(self, model: nn.Module, budget: int) -> dict[str, list[bool]]:
        """Which directions stay: all of them while nothing is known of their importance."""
        if self.exp_avg_ipt:
            pattern: dict[str, list[bool]] = super().mask_to_budget(model, budget)
            return pattern
        return {name: [True] * len(value) for name, value in model.named_parameters() if ".lora_E." in name}


class AdaLoRA(LowRank):
    """W x + (alpha / r0) B diag(e) A x, whose e are masked down from 1.5 rank a linear to `lora_rank` on average.

    Which ones stay is decided by importance over all linears, along a cubic schedule between two phases at constant
    rank (paper, section 3.3). e starts at zero. A and B are held near orthogonal rows and columns by a penalty.
    """

    rates = LearningRates(pretrained=1e-2, new=1e-2, head=1e-3, omega=1e-2, lora=1e-2)
    undoes = False  # ranks that fell by plan would come back
    _IMPORTANCE: ClassVar = ("ipt", "exp_avg_ipt", "exp_avg_unc")

    def __init__(self, spec: Spec, plan: ScalePlan, config: MethodConfig) -> None:
        super().__init__(spec, plan, config)
        if config.lora_alpha == 0:
            raise ValueError("lora_alpha=0 is not allowed with method='adalora': peft reads it as the rank; raise it")

    def make_tuner(self, backbone: Backbone) -> peft.AdaLoraModel:
        rank = self.config.lora_rank
        config = peft.AdaLoraConfig(
            target_r=rank,
            init_r=-(-3 * rank // 2),
            lora_alpha=self.config.lora_alpha,  # type: ignore[arg-type]
            target_modules=[target.suffix for target in self.spec.adapter_targets.values()],
            lora_dropout=0.0,
            total_step=1,  # until `begin` knows
        )
        tuner = peft.AdaLoraModel(backbone, config, ADAPTER)
        tuner.rankallocator = FiniteAllocator(tuner.model, config, ADAPTER)
        return tuner

    @property
    def _schedule(self) -> peft.AdaLoraConfig:
        return cast(peft.AdaLoraConfig, self.tuner.peft_config[ADAPTER])

    def begin(self, steps: float) -> None:
        if not 2 <= steps < inf:
            raise ValueError(
                f"method='adalora' plans its ranks over the optimiser's steps, but this fit has {steps:g}; let it have "
                "at least 2 and an end (n_epochs, or max_steps of the trainer), or take method='lora'"
            )
        total = int(steps)
        self._schedule.total_step = total
        self._schedule.tinit, self._schedule.tfinal = int(WARM_UP * total), int(FINAL * total)
        self._schedule.deltaT = max(1, total // ALLOCATIONS)
        devices = {name: value.device for name, value in self.tuner.model.named_parameters()}
        for averages in self._importance().values():  # a checkpoint's are on the CPU
            averages.update({name: value.to(devices[name]) for name, value in averages.items()})

    def after_step(self, step: int) -> None:
        if step == 1:  # nothing is left of an earlier fit
            self.tuner.rankallocator.reset_ipt()
            self._schedule.rank_pattern = None
        self.tuner.update_and_allocate(step)

    def penalty(self) -> Float[Tensor, ""]:
        """gamma times the mean over all A and B of |A A' - I| and |B' B - I| (Frobenius norms)."""
        layers: list[Any] = [layer for _, _, layer in self._layers]
        factors: list[Tensor] = [layer.lora_A[ADAPTER] for layer in layers]
        factors += [layer.lora_B[ADAPTER].T for layer in layers]
        distances = [torch.linalg.matrix_norm(rows @ rows.T - torch.eye(len(rows)).to(rows)) for rows in factors]
        return ORTHOGONALITY * torch.stack(distances).mean()

    def _importance(self) -> dict[str, dict[str, Tensor]]:
        return {name: getattr(self.tuner.rankallocator, name) for name in self._IMPORTANCE}

    def training_state(self) -> dict[str, Any]:
        importance = {name: dict(averages) for name, averages in self._importance().items()}
        return {**importance, "rank_pattern": self._schedule.rank_pattern}

    def load_training_state(self, state: dict[str, Any]) -> None:
        for name in self._IMPORTANCE:
            setattr(self.tuner.rankallocator, name, dict(state[name]))
        self._schedule.rank_pattern = state["rank_pattern"]
