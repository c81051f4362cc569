"""Chronos-2 and PatchTST-FM as Darts models, against Darts' own models of the same weights, and from disk and hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np
import pytest
from darts import TimeSeries
from darts.models import Chronos2Model, PatchTSTFMModel
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import HORIZON, TRAINER, make_model, values_of, wave
from tiny_encoders import LEVELS, save_chronos2, save_patchtst_fm

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import PRETRAINED, describe
from darts_msft.storage import weights

BOUND = 1e-5  # of the forecast's range: sinh magnifies
SETTINGS: dict[str, Any] = {"num_scales": 0, "patch_size": "auto", "linear_member": False}


class Encoder(NamedTuple):
    """How to write its checkpoint, Darts' model, a name in the registry and a field that config.json must have."""

    save: Callable[..., None]
    theirs: type
    name: str
    field: str


ENCODERS = {
    "chronos2": Encoder(save_chronos2, Chronos2Model, "chronos-2", "num_heads"),
    "patchtst_fm": Encoder(save_patchtst_fm, PatchTSTFMModel, "patchtst-fm-r1", "n_head"),
}


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    weights.clear_cache()
    yield
    weights.clear_cache()


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


@pytest.fixture(scope="module")
def directory(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    encoder.save(path)
    return path


def random_walk(length: int, seed: int = 0) -> TimeSeries:
    """With a gap in its last steps."""
    values = 20 + np.random.default_rng(seed).standard_normal((length, 1)).cumsum(axis=0)
    values[-9:-6] = np.nan
    return TimeSeries.from_values(values.astype(np.float32))


# ------------------------------------------------------------------------------------------------------ Darts' forecast


@pytest.mark.parametrize(
    ("context", "horizon", "shift", "length"),
    [(32, 16, 0, 40), (30, 8, 0, 40), (33, 8, 4, 40), ((12, 48), 8, 0, 25)],
    ids=["whole patches", "a cut patch", "shift", "a range of contexts"],
)
def test_an_unfitted_model_at_one_scale_is_darts_own(
    encoder: Encoder, directory: Path, context: Any, horizon: int, shift: int, length: int
) -> None:
    """For horizons of whole patches, gap included."""
    series = random_walk(length)
    chunks = {"output_chunk_length": horizon, "output_chunk_shift": shift, "likelihood": QuantileRegression(LEVELS)}
    theirs = encoder.theirs(context, local_dir=directory, pl_trainer_kwargs=TRAINER, **chunks).fit(series)
    ours = make_model(str(directory), input_chunk_length=context, **SETTINGS, **chunks)
    expected, found = (
        values_of(model.predict(horizon, series, predict_likelihood_parameters=True)) for model in (theirs, ours)
    )
    assert expected.shape == found.shape == (horizon, len(LEVELS), 1)
    assert np.ptp(expected) > 1
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


def test_the_point_forecast_and_components_apart_are_darts_own(encoder: Encoder, directory: Path) -> None:
    """The median; of several components that are independent, each as a series of its own."""
    first, second = random_walk(40), random_walk(40, seed=1)
    theirs = encoder.theirs(32, 8, local_dir=directory, pl_trainer_kwargs=TRAINER)
    ours = make_model(str(directory), **SETTINGS, likelihood=None, multivariate="independent")
    expected = np.concatenate([values_of(theirs.fit(one).predict(8, one)) for one in (first, second)], axis=1)
    found = values_of(ours.predict(8, first.stack(second)))
    assert np.abs(found - expected).max() < BOUND * np.ptp(expected)


# --------------------------------------------------------------------------------------------------- as a Darts model


def test_it_is_saved_loaded_and_run_over_history_without_its_checkpoint(
    encoder: Encoder, directory: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(directory, tmp_path / "weights"))
    later = wave(60, seed=3)
    model = make_model(str(copied), linear_member=None).fit(wave(), val_series=wave(60, seed=1))
    assert model.candidates[0].label == "zero-shot"
    assert model.fit_report.best <= model.candidates[0].score
    model.save(str(tmp_path / "model.pt"))
    shutil.rmtree(copied)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    history = {"forecast_horizon": HORIZON, "stride": 4, "retrain": False, "last_points_only": False}
    expected, found = (one.historical_forecasts(later, **history) for one in (model, loaded))
    assert len(expected) == 6
    assert np.array_equal(values_of(expected), values_of(found))
    last = model.predict(HORIZON, later[:-HORIZON])
    np.testing.assert_allclose(values_of(found[-1]), values_of(last), rtol=1e-4, atol=1e-4)
    draws = values_of(loaded.predict(HORIZON, later, num_samples=20, random_state=0))
    assert np.isfinite(draws).all()
    assert draws.std(axis=-1).min() > 0


def test_a_new_model_runs_over_history_zero_shot(encoder: Encoder, directory: Path) -> None:
    """At several scales that look further back than the finest."""
    model = make_model(str(directory), input_chunk_length=64, finest_context=16)
    found = model.historical_forecasts(wave(90), forecast_horizon=HORIZON, retrain=False, stride=8)
    assert np.isfinite(values_of(found)).all()


# ------------------------------------------------------------------------------------------------- from disk and hub


def test_a_name_leads_to_the_hub_at_its_pin(
    encoder: Encoder, directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The same weights as from the directory; their licence is told."""
    asked = set()

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.add((repo_id, filename, revision))
        return str(directory / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    entry, series = PRETRAINED[encoder.name], wave()
    found = values_of(make_model(encoder.name).predict(HORIZON, series))
    assert asked == {(entry.repo, name, entry.revision) for name in ("config.json", "model.safetensors")}
    assert np.array_equal(found, values_of(make_model(str(directory)).predict(HORIZON, series)))
    (notice,) = [message for message in caplog.messages if entry.repo in message]
    assert entry.licence in notice


def test_a_missing_field_is_named(encoder: Encoder, directory: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(directory, tmp_path / "weights"))
    config = json.loads((folder / "config.json").read_text())
    del config[encoder.field]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"^config\.json lacks {encoder.field}[^\n]*$"):
        make_model(str(folder)).predict(HORIZON, wave())


@pytest.mark.parametrize("damage", ["cut", "pickle", "foreign", "other size"])
def test_a_broken_file_is_refused(encoder: Encoder, directory: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(directory, tmp_path / "weights"))
    file, size = folder / "model.safetensors", 32
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "pickle":
        file.write_bytes(b"\x80\x04\x95")
    elif damage == "foreign":
        others = next(other for other in ENCODERS.values() if other is not encoder)
        others.save(tmp_path / "others")
        shutil.copy(tmp_path / "others" / "model.safetensors", file)
    else:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "d_model": size}))
    with pytest.raises(ValueError, match=rf"^[^\n]*{folder}[^\n]*$"):
        make_model(str(folder)).predict(HORIZON, wave())


def test_no_other_architecture_is_taken_for_it(directory: Path, encoder: Encoder) -> None:
    name = next(name for name, one in ENCODERS.items() if one is encoder)
    assert describe(str(directory))[1] == name
