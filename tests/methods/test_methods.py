"""The finetuning methods through `MSFTFoundationModel`, and what each alone promises."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import HORIZON, changed, make_model, parameters_snapshot, values_of, wave
from torch import Tensor
from trained_names import TRAINED_NAMES

from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method
from darts_msft.methods.adalora import AdaLoRA

LATER = wave(48, seed=1)
TRAINED = [name for name in METHODS if find_method(name).trains]


def make(checkpoint: str, method: str, **changes: Any) -> MSFTFoundationModel:
    rank = {"lora_rank": 2} if "lora_rank" in find_method(method).options else {}
    return make_model(checkpoint, **{"method": method, "num_scales": None, **rank, **changes})


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON, wave(), num_samples=10, random_state=0))


def nonzero_ranks(model: MSFTFoundationModel) -> int:
    values = [value for name, value in model.model.named_parameters() if ".lora_E." in name]
    assert values
    return sum(int(value.count_nonzero()) for value in values)


# --------------------------------------------------------------------------------------------------- all methods


@pytest.mark.parametrize("method", TRAINED)
def test_training_helps_a_series_that_it_suits(tiny_moirai: str, method: str) -> None:
    """The default rates move every method downhill on the random fixture, and the best state is the one kept."""
    model = make(tiny_moirai, method, n_epochs=3).fit(wave(), val_series=LATER)
    scores = [candidate.score for candidate in model.candidates]
    assert model.candidates[0].label == ("zero-shot" if find_method(method).pretrained else "untrained")
    assert min(scores) < scores[0]
    assert model.fit_report.best == min(scores)


@pytest.mark.parametrize("method", TRAINED)
def test_a_new_head_trains_beside_the_method(tiny_moirai: str, method: str) -> None:
    model = make(tiny_moirai, method, likelihood=GaussianLikelihood()).fit(wave())
    trained = {name for name, value in model.model.named_parameters() if value.requires_grad}
    assert {"step_head.weight", "step_head.bias"} <= trained
    assert not any(name.startswith("backbone.module.param_proj") for name in trained)
    assert np.isfinite(forecast_of(model)).all()


@pytest.mark.parametrize("method", [name for name in TRAINED if find_method(name).pretrained])
def test_forecasts_zero_shot_and_then_fits_from_there(tiny_moirai: str, method: str) -> None:
    fresh, used = make(tiny_moirai, method), make(tiny_moirai, method)
    assert np.array_equal(forecast_of(used), forecast_of(make(tiny_moirai, "zero_shot")))
    starts = [model.fit(wave(), val_series=LATER).candidates[0] for model in (fresh, used)]
    assert starts[0] == starts[1]
    assert starts[0].label == "zero-shot"


@pytest.mark.parametrize("method", METHODS)
def test_rates_are_the_method_s_unless_given(tiny_moirai: str, method: str) -> None:
    own = find_method(method).rates.to_dict()
    assert make(tiny_moirai, method)._module_settings["learning_rates"] == own
    for group in TRAINED_NAMES["moirai"][method]:
        given = make(tiny_moirai, method, **{f"lr_{group}": 0.5})._module_settings["learning_rates"]
        assert given == {**own, group: 0.5}


@pytest.mark.parametrize("method", [name for name in METHODS if not find_method(name).multi_scale])
def test_one_scale_is_all_that_these_take(tiny_moirai: str, method: str) -> None:
    assert make(tiny_moirai, method)._module_settings["num_scales"] == 0
    assert make(tiny_moirai, method, num_scales=0)._module_settings["num_scales"] == 0
    for asked in (1, "auto"):
        message = rf"^num_scales={asked!r} is not allowed with method='{method}'.*None or 0.*'msft'$"
        with pytest.raises(ValueError, match=message):
            make(tiny_moirai, method, num_scales=asked)


def test_unknown_method_is_named_with_the_choices(tiny_moirai: str) -> None:
    with pytest.raises(ValueError, match=r"^method='loraa' is not known; choose one of 'msft'.*'adalora', 'scratch'$"):
        make(tiny_moirai, "loraa")


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_missing_peft_is_an_error_with_the_install_line(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("low_rank", "lora", "adalora"):
        monkeypatch.delitem(sys.modules, f"darts_msft.methods.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"'lora' and 'adalora' need .*pip install 'darts-msft\[peft\]'"):
        make(tiny_moirai, method)
    assert np.isfinite(forecast_of(make(tiny_moirai, "full"))).all()  # the others don't need it


@pytest.mark.parametrize("method", ["lora", "adalora", "prompt"])
def test_load_from_checkpoint(tiny_moirai: str, tmp_path: Path, method: str) -> None:
    run = {"work_dir": str(tmp_path), "model_name": "run", "save_checkpoints": True}
    model = make(tiny_moirai, method, trainer={"enable_checkpointing": True}, n_epochs=2, **run)
    model.fit(wave(), val_series=LATER)
    loaded = MSFTFoundationModel.load_from_checkpoint("run", work_dir=str(tmp_path), best=False)
    model.model.load_state_dict(loaded.model.state_dict())
    assert np.array_equal(forecast_of(loaded), forecast_of(model))
    before = {name for name, value in model.model.named_parameters() if value.requires_grad}
    assert before == {name for name, value in loaded.model.named_parameters() if value.requires_grad}


# ------------------------------------------------------------------------------------------- no training, or no weights


def test_zero_shot_fit_is_zero_shot_predict(tiny_moirai: str) -> None:
    never, fitted = make(tiny_moirai, "zero_shot"), make(tiny_moirai, "zero_shot")
    fitted.fit(wave(), val_series=LATER)
    assert np.array_equal(forecast_of(never), forecast_of(fitted))
    assert changed(parameters_snapshot(never), parameters_snapshot(fitted)) == set()
    assert fitted.candidates == []
    assert fitted.trainer.global_step == 0


@pytest.mark.parametrize("asked", [True, {"unfreeze": ["*"]}])
def test_zero_shot_refuses_to_train(tiny_moirai: str, asked: Any) -> None:
    with pytest.raises(ValueError, match=r"^enable_finetuning=.* is not allowed with method='zero_shot'"):
        make(tiny_moirai, "zero_shot", enable_finetuning=asked)
    with pytest.raises(ValueError, match=r"^likelihood=GaussianLikelihood.* method='zero_shot' doesn't train"):
        make(tiny_moirai, "zero_shot", likelihood=GaussianLikelihood())


def test_scratch_ignores_pretrained_weights(tiny_moirai: str, tmp_path: Path) -> None:
    weights = Path(shutil.copytree(tiny_moirai, tmp_path / "weights"))
    (weights / "model.safetensors").unlink()
    models = [make(path, "scratch", random_state=seed) for path, seed in ((tiny_moirai, 0), (str(weights), 0))]
    other = make(tiny_moirai, "scratch", random_state=1)
    here, there, elsewhere = (forecast_of(model.fit(wave())) for model in (*models, other))
    assert np.array_equal(here, there)
    assert not np.array_equal(here, elsewhere)
    assert not np.array_equal(here, forecast_of(make(tiny_moirai, "full").fit(wave())))


def test_scratch_cannot_forecast_before_fit(tiny_moirai: str) -> None:
    model = make(tiny_moirai, "scratch")
    message = r"^method='scratch' starts from random weights.*fit\(\)"
    with pytest.raises(ValueError, match=message):
        model.predict(HORIZON, wave())
    with pytest.raises(ValueError, match=message):
        model.historical_forecasts(wave(), retrain=False, forecast_horizon=HORIZON)
    with pytest.raises(ValueError, match=message):
        model.scale_forecasts(wave())
    with pytest.raises(ValueError, match=r"^enable_finetuning=False .*method='scratch'.*'zero_shot'$"):
        make(tiny_moirai, "scratch", enable_finetuning=False)


# ---------------------------------------------------------------------------------------------------------- prompt


@pytest.mark.parametrize("length", [1, 5])
def test_prompt_trains_its_tokens_alone(tiny_moirai: str, length: int) -> None:
    model = make(tiny_moirai, "prompt", prompt_length=length).fit(wave())
    trained = {name: tuple(value.shape) for name, value in model.model.named_parameters() if value.requires_grad}
    assert trained == {"method.tokens": (length, 64)}


def test_prompt_stands_before_the_first_observed_token(tiny_moirai: str) -> None:
    model = make(tiny_moirai, "prompt", prompt_length=2)
    forecast_of(model)
    method, tokens = model.model.method, torch.arange(1.0, 6.0).reshape(1, 1, 5, 1).expand(3, 1, 5, 64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool).unsqueeze(1)
    with torch.no_grad():
        method.tokens.copy_(torch.tensor([[-1.0], [-2.0]]).expand(2, 64))
        (placed,), (extended,) = method.add_tokens([tokens], [mask])
        (unmasked,), (nothing,) = method.add_tokens([tokens], [None])
        assert torch.equal(method.drop_tokens([placed], [mask])[0], tokens)
        assert torch.equal(method.drop_tokens([unmasked], [None])[0], tokens)
    order = [[-1, -2, 1, 2, 3, 4, 5], [1, 2, -1, -2, 3, 4, 5], [1, 2, 3, 4, -1, -2, 5]]
    assert placed[:, 0, :, 0].tolist() == order
    assert unmasked[0, 0, :, 0].tolist() == order[0]
    assert nothing is None
    seen = [[1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1]]
    assert extended[:, 0].int().tolist() == seen


def test_prompt_counts_among_the_tokens(tiny_moirai: str) -> None:
    make(tiny_moirai, "prompt", prompt_length=502)  # 8 context tokens and 2 of the horizon: 512 is the limit
    with pytest.raises(ValueError, match=r"10 tokens of 4 steps and 503 of the method's own, more than the 512"):
        make(tiny_moirai, "prompt", prompt_length=503)
    with pytest.raises(ValueError, match=r"^prompt_length=0 is not allowed; give an integer of at least 1$"):
        make(tiny_moirai, "prompt", prompt_length=0)


# ------------------------------------------------------------------------------------------------------ LoRA, AdaLoRA


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_the_tuner_has_no_second_name_for_a_parameter(tiny_moirai: str, method: str) -> None:
    model = make(tiny_moirai, method)
    forecast_of(model)
    names = [name for name, _ in model.model.named_parameters(remove_duplicate=False)]
    assert not [name for name in names if name.startswith("method.")]
    assert len(names) == len(list(model.model.parameters()))
    other = copy.deepcopy(model.model)
    assert other.method.tuner.model is other.backbone is not model.model.backbone
    with other.bare_backbone() as bare:
        pretrained = bare.state_dict()
    assert pretrained.keys() == forecast_backbone(tiny_moirai).keys()


def forecast_backbone(checkpoint: str) -> dict[str, Tensor]:
    model = make(checkpoint, "zero_shot")
    forecast_of(model)
    state: dict[str, Tensor] = model.model.backbone.state_dict()
    return state


class Steps(pl.Callback):
    """The optimiser's steps, and the ranks, after each batch."""

    def __init__(self) -> None:
        self.after: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.after.append(trainer.global_step)


@pytest.mark.parametrize("accumulated", [1, 2])
def test_adalora_s_ranks_fall_to_the_target_once_a_step(
    tiny_moirai: str, monkeypatch: pytest.MonkeyPatch, accumulated: int
) -> None:
    told, after_step = [], AdaLoRA.after_step

    def record(self: AdaLoRA, step: int) -> None:
        after_step(self, step)
        told.append((step, sum(int(layer.lora_E["default"].count_nonzero()) for _, _, layer in self._layers)))

    monkeypatch.setattr(AdaLoRA, "after_step", record)
    steps = Steps()
    trainer = {"accumulate_grad_batches": accumulated, "callbacks": [steps]}
    model = make(tiny_moirai, "adalora", n_epochs=8, lora_rank=3, batch_size=8, trainer=trainer).fit(wave())
    total, matrices = model.trainer.global_step, 3  # one layer's q, k and v
    assert len(steps.after) > total if accumulated > 1 else len(steps.after) == total
    assert [step for step, _ in told] == list(range(1, total + 1))
    warm, last = int(0.1 * total), total - int(0.3 * total)
    high, low = 5 * matrices, 3 * matrices  # 1.5 x 3, rounded up
    left = [min(max((last - step) / (last - warm), 0), 1) for step in range(1, total + 1)]
    assert [rank for _, rank in told] == [int((high - low) * share**3 + low) for share in left]
    assert nonzero_ranks(model) == low


def test_adalora_s_penalty_is_part_of_the_loss(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(tiny_moirai, "adalora")
    forecast_of(model)
    parts = []
    for name, value in model.model.named_parameters():
        rows = value.detach() if ".lora_A." in name else value.detach().T if ".lora_B." in name else None
        if rows is not None:
            products = [[float(a @ b) - (i == j) for j, b in enumerate(rows)] for i, a in enumerate(rows)]
            parts.append(np.sqrt(np.square(products).sum()))
    assert len(parts) == 6
    assert distance(model) == pytest.approx(0.1 * np.mean(parts), rel=1e-5)
    before = distance(model)
    trained = make(tiny_moirai, "adalora", n_epochs=5).fit(wave())
    assert distance(trained) < before


def distance(model: MSFTFoundationModel) -> float:
    return float(model.model.method.penalty().detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer": {"max_steps": 1}}, r"^method='adalora' plans .* has 1; .*method='lora'$"),
        ({"lora_alpha": 0}, r"^lora_alpha=0 is not allowed with method='adalora'"),
    ],
)
def test_adalora_refuses_what_it_cannot_plan(tiny_moirai: str, changes: dict[str, Any], message: str) -> None:
    model = make(tiny_moirai, "adalora", **changes)
    with pytest.raises(ValueError, match=message):
        model.fit(wave())


@pytest.mark.parametrize("epoch", [2, 4])  # while the ranks fall, and after
def test_adalora_resumes_where_it_was(
    tiny_moirai: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    def run(name: str) -> MSFTFoundationModel:
        settings = {"work_dir": str(tmp_path), "model_name": name, "save_checkpoints": True, "n_epochs": 5}
        return make(tiny_moirai, "adalora", trainer={"enable_checkpointing": True}, **settings)

    whole, after_step = run("whole").fit(wave(), val_series=LATER), AdaLoRA.after_step
    killed_at = epoch * whole.trainer.global_step // 5 + 1

    def kill(self: AdaLoRA, step: int) -> None:
        if step == killed_at:
            raise ConnectionAbortedError("killed")
        after_step(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(AdaLoRA, "after_step", kill)
        with pytest.raises(ConnectionAbortedError):
            run("killed").fit(wave(), val_series=LATER)
    resumed = MSFTFoundationModel.load_from_checkpoint("killed", work_dir=str(tmp_path), best=False)
    resumed.fit(wave(), val_series=LATER)
    assert nonzero_ranks(resumed) == 2 * 3
    assert changed(parameters_snapshot(whole), parameters_snapshot(resumed)) == set()
