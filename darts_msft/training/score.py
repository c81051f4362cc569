"""The validation score that picks the best state: CRPS in units of each component's standard deviation."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class ValidationScore(Metric):
    """Mean CRPS of each component over observed steps, divided by the component's standard deviation, averaged.

    Dividing makes components of different units count alike. Sums are kept in double precision and are added
    over processes. `products` (V, S, S) sums the scales' error products, for stacking.
    """

    full_state_update = False
    crps: Tensor
    weight: Tensor
    count: Tensor
    total: Tensor
    square: Tensor
    products: Tensor

    def __init__(self, num_components: int, num_scales: int) -> None:
        super().__init__()
        for name in ("crps", "weight", "count", "total", "square"):
            self.add_state(name, torch.zeros(num_components, dtype=torch.float64), dist_reduce_fx="sum")
        products = torch.zeros(num_components, num_scales, num_scales, dtype=torch.float64)
        self.add_state("products", products, dist_reduce_fx="sum")

    def update(
        self,
        crps: Float[Tensor, "B H V"],
        target: Float[Tensor, "B H V"],
        sample_weight: Float[Tensor, "B H _"] | None,
    ) -> None:
        """Adds a batch; steps whose target is NaN are left out."""
        observed = ~torch.isnan(target)
        weight = observed.double() if sample_weight is None else torch.where(observed, sample_weight, 0).double()
        value = torch.where(observed, target, 0).double()
        self.crps += (torch.where(observed, crps, 0).double() * weight).sum(dim=(0, 1))
        self.weight += weight.sum(dim=(0, 1))
        self.count += observed.sum(dim=(0, 1))
        self.total += value.sum(dim=(0, 1))
        self.square += value.square().sum(dim=(0, 1))

    def update_products(self, errors: Float[Tensor, "B H V S"]) -> None:
        """Adds the products of the scales' errors; steps with a NaN are left out."""
        observed = ~torch.isnan(errors).any(dim=-1, keepdim=True)
        errors = torch.where(observed, errors, 0).double()
        self.products += torch.einsum("bhvs,bhvt->vst", errors, errors)

    def gram(self) -> Float[Tensor, "S S"]:
        """Error products summed over components, each divided by its scales' mean square error."""
        power = self.products.diagonal(dim1=-2, dim2=-1).mean(dim=-1).clamp(min=1e-30)
        return (self.products / power[:, None, None]).sum(dim=0)

    def compute(self) -> Float[Tensor, ""]:
        seen = self.count > 0
        mean = self.total[seen] / self.count[seen]
        deviation = (self.square[seen] / self.count[seen] - mean.square()).clamp(min=0).sqrt()
        deviation = torch.where(deviation > 1e-6 * mean.abs(), deviation, 1.0)
        return (self.crps[seen] / self.weight[seen].clamp(min=1e-12) / deviation).mean()
