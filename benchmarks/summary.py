"""From results to tables of figures: which runs may stand side by side, means over seeds, places and mean ranks.

Knows a result's entries and nothing of how a table is written. Two runs share a table only where family and budget are
the same, and look-back, patch size and rate where they were given and not chosen on validation data; a quick look
(stride over 1 in "lsf") and the variants of a model (other options than its backbone) have tables of their own.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from benchmarks.errors import Misuse
from benchmarks.run.experiments import LOCATIONS, Budget
from benchmarks.run.store import METRICS

LEAST_DECIMALS, MOST_DECIMALS = 3, 6
FAMILIES = {"lsf": "Long-sequence forecasting", "pf": "Probabilistic forecasting"}
METRIC_NAMES = {"mse": "MSE", "mae": "MAE", "crps": "CRPS", "msis": "MSIS", "coverage": "coverage of 80 %"}
NOMINAL_COVERAGE = 0.8
CHOSEN = ("look_back", "patch_size", "lr")  # options that are settings: chosen on validation data, or given
# The order of rows, ours first; a model that is not named here comes after them under its own name.
MODEL_NAMES = {
    "msft": "MSFT",
    "full": "full finetuning",
    "linear_probe": "linear probing",
    "prompt": "prompt tuning",
    "lora": "LoRA",
    "adalora": "AdaLoRA",
    "zero_shot": "zero-shot",
    "scratch": "from scratch",
    "dlinear": "DLinear",
    "patchtst": "PatchTST",
    "itransformer": "iTransformer",
    "timemixer": "TimeMixer",
    "fracast": "Fracast-0",
    "chronos2": "Chronos-2",
    "seasonal_naive": "seasonal naive",
}


@dataclass(frozen=True, eq=False)
class Run:
    """One result and the file that it was read from."""

    path: Path
    result: Mapping[str, Any]

    @property
    def experiment(self) -> Mapping[str, Any]:
        return self.result["experiment"]

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that were given; a list is a choice, and no setting."""
        given = self.experiment["options"].items()
        return {name: value for name, value in given if name in CHOSEN and not isinstance(value, list)}

    @property
    def options(self) -> dict[str, Any]:
        """The other options; a backbone by its name, wherever it lies."""
        found = {name: value for name, value in self.experiment["options"].items() if name not in CHOSEN}
        backbone = {"backbone": _place_name(found["backbone"])} if "backbone" in found else {}
        return {**{name: value for name, value in found.items() if name not in LOCATIONS}, **backbone}

    @property
    def state(self) -> tuple[str | None, str, str]:
        """The weights that it began with, its model's defaults, and the lists it chose from: a row is of one state."""
        given = self.experiment["options"].items()
        lists = {name: value for name, value in given if name in CHOSEN and isinstance(value, list)}
        return self.result["weights"], self.result["defaults"], _canonical(lists)


@dataclass(frozen=True)
class Row:
    """A model as a table's row; the options, as canonical JSON, are those that tell it from other rows."""

    model: str
    options: str
    weights: str | None

    @property
    def variant(self) -> bool:
        """Whether other options than the backbone were changed."""
        return bool(json.loads(self.options).keys() - {"backbone"})

    @property
    def order(self) -> tuple[Any, ...]:
        names = list(MODEL_NAMES)
        place = names.index(self.model) if self.model in names else len(names)
        return place, self.model, self.variant, self.options != "{}", self.options


@dataclass(frozen=True)
class Column:
    """The same test windows of the same data."""

    dataset: str
    horizon: int
    data_hash: str
    windows: int

    @classmethod
    def of(cls, run: Run) -> Column:
        experiment = run.experiment
        return cls(
            Path(experiment["dataset"]).name, experiment["horizon"], run.result["data_hash"], run.result["windows"]
        )

    @property
    def order(self) -> tuple[Any, ...]:
        return self.dataset, self.horizon, self.data_hash, self.windows


Cells = Mapping[tuple[Row, Column], tuple[Run, ...]]


@dataclass(frozen=True)
class Figure:
    """Mean over seeds, and the sample standard deviation where there is more than one."""

    mean: float
    spread: float | None

    def text(self, decimals: int) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{spread}"


@dataclass(frozen=True)
class Ranking:
    """Mean rank (1 is best) of each row in `rows` over all of `columns` and `metrics`; equal figures share a rank.

    `places`: (columns x metrics, rows), the rank in each of them.
    """

    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    metrics: tuple[str, ...]
    places: np.ndarray

    @property
    def means(self) -> dict[Row, float]:
        return dict(zip(self.rows, self.places.mean(axis=0).tolist(), strict=True)) if len(self.places) else {}


@dataclass(frozen=True, eq=False)
class Table:
    """Runs of one family and budget, with settings that were `fixed` alike.

    `stride`: of the test windows, only for a quick look; `shared`: options of all of its runs, which no row's name has;
    `remarks`: what was left out; `variants_of`: a model, only for the table of its variants.
    """

    family: str
    stride: int | None
    budget: Mapping[str, Any]
    fixed: Mapping[str, Any]
    shared: Mapping[str, Any]
    remarks: tuple[str, ...]
    variants_of: str | None
    cells: Cells

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        return tuple(sorted({row for row, _ in self.cells}, key=lambda row: row.order))

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        return tuple(sorted({column for _, column in self.cells}, key=lambda column: column.order))

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS[self.family]

    @cached_property
    def row_names(self) -> dict[Row, str]:
        return {row: _row_name(row) for row in self.rows}

    @cached_property
    def column_names(self) -> dict[Column, str]:
        """Data set and horizon, with the data's hash and the count of windows where two columns share them."""
        names = {column: f"{dataset_name(column.dataset)} {column.horizon}" for column in self.columns}
        detail = {c: f"{name} [data {c.data_hash[:8]}, {c.windows} windows]" for c, name in names.items()}
        return _distinct(names, detail)

    @property
    def title(self) -> str:
        """Says all that tells it from other tables."""
        name = FAMILIES[self.family]
        if self.variants_of is not None:
            name += f": variants of {MODEL_NAMES.get(self.variants_of, self.variants_of)}"
        if given := {**self.fixed, **self.shared}:
            name += f", with {options_text(given)}"
        name = name if self.stride is None else f"{name}: quick look, test windows {self.stride} steps apart"
        return f"{name} ({budget_text(self.budget)})"

    def figure(self, row: Row, column: Column, metric: str) -> Figure | None:
        """None where the model has no result here, or only some of its seeds have this metric."""
        runs = self.cells.get((row, column), ())
        values = [run.result["metrics"].get(metric) for run in runs]
        if not values or None in values:
            return None
        return Figure(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)

    def decimals(self, column: Column, metric: str) -> int:
        """Three as in the literature, more where the column's smallest figure has fewer than three digits then."""
        figures = [self.figure(row, column, metric) for row in self.rows]
        least = min((figure.mean for figure in figures if figure is not None and figure.mean > 0), default=1.0)
        return min(max(LEAST_DECIMALS, 2 - math.floor(math.log10(least))), MOST_DECIMALS)

    def text(self, row: Row, column: Column, metric: str) -> str:
        """The figure as shown; empty where there is none."""
        figure = self.figure(row, column, metric)
        return "" if figure is None else figure.text(self.decimals(column, metric))

    def marks(self, column: Column, metric: str) -> dict[Row, int]:
        """1 for the best rows, 2 for the second; rows whose figures look equal share a mark, a lone row has none.

        Places are as in sports: behind two best rows comes the third, which has no mark.
        """
        figures = {row: self.figure(row, column, metric) for row in self.rows}
        digits = self.decimals(column, metric)
        costs = {row: round(_cost(metric, figure), digits) for row, figure in figures.items() if figure is not None}
        places = {row: 1 + sum(other < cost for other in costs.values()) for row, cost in costs.items()}
        return {row: place for row, place in places.items() if place <= 2 and len(costs) > 1}

    def ranking(self, metrics: Sequence[str] | None = None) -> Ranking:
        """Ranks over the columns where every ranked row has all `metrics` (default: all but the coverage).

        Ranked are the rows with figures in at least half of the columns: one that was tried once must not narrow the
        comparison of the others.
        """
        metrics = (
            tuple(metric for metric in self.metrics if metric != "coverage") if metrics is None else tuple(metrics)
        )
        full = {
            (row, column)
            for row, column in self.cells
            if all(self.figure(row, column, metric) is not None for metric in metrics)
        }
        rows = tuple(row for row in self.rows if 2 * sum(r == row for r, _ in full) >= len(self.columns))
        columns = tuple(c for c in self.columns if rows and all((row, c) in full for row in rows))
        places = [
            rankdata([figure.mean for row in rows if (figure := self.figure(row, column, metric)) is not None])
            for column in columns
            for metric in metrics
        ]
        return Ranking(rows, columns, metrics, np.array(places))

    def runs(self, row: Row | None = None, column: Column | None = None) -> list[Run]:
        """All runs, or those of a row or a column, in the order of rows, columns and seeds."""
        return [
            run
            for r in self.rows
            for c in self.columns
            if row in (None, r) and column in (None, c)
            for run in self.cells.get((r, c), ())
        ]


def tables(runs: Iterable[Run], weights: str | None = None, remarks: Sequence[str] = ()) -> list[Table]:
    """The runs in as many tables as it takes; full ones before quick looks, each followed by variants of its models.

    A row has the newest weights and defaults of its runs alone; `weights` begins the hash of those to take instead,
    in rows that have them.
    """
    groups: dict[tuple[int, int, str, bool, str], list[Run]] = defaultdict(list)
    for run in runs:
        family = list(FAMILIES).index(run.experiment["family"])
        stride = run.experiment["test_stride"] if run.experiment["family"] == "lsf" else 1  # "pf" has no quick look
        fixed, budget = _canonical(run.fixed), _canonical({**asdict(Budget()), **run.experiment["budget"]})
        groups[family, stride, budget, fixed != "{}", fixed].append(run)
    found = []
    for (family, stride, budget, _, fixed), some in sorted(groups.items(), key=lambda group: group[0]):
        name, quick = list(FAMILIES)[family], stride if stride > 1 else None
        kept, left_out = _newest(some, weights)
        shared = _shared(kept)
        rest = (name, quick, json.loads(budget), json.loads(fixed), shared, (*remarks, *left_out))
        found += [Table(*rest, model, cells) for model, cells in _split(_cells(kept, shared)).items()]
    return found


def _newest(runs: Sequence[Run], weights: str | None) -> tuple[list[Run], list[str]]:
    """The runs of each row's newest state (or of that with the `weights` asked for), and what was left out in words."""
    rows: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        rows[run.experiment["model"], _canonical(run.options)].append(run)
    kept, left_out = list[Run](), dict[str, int]()
    for (model, _), some in rows.items():
        asked = [run for run in some if weights is not None and (run.result["weights"] or "").startswith(weights)]
        state = max(asked or some, key=lambda run: run.result["provenance"]["made"]).state
        kept += [run for run in some if run.state == state]
        for run in some:
            if run.state != state:
                same_weights = run.state[0] == state[0]
                what = "other defaults or choices" if same_weights else f"weights {(run.state[0] or 'none')[:8]}"
                name = f"{MODEL_NAMES.get(model, model)} with {what}"
                left_out[name] = left_out.get(name, 0) + 1
    if not left_out:
        return kept, []
    parts = [f"{count} of {name}" for name, count in left_out.items()]
    return kept, [f"Left out, since each row is of one state (--weights takes another): {', '.join(parts)}."]


def _shared(runs: Sequence[Run]) -> dict[str, Any]:
    """The options that all runs have alike."""
    first, *others = [run.options for run in runs]
    return {
        name: value for name, value in first.items() if all(name in other and other[name] == value for other in others)
    }


def _split(cells: Cells) -> dict[str | None, Cells]:
    """The cells of models as they are (under None), and for every model with variants these beside itself."""
    found: dict[str | None, Cells] = {None: {place: runs for place, runs in cells.items() if not place[0].variant}}
    variants = [place for place in cells if place[0].variant]
    for model in sorted({row.model for row, _ in variants}):
        columns = {column for row, column in variants if row.model == model}
        found[model] = {
            (row, column): runs for (row, column), runs in cells.items() if row.model == model and column in columns
        }
    if any(found[None].keys() <= some.keys() for model, some in found.items() if model is not None):
        del found[None]  # it would say nothing that the variants' table doesn't
    return found


def dataset_name(name: str) -> str:
    """A registered name as it is; of a user's description the file's name."""
    return Path(name).stem if name.endswith(".toml") else name


def options_text(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


def budget_text(budget: Mapping[str, Any]) -> str:
    """All of the budget in few words; a field that is not known here is added as it stands."""
    left = dict(budget)
    epochs, patience, batch = (left.pop(name, "?") for name in ("epochs", "patience", "batch_size"))
    train, validation = left.pop("train_windows", None), left.pop("validation_windows", None)
    look_backs, follows = left.pop("look_backs", []), left.pop("zero_shot_choice", False)
    of_baselines = left.pop("baseline_epochs", None)
    longer = "" if of_baselines is None else f" ({of_baselines} for baselines)"
    parts = [
        f"{epochs} epochs{longer}, patience {patience}, batches of {batch}",
        f"{'all' if train is None else train} training and {'all' if validation is None else validation} validation "
        "windows",
        f"look-backs {', '.join(map(str, look_backs))}",
        *(["patch size as chosen for zero-shot"] if follows else []),
    ]
    return "; ".join(parts + [f"{name}={value}" for name, value in left.items()])


def _cells(runs: Iterable[Run], shared: Mapping[str, Any]) -> Cells:
    cells: dict[tuple[Row, Column], dict[int, Run]] = defaultdict(dict)
    for run in runs:
        options = {name: value for name, value in run.options.items() if name not in shared}
        row = Row(run.experiment["model"], _canonical(options), run.result["weights"])
        cell, seed = cells[row, Column.of(run)], run.experiment["seed"]
        if seed in cell:
            raise Misuse(f"{cell[seed].path} and {run.path} are results of the same experiment; keep one of them")
        cell[seed] = run
    return {place: tuple(cell[seed] for seed in sorted(cell)) for place, cell in cells.items()}


def _place_name(backbone: str) -> str:
    """A registered name or a repository as it is; of a directory its own name."""
    return Path(backbone).name if backbone.startswith((".", "/", "~")) else backbone


def _row_name(row: Row) -> str:
    options = json.loads(row.options)
    return MODEL_NAMES.get(row.model, row.model) + (f" ({options_text(options)})" if options else "")


def _distinct(names: dict[Any, str], detailed: dict[Any, str]) -> dict[Any, str]:
    shown = list(names.values())
    return {key: detailed[key] if shown.count(name) > 1 else name for key, name in names.items()}


def _cost(metric: str, figure: Figure) -> float:
    """What is better when lower."""
    return abs(figure.mean - NOMINAL_COVERAGE) if metric == "coverage" else figure.mean


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
