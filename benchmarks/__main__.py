"""The benchmarks' command line: `python -m benchmarks run|show|check|cost`; `--help` says what each takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import cost, run, show
from benchmarks.errors import Misuse
from benchmarks.run import store, suites

MISUSED = 2  # exit code, as typer's
app = typer.Typer(help="Measure darts-msft and its baselines.", add_completion=False, pretty_exceptions_enable=False)
app.command("run")(run.main)
app.command("show")(show.main)
app.command("cost")(cost.main)


@app.command("check")
def check(results: Annotated[Path, typer.Option(help="folder of the results")] = store.FOLDER) -> None:
    """Compare the results of the suite "harness" with the figures that the papers print."""
    raise typer.Exit(suites.check(results))


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code. A `Misuse`, or a file that isn't there, is told in a line."""
    try:
        app(words, prog_name="python -m benchmarks")
    except SystemExit as ended:
        return int(ended.code or 0)
    except (Misuse, OSError) as error:
        print(f"python -m benchmarks: {error}", file=sys.stderr)
        return MISUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
