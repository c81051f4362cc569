"""The validation score that picks the best state, and the weights of the scales that minimise it.

The score is the continuous ranked probability score (CRPS). For a mixture of S distributions with weights w, which sum
to 1, it is the quadratic form w' Q w with Q_ij = (E|X_i - y| + E|X_j - y| - E|X_i - X_j|) / 2 (Gneiting & Raftery 2007,
"Strictly Proper Scoring Rules, Prediction, and Estimation", section 4.2, for two distributions at a time). So one pass
over the validation data gives the best weights and their score.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import nnls
from torch import Tensor

from darts_msft.training.precise import Precise

LEFT = 1e-3  # share of all scales below which their weights say nothing about each other


def crps_products(samples: Float[Tensor, "S M *shape"], target: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape S S"]:
    """Q of every step, from M independent draws of each scale's distribution, in the target's units.

    Unbiased: pairs of a draw with itself don't count (Ferro 2014). With M = 1 the diagonal is the absolute error.
    """
    scales, count = samples.shape[:2]
    error = (samples - target).abs().mean(dim=1)
    within = [_pair_distances(draws) for draws in samples]
    products = target.new_empty(*target.shape, scales, scales)
    for i in range(scales):
        own = within[i] * 2 / (count * (count - 1)) if count > 1 else 0.0
        products[..., i, i] = error[i] - own / 2
        for j in range(i):
            pooled = _pair_distances(torch.cat([samples[i], samples[j]]))
            distance = (pooled - within[i] - within[j]) / count**2
            products[..., i, j] = products[..., j, i] = (error[i] + error[j] - distance) / 2
    return products


def _pair_distances(draws: Float[Tensor, "M *shape"]) -> Float[Tensor, "*shape"]:
    """Sum of |a - b| over all pairs of draws."""
    count = len(draws)
    rank = torch.arange(1 - count, count, 2, device=draws.device, dtype=draws.dtype)
    # on CPUs numpy takes a tenth of the time
    on_cpu = draws.device.type == "cpu"
    ordered = torch.from_numpy(np.sort(draws.numpy(), axis=0)) if on_cpu else draws.sort(dim=0).values
    return torch.tensordot(rank, ordered, dims=1)


def stack_weights(gram: Float[Tensor, "S S"]) -> Float[Tensor, "S"]:
    """Weights w >= 0 with sum 1 that minimise w' G w, where G is positive semi-definite up to noise."""
    values, vectors = np.linalg.eigh(gram.double().cpu().numpy())
    factor = np.sqrt(np.clip(values, 0, None) / max(np.abs(values).max(), 1e-300))[:, None] * vectors.T
    # w' G w + (sum(w) - 1)^2 has its least value along the same direction
    solution, _ = nnls(np.vstack([factor, np.ones(len(factor))]), np.eye(len(factor) + 1)[-1])
    return torch.as_tensor(solution / solution.sum()).to(gram)


def stack_members(forms: Float[Tensor, "V M M"], num_scales: int) -> tuple[Float[Tensor, "S"], Float[Tensor, "V"]]:
    """The scales' weights among themselves, and that of a further member, if there is one, for each variate.

    The scales' are the same for all variates. The further one's minimises, for each variate, its own form and the mean
    over variates in equal parts: there is less to learn from. By the mean over variates, both together are never worse
    than the scales alone. A variate without observations (NaN) has the mean's.
    """
    mean = forms[~forms.isnan().any(dim=(1, 2))].mean(dim=0)
    alone = stack_weights(mean[:num_scales, :num_scales])
    nothing = forms.new_zeros(len(forms))
    if len(mean) == num_scales:
        return alone, nothing
    scales = stack_weights(mean)[:num_scales]
    # where the further member has all the weight, windows that it can't tell are left with these
    scales = scales / scales.sum() if scales.sum() > LEFT else alone
    basis = forms.new_zeros(len(mean), 2)
    basis[:-1, 0], basis[-1, 1] = scales, 1
    pairs = basis.T @ torch.where(forms.isnan(), mean, forms) @ basis
    without, between, further = _corners((pairs + basis.T @ mean @ basis) / 2)
    bend = without - 2 * between + further
    share = torch.where(bend > 0, (without - between) / bend, (further < without).to(bend)).clamp(0, 1)
    without, between, further = _corners(pairs)
    together = (1 - share) ** 2 * without + 2 * share * (1 - share) * between + share**2 * further
    if together.mean() > alone @ mean[:num_scales, :num_scales] @ alone:  # the solution followed the draws' noise
        return alone, nothing
    return scales, share


def _corners(pairs: Float[Tensor, "V 2 2"]) -> tuple[Tensor, Tensor, Tensor]:
    return pairs[:, 0, 0], pairs[:, 0, 1], pairs[:, 1, 1]


class Scored:
    """The CRPS in units, for N series: a form in weights that all windows share, and at those that each window had.

    No tuple: torchmetrics would squeeze its tensors.
    """

    def __init__(
        self,
        forms: Float[Tensor, "N V S S"],
        values: Float[Tensor, "N V"],
        naives: Float[Tensor, "N V"],
        seen: Bool[Tensor, "N V"],
    ) -> None:
        self.forms, self.values, self.naives, self.seen = forms, values, naives, seen

    @property
    def form(self) -> Float[Tensor, "S S"]:
        """The mean over series and components."""
        return self.forms[self.seen].mean(dim=0)

    @property
    def by_component(self) -> Float[Tensor, "V S S"]:
        """The mean form over series; NaN where nothing was observed."""
        return torch.where(self.seen[..., None, None], self.forms, torch.nan).nanmean(dim=0)

    @property
    def value(self) -> Float[Tensor, ""]:
        """The mean over series and components."""
        return self.values[self.seen].mean()

    def at(self, weights: Float[Tensor, "V S"]) -> Float[Tensor, "N V"]:
        """By series and component, at weights that all windows share; NaN where nothing was observed."""
        return torch.einsum("nvst,vs,vt->nv", self.forms, weights, weights)


class ValidationScore(Precise):
    """The CRPS as a quadratic form: by series and component over observed steps, in units of each, averaged.

    So all series and components count alike. Beside it, the absolute error of the naive forecast in the same units,
    which is the CRPS of a point. Sums are kept in double precision and are added over processes. A forecast that is no
    mixture has S = 1: its CRPS alone.
    """

    full_state_update = False
    products: Tensor
    weighted: Tensor
    weight: Tensor
    naive: Tensor
    naive_weight: Tensor

    def __init__(self, unit: Float[Tensor, "N V"], num_scales: int, season: int | None = None) -> None:
        super().__init__()
        self.unit, self.season = unit.double(), season
        for name in ("weighted", "weight", "naive", "naive_weight"):
            self.add_state(name, torch.zeros_like(self.unit), dist_reduce_fx="sum")
        products = torch.zeros(*unit.shape, num_scales, num_scales, dtype=torch.float64)
        self.add_state("products", products, dist_reduce_fx="sum")

    def unit_of(self, series: Int[Tensor, "B"]) -> Float[Tensor, "B V"]:
        """The units of windows of these series."""
        return self.unit.to(series.device)[series]

    def update(
        self,
        products: Float[Tensor, "B H V S S"],
        weights: Float[Tensor, "B V S"],
        target: Float[Tensor, "B H V"],
        sample_weight: Float[Tensor, "B H _"] | None,
        series: Int[Tensor, "B"],
        naive: Float[Tensor, "B H V"],
    ) -> None:
        """Adds a batch with the members' weights in each window; steps whose target is NaN are left out.

        `naive` is that forecast; where it is NaN its error is not counted.
        """
        observed = ~torch.isnan(target)
        weight = observed.double() if sample_weight is None else torch.where(observed, sample_weight, 0).double()
        counted = torch.where(observed[..., None, None], products, 0).double()
        by_window = torch.einsum("bhvst,bhv->bvst", counted, weight)
        self.products.index_add_(0, series, by_window)
        self.weighted.index_add_(0, series, torch.einsum("bvst,bvs,bvt->bv", by_window, *2 * [weights.double()]))
        self.weight.index_add_(0, series, weight.sum(dim=1))
        error = (naive - target).abs().double()
        told = torch.where(error.isnan(), 0, weight)
        self.naive.index_add_(0, series, (error.nan_to_num(0.0) * told).sum(dim=1))
        self.naive_weight.index_add_(0, series, told.sum(dim=1))

    def compute(self) -> Scored:
        unit = self.unit.to(self.weight)
        total = self.weight * unit  # 0 / 0 where nothing was observed
        naives = self.naive / (self.naive_weight * unit)
        return Scored(self.products / total[..., None, None], self.weighted / total, naives, self.weight > 0)


class ErrorProducts(Precise):
    """Products of the scales' errors, for the weights of forecasts that are no mixture: points and quantiles.

    Errors come in units of their series. Summed over observed steps of each component, and divided by its members' mean
    square error.
    """

    full_state_update = False
    products: Tensor

    def __init__(self, num_components: int, num_scales: int) -> None:
        super().__init__()
        products = torch.zeros(num_components, num_scales, num_scales, dtype=torch.float64)
        self.add_state("products", products, dist_reduce_fx="sum")

    def update(self, errors: Float[Tensor, "B H V S"]) -> None:
        """Adds a batch; steps with a NaN are left out."""
        observed = ~torch.isnan(errors).any(dim=-1, keepdim=True)
        errors = torch.where(observed, errors, 0).double()
        self.products += torch.einsum("bhvs,bhvt->vst", errors, errors)

    def compute(self) -> Float[Tensor, "V S S"]:
        power = self.products.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp(min=1e-30)
        return self.products / power[:, None, None]
