"""`python -m benchmarks cost`: seconds of training steps and forecasts, and memory of backtests, on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.run.store import FOLDER

Model = StrEnum("Model", {"tiny": "moirai-tiny", "small": "moirai-small"})
What = StrEnum("What", ["step", "forecast", "memory", "long"])
MODELS, CASES, CONTEXTS = list(Model), list(What), [512, 2048, 8192]


def main(
    models: Annotated[list[Model], typer.Option("--model")] = MODELS,
    cases: Annotated[list[What], typer.Option("--case")] = CASES,
    contexts: Annotated[list[int], typer.Option("--context", min=1, help="steps")] = CONTEXTS,
    horizon: Annotated[int, typer.Option(min=1, help="steps")] = 96,
    batch: Annotated[int, typer.Option(min=1, help="series of a step, and of a forecast's batch")] = 32,
    series: Annotated[int, typer.Option(min=1, help="series that are forecast")] = 32,
    samples: Annotated[int, typer.Option(min=1, help="sample paths of each")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="processes of each case")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="torch's threads")] = 2,
    accelerator: Annotated[Literal["cpu", "cuda"], typer.Option()] = "cpu",
    data: Annotated[Path | None, typer.Option(help="folder with ETTm1.csv, for the memory")] = None,
    results: Annotated[Path, typer.Option(help="file that the entry is added to")] = FOLDER / "efficiency.json",
) -> None:
    """Measure what finetuning costs, add it to a file of results, and print it.

    moirai-tiny is the bundled model, moirai-small random weights of MOIRAI small's size. full_uni2ts and uni2ts are
    uni2ts' own code on the same weights. one_sequence is MSFT's ablation that joins the tokens of all scales. Memory is
    that of historical_forecasts over a quarter of ETTm1's test part and over the whole, at stride 1. All these are of
    scales that see the whole context; "long" are steps and forecasts with two new scales of which the finest sees 512
    steps, over those at one scale, at contexts beyond 512.
    """
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    from benchmarks.cost import measure  # here, for it takes seconds to import

    if measure.run(asked, results).failed:
        raise typer.Exit(1)
