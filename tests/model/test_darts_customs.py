"""What users of Darts' torch models are used to."""

from __future__ import annotations

import doctest
import inspect
import json
import re
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from darts.models import DLinearModel
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import HORIZON, LEARNS, fitted, make_model, values_of, wave
from pytorch_lightning.callbacks import StochasticWeightAveraging

from darts_msft import MSFTFoundationModel

VAL = wave(60, seed=1)


@pytest.mark.parametrize("name", ["fit", "predict", "historical_forecasts", "backtest", "fit_from_dataset", "lr_find"])
def test_signatures_are_those_of_darts(name: str) -> None:
    assert signature(getattr(MSFTFoundationModel, name)) == signature(getattr(DLinearModel, name))


def test_arguments_are_documented_where_darts_does_and_the_example_is_true() -> None:
    text = inspect.cleandoc(MSFTFoundationModel.__init__.__doc__)
    headings = re.findall(r"^(\w+)\n-+$", text, re.MULTILINE)
    assert headings == ["Parameters", "Raises", "References", "Examples"]
    told = re.findall(r"^\w+(?:, \w+)*$", text[text.index("Parameters") : text.index("Raises")], re.MULTILINE)
    own = [name for name in signature(MSFTFoundationModel.__init__).parameters if name not in ("self", "kwargs")]
    assert {*own} == {*", ".join(told[1:]).split(", ")}
    known: dict[str, Any] = {}
    for one in doctest.DocTestParser().get_examples(text):
        if one.want:
            expected = eval(one.want, {"array": np.array, "float32": np.float32})
            np.testing.assert_allclose(eval(one.source, known), expected, atol=0.3)
        else:
            exec(one.source, known)


@pytest.mark.parametrize("components", [1, 2])
def test_parameters_of_a_likelihood_at_one_scale_are_in_the_series_units(tiny_moirai: str, components: int) -> None:
    model = make_model(tiny_moirai, likelihood=GaussianLikelihood(), num_scales=0, linear_member=None).fit(
        wave(components=components)
    )
    series = wave(60, components=components, seed=3)
    parameters = model.predict(HORIZON, series, predict_likelihood_parameters=True)
    assert [*parameters.components] == ["0_mu", "0_sigma", "1_mu", "1_sigma"][: 2 * components]
    mu, sigma = parameters.values()[:, ::2], parameters.values()[:, 1::2]
    draws = values_of(model.predict(HORIZON, series, num_samples=2000, random_state=0))
    np.testing.assert_allclose(draws.mean(axis=-1), mu, atol=5 * sigma.max() / 2000**0.5)
    np.testing.assert_allclose(draws.std(axis=-1), sigma, rtol=0.12)


@pytest.mark.parametrize(
    "change", [{"output_chunk_length": HORIZON - 3}, {"output_chunk_length": HORIZON + 2}, {"output_chunk_shift": 1}]
)
def test_weights_are_loaded_onto_another_horizon(tiny_moirai: str, tmp_path: Path, change: dict[str, Any]) -> None:
    """With K and patch size as there. The steps that both have are forecast alike, where no patch is added."""
    model = fitted(tiny_moirai, likelihood=None, **LEARNS)
    model.save(str(tmp_path / "model.pt"))
    other = make_model(tiny_moirai, likelihood=None, **change)
    other.load_weights(str(tmp_path / "model.pt"))
    mine, theirs = model.model.state_dict(), other.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine if not name.startswith("paths."))
    assert other.model.paths.trust == 0  # until a fit
    assert np.isfinite(values_of(other.predict(3, wave(60, seed=3)))).all()
    if change == {"output_chunk_length": HORIZON - 3}:
        expected = values_of(model.predict(4, wave(60, seed=3)))  # the first patch
        np.testing.assert_allclose(values_of(other.predict(4, wave(60, seed=3))), expected, atol=0.1)


def test_a_linear_member_of_another_horizon_is_left_out(tiny_moirai: str, tmp_path: Path) -> None:
    model = make_model(tiny_moirai, linear_member=True).fit(wave(300), val_series=wave(100, seed=1))
    assert model.model.has_linear
    model.save(str(tmp_path / "model.pt"))
    other = make_model(tiny_moirai, linear_member=True, output_chunk_length=4)
    other.load_weights(str(tmp_path / "model.pt"))
    assert not other.model.has_linear
    assert other.scale_weights.sum() == pytest.approx(1)
    assert other.scale_weights[-1] == 0


def test_darts_reader_of_the_checkpoint(tiny_moirai: str) -> None:
    connector = make_model(tiny_moirai).hf_connector
    assert connector.load_config() == json.loads((Path(tiny_moirai) / "config.json").read_text())
    of_hub = SimpleNamespace(model_params={"backbone": "org/name"}, _revision="a" * 40)
    hub = MSFTFoundationModel.hf_connector.fget(of_hub)
    assert (hub.model_name, hub.model_revision, hub.local_dir) == ("org/name", "a" * 40, None)


averaged: dict[str, torch.Tensor] = {}


class Averages(StochasticWeightAveraging):
    """Tells what it ends in."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_end(trainer, pl_module)
        averaged.update({name: value.detach().clone() for name, value in pl_module.named_parameters()})


def test_averaged_weights_are_a_candidate(tiny_moirai: str) -> None:
    average = Averages(swa_lrs=1e-2, swa_epoch_start=1)
    model = make_model(tiny_moirai, {"callbacks": [average]}, n_epochs=4, num_scales=0, **LEARNS)
    model.fit(wave(), val_series=VAL)
    labels = [one.label for one in model.candidates]
    assert labels[-1] == "averaged weights"
    assert labels.count("averaged weights") == 1
    if model.fit_report.kept == "averaged weights":
        assert all(torch.equal(value, averaged[name]) for name, value in model.model.named_parameters())
    assert min(model.candidates, key=lambda one: one.score).label == model.fit_report.kept


def test_epochs_are_scored_with_the_mean_of_all_steps_so_far(tiny_moirai: str) -> None:
    """Lightning 2.6's averages; the encoder's constants, whole numbers and truth values, have no mean."""
    WeightAveraging = pytest.importorskip("pytorch_lightning", "2.6").callbacks.WeightAveraging
    steps: list[dict[str, torch.Tensor]] = []

    class Mean(WeightAveraging):  # type: ignore[misc]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            steps.append({name: value.detach().clone() for name, value in pl_module.named_parameters()})

    mean = Mean()
    before = mean._use_buffers
    model = make_model(tiny_moirai, {"callbacks": [mean]}, n_epochs=3, num_scales=0, **LEARNS)
    model.fit(wave(), val_series=VAL)
    assert mean._use_buffers == before  # the callback is the user's
    assert [one.label for one in model.candidates] == ["zero-shot", "epoch 1", "epoch 2", "epoch 3"]
    kept = next(one for one in model.candidates if one.label == model.fit_report.kept)
    assert kept.step > 0
    for name, value in model.model.named_parameters():
        torch.testing.assert_close(value, torch.stack([step[name] for step in steps[: kept.step]]).mean(dim=0))


def test_without_averaging_no_state_is_scored_twice(tiny_moirai: str) -> None:
    labels = [one.label for one in fitted(tiny_moirai, validated=True).candidates]
    assert "averaged weights" not in labels
