"""The README's figures about the bundled checkpoint are those of the result files."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from written_figures import read_json, table, text

from benchmarks import checkpoint, defaults, efficiency
from benchmarks.run import harness
from benchmarks.run import store as results
from benchmarks.run.provenance import ROOT
from darts_msft.backbones import describe, load_class
from darts_msft.scales.aggregator import CrossScaleAggregator
from darts_msft.scales.pyramid import ScalePlan

Entry = dict[str, Any]

SINGLE, QUANTILE = "`msft`, `num_scales=0`", '`msft`, `mixing="quantile"`'
METHODS = read_json(checkpoint.RESULTS.parent / "methods" / "methods_ETTh1.json")


def readme() -> str:
    return text(ROOT / "README.md")


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


def test_who_is_ahead_among_the_methods() -> None:
    means = {
        name: {
            method: statistics.mean(row[name] for row in rows_of(method)) for method in METHODS["settings"]["methods"]
        }
        for name in ("MSE", "MAE", "CRPS")
    }
    first = {name: min(found, key=lambda method, found=found: found[method]) for name, found in means.items()}
    assert first == {"MSE": "lora", "MAE": "msft", "CRPS": "msft"}
    close = [means["MSE"][method] for method in ("msft", "full", "lora", "adalora")]
    zero_shot, scratch, probe = (means["MSE"][method] for method in ("zero_shot", "scratch", "linear_probe"))
    assert [round(100 * (1 - mse / zero_shot)) for mse in (max(close), min(close))] == [7, 8]
    for name in ("MAE", "CRPS"):
        lead = sorted(means[name].values())[1] - means[name]["msft"]
        assert lead < statistics.stdev(row[name] for row in rows_of("lora"))
    assert (
        "LoRA has the lowest MSE, MSFT the lowest MAE and CRPS (by less than the seeds differ); MSFT, full finetuning, "
        "LoRA and AdaLoRA are within "
        f"{100 * (max(close) / min(close) - 1):.1f} % of each other and 7 to 8 % ahead of zero-shot in MSE."
    ) in readme()
    assert f"over three seeds, LoRA has an MSE {100 * (1 - close[2] / close[0]):.0f} % lower:" in readme()
    assert scratch > 1.5 * zero_shot
    assert probe > zero_shot


def test_readme_has_the_harness_figures() -> None:
    found = {(check.model, check.dataset): check for check in harness.checks(results.FOLDER)}
    mse = {place: f"{statistics.mean(check.found.values()):.3f}" for place, check in found.items() if check.found}
    sets = ("ETTh1", "ETTm1", "Weather")
    ours, theirs = (
        " / ".join(values["dlinear", name] for name in sets)
        for values in (mse, {place: f"{value:.3f}" for place, value in harness.REFERENCES.items()})
    )
    seeds = ", ".join(f"{value:.3f}" for value in found["dlinear", "ETTh1"].found.values())
    assert (
        f"DLinear has a test MSE of {ours} on {' / '.join(sets)}, mean of three seeds (paper: {theirs}; with each seed "
        f"ETTh1 {seeds})"
    ) in readme()
    assert f"and PatchTST {mse['patchtst', 'ETTh1']} on ETTh1, one seed (paper: 0.375)" in readme()
    assert all(check.passed for check in found.values() if check.found)
    missing = [place for place, check in found.items() if not check.found]
    assert missing == [("patchtst", "ETTm1"), ("patchtst", "Weather")]
    assert "PatchTST on ETTm1 and Weather was not run" in readme()


def test_readme_has_the_adapter_files_sizes() -> None:
    """float32, without the few hundred bytes of names."""
    lora, msft = (4 * rows_of(method)[0]["trained"] / 1e6 for method in ("lora", "msft"))
    assert f"with the bundled model {lora:.1f} MB for LoRA and {msft:.1f} MB for MSFT" in readme()
    layers, width = 6, 128  # as the model card's test has them
    aggregator = CrossScaleAggregator(ScalePlan(512, 96, 32, 2), width, "both")
    share = layers * sum(values.numel() for values in aggregator.parameters()) / rows_of("msft")[0]["trained"]
    assert f"MSFT (`num_scales=2`), {100 * share:.0f} % of it the aggregator" in readme()


def test_readme_has_the_shortest_context() -> None:
    _, architecture, config = describe("moirai-tiny")
    finest = min(load_class(architecture).patch_sizes(config))
    assert f"it takes contexts of {finest + 1} steps or more" in readme()
    ScalePlan(finest + 1, 96, finest, 0)
    with pytest.raises(ValueError, match="patches"):
        ScalePlan(finest, 96, finest, 0)


@pytest.fixture(scope="module")
def measured() -> Entry:
    """The newest entry that has all cases."""
    entries = read_json(checkpoint.RESULTS.parent / "efficiency.json")
    entry: Entry = [one for one in entries if set(one["settings"]["cases"]) == set(efficiency.CASES)][-1]
    asked = entry["settings"]
    assert (entry["dirty"], entry["failed"], asked["threads"]) == (False, [], 2)
    assert (asked["horizon"], asked["batch"], asked["samples"]) == (96, 32, 100)
    assert {row["patch"] for row in entry["rows"] if row["what"] in ("step", "forecast")} == {32}
    assert f"at commit {entry['commit'][:7]}" in readme()
    return entry


def cost(entry: Entry, what: str, model: str, context: int, scales: int, method: str = "msft") -> Entry | None:
    """MSFT's ratios to each reference; None where it was left out."""
    asked = {"what": what, "model": model, "method": method, "context": context, "K": scales}
    rows = [row["ratio"] for row in entry["rows"] if asked.items() <= row.items()]
    assert rows or any(asked.items() <= case.items() for case in entry["left_out"])
    return rows[0] if rows else None


def costs(entry: Entry) -> dict[str, dict[str, list[str]]]:
    """The rows of each table, by its head."""
    shown: dict[str, Callable[[Entry], str]] = {
        "step": lambda ratio: f"{ratio['full']:.2f} / {ratio['full_uni2ts']:.2f}",
        "forecast": lambda ratio: f"{ratio['zero_shot']:.2f} / {1 / ratio['uni2ts']:.1f}",
    }
    tables = {}
    for what, head in (("step", "training step"), ("forecast", "forecast")):
        rows = {}
        for model, contexts in (("moirai-small", (512, 2048, 8192)), ("moirai-tiny", (512, 2048))):
            for context in contexts:
                ratios = [cost(entry, what, model, context, scales) for scales in range(5)]
                ratios.append(cost(entry, what, model, context, 2, "one_sequence"))
                rows[f"{model}, {context:,}"] = ["" if one is None else shown[what](one) for one in ratios]
                assert None not in (*ratios[:4], ratios[5])
        tables[f"| {head} | K = 0 | 1 | 2 | 3 | 4 | 2, one sequence |"] = rows
    return tables


def test_readme_has_what_steps_and_forecasts_cost(measured: Entry) -> None:
    for head, rows in costs(measured).items():
        assert table(ROOT / "README.md", head) == rows


def test_readme_has_the_verdicts_on_the_aims(measured: Entry) -> None:
    for goal in measured["goals"]:
        assert goal["holds"] is False
        assert f"- {goal['goal']}: {goal['detail']}" in readme()


def test_readme_s_reading_of_the_costs(measured: Entry) -> None:
    tokens = [sum(ScalePlan(2048, 96, 32, scales, True).token_counts) for scales in range(5)]
    times = ", ".join(f"{count / tokens[0]:.2f}" for count in tokens[1:])
    assert f"K = 1, 2, 3, 4 has {times} times as many as K = 0 (context 2,048)" in readme()
    assert tokens[2] / tokens[0] > 1.6
    same = [
        row["ratio"]["zero_shot"] for row in measured["rows"] if (row["what"], row["method"]) == ("forecast", "full")
    ]
    assert f"are {min(same):.2f} to {max(same):.2f} of each other" in readme()
    assert all(0.9 < one < 1.1 for one in same)
    spread = [row["iqr"] / row["seconds"] for row in measured["rows"] if row["what"] in ("step", "forecast")]
    share = 100 * statistics.median(spread)
    assert f"range over its runs is {share:.0f} % of its time (median of the cases)" in readme()


def test_readme_has_the_memory_and_the_import(measured: Entry) -> None:
    rows = {
        (row["length"], row["batch"]): row
        for row in measured["rows"]
        if row["what"] == "memory" and row["method"] == "msft"
    }
    beyond = {place: f"{row['beyond_result_bytes'] / 1e6:.0f} MB" for place, row in rows.items()}
    assert f"holds {beyond[11520, 32]} beyond the series that it returns in batches of 32" in readme()
    assert f"and {beyond[11520, 256]} in batches of 256" in readme()
    for batch in (32, 256):
        short, long = rows[2880, batch], rows[11520, batch]
        for name, told in (("beyond_result_bytes", {32: 3, 256: 5}[batch]), ("result_bytes", 5)):
            assert round((long[name] - short[name]) / (long["windows"] - short["windows"]) / 1e3) == told
    assert "and 3 to 5 kB a window beside the 5 kB that are returned" in readme()
    seconds = {row["method"]: row["seconds"] for row in measured["rows"] if row["what"] == "import"}
    own, theirs = seconds["darts_msft"], seconds["darts' foundation models"]
    assert own == pytest.approx(theirs, rel=0.1)
    base = seconds["darts and torch"]
    assert f"`import darts_msft` takes {own:.1f} s, nearly all of it Darts' module of foundation models" in readme()
    assert f"`import darts, torch` takes {base:.1f} s" in readme()


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


def test_readme_has_every_method_s_held_back_score(weights: str) -> None:
    found, expected = {}, {}
    for settings in defaults.GROUPS["methods"]:
        changes = [
            f"{name}={json.dumps(value)}" for name, value in settings.items() if name in ("mixing", "num_scales")
        ]
        label = ", ".join(f"`{part}`" for part in (settings["method"], *changes))
        found[label] = means_of(weights, settings, lambda entry: entry["held_back"], seeds=(0, 1))
        expected[label] = [pair(found[label])]
    assert table(ROOT / "README.md", "| method | CRPS, ETTh1 / ETTm1 |") == expected

    def ahead_of(other: str, own: str = "`msft`") -> list[str]:
        return [f"{100 * (1 - left / right):.1f}" for left, right in zip(found[own], found[other], strict=True)]

    behind = [f"{100 * (left / right - 1):.1f}" for left, right in zip(found[SINGLE], found["`msft`"], strict=True)]
    assert f"(K = 0) is {' and '.join(behind)} % behind" in readme()
    assert f"ahead of LoRA by {' and '.join(ahead_of('`lora`'))} %" in readme()
    assert f"({' and '.join(ahead_of('`msft`', QUANTILE))} % on the halves above)" in readme()
    first, second = ahead_of("`full`")
    assert f"it is {first} % ahead on ETTh1 and {second.removeprefix('-')} % behind on ETTm1" in readme()
    assert second.startswith("-")
    trained = {method: rows_of(method)[0]["trained"] for method in ("msft", "full")}
    assert trained["msft"] / trained["full"] == pytest.approx(2 / 3, abs=0.02)


def test_what_stacking_gains_where_it_was_solved(weights: str) -> None:
    """Over uniform weights, on what the fit saw and on what it did not; the difference is flattery."""
    both = [{"method": "msft", "weight_learning": way, "validation_share": 0.5} for way in ("stacking", "uniform")]
    gains = []
    for measure in ("best", "held_back"):
        stacking, uniform = (means_of(weights, one, lambda entry, of=measure: entry[of], seeds=(0, 1)) for one in both)
        gains.append([1 - own / other for own, other in zip(stacking, uniform, strict=True)])
    flattery = [seen - unseen for seen, unseen in zip(*gains, strict=True)]
    first, second = (f"{100 * share:.1f}" for share in flattery)
    assert f"which flatters it there by {first} and {second} %)" in readme()


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
    quantile, mixture = (
        means_of(weights, {"method": "msft", "mixing": way}, lambda entry: entry["best"])
        for way in ("quantile", "mixture")
    )
    gains = [f"{100 * (1 - own / other):.1f}" for own, other in zip(quantile, mixture, strict=True)]
    assert f"Averaging the scales' quantiles is {' and '.join(gains)} % better than mixing their" in readme()
    ratios = [
        own / other
        for more, seeds in (({}, (0,)), ({"validation_share": 0.5}, (0, 1)))
        for own, other in zip(
            *(
                means_of(weights, {"method": "msft", "mixing": way, **more}, lambda entry: entry["seconds"], seeds)
                for way in ("quantile", "mixture")
            ),
            strict=True,
        )
    ]
    assert f"and makes a fit {min(ratios):.1f} to {max(ratios):.1f} times as long" in readme()
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
    *learned, uniform = [float(cells[1].rstrip(" %") or 0) for cells in expected.values()]
    assert 0.45 <= uniform < 0.55
    assert max(learned) - min(learned) < 0.3
