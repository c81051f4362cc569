"""What a reader has to know beside a table's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.models.papers import DEFAULT, RECIPES
from benchmarks.run import suites
from benchmarks.summary import METRIC_NAMES, MODEL_NAMES, Column, Row, Run, Table, dataset_name

# not ours, from random weights, and trained on squared errors where points are asked for
FROM_RANDOM = ("dlinear", "patchtst", "itransformer", "timemixer")
TRAINED = tuple(model for model in suites.OURS if model not in suites.UNSEEDED)
MEDIANS = (*suites.OURS, "fracast", "chronos2")
OUTERMOST = 0.025  # the lower of the two levels that the MSIS is of
CHOSEN = "chosen on validation data"


def notes(table: Table) -> list[str]:
    """One line each, without mark-up."""
    better = "Lower is better" + ("; the coverage should be 0.8" if "coverage" in table.metrics else "")
    lines = [f"{better}. Bold: best, underlined: second. Empty: no result."]
    if table.stride is not None:
        lines.append(f"A quick look: test windows are {table.stride} steps apart, so this is no row of the full table.")
    lines += [
        "Budget, in the title: a fit stops after as many epochs as its patience without a better validation score; "
        "training windows are at most so many an epoch, drawn at random and others each epoch, and validation windows "
        "at most so many, evenly spaced over all times of the season.",
        *_baseline_epochs(table),
        *_whole_fits(table),
        *_best_epochs(table),
        *(_of_lsf(table) if table.family == "lsf" else _of_pf(table)),
        *_windows(table),
        _seeds(table),
        *_settings(table),
        *_recipes(table),
        _rank_note(table),
        *_fits(table),
        *table.remarks,
    ]
    return [*lines, _commits(table)]


def _baseline_epochs(table: Table) -> list[str]:
    epochs = table.budget.get("baseline_epochs")
    names = [table.row_names[row] for row in table.rows if any(_max_epochs(run) == epochs for run in table.runs(row))]
    if epochs is None or not names:
        return []
    return [
        f"Models that begin from random weights ({', '.join(names)}) may train for {epochs} epochs, all others for "
        f"{table.budget['epochs']}; the patience is the same."
    ]


def _max_epochs(run: Run) -> int | None:
    """What a fit might take; before results said so, "scratch" had the epochs of pretrained models."""
    named = "baseline_epochs" if run.experiment["model"] in FROM_RANDOM else "epochs"
    found: int | None = run.result["resolved"].get("max_epochs", run.experiment["budget"].get(named))
    return found


def _whole_fits(table: Table) -> list[str]:
    """Whose fits take all of their epochs, whatever the patience; results from before that was so are named."""
    found = [run for run in table.runs() if run.result["resolved"].get("schedule") == "OneCycleLR"]
    found = [run for run in found if (_max_epochs(run) or 0) > table.budget["patience"]]
    whole = [run for run in found if (run.result["fit_report"] or {}).get("epochs") == _max_epochs(run)]
    short = [run for run in found if run not in whole]
    kinds = {
        "Not ended early, since a one-cycle rate rises first": whole,
        "Ended early, before the one-cycle rate had come down": short,
    }
    return [f"{what}: {_named(table, runs)}." for what, runs in kinds.items() if runs]


def _best_epochs(table: Table) -> list[str]:
    """What decides on the validation part which epoch is kept; baselines of "pf" train and are kept by pinball loss."""
    loss = "squared error" if table.family == "lsf" else "pinball loss"
    kinds = {"CRPS": suites.OURS, f"{loss}, which they also train": FROM_RANDOM}
    parts = []
    for what, models in kinds.items():
        trained = [row for row in table.rows if row.model in models and row.model not in suites.UNSEEDED]
        if trained:
            parts.append(f"{what} ({', '.join(table.row_names[row] for row in trained)})")
    return [f"The epoch that is kept has the least validation {' or '.join(parts)}."] if parts else []


def _of_lsf(table: Table) -> list[str]:
    lines = ["MSE and MAE are on data standardised with training statistics."]
    kinds = {
        "medians of the forecast distribution": MEDIANS,
        "what a fit of the squared error gives": FROM_RANDOM,
    }
    parts = []
    for what, models in kinds.items():
        if names := [table.row_names[row] for row in table.rows if row.model in models]:
            parts.append(f"{what} ({', '.join(names)})")
    return [*lines, *([f"Point forecasts: {'; '.join(parts)}."] if parts else [])]


def _of_pf(table: Table) -> list[str]:
    lines = []
    if without := [_without_msis(table, column) for column in table.columns if _without_msis(table, column)]:
        lines.append(f"MSIS leaves out variables that never change from season to season: {'; '.join(without)}.")
    beyond, between = [], []
    for row in table.rows:
        known = next(iter(table.runs(row))).result["resolved"].get("known_levels")
        if known is not None and OUTERMOST not in known:
            (beyond if min(known) > OUTERMOST else between).append(table.row_names[row])
    if beyond or between:
        parts = [
            f"{', '.join(names)} ({how} its own levels)"
            for names, how in ((beyond, "beyond"), (between, "between"))
            if names
        ]
        lines.append(f"The quantiles that the MSIS is of (2.5 and 97.5 %) are read off others: {'; '.join(parts)}.")
    return lines


def _windows(table: Table) -> list[str]:
    """How many windows figures and choices are of."""
    tested, chosen = {}, {}
    for column in table.columns:
        tested[table.column_names[column]] = str(column.windows)
        if counts := sorted({run.result["validation_windows"] for run in table.runs(column=column) if _chose(run)}):
            chosen[table.column_names[column]] = " or ".join(map(str, counts))
    lines = [f"Test windows: {_grouped(tested)}."]
    return lines + ([f"Validation windows that settings were chosen by: {_grouped(chosen)}."] if chosen else [])


def _chose(run: Run) -> bool:
    """Whether any of its settings were chosen on validation data."""
    options = run.experiment["options"]
    rates = run.experiment["model"] in FROM_RANDOM and options.get("lr") is None  # chosen from the rates of its recipe
    return rates or _way(run) == CHOSEN or any(map(_several, options.values()))


def _settings(table: Table) -> list[str]:
    lines = [*_look_backs(table), *_sizes(table)]
    trained = [run for row in table.rows if row.model in TRAINED for run in table.runs(row)]
    following = [run for run in trained if _several(run.experiment["options"].get("patch_size"))]
    if table.budget.get("zero_shot_choice") and following:
        own = ", and a look-back of its own choice" if any(_way(run) == CHOSEN for run in following) else ""
        lines.append(f"What trains a pretrained model's architecture has the patch size chosen for zero-shot{own}.")
    return lines


def _recipes(table: Table) -> list[str]:
    """Where networks have hyperparameters that their authors chose for other data."""
    borrowed = defaultdict(dict[str, None])
    for run in table.runs():
        name = MODEL_NAMES.get(run.experiment["model"], "")
        found = RECIPES.get(name, {})
        if found and run.experiment["dataset"] not in found:
            borrowed[dataset_name(run.experiment["dataset"])][name] = None
    places = _grouped({place: ", ".join(names) for place, names in borrowed.items()}, named=True)
    return [f"Hyperparameters of the authors' {DEFAULT} script, as they have none: {places}."] if borrowed else []


def _fits(table: Table) -> list[str]:
    """Of which fits the figures need a word."""
    reports = [(run, run.result["fit_report"] or {}) for run in table.runs()]
    kept = [run for run, report in reports if report.get("kept") == "zero-shot"]
    improving = [run for run, report in reports if report.get("still_improving")]
    lines = []
    if kept:
        lines.append(
            f"Finetuning was no better on validation data, so the pretrained model was kept: {_named(table, kept)}."
        )
    if improving:
        lines.append(f"Still improving, the best epoch was the last: {_named(table, improving)}.")
    return lines


def _named(table: Table, runs: list[Run]) -> str:
    """`MSFT on ETTh1 96 (seeds 0, 2), ...`."""
    parts = []
    for (row, column), cell in sorted(table.cells.items(), key=lambda entry: (entry[0][0].order, entry[0][1].order)):
        seeds = [str(run.experiment["seed"]) for run in cell if run in runs]
        if seeds:
            name = f"{table.row_names[row]} on {table.column_names[column]}"
            parts.append(f"{name} (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})")
    return ", ".join(parts)


def _without_msis(table: Table, column: Column) -> str:
    names = {name: None for run in table.runs(column=column) for name in run.result.get("without_msis") or ()}
    return f"{', '.join(names)} of {table.column_names[column]}" if names else ""


def _rank_note(table: Table) -> str:
    ranking, metrics = table.ranking(), [metric for metric in table.metrics if metric != "coverage"]
    what = " and ".join(METRIC_NAMES[metric] for metric in metrics)
    if len(ranking.means) < 2:
        return f"No mean rank: no data set and horizon has {what} of at least two models."
    text = (
        f"Mean rank: of {len(ranking.rows)} models over the {what} of {len(ranking.columns)} of "
        f"{len(table.columns)} data sets and horizons, those where each of these models has a figure"
    )
    unranked = [table.row_names[row] for row in table.rows if row not in ranking.rows]
    return text + (f"; not ranked, in fewer than half of the columns: {', '.join(unranked)}." if unranked else ".")


def _seeds(table: Table) -> str:
    counts = {}
    for row in table.rows:
        found = sorted({len(runs) for (r, _), runs in table.cells.items() if r == row})
        counts[table.row_names[row]] = " to ".join(str(count) for count in dict.fromkeys((found[0], found[-1])))
    spread = any(len(runs) > 1 for runs in table.cells.values())
    return f"Seeds: {_grouped(counts)}.{' ± is the sample standard deviation over seeds.' if spread else ''}"


def _look_backs(table: Table) -> list[str]:
    """One line for each way in which models came by their look-back."""
    ways = defaultdict(list)
    for row in table.rows:
        ways[_way(table.runs(row)[0])].append(row)  # a row is of one state, so all of its runs came by it alike
    return [
        f"Look-back {way}: {_grouped(_by_model(table, rows, _look_back), named=len(ways) > 1)}."
        for way, rows in ways.items()
    ]


def _way(run: Run) -> str:
    """How the model came by its look-back."""
    if run.experiment["model"] == "seasonal_naive":
        return "of one season"
    asked = run.experiment["options"].get("look_back") or run.experiment["budget"]["look_backs"]
    return CHOSEN if _several(asked) else "as given"


def _several(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 1


def _sizes(table: Table) -> list[str]:
    """The patch sizes and K that our models really had; where they are left open they follow from the look-back."""
    ours = [row for row in table.rows if row.model in suites.OURS]
    if not ours:
        return []
    text = f"Patch size of the pretrained model's architecture: {_grouped(_by_model(table, ours, _patch_size))}"
    if scaled := [row for row in ours if row.model == "msft"]:
        scales = _grouped(_by_model(table, scaled, _num_scales), named=len(scaled) < len(table.rows))
        text += f"; K (new scales): {scales}"
    return [f"{text}."]


def look_back(runs: Iterable[Run]) -> str:
    """The context that was taken, in steps."""
    return _values(runs, _look_back)


def _look_back(run: Run) -> Any:
    return run.result["settings"]["look_back"]


def _patch_size(run: Run) -> Any:
    return run.result["resolved"].get("patch_size", "?")


def _num_scales(run: Run) -> Any:
    return run.result["resolved"].get("num_scales", "?")


def _values(runs: Iterable[Run], value: Callable[[Run], Any]) -> str:
    """`1`, or `1 or 2` where the runs differ."""
    return " or ".join(dict.fromkeys(str(value(run)) for run in runs))


def _by_model(table: Table, rows: Iterable[Row], value: Callable[[Run], Any]) -> dict[str, str]:
    """By model: one value where it is the same everywhere, else a value for each data set and horizon."""
    found = {}
    for row in rows:
        groups = defaultdict(list)
        for column in table.columns:
            if runs := table.runs(row, column):
                groups[_values(runs, value)].append(table.column_names[column])
        several = ", ".join(f"{text} ({', '.join(names)})" for text, names in groups.items())
        found[table.row_names[row]] = next(iter(groups)) if len(groups) == 1 else several
    return found


def _commits(table: Table) -> str:
    found = set()
    for run in table.runs():
        source = run.result["provenance"]
        found.add(source["commit"][:7] + (" with uncommitted changes" if source["dirty"] else ""))
    return f"Code: commit {', '.join(sorted(found))}."


def _grouped(values: dict[str, str], named: bool = False) -> str:
    """`512` where all are equal, else (or if `named`) `512 for ETTh1 96, ETTh1 336; 1024 for ETTm1 96`."""
    groups = defaultdict(list)
    for name, value in values.items():
        groups[value].append(name)
    if len(groups) == 1 and not named:
        return next(iter(groups))
    return "; ".join(f"{value} for {', '.join(names)}" for value, names in groups.items())
