"""Tables of results: what may stand side by side, figures, marks, ranks, notes, and the files they are written to."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import arguments_of, result, store, tables_of

from benchmarks import tables
from benchmarks.errors import Misuse
from benchmarks.notes import notes
from benchmarks.run import suites
from benchmarks.run.experiments import Experiment
from benchmarks.summary import options_text
from benchmarks.tables import BEGIN, END


def lsf(model: str, mse: float, dataset: str = "ETTh1", horizon: int = 96, **changes: Any) -> dict[str, Any]:
    return result(model, dataset, horizon, metrics={"mse": mse, "mae": mse + 0.1}, **changes)


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a Markdown table's lines."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# ----------------------------------------------------------------------------------------- what may stand side by side


def test_a_quick_look_is_not_in_the_full_table() -> None:
    found = tables_of(lsf("msft", 0.4), lsf("dlinear", 0.3, test_stride=32), lsf("dlinear", 0.35, test_stride=16))
    assert [table.stride for table in found] == [None, 16, 32]
    assert [list(table.row_names.values()) for table in found] == [["MSFT"], ["DLinear"], ["DLinear"]]
    assert found[2].title.startswith("Long-sequence forecasting: quick look, test windows 32 steps apart (")
    assert "A quick look: test windows are 32 steps apart" in " ".join(notes(found[2]))
    assert "quick look" not in found[0].title + " ".join(notes(found[0]))


def test_windows_of_pf_are_always_apart_and_no_quick_look() -> None:
    found = tables_of(result("msft", family="pf"), result("full", horizon=48, family="pf"))
    assert [(table.stride, len(table.columns)) for table in found] == [(None, 2)]


def test_budgets_and_families_have_tables_of_their_own_whose_titles_name_them() -> None:
    small = {
        "epochs": 2,
        "train_windows": 1000,
        "validation_windows": 200,
        "look_backs": [96],
        "zero_shot_choice": True,
    }
    found = tables_of(lsf("msft", 0.4), lsf("full", 0.3, budget=small), result("full", family="pf"))
    assert [table.family for table in found] == ["lsf", "lsf", "pf"]
    titles = {next(iter(table.row_names.values())): table.title for table in found[:2]}
    assert titles["MSFT"] == (
        "Long-sequence forecasting (10 epochs, patience 3, batches of 32; all training and all validation windows; "
        "look-backs 96, 336, 512, 1024, 2048)"
    )
    assert titles["full finetuning"] == (
        "Long-sequence forecasting (2 epochs, patience 3, batches of 32; 1000 training and 200 validation windows; "
        "look-backs 96; patch size as chosen for zero-shot)"
    )
    assert tables.markdown(found).count("### Long-sequence forecasting (2 epochs, patience 3") == 1


def test_results_from_before_a_field_of_the_budget_stand_beside_the_others() -> None:
    old = lsf("full", 0.3)
    del old["experiment"]["budget"]["zero_shot_choice"]
    assert len(tables_of(lsf("msft", 0.4), old)) == 1


def test_variants_stand_beside_their_model_and_not_among_the_others() -> None:
    entries = [
        lsf("msft", 0.4),
        lsf("msft", 0.5, "ETTm1"),
        lsf("full", 0.3),
        lsf("msft", 0.7, options={"mixing": "first"}),
    ]
    entries.append(lsf("full", 0.2, options={"backbone": "moirai-1.1-R-small"}))
    main, variants = tables_of(*entries)
    assert list(main.row_names.values()) == ["MSFT", "full finetuning", "full finetuning (backbone=moirai-1.1-R-small)"]
    assert list(variants.row_names.values()) == ["MSFT", "MSFT (mixing=first)"]
    assert [column.dataset for column in variants.columns] == ["ETTh1"]
    assert variants.title.startswith("Long-sequence forecasting: variants of MSFT (10 epochs")


def test_the_ablations_are_one_table_with_a_row_for_each_switch() -> None:
    """As they are measured: every option of the model is among a result's settings."""
    entries = [result_of(experiment) for experiment in suites.load("ablations") if experiment.family == "lsf"]
    assert all("mixing" in entry["settings"] for entry in entries)
    (table,) = tables_of(*entries)
    ordered = [dict(sorted(switches.items())) for switches in suites.SWITCHES]
    names = ["MSFT", *(f"MSFT ({options_text(switches)})" for switches in ordered if switches)]
    assert sorted(table.row_names.values()) == sorted(names)
    assert len(set(names)) == len(suites.SWITCHES)
    assert table.title.startswith(
        "Long-sequence forecasting: variants of MSFT, with look_back=512, patch_size=32 (5 epochs"
    )
    assert all(len(runs) == 3 for runs in table.cells.values())


def test_the_first_results_and_fracast_are_one_table_a_budget() -> None:
    """ETT, and Weather with fewer windows of more variables."""
    experiments = [*suites.load("first"), *suites.load("fracast")]
    entries = [result_of(experiment) for experiment in experiments if experiment.family == "lsf"]
    found = tables_of(*entries)
    places = [{(column.dataset, column.horizon) for column in table.columns} for table in found]
    weather = {("Weather", 96), ("Weather", 336)}
    assert places == [weather, {(name, horizon) for name in ("ETTh1", "ETTm1") for horizon in (96, 336)}]
    ours = ["MSFT", "full finetuning", "linear probing", "LoRA", "zero-shot", "from scratch"]
    baselines = ["DLinear", "PatchTST", "iTransformer", "TimeMixer"]
    for table in found:
        assert list(table.row_names.values()) == [*ours, *baselines, "Fracast-0", "seasonal naive"]
        assert not table.fixed
        assert not table.shared


def result_of(experiment: Experiment) -> dict[str, Any]:
    told = {**experiment.to_dict()}
    return result(told.pop("model"), told.pop("dataset"), told.pop("horizon"), told.pop("family"), **told)


def test_settings_that_were_given_are_in_the_title_and_keep_runs_apart() -> None:
    """As in the ablations, whose base is MSFT with a look-back: its table of its own would say nothing new."""
    base = {"look_back": 336}
    entries = [lsf("msft", 0.1), lsf("dlinear", 0.3, options=base), lsf("patchtst", 0.2, options=base)]
    main, given = tables_of(*entries)
    assert list(main.row_names.values()) == ["MSFT"]
    assert list(given.row_names.values()) == ["DLinear", "PatchTST"]
    assert given.title.startswith("Long-sequence forecasting, with look_back=336 (")
    assert "Look-back as given: 336." in notes(given)
    (only,) = tables_of(lsf("msft", 0.3, options=base), lsf("msft", 0.4, options={**base, "aggregator": None}))
    assert only.title.startswith("Long-sequence forecasting: variants of MSFT, with look_back=336 (")
    assert list(only.row_names.values()) == ["MSFT", "MSFT (aggregator=None)"]


def test_lists_to_choose_from_make_no_variant() -> None:
    lists = {"look_back": [336, 512], "patch_size": [16, 32]}
    (table,) = tables_of(lsf("msft", 0.1, options=lists), lsf("dlinear", 0.3, options={"lr": [0.1, 0.01]}))
    assert list(table.row_names.values()) == ["MSFT", "DLinear"]
    assert table.title.startswith("Long-sequence forecasting (10 epochs")


def test_options_that_all_rows_share_are_in_the_title_alone() -> None:
    options = {"lora_rank": 4}
    (table,) = tables_of(lsf("msft", 0.1, options=options), lsf("lora", 0.2, options=options))
    assert list(table.row_names.values()) == ["MSFT", "LoRA"]
    assert table.title.startswith("Long-sequence forecasting, with lora_rank=4 (")


def test_where_a_backbone_lies_is_no_variant_but_its_name_is_kept() -> None:
    """Two folders of one name are one row; a folder of another name, and a repository, are others."""
    entries = [lsf("msft", 0.1, seed=seed, options={"backbone": f"/place {seed}/tiny3"}) for seed in (0, 1)]
    entries += [lsf("msft", 0.1, options={"backbone": "Salesforce/moirai"}, key="k"), lsf("msft", 0.2)]
    (table,) = tables_of(*entries)
    names = ["MSFT", "MSFT (backbone=Salesforce/moirai)", "MSFT (backbone=tiny3)"]
    assert list(table.row_names.values()) == names
    (chronos,) = tables_of(lsf("chronos2", 0.1, options={"local_dir": "/here"}), lsf("dlinear", 0.1))
    assert set(chronos.row_names.values()) == {"Chronos-2", "DLinear"}


def test_other_data_or_windows_are_another_column() -> None:
    entries = [lsf("msft", 0.4), lsf("full", 0.3, data_hash="f" * 64), lsf("dlinear", 0.3, windows=9)]
    (table,) = tables_of(*entries)
    assert len(set(table.column_names.values())) == 3
    assert any(name.endswith("[data ffffffff, 2785 windows]") for name in table.column_names.values())
    assert tables.mean_ranks(table) == {}  # nothing here can be compared
    (same,) = tables_of(
        *(lsf("msft", 0.4, f"{place}/mine.toml", seed=seed, data_hash="f" * 64) for seed, place in enumerate("ab"))
    )
    assert list(same.column_names.values()) == ["mine 96"]


# ---------------------------------------------------------------------------------------------- one state for each row


def aged(made: str, model: str, mse: float, **changes: Any) -> dict[str, Any]:
    entry = lsf(model, mse, **changes)
    entry["provenance"]["made"] = made
    return entry


def test_a_row_has_the_newest_weights_alone_and_the_others_are_told() -> None:
    old = {"weights": "b" * 64}
    entries = [
        aged("2026-01-01", "msft", 0.4, **old), aged("2026-01-03", "msft", 0.3, seed=1),
        aged("2026-01-01", "msft", 0.4, seed=2, **old), aged("2026-01-01", "full", 0.6, **old),
    ]  # fmt: skip
    (table,) = tables_of(*entries)
    assert [line[1] for line in rows_of(tables.markdown([table]))[2:]] == ["**0.300**", "<u>0.600</u>"]
    left_out = "Left out, since each row is of one state (--weights takes another): 2 of MSFT with weights bbbbbbbb."
    assert left_out in notes(table)
    (older,) = tables_of(*entries, weights="bbb")
    assert older.text(older.rows[0], older.columns[0], "mse") == "0.400 ± 0.000"
    assert not any("Left out" in line and "full" in line for line in notes(older))


def test_a_row_has_the_newest_defaults_alone() -> None:
    """Two results of one experiment, before and after a recipe was changed."""
    (table,) = tables_of(aged("2026-01-02", "dlinear", 0.3), aged("2026-01-01", "dlinear", 0.5, defaults="e" * 64))
    assert table.text(table.rows[0], table.columns[0], "mse") == "0.300"
    assert any(line.endswith("1 of DLinear with other defaults or choices.") for line in notes(table))


def test_a_row_has_the_newest_lists_alone() -> None:
    """Two results that would be one cell: with all look-backs to choose from, and with two."""
    few = {"look_back": [96, 512]}
    (table,) = tables_of(aged("2026-01-02", "msft", 0.3, options=few), aged("2026-01-01", "msft", 0.5))
    assert table.text(table.rows[0], table.columns[0], "mse") == "0.300"
    assert any(line.endswith("1 of MSFT with other defaults or choices.") for line in notes(table))


def test_two_results_of_one_experiment_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"0\.json and 1\.json are results of the same experiment"):
        tables_of(lsf("msft", 0.4), lsf("msft", 0.5))


# ------------------------------------------------------------------------------------------------------ figures, marks


def test_mean_and_spread_over_seeds_by_hand() -> None:
    (table,) = tables_of(*(lsf("msft", mse, seed=seed) for seed, mse in enumerate((0.3, 0.4, 0.8))), lsf("full", 0.45))
    assert rows_of(tables.markdown([table]))[2:] == [
        ["MSFT", "<u>0.500 ± 0.265</u>", "<u>0.600 ± 0.265</u>", "2.00"],  # sqrt((0.04 + 0.01 + 0.09) / 2)
        ["full finetuning", "**0.450**", "**0.550**", "1.00"],
    ]
    assert "Seeds: 3 for MSFT; 1 for full finetuning. ±" in " ".join(notes(table))


@pytest.mark.parametrize(
    ("second", "expected"),
    [(0.3004, {"msft": 1, "full": 1}), (0.306, {"msft": 1, "full": 2}), (0.31, {"msft": 1, "full": 2, "lora": 2})],
)
def test_figures_that_look_equal_share_a_place_and_behind_two_best_there_is_no_second(
    second: float, expected: dict[str, int]
) -> None:
    errors = {"msft": 0.3001, "full": second, "lora": 0.3101, "dlinear": 0.32}
    (table,) = tables_of(*(lsf(model, mse) for model, mse in errors.items()))
    marks = table.marks(table.columns[0], "mse")
    assert {row.model: place for row, place in marks.items()} == expected
    assert table.ranking(["mse"]).means == dict(zip(table.rows, (1.0, 2.0, 3.0, 4.0), strict=True))


def test_small_figures_have_digits_enough_all_alike_in_a_column() -> None:
    (table,) = tables_of(
        lsf("msft", 0.00341), lsf("full", 0.02846), lsf("msft", 12.0, "ETTm1"), lsf("full", 0.1, "ETTm1")
    )
    cells = [line[1::2] for line in rows_of(tables.markdown([table]))[2:]]
    assert cells == [["**0.00341**", "<u>12.000</u>", "1.50"], ["<u>0.02846</u>", "**0.100**", "1.50"]]


def test_one_figure_alone_is_neither_best_nor_ranked() -> None:
    (table,) = tables_of(lsf("msft", 0.3))
    assert rows_of(tables.markdown([table]))[2] == ["MSFT", "0.300", "0.400", ""]


def test_coverage_is_best_where_it_is_nearest_to_its_nominal_value() -> None:
    metrics = [{"crps": 1.0, "msis": 1.0, "coverage": coverage} for coverage in (0.5, 0.83, 0.99)]
    (table,) = tables_of(
        *(result(m, family="pf", metrics=own) for m, own in zip(("msft", "full", "lora"), metrics, strict=True))
    )
    assert list(table.marks(table.columns[0], "coverage").values()) == [1, 2]
    assert [row.model for row in table.marks(table.columns[0], "coverage")] == ["full", "lora"]
    assert table.ranking().metrics == ("crps", "msis")


def test_a_missing_result_or_metric_is_an_empty_cell() -> None:
    entries = [lsf("msft", 0.4), lsf("full", 0.5), lsf("full", 0.6, "ETTm1")]
    entries[1]["metrics"].pop("mae")
    (table,) = tables_of(*entries)
    assert rows_of(tables.markdown([table]))[2:] == [
        ["MSFT", "**0.400**", "0.500", "", "", ""],
        ["full finetuning", "<u>0.500</u>", "", "0.600", "0.700", ""],
    ]
    assert "No mean rank" in " ".join(notes(table))


# --------------------------------------------------------------------------------------------------------------- ranks


def test_mean_ranks_against_a_loop() -> None:
    """Two columns lack a model and don't count; one model is in too few columns to count itself; one pair is equal."""
    random = np.random.default_rng(3)
    places = [(dataset, horizon) for dataset in ("ETTh1", "ETTm1", "Weather") for horizon in (96, 336)]
    errors = {(m, p): random.random() for m in ("msft", "full", "lora", "dlinear") for p in places}
    errors["msft", places[0]] = errors["full", places[0]]
    del errors["lora", places[1]], errors["full", places[2]]
    errors["fracast", places[3]] = errors["fracast", places[1]] = 0.0
    (table,) = tables_of(*(lsf(model, error, *place) for (model, place), error in errors.items()))

    ranks: dict[str, list[float]] = {model: [] for model in ("msft", "full", "lora", "dlinear")}
    for place in (places[0], *places[3:]):
        for model, own in ranks.items():
            others = [errors[other, place] for other in ranks]
            below = sum(error < errors[model, place] for error in others)
            own.append(below + (1 + sum(error == errors[model, place] for error in others)) / 2)
    expected = {model: np.mean(own) for model, own in ranks.items()}
    assert {row.model: mean for row, mean in table.ranking().means.items()} == pytest.approx(expected)
    note = " ".join(notes(table))
    assert "Mean rank: of 4 models over the MSE and MAE of 4 of 6 data sets and horizons" in note
    assert "not ranked, in fewer than half of the columns: Fracast-0." in note


def test_names_are_text_in_markdown() -> None:
    name = "a|b <img src=x> *c* `d` [e](f) _g_"
    text = tables.markdown(tables_of(lsf("msft", 0.4, name)))
    assert "a\\|b &lt;img src=x&gt; \\*c\\* \\`d\\` \\[e\\](f) \\_g\\_ 96<br>MSE" in text
    assert tables.markdown(tables_of(lsf("msft", 0.4, "folder/mine.toml"))).count("| mine 96<br>MSE |") == 1


# --------------------------------------------------------------------------------------------------------------- files


def test_csv_has_every_figure_unrounded_with_its_files(tmp_path: Path) -> None:
    store(tmp_path, lsf("msft", 1 / 3), lsf("msft", 1 / 7, seed=1), lsf("full", 0.25, options={"backbone": "a,b"}))
    tables.main(arguments_of(tables, "--results", str(tmp_path)))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "tables.csv").read_text())))
    assert len(lines) == 4
    first = next(line for line in lines if (line["model"], line["metric"]) == ("msft", "mse"))
    assert float(first["mean"]) == pytest.approx((1 / 3 + 1 / 7) / 2, abs=1e-15)
    assert float(first["spread"]) == pytest.approx((1 / 3 - 1 / 7) / 2**0.5, abs=1e-15)
    files = [json.loads((tmp_path / "runs" / name).read_text()) for name in first["files"].split()]
    assert [entry["metrics"]["mse"] for entry in files] == [1 / 3, 1 / 7]
    assert (first["seeds"], first["place"], first["look_back"], first["windows"]) == ("0 1", "1", "512", "2785")
    assert {line["options"] for line in lines} == {"{}", '{"backbone": "a,b"}'}


# -------------------------------------------------------------------------------------------------------------- README


def test_a_selection_is_not_written_over_the_tables_of_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, lsf("msft", 0.4), lsf("dlinear", 0.3, dataset="Weather"))
    tables.main(arguments_of(tables, "--results", str(tmp_path)))
    written = {path.name: path.read_text() for path in tmp_path.glob("tables.*")}
    assert set(written) == {"tables.md", "tables.csv"}
    assert "Weather" in written["tables.md"]
    some = ["--results", str(tmp_path), "--datasets", "ETTh1"]
    capsys.readouterr()
    tables.main(arguments_of(tables, *some))
    assert "written: nothing; --output FOLDER" in capsys.readouterr().out
    assert written == {path.name: path.read_text() for path in tmp_path.glob("tables.*")}
    tables.main(arguments_of(tables, *some, "--output", str(tmp_path / "some")))
    assert "Weather" not in (tmp_path / "some" / "tables.md").read_text()


def test_only_the_text_between_the_markers_changes(tmp_path: Path) -> None:
    folder = store(tmp_path / "my results", lsf("msft", 0.4), lsf("full", 0.5))
    readme = tmp_path / "README.md"
    before, after = b"# Title\r\n\r\n\xc3\xa4\n" + BEGIN.encode(), END.encode() + b"\r\nthe rest, no newline"
    readme.write_bytes(before + b" old " + after)
    readme.chmod(0o600)
    words = ("--results", str(folder), "--readme", str(readme))
    tables.main(arguments_of(tables, *words))
    once = readme.read_bytes()
    assert once.startswith(before)
    assert once.endswith(after)
    assert b" old " not in once
    assert "| MSFT | **0.400** |" in once.decode()
    assert f"`python -m benchmarks table --results '{folder}' --readme {readme}`" in once.decode()
    assert readme.stat().st_mode & 0o777 == 0o600
    tables.main(arguments_of(tables, *words))
    assert readme.read_bytes() == once


@pytest.mark.parametrize("text", ["none", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"])
def test_a_readme_without_its_markers_is_refused_and_left_alone(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md needs the line <!-- results:begin --> once"):
        tables.put_into(readme, "new")
    assert readme.read_text() == text


@pytest.mark.parametrize(
    ("option", "message"), [("--readme", "--readme: .*missing"), ("--output", "--output is no folder")]
)
def test_a_place_that_cannot_be_written_is_said_in_a_line(tmp_path: Path, option: str, message: str) -> None:
    store(tmp_path / "store", lsf("msft", 0.4), lsf("full", 0.5))
    (tmp_path / "file").write_text("")
    place = tmp_path / {"--readme": "missing.md", "--output": "file"}[option]
    with pytest.raises(Misuse, match=message):
        tables.main(arguments_of(tables, "--results", str(tmp_path / "store"), option, str(place)))
