"""`darts-msft forecast data.csv --time date --horizon 96`: a first look without code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
import typer
from darts import TimeSeries

from darts_msft import MSFTFoundationModel

LONGEST = 2048  # steps of input
LEVELS = (0.1, 0.5, 0.9)
VALIDATION = 0.2  # of the series, for a fit
LEAST_WINDOWS = 32  # of the validation part
MISUSED = 2  # exit code, as typer's

app = typer.Typer(help="Pretrained and finetuned forecasts of your series.", pretty_exceptions_enable=False)


class _Unusable(ValueError):
    """Input that can't be forecast, in a line for the user."""


@app.callback()
def _main() -> None:
    """Pretrained and finetuned forecasts of your series; `darts-msft forecast --help` says more."""


@app.command()
def forecast(
    data: Annotated[Path, typer.Argument(help="a .csv or .parquet file, a row for each time")],
    time: Annotated[str, typer.Option(help="the column of times")],
    horizon: Annotated[int, typer.Option(min=1, help="steps to forecast")],
    target: Annotated[list[str] | None, typer.Option(help="a column to forecast; else every column of numbers")] = None,
    context: Annotated[int | None, typer.Option(help="steps of input; else up to 2,048, by the data")] = None,
    frequency: Annotated[str | None, typer.Option(help="step of the times, such as h or 15min; else read off")] = None,
    finetune: Annotated[bool, typer.Option(help="train as well: minutes instead of seconds")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="of --finetune")] = 3,
    lower: Annotated[str | None, typer.Option(help="least value of a forecast: a number, or auto")] = None,
    backbone: Annotated[str, typer.Option(help="the pretrained model")] = "moirai-tiny",
    output: Annotated[Path, typer.Option(help="file of the forecast's quantiles")] = Path("forecast.csv"),
    picture: Annotated[Path | None, typer.Option(help="file of a picture, such as forecast.png")] = None,
    overwrite: Annotated[bool, typer.Option(help="write over files that are there")] = False,
) -> None:
    """Forecast a table's columns; what the last part of the series says decides what is used.

    A linear member is solved for in seconds and joins the pretrained model; --finetune trains too. The last fifth of
    the series chooses what is kept. A series that is too short for that is forecast by the pretrained model alone.
    """
    matplotlib.use("Agg")
    check_files(data, output, picture, overwrite)
    series = read(data, time, target, frequency)
    model = made(series, horizon, context, finetune, epochs, lower, backbone)
    (forecasts,) = model.predict_quantiles(horizon, [series], LEVELS)
    forecasts.to_dataframe().to_csv(output, index_label=time)
    typer.echo(f"wrote {output}: {horizon} steps of {', '.join(series.components)} from {forecasts.start_time()}")
    if picture is not None:
        figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
        model.plot_forecast(series, ax=axis)
        figure.savefig(picture, dpi=120)
        typer.echo(f"wrote {picture}: {series.components[0]}")


def check_files(data: Path, output: Path, picture: Path | None, overwrite: bool) -> None:
    """Refuses what could not be written in the end."""
    for path in filter(None, (output, picture)):
        if not path.parent.is_dir():
            raise _Unusable(f"{path}: there is no folder {path.parent}; make it, or name another file")
        if path.resolve() == data.resolve():
            raise _Unusable(f"{path} is the file of the data: name another one")
        if path.exists() and not overwrite:
            raise _Unusable(f"{path} is there already: name another file, or give --overwrite")
    pictures = plt.figure().canvas.get_supported_filetypes() if picture is not None else {}
    plt.close()
    if picture is not None and picture.suffix.removeprefix(".") not in pictures:
        raise _Unusable(f"{picture}: give a file whose name ends in .{', .'.join(sorted(pictures))}")


def times_of(column: pd.Series) -> pd.Series:
    """Times without a zone, in UTC where they have one; years as they stand."""
    name = column.name
    if pd.api.types.is_numeric_dtype(column):
        if not column.between(1000, 9999).all() or (column != column.round()).any():
            raise _Unusable(f"column {name!r} holds numbers such as {column.iloc[0]}: give dates, or years")
        return pd.to_datetime(column.astype(int).astype(str), format="%Y")
    try:
        zoned = pd.to_datetime(column, utc=True)
        plain = pd.to_datetime(column.iloc[:1]).dt.tz is None
    except (ValueError, TypeError) as error:
        raise _Unusable(f"column {name!r} holds no times: {' '.join(str(error).split())}") from error
    if not plain:
        typer.echo(f"the times of {name!r} have a zone: they are taken in UTC")
    return zoned.dt.tz_localize(None)


def read(data: Path, time: str, target: Sequence[str] | None, frequency: str | None) -> TimeSeries:
    """The series in a file; times that are missing become gaps."""
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    if data.suffix not in readers:
        raise _Unusable(f"{data}: give a file whose name ends in {' or '.join(readers)}")
    try:
        frame = readers[data.suffix](data)
    except (OSError, ValueError) as error:
        raise _Unusable(f"{data} can't be read: {' '.join(str(error).split())}") from error
    columns = [str(column) for column in frame.columns]
    asked = [time, *(target or [])]
    if unknown := [name for name in asked if name not in columns]:
        raise _Unusable(f"{data} has no column {unknown[0]!r}; it has {', '.join(columns)}")
    numbers = [name for name in columns if name != time and pd.api.types.is_numeric_dtype(frame[name])]
    if wrong := [name for name in target or [] if name not in numbers]:
        raise _Unusable(f"column {wrong[0]!r} is no column of numbers; take some of {', '.join(numbers) or 'none'}")
    if not numbers:
        raise _Unusable(f"{data} has no column of numbers beside {time!r}")
    if not len(frame):
        raise _Unusable(f"{data} has no rows")
    frame[time] = times_of(frame[time])
    if frame[time].duplicated().any():
        twice = frame[time][frame[time].duplicated()].iloc[0]
        raise _Unusable(f"column {time!r} has {twice} more than once: give a file with one series, a row for each time")
    try:
        return TimeSeries.from_dataframe(
            frame.sort_values(time), time, list(target or numbers), fill_missing_dates=True, freq=frequency
        ).astype("float32")
    except ValueError as error:
        raise _Unusable(f"the times of {data} have no steady step: say which, as in --frequency h ({error})") from error


def made(
    series: TimeSeries, horizon: int, context: int | None, finetune: bool, epochs: int, lower: str | None, backbone: str
) -> MSFTFoundationModel:
    """The model, fitted where the series is long enough for that."""
    held = max(int(VALIDATION * len(series)), horizon + LEAST_WINDOWS)
    if context is not None and context < 1:
        raise _Unusable(f"--context {context}: give at least 1 step")
    known = context or min(LONGEST, max(len(series) - 2 * held, len(series) // 2))
    bound: Any = lower if lower in (None, "auto") else _number("--lower", str(lower))
    model = MSFTFoundationModel(
        known, horizon, backbone=backbone, lower=bound, random_state=0, n_epochs=epochs,
        method="msft" if finetune else "zero_shot", pl_trainer_kwargs={"accelerator": "cpu"},
    )  # fmt: skip
    if model.likelihood is None:
        raise _Unusable(f"--backbone {backbone} forecasts points, and no quantiles; take another, or Python's API")
    if len(series) < known + 2 * held:
        if finetune:
            raise _Unusable(
                f"{len(series)} steps are too few to finetune with a context of {known}: give a shorter --context or "
                "--horizon, or leave --finetune out"
            )
        typer.echo(f"{len(series)} steps: too few for a fit, so the pretrained model forecasts by itself")
        return model
    model.fit(series[:-held], val_series=series[-held - known :])
    typer.echo(str(model.fit_report))
    return model


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _Unusable(f"{name} {text}: give a number, or auto") from None


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


if __name__ == "__main__":
    sys.exit(main())
