"""What `darts-msft forecast` does once its words are understood (`darts_msft_command`)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.utils.utils import n_steps_between

from darts_msft import MSFTFoundationModel
from darts_msft.plots import draw_forecast
from darts_msft_command.asked import Asked
from darts_msft_command.clocks import Unusable
from darts_msft_command.series import Table, series_of
from darts_msft_command.tables import Rows

LONGEST = 2048  # steps of input
LEVELS = (0.1, 0.5, 0.9)
SAMPLES = 500  # of a total
PANELS = 6  # of a picture
VALIDATION = 0.2  # of a series, for a fit
LEAST = 48  # steps of input that every backbone takes
LEAST_WINDOWS = 32  # of the validation part


def run(rows: Rows, asked: Asked) -> None:
    """The command on a file's rows, as its help has it; raises ValueError, in a line for the user, before it writes."""
    horizon, output = asked.horizon, asked.output
    table = series_of(rows, asked.frequency)
    _tell_of(table, rows.data)
    check_known(table, horizon)
    shared, units = in_units(table, asked.lower)
    model, known = made(shared, asked)
    pasts, given = [_padded(one, known) for one in shared.series], _given(shared, known)
    forecasts = _times(model.predict_quantiles(horizon, pasts, LEVELS, **given), units)
    if asked.total:
        _tell_totals(table, _times(model.predict(horizon, pasts, num_samples=SAMPLES, **given), units))
    frame = _frame(table, forecasts, rows.time, asked.series)
    _whole(output, lambda part: frame.to_csv(part, index=False))
    of = ", ".join(map(str, table.series[0].components)) + (f", of {len(table.series)} series" if table.names else "")
    begins = frame[rows.time].iloc[::horizon]
    latest = f" to {begins.max()}, each from its own end" if begins.nunique() > 1 else ""
    _tell(f"wrote {output}: {horizon} steps of {of}, from {begins.min()}{latest}")
    if asked.picture is not None:
        _draw(table, forecasts, asked.picture)


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()  # what takes long comes after


def _tell_of(table: Table, data: Path) -> None:
    zone = f" (in UTC; the forecast's in {table.zone})" if table.zone else ""
    first, last = min(one.start_time() for one in table.series), max(one.end_time() for one in table.series)
    missing = sum(int(np.isnan(one.values(copy=False)).sum()) for one in table.series)
    lengths = sorted(map(len, table.series))
    several = f"{len(lengths):,} series of {lengths[0]:,} to " if table.names else ""
    _tell(
        f"{data}: {several}{lengths[-1]:,} steps of {table.series[0].freq_str} from {first} to {last}{zone}, "
        f"{missing:,} values missing"
    )
    if early := sum(one.end_time() < last for one in table.series):
        _tell(f"series that end before {last}: {early} of {len(lengths)}; each is forecast from its own end")


def check_known(table: Table, horizon: int) -> None:
    """Raises Unusable where a covariate isn't known at a step to forecast."""
    if table.covariates is None:
        return
    for name, one, known in zip(_names(table), table.series, table.covariates, strict=True):
        ahead = known.drop_before(one.end_time()) if known.end_time() > one.end_time() else None
        values = np.full((horizon, known.n_components), np.nan)
        if ahead is not None:
            values[: len(ahead)] = ahead.values()[:horizon]
        missing = np.argwhere(np.isnan(values))
        if len(missing):
            step, column = missing[0]
            at = one.end_time() + (int(step) + 1) * one.freq
            less = f", or take --horizon {step}" if step else ""
            raise Unusable(
                f"covariate {known.components[column]!r}{name and f' of series {name!r}'} has no value at {at}, one of "
                f"the {horizon} steps to forecast: add rows with it{less}, or leave it out of --covariates"
            )


def _names(table: Table) -> list[str]:
    return table.names or [""] * len(table.series)


def in_units(table: Table, lower: float | str | None) -> tuple[Table, list[np.ndarray]]:
    """The series in units of their mean size, (components,), where several share their covariates' effects; else 1."""
    if table.covariates is None or table.names is None:
        return table, [np.ones(one.n_components) for one in table.series]
    if isinstance(lower, float) and lower != 0:
        raise Unusable(f"--lower {lower:g}: with --series and --covariates give 0 or auto, or leave one of these out")
    _tell("series share what covariates do to them, as parts of each series' mean size: effects are told in these")
    sizes = [np.nanmean(np.abs(one.values()), axis=0) for one in table.series]
    units = [np.where(size > 0, size, 1.0) for size in sizes]
    return table._replace(series=_times(table.series, [1 / unit for unit in units])), units


def _times(every: list[TimeSeries], units: list[np.ndarray]) -> list[TimeSeries]:
    """Each series times its components' units; a component may be there at several levels."""
    values = [one.all_values(copy=False) for one in every]
    many = [np.repeat(unit, own.shape[1] // len(unit))[:, None] for own, unit in zip(values, units, strict=True)]
    return [one.with_values(own * unit) for one, own, unit in zip(every, values, many, strict=True)]


def made(table: Table, asked: Asked) -> tuple[MSFTFoundationModel, int]:
    """The model, fitted on the series that are long enough for that, and its steps of input."""
    horizon = asked.horizon
    lengths = sorted(map(len, table.series))
    length = lengths[len(lengths) // 2]
    known = asked.context or min(LONGEST, max(length - 2 * _held(length, horizon), length // 2, LEAST))
    try:
        model = MSFTFoundationModel(
            known, horizon, backbone=asked.backbone, lower=asked.lower, random_state=0, n_epochs=asked.epochs,
            method="msft" if asked.finetune else "zero_shot", pl_trainer_kwargs={"accelerator": "cpu"},
        )  # fmt: skip
    except ValueError as error:
        raise Unusable(str(error).replace("input_chunk_length=", "--context ")) from error
    if model.likelihood is None:
        raise Unusable(f"--backbone {asked.backbone} forecasts points, and no quantiles; take another, or Python's API")
    held = [_held(len(one), horizon) for one in table.series]
    enough = [number for number, one in enumerate(table.series) if len(one) >= known + 2 * held[number]]
    if not enough:
        for option, needed in (("--finetune", asked.finetune), ("--covariates", table.covariates)):
            if needed:
                raise Unusable(
                    f"{lengths[-1]} steps are too few for a fit with a context of {known}, which {option} needs: give "
                    f"a shorter --context or --horizon, or leave {option} out"
                )
        _tell(f"{lengths[-1]} steps: too few for a fit, so the pretrained model forecasts by itself")
        return model, known
    if less := len(lengths) - len(enough):
        most = lengths[0] - 2 * _held(lengths[0], horizon)
        shorter = f"; --context {most} fits to all" if most >= LEAST else ""
        _tell(f"too short to fit to, but forecast all the same: {less} of {len(lengths)} series{shorter}")
    covariates = None if table.covariates is None else [table.covariates[number] for number in enough]
    fitted = [(table.series[number], held[number]) for number in enough]
    model.fit(
        [one[:-last] for one, last in fitted],
        future_covariates=covariates,
        val_series=[one[-last - known :] for one, last in fitted],
        val_future_covariates=covariates,
    )
    _tell(str(model.fit_report))
    return model, known


def _held(length: int, horizon: int) -> int:
    """Steps of a series that a fit is scored on."""
    return max(int(VALIDATION * length), horizon + LEAST_WINDOWS)


def _padded(series: TimeSeries, length: int) -> TimeSeries:
    """With missing values before it, where it is shorter."""
    if len(series) >= length:
        return series
    return series.prepend_values(np.full((length - len(series), series.n_components), np.nan, dtype=np.float32))


def _given(table: Table, known: int) -> dict[str, list[TimeSeries]]:
    """Covariates of a forecast; missing before their table begins."""
    if table.covariates is None:
        return {}
    starts = [_padded(one, known).start_time() for one in table.series]
    long = [
        len(one) + n_steps_between(one.start_time(), start, one.freq)
        for one, start in zip(table.covariates, starts, strict=True)
    ]
    return {"future_covariates": [_padded(one, most) for one, most in zip(table.covariates, long, strict=True)]}


def _frame(table: Table, forecasts: list[TimeSeries], time: str, series: str | None) -> pd.DataFrame:
    """A row for each time, and series where there are several, with a column for each quantile."""
    frames = []
    for name, one in zip(_names(table), forecasts, strict=True):
        frame = one.to_dataframe().reset_index(drop=True)
        if series is not None:
            frame.insert(0, series, name)
        times = one.time_index
        told = (
            times if table.zone is None else times.tz_localize("UTC").tz_convert(table.zone).map(pd.Timestamp.isoformat)
        )
        frame.insert(0, time, told)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _tell_totals(table: Table, paths: list[TimeSeries]) -> None:
    """Quantiles of the sums over the steps of sample paths."""
    for name, one in zip(_names(table), paths, strict=True):
        levels = np.quantile(one.all_values(copy=False).sum(axis=0), LEVELS, axis=1).T
        for component, own in zip(one.components, levels, strict=True):
            low, middle, high = (f"{level:,.0f}" if abs(level) >= 1e4 else f"{level:.5g}" for level in own)
            _tell(f"total of {_title(component, name)}: {middle}, 80 % between {low} and {high}")


def _title(component: object, name: str) -> str:
    return f"{component}, {name}" if name else str(component)


def _draw(table: Table, forecasts: list[TimeSeries], picture: Path) -> None:
    """A panel for each of the first columns, of the first series."""
    every = [
        (_title(component, name), past[component], [found[f"{component}_q{level:.3f}"] for level in LEVELS])
        for name, past, found in zip(_names(table), table.series, forecasts, strict=True)
        for component in past.components
    ]
    shown = every[:PANELS]
    matplotlib.use("Agg")
    figure, axes = plt.subplots(len(shown), 1, figsize=(9, 1 + 2.5 * len(shown)), layout="constrained", squeeze=False)
    for axis, (label, past, (low, middle, high)) in zip(axes[:, 0], shown, strict=True):
        draw_forecast(axis, past, middle, [low, high], "past")
        axis.set_title(label, loc="left", fontsize="medium")
    axes[0, 0].legend(loc="upper left", fontsize="small")
    if table.zone is not None:
        axes[-1, 0].set_xlabel("UTC")
    _whole(picture, lambda part: figure.savefig(part, dpi=120))
    plt.close(figure)
    more = f"; {len(every) - len(shown)} more are in no panel" if len(every) > len(shown) else ""
    _tell(f"wrote {picture}: {'; '.join(label for label, *_ in shown)}{more}")


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".unfinished-{path.name}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
