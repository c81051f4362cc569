"""`python -m benchmarks cost`: seconds and memory of training steps and forecasts, on this machine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.run.store import FOLDER

Model = StrEnum("Model", [(name, name) for name in ("moirai-tiny", "moirai-small", "chronos-2", "chronos-2-small")])
MOIRAI = [Model("moirai-tiny"), Model("moirai-small")]


def main(
    models: Annotated[list[Model], typer.Option("--model")] = MOIRAI,
    contexts: Annotated[list[int], typer.Option("--context", min=64, help="steps")] = [2048],  # noqa: B006
    horizon: Annotated[int, typer.Option(min=1, help="steps")] = 96,
    batch: Annotated[int, typer.Option(min=1, help="series of a step, and of a forecast")] = 32,
    samples: Annotated[int, typer.Option(min=1, help="sample paths of each; of Chronos-2 its quantiles")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="processes of each case")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="torch's threads")] = 2,
    accelerator: Annotated[Literal["cpu", "cuda"], typer.Option()] = "cpu",
    results: Annotated[Path, typer.Option(help="file the entry is added to")] = FOLDER / "long_memory" / "cost.json",
) -> None:
    """Measure what finetuning costs, add it to a file of results, and print it.

    Steps and forecasts with two new scales, of which the finest sees a quarter of the context, over those of one scale
    that sees all of it: full finetuning and zero-shot, or, for Chronos-2, Darts' own Chronos2Model. moirai-tiny is the
    bundled model, the others are random weights of the official sizes.
    """
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in locals().items()}
    from benchmarks.cost import measure  # here, for it takes seconds to import

    if measure.run(asked, results)["failed"]:
        raise typer.Exit(1)
