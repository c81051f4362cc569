"""`python -m benchmarks show`: tables of what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.run.store import FOLDER, write


def main(
    results: Annotated[Path, typer.Option(help="folder of the results")] = FOLDER,
    suites: Annotated[list[str] | None, typer.Option("--suite", help="only what belongs to this suite")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for tables.md and tables.csv")] = None,
) -> None:
    """Print the tables of all results, or of some suites', and write those of all beside the results."""
    from benchmarks.show import tables  # here, for they take seconds to import
    from benchmarks.show.frame import read

    found = tables.tables(read(results, suites or ()))
    text = "\n\n".join(table.markdown() for table in found) + "\n"
    print(text)
    written: dict[Path, str] = {}
    if output is not None or not suites:
        folder = results if output is None else output
        written = {folder / "tables.md": text, folder / "tables.csv": tables.as_csv(found)}
    for path, content in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, content)
    print(f"written: {', '.join(map(str, written)) or 'nothing; --output FOLDER writes tables of a suite'}")
