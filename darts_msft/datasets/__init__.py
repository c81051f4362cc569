"""Series to try the package on: those that ship with it, and two benchmarks read from a folder or through Darts.

`load_departures`, `load_departures_weather` and `load_sea_temperature` need nothing but this package; sources and terms
are in `SOURCE.md` beside this file. `load_dataset` serves them by name, and the ETT data sets, which are not shipped.
"""

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
from darts import TimeSeries
from darts.datasets import ETTh1Dataset, ETTm1Dataset
from darts.datasets.dataset_loaders import DatasetLoaderCSV, DatasetLoadingException

__all__ = ["load_dataset", "load_departures", "load_departures_weather", "load_sea_temperature"]

DATA_DIR_VARIABLE = "DARTS_MSFT_DATA"

_logger = logging.getLogger(__name__)
_SEA_FILE = Path(__file__).parent / "sea_surface_temperature.csv.gz"
_SEA_STEP = pd.Timedelta(minutes=30)
_SEA = "sea_temperature"
_DEPARTURES = "departures"
_NEW_YORK_FILE = Path(__file__).parent / "new_york_2013.csv.gz"
_AIRPORTS = ["EWR", "JFK", "LGA"]
_ETT: dict[str, type[DatasetLoaderCSV]] = {"ETTh1": ETTh1Dataset, "ETTm1": ETTm1Dataset}


def load_departures() -> TimeSeries:
    """Flights scheduled to depart from New York's three airports, counted by hour, in 2013.

    Returns:
        float32 series of shape (8760, 3), components "EWR" (Newark), "JFK" and "LGA" (La Guardia) in flights an hour,
        none missing; its index is in local time (each day has 24 hours, also when the clocks change) without a zone.
    """
    return _as_series(_new_york()[_AIRPORTS])


def load_departures_weather(fill_gaps: bool = True) -> TimeSeries:
    """The weather at the three airports, at the hours of `load_departures`.

    It was observed: at the time of a forecast, the weather of the hours to come is not known like this. How many
    values are missing (0.6 %), and whether they were filled, goes to the log at level INFO.

    Args:
        fill_gaps: Interpolate missing values linearly in time, and repeat the first and the last one at the ends (from
            2013-12-30 19:00 on nothing was recorded); if False they stay NaN.

    Returns:
        float32 series of shape (8760, 12): for each airport, such as "EWR", components "EWR_temp" (degrees
        Fahrenheit), "EWR_wind_speed" (miles an hour), "EWR_precip" (inches in the hour) and "EWR_visib" (miles).
    """
    weather = _new_york().drop(columns=_AIRPORTS)
    missing = weather.isna()
    if fill_gaps:
        weather = weather.interpolate(method="time", limit_direction="both")
    _logger.info(
        "weather: %s %d of %d values (longest gap %d hours)",
        "filled by linear interpolation, at the ends by repetition," if fill_gaps else "left as NaN",
        missing.to_numpy().sum(),
        missing.size,
        max(_longest_run(column) for column in missing.to_numpy().T),
    )
    return _as_series(weather)


def load_sea_temperature(fill_gaps: bool = True) -> TimeSeries:
    """Sea surface temperature at NERACOOS buoy B01 (Western Maine Shelf), 2016-02-15 to 2017-03-22 UTC.

    The 19,226 recorded rows are put on a regular grid of 19,249 half hours. A stamp recorded twice keeps its first
    value. How many values are missing, and whether they were filled, goes to the log at level INFO.

    Args:
        fill_gaps: Interpolate missing values linearly in time; if False they stay NaN.

    Returns:
        float32 series of shape (19249, 1), component "sea_temperature" in degrees Celsius; its index is in UTC but
        carries no time zone, as Darts wants it.
    """
    raw = pd.read_csv(_SEA_FILE, index_col=0, parse_dates=True).iloc[:, 0]
    recorded = raw.tz_localize(None)[~raw.index.duplicated(keep="first")]
    grid = pd.date_range(recorded.index[0], recorded.index[-1], freq=_SEA_STEP, name="time")
    values = recorded.reindex(grid)
    missing = values.isna().to_numpy()
    if fill_gaps:
        values = values.interpolate(method="time", limit_area="inside")
    _logger.info(
        "%s: %s %d of %d values (longest gap %d values, %s; %d repeated time stamp dropped)",
        _SEA,
        "filled by linear interpolation" if fill_gaps else "left as NaN",
        missing.sum(),
        len(grid),
        _longest_run(missing),
        _longest_run(missing) * _SEA_STEP,
        len(raw) - len(recorded),
    )
    return TimeSeries(times=grid, values=values.to_numpy(np.float32)[:, None], components=[_SEA])


def load_dataset(name: str, data_dir: str | os.PathLike[str] | None = None) -> TimeSeries:
    """A data set by name.

    Args:
        name: "departures" or "sea_temperature" (which ship with the package, see `load_departures` and
            `load_sea_temperature`), "ETTh1" (hourly) or "ETTm1" (every 15 minutes); the last two are electricity
            transformer temperature and loads, 2016-07 to 2018-06.
        data_dir: Folder that holds `ETTh1.csv` or `ETTm1.csv`. Default: the environment variable DARTS_MSFT_DATA;
            where that isn't set either, Darts' own loader, which downloads the file once. Not used for what
            ships with the package.

    Returns:
        float32 series; shape (17420, 7) for "ETTh1" and (69680, 7) for "ETTm1".

    Raises:
        ValueError: The name is unknown, or the file in the folder isn't the one that Darts' loader knows.
        FileNotFoundError: The folder doesn't hold the file.
        OSError: Darts' loader could not download or read it.
    """
    bundled = {_DEPARTURES: load_departures, _SEA: load_sea_temperature}
    if name in bundled:
        return bundled[name]()
    if name not in _ETT:
        raise ValueError(f"unknown data set {name!r}; choose one of {', '.join([*bundled, *_ETT])}")
    loader = _ETT[name]()
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    series = _load_with_darts(loader, name) if not folder else _load_from_folder(loader, Path(folder))
    return series.astype(np.float32)


def _new_york() -> pd.DataFrame:
    """The bundled counts and weather, a row an hour."""
    raw = pd.read_csv(_NEW_YORK_FILE)
    return raw.set_axis(pd.date_range("2013-01-01", periods=len(raw), freq="h", name="time"))


def _as_series(frame: pd.DataFrame) -> TimeSeries:
    return TimeSeries.from_dataframe(frame.astype(np.float32))


def _load_from_folder(loader: DatasetLoaderCSV, folder: Path) -> TimeSeries:
    """The loader's data set, read from `folder` instead of Darts' cache; never downloads."""
    metadata = loader._metadata
    path = folder / metadata.name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; download it from {metadata.uri} into that folder, "
            f"or point data_dir or {DATA_DIR_VARIABLE} to a folder that holds it"
        )
    found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    if found != metadata.hash:
        raise ValueError(
            f"{path} is not the published {metadata.name}: its MD5 sum is {found}, expected {metadata.hash}; "
            f"download it anew from {metadata.uri}"
        )
    frame = pd.read_csv(path, parse_dates=[metadata.header_time])
    return TimeSeries.from_dataframe(frame, time_col=metadata.header_time)


def _load_with_darts(loader: DatasetLoaderCSV, name: str) -> TimeSeries:
    """The data set from Darts' cache, downloaded if it isn't there. Darts' error is no `Exception`; ours is."""
    try:
        return loader.load()
    except DatasetLoadingException as error:
        raise OSError(
            f"Darts could not load {name} ({error}); where the download is impossible, put {loader._metadata.name} "
            f"into a folder and set {DATA_DIR_VARIABLE} to it"
        ) from error


def _longest_run(flags: np.ndarray) -> int:
    """Length of the longest run of True in `flags`, shape (n,)."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max(initial=0))
