"""MOIRAI's forecast distribution as a `Family`: a flat parameter vector, its density, draws and quantiles.

Reference: `uni2ts/distribution/` (Apache-2.0). Components and their parameter maps are uni2ts' own objects.
The density differs in one thing: where a component's support excludes a value, uni2ts draws a random
stand-in to keep gradients finite; here the stand-in is a constant, so the loss needs no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, LogNormal, Normal, StudentT
from uni2ts.distribution import DistributionOutput, MixtureOutput
from uni2ts.distribution.negative_binomial import NegativeBinomial

from darts_msft.backbones.base import STAND_IN, Family

_MAX_STEPS = 90  # every third step halves the bracket at least
_TOLERANCE = 1e-6  # of the share below, and of the value


class MoiraiFamily(Family):
    """Mixture over `components`; the columns are each component's parameters, then one logit a component.

    A lone component (no mixture) has no logits.
    """

    def __init__(self, output: DistributionOutput) -> None:
        self.is_mixture = isinstance(output, MixtureOutput)
        self.components: list[DistributionOutput] = list(output.components) if self.is_mixture else [output]
        names: list[str] = []
        self.columns: list[slice] = []  # of each component's parameters
        for index, component in enumerate(self.components):
            self.columns.append(slice(len(names), len(names) + len(component.args_dim)))
            label = f"{type(component).__name__.removesuffix('Output').lower()}{index}"
            names += [f"{label}_{argument}" for argument in component.args_dim]
        if self.is_mixture:
            names += [f"logit{index}" for index in range(len(self.components))]
        self.names = tuple(names)

    def project(
        self, param_proj: nn.Module, tokens: Float[Tensor, "*shape D"], patch_index: int, patch_size: int
    ) -> Float[Tensor, "*shape P R"]:
        """Applies uni2ts' parameter projection for one patch size only, then the parameters' domain maps."""
        weights, biases, maps = [], [], []
        for linear, dim, domain_map in self._leaves(param_proj.proj):
            rows = _rows(linear, dim, patch_size, tokens.device)
            mask = linear.mask[patch_index, rows]
            weights.append(linear.weight[patch_index, rows] * mask)
            biases.append(linear.bias[patch_index, rows])
            maps.append((dim, domain_map))
        raw = F.linear(tokens, torch.cat(weights), torch.cat(biases))
        sizes = [dim * patch_size for dim, _ in maps]
        columns = []
        for part, (dim, domain_map) in zip(raw.split(sizes, dim=-1), maps, strict=True):
            mapped = domain_map(part.unflatten(-1, (dim, patch_size)).transpose(-1, -2))
            columns.append(mapped if dim > 1 or mapped.ndim == raw.ndim + 1 else mapped.unsqueeze(-1))
        return torch.cat(columns, dim=-1)

    def _leaves(self, proj: Any) -> Iterator[tuple[Any, int, Callable[[Tensor], Tensor]]]:
        modules = proj["components"] if self.is_mixture else [proj]
        for component, module in zip(self.components, modules, strict=True):
            for argument, dim in component.args_dim.items():
                yield module[argument], dim, component.domain_map[argument]
        if self.is_mixture:
            yield proj["weights_logits"], len(self.components), lambda logits: logits

    def _split(self, params: Float[Tensor, "*shape R"]) -> tuple[list[Distribution], Float[Tensor, "*shape K"]]:
        """The components' distributions and the log of the mixture's weights."""
        distributions = [self._component(params[..., columns], index) for index, columns in enumerate(self.columns)]
        return distributions, self._logits(params).log_softmax(dim=-1)

    def _component(self, arguments: Float[Tensor, "*shape _"], index: int) -> Distribution:
        """Component `index` from its own columns of the parameters."""
        component = self.components[index]
        named = {name: arguments[..., offset] for offset, name in enumerate(component.args_dim)}
        return component._distribution(named, validate_args=False)

    def _logits(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape K"]:
        return params[..., self.columns[-1].stop :] if self.is_mixture else params.new_zeros((*params.shape[:-1], 1))

    def log_prob(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        distributions, log_weights = self._split(params)
        terms = []
        for distribution in distributions:
            inside = distribution.support.check(value)  # type: ignore[union-attr]
            density = distribution.log_prob(torch.where(inside, value, STAND_IN))
            terms.append(density.masked_fill(~inside, -torch.inf))
        return (torch.stack(terms, dim=-1) + log_weights).logsumexp(dim=-1)

    @torch.no_grad()
    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        """Draws the component first and then only that component's values."""
        flat = params.reshape(-1, params.shape[-1])
        below = self._logits(flat).softmax(dim=-1).cumsum(dim=-1)[:, :-1]
        chosen = (torch.rand_like(flat[:, :1]) >= below).sum(dim=-1)
        result = torch.empty_like(flat[:, 0])
        for index, columns in enumerate(self.columns):
            rows = (chosen == index).nonzero().squeeze(-1)
            if rows.numel():
                result[rows] = self._component(flat[rows, columns], index).sample().to(result.dtype)
        return result.reshape(params.shape[:-1])

    @torch.no_grad()
    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        """Root of the mixture's distribution function minus `level`: Newton's steps inside a shrinking bracket."""
        flat = params.detach().cpu().double().reshape(-1, params.shape[-1])
        distributions, log_weights = self._split(flat)
        lows, highs = zip(*(_bracket(distribution, level) for distribution in distributions), strict=True)
        low, high = np.minimum.reduce(lows), np.maximum.reduce(highs)
        middles = np.add(lows, highs) / 2
        value = np.einsum("kn,nk->n", middles, log_weights.exp().numpy())  # near, where components differ little
        active = np.arange(len(low))
        for step in range(_MAX_STEPS):
            active = active[high[active] - low[active] > _TOLERANCE * (1 + np.abs(high[active]))]
            if not active.size:
                break
            point = value[active]
            share, density = self._cdf_and_density(flat[torch.from_numpy(active)], point)
            below = share < level
            low[active], high[active] = np.where(below, point, low[active]), np.where(below, high[active], point)
            middle = (low[active] + high[active]) / 2
            newton = point - (share - level) / np.maximum(density, 1e-300)
            inside = (newton > low[active]) & (newton < high[active]) & (step % 3 < 2)
            value[active] = np.where(inside, newton, middle)
            done = np.abs(share - level) < _TOLERANCE
            low[active[done]] = high[active[done]] = point[done]
        return torch.as_tensor(high).reshape(params.shape[:-1]).to(params)

    def _cdf_and_density(self, params: Float[Tensor, "N R"], value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        distributions, log_weights = self._split(params)
        weights = log_weights.exp().numpy()
        parts = [_cdf(distribution, value) * weights[:, i] for i, distribution in enumerate(distributions)]
        return np.sum(parts, axis=0), self.log_prob(params, torch.from_numpy(value)).exp().numpy()


def _rows(linear: Any, dim: int, patch_size: int, device: torch.device) -> Tensor:
    """Rows of a `MultiOutSizeLinear` that hold `dim` parameters of the first `patch_size` steps.

    uni2ts packs (parameter, largest patch), so the parameters lie `largest` rows apart whatever the patch size.
    """
    largest = max(linear.out_features_ls) // dim
    steps = torch.arange(patch_size, device=device)
    return (torch.arange(dim, device=device)[:, None] * largest + steps).flatten()


def _bracket(distribution: Distribution, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Values with at most, and at least, the share `level` of the distribution below."""
    if isinstance(distribution, NegativeBinomial):
        # Cantelli's inequality bounds the quantile
        spread = distribution.variance.numpy() ** 0.5 * (level / (1 - level)) ** 0.5
        return np.zeros(spread.shape), distribution.mean.numpy() + spread + 1.0
    if isinstance(distribution, StudentT):
        value = scipy.special.stdtrit(distribution.df.numpy(), level) * distribution.scale.numpy()
        value = value + distribution.loc.numpy()
    elif isinstance(distribution, LogNormal | Normal):
        value = distribution.loc.numpy() + scipy.special.ndtri(level) * distribution.scale.numpy()
        value = np.exp(value) if isinstance(distribution, LogNormal) else value
    else:
        value = distribution.icdf(torch.full_like(distribution.mean, level)).numpy()
    return value, value


def _cdf(distribution: Distribution, value: np.ndarray) -> np.ndarray:
    """Distribution function; the negative binomial's between integers is that of the integer below."""
    if isinstance(distribution, StudentT):
        standard = (value - distribution.loc.numpy()) / distribution.scale.numpy()
        return scipy.special.stdtr(distribution.df.numpy(), standard)
    if isinstance(distribution, LogNormal):
        with np.errstate(divide="ignore"):
            logarithm = np.log(np.maximum(value, 0))
        return scipy.special.ndtr((logarithm - distribution.loc.numpy()) / distribution.scale.numpy())
    if isinstance(distribution, NegativeBinomial):
        count, success = distribution.total_count.numpy(), torch.sigmoid(-distribution.logits).numpy()
        inside = scipy.special.betainc(count, np.floor(np.maximum(value, 0)) + 1, success)
        return np.where(value < 0, 0.0, inside)
    if isinstance(distribution, Normal):
        return scipy.special.ndtr((value - distribution.loc.numpy()) / distribution.scale.numpy())
    return distribution.cdf(torch.as_tensor(value)).numpy()
