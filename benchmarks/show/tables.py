"""Which runs may stand side by side, means over seeds, places and mean ranks; as Markdown and CSV.

Runs share a table only where family and budget are the same, and look-back, patch size and rate where they were given
and not chosen. A quick look (stride over 1 in "lsf") and a model's variants (by other options than its backbone and
`ROWS`) have tables of their own.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from benchmarks.errors import Misuse
from benchmarks.models import MODELS
from benchmarks.run.store import METRICS
from benchmarks.show.frame import FAMILIES, METRIC_NAMES, budget_text, canonical, model_name, options_text, row_name

LEAST_DECIMALS, MOST_DECIMALS = 3, 6
NOMINAL_COVERAGE = 0.8
# options of a row beside the others
ROWS = [["num_scales", 0], ["finest_context", "look_back"], ["upsampling", "repeat"], ["stacked", False]]
ROW, COLUMN = ["model", "options"], ["dataset", "horizon", "data_hash", "windows"]


@dataclass(frozen=True, eq=False)
class Table:
    """Runs of one family, budget and stride, with fixed settings alike; `row` and `column` are as readers see them."""

    runs: pd.DataFrame  # in the order of rows, columns and seeds
    shared: str  # options that all of them have, which no row's name says
    variants_of: str  # a model, only for the table of its variants
    left_out: int  # runs of older weights, defaults or choices than the newest of their row

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS[self.runs.family.iloc[0]]

    @property
    def title(self) -> str:
        first = self.runs.iloc[0]
        name = FAMILIES[first.family] + (f": variants of {model_name(self.variants_of)}" if self.variants_of else "")
        if given := {**json.loads(first.fixed), **json.loads(self.shared)}:
            name += f", with {options_text(given)}"
        name += f": quick look, test windows {first.stride} steps apart" * int(first.stride > 1)
        return f"{name} ({budget_text(json.loads(first.budget))})"

    def _by_place(self, function: str) -> pd.DataFrame:
        """A figure a row, and column and metric; NaN where there is none."""
        runs = self.runs
        columns = runs.drop_duplicates("column").sort_values(COLUMN)["column"]
        places = pd.MultiIndex.from_product([columns, self.metrics], names=["column", "metric"])
        found = runs.pivot_table(index="row", columns=["column", "metric"], values="value", aggfunc=function)
        return found.reindex(index=pd.Index(runs["row"].unique(), name="row"), columns=places)

    @cached_property
    def means(self) -> pd.DataFrame:
        return self._by_place("mean")

    @cached_property
    def spreads(self) -> pd.DataFrame:
        return self._by_place("std")  # NaN of one seed

    @property
    def decimals(self) -> dict[tuple[str, str], int]:
        """Three as in the literature, more where the column's smallest figure has fewer than three digits then."""
        least = self.means.where(self.means > 0).min().fillna(1.0)
        digits = {place: 2 - math.floor(math.log10(value)) for place, value in least.items()}
        return {place: min(max(LEAST_DECIMALS, most), MOST_DECIMALS) for place, most in digits.items()}

    @property
    def text(self) -> pd.DataFrame:
        shown = pd.DataFrame("", self.means.index, self.means.columns)
        for place, digits in self.decimals.items():
            mean, spread = (each[place].map(f"{{:.{digits}f}}".format) for each in (self.means, self.spreads))
            shown[place] = mean.where(spread == "nan", mean + " ± " + spread).replace("nan", "")
        return shown

    @property
    def places(self) -> pd.DataFrame:
        """1 for the best, 2 for the second, else NaN. Figures that look equal share a place; a lone one has none."""
        costs = self.means.copy()
        for place in costs.columns[costs.columns.get_level_values("metric") == "coverage"]:
            costs[place] = (costs[place] - NOMINAL_COVERAGE).abs()
        ranks = costs.round(self.decimals).rank(method="min")
        return ranks.where((ranks <= 2) & (costs.count() > 1))

    def ranked(self) -> pd.DataFrame:
        """The figures that ranks are of: all but the coverage, without gaps.

        Ranked are the rows with figures in at least half of the columns, over the columns where all of these have one.
        """
        found = self.means.drop(columns="coverage", level="metric", errors="ignore")
        return found[2 * found.count(axis=1) >= len(found.columns)].dropna(axis=1)

    @property
    def mean_ranks(self) -> pd.Series:
        """As text, 1 is best; empty where a row isn't ranked."""
        ranks = self.ranked().rank().mean(axis=1)
        shown = ranks.map("{:.2f}".format) if len(ranks) > 1 and not ranks.isna().any() else pd.Series(dtype=str)
        return shown.reindex(self.means.index, fill_value="")

    @property
    def notes(self) -> list[str]:
        """What a reader has to know beside the figures; at most five lines, without mark-up."""
        runs, ranked = self.runs, self.ranked()
        absent = [row for row in self.means.index if row not in ranked.index]
        seeds = runs.groupby(["row", "column"]).seed.nunique().groupby("row").agg(set).reindex(self.means.index)
        windows = runs.groupby([*COLUMN, "column"]).windows.agg(set).droplevel(COLUMN)
        better = "Lower is better" + "; the coverage should be 0.8" * ("coverage" in self.metrics)
        return [
            f"{better}. Bold: best, underlined: second, ±: sample standard deviation over seeds, empty: no result.",
            f"Seeds: {_grouped(seeds)}. Test windows: {_grouped(windows)}.",
            f"Look-back in steps: {_grouped(runs.groupby('row', sort=False).look_back.agg(set))}.",
            f"Ranked over {len(ranked.columns.unique('column'))} of {len(windows)} columns"
            + (f", without {', '.join(absent)}, which are in fewer than half of them" if absent else "")
            + (f". Left out: {self.left_out} runs of older weights, defaults or choices." if self.left_out else "."),
            f"Commits: {', '.join(sorted(runs.commit.unique()))}."
            + "".join(f" {text}." for text in runs.caveat.unique() if text),
        ]

    def markdown(self) -> str:
        """The table under its title, with its notes."""
        shown, places = self.text, self.places
        shown = shown.mask(places == 1, "**" + shown + "**").mask(places == 2, "<u>" + shown + "</u>")
        shown.columns = [f"{escape(column)}<br>{METRIC_NAMES[metric]}" for column, metric in shown.columns]
        shown["mean rank"] = self.mean_ranks
        shown.index = pd.Index([escape(name) for name in shown.index], name="")
        aligned = ("left", *("right" for _ in shown.columns))
        text = shown.to_markdown(disable_numparse=True, colalign=aligned)
        return f"### {escape(self.title)}\n\n{text}\n\n" + "\n".join(f"- {escape(note)}" for note in self.notes)

    def figures(self) -> pd.DataFrame:
        """A row for each figure, unrounded, with the files that it came from."""

        def each(values: pd.Series) -> str:
            return " ".join(map(str, values))

        def distinct(values: pd.Series) -> str:
            return " or ".join(map(str, values.unique()))

        names = ["family", *ROW, "fixed", "weights", *COLUMN, "test_stride", "budget"]
        some = {name: (name, each) for name in ("fit_seconds", "fit_processor_seconds")}
        some |= {name: (name, distinct) for name in ("look_back", "trained_parameters")}
        ways = {"mean": ("value", "mean"), "spread": ("value", "std"), "seeds": ("seed", each), "files": ("file", each)}
        groups = self.runs.groupby(["row", "column", "metric"], sort=False)
        found = groups.agg(**{name: (name, "first") for name in names}, **ways, **some).reset_index()
        marks = self.places.stack([0, 1], future_stack=True).astype("Int64")
        found["place"] = found.set_index(["row", "column", "metric"]).index.map(marks)
        found["mean_rank"] = found["row"].map(self.mean_ranks)
        return found.assign(shared=self.shared, variants_table=self.variants_of).drop(columns=["row", "column"])


def tables(frame: pd.DataFrame) -> list[Table]:
    """The runs in as many tables as it takes; full ones before quick looks, each followed by variants of its models."""
    families = {family: place for place, family in enumerate(FAMILIES)}
    keys = [frame.family.map(families), frame.stride, frame.budget, frame.fixed != "{}", frame.fixed]
    groups = frame.groupby([key.to_numpy() for key in keys])
    return [table for _, runs in groups for table in _of(runs)]


def as_csv(found: Sequence[Table]) -> str:
    return pd.concat([table.figures() for table in found]).to_csv(index=False)


def escape(text: str) -> str:
    """The text as Markdown and HTML show it literally, on one line and within one cell."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _of(runs: pd.DataFrame) -> Iterator[Table]:
    """The tables of one family, stride, budget and fixed settings."""
    made = pd.to_datetime(runs.made)
    newest = runs.state[made.groupby([runs[name] for name in ROW]).transform("idxmax")].to_numpy()
    kept = runs[runs.state == newest].copy()
    left_out = runs.file.nunique() - kept.file.nunique()
    options = [json.loads(text) for text in kept.options]
    shared = {name: value for name, value in options[0].items() if all(name in o and o[name] == value for o in options)}
    kept["options"] = [canonical({name: o[name] for name in o if name not in shared}) for o in options]
    again = kept[kept.duplicated([*ROW, *COLUMN, "seed", "metric"])]
    if len(again):
        twin = kept.merge(again.iloc[:1][[*ROW, *COLUMN, "seed", "metric"]]).file
        raise Misuse(f"{twin[0]} and {twin[1]} are results of the same experiment; keep one of them")
    for model, some in _split(kept).items():
        yield Table(_labelled(some), canonical(shared), model, left_out)


def _labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs in the order of rows, columns and seeds, with a `row` and a `column` as readers see them."""
    places = list(runs[COLUMN].itertuples(index=False, name=None))
    names = {place: f"{place[0].removesuffix('.toml')} {place[1]}" for place in places}
    shown = list(names.values())
    for place, name in names.items():
        if shown.count(name) > 1:
            names[place] = f"{name} [data {place[2][:8]}, {place[3]} windows]"
    rows = list(runs[ROW].itertuples(index=False, name=None))
    found = runs.assign(column=[names[place] for place in places], row=[row_name(*row) for row in rows])
    order = pd.Series([_row_order(*row) for row in rows], runs.index)
    return found.assign(order=order).sort_values(["order", *COLUMN, "seed"], kind="stable").drop(columns="order")


def _split(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of models as they are (under ""), unless said by a table of variants, and of each model with its own."""
    variant = pd.Series([_is_variant(options) for options in runs.options], runs.index)
    places = pd.MultiIndex.from_frame(runs[COLUMN])
    found = {"": runs[~variant]}
    for model in sorted(runs.model[variant].unique()):
        columns = places[variant & (runs.model == model)]
        found[model] = runs[(runs.model == model) & places.isin(columns)]
        if found[""].index.isin(found[model].index).all():
            found[""] = runs[:0]
    return {model: some for model, some in found.items() if len(some)}


def _is_variant(options: str) -> bool:
    return any(name != "backbone" and [name, value] not in ROWS for name, value in json.loads(options).items())


def _row_order(model: str, options: str) -> tuple[Any, ...]:
    names = list(MODELS)
    place = names.index(model) if model in names else len(names)
    return place, model, _is_variant(options), options != "{}", options


def _grouped(values: Mapping[str, set[Any]] | pd.Series) -> str:
    """`512` where all are equal, else `512 for ETTh1 96, ETTh1 336; 512 or 1024 for ETTm1 96`."""
    groups = defaultdict(list)
    for name, some in values.items():
        groups[" or ".join(map(str, sorted(some)))].append(name)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{value} for {', '.join(names)}" for value, names in groups.items())
