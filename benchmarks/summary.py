"""From result files to tables of figures: which runs may stand side by side, means over seeds, places and mean ranks.

Knows the JSON of a result and nothing of how a table is written. Two runs share a table only where family and budget
are the same, and the settings that were given and not chosen on validation data; a quick look (stride over 1 in "lsf")
and the variants of a model (other options than its backbone) have tables of their own.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

LEAST_DECIMALS, MOST_DECIMALS = 3, 6
FAMILIES = {"lsf": "Long-sequence forecasting", "pf": "Probabilistic forecasting"}
METRICS = {"lsf": ("mse", "mae"), "pf": ("crps", "msis", "coverage")}  # the first is the one of plots and tests
METRIC_NAMES = {"mse": "MSE", "mae": "MAE", "crps": "CRPS", "msis": "MSIS", "coverage": "coverage of 80 %"}
NOMINAL_COVERAGE = 0.8
NEEDED = (
    *("key", "experiment", "settings", "metrics", "windows", "trained_parameters"),
    *("weights", "data_hash", "choice_key", "seconds", "peak_memory_mb", "provenance"),
)
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
        """The options that name a setting: given (or given as a list to choose from), not left to the model's own."""
        return {name: value for name, value in self.experiment["options"].items() if name in self.result["settings"]}


@dataclass(frozen=True)
class Row:
    """A model as a table's row: options (without settings) are canonical JSON, weights the hash of its first state."""

    model: str
    options: str
    weights: str | None

    @classmethod
    def of(cls, run: Run) -> Row:
        options = {name: value for name, value in run.experiment["options"].items() if name not in run.fixed}
        return cls(run.experiment["model"], _canonical(options), run.result["weights"])

    @property
    def variant(self) -> bool:
        """Whether other options than the backbone were changed."""
        return bool(json.loads(self.options).keys() - {"backbone"})

    @property
    def order(self) -> tuple[Any, ...]:
        names = list(MODEL_NAMES)
        place = names.index(self.model) if self.model in names else len(names)
        return place, self.model, self.variant, self.options != "{}", self.options, self.weights or ""


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
        return cls(experiment["dataset"], experiment["horizon"], run.result["data_hash"], run.result["windows"])

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

    `stride`: of the test windows, only for a quick look; `variants_of`: a model, only for the table of its variants.
    """

    family: str
    stride: int | None
    budget: Mapping[str, Any]
    fixed: Mapping[str, Any]
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
        """A name for each row, with the hash of its weights where the name alone doesn't tell two apart."""
        names = {row: _row_name(row) for row in self.rows}
        return _distinct(names, {row: f"{name} [weights {(row.weights or 'none')[:8]}]" for row, name in names.items()})

    @cached_property
    def column_names(self) -> dict[Column, str]:
        """Data set and horizon, with the data's hash and the count of windows where two columns share them."""
        names = {column: f"{dataset_name(column.dataset)} {column.horizon}" for column in self.columns}
        detail = {c: f"{name} [data {c.data_hash[:8]}, {c.windows} windows]" for c, name in names.items()}
        return _distinct(names, detail)

    @property
    def title(self) -> str:
        name = FAMILIES[self.family]
        if self.variants_of is not None:
            name += f": variants of {MODEL_NAMES.get(self.variants_of, self.variants_of)}"
        if self.fixed:
            name += f", with {options_text(self.fixed)}"
        return name if self.stride is None else f"{name}: quick look, test windows {self.stride} steps apart"

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
        """1 for the best rows, 2 for the second; rows whose figures look equal share a mark, a lone row has none."""
        figures = {row: self.figure(row, column, metric) for row in self.rows}
        digits = self.decimals(column, metric)
        costs = {row: round(_cost(metric, figure), digits) for row, figure in figures.items() if figure is not None}
        places = {cost: place for place, cost in enumerate(sorted(set(costs.values()))[:2], 1)}
        return {row: places[cost] for row, cost in costs.items() if cost in places and len(costs) > 1}

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


def read(results: str | Path) -> list[Run]:
    """Every result in the folder `runs` of `results`, by file name.

    Raises
    ------
    ValueError
        There is none, or a file is not a result; the message names it.
    """
    folder = Path(results) / "runs"
    runs = [_read(path) for path in sorted(folder.glob("*.json"))]
    if not runs:
        raise ValueError(f"no results in {folder}; make some first: python -m benchmarks run --suite smoke")
    return runs


def tables(runs: Iterable[Run]) -> list[Table]:
    """The runs in as many tables as it takes; full ones before quick looks, each followed by variants of its models."""
    groups: dict[tuple[int, int, str, bool, str], list[Run]] = defaultdict(list)
    for run in runs:
        family = list(FAMILIES).index(run.experiment["family"])
        stride = run.experiment["test_stride"] if run.experiment["family"] == "lsf" else 1  # "pf" has no quick look
        fixed, budget = _canonical(run.fixed), _canonical(run.experiment["budget"])
        groups[family, stride, budget, fixed != "{}", fixed].append(run)
    found = []
    for (family, stride, budget, _, fixed), some in sorted(groups.items(), key=lambda group: group[0]):
        quick = stride if stride > 1 else None
        shared = (list(FAMILIES)[family], quick, json.loads(budget), json.loads(fixed))
        found += [Table(*shared, model, cells) for model, cells in _split(_cells(some)).items()]
    return found


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
    """The budget in words; a field that is not known here is added as it stands."""
    left = dict(budget)
    epochs, patience, batch = (left.pop(name, "?") for name in ("epochs", "patience", "batch_size"))
    train, validation = left.pop("train_windows", None), left.pop("validation_windows", None)
    parts = [
        f"at most {epochs} epochs, stopped after {patience} without a better validation score, batches of {batch}",
        f"{'all' if train is None else f'at most {train}'} training windows an epoch",
        f"{'all' if validation is None else f'at most {validation}'} validation windows",
    ]
    return "; ".join(parts + [f"{name}={value}" for name, value in left.items()])


def _read(path: Path) -> Run:
    try:
        result = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a result ({error}); restore it, or delete it to have it measured again"
        ) from error
    if not isinstance(result, dict) or result.get("kind") != "run" or (set(NEEDED) - result.keys()):
        raise ValueError(f"{path} is not a result: it needs kind='run', {', '.join(NEEDED)}; move it elsewhere")
    if result["experiment"]["family"] not in FAMILIES:
        raise ValueError(f"{path} has the family {result['experiment']['family']!r}; known are {', '.join(FAMILIES)}")
    return Run(path, result)


def _cells(runs: Iterable[Run]) -> Cells:
    cells: dict[tuple[Row, Column], dict[int, Run]] = defaultdict(dict)
    for run in runs:
        cell, seed = cells[Row.of(run), Column.of(run)], run.experiment["seed"]
        if seed in cell:
            raise ValueError(f"{cell[seed].path} and {run.path} are results of the same experiment; keep one of them")
        cell[seed] = run
    return {place: tuple(cell[seed] for seed in sorted(cell)) for place, cell in cells.items()}


def _row_name(row: Row) -> str:
    options = json.loads(row.options)
    return MODEL_NAMES.get(row.model, row.model) + (f" ({options_text(options)})" if options else "")


def _distinct(names: dict[Any, str], detailed: dict[Any, str]) -> dict[Any, str]:
    shown = list(names.values())
    return {key: detailed[key] if shown.count(name) > 1 else name for key, name in names.items()}


def _cost(metric: str, figure: Figure) -> float:
    """What is better when lower."""
    return abs(figure.mean - NOMINAL_COVERAGE) if metric == "coverage" else figure.mean


def _no_number(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no figure")


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
