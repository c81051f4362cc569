"""`darts-msft forecast data.csv --time date --horizon 96`: a first look without code.

Beside `darts_msft`, whose import takes seconds: help, and most of what can't be used, are told of before that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from darts_msft_command.asked import Asked

TABLES = (".csv", ".parquet")
PICTURES = (".png", ".pdf", ".svg", ".jpg")
MISUSED = 2  # exit code, as typer's
TABLE, MODEL, FILES = "The table", "The forecast", "What is told and written"  # groups of options

app = typer.Typer(help="Pretrained and finetuned forecasts of your series.", pretty_exceptions_enable=False)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"darts-msft {version('darts-msft')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="tell it, and end", callback=_tell_version, is_eager=True)
    ] = False,
) -> None:
    """Pretrained and finetuned forecasts of your series; `darts-msft forecast --help` says more."""


@app.command()
def forecast(
    data: Annotated[Path, typer.Argument(help="a .csv or .parquet file, a row for each time")],
    time: Annotated[str, typer.Option(help="the column of times")],
    horizon: Annotated[int, typer.Option(min=1, help="steps to forecast")],
    target: Annotated[
        list[str] | None,
        typer.Option(help="columns to forecast, as in load,price; else every column of numbers", rich_help_panel=TABLE),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            help="the column that names the series, in a table of several below one another", rich_help_panel=TABLE
        ),
    ] = None,
    covariates: Annotated[
        list[str] | None,
        typer.Option(
            help="columns that are known ahead, as in holiday,price; with rows for the steps to forecast",
            rich_help_panel=TABLE,
        ),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="steps of input; else up to 2,048, by the data", rich_help_panel=MODEL)
    ] = None,
    frequency: Annotated[
        str | None, typer.Option(help="step of the times, such as h or 15min; else read off", rich_help_panel=TABLE)
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(help="of the clock, such as Europe/Berlin; else as the times say", rich_help_panel=TABLE),
    ] = None,
    day_first: Annotated[
        bool | None,
        typer.Option(
            "--day-first/--month-first", help="of times such as 01/02/2024; else by their steps", rich_help_panel=TABLE
        ),
    ] = None,
    decimal: Annotated[str, typer.Option(help="what a .csv has before decimals", rich_help_panel=TABLE)] = ".",
    thousands: Annotated[
        str | None, typer.Option(help="what a .csv has between thousands", rich_help_panel=TABLE)
    ] = None,
    finetune: Annotated[
        bool, typer.Option(help="train as well: minutes instead of seconds", rich_help_panel=MODEL)
    ] = False,
    epochs: Annotated[int, typer.Option(min=1, help="of --finetune", rich_help_panel=MODEL)] = 3,
    lower: Annotated[
        str | None, typer.Option(help="least value of a forecast: a number, or auto", rich_help_panel=MODEL)
    ] = None,
    backbone: Annotated[str, typer.Option(help="the pretrained model", rich_help_panel=MODEL)] = "moirai-tiny",
    output: Annotated[Path, typer.Option(help="file of the forecast's quantiles", rich_help_panel=FILES)] = Path(
        "forecast.csv"
    ),
    picture: Annotated[
        Path | None, typer.Option(help="file of a picture, such as forecast.png", rich_help_panel=FILES)
    ] = None,
    total: Annotated[
        bool, typer.Option(help="tell each column's total of all steps, with its interval", rich_help_panel=FILES)
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="write over files that are there", rich_help_panel=FILES)] = False,
) -> None:
    """Forecast a table's columns; what the last part of the series says decides what is used.

    A linear member is solved for in seconds and joins the pretrained model; --finetune trains too. The last fifth of
    the series chooses what is kept. A series that is too short for that is forecast by the pretrained model alone.
    """
    check_files(data, output, picture, overwrite)
    if context is not None and context < 1:
        raise ValueError(f"--context {context}: give at least 1 step")
    least = lower if lower in (None, "auto") else _number("--lower", str(lower))
    for name, sign in (("--decimal", decimal), ("--thousands", thousands)):
        if sign is not None and len(sign) != 1:
            raise ValueError(f"{name} {sign!r}: give one sign, such as a comma")
    if decimal == thousands:
        raise ValueError(f"--decimal and --thousands are both {decimal!r}: give the other one too, as in --decimal ,")
    asked = Asked(
        horizon=horizon, series=series, context=context, frequency=frequency, finetune=finetune, epochs=epochs,
        lower=least, backbone=backbone, output=output, picture=picture, total=total,
    )  # fmt: skip
    from darts_msft_command.columns import Signs
    from darts_msft_command.tables import read

    rows = read(data, time, target, zone, series, covariates, Signs(decimal, thousands), day_first)
    from darts_msft_command.forecast import run

    run(rows, asked)


def check_files(data: Path, output: Path, picture: Path | None, overwrite: bool) -> None:
    """Refuses what can't be read, or could not be written in the end."""
    if not data.is_file():
        raise ValueError(f"{data}: there is no such file")
    if data.suffix.lower() not in TABLES:
        raise ValueError(f"{data}: give a file whose name ends in {' or '.join(TABLES)}")
    if picture is not None and picture.resolve() == output.resolve():
        raise ValueError(f"--output and --picture are both {output}: name two files")
    for path in filter(None, (output, picture)):
        if not path.parent.is_dir():
            raise ValueError(f"{path}: there is no folder {path.parent}; make it, or name another file")
        if path.resolve() == data.resolve():
            raise ValueError(f"{path} is the file of the data: name another one")
        if path.exists() and not overwrite:
            raise ValueError(f"{path} is there already: name another file, or give --overwrite")
    if picture is not None and picture.suffix.lower() not in PICTURES:
        raise ValueError(f"{picture}: give a file whose name ends in {', '.join(PICTURES)}")


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} {text}: give a number, or auto") from None


def main(words: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; what can't be used is one line."""
    logging.getLogger("darts").setLevel(logging.WARNING)
    try:
        app(words, prog_name="darts-msft")
    except SystemExit as ended:
        return int(ended.code or 0)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        typer.echo(f"darts-msft: {error}", err=True)
        return MISUSED
    return 0
