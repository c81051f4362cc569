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

from benchmarks import tables
from benchmarks.run import store as results
from benchmarks.run import suites
from benchmarks.run.provenance import ROOT
from benchmarks.run.selection import select
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


def test_the_block_is_of_the_bundled_weights(weights: str) -> None:
    assert words_of_the_block(README.read_text(encoding="utf-8"))[:-2] == WORDS
    runs = [run for table in select(arguments_of(tables, *WORDS)) for run in table.runs()]
    assert {run.experiment["seed"] for run in runs} == {0, 1, 2}
    assert {run.result["weights"] for run in runs if run.experiment["model"] in PRETRAINED} == {weights}


def test_the_stored_tables_are_of_the_stored_results() -> None:
    found = select(arguments_of(tables))
    assert (results.FOLDER / "tables.md").read_text(encoding="utf-8") == tables.markdown(found)
    assert (results.FOLDER / "tables.csv").read_text(encoding="utf-8") == tables.as_csv(found)


def sentence_on_ranks() -> str:
    """Of ETT's columns; Weather's budget is another, so its table is."""
    (table,) = select(arguments_of(tables, *WORDS, "--family", "lsf", "--datasets", "ETTh1", "ETTm1"))
    assert len(table.ranking().columns) == len(table.columns) == 4
    means = {table.row_names[row]: mean for row, mean in table.ranking().means.items()}
    assert sorted(means, key=lambda name: means[name])[:3] == ["full finetuning", "MSFT", "LoRA"]
    assert means["LoRA"] - means["MSFT"] > 0.5 > means["MSFT"] - means["full finetuning"]
    (weather,) = select(arguments_of(tables, *WORDS, "--family", "lsf", "--datasets", "Weather"))
    there = {weather.row_names[row]: mean for row, mean in weather.ranking().means.items()}
    assert len(weather.ranking().columns) == len(weather.columns) == 2
    assert sorted(there, key=lambda name: there[name])[:3] == ["LoRA", "full finetuning", "MSFT"]
    return (
        f"Over ETT's four columns full finetuning has the best mean rank ({means['full finetuning']:.2f}), then MSFT "
        f"({means['MSFT']:.2f}) and LoRA ({means['LoRA']:.2f}): there MSFT is level with full finetuning, and not "
        f"ahead of it. On Weather's two, with one seed, it is LoRA ({there['LoRA']:.2f}), then full finetuning "
        f"({there['full finetuning']:.2f}) and MSFT ({there['MSFT']:.2f})."
    )


def sentence_on_etth1_96() -> str:
    found = figures("lsf")["ETTh1 96"]
    mse, mae = found["mse"], found["mae"]
    assert {min(metric, key=lambda name, metric=metric: metric[name]) for metric in (mse, mae)} == {"Fracast-0"}
    return (
        "On ETTh1-96 Fracast-0 (PyPI `fracast`, 85,001 parameters), a zero-shot model that is given 2,048 steps, is "
        "ahead of MSFT by "
        f"{behind(mse, 'MSFT', 'Fracast-0')} in MSE and {behind(mae, 'MSFT', 'Fracast-0')} in MAE."
    )


def dlinear_of_its_paper() -> dict[str, float]:
    """Mean test MSE over three seeds, by column of the block's tables."""
    wanted = {each.key: each for each in suites.load("card") if each.model == "dlinear"}
    found: dict[str, dict[int, float]] = {}
    for _, result in results.entries(results.FOLDER, "run"):
        if (each := wanted.get(result["key"])) is not None:
            found.setdefault(f"{each.dataset} {each.horizon}", {})[each.seed] = result["metrics"]["mse"]
    assert {tuple(sorted(seeds)) for seeds in found.values()} == {suites.SEEDS}
    return {place: statistics.mean(seeds.values()) for place, seeds in found.items()}


def by_how_much_lower() -> tuple[str, dict[str, list[str]]]:
    """A table's head, and its rows by their first cell; empty where the other has no result."""
    found = {place: metrics["mse"] for place, metrics in figures("lsf").items() if "MSFT" in metrics["mse"]}
    found = {place: mse for name in ("ETTh1", "ETTm1", "Weather") for place, mse in found.items() if name in place}
    others = ("zero-shot", "full finetuning", "LoRA", "DLinear", "iTransformer")
    rows = {
        name: [f"{100 * (1 - mse['MSFT'] / mse[name]):.1f} %" if name in mse else "" for mse in found.values()]
        for name in others
    }
    of_paper = dlinear_of_its_paper()
    rows["DLinear as its paper trains it"] = [
        f"{100 * (1 - mse['MSFT'] / of_paper[place]):.1f} %" for place, mse in found.items()
    ]
    return f"| MSFT's MSE is lower by | {' | '.join(place.replace(' ', '-') for place in found)} |", rows


def test_how_much_lower_the_mse_of_msft_is() -> None:
    head, rows = by_how_much_lower()
    assert table(README, head) == rows
    for rival in ("zero-shot", "DLinear", "DLinear as its paper trains it", "iTransformer"):
        assert all(not cell.startswith("-") for cell in rows[rival])


def sentences_on_probabilistic_forecasts() -> str:
    places = figures("pf")
    runs = [run.result for found in select(arguments_of(tables, *WORDS, "--family", "pf")) for run in found.runs()]
    assert {(run["windows"], run["validation_windows"]) for run in runs} == {(7, 7)}
    shown = []
    for column, digits in (("ETTm1 96", 3), ("JenaWeather 144", 4)):
        crps = places[column]["crps"]
        first = sorted(crps, key=lambda name: crps[name])[:3]
        assert set(first) == set(BEST)
        rest = ("zero-shot", "DLinear")
        shown.append(f"{column.split()[0]} {', '.join(f'{name} {crps[name]:.{digits}f}' for name in (*first, *rest))}")
    msis = places["ETTm1 96"]["msis"]
    assert msis["MSFT"] > msis["zero-shot"]
    return (
        f"In probabilistic forecasting a day ahead the CRPS is, on {shown[0]}; on {shown[1]}. That is by seven windows "
        f"each, and MSFT's intervals on ETTm1 are worse than zero-shot's (MSIS {msis['MSFT']:.2f}; "
        f"{msis['zero-shot']:.2f})."
    )


def runs_of(model: str, *words: str) -> dict[int, dict[str, Any]]:
    """A model's results in "first", by seed."""
    (table,) = select(arguments_of(tables, "--suite", "first", "--family", "lsf", "--only", model, *words))
    return {run.experiment["seed"]: dict(run.result) for run in table.runs()}


ETTH1_96 = ["--datasets", "ETTh1", "--horizons", "96"]
ETTM1_96 = ["--datasets", "ETTm1", "--horizons", "96"]


def sentences_on_seeds() -> str:
    mse = {model: [run["metrics"]["mse"] for run in runs_of(model, *ETTM1_96).values()] for model in ("msft", "lora")}
    assert [len(values) for values in mse.values()] == [3, 3]
    return (
        f"On ETTm1-96 LoRA has {', '.join(f'{value:.3f}' for value in mse['lora'])} with its three seeds, MSFT "
        f"{', '.join(f'{value:.3f}' for value in mse['msft'])}: LoRA's lead with one seed was mostly that seed."
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
    little = {"upsampling", "shared_lora", "weight_learning", "weight_init"}
    assert all(abs(mse[key] / mse[()] - 1) < 0.01 for key in mse if little & set(dict(key)))
    assert mse[(("weight_init", "first"),)] == pytest.approx(mse[()], rel=1e-5)
    return caption, (
        "Within MSFT, each of the new scales, the aggregator and separate attention lowers the MSE, by "
        f"{min(gains):.0f} to {max(gains):.0f} %; with one seed, {min(gains):.0f} % is weak evidence. The "
        f"aggregator's gain is that of its fine-to-coarse half (alone {mse[(('aggregator', 'f2c'),)]:.3f}; coarse to "
        f"fine alone {mse[(('aggregator', 'c2f'),)]:.3f}, both {mse[()]:.3f}, neither "
        f"{mse[(('aggregator', None),)]:.3f}). Upsampling, one LoRA for all scales and the way in which weights are "
        "learned change the MSE by less than 1 %; where they begin has no effect under stacking."
    )


def test_the_sentences_about_the_tables() -> None:
    sentences = [
        sentence_on_ranks(),
        sentence_on_etth1_96(),
        sentences_on_probabilistic_forecasts(),
        sentences_on_seeds(),
        *sentences_on_the_ablations(),
    ]
    assert [sentence for sentence in sentences if sentence not in text(README)] == []


def test_what_was_not_run() -> None:
    stored = {result["key"] for _, result in results.entries(results.FOLDER, "run")}
    first = [each for each in suites.load("first") if each.seed == 0]
    for model in ("msft", "full", "zero_shot", "dlinear"):
        assert [e.key for e in first if e.model == model and e.key not in stored] == []
    assert "Empty cells were not run yet;" in text(README)
    never = {e.model for e in first if e.family == "pf"} - {
        e.model for e in first if e.family == "pf" and e.key in stored
    }
    assert never == {"scratch", "patchtst", "itransformer", "timemixer"}
    weather = [e for e in first if e.dataset == "Weather"]
    without = {e.model for e in weather} - {e.model for e in weather if e.key in stored}
    assert without == {"scratch", "patchtst", "timemixer"}
    fracast = {f"{e.dataset} {e.horizon}" for e in suites.load("fracast") if e.key in stored}
    assert fracast == {"ETTh1 96"}
    assert (
        "PatchTST, iTransformer, TimeMixer and scratch are missing in probabilistic forecasting, PatchTST, TimeMixer "
        "and scratch on Weather, and Fracast-0 in both."
    ) in text(README)
    assert len(runs_of("timemixer", *ETTH1_96)[0]["fit_report"]["losses"]) == 20  # a one-cycle rate, to its end


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


def test_how_far_it_goes(weights: str) -> None:
    (table,) = select(arguments_of(tables, *WORDS[:2], *ETTH1_96))
    runs = {run.experiment["model"]: run.result for run in table.runs() if run.experiment["seed"] == 0}
    models = ("msft", "full", "lora")
    crps = {model: runs[model]["fit_report"]["best"] for model in models}
    mse = [validation_of(runs[model]) for model in models]
    assert min(crps, key=lambda model: crps[model]) == "msft"
    assert (
        f"on ETTh1-96 (seed 0: CRPS {crps['msft']:.3f}, full finetuning {crps['full']:.3f}, LoRA {crps['lora']:.3f}; "
        f"MSE {', '.join(mse)})"
    ) in text(README)
    (table,) = select(arguments_of(tables, *WORDS[:2], *ETTH1_96, "--weights", EARLIER))
    before = {run.experiment["model"]: f"{run.result['metrics']['mse']:.3f}" for run in table.runs()}
    assert (
        f"the same command had MSFT at an MSE of {before['msft']}, full finetuning at {before['full']} and LoRA at "
        f"{before['lora']}, and in the comparison of methods above"
    ) in text(README)
    other_weights = runs_of("msft", *ETTM1_96)[0]["scale_weights"]
    finest, coarsest = other_weights[0], other_weights[2]
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
