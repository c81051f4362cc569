"""The benchmarks' command line.

    python -m benchmarks run --suite smoke      # measures, adds to benchmarks/results
    python -m benchmarks table                  # Markdown and CSV of what was measured
    python -m benchmarks plot                   # pictures of it
    python -m benchmarks report                 # one HTML page with both
    python -m benchmarks check                  # compares the suite "harness" with published figures
    python -m benchmarks efficiency             # measures what training steps and forecasts cost
    python -m benchmarks defaults               # measures learning rates and switches on validation data
    python -m benchmarks checkpoint choose      # measures the bundled checkpoint as it is; also "test" and "speed"
    python -m benchmarks sizes                  # measures widths, depths, patch sizes of the checkpoint

`python -m benchmarks COMMAND --help` says what a command takes.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from benchmarks.errors import Misuse

MISUSED = 2  # exit code, as argparse's
COMMANDS = {
    "run": ("benchmarks.run.runner", "measure what has no result yet"),
    "table": ("benchmarks.tables", "write tables of the results, as Markdown and CSV"),
    "plot": ("benchmarks.plots", "draw the results"),
    "report": ("benchmarks.report", "write one HTML page with tables and pictures"),
    "check": ("benchmarks.run.harness", "compare the suite 'harness' with published figures"),
}
PROGRAMS = {  # modules that read the words after the command themselves
    "efficiency": ("benchmarks.efficiency", "measure what training steps and forecasts cost"),
    "defaults": ("benchmarks.defaults", "measure learning rates and switches on validation data"),
    "checkpoint": ("benchmarks.checkpoint", "measure the bundled checkpoint without finetuning"),
    "sizes": ("benchmarks.sizes", "measure widths, depths and patch sizes of the bundled checkpoint"),
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; only that command's module is imported.

    `Misuse` alone becomes a line: any other error is a fault of the benchmarks and keeps its traceback.
    """
    words = list(sys.argv[1:] if words is None else words)
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    known = {**COMMANDS, **PROGRAMS}
    raw = argparse.RawDescriptionHelpFormatter
    parsers = {name: subparsers.add_parser(name, help=text, formatter_class=raw) for name, (_, text) in known.items()}
    if not words or words[0] not in known:
        parser.parse_args(words[:1])  # ends with the help, or with what is wrong
    command, rest = words[0], words[1:]
    module = importlib.import_module(known[command][0])
    try:
        if command in PROGRAMS:
            return module.main(rest) or 0
        parsers[command].description = module.__doc__
        module.add_arguments(parsers[command])
        return module.main(parser.parse_args(words)) or 0
    except Misuse as error:
        print(f"python -m benchmarks {command}: {error}", file=sys.stderr)
        return MISUSED


if __name__ == "__main__":
    sys.exit(main())
