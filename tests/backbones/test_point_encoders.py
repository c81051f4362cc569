"""MOMENT and UniTS as Darts models: points, over history, from disk and hub, and files that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import huggingface_hub
import numpy as np
import pytest
from model_fixtures import HORIZON, make_model, values_of, wave
from tiny_point_encoders import save_masked_moment, save_moment, save_units

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import PRETRAINED
from darts_msft.storage import weights


class Encoder(NamedTuple):
    """How to write its checkpoint, what a fit starts from, and a field of its width in config.json."""

    save: Callable[[Path], None]
    start: str
    width: str


ENCODERS = {
    "moment": Encoder(save_moment, "untrained head", "t5_config"),
    "moment_masked": Encoder(save_masked_moment, "zero-shot", "t5_config"),
    "units": Encoder(save_units, "zero-shot", "d_model"),
}
LATER = wave(60, seed=1)


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    weights.clear_cache()
    yield
    weights.clear_cache()


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return ENCODERS[request.param]


@pytest.fixture
def directory(encoder: Encoder, tmp_path: Path) -> Path:
    encoder.save(tmp_path / "weights")
    return tmp_path / "weights"


def test_it_is_fitted_saved_loaded_and_run_over_history_without_its_checkpoint(
    encoder: Encoder, directory: Path, tmp_path: Path
) -> None:
    """With a linear member and a memory; the forecasts are points."""
    model = make_model(str(directory), linear_member=None, input_chunk_length=48, finest_context=16, lr_head=1e-2)
    model.fit(wave(), val_series=LATER)
    assert model.candidates[0].label == encoder.start
    assert model.fit_report.best < model.candidates[0].score
    model.save(str(tmp_path / "model.pt"))
    shutil.rmtree(directory)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    history = {"forecast_horizon": HORIZON, "stride": 2, "retrain": False, "last_points_only": False}
    expected, found = (values_of(one.historical_forecasts(LATER, **history)) for one in (model, loaded))
    assert np.array_equal(expected, found)
    np.testing.assert_allclose(found[-1], values_of(loaded.predict(HORIZON, LATER[:-HORIZON])), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="num_samples"):
        make_model(str(_anew(encoder, tmp_path))).fit(wave()).predict(HORIZON, LATER, num_samples=2)


def _anew(encoder: Encoder, folder: Path) -> Path:
    encoder.save(folder / "anew")
    return folder / "anew"


# ------------------------------------------------------------------------------------------------------------ the hub


@pytest.mark.parametrize("name", ["moment-1-base", "moment-1-base-masked"])
def test_names_of_both_forms_lead_to_one_repository_at_its_pin(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The hub's config.json says nothing of forms."""
    asked, repo = set(), "AutonLab/MOMENT-1-base"
    save_moment(tmp_path)

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.add((repo_id, filename, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    forms = {}
    for one in (name, str(tmp_path)):
        model = make_model(one).fit(wave())
        forms[one] = (model.model.backbone.traits.pretrained_head, values_of(model.predict(HORIZON, LATER)))
    pin = PRETRAINED[name].revision
    assert pin is not None
    assert asked == {(repo, file, pin) for file in ("config.json", "model.safetensors")}
    assert forms[name][0] == name.endswith("masked")
    assert np.array_equal(forms[name][1], forms[str(tmp_path)][1]) != name.endswith("masked")
    (notice,) = [message for message in caplog.messages if repo in message]
    assert "MIT" in notice


# --------------------------------------------------------------------------------------------------------- bad files


@pytest.mark.parametrize("damage", ["cut", "pickle", "foreign", "other size"])
def test_a_broken_file_is_refused(encoder: Encoder, directory: Path, tmp_path: Path, damage: str) -> None:
    file = directory / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "pickle":
        file.rename(directory / "weights.pth")
    elif damage == "foreign":
        other = save_units if encoder.save is not save_units else save_moment
        other(tmp_path / "other")
        shutil.copy(tmp_path / "other" / "model.safetensors", file)
    else:
        config = json.loads((directory / "config.json").read_text())
        other_width = 32 if encoder.width == "d_model" else {**config["t5_config"], "d_model": 32}
        (directory / "config.json").write_text(json.dumps({**config, encoder.width: other_width}))
    kind, pattern = (FileNotFoundError, "weights.pth") if damage == "pickle" else (ValueError, str(directory))
    with pytest.raises(kind, match=rf"^[^\n]*{pattern}[^\n]*$"):
        make_model(str(directory)).fit(wave())
