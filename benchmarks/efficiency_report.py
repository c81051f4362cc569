"""From the rows of `benchmarks.efficiency` to ratios, the goals' verdicts and Markdown.

A row's `ratio` holds its seconds over those of each reference, by the reference's method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REFERENCES = {"step": ("full", "full_uni2ts"), "forecast": ("zero_shot", "uni2ts"), "import": ("darts and torch",)}
SAME = ("model", "what", "context", "batch")  # what a row and its reference share
SCALED = ("msft", "one_sequence")  # methods with a K
GROWTH = 1.5  # four times the windows may take so many times the memory beyond the result
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Goal:
    """At every K and context, MSFT's seconds are at most `most` times the reference's."""

    text: str
    what: str
    reference: str
    most: float


GOALS = (
    Goal("a training step of MSFT takes at most 1.3 times full finetuning's", "step", "full", 1.3),
    Goal("a forecast of MSFT takes at most 1.6 times zero-shot's", "forecast", "zero_shot", 1.6),
    Goal("MSFT forecasts 5 times as many series a second as uni2ts (0.2 of its time)", "forecast", "uni2ts", 0.2),
)
BOUNDED = "memory of historical_forecasts beyond its result is bounded by the batch"


# ------------------------------------------------------------------------------------------------ ratios and verdicts


def with_ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows with their seconds as multiples of those of the references that were measured."""
    seconds = {(_place(row), row["method"]): row["seconds"] for row in rows}
    found = []
    for row in rows:
        keys = {name: (_place(row), name) for name in REFERENCES.get(row["what"], ())}
        ratio = {name: row["seconds"] / seconds[key] for name, key in keys.items() if key in seconds}
        found.append({**row, "ratio": ratio})
    return found


def _place(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in SAME)


def verdicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Whether each goal holds in all rows that it is about; `holds` is None where there are none."""
    return [*(_verdict(goal, rows) for goal in GOALS), _bounded(rows)]


def _verdict(goal: Goal, rows: Sequence[Row]) -> dict[str, Any]:
    about = [row for row in rows if row["what"] == goal.what and row["method"] == "msft"]
    about = [row for row in about if goal.reference in row["ratio"]]
    if not about:
        return {"goal": goal.text, "holds": None, "detail": ""}
    within = [row for row in about if row["ratio"][goal.reference] <= goal.most]
    worst = max(about, key=lambda row: row["ratio"][goal.reference])
    place = f"{worst['model']}, context {worst['context']}, K = {worst['K']}"
    detail = f"{len(within)} of {len(about)} cases keep it; worst {worst['ratio'][goal.reference]:.2f} ({place})"
    return {"goal": goal.text, "holds": len(within) == len(about), "detail": detail}


def _bounded(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether the longest backtest takes little more beyond its result than the shortest, for each method and batch."""
    pairs: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["what"] == "memory":
            pairs.setdefault((row["model"], row["method"], row["batch"]), []).append(row)
    growths = {}
    for place, members in pairs.items():
        ordered = sorted(members, key=lambda row: row["length"])
        if ordered[0]["length"] < ordered[-1]["length"]:
            growths[place] = ordered[-1]["beyond_result_bytes"] / max(1, ordered[0]["beyond_result_bytes"])
    if not growths:
        return {"goal": BOUNDED, "holds": None, "detail": ""}
    (model, method, batch), worst = max(growths.items(), key=lambda pair: pair[1])
    within = [growth for growth in growths.values() if growth <= GROWTH]
    detail = (
        f"{len(within)} of {len(growths)} cases keep it; from the shortest to the longest part it becomes at most "
        f"{worst:.2f} times as much ({model}, {method}, batch {batch}), allowed are {GROWTH}"
    )
    return {"goal": BOUNDED, "holds": len(within) == len(growths), "detail": detail}


# ----------------------------------------------------------------------------------------------------------- Markdown


def render(entry: Mapping[str, Any]) -> str:
    """An entry as Markdown: a table for each kind of case, what is not in them, and the goals."""
    parts = [
        f"Measured {entry['made']} at commit {entry['commit'][:12]}, {entry['threads']} threads, {entry['device']}."
    ]
    for what in dict.fromkeys(row["what"] for row in entry["rows"]):
        rows = [row for row in entry["rows"] if row["what"] == what]
        parts.append(f"### {what}\n\n{table(rows, _columns(what))}")
    for title, name in (("Left out", "left_out"), ("Failed", "failed")):
        if entry[name]:
            parts.append("\n".join([f"{title}:", *(f"- {_told(part)}" for part in entry[name])]))
    if whole := [row for row in entry["rows"] if not row.get("peak_restarted", True)]:
        kinds = ", ".join(dict.fromkeys(row["what"] for row in whole))
        parts.append(f"Peaks of {kinds}: the system can't begin a new one, so they may be those of loading the model.")
    words = {True: "holds", False: "does not hold", None: "not measured"}
    told = [(f"{each['goal']}: **{words[each['holds']]}**", each["detail"]) for each in entry["goals"]]
    lines = [f"- {'; '.join(filter(None, parts))}" for parts in told]
    parts.append("\n".join(["Goals:", *lines]))
    return "\n\n".join(parts)


def table(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]]) -> str:
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(row) for cell in columns.values()) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _columns(what: str) -> dict[str, Callable[[Row], str]]:
    columns: dict[str, Callable[[Row], str]] = {}
    if what != "import":
        columns |= {name: _cell(name) for name in ("model", "context", "patch", "batch")}
    columns["method"] = _method
    if what == "memory":
        columns |= {"steps": _cell("length"), "windows": _cell("windows")}
    columns |= {"seconds": _figure("seconds", 1, 3), "IQR": _figure("iqr", 1, 3), "runs": _cell("runs")}
    if what != "import":
        columns["peak MB"] = _figure("peak_memory_bytes", 1e-6, 0)
    if what == "memory":
        columns |= {"result MB": _figure("result_bytes", 1e-6, 0), "beyond MB": _figure("beyond_result_bytes", 1e-6, 0)}
    return columns | {f"over {name}": _ratio(name) for name in REFERENCES.get(what, ())}


def _cell(name: str) -> Callable[[Row], str]:
    return lambda row: str(row[name])


def _figure(name: str, unit: float, digits: int) -> Callable[[Row], str]:
    return lambda row: f"{row[name] * unit:.{digits}f}"


def _ratio(name: str) -> Callable[[Row], str]:
    return lambda row: f"{row['ratio'][name]:.2f}" if name in row["ratio"] else ""


def _method(row: Row) -> str:
    return f"{row['method']}, K = {row['K']}" if row["method"] in SCALED else str(row["method"])


def _told(part: Row) -> str:
    """`moirai-tiny, step, msft, K 4, context 512: num_scales=4 is too large ...`."""
    plain = ("model", "what", "method", "case")
    words = [str(part[name]) if name in plain else f"{name} {part[name]}" for name in part if name != "reason"]
    return f"{', '.join(words)}: {part['reason']}"
