"""What a fit leaves behind: on a Trainer of the user's, after a failure, and for a fit that is resumed otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from darts.models import NLinearModel
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from darts.utils.likelihood_models.torch import QuantileRegression
from model_fixtures import CONTEXT, HORIZON, STILL, TRAINER, ZERO_SHOT, make_model, naive_unit, wave

from darts_msft import MSFTFoundationModel
from darts_msft.forms import Form
from darts_msft.likelihoods import DartsFamily

SAVES = {name: value for name, value in TRAINER.items() if name != "enable_checkpointing"}
VAL = wave(60, seed=1)


def test_of_equal_states_the_first_is_kept(tiny_moirai: str) -> None:
    """The head alone trains, at a rate of zero: all states forecast the same."""
    model = make_model(tiny_moirai, method="linear_probe", num_scales=0, lr_head=0.0, n_epochs=2)
    model.fit(wave(60), val_series=VAL)
    assert len({state.score for state in model.candidates}) == 1
    assert model.fit_report.kept == "zero-shot"
    assert model.model.kind is Form.ONE_SCALE


def test_an_own_trainer_is_left_as_it_was(tiny_moirai: str) -> None:
    callbacks: list[pl.Callback] = [pl.callbacks.EarlyStopping("val_loss", patience=1)]
    trainer = pl.Trainer(max_epochs=1, num_sanity_val_steps=2, callbacks=callbacks, **TRAINER)
    model = make_model(tiny_moirai).fit(wave(60), val_series=VAL, trainer=trainer)
    assert [state.label for state in model.candidates] == [*ZERO_SHOT, "epoch 1"]
    assert trainer.callbacks == callbacks
    assert trainer.num_sanity_val_steps == 2
    NLinearModel(16, 4).fit(wave(60), val_series=VAL, trainer=trainer)


@pytest.mark.filterwarnings("ignore:`ModelCheckpoint:UserWarning")  # Lightning: no score to name the best checkpoint by
@pytest.mark.parametrize(
    ("likelihood", "validated"), [("native", (True, False)), (QuantileRegression([0.1, 0.5, 0.9]), (False, True))]
)
def test_a_fit_resumes_with_or_without_validation(
    tiny_moirai: str, tmp_path: Path, likelihood: Any, validated: tuple[bool, bool]
) -> None:
    """The scales' weights are solved for in one part and trained in the other."""
    first, then = ({"val_series": VAL} if each else {} for each in validated)
    work = {"model_name": "run", "work_dir": str(tmp_path)}
    model = make_model(tiny_moirai, likelihood=likelihood, save_checkpoints=True, pl_trainer_kwargs=SAVES, **work)
    model.fit(wave(60), **first)
    resumed = MSFTFoundationModel.load_from_checkpoint(**work, best=False)
    resumed.fit(wave(60), epochs=2, **then)
    assert resumed.epochs_trained == 2


def test_a_resumed_fit_without_a_validation_in_it_is_scored_at_its_end(tiny_moirai: str, tmp_path: Path) -> None:
    checkpoint = pl.callbacks.ModelCheckpoint(str(tmp_path), filename="end", save_on_train_epoch_end=True)
    trainer = {**SAVES, "enable_checkpointing": True, "check_val_every_n_epoch": 5, "callbacks": [checkpoint]}
    whole, resumed = (make_model(tiny_moirai, pl_trainer_kwargs=trainer, n_epochs=2, lr_head=1e-2) for _ in range(2))
    whole.fit(wave(), val_series=VAL)
    resumed.load_ckpt_path = str(tmp_path / "end.ckpt")
    resumed.fit(wave(), val_series=VAL, epochs=3)
    assert [state.label for state in resumed.candidates] == [*ZERO_SHOT, "end of training"]
    assert resumed.fit_report.kept == "end of training"


def test_the_score_of_a_batch_is_at_the_present_weights(tiny_moirai: str) -> None:
    class Keep(pl.Callback):
        def __init__(self) -> None:
            self.scores: list[float] = []

        def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            self.scores.append(float(outputs))

    keep = Keep()
    model = make_model(tiny_moirai, trainer={"callbacks": [keep]}, batch_size=64, **STILL).fit(wave(60), val_series=VAL)
    unit = naive_unit(wave(60), season=1)[0]
    assert keep.scores[0] / unit == pytest.approx(model.candidates[0].score, rel=1e-4)


class Preset(MSFTFoundationModel):
    """A subclass that sets our arguments itself: Darts knows those in its own signature alone."""

    def __init__(self, input_chunk_length: int, output_chunk_length: int, output_chunk_shift: int = 0, **given: Any):
        super().__init__(input_chunk_length, output_chunk_length, output_chunk_shift, lora_rank=4, **given)


def test_a_subclass_with_a_signature_of_its_own(tiny_moirai: str) -> None:
    model = Preset(32, HORIZON, backbone=tiny_moirai, num_scales=1, n_epochs=1, pl_trainer_kwargs=TRAINER)
    model.fit(wave(60), val_series=VAL)
    assert model.model.method.config.lora_rank == 4
    assert len(model.predict(HORIZON)) == HORIZON


def test_the_gap_before_a_shifted_horizon_teaches_nothing(tiny_moirai: str) -> None:
    shift = 3
    model = make_model(tiny_moirai, method="full", num_scales=0, output_chunk_shift=shift, enable_finetuning=False)
    module = model.fit(wave()).model
    batch = TorchTrainingBatch(past_target=torch.randn(4, CONTEXT, 1), future_target=torch.randn(4, HORIZON, 1))
    outputs = module.forecast_scales(module.window(batch))
    value = (batch.future_target.transpose(1, 2) - outputs.stats[0].loc) / outputs.stats[0].spread
    expected = outputs.family.loss(outputs.params[0][..., shift:, :], value, torch.ones_like(value))
    torch.testing.assert_close(module.training_loss(batch, outputs), expected)


def test_the_mixed_loss_of_quantiles_has_no_units() -> None:
    family = DartsFamily(QuantileRegression([0.1, 0.5, 0.9]))
    params, value = torch.randn(2, 1, 4, 2, 3), torch.randn(2, 1, 4)
    loc, spread, weights = torch.randn(2, 1, 1, 2), torch.rand(2, 1, 1, 2) + 0.5, torch.tensor([0.3, 0.7])
    plain = family.mixed_loss(params, loc, spread, weights, value)
    torch.testing.assert_close(family.mixed_loss(params, 100 * loc, 100 * spread, weights, 100 * value), plain)


def test_loading_an_adapter_draws_no_random_number(tiny_moirai: str, tmp_path: Path) -> None:
    make_model(tiny_moirai).fit(wave(60)).save_adapter(tmp_path / "adapter")
    model = make_model(tiny_moirai)
    state = torch.get_rng_state()
    model.load_adapter(tmp_path / "adapter")
    assert torch.equal(torch.get_rng_state(), state)
