"""The encoders beside MOIRAI as Darts models: over history, from disk and hub, and files that are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from contract_backbone import MAKERS, WITHOUT_HEAD
from model_fixtures import HORIZON, make_model, values_of, wave

from darts_msft import MSFTFoundationModel
from darts_msft.backbones import PRETRAINED, describe
from darts_msft.storage import weights

ENCODERS = ("chronos2", "patchtst_fm", "moment", "moment_masked", "units")
LATER = wave(60, seed=1)


@pytest.fixture(autouse=True)
def _fresh_cache() -> Iterator[None]:
    weights.clear_cache()
    yield
    weights.clear_cache()


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def directory(encoder: str, tmp_path: Path) -> Path:
    MAKERS[encoder](tmp_path / "weights")
    return tmp_path / "weights"


def forecast_of(backbone: str) -> np.ndarray:
    model = make_model(backbone)
    try:
        return values_of(model.predict(HORIZON, LATER))
    except ValueError:  # without a pretrained head
        return values_of(model.fit(wave()).predict(HORIZON, LATER))


def test_it_is_fitted_saved_loaded_and_run_over_history_without_its_checkpoint(
    encoder: str, directory: Path, tmp_path: Path
) -> None:
    """With a linear member and a memory."""
    model = make_model(str(directory), linear_member=None, input_chunk_length=48, finest_context=16, lr_head=1e-2)
    history = {"forecast_horizon": HORIZON, "stride": 2, "retrain": False, "last_points_only": False}
    if encoder not in WITHOUT_HEAD:
        assert np.isfinite(values_of(model.historical_forecasts(LATER, **history))).all()
    model.fit(wave(), val_series=LATER)
    assert model.candidates[0].label == ("untrained head" if encoder in WITHOUT_HEAD else "zero-shot")
    assert model.fit_report.best < model.candidates[0].score
    model.save(str(tmp_path / "model.pt"))
    shutil.rmtree(directory)
    loaded = MSFTFoundationModel.load(str(tmp_path / "model.pt"))
    expected, found = (values_of(one.historical_forecasts(LATER, **history)) for one in (model, loaded))
    assert np.array_equal(expected, found)
    np.testing.assert_allclose(found[-1], values_of(loaded.predict(HORIZON, LATER[:-HORIZON])), rtol=1e-4, atol=1e-4)
    if encoder in ("chronos2", "patchtst_fm"):
        draws = values_of(loaded.predict(HORIZON, LATER, num_samples=20, random_state=0))
        assert draws.std(axis=-1).min() > 0
    else:  # points
        with pytest.raises(ValueError, match="num_samples"):
            loaded.predict(HORIZON, LATER, num_samples=2)


@pytest.mark.parametrize(
    ("name", "served", "same"),
    [
        *(("chronos-2", "chronos2", "chronos2"), ("patchtst-fm-r1", "patchtst_fm", "patchtst_fm")),
        *(("moment-1-base", "moment", "moment"), ("moment-1-base-masked", "moment", "moment_masked")),
    ],
)
def test_a_name_leads_to_the_hub_at_its_pin(
    name: str,
    served: str,
    same: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The forecast is that of a directory; the hub's config.json says nothing of forms; the licence is told once."""
    asked, entry = set(), PRETRAINED[name]
    for maker in (served, same):
        MAKERS[maker](tmp_path / maker)

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.add((repo_id, filename, revision))
        return str(tmp_path / served / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert np.array_equal(forecast_of(name), forecast_of(str(tmp_path / same)))
    assert asked == {(entry.repo, file, entry.revision) for file in ("config.json", "model.safetensors")}
    (notice,) = [message for message in caplog.messages if entry.repo in message]
    assert entry.licence in notice


def test_its_architecture_is_found_and_a_missing_field_named(encoder: str, directory: Path) -> None:
    architecture, config = describe(str(directory))[1:]
    assert architecture == encoder.removesuffix("_masked")
    field = {"chronos2": "num_heads", "patchtst_fm": "n_head"}.get(encoder)
    if field is not None:
        del config[field]
        (directory / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"^config\.json lacks {field}[^\n]*$"):
            make_model(str(directory)).predict(HORIZON, LATER)


@pytest.mark.parametrize("damage", ["cut", "pickle", "foreign", "other size"])
def test_a_broken_file_is_refused(encoder: str, directory: Path, tmp_path: Path, damage: str) -> None:
    file = directory / "model.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    elif damage == "pickle":
        file.write_bytes(b"\x80\x04\x95")
    elif damage == "foreign":
        MAKERS["moirai"](tmp_path / "other")
        shutil.copy(tmp_path / "other" / "model.safetensors", file)
    else:
        config = json.loads((directory / "config.json").read_text())
        config.get("t5_config", config)["d_model"] = 32
        (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"^[^\n]*{directory}[^\n]*$"):
        make_model(str(directory)).fit(wave())
