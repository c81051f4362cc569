"""The README's results block is what `table` makes of the stored results, and the words above it are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from card_entries import EARLIER
from fake_results import arguments_of
from written_figures import text

from benchmarks import results, tables
from benchmarks.provenance import ROOT
from benchmarks.selection import select
from benchmarks.tables import BEGIN, END
from darts_msft.pretraining.objective import POOLING_SHARES

README = ROOT / "README.md"
PRETRAINED = ("msft", "full", "lora", "linear_probe", "zero_shot")


def words_of_the_block(readme: str) -> list[str]:
    """Of the command that stands in the block, what follows `table`."""
    block = readme.split(BEGIN)[1].split(END)[0]
    found = re.match(r"\nMade by `(python -m benchmarks table .*)`\.\n", block)
    assert found is not None, f"no command stands after {BEGIN}"
    return shlex.split(found[1])[4:]


def test_the_block_is_what_its_command_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run on a copy of the README, with the other files going elsewhere."""
    readme, copy = README.read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(readme, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tables, "output", lambda arguments: tmp_path)
    words = words_of_the_block(readme)
    assert words[-2:] == ["--readme", "README.md"]
    tables.main(arguments_of(tables, *words))
    assert copy.read_text(encoding="utf-8") == readme


WORDS = ["--suite", "first", "fracast", "--datasets", "ETTh1", "--horizons", "96"]


def test_the_sentences_above_the_block_are_true_of_its_figures(weights: str) -> None:
    assert words_of_the_block(README.read_text(encoding="utf-8"))[:-2] == WORDS
    (table,) = select(arguments_of(tables, *WORDS))
    assert {run.experiment["seed"] for run in table.runs()} == {0}
    assert {run.result["weights"] for run in table.runs() if run.experiment["model"] in PRETRAINED} == {weights}
    assert "one seed so far" in text(README)
    (column,) = table.columns
    mse, mae = (
        {table.row_names[row]: found.mean for row in table.rows if (found := table.figure(row, column, metric))}
        for metric in ("mse", "mae")
    )
    assert min(mse, key=lambda name: mse[name]) == "MSFT"
    assert min(mae, key=lambda name: mae[name]) == "Fracast-0"

    def behind(name: str) -> str:
        return f"{100 * (mse[name] / mse['MSFT'] - 1):.1f} %"

    assert (
        "MSFT has the lowest MSE; Fracast-0 (PyPI `fracast`, 85,001 parameters), a zero-shot model, is "
        f"{behind('Fracast-0')} behind it there and {100 * (mae['MSFT'] / mae['Fracast-0'] - 1):.1f} % ahead in MAE. "
        f"In MSE full finetuning is {behind('full finetuning')} behind MSFT, LoRA {behind('LoRA')}, PatchTST, which "
        f"unlike ours is trained for it, {behind('PatchTST')}."
    ) in text(README)


def validation_of(run: dict[str, Any], **changes: Any) -> str:
    """The validation MSE of a run's settings, with these changes."""
    experiment = {name: run["experiment"][name] for name in ("family", "model", "dataset", "horizon", "seed")}
    wanted = {**run["settings"], **changes}
    [found] = [
        candidate["validation"]["mse"]
        for _, candidate in results.entries(results.FOLDER, "candidate")
        if experiment.items() <= candidate["experiment"].items()
        and (candidate["weights"], candidate["settings"]) == (run["weights"], wanted)
    ]
    return f"{found:.3f}"


def test_how_far_it_goes(weights: str) -> None:
    (table,) = select(arguments_of(tables, "--suite", "first", "--datasets", "ETTh1", "--horizons", "96"))
    runs = {run.experiment["model"]: run.result for run in table.runs()}
    models = ("msft", "full", "lora")
    crps = {model: runs[model]["fit_report"]["best"] for model in models}
    mse = [validation_of(runs[model]) for model in models]
    assert min(crps, key=lambda model: crps[model]) == "msft"
    assert (
        f"(CRPS {crps['msft']:.3f}, full finetuning {crps['full']:.3f}, LoRA {crps['lora']:.3f}; MSE {', '.join(mse)})"
    ) in text(README)
    assert min(mse) == mse[0]
    (table,) = select(arguments_of(tables, *WORDS[:2], *WORDS[3:], "--weights", EARLIER))
    before = {run.experiment["model"]: f"{run.result['metrics']['mse']:.3f}" for run in table.runs()}
    assert (
        f"the same command had MSFT at an MSE of {before['msft']}, full finetuning at {before['full']} and LoRA at "
        f"{before['lora']}, and in the comparison of methods above"
    ) in text(README)
    assert f"({runs['msft']['scale_weights'][0]:.2f} of the forecast is scale 0's)" in text(README)
    assert set(POOLING_SHARES) == {1, 2, 4}
    best, other = (validation_of(runs["zero_shot"], look_back=steps) for steps in (1024, 512))
    own, longer = (validation_of(runs["msft"], look_back=steps) for steps in (512, 1024))
    assert (runs["zero_shot"]["settings"]["look_back"], runs["msft"]["settings"]["look_back"]) == (1024, 512)
    assert (
        f"zero-shot is best here with 1,024 steps (validation MSE {best}; {other} with 512), MSFT with 512 ({own}; "
        f"{longer} with 1,024)"
    ) in text(README)
