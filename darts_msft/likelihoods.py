"""Darts likelihoods over all scales: a backbone's native distribution, or a Darts likelihood, mixed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import Any

import torch
from darts.utils.likelihood_models.base import quantile_names
from darts.utils.likelihood_models.torch import (
    CauchyLikelihood,
    GaussianLikelihood,
    GumbelLikelihood,
    LaplaceLikelihood,
    QuantileRegression,
    TorchLikelihood,
)
from darts.utils.serialization import add_safe_globals
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from darts_msft.backbones import load_class
from darts_msft.backbones.families import DensityFamily, Family, PointFamily, in_first_units
from darts_msft.scales.mixing import (
    MixedForecast,
    average_of_quantiles,
    cdf_of_mixture,
    draw_scale,
    quantile_of_mixture,
    sample_mixture,
    sample_path_average,
    sample_quantile_average,
    unpack,
)

SAMPLERS = {
    "mixture": sample_mixture,
    "quantile": sample_quantile_average,
    "samples": sample_path_average,
    "first": sample_mixture,  # all the weight is on scale 0
}
LOCATION_SCALE = (GaussianLikelihood, LaplaceLikelihood, CauchyLikelihood, GumbelLikelihood)  # by their parameters
MIXTURES = ("mixture", "first")  # whose distribution is the weighted sum of the scales'


class ScaleMixtureType(Enum):
    """Darts' `LikelihoodType` is closed; this keeps ours from passing for another."""

    SCALE_MIXTURE = "scale_mixture"


class DartsFamily(DensityFamily):
    """A Darts likelihood as a family in standardised units; its columns are the likelihood's raw outputs.

    Only likelihoods on the whole real line can describe standardised values.
    """

    def __init__(self, likelihood: TorchLikelihood) -> None:
        self.likelihood = likelihood
        self.names = tuple(likelihood.parameter_names)
        self.levels = tuple(likelihood.quantiles) if isinstance(likelihood, QuantileRegression) else ()
        if not self.levels:
            support = self._distribution(torch.zeros(1, 1, 1, len(self.names))).support
            if support is not constraints.real:
                raise ValueError(
                    f"likelihood={likelihood!r} describes values in {support}, but forecasts are made in standardised "
                    "units, which are any real number; take likelihood='native', QuantileRegression, Gaussian, "
                    "Laplace, Cauchy or Gumbel"
                )

    def _distribution(self, raw: Float[Tensor, "B H V R"]) -> torch.distributions.Distribution:
        return self.likelihood._distr_from_params(self.likelihood._params_from_output(raw))

    def log_prob(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return self._distribution(_as_steps(params)).log_prob(value.reshape(-1, 1, 1)).reshape(value.shape)

    @torch.no_grad()
    def sample(self, params: Float[Tensor, "*shape R"]) -> Float[Tensor, "*shape"]:
        return self.likelihood.sample(_as_steps(params)).reshape(params.shape[:-1])

    @torch.no_grad()
    def cdf(self, params: Float[Tensor, "*shape R"], value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        if self.levels:
            raise ValueError("QuantileRegression has quantiles, and no distribution function between them")
        distribution = self._distribution(_as_steps(params))
        for one in (distribution, getattr(distribution, "base_dist", distribution)):
            one._validate_args = False  # far out, what it is made of is rounded to the end of its support
        return distribution.cdf(value.reshape(-1, 1, 1)).reshape(value.shape)

    @torch.no_grad()
    def quantile(self, params: Float[Tensor, "*shape R"], level: float) -> Float[Tensor, "*shape"]:
        if self.levels:
            return params[..., self.levels.index(level)]
        return self._distribution(_as_steps(params)).icdf(params.new_tensor(level)).reshape(params.shape[:-1])

    def loss(
        self, params: Float[Tensor, "B V H R"], value: Float[Tensor, "B V H"], weight: Float[Tensor, "B V H"]
    ) -> Float[Tensor, ""]:
        # Darts' loss is a plain mean: missing values get weight 0 and the mean is taken over the others
        observed = ~torch.isnan(value)
        raw, target, weight = (
            rearrange(params, "b v h r -> b h v r"),
            rearrange(torch.where(observed, value, 0), "b v h -> b h v"),
            rearrange(torch.where(observed, weight, 0), "b v h -> b h v"),
        )
        return self.likelihood.compute_loss(raw, target, weight) * (value.numel() / observed.sum().clamp(min=1))

    def mixed_loss(
        self,
        params: Float[Tensor, "*shape S R"],
        loc: Float[Tensor, "*#shape S"],
        spread: Float[Tensor, "*#shape S"],
        weights: Float[Tensor, "*#shape S"],
        value: Float[Tensor, "*shape"],
        weight: Float[Tensor, "*shape"] | None = None,
    ) -> Float[Tensor, ""]:
        if not self.levels:
            return super().mixed_loss(params, loc, spread, weights, value, weight)
        weight = torch.ones_like(value) if weight is None else weight
        return self.loss(*in_first_units(params, loc, spread, weights, value), weight)


class ScaleMixture(TorchLikelihood):
    """The scales' forecast distributions, and a linear member's if there is one, mixed with their weights.

    Parameters
    ----------
    architecture, config
        Name the backbone whose native distribution each scale has.
    num_scales
        S = K + 1.
    mixing
        "mixture": each sample path comes from one scale, drawn with the weights; "quantile": the quantile
        functions are averaged with the weights; "samples": independent paths are; "first": scale 0's alone.
    base
        A Darts likelihood that each scale has in place of the native distribution.
    with_linear
        Whether there is a linear member, a Student-t at each step.

    The parameters of a step, by scale i: `s{i}_` and the distribution's parameters in standardised units,
    `s{i}_loc` and `s{i}_scale` (value = loc + scale * standardised value), `s{i}_weight`; then the linear member's
    `linear_loc`, `linear_scale`, `linear_df` and `linear_weight`: the scales share what that leaves of 1. With a `base`
    at one scale, while there is no linear member: its own two, a location and a scale, in the series' units.
    """

    with_linear = False  # of those that version 0.1 saved

    def __init__(
        self,
        architecture: str,
        config: dict[str, Any],
        num_scales: int,
        mixing: str = "mixture",
        base: TorchLikelihood | None = None,
        with_linear: bool = False,
    ) -> None:
        self.architecture, self.config_json = architecture, json.dumps(config, sort_keys=True)
        self.num_scales, self.mixing, self.base, self.with_linear = num_scales, mixing, base, with_linear
        super().__init__(likelihood_type=ScaleMixtureType.SCALE_MIXTURE, parameter_names=[])
        self.name_parameters(linear=with_linear)

    def name_parameters(self, linear: bool) -> None:
        """Names a step's parameters; `linear` says whether there is a linear member now."""
        if isinstance(self.base, LOCATION_SCALE) and self.num_scales == 1 and not linear:
            self._parameter_names = self.base.parameter_names
            return
        own = [*self.family.names, "loc", "scale", "weight"]
        names = [f"s{scale}_{name}" for scale in range(self.num_scales) for name in own]
        if self.with_linear:
            names += [f"linear_{name}" for name in ("loc", "scale", "df", "weight")]
        self._parameter_names = names

    @property
    def family(self) -> Family:
        return DartsFamily(self.base) if self.base is not None else native_family(self.architecture, self.config_json)

    def unpack(self, model_output: Float[Tensor, "B H V Z"]) -> MixedForecast:
        return unpack(model_output, self.num_scales, self.with_linear)

    def sample(self, model_output: Float[Tensor, "B H V Z"]) -> Float[Tensor, "B H V"]:
        return self.sample_many(model_output, 1)[0]

    def sample_many(self, model_output: Float[Tensor, "B H V Z"], count: int) -> Float[Tensor, "M B H V"]:
        """`count` draws from one output of the network."""
        return SAMPLERS[self.mixing](self.family.sample, self.unpack(model_output), count)

    def sample_scale(self, model_output: Float[Tensor, "B H V Z"], scale: int, count: int) -> Float[Tensor, "M B H V"]:
        """`count` draws from one scale's distribution."""
        return draw_scale(self.family.sample, self.unpack(model_output), scale, count)

    def quantiles(self, model_output: Float[Tensor, "B H V Z"], levels: Sequence[float]) -> Float[Tensor, "B H V Q"]:
        """The values with these shares of the forecast distribution below."""
        forecast, family = self.unpack(model_output), self.family
        if self.mixing in MIXTURES:
            found = [quantile_of_mixture(family.cdf, family.quantile, forecast, level) for level in levels]
        elif self.mixing == "quantile":
            found = [average_of_quantiles(family.quantile, forecast, level) for level in levels]
        else:
            raise ValueError(
                f"mixing={self.mixing!r} gives sample paths and no distribution function: take quantiles of many "
                "samples, or mixing='mixture' or 'quantile'"
            )
        return torch.stack(found, dim=-1)

    def cdf(self, model_output: Float[Tensor, "B H V Z"], value: Float[Tensor, "B H V"]) -> Float[Tensor, "B H V"]:
        """The share of the forecast distribution at or below `value`; of a mixture alone."""
        return cdf_of_mixture(self.family.cdf, self.unpack(model_output), value)

    def predict_likelihood_parameters(self, model_output: Float[Tensor, "B H V Z"]) -> Float[Tensor, "B H VR"]:
        """As Darts'; of a Darts likelihood at one scale, its location and scale in the series' units."""
        if self.base is None or self.parameter_names != self.base.parameter_names:
            parameters: Tensor = super().predict_likelihood_parameters(model_output)
            return parameters
        forecast = self.unpack(model_output)
        location, scale = self.base._params_from_output(forecast.params.squeeze(-2))
        loc, spread = forecast.loc.squeeze(-1), forecast.spread.squeeze(-1)
        return rearrange([location * spread + loc, scale * spread], "r b h v -> b h (v r)")

    def _params_from_output(self, model_output: Tensor) -> tuple[Tensor, ...]:
        return model_output.unbind(dim=-1)

    def _distr_from_params(self, params: tuple[Tensor, ...]) -> torch.distributions.Distribution:
        raise NotImplementedError("a mixture over scales has no torch distribution; use `sample` or `_nllloss`")

    def _nllloss(self, params_out: tuple[Tensor, ...], target: Tensor, sample_weight: Tensor | None) -> Tensor:
        forecast = self.unpack(torch.stack(params_out, dim=-1))
        if not isinstance(self.family, DensityFamily):
            scales = (forecast.params, forecast.loc, forecast.spread, forecast.weights[:, None, None])
            return self.family.mixed_loss(*scales, target, sample_weight)
        weights = torch.ones_like(target) if sample_weight is None else sample_weight
        standardised = (target.unsqueeze(-1) - forecast.loc) / forecast.spread
        density = self.family.log_prob(forecast.params, standardised) - forecast.spread.log()
        density = (density + forecast.weights.log()[:, None, None]).logsumexp(dim=-1)
        if (linear := forecast.linear) is not None:
            own = torch.distributions.StudentT(linear.df, linear.loc, linear.scale).log_prob(target)
            share = linear.weight[:, None]
            density = torch.logaddexp(density + (1 - share).log(), own + share.log())
        return -(density * weights).mean()


class ByLevel(ScaleMixture):
    """In the place of a module's likelihood, its quantiles take the place of its parameters."""

    def __init__(self, mixture: ScaleMixture, levels: Sequence[float]) -> None:
        config = json.loads(mixture.config_json)
        settings = (mixture.num_scales, mixture.mixing, mixture.base, mixture.with_linear)
        super().__init__(mixture.architecture, config, *settings)
        self._parameter_names, self.levels = quantile_names(levels), levels

    def predict_likelihood_parameters(self, model_output: Float[Tensor, "B H V Z"]) -> Float[Tensor, "B H VQ"]:
        return rearrange(self.quantiles(model_output, self.levels), "b h v q -> b h (v q)")


@lru_cache(maxsize=16)
def native_family(architecture: str, config_json: str) -> Family:
    """The native family of a backbone's configuration."""
    return load_class(architecture).traits_of(json.loads(config_json)).family


def family_for(likelihood: TorchLikelihood | None, native: Family, trains_points: bool = False) -> Family:
    """What each scale forecasts for a likelihood: the native family where it serves that, else the likelihood's own.

    Where points are trained the native family must be of values, whose median has a gradient; else they are new.
    """
    base = likelihood.base if isinstance(likelihood, ScaleMixture) else likelihood
    if trains_points:
        return native if native.has_points else PointFamily()
    if base is None or (isinstance(base, QuantileRegression) and native.serves(base.quantiles)):
        return native
    return DartsFamily(base)


def _as_steps(params: Float[Tensor, "*shape R"]) -> Float[Tensor, "B 1 1 R"]:
    return params.reshape(-1, 1, 1, params.shape[-1])


add_safe_globals([ScaleMixture, ScaleMixtureType])
