"""UniTS against the forecasts of the official code (a golden file), and the converter of official checkpoints."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from contract_backbone import forecast, random_walks
from model_fixtures import HORIZON, make_model, values_of, wave
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from darts_msft.backbones import units_checkpoint
from darts_msft.backbones.base import standardise
from darts_msft.backbones.units import StretchedLinear, UnitsBackbone
from darts_msft.backbones.units_checkpoint import adapt, config_of

GOLDEN = Path(__file__).parents[1] / "fixtures" / "units.safetensors"
with safe_open(GOLDEN, framework="pt") as file:
    CASES: dict[str, dict[str, Any]] = json.loads(file.metadata()["cases"])
    EXPECTED = {name: file.get_tensor(name) for name in file.keys() if name.startswith("io.")}  # noqa: SIM118
    OFFICIAL = {name.removeprefix("sd."): file.get_tensor(name) for name in file.keys() if name.startswith("sd.")}  # noqa: SIM118


def backbone_of(dataset: str) -> UnitsBackbone:
    """With the golden weights, and a data set's tokens for each variate."""
    config = config_of(OFFICIAL, {}, "the golden file")
    backbone = UnitsBackbone.from_config(config, config["patch_len"])
    backbone.load_pretrained(adapt(OFFICIAL), "the golden file")
    backbone.prompt_token = nn.Parameter(OFFICIAL[f"prompt_tokens.{dataset}"][0])
    backbone.mask_token = nn.Parameter(OFFICIAL[f"mask_tokens.{dataset}"][0])
    return backbone.eval()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["seq_len"] % 16 == 0])
@torch.no_grad()
def test_forecasts_are_those_of_the_official_code(name: str) -> None:
    case = CASES[name]
    params, stats = forecast(
        backbone_of(case["dataset"]), EXPECTED[f"io.{name}.input"].mT.contiguous(), case["pred_len"], 16
    )
    found = params.squeeze(-1) * stats.spread + stats.loc
    torch.testing.assert_close(found, EXPECTED[f"io.{name}.output"].mT, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_parts_forecast_as_there_where_the_context_is_filled_on_the_right() -> None:
    """As the official code does it; the package fills on the left, and so differs by design."""
    case = CASES["LTF_B_p60"]
    context, backbone = EXPECTED["io.LTF_B_p60.input"].mT, backbone_of(case["dataset"])
    stats = backbone.statistics(context, context[..., :0])
    filled = nn.functional.pad(standardise(context, stats), (0, 12))
    future = torch.zeros(2, 1, 48)
    tokens = backbone.embed(filled, torch.ones_like(filled, dtype=torch.bool), future, future > 0)
    for layer in range(backbone.spec.num_layers):
        tokens = backbone.feed_forward(layer, backbone.attention(layer, tokens, None, {}), None)
    steps = backbone.forecast_head(tokens.flatten(0, 1)).flatten(-2).unsqueeze(1)
    found = steps[..., -case["pred_len"] :] * stats.spread + stats.loc
    torch.testing.assert_close(found.float(), EXPECTED["io.LTF_B_p60.output"].mT, rtol=0, atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- parts


def place(index: int, count: int, size: int) -> tuple[int, int, float]:
    """Where place `index` of `count` lies among `size` places: between which two, and how far on the way."""
    where = max((index + 0.5) * size / count - 0.5, 0)
    before = min(int(where), size - 1)
    return before, min(before + 1, size - 1), min(where - before, 1.0)


def at(matrix: Tensor, row: tuple[int, int, float], column: tuple[int, int, float]) -> float:
    top, bottom = ((1 - column[2]) * matrix[i, column[0]] + column[2] * matrix[i, column[1]] for i in row[:2])
    return float((1 - row[2]) * top + row[2] * bottom)


@pytest.mark.parametrize(("inputs", "outputs"), [(9, 7), (4, 2), (16, 14), (9, 3)])
@torch.no_grad()
def test_a_map_is_stretched_by_linear_interpolation_with_the_prompts_apart(inputs: int, outputs: int) -> None:
    torch.manual_seed(0)
    linear, tokens = StretchedLinear(9, 7, fixed=2), torch.randn(1, inputs, 1)
    found = linear(tokens, outputs)[0, :, 0]
    for index in range(outputs):
        row = place(index, outputs, 7)
        total = at(linear.bias[:, None], row, (0, 0, 0.0))
        for column in range(inputs):
            prompt = column < 2
            part = linear.weights[:, :2] if prompt else linear.weights[:, 2:]
            across = (column, column, 0.0) if prompt else place(column - 2, inputs - 2, 7)
            total += at(part, row, across) * float(tokens[0, column, 0])
        assert math.isclose(found[index].item(), total, abs_tol=1e-5)


@torch.no_grad()
def test_series_of_several_beginnings_are_forecast_as_each_alone() -> None:
    """The maps along time have the length of each one; variates of a series share it."""
    backbone, context = backbone_of("A"), random_walks(4, 3, 96)
    for row, missing in enumerate((0, 40, 0, 64)):
        context[row, :, :missing] = torch.nan
    context[1, 0, :70] = torch.nan  # the others began before: a gap
    together = forecast(backbone, context, 32, 16).params
    for row, beginning in enumerate((0, 32, 0, 64)):
        alone = forecast(backbone, context[row : row + 1, :, beginning:], 32, 16).params
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], forecast(backbone, context[:1, :, 32:], 32, 16).params, atol=1e-2)


# ---------------------------------------------------------------------------------------------------------- converter


def converted(tmp_path: Path, whole: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors that the command writes for a file with `whole` in it."""
    torch.save(whole, tmp_path / "official.pth")
    units_checkpoint.main([str(tmp_path / "official.pth"), str(tmp_path / "made")])
    made = tmp_path / "made"
    return json.loads((made / "config.json").read_text()), load_file(made / "model.safetensors")


def test_a_supervised_checkpoint_is_converted_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, weights = converted(tmp_path, {f"module.{name}": part for name, part in OFFICIAL.items()})
    assert config == {"prompt_num": 10, "patch_len": 16, "e_layers": 3, "d_model": 64, "n_heads": 8}
    sets = [OFFICIAL["prompt_tokens.A"].mean(dim=(0, 1)), OFFICIAL["prompt_tokens.B"][0, 0]]
    torch.testing.assert_close(weights["prompt_token"], (sets[0] + sets[1]) / 2)
    assert torch.equal(weights["forecast_head.pos_proj.weights"], OFFICIAL["forecast_head.pos_proj.weights"])
    assert str(tmp_path / "made") in capsys.readouterr().out
    model = make_model(str(tmp_path / "made"), patch_size=16, input_chunk_length=64, num_scales=1)
    assert values_of(model.predict(HORIZON, wave())).std() > 0


def test_a_pretraining_checkpoint_is_converted(tmp_path: Path) -> None:
    """With its optimiser and arguments, one of which is the number of heads."""
    whole = {
        "student": {**OFFICIAL, "cls_tokens.A": torch.zeros(1, 3, 1, 64), "pretrain_head.proj_in.bias": torch.ones(64)},
        "optimizer": {"state": {0: torch.zeros(2)}},
        "epoch": 3,
        "args": argparse.Namespace(n_heads=4, prompt_num=10),
    }
    config, weights = converted(tmp_path, whole)
    assert config["n_heads"] == 4
    assert set(weights) == set(adapt(OFFICIAL))


def test_tokens_that_data_sets_share_are_kept(tmp_path: Path) -> None:
    state = {name: part for name, part in OFFICIAL.items() if "_tokens" not in name}
    shared = {"prompt_token": torch.randn(1, 1, 10, 64), "mask_token": torch.randn(1, 1, 1, 64)}
    weights = converted(tmp_path, {**state, **shared, "cls_token": torch.zeros(1, 1, 1, 64)})[1]
    assert all(torch.equal(weights[name], part[0, 0]) for name, part in shared.items())


class NoTensor:
    """What a pickle could run code with."""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({**OFFICIAL, "note": NoTensor()}, "tensors"),
        ({"weight": torch.zeros(2)}, "no UniTS checkpoint"),
        ([1, 2], "no UniTS checkpoint"),
        ({**OFFICIAL, "surplus": torch.zeros(2)}, "surplus"),
        ({name: part for name, part in OFFICIAL.items() if name != "prompt2forecat.bias"}, "prompt2forecat.bias"),
    ],
    ids=["an object", "another model", "no state", "a tensor too many", "a tensor missing"],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, reason: str) -> None:
    with pytest.raises(SystemExit, match=rf"^[^\n]*official\.pth[^\n]*{reason}[^\n]*$"):
        converted(tmp_path, content)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_broken_files_are_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "broken.pth"
    torch.save(OFFICIAL, file)
    file.write_bytes(file.read_bytes()[:-200] if content is None else content)
    with pytest.raises(SystemExit, match=r"^[^\n]*broken\.pth[^\n]*download it again[^\n]*$"):
        units_checkpoint.main([str(file), str(tmp_path / "made")])
    with pytest.raises(SystemExit, match=r"absent\.pth"):
        units_checkpoint.main([str(tmp_path / "absent.pth"), str(tmp_path / "made")])
