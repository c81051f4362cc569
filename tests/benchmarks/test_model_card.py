"""The bundled checkpoint's model card says what was measured, and it is what was asked for.

Every figure is written anew from the result files, the log and the weights, and looked for in the text.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import subprocess
from pathlib import Path

import pytest
from card_entries import DATASETS, FOLDER, LOG, MEASURED, Entry, card, newest
from fake_results import arguments_of
from safetensors import safe_open
from written_figures import read_json, read_log, table

from benchmarks import checkpoint, tables
from benchmarks.data import datasets
from benchmarks.models.papers import DLINEAR_RATES
from benchmarks.run import measures, suites
from benchmarks.run import store as results
from benchmarks.run.experiments import PROTOCOL
from benchmarks.run.provenance import ROOT
from benchmarks.run.selection import select
from darts_msft.pretraining import objective, synthetic, train
from darts_msft.pretraining.train import Settings

CONFIG = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
WEIGHTS = "darts_msft/checkpoints/moirai-tiny/model.safetensors"
RUNS = [run for _, run in results.entries(results.FOLDER, "run") if run["protocol"] == PROTOCOL]
METHODS = read_json(checkpoint.RESULTS.parent / "methods" / "methods_ETTh1.json")


def zero_shot_entry(weights: str, dataset: str, horizon: int) -> Entry:
    """The newest entry of zero-shot forecasts of the test part."""
    return newest(MEASURED, command="test", weights=weights, dataset=dataset, horizon=horizon)


def baselines(dataset: str, horizon: int, model: str) -> list[Entry]:
    """The newest run of each seed that the suite "card" has of a model."""
    place = (dataset, horizon, model)
    keys = {e.seed: e.key for e in suites.load("card") if (e.dataset, e.horizon, e.model) == place}
    found = {seed: [run for run in RUNS if run["key"] == key] for seed, key in keys.items()}
    assert all(found.values()), f"no run of {place}: python -m benchmarks run --suite card measures it"
    return [max(runs, key=lambda run: run["provenance"]["made"]) for runs in found.values()]


def mean(runs: list[Entry]) -> dict[str, float]:
    return {name: statistics.mean(run["metrics"][name] for run in runs) for name in ("mse", "mae")}


def errors(row: Entry) -> str:
    return f"{row['mse']:.3f} / {row['mae']:.3f}"


# -------------------------------------------------------------------------------------------------- what was asked for


@pytest.mark.parametrize("dataset", DATASETS)
def test_zero_shot_does_what_was_asked_for(weights: str, dataset: str) -> None:
    """MSE at horizon 96, less error than the seasonal naive forecast, and intervals that mean what they say."""
    floor = {"ETTh1": 0.45, "ETTm1": 0.42, "Weather": 0.25}
    for horizon in (96, 336):
        ours = zero_shot_entry(weights, dataset, horizon)["rows"]["zero-shot"]
        naive = mean(baselines(dataset, horizon, "seasonal_naive"))
        assert ours["mse"] < naive["mse"]
        assert ours["mae"] < naive["mae"]
        assert horizon > 96 or ours["mse"] <= floor[dataset]
    chosen = newest(MEASURED, command="choose", weights=weights, dataset=dataset)["chosen"]
    assert 0.75 <= chosen["coverage"] <= 0.85


def test_shipped_weights_are_small_and_fast(weights: str) -> None:
    entry = newest(MEASURED, command="speed", weights=weights)
    assert entry["weight_file_bytes"] < 8e6
    assert sorted(entry["seconds_by_patch_size"], key=int) == ["16", "32"]
    assert max(entry["seconds_by_patch_size"].values()) < 3


# ---------------------------------------------------------------------------------------------------------- the figures


@pytest.mark.parametrize("horizon", [96, 336])
@pytest.mark.parametrize("dataset", DATASETS)
def test_errors_are_the_measured_ones(weights: str, dataset: str, horizon: int) -> None:
    ours = zero_shot_entry(weights, dataset, horizon)
    naive, dlinear = (baselines(dataset, horizon, model) for model in ("seasonal_naive", "dlinear"))
    assert (len(naive), [run["experiment"]["seed"] for run in dlinear]) == (1, [0, 1, 2])
    assert [ours["settings"]["stride"], *(run["experiment"]["test_stride"] for run in naive + dlinear)] == [1] * 5
    assert len({run["data_hash"] for run in naive + dlinear}) == 1
    pair = ours["rows"]["zero-shot"]["settings"]
    shown = table(FOLDER / "README.md", "| | zero-shot (context, patch) | seasonal naive | DLinear |")
    assert shown[f"{dataset}-{horizon}"] == [
        f"{errors(ours['rows']['zero-shot'])} ({pair['context']}, {pair['patch_size']})",
        errors(mean(naive)),
        errors(mean(dlinear)),
    ]
    assert len(shown) == 6


@pytest.mark.parametrize("dataset", DATASETS)
def test_all_are_of_today_s_data(weights: str, ett_dir: Path, dataset: str) -> None:
    """Zero-shot entries have the hash of the values alone, runs that of all that a data set says."""
    try:
        data = datasets.load(dataset, "lsf", ett_dir)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    ours = [newest(MEASURED, command="choose", weights=weights, dataset=dataset)]
    ours += [zero_shot_entry(weights, dataset, horizon) for horizon in (96, 336)]
    assert {entry["data_hash"] for entry in ours} == {checkpoint.values_hash(data)}
    runs = [run for h in (96, 336) for model in ("seasonal_naive", "dlinear") for run in baselines(dataset, h, model)]
    assert {run["data_hash"] for run in runs} == {data.hash}


def test_mean_over_the_four_horizons(weights: str) -> None:
    def rows(dataset: str) -> list[Entry]:
        return [zero_shot_entry(weights, dataset, horizon)["rows"]["zero-shot"] for horizon in (96, 192, 336, 720)]

    hourly, quarters = rows("ETTh1"), rows("ETTm1")
    averages = [f"{statistics.mean(row['mse'] for row in found):.3f}" for found in (hourly, quarters)]
    assert (
        f"At horizons 192 and 720 zero-shot has {errors(hourly[1])} and {errors(hourly[3])} on ETTh1, "
        f"{errors(quarters[1])} and {errors(quarters[3])} on ETTm1, so a mean MSE over the four horizons of "
        f"{averages[0]} on ETTh1 and {averages[1]} on ETTm1 "
    ) in card()
    measured = {entry["horizon"] for entry in MEASURED if entry.get("dataset") == "Weather" and "rows" in entry}
    assert not measured & {192, 720}
    assert "Weather at 192 and 720 was not measured" in card()


def test_context_and_patch_size_were_chosen_on_validation(weights: str) -> None:
    """And before anything of the test part was seen."""
    for dataset in DATASETS:
        choice = newest(MEASURED, command="choose", weights=weights, dataset=dataset)
        assert (choice["horizon"], choice["settings"]["contexts"]) == (96, [512, 1024, 2048])
        best = min(choice["rows"], key=lambda row: row["mse"])
        found = checkpoint.find_choice(MEASURED, weights, dataset, choice["data_hash"])
        assert found == (best["context"], best["patch_size"])
        for horizon in (96, 336):
            entry = zero_shot_entry(weights, dataset, horizon)
            assert entry["data_hash"] == choice["data_hash"]
            pair = {name: best[name] for name in ("context", "patch_size")}
            assert entry["rows"]["zero-shot"]["settings"] == pair
            assert entry["made"] > choice["made"]
    assert "at horizon 96 among 512, 1,024 and 2,048 steps" in card()


def test_coverage_is_that_of_what_was_chosen(weights: str) -> None:
    chosen = {
        name: newest(MEASURED, command="choose", weights=weights, dataset=name)["chosen"]["coverage"]
        for name in DATASETS
    }
    first, second, third = (f"{100 * chosen[name]:.1f} %" for name in ("ETTh1", "ETTm1", "Weather"))
    sentence = f"covers {first} of the values of ETTh1's validation part, {second} of ETTm1's and {third} of Weather's,"
    assert f"The central 80 % interval {sentence} at horizon 96" in card()
    assert measures.CENTRAL == (0.1, 0.9)


def test_baseline_is_described_as_it_was_run() -> None:
    batches = {}
    for dataset in DATASETS:
        for horizon in (96, 336):
            for run in baselines(dataset, horizon, "dlinear"):
                budget, rate = run["experiment"]["budget"], DLINEAR_RATES[dataset, horizon]
                assert (run["settings"], run["resolved"]["lr"]) == ({"look_back": 336, "lr": rate}, rate)
                assert (budget["epochs"], budget["train_windows"], budget["validation_windows"]) == (10, None, None)
                assert run["fit_report"]["epochs"] == 10
                batches[dataset] = budget["batch_size"]
    assert (
        "DLinear is trained on each set as its paper trains it: look-back 336, its authors' rate and batch size "
        f"({', '.join(f'{size} on {name}' for name, size in batches.items())}), 10 epochs of every training window, "
        "the epoch with the lowest validation loss; mean of three seeds"
    ) in card()


def joined(places: list[str]) -> str:
    return " and ".join(part for part in (", ".join(places[:-1]), *places[-1:]) if part)


def test_who_is_ahead_and_by_more_than_the_seeds_differ(weights: str) -> None:
    """To three digits, as they are shown."""
    ahead: dict[int, list[str]] = {-1: [], 0: [], 1: []}
    within, widest = [], (0.0, "")
    for dataset in DATASETS:
        for horizon in (96, 336):
            place, runs = f"{dataset}-{horizon}", baselines(dataset, horizon, "dlinear")
            ours = zero_shot_entry(weights, dataset, horizon)["rows"]["zero-shot"]["mse"]
            own, other = (round(mse, 3) for mse in (ours, mean(runs)["mse"]))
            ahead[(own > other) - (own < other)].append(place)
            seeds = [run["metrics"]["mse"] for run in runs]
            span = f"{min(seeds):.3f} to {max(seeds):.3f}"
            within += [f"{place} ({span})"] if min(seeds) <= ours <= max(seeds) else []
            widest = max(widest, (max(seeds) - min(seeds), f"{span} on {place}"))
    assert (
        f"DLinear, trained on each set, is ahead of zero-shot in MSE on {joined(ahead[1])}, level with it on "
        f"{joined(ahead[0])}, behind on {joined(ahead[-1])}. "
        f"Between three seeds DLinear's MSE differs by up to {widest[0]:.3f} ({widest[1]}, where one seed is far off); "
        f"zero-shot's lies within that range on {joined(within)}, outside it elsewhere."
    ) in card()


def test_fracast_is_ahead(weights: str) -> None:
    [run] = [run for run in RUNS if run["suite"] == "fracast"]
    experiment, found = run["experiment"], run["metrics"]
    assert (experiment["dataset"], experiment["horizon"], experiment["test_stride"]) == ("ETTh1", 96, 1)
    assert f"another zero-shot model, has {errors(found)} on ETTh1-96" in card()
    for other in (zero_shot_entry(weights, "ETTh1", 96)["rows"]["zero-shot"], mean(baselines("ETTh1", 96, "dlinear"))):
        assert found["mse"] < other["mse"]
        assert found["mae"] < other["mae"]


def test_speed_and_size_of_the_file(weights: str) -> None:
    entry = newest(MEASURED, command="speed", weights=weights)
    assert [entry[name] for name in ("forecasts", "context", "horizon", "samples")] == [256, 512, 96, 100]
    assert entry["threads"] == 2
    assert entry["weight_file_bytes"] == (FOLDER / "model.safetensors").stat().st_size
    at = {patch: f"{seconds:.2f} s at" for patch, seconds in entry["seconds_by_patch_size"].items()}
    times = f"{at['32']} patch 32, {at['16']} 16, on two cores"
    assert f"256 forecasts of 96 steps with 100 samples from 512 steps: {times}" in card()


# ------------------------------------------------------------------------------------------------------- the checkpoint


def parameters_of_the_file() -> int:
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        slices = [file.get_slice(name) for name in file.keys()]  # noqa: SIM118
    assert {one.get_dtype() for one in slices} == {"F16"}
    return sum(math.prod(one.get_shape()) for one in slices)


def test_parameters_shape_and_tokens_are_the_files() -> None:
    parameters = parameters_of_the_file()
    width, layers, longest = CONFIG["d_model"], CONFIG["num_layers"], CONFIG["max_seq_len"]
    megabytes = (FOLDER / "model.safetensors").stat().st_size / 1e6
    shape = f"(width {width}, {layers} layers, {width // 64} heads)"
    assert f"| parameters | {parameters:,} {shape}; float16, {megabytes:.1f} MB |" in card()
    patches = CONFIG["patch_sizes"]
    assert f"| patch sizes | {', '.join(map(str, patches))} steps; at most {longest} tokens " in card()
    assert f"({longest * max(patches):,} steps at patch {max(patches)})" in card()
    assert f"a context has at least {min(patches) + 1} steps |" in card()
    module = train.build_module(Settings())
    assert (module.d_model, module.num_layers, tuple(module.patch_sizes)) == (width, layers, tuple(patches))
    assert module.max_seq_len == longest
    assert module.encoder.layers[0].self_attn.num_heads == width // 64
    assert sum(p.numel() for p in module.parameters()) == parameters
    components = [one["_target_"].rpartition(".")[2] for one in CONFIG["distr_output"]["components"]]
    assert components == ["StudentTOutput"] * 3
    assert "mixture of three Student-t distributions" in card()


def test_training_is_today_s_command_and_the_log_s() -> None:
    """The log has the rate's share at step 100 (warming up), between, and 200 steps before the end (decaying)."""
    settings = Settings(steps=12_000, decay=0.3, precision="bfloat16")
    assert (
        "made by | `python -m darts_msft.pretraining --out runs/tiny --steps 12000 --decay 0.3 --precision bfloat16 "
        "--threads 1`"
    ) in card()
    last = LOG[-1]
    assert last["step"] == settings.steps
    assert LOG[0]["schedule"] == pytest.approx((LOG[0]["step"] + 1) / settings.warmup, abs=1e-5)
    [late] = (line["schedule"] for line in LOG if line["step"] == settings.steps - 200)
    assert late == pytest.approx(200 / (settings.decay * settings.steps), abs=1e-5)
    between = range(settings.warmup, round(settings.steps * (1 - settings.decay)) + 1)
    assert {line["schedule"] for line in LOG if line["step"] in between} == {1.0}
    tokens = settings.steps * settings.tokens / 1e6
    hidden, rest = (
        f"{rate:.0e}".replace("e-0", "e-") for rate in (settings.hidden_learning_rate, settings.learning_rate)
    )
    for said in (
        f"{settings.steps:,} steps of about {settings.tokens:,} tokens, {tokens:.0f} M tokens in all",
        f"Muon (encoder matrices, rate {hidden}) and AdamW (all else, {rest}), {settings.warmup} steps of warm-up,",
        f"linear decay over the last {100 * settings.decay:.0f} %",
        f"moving average of the weights ({settings.ema} a step); bfloat16 autocast; seed {settings.seed} |",
        f"; {last['seconds']:,.0f} s; on a CPU",
    ):
        assert said in card()


def test_objective_is_that_of_the_code() -> None:
    low, high = objective.HORIZON_SHARE
    damaged = {0.25: "a quarter"}[objective.DAMAGED_SHARE]
    quiet = {0.3: "three in ten", 0.05: "one in twenty"}
    for said in (
        f"horizon share {low}-{high}, {objective.MIN_TOKENS}-{objective.MAX_TOKENS} tokens a series, {damaged} of the",
        f"Up to step {objective.CLEAR_BATCHES:,} {quiet[objective.CLEAR_QUIET]} cyclic series have hardly any noise; "
        f"later {quiet[synthetic.QUIET]}.",
    ):
        assert said in card()


def test_weights_have_the_bytes_that_the_card_says() -> None:
    digest = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert f"The sha256 of its `model.safetensors` is {digest}." in card()


def test_the_repeated_steps_have_the_same_losses() -> None:
    again = read_log(checkpoint.RESULTS.parent / "repetition.jsonl")
    losses = ("step", "loss", "validation_loss", "averaged_validation_loss", "schedule")
    assert [[line.get(name) for name in losses] for line in again] == [
        [line.get(name) for name in losses] for line in LOG[: len(again)]
    ]
    assert f"repeated every loss of the first {again[-1]['step']} steps" in card()


def git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def test_pretrained_against_scratch() -> None:
    means = {
        method: statistics.mean(row["MSE"] for row in METHODS["rows"] if row["method"] == method)
        for method in ("full", "scratch")
    }
    reached = f"reaches an MSE of {means['full']:.3f}, the same architecture from random weights {means['scratch']:.3f}"
    asked = METHODS["settings"]
    assert (
        f"context 512, {asked['epochs']} epochs of every {asked['stride']}th window, every {asked['test_stride']}th "
        f"test window, three seeds) the checkpoint {reached}"
    ) in card()
    assert len(asked["seeds"]) == 3
    assert means["full"] < 0.75 * means["scratch"]
    (found,) = select(arguments_of(tables, "--suite", "first", "--datasets", "ETTh1", "--horizons", "96"))
    runs = [run for run in found.runs() if run.experiment["seed"] == 0]  # the one that "scratch" has
    mse = {run.experiment["model"]: f"{run.result['metrics']['mse']:.3f}" for run in runs}
    assert (found.budget["baseline_epochs"], found.budget["epochs"]) == (20, 5)
    ended = f"the checkpoint finetuned in full, in at most 5 epochs, {mse['full']}."
    assert f"the latter reaches {mse['scratch']}, {ended}" in card()
    assert git("rev-parse", f"{METHODS['commit']}:{WEIGHTS}") == git("hash-object", WEIGHTS)


def test_losses_are_the_log_s() -> None:
    steps = (1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 8_000, 10_000, 11_000, 12_000)
    head = f"| step | {' | '.join(f'{step:,}' for step in steps)} |"
    at = {line["step"]: line for line in LOG}
    assert table(FOLDER / "README.md", head) == {
        "weights": [f"{at[step]['validation_loss']:.3f}" for step in steps],
        "moving average": [f"{at[step]['averaged_validation_loss']:.3f}" for step in steps],
    }
    assert f"Loss on {train.VALIDATION_BATCHES} held-back synthetic batches" in card()
