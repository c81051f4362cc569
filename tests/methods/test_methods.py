"""The finetuning methods through `MSFTFoundationModel`, and what each alone promises; AdaLoRA has a file of its own."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract_method import free_names, make_module
from darts.utils.likelihood_models.torch import GaussianLikelihood
from model_fixtures import CONTEXT, HORIZON, changed, make_model, parameters_snapshot, values_of, wave

from darts_msft import MSFTFoundationModel
from darts_msft.methods import METHODS, find_method

LATER = wave(44, seed=1)
TRAINED = [name for name in METHODS if find_method(name).trains]


def make(checkpoint: str, method: str, **changes: Any) -> MSFTFoundationModel:
    rank = {"lora_rank": 2} if "lora_rank" in find_method(method).options else {}
    return make_model(checkpoint, **{"method": method, "num_scales": None, **rank, **changes})


def forecast_of(model: MSFTFoundationModel) -> np.ndarray:
    return values_of(model.predict(HORIZON, wave(), num_samples=10, random_state=0))


# --------------------------------------------------------------------------------------------------- all methods


@pytest.fixture(scope="module")
def zero_shot(tiny_moirai: str) -> tuple[np.ndarray, float]:
    """The pretrained model's forecast, and its score on `LATER`."""
    model = make(tiny_moirai, "linear_probe").fit(wave(), val_series=LATER)
    return forecast_of(make(tiny_moirai, "zero_shot")), model.candidates[0].score


@pytest.mark.parametrize("method", TRAINED)
def test_training_helps_from_the_zero_shot_forecast_on(
    tiny_moirai: str, method: str, zero_shot: tuple[np.ndarray, float]
) -> None:
    """The default rates move every method downhill on the random fixture; a forecast before the fit changes nothing."""
    model = make(tiny_moirai, method, n_epochs=3)
    if find_method(method).pretrained:
        assert np.array_equal(forecast_of(model), zero_shot[0])
    scores = [candidate.score for candidate in model.fit(wave(), val_series=LATER).candidates]
    assert min(scores) < scores[0]
    assert model.candidates[0].label == ("zero-shot" if find_method(method).pretrained else "untrained")
    assert (scores[0] == zero_shot[1]) == find_method(method).pretrained


@pytest.mark.parametrize("method", TRAINED)
def test_a_new_head_trains_beside_the_method(tiny_moirai: str, method: str) -> None:
    trained = free_names(make_module(Path(tiny_moirai), method, likelihood=GaussianLikelihood()))
    assert {"new_heads.linear.weight", "new_heads.linear.bias"} <= trained
    assert not any(name.startswith("backbone.module.param_proj") for name in trained)


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_scales_is_a_choice_of_its_own(tiny_moirai: str, method: str) -> None:
    asked = {None: 1, "auto": 1, 0: 0, 2: 2}  # 4 tokens are left at scale 1
    found = {scales: make_module(Path(tiny_moirai), method, CONTEXT, num_scales=scales).plan for scales in asked}
    assert {scales: plan.num_scales for scales, plan in found.items()} == asked


@pytest.mark.parametrize("method", ["full", "adalora"])
def test_other_methods_search_for_the_number_of_scales_too(tiny_moirai: str, method: str) -> None:
    model = make(tiny_moirai, method, num_scales="auto").fit(wave(60), val_series=LATER)
    scores = model.fit_report.num_scales_scores
    alone = make(tiny_moirai, method, num_scales=1).fit(wave(60), val_series=LATER)
    assert list(scores) == [0, 1]
    assert scores[1] == alone.fit_report.best
    assert model.fit_report.best == min(scores.values()) == scores[len(model.scale_weights) - 1]


REFUSED = [
    ("loraa", {}, "^method='loraa' .*'msft', 'msft_full', 'zero_shot', .*'scratch'"),
    ("lora", {"lora_rank": 0}, "lora_rank=0"),
    ("adalora", {"lora_alpha": 0}, "lora_alpha=0"),
    ("prompt", {"prompt_length": 0}, "prompt_length=0"),
    ("zero_shot", {"enable_finetuning": True}, "enable_finetuning=True"),
    ("zero_shot", {"enable_finetuning": {"unfreeze": ["*"]}}, "enable_finetuning="),
    ("zero_shot", {"likelihood": GaussianLikelihood()}, "likelihood=Gaussian"),
    ("scratch", {"enable_finetuning": False}, "enable_finetuning=False"),
]


@pytest.mark.parametrize(("method", "settings", "named"), REFUSED)
def test_what_a_method_cannot_do_with_is_refused(
    tiny_moirai: str, method: str, settings: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        make_model(tiny_moirai, method=method, num_scales=None, **settings).fit(wave())


def test_missing_peft_is_an_error_with_the_install_line(tiny_moirai: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("low_rank", "lora", "adalora"):
        monkeypatch.delitem(sys.modules, f"darts_msft.methods.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "peft", None)
    for method in ("lora", "adalora"):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'darts-msft\[peft\]'"):
            make_model(tiny_moirai, method=method, num_scales=None)
    assert np.isfinite(forecast_of(make(tiny_moirai, "full"))).all()  # the others don't need it


# ------------------------------------------------------------------------------------------- no training, or no weights


def test_zero_shot_fit_is_zero_shot_predict(tiny_moirai: str) -> None:
    never, fitted = (make_model(tiny_moirai, method="zero_shot", num_scales=0) for _ in range(2))
    fitted.fit(wave(), val_series=LATER)
    assert np.array_equal(forecast_of(never), forecast_of(fitted))
    assert changed(parameters_snapshot(never), parameters_snapshot(fitted)) == set()
    assert fitted.candidates == []
    assert fitted.trainer.global_step == 0


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
    for ask in (
        lambda: model.predict(HORIZON, wave()),
        lambda: model.historical_forecasts(wave(), retrain=False, forecast_horizon=HORIZON),
        lambda: model.scale_forecasts(wave()),
    ):
        with pytest.raises(ValueError, match=r"^method='scratch'.*fit\(\)"):
            ask()


# ---------------------------------------------------------------------------------------------------------- prompt


def test_prompt_stands_before_the_first_observed_token(tiny_moirai: str) -> None:
    method, tokens = make_module(Path(tiny_moirai), "prompt", prompt_length=2).method, torch.arange(1.0, 6.0)
    tokens = tokens.reshape(1, 1, 5, 1).expand(3, 1, 5, 64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool).unsqueeze(1)
    assert method.tokens.shape == (2, 64)
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
    with pytest.raises(ValueError, match=r"\b503 of the method's own, more than the 512"):
        make(tiny_moirai, "prompt", prompt_length=503)


# ------------------------------------------------------------------------------------------------------ LoRA, AdaLoRA


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_the_tuner_has_no_second_name_for_a_parameter(tiny_moirai: str, method: str) -> None:
    module = make_module(Path(tiny_moirai), method)
    names = [name for name, _ in module.named_parameters(remove_duplicate=False)]
    assert not [name for name in names if name.startswith("method.")]
    assert len(names) == len(list(module.parameters()))
    other = copy.deepcopy(module)
    assert other.method.tuner.model is other.backbone is not module.backbone
    with other.bare_backbone() as bare:
        pretrained = bare.state_dict()
    assert pretrained.keys() == make_module(Path(tiny_moirai), "zero_shot").backbone.state_dict().keys()
