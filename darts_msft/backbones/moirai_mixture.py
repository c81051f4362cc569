"""MOIRAI's forecast distribution as a `DensityFamily`: a flat parameter vector, its density, draws and quantiles.

Reference: `uni2ts/distribution/` (Apache-2.0). Components and their parameter maps are uni2ts' own objects.
The density differs in one thing: where a component's support excludes a value, uni2ts draws a random
stand-in to keep gradients finite; here the stand-in is a constant, so the loss needs no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import scipy.special
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, LogNormal
from uni2ts.distribution import DistributionOutput, MixtureOutput, StudentTOutput
from uni2ts.distribution.negative_binomial import NegativeBinomial

from darts_msft.backbones.families import STAND_IN, DensityFamily
from darts_msft.distributions import student_t
from darts_msft.distributions.root_finding import NEGLIGIBLE, quantile_between

_CHUNK = 2**18  # quantiles searched for at once, for the memory's sake
_FARTHEST = 1e12  # from the location, in the window's own units, that a quantile can be


class MoiraiFamily(DensityFamily):
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

    def losses(
        self,
        params: Sequence[Float[Tensor, "B V _ R"]],
        values: Sequence[Float[Tensor, "B V _"]],
        weights: Sequence[Float[Tensor, "B V _"]],
    ) -> Float[Tensor, "S"]:
        # one density for the steps of all scales
        value, sizes = torch.cat(list(values), dim=-1), [part.shape[-1] for part in values]
        observed = ~torch.isnan(value)
        density = self.log_prob(torch.cat(list(params), dim=-2), torch.where(observed, value, STAND_IN))
        weighted = density * torch.where(observed, torch.cat(list(weights), dim=-1), 0)
        sums, counts = (torch.stack([part.sum() for part in one.split(sizes, dim=-1)]) for one in (weighted, observed))
        return -sums / counts.clamp(min=1)

    @torch.no_grad()
    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        """Draws the component first and then only that component's values."""
        # many draws of the same steps come as one tensor that is expanded in front
        times = len(params) if params.ndim > 1 and params.stride(0) == 0 else 1
        flat = (params[:1] if times > 1 else params).reshape(-1, params.shape[-1])
        below = self._logits(flat).softmax(dim=-1).cumsum(dim=-1)[:, :-1]
        result = flat.new_empty(params.shape[:-1].numel())
        chosen = (torch.rand_like(result).reshape(times, len(flat), 1) >= below).sum(dim=-1).flatten()
        for index, columns in enumerate(self.columns):
            rows = (chosen == index).nonzero().squeeze(-1)
            if rows.numel():
                result[rows] = self._component(flat[rows % len(flat), columns], index).sample().to(result.dtype)
        return result.reshape(params.shape[:-1])

    @torch.no_grad()
    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        columns = params.movedim(-1, 0).contiguous()  # one parameter after another: much quicker
        weights = self._logits(columns.movedim(0, -1)).movedim(-1, 0).softmax(dim=0)
        shares = torch.zeros_like(value)
        if students := [index for index, one in enumerate(self.components) if isinstance(one, StudentTOutput)]:
            # all in one pass, without distributions, whose construction takes longer than what follows
            df, loc, scale = torch.stack([columns[self.columns[index]] for index in students], dim=1)
            shares = (weights[students] * student_t.cdf((value - loc) / scale, df)).sum(dim=0)
        for index in set(range(len(weights))).difference(students):
            shares.addcmul_(weights[index], self._shares(columns[self.columns[index]], index, value, weights[index]))
        return shares

    @torch.no_grad()
    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        precise = params.detach().reshape(-1, params.shape[-1]).to(torch.promote_types(params.dtype, torch.float32))
        found = [self._quantile(part.T.contiguous(), level) for part in precise.split(_CHUNK)]
        return torch.cat(found).reshape(params.shape[:-1]).to(params.dtype)

    def _quantile(self, columns: Float[Tensor, "R N"], level: float) -> Float[Tensor, "N"]:
        """The root between the lowest and the highest of the components' quantiles."""
        weights = self._logits(columns.T).T.softmax(dim=0)
        brackets = [self._bracket(columns[rows], index, level) for index, rows in enumerate(self.columns)]
        lows, highs = (torch.stack(ends).clamp(-_FARTHEST, _FARTHEST) for ends in zip(*brackets, strict=True))
        start = (weights * (lows + highs)).sum(dim=0) / 2  # near, where components differ little
        felt = weights > NEGLIGIBLE
        low, high = lows.where(felt, torch.inf).amin(dim=0), highs.where(felt, -torch.inf).amax(dim=0)

        def cdf(rows: Tensor, value: Tensor) -> Tensor:
            return self.cdf(columns.index_select(1, rows).T, value)

        return quantile_between(cdf, level, low, high, start.clamp(low, high))

    def _bracket(self, arguments: Float[Tensor, "_ N"], index: int, level: float) -> tuple[Tensor, Tensor]:
        """Values with at most, and at least, the share `level` of component `index` below."""
        if isinstance(self.components[index], StudentTOutput):
            df, loc, scale = arguments
            value = loc + scale * student_t.quantile(df, level)
            return value, value
        distribution = self._component(arguments.T, index)
        if isinstance(distribution, NegativeBinomial):
            # Cantelli's inequality bounds the quantile
            spread = distribution.variance.sqrt() * (level / (1 - level)) ** 0.5
            return torch.zeros_like(spread), distribution.mean + spread + 1
        value = distribution.icdf(arguments.new_tensor(level))
        return value, value

    def _shares(
        self,
        arguments: Float[Tensor, "_ *shape"],
        index: int,
        value: Float[Tensor, "*shape"],
        weight: Float[Tensor, "*shape"],
    ) -> Float[Tensor, "*shape"]:
        """Distribution function of component `index`, which may be rough where its `weight` is next to nothing."""
        distribution = self._component(arguments.movedim(0, -1), index)
        if isinstance(distribution, NegativeBinomial):
            shares = (value >= distribution.mean).to(value.dtype)
            felt = (weight > NEGLIGIBLE) & (value >= 0)
            shares[felt] = _negative_binomial_cdf(*(part[felt] for part in (*arguments, value)))
            return shares
        if isinstance(distribution, LogNormal):
            return distribution.cdf(value.clamp(min=torch.finfo(value.dtype).tiny)).where(value > 0, 0)
        return distribution.cdf(value)


def _rows(linear: Any, dim: int, patch_size: int, device: torch.device) -> Tensor:
    """Rows of a `MultiOutSizeLinear` that hold `dim` parameters of the first `patch_size` steps.

    uni2ts packs (parameter, largest patch), so the parameters lie `largest` rows apart whatever the patch size.
    """
    largest = max(linear.out_features_ls) // dim
    steps = torch.arange(patch_size, device=device)
    return (torch.arange(dim, device=device)[:, None] * largest + steps).flatten()


def _negative_binomial_cdf(
    count: Float[Tensor, "N"], logits: Float[Tensor, "N"], value: Float[Tensor, "N"]
) -> Float[Tensor, "N"]:
    """Between integers that of the integer below. By scipy, as torch has no incomplete beta function."""
    numbers = (count, torch.sigmoid(-logits), value.floor() + 1)
    count_, success, above = (number.cpu().double().numpy() for number in numbers)
    return torch.from_numpy(scipy.special.betainc(count_, above, success)).to(value)
