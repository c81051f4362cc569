"""What the validation windows say of the dependence of steps and components, by the state that a fit kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from darts_msft.dependence.copula import Sums, estimate
from darts_msft.outputs import ScaleOutputs
from darts_msft.training.validation_passes import Pass

logger = logging.getLogger("darts_msft")

FARTHEST = 3.0  # normal score: a truth further out counts as this far
RANKED_DRAWS = 128  # where the forecast has no distribution function
SEED = 0  # of the first batch

Act = Callable[[Any, int], Any]


class ScoreSums(Metric):
    """Sums over all windows of the products of normal scores; added over processes."""

    full_state_update = False
    steps: Tensor
    step_counts: Tensor
    components: Tensor
    component_counts: Tensor

    def __init__(self, steps: int, components: int) -> None:
        super().__init__()
        for name, size in zip(Sums._fields, 2 * [steps] + 2 * [components], strict=True):
            self.add_state(name, torch.zeros(size, size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, scores: Float[Tensor, "B H V"]) -> None:
        """Adds a batch; NaN: not known."""
        known = scores.isfinite().double()
        scores = scores.double().nan_to_num(0.0)
        self.steps += torch.einsum("bhv,bkv->hk", scores, scores)
        self.step_counts += torch.einsum("bhv,bkv->hk", known, known)
        self.components += torch.einsum("bhv,bhw->vw", scores, scores)
        self.component_counts += torch.einsum("bhv,bhw->vw", known, known)

    def compute(self) -> Sums:
        return Sums(*(getattr(self, name).cpu().numpy() for name in Sums._fields))


def learn_paths(module: Any, kept: Pass | None, each_batch: Callable[[Act], Any], windows: Callable[[], float]) -> bool:
    """Estimates the dependence of the module's sample paths; says whether it could.

    From the pass that scored the module's state, if it was `kept`; else `each_batch(act)` calls `act(batch, index)` on
    all validation batches. `windows()` then says how many there are that don't overlap.
    """
    if not module.paths.learns or module.likelihood is None:
        return False
    sums = ScoreSums(module.output_chunk_length, module.n_targets)

    def add(batch: Any, index: int, outputs: ScaleOutputs | None = None) -> None:
        outputs = module.forecast(module.window(batch)) if outputs is None else outputs
        scores = normal_scores(module, batch, outputs, SEED + index)
        sums.to(scores.device).update(scores)  # only during a pass is the module where its batches are

    batches = [] if kept is None else kept.batches
    for index, (batch, outputs) in enumerate(batches):
        add(batch, index, module.reweighed(outputs))
    if not batches:
        each_batch(add)
    found = estimate(sums.compute(), windows())
    if found is None:
        logger.warning("sample paths keep the dependence they had: no validation window has a finite forecast")
        return False
    module.paths.take(found)
    return True


@torch.no_grad()
def normal_scores(module: Any, batch: Any, outputs: ScaleOutputs, seed: int) -> Float[Tensor, "B H V"]:
    """Of the truth, by the forecast's distribution function; a random place in its jump where it jumps there.

    NaN where the truth is missing.
    """
    past, missing = batch.past_target, batch.future_target.isnan()
    target = batch.future_target.nan_to_num(0.0)
    forecast = module.mix(outputs)
    devices = [target.device] if target.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if module.is_mixture:
            lower, upper = (module.bounds(torch.full_like(target, end), past) for end in (-torch.inf, torch.inf))
            before = torch.nextafter(target, target.new_tensor(-torch.inf))
            below = module.likelihood.cdf(forecast, before).where(target > lower, 0)
            upto = module.likelihood.cdf(forecast, target).where(target < upper, 1)
        else:
            draws = module._sample(forecast, RANKED_DRAWS, past)
            below = (draws < target).sum(dim=0) / (RANKED_DRAWS + 1)
            upto = ((draws <= target).sum(dim=0) + 1) / (RANKED_DRAWS + 1)
        share = below + (upto - below) * torch.rand_like(target)
    scores = torch.special.ndtri(share.double()).clamp(-FARTHEST, FARTHEST)
    return scores.where(~missing, torch.nan)
