"""The README's results block is what `table` makes of the stored results, and the words above it are true."""

from __future__ import annotations

import re
import shlex
import statistics
from pathlib import Path
from typing import Any

import pytest
from card_entries import EARLIER
from fake_results import arguments_of
from written_figures import table, text

from benchmarks import harness, results, suites, tables
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


WORDS = ["--suite", "first", "fracast", "--datasets", "ETTh1", "ETTm1"]
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


def sentence_on_ranks() -> str:
    (table,) = (found for found in select(arguments_of(tables, *WORDS)) if found.family == "lsf")
    assert len(table.ranking().columns) == len(table.columns) == 3
    means = {table.row_names[row]: mean for row, mean in table.ranking().means.items()}
    assert sorted(means, key=lambda name: means[name])[:3] == ["LoRA", "full finetuning", "MSFT"]
    return (
        f"Over the three columns LoRA has the best mean rank ({means['LoRA']:.2f}), then full finetuning "
        f"({means['full finetuning']:.2f}) and MSFT ({means['MSFT']:.2f}): so far MSFT does not beat ordinary "
        "finetuning."
    )


def sentence_on_etth1_96() -> str:
    found = figures("lsf")["ETTh1 96"]
    mse, mae = found["mse"], found["mae"]
    assert min(mse, key=lambda name: mse[name]) == "MSFT"
    assert min(mae, key=lambda name: mae[name]) == "Fracast-0"
    full, lora, patchtst = (behind(mse, name, "MSFT") for name in ("full finetuning", "LoRA", "PatchTST"))
    return (
        "On ETTh1-96 MSFT has the lowest MSE; Fracast-0 (PyPI `fracast`, 85,001 parameters), a zero-shot model, is "
        f"{behind(mse, 'Fracast-0', 'MSFT')} behind it there and {behind(mae, 'MSFT', 'Fracast-0')} ahead in MAE. In "
        f"MSE full finetuning is {full} behind MSFT, LoRA {lora}, PatchTST, which unlike ours is trained for it, "
        f"{patchtst}."
    )


def sentence_on_the_other_places() -> str:
    found = figures("lsf")
    assert found.keys() == {"ETTh1 96", "ETTh1 336", "ETTm1 96"}
    first, second = found["ETTh1 336"]["mse"], found["ETTm1 96"]["mse"]
    assert [min(mse, key=lambda name, mse=mse: mse[name]) for mse in (first, second)] == ["LoRA", "LoRA"]
    assert first["MSFT"] / first["LoRA"] < 1.001
    return (
        f"On ETTh1-336 LoRA ({first['LoRA']:.4f}) and MSFT ({first['MSFT']:.4f}) are level, full finetuning is "
        f"{behind(first, 'full finetuning', 'LoRA')} behind; on ETTm1-96 LoRA is first, full finetuning "
        f"{behind(second, 'full finetuning', 'LoRA')} behind, MSFT {behind(second, 'MSFT', 'LoRA')}."
    )


def sentence_on_zero_shot() -> str:
    found, gains, small = figures("lsf"), list[float](), list[float]()
    for column, metrics in found.items():
        mse = metrics["mse"]
        others = [mse[name] for name in mse if name not in (*BEST, "Fracast-0")]
        assert max(mse[name] for name in BEST) < min(others)
        (small if column == "ETTh1 336" else gains).extend(100 * (1 - mse[name] / mse["zero-shot"]) for name in BEST)
    mae = found["ETTh1 336"]["mae"]
    assert mae["MSFT"] > mae["zero-shot"]
    return (
        "In MSE each of the three is ahead of zero-shot and of what was trained from scratch with this budget: of "
        f"zero-shot by {min(gains):.0f} to {max(gains):.0f} %, on ETTh1-336 by {min(small):.1f} to {max(small):.1f} %, "
        "where MSFT's MAE is no better."
    )


def sentence_on_probabilistic_forecasts() -> str:
    places = figures("pf")
    found = places["ETTm1 96"]
    crps, msis, coverage = (found[name] for name in ("crps", "msis", "coverage"))
    assert sorted(crps, key=lambda name: crps[name])[:2] == ["MSFT", "full finetuning"]
    assert msis["MSFT"] > msis["zero-shot"]
    runs = {
        run.experiment["model"]: run.result
        for table in select(arguments_of(tables, *WORDS[:2], "--datasets", "ETTm1", "--family", "pf"))
        for run in table.runs()
    }
    assert {(run["windows"], run["validation_windows"]) for run in runs.values()} == {(7, 7)}
    scores = {model: float(validation_of(runs[model], "crps", 4)) for model in ("msft", "full", "lora")}
    assert scores["msft"] > max(scores["full"], scores["lora"])
    return (
        f"In probabilistic forecasting a day ahead MSFT has the lowest CRPS on ETTm1 ({crps['MSFT']:.3f}; full "
        f"finetuning {crps['full finetuning']:.3f}, LoRA {crps['LoRA']:.3f}, zero-shot {crps['zero-shot']:.3f}, "
        f"DLinear {crps['DLinear']:.3f}), but by seven windows: on the seven validation windows it is behind full "
        f"finetuning and LoRA ({scores['msft']:.4f}; {scores['full']:.4f}, {scores['lora']:.4f}), its MSIS is worse "
        "than zero-shot's "
        f"({msis['MSFT']:.2f}; {msis['zero-shot']:.2f}), and its 80 % interval covers {100 * coverage['MSFT']:.1f} %."
    )


def sentences_on_ettm1_96() -> str:
    (table,) = select(arguments_of(tables, *WORDS[:2], "--datasets", "ETTm1", "--family", "lsf"))
    runs = {run.experiment["model"]: run.result for run in table.runs()}
    models = ("msft", "full", "lora")
    crps = [runs[model]["fit_report"]["best"] for model in models]
    mse = [float(validation_of(runs[model])) for model in models]
    assert crps == sorted(crps)
    assert mse[1] < mse[0] < mse[2]
    assert all(runs[model]["fit_report"]["still_improving"] for model in models)
    by = ablations()
    slow, fast = (
        by[key] for key in sorted((key for key in by if "lr_new" in dict(key)), key=lambda key: dict(key)["lr_new"])
    )
    base, finest = by[()], by[("mixing", "first"),]
    assert 0 < slow["fit_report"]["best"] / base["fit_report"]["best"] - 1 < 1e-3
    assert finest["metrics"]["mse"] > base["metrics"]["mse"]
    return (
        f"On ETTm1-96 its validation CRPS is {100 * (1 - crps[0] / crps[1]):.1f} % below full finetuning's "
        f"({crps[0]:.3f}; {crps[1]:.3f}; LoRA {crps[2]:.3f}), about what fitting the weights there flatters it by; in "
        f"validation MSE full finetuning is ahead ({mse[1]:.3f}; MSFT {mse[0]:.3f}; LoRA {mse[2]:.3f}), and on the "
        "test part LoRA is ahead of both. We found no explanation: a third of MSFT's rates is level on the validation "
        "part, "
        f"ten thirds of them are {100 * (fast['fit_report']['best'] / base['fit_report']['best'] - 1):.1f} % worse "
        f"there but have an MSE of {fast['metrics']['mse']:.3f} on a fifth of the test windows (see below); all three "
        "methods were still improving after five epochs. Coarse scales are not the cause: with the finest alone "
        f'(`mixing="first"`) the MSE is {finest["metrics"]["mse"]:.3f}.'
    )


def sentences_on_the_ablations() -> tuple[str, str]:
    """The caption of their table, and what they say."""
    by = ablations()
    mse = {key: run["metrics"]["mse"] for key, run in by.items()}
    improving = sum(run["fit_report"]["still_improving"] for run in by.values())
    solved = [key for key in by if not {"mixing", "weight_learning"} & set(dict(key)) and ("num_scales", 0) not in key]
    assert all(len(by[key]["scale_weights"]) > 1 for key in solved)
    caption = (
        "ETTm1-96 at context 512, every switch and rate as a change of one fit; MSE of every 5th test window, and the "
        f"least CRPS on the validation part (zero-shot: {by[()]['fit_report']['before']:.4f}). One seed; {improving} "
        f"of the {len(by)} fits were still improving after the fifth epoch. Weights are fitted to the validation part "
        'but with K = 0, `mixing="first"` and in the rows of `weight_learning`: against those the default is flattered '
        "there."
    )
    parts = [{"num_scales": 0}, {"aggregator": None}, {"attention": "full"}, {"attention": "one_sequence"}]
    gains = [100 * (mse[tuple(part.items())] / mse[()] - 1) for part in parts]
    lora = figures("lsf")["ETTm1 96"]["mse"]["LoRA"]
    assert lora < min(mse.values())
    little = {"upsampling", "shared_lora", "weight_learning", "weight_init"}
    assert all(abs(mse[key] / mse[()] - 1) < 0.01 for key in mse if little & set(dict(key)))
    assert mse[(("weight_init", "first"),)] == pytest.approx(mse[()], rel=1e-5)
    return caption, (
        "Within MSFT, each of the new scales, the aggregator and separate attention lowers the MSE, by "
        f"{min(gains):.0f} to {max(gains):.0f} %; with one seed, {min(gains):.0f} % is weak evidence. None of these "
        f"variants reaches plain LoRA ({lora:.3f}, all test windows): the scales gain on MSFT's own K = 0. Upsampling, "
        "one LoRA for all scales and the way in which weights are learned change the MSE by less than 1 %; where they "
        "begin has no effect under stacking."
    )


def test_the_sentences_about_the_tables() -> None:
    sentences = [
        sentence_on_ranks(),
        sentence_on_etth1_96(),
        sentence_on_the_other_places(),
        sentence_on_zero_shot(),
        sentence_on_probabilistic_forecasts(),
        sentences_on_ettm1_96(),
        *sentences_on_the_ablations(),
    ]
    assert [sentence for sentence in sentences if sentence not in text(README)] == []


def test_what_was_not_run() -> None:
    assert "Empty cells, Weather and ETTm1-336 were not run yet" in text(README)
    assert {column.split()[0] for column in figures("lsf")} == {"ETTh1", "ETTm1"}
    assert "ETTm1 336" not in figures("lsf")


def test_dlinear_with_all_windows() -> None:
    found = {check.dataset: check for check in harness.checks(results.FOLDER) if check.model == "dlinear"}
    first, second = (f"{statistics.mean(found[name].found.values()):.3f}" for name in ("ETTh1", "ETTm1"))
    assert f"has the {first} on ETTh1-96 and {second} on ETTm1-96 above" in text(README)


def ablations() -> dict[tuple[tuple[str, Any], ...], dict[str, Any]]:
    """Every result of the suite on point forecasts, by what differs from its base."""
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
    return by


def test_what_the_parts_of_msft_are_worth() -> None:
    by = ablations()
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


def validation_of(run: dict[str, Any], metric: str = "mse", digits: int = 3, **changes: Any) -> str:
    """The validation score of a run's settings, with these changes."""
    experiment = {name: run["experiment"][name] for name in ("family", "model", "dataset", "horizon", "seed")}
    experiment["options"] = run["experiment"]["options"]
    wanted = {**run["settings"], **changes}
    [found] = [
        candidate["validation"][metric]
        for _, candidate in results.entries(results.FOLDER, "candidate")
        if experiment.items() <= candidate["experiment"].items()
        and (candidate["weights"], candidate["settings"]) == (run["weights"], wanted)
    ]
    return f"{found:.{digits}f}"


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
    (table,) = select(arguments_of(tables, *WORDS[:2], *ETTH1_96, "--weights", EARLIER))
    before = {run.experiment["model"]: f"{run.result['metrics']['mse']:.3f}" for run in table.runs()}
    assert (
        f"the same command had MSFT at an MSE of {before['msft']}, full finetuning at {before['full']} and LoRA at "
        f"{before['lora']}, and in the comparison of methods above"
    ) in text(README)
    (table,) = select(arguments_of(tables, *WORDS[:2], "--datasets", "ETTm1", "--family", "lsf"))
    others = {run.experiment["model"]: run.result for run in table.runs()}
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
