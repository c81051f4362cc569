"""`tune`: what it tries and in which order, what it returns, and that it goes on where it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from darts.metrics import mcrps
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import HORIZON, TRAINER, wave
from pytorch_lightning.callbacks import EarlyStopping

from darts_msft import StackedEnsemble, Tuned, tune
from darts_msft.model import MSFTFoundationModel
from darts_msft.search import Halving, _next
from darts_msft.search_inputs import look_backs_of, settings_for

pytest.importorskip("optuna")
SERIES = wave(240)
TRAIN, VAL = SERIES[:180], SERIES[180:]


class Epochs(pl.Callback):
    """Counts its own, and what all of them counted."""

    most = 0

    def __init__(self) -> None:
        self.seen = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen += 1
        Epochs.most = max(Epochs.most, self.seen)


def tuned(checkpoint: str, minutes: float = 5, **changes: Any) -> Tuned:
    settings: dict[str, Any] = {
        "look_backs": (32, 48),
        "methods": ("msft", "full"),
        "max_epochs": 2,
        "backbone": checkpoint,
        "patch_size": 4,
        "num_scales": 1,
        "windows_per_epoch": 16,
        "sample_dependence": "independent",
        "pl_trainer_kwargs": TRAINER,
    }
    return tune(TRAIN, VAL, minutes=minutes, **{"horizon": HORIZON, **settings, **changes})


def tried(found: Tuned) -> pd.DataFrame:
    """The table's candidates."""
    return found.table[found.table["method"] != "seasonal naive"]


def test_scores_are_over_the_training_part_s_error_whatever_the_look_back_s_unit(tiny_moirai: str) -> None:
    """A validation part that is livelier than the training part is measured on itself by `fit_report`."""
    train, val = TRAIN, VAL.map(lambda values: 5 * values)
    found = tune(train, val, HORIZON, look_backs=(32,), methods=(), backbone=tiny_moirai, patch_size=4,
                 linear_member=False, num_scales=1, pl_trainer_kwargs=TRAINER)  # fmt: skip
    joined = train[-32:].append(val)
    options = {"start": 32, "forecast_horizon": HORIZON, "retrain": False, "last_points_only": False}
    forecasts = found.best.historical_forecasts(joined, num_samples=200, **options)
    unit = np.abs(train.values()[HORIZON:] - train.values()[:-HORIZON]).mean()
    (score,) = tried(found)["score"]
    assert score == pytest.approx(np.mean(mcrps([joined] * len(forecasts), forecasts)) / unit, rel=0.1)
    assert found.best.fit_report is not None
    season = found.best.fit_report.naive_season
    assert season is not None
    values = joined.values()[:, 0]
    starts = range(32, len(values) - HORIZON + 1)
    errors = [np.abs(values[at + k] - values[at - season + k % season]) for at in starts for k in range(HORIZON)]
    naive = found.table.set_index("method").loc["seasonal naive"]
    assert naive["score"] == pytest.approx(np.mean(errors) / unit)
    assert naive.drop("score").isna().all()
    assert found.best.fit_report.best is not None
    assert found.best.fit_report.best < 0.5 * score


def test_covariates_that_are_known_ahead_are_heard_by_all_and_by_the_ensemble(tiny_moirai: str, tmp_path: Path) -> None:
    """Half of the series is what the covariate says."""
    known = wave(240 + HORIZON, seed=7).map(lambda values: np.random.default_rng(7).normal(size=values.shape))
    whole = SERIES + known[:240] * 5
    train, val = whole[:180], whole[180:]
    settings = {"look_backs": (32, 48), "methods": (), "backbone": tiny_moirai, "patch_size": 4, "num_scales": 1}
    deaf = tune(train, val, HORIZON, pl_trainer_kwargs=TRAINER, **settings)
    found = tune(train, val, HORIZON, future_covariates=known, folder=tmp_path, pl_trainer_kwargs=TRAINER, **settings)
    assert (tried(found)["score"] < 0.2 * tried(deaf)["score"].min()).all()
    assert found.best.uses_future_covariates
    assert found.ensemble_scores is not None
    truth = wave(240 + HORIZON)[-HORIZON:] + known[-HORIZON:] * 5
    forecast = found.model.predict(HORIZON, whole, future_covariates=known)
    np.testing.assert_allclose(forecast.values(), truth.values(), atol=1)
    with pytest.raises(ValueError, match="holds a search of other series"):
        tune(train, val, HORIZON, folder=tmp_path, pl_trainer_kwargs=TRAINER, **settings)


def test_the_order_of_candidates_follows_the_scores() -> None:
    scores = {
        (32, "zero_shot", 1.0): 0.5,
        (48, "zero_shot", 1.0): 0.4,
        (64, "zero_shot", 1.0): 0.6,
        (48, "msft", 1.0): 0.39,
        (48, "full", 1.0): 0.38,
        (48, "full", 0.3): 0.37,
        (48, "full", 3.0): 0.45,
        (32, "full", 1.0): 0.36,
        (64, "full", 1.0): 0.55,
    }
    done: dict[Any, float] = {}
    while (candidate := _next(done, (32, 48, 64), ("msft", "full"))) is not None:
        done[candidate] = scores[candidate]
    assert list(done) == list(scores)


def test_the_best_comes_back_fitted_and_a_second_call_goes_on(
    tiny_moirai: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "search"
    first = tuned(tiny_moirai, minutes=1e-6, folder=folder)
    assert set(first.table["method"]) == {"zero_shot", "seasonal naive"}
    begun, ended = capsys.readouterr().out.splitlines()
    assert begun.startswith("tune: look-back 32, zero_shot; 0.0 minutes")
    assert ended.startswith(
        f"tune: look-back 32, zero_shot: {tried(first)['score'].iloc[0]:.4f}, {first.best.fit_report.kept}"
    )
    assert first.ensemble_scores is None
    whole = tuned(tiny_moirai, folder=folder)
    assert len(tried(whole)) == 7
    assert whole.table["score"].is_monotonic_increasing
    row = tried(whole).iloc[0]
    assert (whole.best.input_chunk_length, whole.best.model_params["method"]) == (row["look_back"], row["method"])
    assert isinstance(whole.model, StackedEnsemble) or whole.model is whole.best
    assert whole.model.predict(HORIZON, SERIES, num_samples=5).all_values().shape == (HORIZON, 1, 5)
    assert len(list(folder.glob("*.pt"))) <= 3
    again = tuned(tiny_moirai, folder=folder)
    assert again.table.equals(whole.table)
    point, same = (one.best.predict(HORIZON, SERIES).values() for one in (whole, again))
    np.testing.assert_allclose(point, same)


def test_a_rate_scales_the_method_s_own(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fit = MSFTFoundationModel.fit
    monkeypatch.setattr(MSFTFoundationModel, "fit", lambda self, *a, **k: seen.append(self) or fit(self, *a, **k))
    found = tuned(tiny_moirai, look_backs=(32,), methods=("full",), ensemble=False)
    own = {row.rate: row for row in found.table.itertuples() if row.method == "full"}
    assert own.keys() == {1.0, 0.3, 3.0}
    rates = [(one.model_params.get("optimizer_kwargs") or {}).get("lr") for one in seen]
    assert rates[:2] == [None, None]
    assert rates[3] == pytest.approx(10 * rates[2])
    assert found.model is found.best


def test_each_candidate_has_callbacks_of_its_own_and_a_search_with_some_goes_on(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Epochs, "most", 0)
    first, second = (
        tuned(tiny_moirai, folder=tmp_path, look_backs=(32,), methods=("full",), ensemble=False,
              pl_trainer_kwargs={**TRAINER, "callbacks": [Epochs(), EarlyStopping("train_loss")]})
        for _ in range(2)
    )  # fmt: skip
    assert len(tried(first)) == 4
    assert Epochs.most == 2
    assert second.table.equals(first.table)


def test_settings_of_some_methods_leave_the_others_alone(tiny_moirai: str) -> None:
    given = {"lora_rank": 4, "lr_head": 1e-2, "loss_fn": torch.nn.MSELoss(), "likelihood": None, "lower": 0.0}
    assert settings_for("zero_shot", given).keys() == {"likelihood", "lower"}
    assert settings_for("full", given).keys() == given.keys() - {"lora_rank"}
    assert settings_for("zero_shot", {"likelihood": GaussianLikelihood()}) == {}
    assert settings_for("lora", {"lr_head": 1e-2}) == {}
    assert settings_for("lora", {"lr_head": 1e-2, "likelihood": GaussianLikelihood()}).keys() == {
        "lr_head",
        "likelihood",
    }
    found = tuned(tiny_moirai, look_backs=(32,), ensemble=False, max_epochs=1, lora_rank=4, lr_head=1e-2,
                  likelihood=GaussianLikelihood())  # fmt: skip
    assert set(tried(found)["method"]) == {"zero_shot", "msft", "full"}


def test_an_epoch_that_is_behind_ends_a_candidate(tiny_moirai: str) -> None:
    found = tuned(tiny_moirai, look_backs=(32,), max_epochs=4, ensemble=False)
    found = tried(found)
    trained = found[found["method"] != "zero_shot"]
    assert set(trained["ended_by"]) == {"epochs", "halving"}
    assert (trained["epochs"][trained["ended_by"] == "halving"] < 4).all()
    assert (trained["epochs"][trained["ended_by"] == "epochs"] == 4).all()


def test_look_backs_leave_enough_to_learn_from() -> None:
    assert look_backs_of(None, 9000, 24) == [512, 1024, 2048]
    assert look_backs_of(None, 400, 24) == [100]
    assert look_backs_of(None, 400, 390) == [10]
    assert look_backs_of([64, 32, 64], 400, 24) == [32, 64]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "lora"}, "method='lora' is searched"),
        ({"minutes": 0}, "minutes=0"),
        ({"look_backs": ()}, "look_backs"),
        ({"look_backs": (0, 32)}, "look_backs=0 is not allowed"),
        ({"look_backs": (32, 173)}, "give at most 172"),
        ({"horizon": 0}, "horizon=0 is not allowed"),
        ({"horizon": 180, "look_backs": None}, "180 steps, of which 180 are to forecast"),
        ({"max_epochs": 0}, "max_epochs=0 is not allowed"),
        ({"methods": ("msft", "zero_shot")}, "'zero_shot' trains nothing"),
        ({"methods": ("msft", "ful")}, "method='ful' is not known"),
        ({"methods": "full"}, "give a list of methods"),
        ({"future_covariates": VAL}, "give them from 2024-01-01 00:00:00 to"),
        ({"future_covariates": [SERIES, SERIES]}, "1 training series and 2 future_covariates"),
        ({"past_covariates": VAL}, "past_covariates can't be given"),
        ({"methods": ("full",), "lora_rank": 4}, "lora_rank=4 is without effect"),
    ],
)
def test_arguments_that_can_t_be(
    tiny_moirai: str, changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MSFTFoundationModel, "__init__", None)  # none is made before the arguments are seen
    with pytest.raises(ValueError, match=message):
        tuned(tiny_moirai, **changes)


def test_validation_series_must_follow() -> None:
    with pytest.raises(ValueError, match=r"val_series 0 begins at .*: give what follows"):
        tune(TRAIN, SERIES[170:], HORIZON)
    with pytest.raises(ValueError, match="1 training and 2 validation"):
        tune(TRAIN, [VAL, VAL], HORIZON)


def test_a_folder_of_another_search_is_refused(tiny_moirai: str, tmp_path: Path) -> None:
    tuned(tiny_moirai, minutes=1e-6, folder=tmp_path)
    with pytest.raises(ValueError, match="other series or arguments"):
        tuned(tiny_moirai, minutes=1e-6, folder=tmp_path, lower=0.0)


def test_other_files_in_the_folder_stay(tiny_moirai: str, tmp_path: Path) -> None:
    names = ["1000.pt", "mine.pt", "mine.pt.ckpt", "0.pt.old"]
    for name in names:
        (tmp_path / name).write_text("mine")
    tuned(tiny_moirai, folder=tmp_path, look_backs=(16, 24, 32, 48), methods=(), ensemble=False)
    assert [(tmp_path / name).read_text() for name in names] == 4 * ["mine"]
    assert len([file for file in tmp_path.glob("?.pt*") if file.name not in names]) == 2 * 3


@pytest.mark.parametrize(("lengths", "run"), [((10, 10, 10), 2), ((10, 4, 3), 3)])
def test_the_clock_ends_a_fit_before_an_epoch_that_would_be_late(
    lengths: tuple[int, ...], run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25 seconds: after two epochs of 10 a third would end at 30; after 17, one like the longest at 27."""
    now = 0.0
    monkeypatch.setattr("darts_msft.search.time.monotonic", lambda: now)
    trial = SimpleNamespace(report=lambda *_: None, should_prune=lambda: False)
    halving = Halving(trial, 25.0, np.ones((1, 1)))
    trainer: Any = SimpleNamespace(current_epoch=0, max_epochs=4, should_stop=False)
    module: Any = SimpleNamespace(by_series=torch.ones(1, 1), units=SimpleNamespace(values=np.ones((1, 1))))
    for length in (*lengths, 10):
        halving.on_train_epoch_start(trainer, module)
        now += length
        halving.on_train_epoch_end(trainer, module)
        trainer.current_epoch += 1
        if trainer.should_stop:
            break
    assert (trainer.current_epoch, halving.ended_by) == (run, "clock")


def test_a_candidate_that_the_clock_ended_is_not_begun_again(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(self: Halving, trainer: Any, pl_module: Any) -> None:
        self.ended_by, trainer.should_stop = "clock", True

    monkeypatch.setattr(Halving, "on_train_epoch_end", ended)
    fits: list[str] = []
    fit = MSFTFoundationModel.fit
    monkeypatch.setattr(
        MSFTFoundationModel, "fit", lambda self, *a, **k: fits.append(self.model_params["method"]) or fit(self, *a, **k)
    )
    tuned(tiny_moirai, minutes=0.1, look_backs=(32,), ensemble=False)
    assert fits == ["zero_shot", "msft"]
