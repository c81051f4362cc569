"""The README's results block is what `table` makes of the stored results, and the words above it are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from fake_results import arguments_of
from written_figures import text

from benchmarks import results, tables
from benchmarks.provenance import ROOT
from benchmarks.selection import select
from benchmarks.tables import BEGIN, END
from darts_msft.pretraining.objective import POOLING_SHARES

README = ROOT / "README.md"


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


def test_the_sentence_above_the_block_is_true_of_its_figures() -> None:
    words = ["--suite", "first", "fracast", "--datasets", "ETTh1", "--horizons", "96"]
    assert words_of_the_block(README.read_text(encoding="utf-8"))[:-2] == words
    (table,) = select(arguments_of(tables, *words))
    assert {run.experiment["seed"] for run in table.runs()} == {0}
    assert "one seed so far" in text(README)
    (column,) = table.columns
    figures = {
        metric: {table.row_names[row]: found.mean for row in table.rows if (found := table.figure(row, column, metric))}
        for metric in ("mse", "mae")
    }
    for found in figures.values():
        assert found.pop("Fracast-0") < min(found.values())
    assert "Fracast-0 (PyPI `fracast`, 85,001 parameters), zero-shot, is ahead of every other model" in text(README)
    assert min(figures["mae"], key=lambda name: figures["mae"][name]) == "MSFT"
    *names, last = [name for name, mse in figures["mse"].items() if mse < figures["mse"]["MSFT"]]
    sentence = f"Of the rest MSFT has the lowest MAE; {', '.join(names)} and {last} have a lower MSE"
    assert sentence in text(README)


def test_why_msft_is_not_ahead() -> None:
    (table,) = select(arguments_of(tables, "--suite", "first", "--datasets", "ETTh1", "--horizons", "96"))
    runs = {run.experiment["model"]: run.result for run in table.runs()}
    reports = {model: runs[model]["fit_report"] for model in ("msft", "full", "lora")}
    crps = {model: report["best"] for model, report in reports.items()}
    assert min(crps, key=lambda model: crps[model]) == "msft"
    assert f"({crps['msft']:.3f}; full finetuning {crps['full']:.3f}, LoRA {crps['lora']:.3f})" in text(README)
    mse = {}
    for _, candidate in results.entries(results.FOLDER, "candidate"):
        model = candidate["experiment"]["model"]
        place = (candidate["experiment"]["dataset"], candidate["experiment"]["horizon"])
        if model in reports and place == ("ETTh1", 96) and candidate["settings"] == runs[model]["settings"]:
            mse[model] = f"{candidate['validation']['mse']:.3f}"
    assert mse["full"] == mse["lora"] < mse["msft"]
    assert f"({mse['msft']}; both others {mse['full']})" in text(README)
    assert f"({runs['msft']['scale_weights'][0]:.2f} of the forecast is scale 0's)" in text(README)
    assert runs["msft"]["resolved"]["num_scales"] == 1
    kept = {report["kept"] for report in reports.values()}
    assert kept == {"epoch 1", "epoch 2"}  # counted from 0
    budget = table.budget
    assert budget["train_windows"] // budget["batch_size"] == 16
    assert set(POOLING_SHARES) == {1, 2, 4}
