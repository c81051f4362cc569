from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from darts import TimeSeries
from model_fixtures import wave

from darts_msft import MSFTFoundationModel
from darts_msft_command import main, tables
from darts_msft_command.series import Table, series_of

HOURS = pd.date_range("2024-01-01", periods=299, freq="h")
BERLIN_DAYS = pd.date_range("2024-01-01", periods=300, freq="D", tz="Europe/Berlin")
AUTUMN = pd.date_range("2024-10-25", periods=300, freq="h", tz="Europe/Berlin").tz_localize(None)
MIXED = AUTUMN[np.random.default_rng(0).permutation(300)]


def read(file: Path, time: str, frequency: str | None = None, **asked: Any) -> Table:
    return series_of(tables.read(file, time, **asked), frequency)


def written(folder: Path, length: int = 300, **columns: object) -> Path:
    frame = wave(length, components=2).to_dataframe().rename_axis("date").reset_index().assign(**columns)
    frame.to_csv(folder / "data.csv", index=False)
    return folder / "data.csv"


def asked(file: Path, *more: str) -> list[str]:
    output = file.with_name("forecast.csv")
    return ["forecast", str(file), "--time", "date", "--horizon", "8", "--output", str(output), *more]


def only(table: Table) -> TimeSeries:
    (series,) = table.series
    return series


def test_a_fit_its_quantiles_and_a_picture(
    tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "forecast.png"
    file = written(tmp_path, shop="a")
    words = asked(file, "--context", "32", "--backbone", tiny_moirai, "--picture", str(picture))
    assert main(words) == 0
    assert "linear member" in capsys.readouterr().out
    told = pd.read_csv(tmp_path / "forecast.csv", parse_dates=["date"])
    assert list(told.columns) == [
        "date",
        *(f"{name}_q{level}" for name in "01" for level in ("0.100", "0.500", "0.900")),
    ]
    assert told["date"].iloc[0] == pd.Timestamp("2024-01-13 12:00")
    assert len(told) == 8
    truth = wave(308, components=2).values()[-8:]
    np.testing.assert_allclose(told["0_q0.500"], truth[:, 0], atol=0.4)  # a sine of amplitude 1, noise 0.1
    assert picture.stat().st_size > 5000


def test_a_short_series_is_forecast_without_a_fit(
    tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, length=60)
    assert main(asked(file, "--target", "1", "--backbone", tiny_moirai)) == 0
    assert "too few for a fit" in capsys.readouterr().out
    told = pd.read_csv(tmp_path / "forecast.csv")
    series = only(read(file, "date", target=["1"]))
    model = MSFTFoundationModel(48, 8, backbone=tiny_moirai, method="zero_shot", random_state=0)
    expected = model.predict_quantiles(8, series).values()
    np.testing.assert_allclose(told.drop(columns="date"), expected, rtol=1e-4)


@pytest.mark.parametrize("length", [5, 20])
def test_a_few_rows_are_forecast(tmp_path: Path, tiny_moirai: str, length: int) -> None:
    file = written(tmp_path, length=length)
    assert main(asked(file, "--target", "1", "--backbone", tiny_moirai)) == 0
    told = pd.read_csv(tmp_path / "forecast.csv")
    past = only(read(file, "date", target=["1"])).prepend_values(np.full((48 - length, 1), np.nan))
    model = MSFTFoundationModel(48, 8, backbone=tiny_moirai, method="zero_shot", random_state=0)
    expected = model.predict_quantiles(8, past.astype("float32")).values()
    np.testing.assert_allclose(told.drop(columns="date"), expected, rtol=1e-4)


def test_gaps_in_time_and_zones(tmp_path: Path) -> None:
    times = pd.date_range("2024-03-01", periods=20, freq="15min", tz="UTC").delete(7)
    pd.DataFrame({"when": times, "load": np.arange(19.0)}).to_parquet(tmp_path / "load.parquet")
    series = only(read(tmp_path / "load.parquet", "when"))
    assert len(series) == 20
    assert np.flatnonzero(np.isnan(series.values()[:, 0])).tolist() == [7]


def test_offsets_that_change_and_years(tmp_path: Path) -> None:
    """A clock change is no gap and no repetition in UTC."""
    times = pd.date_range("2024-10-27 00:00", periods=6, freq="h", tz="Europe/Berlin")
    pd.DataFrame({"when": [time.isoformat() for time in times], "load": np.arange(6.0)}).to_csv(
        tmp_path / "load.csv", index=False
    )
    series = only(read(tmp_path / "load.csv", "when"))
    assert series.values()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert series.start_time() == pd.Timestamp("2024-10-26 22:00")
    pd.DataFrame({"year": [1990, 1991, 1992, 1993], "load": np.arange(4.0)}).to_csv(tmp_path / "y.csv", index=False)
    assert only(read(tmp_path / "y.csv", "year")).start_time() == pd.Timestamp("1990-01-01")


def test_a_clock_on_the_wall(tmp_path: Path, tiny_moirai: str) -> None:
    """The hour that comes twice in autumn is read in its order, and the forecast is told in the zone."""
    times = pd.date_range("2024-10-25", periods=120, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"date": times.tz_localize(None), "load": wave(120).values()[:, 0]})
    frame.drop(index=[10, 11]).to_csv(tmp_path / "load.csv", index=False)
    table = read(tmp_path / "load.csv", "date", zone="Europe/Berlin")
    assert only(table).start_time() == pd.Timestamp("2024-10-24 22:00")
    expected = frame["load"].where(~frame.index.isin([10, 11])).to_numpy(np.float32)
    np.testing.assert_allclose(only(table).values()[:, 0], expected, rtol=1e-6)
    words = asked(tmp_path / "load.csv", "--zone", "Europe/Berlin", "--context", "32", "--backbone", tiny_moirai)
    assert main(words) == 0
    told = pd.read_csv(tmp_path / "forecast.csv")["date"]
    assert told.tolist() == [(times[-1] + pd.Timedelta(hours=step)).isoformat() for step in range(1, 9)]


def on_the_wall(folder: Path, times: pd.DatetimeIndex, rows: np.ndarray) -> list[float]:
    """Values read from a file whose rows are some of the times, by the clock of Berlin; a time's value is its place."""
    frame = pd.DataFrame({"date": times.tz_localize(None), "load": np.arange(float(len(times)))})
    frame.iloc[rows].to_csv(folder / "load.csv", index=False)
    return only(read(folder / "load.csv", "date", zone="Europe/Berlin")).values()[:, 0].tolist()


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("step", ["h", "15min"])
def test_the_hour_of_autumn_from_old_to_new_and_back(tmp_path: Path, way: int, step: str) -> None:
    times = pd.date_range("2024-10-26 20:00", "2024-10-28 04:00", freq=step, tz="Europe/Berlin")
    places = np.arange(len(times))
    assert on_the_wall(tmp_path, times, places[::way]) == places.tolist()
    by_clock = np.argsort(times.tz_localize(None), kind="stable")  # 02:00, 02:00, 02:15, 02:15, ...
    assert on_the_wall(tmp_path, times, by_clock[::way]) == places.tolist()


@pytest.mark.parametrize("way", [1, -1])
def test_a_row_missing_in_the_hour_of_autumn(tmp_path: Path, way: int) -> None:
    """02:15 is there once, after 02:45: it is of the second hour."""
    times = pd.date_range("2024-10-27 00:00", periods=24, freq="15min", tz="Europe/Berlin")
    missing = times.get_loc(pd.Timestamp("2024-10-27 02:15+02:00").tz_convert("Europe/Berlin"))
    expected = np.where(np.arange(24) == missing, np.nan, np.arange(24))
    np.testing.assert_array_equal(on_the_wall(tmp_path, times, np.delete(np.arange(24), missing)[::way]), expected)


@pytest.mark.parametrize("step", ["D", "W", "MS"])
def test_days_and_longer_keep_their_dates(tmp_path: Path, step: str) -> None:
    """Local midnights are at no steady step in UTC."""
    times = pd.date_range("2023-01-01", periods=120, freq=step, tz="Europe/Berlin")
    written_as = {
        "plain": times.tz_localize(None).strftime("%Y-%m-%d"),
        "offset": [time.isoformat() for time in times],
        "hours": [time.isoformat().removesuffix(":00") for time in times],  # +01, as databases have it
        "utc": times.tz_convert("UTC").strftime("%Y-%m-%dT%H:%M:%SZ"),
        "zoned": times,
    }
    for kind, zone in [
        *((kind, "Europe/Berlin") for kind in written_as),
        *((kind, None) for kind in ("offset", "hours", "zoned")),
    ]:
        file = tmp_path / f"{kind}.parquet"
        pd.DataFrame({"date": written_as[kind], "load": np.arange(120.0)}).to_parquet(file)
        table = read(file, "date", zone=zone)
        assert table.zone is None, kind
        assert only(table).time_index.tolist() == times.tz_localize(None).tolist(), kind
        assert only(table).values()[:, 0].tolist() == list(range(120)), kind


def test_forecasts_of_days_have_dates(tmp_path: Path, tiny_moirai: str) -> None:
    times = pd.date_range("2024-01-01", periods=90, freq="D", tz="Europe/Berlin")  # the clock changes on 31 March
    file = written(tmp_path, length=90, date=[time.isoformat() for time in times])
    assert main(asked(file, "--backbone", tiny_moirai)) == 0
    dates = pd.read_csv(tmp_path / "forecast.csv")["date"]
    assert dates.tolist() == pd.date_range("2024-03-31", periods=8).strftime("%Y-%m-%d").tolist()


def test_days_where_the_clock_is_set_forward_at_midnight(tmp_path: Path) -> None:
    file = written(tmp_path, length=60, date=pd.date_range("2018-10-01", periods=60))  # no 4 November 00:00 there
    table = read(file, "date", zone="America/Sao_Paulo")
    assert (table.zone, len(only(table)), only(table).start_time()) == (None, 60, pd.Timestamp("2018-10-01"))


def test_steps_are_read_off_where_runs_are_rare(tmp_path: Path) -> None:
    """Darts sees several steps here, each of which might be the one."""
    times = pd.date_range("2024-01-01", periods=60, freq="15min")
    frame = pd.DataFrame({"date": times, "load": np.arange(60.0)})
    frame.drop(index=[*range(10, 30, 2), 41, 42]).to_csv(tmp_path / "load.csv", index=False)
    series = only(read(tmp_path / "load.csv", "date"))
    assert len(series) == 60
    assert int(np.isnan(series.values()).sum()) == 12


def test_rows_that_repeat_others_count_once(tmp_path: Path) -> None:
    file = written(tmp_path, length=60)
    frame = pd.read_csv(file)
    pd.concat([frame[:9], frame[3:]]).to_csv(tmp_path / "twice.csv", index=False)
    assert only(read(tmp_path / "twice.csv", "date")) == only(read(file, "date"))


def test_totals_are_those_of_paths(tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = asked(written(tmp_path), "--context", "32", "--backbone", tiny_moirai, "--total", "--target", "0")
    assert main(words) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("total of 0: "))
    middle, _, low, high = (float(number) for number in re.findall(r"-?[\d.]+", line.split(":")[1]))
    truth = wave(308, components=2).values()[-8:, 0].sum()
    assert low < middle < high
    assert abs(middle - truth) < 2  # of about 40


def test_files_are_not_lost(tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, length=60)
    before = file.read_bytes()
    words = ["--backbone", tiny_moirai, "--target", "0"]
    assert main([*asked(file, *words)[:-6], "--output", str(file), *words]) == 2
    assert "is the file of the data" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert main(asked(file, *words)) == 0
    assert main(asked(file, *words)) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(asked(file, *words, "--overwrite")) == 0


@pytest.mark.parametrize(
    ("change", "words", "says"),
    [
        ({}, ["--target", "sales"], "no column 'sales'; it has date, 0, 1"),
        (
            {"shop": "a"},
            ["--target", "shop"],
            "'shop' is no column of numbers, but of text such as 'a'; take some of 0, 1",
        ),
        ({"date": "x"}, [], "'date' holds 'x' (row 2 of the file), which is no time from 1678 to 2261"),
        (
            {"date": [*HOURS, None]},
            ["--zone", "Europe/Berlin"],
            "'date' has 1 row without a time, row 301 of the file first",
        ),
        ({"date": 17.5}, [], "holds numbers such as 17.5 (row 2 of the file): give dates, or years"),
        ({}, ["--picture", "forecast.xyz"], "a file whose name ends in .png"),
        ({"date": "2024-01-01"}, [], "2024-01-01 more than once, as many of its times"),
        ({"date": [*HOURS, HOURS[20]]}, [], "--zone"),
        ({"date": pd.date_range("2024-03-30", periods=300, freq="h")}, ["--zone", "Europe/Berlin"], "is no time in"),
        ({"date": MIXED}, ["--zone", "Europe/Berlin"], "2024-10-27 02:00:00 more than once, when the clock"),
        ({"date": BERLIN_DAYS.tz_convert("UTC")}, [], "as in --zone Europe/Berlin"),
        ({"date": BERLIN_DAYS.tz_convert("UTC")}, ["--frequency", "D"], "as in --zone Europe/Berlin"),
        ({"date": BERLIN_DAYS.tz_convert("UTC")}, ["--zone", "Asia/Tokyo"], "by the clock of Asia/Tokyo"),
        ({"date": pd.date_range("2024-01-01", periods=300, freq="B")}, [], "as in --frequency D"),
        ({}, ["--zone", "Berlin"], "--zone Berlin: give a name"),
        ({}, ["--frequency", "3h"], "not all at steps of --frequency 3h"),
        ({"date": [*HOURS, pd.Timestamp("2024-02-01 00:07")]}, [], "no steady step"),
        ({}, ["--lower", "none"], "--lower none: give a number, or auto"),
        ({}, ["--context", "4"], "--context 4 is too short for"),
        ({}, ["--finetune", "--context", "290"], "which --finetune needs"),
        ({}, ["--picture", "nowhere/forecast.png"], "there is no folder nowhere"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], words: list[str], says: str
) -> None:
    assert main(asked(written(tmp_path, **change), *words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "forecast.csv").exists()
