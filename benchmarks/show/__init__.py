"""`python -m benchmarks show`: tables, charts and a report of what the store holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.errors import misuse
from benchmarks.run.store import FOLDER, is_own, write


def main(
    results: Annotated[Path, typer.Option(help="folder of the results")] = FOLDER,
    suites: Annotated[list[str] | None, typer.Option("--suite", help="only what belongs to this suite")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for the tables, charts and report")] = None,
    readme_chart: Annotated[Path | None, typer.Option(help="PNG of MSE relative to zero-shot")] = None,
) -> None:
    """Print the tables of all results, or of some suites', and write them with their charts and a report.

    Beside the published results only tables.md and tables.csv of all of them are written; give --output for more.
    """
    from benchmarks.show import charts, report, tables  # here, for they take seconds to import
    from benchmarks.show.frame import read

    found = tables.tables(read(results, suites or ()))
    text = "\n\n".join(table.markdown() for table in found) + "\n"
    print(text)
    written: dict[Path, str | bytes] = {}
    if readme_chart is not None:
        written[readme_chart] = charts.png(charts.relative_to_zero_shot(found))
    if output is not None or not suites:
        folder = results if output is None else output
        written |= {folder / "tables.md": text, folder / "tables.csv": tables.as_csv(found)}
        if not is_own(folder):
            drawn = charts.of_tables(found)
            written[folder / "report.html"] = report.page(found, drawn, folder)
            for pictures in drawn.values():
                written |= {folder / f"{name}.png": content for name, content in pictures.items()}
    for path, content in written.items():
        with misuse(f"{path} can't be written: ", OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, content)
    print(f"written: {', '.join(map(str, written)) or 'nothing; --output FOLDER writes tables of a suite'}")
