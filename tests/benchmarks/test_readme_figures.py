"""The README's figures about the bundled checkpoint are those of the result files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from written_figures import read_json, table, text

from benchmarks import checkpoint, defaults, harness, results
from benchmarks.provenance import ROOT

Entry = dict[str, Any]

METHODS = read_json(checkpoint.RESULTS.parent / "methods" / "methods_ETTh1.json")


def readme() -> str:
    return text(ROOT / "README.md")


@pytest.fixture(scope="module")
def weights() -> str:
    return checkpoint.weights_hash("moirai-tiny")


def rows_of(method: str) -> list[Entry]:
    return [row for row in METHODS["rows"] if row["method"] == method]


def test_readme_has_every_method_s_figures() -> None:
    asked = METHODS["settings"]
    expected = {}
    for method in asked["methods"]:
        rows = rows_of(method)
        assert [row["seed"] for row in rows] == [0, 1, 2]
        spread = [
            f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
            for values in ([row[name] for row in rows] for name in ("MSE", "MAE", "CRPS"))
        ]
        seconds = statistics.mean(row["seconds"] for row in rows)
        expected[f"`{method}`"] = [*spread, f"{rows[0]['trained']:,}", f"{seconds:.0f}"]
    assert table(ROOT / "README.md", "| method | MSE | MAE | CRPS | parameters trained | seconds |") == expected
    assert asked["backbone"] == "moirai-tiny"
    assert f"{asked['epochs']} epochs of every {asked['stride']}th window" in readme()
    assert f"of every {asked['test_stride']}th window of the test part" in readme()


def test_readme_has_the_harness_figures() -> None:
    found = {(check.model, check.dataset): check for check in harness.checks(results.FOLDER)}
    mse = {place: f"{statistics.mean(check.found.values()):.3f}" for place, check in found.items() if check.found}
    sets = ("ETTh1", "ETTm1", "Weather")
    ours, theirs = (
        " / ".join(values["dlinear", name] for name in sets)
        for values in (mse, {place: f"{value:.3f}" for place, value in harness.REFERENCES.items()})
    )
    assert f"DLinear has a test MSE of {ours} on {' / '.join(sets)}, mean of three seeds (paper: {theirs})" in readme()
    assert f"and PatchTST {mse['patchtst', 'ETTh1']} on ETTh1, one seed (paper: 0.375)" in readme()
    assert all(check.passed for check in found.values() if check.found)
    missing = [place for place, check in found.items() if not check.found]
    assert missing == [("patchtst", "ETTm1"), ("patchtst", "Weather")]
    assert "PatchTST on ETTm1 and Weather was not run" in readme()


def test_readme_has_the_adapter_files_sizes() -> None:
    """float32, without the few hundred bytes of names."""
    lora, msft = (4 * rows_of(method)[0]["trained"] / 1e6 for method in ("lora", "msft"))
    assert f"with the bundled model {lora:.1f} MB for LoRA and {msft:.1f} MB for MSFT" in readme()


def validated(weights: str, group: str, measure: Callable[[Entry], float], seeds: Iterable[int] = (0,)) -> list[Any]:
    """Each setting of the group and its mean over the seeds on ETTh1 and on ETTm1."""
    found = []
    for settings in defaults.GROUPS[group]:
        means = []
        for name in ("ETTh1", "ETTm1"):
            entries = [
                entry
                for entry in defaults.read(defaults.RESULTS / f"{name}.json")
                if entry["run"]["weights"] == weights
                and entry["run"]["seed"] in seeds
                and defaults.settings_of(entry)["settings"] == defaults.resolved(settings)
            ]
            assert {entry["run"]["seed"] for entry in entries} == set(seeds)
            means.append(statistics.mean(map(measure, entries)))
        found.append((settings, means))
    return found


def pair(means: list[float]) -> str:
    return f"{means[0]:.4f} / {means[1]:.4f}"


def test_readme_has_the_switches_scores(weights: str) -> None:
    shown = table(ROOT / "README.md", "| | |")
    mixing = {one["mixing"]: pair(means) for one, means in validated(weights, "mixing", lambda entry: entry["best"])}
    assert shown["`mixing`"] == [
        f"quantile {mixing['quantile']}, **mixture {mixing['mixture']}**, first (finest scale alone) "
        f"{mixing['first']}, samples {mixing['samples']}"
    ]
    scales = {one["num_scales"]: pair(m) for one, m in validated(weights, "scales", lambda entry: entry["best"])}
    assert shown["`num_scales`"] == [f"0: {scales[0]}, 1: {scales[1]}, **2: {scales[2]}**, 3: {scales[3]}"]
    before = validated(weights, "scales", lambda entry: entry["scores"]["zero-shot"])[0][1]
    assert f"zero-shot {pair(before)}):" in readme()


def test_readme_has_the_scores_of_weight_learning(weights: str) -> None:
    found = validated(weights, "weights", lambda entry: entry["held_back"], seeds=(0, 1))
    stacking = found[0][1]
    labels = {
        ("mixed_loss", 1e-2): "mixed_loss, `lr_omega` 1e-2",
        ("mixed_loss", 1e-1): "mixed_loss, `lr_omega` 1e-1",
        ("scale_loss", 1e-2): "scale_loss (the paper's), `lr_omega` 1e-2",
        ("scale_loss", 1e-1): "scale_loss, `lr_omega` 1e-1",
        ("uniform", None): "uniform",
    }
    expected = {"**stacking**": [pair(stacking), ""]}
    for settings, means in found[1:]:
        label = labels[settings["weight_learning"], settings.get("lr_omega")]
        ratio = statistics.mean(mean / base for mean, base in zip(means, stacking, strict=True)) - 1
        expected[label] = [pair(means), f"{100 * ratio:+.2f} %"]
    assert table(ROOT / "README.md", "| `weight_learning` | CRPS, ETTh1 / ETTm1 | over stacking |") == expected
