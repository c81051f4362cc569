"""How a module's state is scored on the validation data, and the weights that are solved for there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import MetricCollection

from darts_msft.forecasting import ForecastingModule
from darts_msft.forms import Form
from darts_msft.likelihoods import ScaleMixture
from darts_msft.outputs import ScaleOutputs
from darts_msft.training.keep_best import BEFORE
from darts_msft.training.labels import FORM_LABELS, FORM_LEARNING
from darts_msft.training.naive import naive_forecast
from darts_msft.training.precise import PreciseMean, scored_precisely
from darts_msft.training.score import ErrorProducts, Scored, ValidationScore, crps_products, stack_members
from darts_msft.training.units import Units
from darts_msft.training.validation_passes import Pass
from darts_msft.training.validation_windows import series_of

VALIDATION_DRAWS = 32  # of each scale, and half of them where a batch has many values
MANY_VALUES = 8192
LEAST_TOLD = 0.5  # share of the validation windows that a linear member must tell to be weighed
VALIDATION_SEED = 0  # of the first batch: the same noise at every validation


class ScoredModule(ForecastingModule):
    """Its state is scored by validation steps, for `KeepBest`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.learning = self.mixing.learning  # what the scales' weights learn from; a fit may lack what that takes
        members = len(self.plan.scales) + (self.linear is not None)
        self.score_in(Units(np.ones((1, self.n_targets))))  # until a fit
        self.error_products = ErrorProducts(self.n_targets, members)
        self.told = PreciseMean()  # of the validation windows, those that the linear member can tell
        self.seasonal = PreciseMean()  # of their steps, those where the naive forecast repeats a season
        self.observed = PreciseMean()  # of the values to forecast, those that are there
        self.observer: Callable[[TorchTrainingBatch, int], None] | None = None  # takes a validation pass for its own
        self.passed: Pass | None = None  # of a fit: the present validation pass

    @property
    def start_label(self) -> str:
        """What the present state is called, as one that a fit starts from or compares with."""
        if self.kind is Form.TRAINED:
            return BEFORE
        if not self.method.pretrained:
            return "untrained"
        return FORM_LABELS[self.kind] if self._forecasts_zero_shot() else "untrained head"

    @property
    def passes_for(self) -> str:
        """What a pass over the validation data is for, in a progress bar."""
        return "sample paths" if self.observer else f"scoring {self.start_label.removeprefix('zero-shot, ')}"

    @property
    def scale_forms(self) -> tuple[Form, ...]:
        """How the pretrained model forecasts otherwise: the passes that a fit makes to compare with it."""
        if self.kind is Form.TRAINED or not self.can_forecast_untrained:
            return ()
        if self.can_weigh_scales and self.is_mixture:
            return (Form.BACKCASTS,)  # the others are scored in the same pass
        forms = [Form.BACKCASTS, Form.STACKED] if self.can_weigh_scales else []
        if self.has_linear:
            forms.append(Form.WITH_LINEAR)
        return tuple(forms)

    @property
    def sees_all_at_once(self) -> bool:
        """Whether what is scored now is all that is compared, with the linear member: there is one scale alone."""
        return self.kind is Form.ONE_SCALE and self.plan.num_scales == 0 and self.has_linear and self.is_mixture

    def start_from_one_scale(self) -> None:
        """What was not trained forecasts at one scale: the first state that a fit compares with."""
        self.told.reset()
        self.seasonal.reset()
        self.observed.reset()
        if self.kind is not Form.TRAINED:
            self.take(Form.ONE_SCALE)

    @property
    def stacks(self) -> bool:
        """Whether the members' weights are solved for on the validation data."""
        solved = self.kind in (Form.STACKED, Form.WITH_LINEAR)
        wanted = self.learning == "stacking" if self.kind is Form.TRAINED else solved
        return wanted and (self.plan.num_scales > 0 or self.mixes_linear)

    @property
    def solves_on_errors(self) -> bool:
        """Whether they are solved for on the errors of the members' medians, before the mixed forecast is scored."""
        return self.stacks and not self.is_mixture

    def learned_by(self, solved: bool) -> tuple[str | None, str | None]:
        """What the scales' weights learned from, and were asked to; None where there is one scale."""
        if self.plan.num_scales == 0 and (self.linear is None or self.linear.absent):
            return None, None
        if self.kind is not Form.TRAINED:
            return FORM_LEARNING[self.kind], self.mixing.learning
        return "uniform" if self.stacks and not solved else self.learning, self.mixing.learning

    def reweighed(self, outputs: ScaleOutputs) -> ScaleOutputs:
        """The present form's outputs, of those of another that runs the same scales; backcasts' weights stay."""
        count, scales = outputs.weights.shape
        shared = self.scale_weights()[:scales].expand(count, -1)
        weights = outputs.weights if self.kind is Form.BACKCASTS else shared
        return outputs._replace(weights=weights, linear=outputs.linear if self.mixes_linear else None)

    def begin_pass(self) -> None:
        """A validation pass begins, whose forecasts are kept."""
        self.score.reset()
        self.passed = Pass()

    def end_pass(self) -> Pass | None:
        """What was kept of it."""
        self.score.reset()
        passed, self.passed = self.passed, None
        return passed

    def score_in(self, units: Units) -> None:
        """Validation scores are in these units from now on."""
        self.units = units
        members = len(self.plan.scales) + (self.linear is not None) if self.is_mixture else 1
        self.score = ValidationScore(torch.as_tensor(units.values), members, units.season).to(self.device)

    def validation_step(self, val_batch: TorchTrainingBatch, batch_idx: int) -> Tensor:
        """Adds a batch to `score`, and returns its CRPS at the present weights, in the series' units."""
        val_batch = scored_precisely(val_batch)
        target = val_batch.future_target
        if self.observer is not None:
            self.observer(val_batch, batch_idx)
            return target.new_zeros(())
        outputs = self.forecast(self.window(val_batch))
        forecast = self.mix(outputs) if outputs.finite else None
        if self.sees_all_at_once or (self.kind is Form.BACKCASTS and self.has_linear):  # not mixed, but scored
            outputs = outputs._replace(linear=self.linear_forecast(self.window(val_batch)))
        if self.passed is not None:
            self.passed.add(val_batch, outputs)
        products = self._score_products(outputs, forecast, val_batch, VALIDATION_SEED + batch_idx)
        weights = products.new_ones(len(target), target.shape[-1], 1)
        if self.is_mixture:
            missing = products.shape[-1] - outputs.weights.shape[-1]
            weights = nn.functional.pad(outputs.weights.detach(), (0, missing)).to(products)
            weights = weights[:, None].expand(-1, target.shape[-1], -1)
            if self.mixes_linear:  # of all windows: what stands in for it has its weight
                share = self.scale_weights.linear.to(products).expand(len(target), -1).unsqueeze(-1)
                weights = torch.cat([weights[..., :-1] * (1 - share), share], dim=-1)
        self.observed.update((~target.isnan()).double())
        naive = naive_forecast(
            val_batch.past_target, self.score.season, self.output_chunk_length, self.output_chunk_shift
        )
        points = naive.points
        self.seasonal.update(naive.seasonal[~(target.isnan() | points.isnan())].double())
        self.score.update(products, weights, target, val_batch.sample_weight, series_of(val_batch), points)
        if len(self.val_metrics) and forecast is not None:
            self._measure(self.val_metrics, forecast, val_batch)
        return torch.nanmean(torch.einsum("bhvst,bvs,bvt->bhv", products, weights, weights))

    def _measure(
        self, metrics: MetricCollection, forecast: Float[Tensor, "B H V Z"], batch: TorchTrainingBatch
    ) -> None:
        """Adds a batch to the user's metrics, as Darts does: one draw of the forecast, in two dimensions."""
        values = self._sample(forecast, 1, batch.past_target)[0]
        metrics.update(*(rearrange(part, "b h v -> (b h) v").contiguous() for part in (values, batch.future_target)))

    @torch.no_grad()
    def _score_products(
        self,
        outputs: ScaleOutputs,
        forecast: Float[Tensor, "B H V Z"] | None,
        batch: TorchTrainingBatch,
        seed: int,
    ) -> Float[Tensor, "B H V M M"]:
        """The CRPS as a quadratic form in the members' weights; M = 1 where the forecast is no mixture.

        NaN where the forecast broke down (None); 0 for members that are not run, which have no weight.
        """
        target, size = batch.future_target, self.score.products.shape[-1]
        products = target.new_zeros(*target.shape, size, size)
        if forecast is None:
            return products.fill_(torch.nan)
        count = VALIDATION_DRAWS if target.numel() <= MANY_VALUES else VALIDATION_DRAWS // 2
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            if isinstance(self.likelihood, ScaleMixture) and self.is_mixture:
                run = list(range(1 if self.mixing.only_first else len(outputs.params)))
                draws = [self.likelihood.sample_scale(forecast, scale, count) for scale in run]
                if outputs.linear is not None and (linear := self.linear_part(outputs)) is not None:
                    self.told.update(outputs.linear.tells)
                    # scale 0 stands in for it in windows that it can't tell
                    stands_in = self.likelihood.sample_scale(forecast, 0, count)
                    draws.append(linear.sample(count).where(outputs.linear.tells[:, None], stands_in))
                    run.append(size - 1)
            else:
                run, draws = [0], [self._sample(forecast, count, batch.past_target)]
        index = torch.tensor(run, device=target.device)
        products[..., index[:, None], index] = crps_products(self.bounds(torch.stack(draws), batch.past_target), target)
        return products

    def settle_scores(self) -> Iterator[tuple[Form, float]]:
        """The score of the validation steps since the last reset; where the weights are stacked, at the best ones.

        While a score is yielded the module is as scored, by the form that comes with it, and `by_series` has the score
        of each series and component, `naives` the naive forecast's. The pass with the weights of backcasts scores the
        stacked scales too, without and with the linear member: they are the same forecasts. So does that at one scale
        where there are no others.
        """
        scored = self.score.compute()
        self.naives, self.by_series = scored.naives.cpu(), scored.values.cpu()
        whole = bool(scored.seen.any()) and bool(scored.forms[scored.seen].isfinite().all())
        solves = self.is_mixture and whole and not self.trainer.sanity_checking
        if not (solves and self.stacks):
            yield self.kind, float(scored.value)
        if solves and self.kind is Form.BACKCASTS:
            self.take(Form.STACKED)
            if self.has_linear:
                yield self.kind, self._stack(scored)
                self.take(Form.WITH_LINEAR)
        elif solves and self.sees_all_at_once:
            self.take(Form.WITH_LINEAR)
        if solves and self.stacks:
            yield self.kind, self._stack(scored)

    def _stack(self, scored: Scored) -> float:
        """Sets the best weights, and returns their score."""
        self._weigh(scored.by_component)
        weights = self.scale_weights.by_variate().detach().to(scored.forms)
        weights = nn.functional.pad(weights, (0, scored.forms.shape[-1] - weights.shape[-1]))
        self.by_series = scored.at(weights).cpu()
        return float(self.by_series[scored.seen.cpu()].mean())

    def _weigh(self, forms: Float[Tensor, "V M M"]) -> None:
        """Sets the weights of the members that run to those with the lowest quadratic forms."""
        scales, size = len(self.plan.scales), self.weighed
        self.scale_weights.set(*stack_members(forms[:, :size, :size], scales))

    @property
    def weighed(self) -> int:
        """How many members are weighed: the scales, and a linear member that tells enough windows."""
        return len(self.plan.scales) + (self.mixes_linear and float(self.told.compute()) >= LEAST_TOLD)

    @torch.no_grad()
    def add_errors(self, batch: TorchTrainingBatch, batch_idx: int) -> None:
        """Adds a validation batch to `error_products`; NaN where the forecast broke down."""
        batch = scored_precisely(batch)
        outputs, target = self.forecast(self.window(batch)), batch.future_target.unsqueeze(-1)
        size = self.error_products.products.shape[-1]
        errors = target.new_full((*target.shape[:-1], size), torch.nan)
        if outputs.finite:
            medians = self._medians(outputs)
            own = medians[..., 0]
            if outputs.linear is not None:
                self.told.update(outputs.linear.tells)
                own = outputs.linear.loc.where(outputs.linear.tells[:, None], own)
            points = torch.cat([medians, own.unsqueeze(-1)], dim=-1)[..., :size].movedim(-1, 0)
            errors = self.bounds(points, batch.past_target).movedim(0, -1) - target
            errors = errors / self.score.unit_of(series_of(batch))[:, None, :, None].to(errors)
        self.error_products.update(errors)

    def solve_on_errors(self) -> None:
        """Sets the members' weights by `error_products`."""
        forms = self.error_products.compute()
        if bool(forms.any()) and bool(forms.isfinite().all()):
            self._weigh(forms)
