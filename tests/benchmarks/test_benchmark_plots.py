"""Pictures of results: what is drawn where, which models are shown, what is left out, and the same bytes each time."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_results import arguments_of, result, store, tables_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import rankdata

from benchmarks import plots
from benchmarks.charts import TRAINING_TIME, accuracy, critical_difference, kin, scale_weights
from benchmarks.gallery import gallery
from benchmarks.picture import COLOURS, KINDS, Picture, looks
from benchmarks.significance import compare, critical_distance

PLACES = [(dataset, horizon) for dataset in ("ETTh1", "ETTm1", "Weather") for horizon in (96, 336)]


def lsf(model: str, mse: float, dataset: str = "ETTh1", horizon: int = 96, **changes: Any) -> dict[str, Any]:
    return result(model, dataset, horizon, metrics={"mse": mse, "mae": mse}, **changes)


def drawn(picture: Picture) -> Figure:
    assert picture.figure is not None, picture.caption
    return picture.figure


def panels(picture: Picture) -> list[Axes]:
    return [axes for axes in drawn(picture).axes if axes.get_visible()]


def seconds(*found: dict[str, Any]) -> Picture:
    (table,) = tables_of(*found)
    return accuracy(table, "name", TRAINING_TIME, "s", lambda run: run.result["processor_seconds"]["fit"])


# ------------------------------------------------------------------------------------------------------------ accuracy


def test_points_lie_at_mean_cost_and_mean_error_and_untrained_models_are_lines() -> None:
    trained = [lsf("msft", 0.3, seed=0), lsf("msft", 0.5, seed=1), lsf("dlinear", 0.45, "ETTm1")]
    for entry, spent in zip(trained, (10.0, 30.0, 7.0), strict=True):
        entry["processor_seconds"]["fit"] = spent
    picture = seconds(*trained, lsf("zero_shot", 0.6), lsf("zero_shot", 0.46, "ETTm1"))
    first, second = panels(picture)
    assert (first.get_title(), first.get_xlabel(), first.get_xscale()) == (
        "ETTh1 96",
        "processor time of training (s)",
        "log",
    )
    assert first.get_ylabel() == "MSE (standardised)"
    (point,) = first.containers  # an error bar: its line, and the bar from mean - spread to mean + spread
    assert point[0].get_xydata().tolist() == [[20.0, pytest.approx(0.4)]]
    bar = point[2][0].get_segments()[0]
    np.testing.assert_allclose(bar, [[20, 0.4 - 0.02**0.5], [20, 0.4 + 0.02**0.5]])
    assert second.containers[0][0].get_xydata().tolist() == [[7.0, 0.45]]
    for axes, error in ((first, 0.6), (second, 0.46)):
        (dashed,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert set(dashed.get_ydata()) == {error}
    assert len(picture.runs) == 5


def test_what_is_far_above_all_else_is_named_and_does_not_stretch_the_panel() -> None:
    picture = seconds(
        lsf("msft", 0.3), lsf("lora", 0.31), lsf("dlinear", 2.0), lsf("zero_shot", 0.33), lsf("fracast", 3.0)
    )
    (axes,) = panels(picture)
    assert [text.get_text() for text in axes.texts] == ["DLinear: 2.000 ↑\nFracast-0: 3.000 ↑"]
    assert [set(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--"] == [{0.33}]
    assert len(axes.containers) == 2
    assert axes.get_ylim()[1] < 0.4


def test_times_of_several_machines_are_not_passed_over() -> None:
    entries = [lsf("msft", 0.3), lsf("dlinear", 0.32)]
    assert seconds(*entries).caption.endswith("Times of x86_64 with 2 threads, device cpu.")
    entries[1]["provenance"]["machine"] = "arm64"
    assert seconds(*entries).caption.endswith(
        "Times of arm64 with 2 threads, device cpu and of x86_64 with 2 threads, device cpu: compare them with care."
    )


def test_a_place_without_a_figure_is_an_empty_panel() -> None:
    bare = lsf("msft", 0.3, "ETTm1")
    del bare["metrics"]["mse"]
    first, second = panels(seconds(lsf("msft", 0.3), lsf("dlinear", 0.32), bare))
    assert (len(first.containers), len(second.containers)) == (2, 0)


def test_accuracy_of_one_model_or_of_none_trained_is_left_out() -> None:
    for entries in ([lsf("msft", 0.3)], [lsf("zero_shot", 0.3), lsf("seasonal_naive", 0.4)]):
        picture = seconds(*entries)
        assert picture.figure is None
        assert picture.caption == f"No picture of the {TRAINING_TIME}: it takes two models, one of them trained."
        with pytest.raises(ValueError, match=f"the picture name was left out: No picture of the {TRAINING_TIME}"):
            picture.data("png")


def test_every_model_of_a_table_looks_different_and_the_same_in_every_table() -> None:
    models = [model for kind in KINDS.values() for model in kind]
    (table,) = tables_of(*(lsf(m, 0.4) for m in models), *(lsf(f"user {i}", 0.4) for i in range(20)))
    found = looks(table)
    assert len(set(found.values())) == len(models) + 20
    (small,) = tables_of(lsf("patchtst", 0.4), lsf("msft", 0.4))
    by_model = {row.model: look for row, look in found.items()}
    assert {row.model: look for row, look in looks(small).items()} == {m: by_model[m] for m in ("msft", "patchtst")}


def test_colours_differ_for_the_colour_blind() -> None:
    """Machado et al. 2009, full deuteranopia and protanopia, on linear RGB; the distance is in CIE Lab."""
    kinds = {
        "deuteranopia": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ],
        "protanopia": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    }
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

    def lab(linear: np.ndarray) -> np.ndarray:
        x, y, z = np.cbrt(np.clip(to_xyz @ linear / to_xyz.sum(axis=1), 0.008856, None))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for matrix in kinds.values():
        seen = []
        for colour in COLOURS:
            rgb = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
            seen.append(lab(np.clip(np.array(matrix) @ (((rgb + 0.055) / 1.055) ** 2.4), 0, 1)))
        assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 10


# ------------------------------------------------------------------------------------------------------- scale weights


def test_bars_are_the_mean_weights_over_seeds() -> None:
    """A seed with fewer scales counts with 0 for the others; what has one scale, or wasn't trained, has no bar."""
    entries = [
        lsf("msft", 0.4, scale_weights=[0.5, 0.3, 0.2]),
        lsf("msft", 0.4, seed=1, scale_weights=[0.9, 0.1]),
        lsf("msft", 0.4, "ETTm1", scale_weights=[0.25, 0.75]),
        lsf("full", 0.4, scale_weights=[1.0]),
        lsf("zero_shot", 0.4, scale_weights=[1.0, 0.0, 0.0]),
    ]
    (table,) = tables_of(*entries)
    picture = scale_weights(table, "name")
    (axes,) = panels(picture)
    assert axes.get_title(loc="left") == "MSFT"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ETTh1 96", "ETTm1 96"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.7, 0.2, 0.1, 0.25, 0.75])
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([0, 0.7, 0.9, 0, 0.25])
    assert [run.experiment["model"] for run in picture.runs] == ["msft"] * 3


def test_variants_of_one_place_share_a_panel_and_no_scales_are_no_picture() -> None:
    entries = [lsf("msft", 0.4, options={"num_scales": k}, scale_weights=[1 / (k + 1)] * (k + 1)) for k in (1, 2, 3)]
    (table,) = tables_of(*entries)
    (axes,) = panels(scale_weights(table, "name"))
    assert axes.get_title(loc="left") == "ETTh1 96"
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"MSFT (num_scales={k})" for k in (1, 2, 3)]
    (table,) = tables_of(lsf("dlinear", 0.4))
    assert scale_weights(table, "name").caption == "No model of this table mixes scales."


# ------------------------------------------------------------------------------------------------------------- gallery


def test_gallery_shows_the_best_models_and_ours_in_any_case() -> None:
    errors = {"msft": 0.9, "full": 0.5, "lora": 0.3, "dlinear": 0.2, "patchtst": 0.4, "timemixer": 0.6, "prompt": 0.1}
    entries = [lsf(model, mse) for model, mse in errors.items()]
    entries[-1]["examples"] = []
    (table,) = tables_of(*entries)
    picture = gallery(table, table.columns[0], "name")
    assert [run.experiment["model"] for run in picture.runs] == ["dlinear", "lora", "patchtst", "msft"]
    titles = [axes.get_title() for axes in panels(picture)]
    assert titles[:4] == ["DLinear\nMSE 0.200", "LoRA\nMSE 0.300", "PatchTST\nMSE 0.400", "MSFT\nMSE 0.900"]
    assert len(panels(picture)) == 12


def test_gallery_draws_context_truth_median_and_quantiles() -> None:
    entry = result("msft", horizon=4, family="pf")
    entry["examples"] = [
        {
            "start": 100,
            "variable": "a$b$",
            "context": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
            "target": [6.0, 7.0, 8.0, 9.0],
            "levels": [0.1, 0.5, 0.9],
            "quantiles": [[5.0] * 4, [6.5] * 4, [9.0] * 4],
        }
    ]
    (table,) = tables_of(entry)
    picture = gallery(table, table.columns[0], "name")
    (axes,) = panels(picture)
    lines = {tuple(line.get_ydata()): tuple(line.get_xdata()) for line in axes.lines}
    assert lines[2.0, 3.0, 4.0, 5.0] == (-3, -2, -1, 0)
    assert lines[6.0, 7.0, 8.0, 9.0] == lines[6.5, 6.5, 6.5, 6.5] == (1, 2, 3, 4)
    box = axes.collections[0].get_paths()[0].get_extents()
    assert (box.y0, box.y1) == (5.0, 9.0)
    assert axes.get_ylabel() == "a\\$b\\$\n(in the data's unit)\nfrom step 100"
    legend = [text.get_text() for text in drawn(picture).legends[0].get_texts()]
    assert legend[-1] == "quantiles 0.1 to 0.9"
    assert picture.data("png").startswith(b"\x89PNG")  # the name with $ is no formula


def test_gallery_without_examples_is_left_out() -> None:
    entry = lsf("msft", 0.4)
    del entry["examples"]
    (table,) = tables_of(entry)
    assert gallery(table, table.columns[0], "name").figure is None


# -------------------------------------------------------------------------------------------------- critical difference


@pytest.mark.parametrize(("models", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_distance_has_the_published_quantiles(models: int, q: float) -> None:
    """Demsar 2006, table 5(a), level 0.05."""
    scale = math.sqrt(models * (models + 1) / (6 * 14))
    assert critical_distance(models, 14) / scale == pytest.approx(q, abs=1.5e-3)


def test_friedman_and_the_groups_against_loops() -> None:
    random = np.random.default_rng(5)
    errors = random.random((12, 6)) + np.array([0.0, 0.9, 0.1, 0.5, 0.3, 1.2])
    places = np.array([rankdata(row) for row in errors])
    found = compare(places)
    n, k = places.shape
    means = [sum(row[j] for row in places) / n for j in range(k)]
    statistic = 12 * n / (k * (k + 1)) * (sum(mean**2 for mean in means) - k * (k + 1) ** 2 / 4)
    half = statistic / 2  # the survival function of chi-square with 5 degrees of freedom, in closed form
    tail = math.erfc(math.sqrt(half)) + math.exp(-half) * sum(half ** (i - 0.5) / math.gamma(i + 0.5) for i in (1, 2))
    assert found.p_value == pytest.approx(tail, rel=1e-9)
    ordered = sorted(range(k), key=lambda j: means[j])
    assert list(found.order) == ordered
    near = {(a, b) for a, b in combinations(range(k), 2) if means[ordered[b]] - means[ordered[a]] < found.distance}
    widest = {(a, b) for a, b in near if not any((c <= a and b <= d) and (c, d) != (a, b) for c, d in near)}
    assert set(found.groups) == widest
    assert len(widest) > 1


def test_equal_models_are_no_evidence() -> None:
    found = compare(np.full((5, 3), 2.0))
    assert (found.p_value, found.groups) == (1.0, ((0, 2),))


def test_rank_diagram_places_models_at_their_mean_ranks() -> None:
    """Three models, always in the same order over six columns: ranks 1, 2, 3."""
    errors = {"msft": 0.1, "full": 0.2, "dlinear": 0.3}
    (table,) = tables_of(*(lsf(model, mse, *place) for place in PLACES for model, mse in errors.items()))
    picture = critical_difference([table], "name")
    (axes,) = panels(picture)
    texts = [text.get_text().strip() for text in axes.texts]
    assert [text for text in texts if "(" in text] == ["MSFT  (1.00)", "full finetuning  (2.00)", "(3.00)  DLinear"]
    distance = critical_distance(3, 6)
    assert f"critical distance {distance:.2f}" in texts
    stems = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 3]
    assert stems == [1.0, 2.0, 3.0]
    bars = [line.get_xdata() for line in axes.lines if line.get_linewidth() == 2.5]
    np.testing.assert_allclose(bars, [[0.96, 2.04], [1.96, 3.04]])  # 1.35 apart is not enough for 1 and 3
    assert 1 < distance < 2
    assert "over 6 data sets and horizons. Friedman's test that all are equal: p = 0.0025. Bars join" in picture.caption
    assert len(picture.runs) == 18


def test_columns_of_two_budgets_are_ranked_together_and_shown_once() -> None:
    """Four columns of one budget and two of another; a fifth of a lone model in a third budget doesn't count twice."""
    errors = {"msft": 0.1, "full": 0.2, "dlinear": 0.3}
    entries = [
        lsf(model, mse, *place, budget={"epochs": 3 if index > 3 else 5})
        for index, place in enumerate(PLACES)
        for model, mse in errors.items()
    ]
    found = tables_of(*entries, lsf("dlinear", 9.0, *PLACES[0], budget={"epochs": 99}))
    assert len(found) == 3
    named = [picture for table in found for picture in plots.pictures(table, found) if picture.name.endswith("-ranks")]
    assert len(named) == 1
    assert "over 6 data sets and horizons, of 2 tables with budgets of their own. Friedman" in named[0].caption
    assert len(named[0].runs) == 18
    assert 9.0 not in {run.result["metrics"]["mse"] for run in named[0].runs}
    quick = tables_of(*entries[:12], *(lsf(m, e, *PLACES[4], test_stride=7) for m, e in errors.items()))
    assert [kin(table, quick) for table in quick] == [[table] for table in quick]


def test_no_evidence_is_said_in_the_caption() -> None:
    random = np.random.default_rng(1)
    (table,) = tables_of(*(lsf(m, random.random(), *place) for place in PLACES for m in ("msft", "full", "dlinear")))
    assert "That is no evidence of any difference" in critical_difference([table], "name").caption


@pytest.mark.parametrize(("models", "columns"), [(2, 6), (3, 4)])
def test_too_few_models_or_columns_are_no_diagram_and_say_so(models: int, columns: int) -> None:
    names = ("msft", "full", "dlinear")[:models]
    (table,) = tables_of(*(lsf(model, 0.4, *place) for place in PLACES[:columns] for model in names))
    picture = critical_difference([table], "name")
    assert picture.figure is None
    assert f"{models} models have figures in {columns} common columns; the test needs at least 3" in picture.caption


# --------------------------------------------------------------------------------------------------------------- files


def test_pictures_are_the_same_bytes_each_time_and_say_where_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, result("msft"), result("dlinear"))
    words = ("--results", str(tmp_path), "--output")
    for folder in ("one", "two"):
        plots.main(arguments_of(plots, *words, str(tmp_path / folder)))
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / f / "pictures").iterdir()} for f in ("one", "two"))
    assert first == second
    kinds = ("seconds", "parameters", "scales", "forecasts-ETTh1-96")
    budget = next(iter(first)).split("-")[1]
    assert set(first) == {f"lsf-{budget}-{kind}.{end}" for kind in kinds for end in ("png", "svg")}
    for name, content in first.items():
        if name.endswith("png"):
            assert content.startswith(b"\x89PNG")
        else:
            assert ET.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    printed = capsys.readouterr().out
    assert f"lsf-{budget}-ranks: left out. No diagram of critical differences: 2 models" in printed


def test_every_table_has_names_of_its_own_for_its_pictures() -> None:
    entries = [lsf("msft", 0.4), lsf("full", 0.4), lsf("msft", 0.4, test_stride=7), result("msft", family="pf")]
    entries += [lsf("msft", 0.4, options={"mixing": "first"}), lsf("msft", 0.4, budget={"epochs": 3})]
    entries += [lsf("msft", 0.4, options={"look_back": length}) for length in (96, 336)]
    names = [plots.file_name(table) for table in tables_of(*entries)]
    assert len(set(names)) == len(names) == 7
    assert all(name.replace("-", "").replace("_", "").isalnum() for name in names)
