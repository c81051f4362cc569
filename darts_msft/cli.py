"""`darts-msft forecast data.csv --time date --horizon 96`: a first look without code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import typer
from darts import TimeSeries

from darts_msft import MSFTFoundationModel
from darts_msft.tables import Table, Unusable, read

LONGEST = 2048  # steps of input
LEVELS = (0.1, 0.5, 0.9)
SAMPLES = 500  # of a total
PANELS = 6  # of a picture
VALIDATION = 0.2  # of the series, for a fit
LEAST_WINDOWS = 32  # of the validation part
MISUSED = 2  # exit code, as typer's

app = typer.Typer(help="Pretrained and finetuned forecasts of your series.", pretty_exceptions_enable=False)


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
    zone: Annotated[str | None, typer.Option(help="of the clock, such as Europe/Berlin; else as the times say")] = None,
    finetune: Annotated[bool, typer.Option(help="train as well: minutes instead of seconds")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="of --finetune")] = 3,
    lower: Annotated[str | None, typer.Option(help="least value of a forecast: a number, or auto")] = None,
    backbone: Annotated[str, typer.Option(help="the pretrained model")] = "moirai-tiny",
    output: Annotated[Path, typer.Option(help="file of the forecast's quantiles")] = Path("forecast.csv"),
    picture: Annotated[Path | None, typer.Option(help="file of a picture, such as forecast.png")] = None,
    total: Annotated[bool, typer.Option(help="tell each column's total of all steps, with its interval")] = False,
    overwrite: Annotated[bool, typer.Option(help="write over files that are there")] = False,
) -> None:
    """Forecast a table's columns; what the last part of the series says decides what is used.

    A linear member is solved for in seconds and joins the pretrained model; --finetune trains too. The last fifth of
    the series chooses what is kept. A series that is too short for that is forecast by the pretrained model alone.
    """
    check_files(data, output, picture, overwrite)
    table = read(data, time, target, frequency, zone)
    series = table.series
    _tell_of(table, data)
    model = made(series, horizon, context, finetune, epochs, lower, backbone)
    (forecasts,) = model.predict_quantiles(horizon, [series], LEVELS)
    frame = forecasts.to_dataframe()
    if table.zone is not None:
        frame.index = [moment.isoformat() for moment in frame.index.tz_localize("UTC").tz_convert(table.zone)]
    frame.to_csv(output, index_label=time)
    typer.echo(f"wrote {output}: {horizon} steps of {', '.join(series.components)} from {frame.index[0]}")
    if total:
        _tell_totals(model, series, horizon)
    if picture is not None:
        _draw(model, series, picture)


def _tell_of(table: Table, data: Path) -> None:
    series = table.series
    zone = f" (in UTC; the forecast's in {table.zone})" if table.zone else ""
    missing = int(series.to_dataframe().isna().sum().sum())
    typer.echo(
        f"{data}: {len(series):,} steps of {series.freq_str} from {series.start_time()} to {series.end_time()}{zone}, "
        f"{missing:,} values missing"
    )


def _tell_totals(model: MSFTFoundationModel, series: TimeSeries, horizon: int) -> None:
    """Quantiles of the sum over the steps, by sample paths."""
    sums = model.predict(horizon, series, num_samples=SAMPLES).all_values(copy=False).sum(axis=0)
    for name, (low, middle, high) in zip(series.components, np.quantile(sums, LEVELS, axis=1).T, strict=True):
        low, middle, high = (f"{one:,.0f}" if abs(one) >= 1e4 else f"{one:.5g}" for one in (low, middle, high))
        typer.echo(f"total of {name}: {middle}, 80 % between {low} and {high}")


def _draw(model: MSFTFoundationModel, series: TimeSeries, picture: Path) -> None:
    """A panel for each of the first columns."""
    shown = list(series.components[:PANELS])
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 1 + 2.5 * len(shown)), layout="constrained", squeeze=False)
    for axis, name in zip(axes[:, 0], shown, strict=True):
        model.plot_forecast(series, component=name, ax=axis)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    more = series.n_components - len(shown)
    typer.echo(f"wrote {picture}: {', '.join(shown)}" + (f"; {more} more columns are in no panel" if more else ""))


def check_files(data: Path, output: Path, picture: Path | None, overwrite: bool) -> None:
    """Refuses what could not be written in the end."""
    for path in filter(None, (output, picture)):
        if not path.parent.is_dir():
            raise Unusable(f"{path}: there is no folder {path.parent}; make it, or name another file")
        if path.resolve() == data.resolve():
            raise Unusable(f"{path} is the file of the data: name another one")
        if path.exists() and not overwrite:
            raise Unusable(f"{path} is there already: name another file, or give --overwrite")
    if picture is None:
        return
    matplotlib.use("Agg")
    pictures = plt.figure().canvas.get_supported_filetypes()
    plt.close()
    if picture.suffix.removeprefix(".") not in pictures:
        raise Unusable(f"{picture}: give a file whose name ends in .{', .'.join(sorted(pictures))}")


def made(
    series: TimeSeries, horizon: int, context: int | None, finetune: bool, epochs: int, lower: str | None, backbone: str
) -> MSFTFoundationModel:
    """The model, fitted where the series is long enough for that."""
    held = max(int(VALIDATION * len(series)), horizon + LEAST_WINDOWS)
    if context is not None and context < 1:
        raise Unusable(f"--context {context}: give at least 1 step")
    known = context or min(LONGEST, max(len(series) - 2 * held, len(series) // 2))
    bound: Any = lower if lower in (None, "auto") else _number("--lower", str(lower))
    model = MSFTFoundationModel(
        known, horizon, backbone=backbone, lower=bound, random_state=0, n_epochs=epochs,
        method="msft" if finetune else "zero_shot", pl_trainer_kwargs={"accelerator": "cpu"},
    )  # fmt: skip
    if model.likelihood is None:
        raise Unusable(f"--backbone {backbone} forecasts points, and no quantiles; take another, or Python's API")
    if len(series) < known + 2 * held:
        if finetune:
            raise Unusable(
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
        raise Unusable(f"{name} {text}: give a number, or auto") from None


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
