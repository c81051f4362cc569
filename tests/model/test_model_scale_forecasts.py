"""Each scale's own forecast, the candidates of a fit, and what else users read off a fitted model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from darts.utils.likelihood_models.torch import GaussianLikelihood, LaplaceLikelihood
from model_fixtures import CONTEXT, HORIZON, make_model, wave

from darts_msft import MSFTFoundationModel


class Subclass(MSFTFoundationModel):
    """A user's own subclass."""


@pytest.mark.parametrize("likelihood", [GaussianLikelihood(), LaplaceLikelihood()])
@pytest.mark.parametrize("weight_learning", ["stacking", "uniform"])
def test_scale_forecasts_are_the_medians_of_a_darts_likelihood(
    tiny_moirai: str, likelihood: Any, weight_learning: str
) -> None:
    """Gaussian and Laplace have their location as median: loc + scale * mu, repeated over each coarse step."""
    model = make_model(tiny_moirai, likelihood=likelihood, lr_head=1e-2, weight_learning=weight_learning)
    model.fit(wave(), val_series=wave(60, seed=1))
    parameters = model.predict(HORIZON, wave(), predict_likelihood_parameters=True)
    names = [name.split("_", 1)[1] for name in parameters.components]
    columns = dict(zip(names, parameters.values().T, strict=True))
    for scale, forecast in enumerate(model.scale_forecasts(wave())):
        expected = columns[f"s{scale}_loc"] + columns[f"s{scale}_scale"] * columns[f"s{scale}_mu"]
        np.testing.assert_allclose(forecast.values()[:, 0], expected, rtol=1e-5)
        assert forecast.time_index.equals(parameters.time_index)


def test_scale_forecasts_take_short_series_within_the_allowed_range(tiny_moirai: str) -> None:
    model = make_model(tiny_moirai, input_chunk_length=(20, CONTEXT)).fit(wave(60))
    assert all(np.isfinite(part.values()).all() for part in model.scale_forecasts(wave(60)[-20:]))
    with pytest.raises(ValueError, match="19 steps and 1 components; give at least 20 steps and 1 components"):
        model.scale_forecasts(wave(60)[-19:])
    with pytest.raises(ValueError, match="32 steps and 2 components; give at least 20 steps and 1 components"):
        model.scale_forecasts(wave(60, 2))


def test_candidates_name_the_first_state_and_every_epoch_and_outlive_saving(tiny_moirai: str, tmp_path: Path) -> None:
    model = make_model(tiny_moirai, n_epochs=2)
    assert model.candidates == []
    model.fit(wave(), val_series=wave(60, seed=1))
    assert [candidate.label for candidate in model.candidates] == ["zero-shot", "epoch 0", "epoch 1"]
    model.save(str(tmp_path / "model.pt"))
    assert MSFTFoundationModel.load(str(tmp_path / "model.pt")).candidates == model.candidates


def test_a_subclass_is_loaded_as_it_was_saved(tiny_moirai: str, tmp_path: Path) -> None:
    settings = make_model(tiny_moirai).model_params
    model = Subclass(**settings).fit(wave())
    model.save(str(tmp_path / "model.pt"))
    loaded = Subclass.load(str(tmp_path / "model.pt"))
    assert isinstance(loaded, Subclass)
    sampled = (one.predict(HORIZON, wave(), num_samples=3, random_state=0).all_values() for one in (model, loaded))
    np.testing.assert_array_equal(*sampled)


def test_one_cycle_keeps_the_ratio_of_the_groups(tiny_moirai: str) -> None:
    schedule = {"max_lr": 1e-2, "total_steps": 400, "interval": "step"}
    rates = {"lr_new": 1e-3, "lr_head": 1e-4, "lr_pretrained": 1e-5, "lr_omega": 1e-3}
    model = make_model(
        tiny_moirai, lr_scheduler_cls=torch.optim.lr_scheduler.OneCycleLR, lr_scheduler_kwargs=schedule, **rates
    )
    model.fit(wave())
    highest = {
        group["name"].removesuffix("_plain"): group["max_lr"] for group in model.trainer.optimizers[0].param_groups
    }
    assert highest == pytest.approx({"new": 1e-2, "head": 1e-3, "pretrained": 1e-4, "omega": 1e-2})


def test_divergence_without_a_validation_series_is_an_error(tiny_moirai: str) -> None:
    rates = dict.fromkeys(("lr_new", "lr_head", "lr_pretrained", "lr_omega"), 1e30)
    model = make_model(tiny_moirai, n_epochs=2, trainer={"gradient_clip_val": 0}, **rates)
    with pytest.raises(FloatingPointError, match="lower the learning rates or pass a val_series"):
        model.fit(wave())


def test_a_revision_of_a_local_checkpoint_is_refused(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match="revision='abc' is for hub checkpoints"):
        make_model(tiny_moirai, revision="abc")
