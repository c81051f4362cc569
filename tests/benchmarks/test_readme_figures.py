"""The README's figures about the bundled checkpoint are those of the result files."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from written_figures import read_json, table, text

from benchmarks import checkpoint, defaults, efficiency, harness, results
from benchmarks.provenance import ROOT
from darts_msft.pyramid import ScalePlan

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


@pytest.fixture(scope="module")
def cost() -> list[Entry]:
    """The rows of the newest entry that has all cases."""
    entries = read_json(checkpoint.RESULTS.parent / "efficiency.json")
    whole = [entry for entry in entries if set(entry["settings"]["cases"]) == set(efficiency.CASES)]
    assert (whole[-1]["settings"]["batch"], whole[-1]["settings"]["samples"], whole[-1]["threads"]) == (32, 100, 2)
    rows: list[Entry] = whole[-1]["rows"]
    return rows


def test_readme_has_what_steps_and_forecasts_cost(cost: list[Entry]) -> None:
    labels = {
        ("step", "full"): "step over full finetuning's",
        ("step", "full_uni2ts"): "step over uni2ts' full finetuning's",
        ("forecast", "zero_shot"): "forecast over zero-shot's",
        ("forecast", "uni2ts"): "forecast over uni2ts'",
    }
    expected = {}
    for (what, reference), label in labels.items():
        for context in (512, 2048, 8192):
            ratios = {
                row["K"]: f"{row['ratio'][reference]:.2f}"
                for row in cost
                if (row["what"], row.get("model"), row["method"]) == (what, "moirai-small", "msft")
                and row["context"] == context
            }
            expected[f"{label}, {context:,}"] = [ratios.get(scales, "") for scales in range(5)]
    assert table(ROOT / "README.md", "| times, by K | 0 | 1 | 2 | 3 | 4 |") == expected
    tokens = [sum(ScalePlan(2048, 96, 32, scales, True).token_counts) for scales in range(5)]
    times = ", ".join(f"{count / tokens[0]:.2f}" for count in tokens[1:])
    assert f"K = 1, 2, 3, 4 has {times} times as many tokens as K = 0 (at 2,048)" in readme()


def test_readme_s_reading_of_the_costs(cost: list[Entry]) -> None:
    """Aims: a step of 1.3 times full finetuning's, a forecast of 1.6 times zero-shot's."""

    def ratios(what: str, reference: str, scales: int, model: str = "moirai-small") -> list[float]:
        return [
            row["ratio"][reference]
            for row in cost
            if (row["what"], row.get("model"), row["method"], row.get("K")) == (what, model, "msft", scales)
        ]

    assert max(ratios("step", "full_uni2ts", 2)) < 1.3 < min(ratios("step", "full", 2))
    most = [max(ratios("forecast", "zero_shot", scales)) for scales in range(3)]
    assert most[0] < 1.6 < most[1] < 1.02 * 1.6 < most[2]
    at_512, at_2048 = ratios("step", "full", 2, "moirai-tiny")
    assert f"takes {at_2048:.2f} times (at 2,048) and {at_512:.2f} times (at 512) that of full finetuning" in readme()


def test_readme_has_the_memory_and_the_import(cost: list[Entry]) -> None:
    beyond = {
        (row["length"], row["batch"]): f"{row['beyond_result_bytes'] / 1e6:.0f}"
        for row in cost
        if row["what"] == "memory" and row["method"] == "msft"
    }
    assert (
        f"{beyond[11520, 32]} MB in batches of 32 and {beyond[11520, 256]} MB in batches of 256 (a quarter of the "
        f"part: {beyond[2880, 32]} and {beyond[2880, 256]} MB)"
    ) in readme()
    seconds = {row["method"]: f"{row['seconds']:.1f}" for row in cost if row["what"] == "import"}
    own, theirs = seconds["darts_msft"], seconds["darts' foundation models"]
    assert f"`import darts_msft` takes {own} s, of which Darts' foundation models are {theirs} s" in readme()


def means_of(
    weights: str, settings: Entry, measure: Callable[[Entry], float], seeds: Iterable[int] = (0,)
) -> list[float]:
    """The mean over the seeds on ETTh1 and on ETTm1."""
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
    return means


def validated(weights: str, group: str, measure: Callable[[Entry], float], seeds: Iterable[int] = (0,)) -> list[Any]:
    """Each setting of the group and its means."""
    return [(settings, means_of(weights, settings, measure, seeds)) for settings in defaults.GROUPS[group]]


def test_readme_has_every_method_s_validation_score(weights: str) -> None:
    methods = ("msft", "full", "lora", "adalora", "prompt", "linear_probe", "scratch")
    found = {method: means_of(weights, {"method": method}, lambda entry: entry["best"]) for method in methods}
    found["zero_shot"] = means_of(weights, {"method": "full"}, lambda entry: entry["scores"]["zero-shot"])
    expected = {f"`{method}`": [pair(means)] for method, means in found.items()}
    assert table(ROOT / "README.md", "| method at its default rates | |") == expected

    def ahead(of: str, means: list[float]) -> list[str]:
        return [f"{100 * (1 - own / other):.1f}" for own, other in zip(means, found[of], strict=True)]

    first, second = ahead("full", found["msft"])
    assert f"({first} % ahead on one set, {second.removeprefix('-')} % behind on the other)" in readme()
    assert second.startswith("-")
    least, most = sorted(ahead("lora", found["msft"]))
    assert f"and {least} to {most} % ahead of LoRA" in readme()
    quantile = means_of(weights, {"method": "msft", "mixing": "quantile"}, lambda entry: entry["best"])
    first, second = ahead("full", quantile)
    assert f"it is {first} % and {second} % ahead of full finetuning" in readme()


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
