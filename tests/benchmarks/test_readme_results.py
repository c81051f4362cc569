"""The README's results block is what `table` makes of the stored results, and the words above it are true."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from card_entries import EARLIER
from fake_results import arguments_of
from written_figures import table, text

from benchmarks import results, suites, tables
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


WORDS = ["--suite", "first", "fracast"]
BEST = ("MSFT", "full finetuning", "LoRA")


def figures(family: str) -> dict[str, dict[str, dict[str, float]]]:
    """Column, metric and row -> figure, of the block's tables of this family."""
    return {
        table.column_names[column]: {
            metric: {
                table.row_names[row]: figure.mean for row in table.rows if (figure := table.figure(row, column, metric))
            }
            for metric in table.metrics
        }
        for table in select(arguments_of(tables, *WORDS))
        if table.family == family
        for column in table.columns
    }


def behind(figures: dict[str, float], name: str, first: str) -> str:
    return f"{100 * (figures[name] / figures[first] - 1):.1f} %"


def test_the_block_is_of_one_seed_and_of_the_bundled_weights(weights: str) -> None:
    assert words_of_the_block(README.read_text(encoding="utf-8"))[:-2] == WORDS
    runs = [run for table in select(arguments_of(tables, *WORDS)) for run in table.runs()]
    assert {run.experiment["seed"] for run in runs} == {0}
    assert {run.result["weights"] for run in runs if run.experiment["model"] in PRETRAINED} == {weights}
    assert "one seed so far" in text(README)


def test_who_is_ahead_on_etth1_96() -> None:
    found = figures("lsf")["ETTh1 96"]
    mse, mae = found["mse"], found["mae"]
    assert min(mse, key=lambda name: mse[name]) == "MSFT"
    assert min(mae, key=lambda name: mae[name]) == "Fracast-0"
    full, lora, patchtst = (behind(mse, name, "MSFT") for name in ("full finetuning", "LoRA", "PatchTST"))
    assert (
        "On ETTh1-96 MSFT has the lowest MSE; Fracast-0 (PyPI `fracast`, 85,001 parameters), a zero-shot model, is "
        f"{behind(mse, 'Fracast-0', 'MSFT')} behind it there and {behind(mae, 'MSFT', 'Fracast-0')} ahead in MAE. In "
        f"MSE full finetuning is {full} behind MSFT, LoRA {lora}, PatchTST, which unlike ours is trained for it, "
        f"{patchtst}."
    ) in text(README)


def test_who_is_ahead_at_the_other_places() -> None:
    found = figures("lsf")
    first, second = found["ETTh1 336"]["mse"], found["ETTm1 96"]["mse"]
    for mse in (first, second):
        assert min(mse, key=lambda name: mse[name]) == "LoRA"
    assert (
        f"LoRA is first on ETTh1-336 (MSFT {behind(first, 'MSFT', 'LoRA')} behind it, full finetuning "
        f"{behind(first, 'full finetuning', 'LoRA')}) and on ETTm1-96 (full finetuning "
        f"{behind(second, 'full finetuning', 'LoRA')} behind, MSFT {behind(second, 'MSFT', 'LoRA')})."
    ) in text(README)
    gains = []
    for metrics in found.values():
        mse = metrics["mse"]
        others = [mse[name] for name in mse if name not in BEST and name != "Fracast-0"]
        assert max(mse[name] for name in BEST) < min(others)
        gains += [1 - mse[name] / mse["zero-shot"] for name in BEST]
    assert (
        "Each of the three is ahead of zero-shot and of all that was trained from scratch, wherever both were measured "
        f"(of zero-shot by {100 * min(gains):.1f} to {100 * max(gains):.0f} %)."
    ) in text(README)


def test_who_is_ahead_in_probabilistic_forecasting() -> None:
    crps = figures("pf")["ETTm1 96"]["crps"]
    first, second, *_ = sorted(crps, key=lambda name: crps[name])
    assert (first, second) == ("MSFT", "full finetuning")
    shown = {name: f"{crps[name]:.3f}" for name in crps}
    assert (
        f"In probabilistic forecasting a day ahead MSFT has the lowest CRPS on ETTm1 ({shown['MSFT']}; full "
        f"finetuning {shown['full finetuning']}, LoRA {shown['LoRA']}, zero-shot {shown['zero-shot']}, DLinear "
        f"{shown['DLinear']}), by seven windows."
    ) in text(README)


def test_what_the_parts_of_msft_are_worth() -> None:
    found = [
        run.result
        for table in select(arguments_of(tables, "--suite", "ablations", "--family", "lsf"))
        for run in table.runs()
    ]
    assert {(run["experiment"]["dataset"], run["experiment"]["test_stride"]) for run in found} == {("ETTm1", 5)}
    assert {run["experiment"]["seed"] for run in found} == {0}
    by = {
        tuple(sorted((n, v) for n, v in run["experiment"]["options"].items() if n not in suites.ABLATION_BASE)): run
        for run in found
    }
    assert len(by) == len(found) == len(suites.SWITCHES)
    mse = {switches: run["metrics"]["mse"] for switches, run in by.items()}
    crps = {switches: run["fit_report"]["best"] for switches, run in by.items()}

    labels = {
        "as it is by default (K = 2)": {},
        "`num_scales=0`: no new scales": {"num_scales": 0},
        "`num_scales=1`": {"num_scales": 1},
        "`num_scales=3`": {"num_scales": 3},
        "`aggregator=None`": {"aggregator": None},
        '`aggregator="c2f"`, `"f2c"`: one half of it': [{"aggregator": "c2f"}, {"aggregator": "f2c"}],
        '`attention="full"`: across the scales': {"attention": "full"},
        '`attention="one_sequence"`: that without an aggregator': {"attention": "one_sequence"},
        '`mixing="first"`: the finest scale\'s forecast': {"mixing": "first"},
        '`upsampling="linear"`': {"upsampling": "linear"},
        '`weight_init="first"`': {"weight_init": "first"},
        '`weight_learning="uniform"`': {"weight_learning": "uniform"},
        '`weight_learning="mixed_loss"`, `"scale_loss"`': [
            {"weight_learning": way} for way in ("mixed_loss", "scale_loss")
        ],
        "`shared_adapters=True`": {"shared_adapters": True},
        "`shared_lora=True`": {"shared_lora": True},
        "a third of the rates, ten thirds of them": [
            {"lr_pretrained": 1e-5, "lr_new": 1e-4, "lr_head": 1e-5},
            {"lr_pretrained": 1e-4, "lr_new": 1e-3, "lr_head": 1e-4},
        ],
    }
    expected = {}
    for label, given in labels.items():
        keys = [tuple(sorted(switches.items())) for switches in (given if isinstance(given, list) else [given])]
        expected[label] = [
            ", ".join(f"{shown[key]:.{digits}f}" for key in keys) for shown, digits in ((mse, 3), (crps, 4))
        ]
    assert table(README, "| switch | MSE | validation CRPS |") == expected
    assert sum(map(len, (value if isinstance(value, list) else [value] for value in labels.values()))) == len(by)
    parts = [{"num_scales": 0}, {"aggregator": None}, {"attention": "full"}, {"attention": "one_sequence"}]
    keys = [tuple(part.items()) for part in parts]
    assert all(crps[key] > crps[()] for key in keys)
    gains = [100 * (mse[key] / mse[()] - 1) for key in keys]
    assert f"without them the MSE is {min(gains):.0f} to {max(gains):.0f} % higher" in text(README)
    assert all(crps[key] > crps[()] for key in crps if "lr_new" in dict(key))  # "rates do not explain it"
    assert f"(zero-shot: {by[()]['fit_report']['before']:.4f})" in text(README)


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


ETTH1_96 = ["--datasets", "ETTh1", "--horizons", "96"]


def test_how_far_it_goes(weights: str) -> None:
    (table,) = select(arguments_of(tables, *WORDS[:2], *ETTH1_96))
    runs = {run.experiment["model"]: run.result for run in table.runs()}
    models = ("msft", "full", "lora")
    crps = {model: runs[model]["fit_report"]["best"] for model in models}
    mse = [validation_of(runs[model]) for model in models]
    assert min(crps, key=lambda model: crps[model]) == "msft"
    assert (
        f"on ETTh1-96 (CRPS {crps['msft']:.3f}, full finetuning {crps['full']:.3f}, LoRA {crps['lora']:.3f}; MSE "
        f"{', '.join(mse)})"
    ) in text(README)
    assert min(mse) == mse[0]
    (table,) = select(arguments_of(tables, *WORDS[:2], *ETTH1_96, "--weights", EARLIER))
    before = {run.experiment["model"]: f"{run.result['metrics']['mse']:.3f}" for run in table.runs()}
    assert (
        f"the same command had MSFT at an MSE of {before['msft']}, full finetuning at {before['full']} and LoRA at "
        f"{before['lora']}, and in the comparison of methods above"
    ) in text(README)
    (table,) = select(arguments_of(tables, *WORDS[:2], "--datasets", "ETTm1", "--family", "lsf"))
    others = {run.experiment["model"]: run.result for run in table.runs()}
    scores = [f"{others[model]['fit_report']['best']:.3f}" for model in models]
    assert min(scores) == scores[0]
    assert (
        f"On ETTm1-96 it is ahead on the validation part (CRPS {scores[0]}, full finetuning {scores[1]}, LoRA "
        f"{scores[2]}) and behind both on the test part."
    ) in text(README)
    finest, coarsest = others["msft"]["scale_weights"][0], others["msft"]["scale_weights"][2]
    assert (
        f"On ETTh1-96 {runs['msft']['scale_weights'][0]:.2f} of MSFT's forecast is scale 0's; on ETTm1-96 "
        f"{finest:.2f}, and {coarsest:.2f} scale 2's, which averages the four quarters of an hour"
    ) in text(README)
    assert set(POOLING_SHARES) == {1, 2, 4}
    best, other = (validation_of(runs["zero_shot"], look_back=steps) for steps in (1024, 512))
    own, longer = (validation_of(runs["msft"], look_back=steps) for steps in (512, 1024))
    assert (runs["zero_shot"]["settings"]["look_back"], runs["msft"]["settings"]["look_back"]) == (1024, 512)
    assert (
        f"zero-shot is best on ETTh1-96 with 1,024 steps (validation MSE {best}; {other} with 512), MSFT with 512 "
        f"({own}; {longer} with 1,024)"
    ) in text(README)
