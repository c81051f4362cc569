"""Raw files: which place serves them, hashes, every form that is read, and every refusal."""

from __future__ import annotations

import csv
import gzip
import hashlib
import logging
import re
from dataclasses import replace
from pathlib import Path

import darts.datasets
import numpy as np
import pandas as pd
import pytest
from small_datasets import SMALL, TOML, described, hourly, put, register, sha256

from benchmarks.data import registry
from benchmarks.data.datasets import load, prediction_length

pytestmark = pytest.mark.usefixtures("only_given_places")


# ------------------------------------------------------------------------------------------------------- finding a file


def test_the_first_place_that_has_the_file_serves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, replace(SMALL, loader="ETTh1Dataset"))
    monkeypatch.setenv("DARTS_MSFT_DATA", str(tmp_path / "environment"))
    for number, place in enumerate(("cache", "environment", "given")):
        put(hourly() + pd.DataFrame({"date": [""] * 10, "a": 0.0, "b": float(number)}), tmp_path / place)
        assert load("small", "pf", tmp_path / "given").values[0, 1] == 100 + number
    assert load("small", "pf").values[0, 1] == 101
    monkeypatch.delenv("DARTS_MSFT_DATA")
    assert load("small", "pf").values[0, 1] == 100


def test_darts_cache_serves_no_file_that_darts_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weather.csv is another one."""
    register(monkeypatch, SMALL)
    put(hourly(), tmp_path / "cache")
    with pytest.raises(
        FileNotFoundError, match=r"small\.csv has no folder .* https://example\.org/small.*DARTS_MSFT_DATA"
    ):
        load("small", "pf")


def test_missing_file_says_where_it_was_looked_for_and_where_it_is(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"{re.escape(str(tmp_path))}.*get it from https://www\.kaggle\.com.*turkey"
    ):
        load("TurkeyPower", "pf", tmp_path)


def test_failed_download_is_told_with_the_remedy(tmp_path: Path) -> None:
    """The test run has no sockets, so Darts' download fails here as it does offline."""
    with pytest.raises(FileNotFoundError, match=r"ETTm2\.csv is not in .*could not download.*github\.com/zhouhaoyi"):
        load("ETTm2", "lsf", tmp_path)


def test_downloaded_file_is_read_from_darts_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Loader:
        def load(self) -> None:
            put(hourly(), tmp_path / "cache")

    monkeypatch.setattr(darts.datasets, "ETTh1Dataset", Loader)
    register(monkeypatch, replace(SMALL, loader="ETTh1Dataset"))
    np.testing.assert_array_equal(load("small", "pf").values[:, 0], np.arange(10) ** 2)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_changed_file_is_refused_with_both_sums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = put(hourly(), tmp_path)
    published = hashlib.new(kind, path.read_bytes()).hexdigest()
    register(monkeypatch, replace(SMALL, digest=f"{kind}:{published}"))
    assert load("small", "pf", tmp_path).file_hash == f"{kind}:{published}"
    path.write_text(path.read_text().replace("81.0", "80.0"))
    found = hashlib.new(kind, path.read_bytes()).hexdigest()
    with pytest.raises(
        ValueError, match=rf"{kind.upper()} sum is {found}, expected {published}; get it .*example\.org"
    ):
        load("small", "pf", tmp_path)


def test_file_without_a_known_hash_is_taken_and_its_own_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    register(monkeypatch, SMALL)
    path = put(hourly(), tmp_path)
    with caplog.at_level(logging.WARNING, logger="benchmarks.data.reading"):
        assert load("small", "pf", tmp_path).file_hash == f"sha256:{sha256(path)}"
    assert sha256(path) in caplog.text


def test_file_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, replace(SMALL, shape=(11, 2)))
    put(hourly(), tmp_path)
    with pytest.raises(ValueError, match="has 10 steps of 2 variables, expected 11 of 2; get it anew"):
        load("small", "pf", tmp_path)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'weather' is no data set of the family 'lsf'; choose one of ETTh1.*\.toml"):
        load("weather", "lsf")
    with pytest.raises(ValueError, match="family='LSF' is not known; choose one of lsf, pf"):
        load("ETTh1", "LSF")
    with pytest.raises(ValueError, match="'Weather' is no data set of the family 'pf'"):
        prediction_length("Weather")


# ------------------------------------------------------------------------------------------------------ forms of a file


def test_headerless_rows_are_counted_and_summed_over_the_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of solar_AL.txt.gz."""
    cells = np.random.default_rng(0).random((60, 3)).round(3)
    with gzip.open(tmp_path / "small.txt.gz", "wt") as lines:
        csv.writer(lines).writerows(cells)
    solar = replace(registry.LAI_SOLAR, name="small.txt.gz", digest=None, shape=(10, 3), season=2)
    register(monkeypatch, solar)
    loaded = load("small", "pf", tmp_path)
    expected = [[sum(cells[6 * hour + step, plant] for step in range(6)) for plant in range(3)] for hour in range(10)]
    np.testing.assert_allclose(loaded.values, expected, rtol=1e-6)
    assert (str(loaded.times[0]), str(loaded.times[-1])) == ("2006-01-01 00:00:00", "2006-01-01 09:00:00")
    assert loaded.columns == ("0", "1", "2")


def test_minutes_become_the_mean_of_the_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of istanbul_traffic.csv, whose minutes need not be complete."""
    stamps = pd.date_range("2022-01-01 00:00", periods=600, freq="min").delete([3, 4, 130])
    values = np.random.default_rng(0).random(len(stamps))
    put(pd.DataFrame({"datetime": stamps, "TI": values}), tmp_path, "istanbul_traffic.csv")
    register(monkeypatch, replace(registry.ISTANBUL, shape=(10, 1), season=2))
    expected = [[np.mean([v for s, v in zip(stamps, values, strict=True) if s.hour == hour])] for hour in range(10)]
    np.testing.assert_allclose(load("small", "pf", tmp_path).values, expected, rtol=1e-6)


def test_hour_without_a_minute_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = pd.date_range("2022-01-01 00:00", periods=600, freq="min")
    stamps = stamps[stamps.hour != 4]
    put(pd.DataFrame({"datetime": stamps, "TI": 1.0}), tmp_path, "istanbul_traffic.csv")
    register(monkeypatch, replace(registry.ISTANBUL, shape=(10, 1), season=2))
    with pytest.raises(ValueError, match=r"no finite value of 'TI' at 2022-01-01 04:00:00, the first of 1"):
        load("small", "pf", tmp_path)


def test_day_before_month_is_read_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of Turkey Power: 02.01.2020 is in January."""
    frame = pd.DataFrame(
        {"Date_Time": pd.date_range("2020-01-01 20:00", periods=10, freq="h"), "Total (MWh)": range(10)}
    )
    put(frame, tmp_path, registry.TURKEY.name, date_format="%d.%m.%Y %H:%M")
    register(monkeypatch, replace(registry.TURKEY, shape=(10, 1), season=2))
    assert str(load("small", "pf", tmp_path).times[-1]) == "2020-01-02 05:00:00"


def test_rows_of_weather_follow_one_another_whatever_their_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = hourly(12, start="2020-01-01 00:10").drop(index=[4, 5])
    frame.loc[8, "date"] = frame.loc[7, "date"]
    put(frame, tmp_path, "weather.csv")
    register(monkeypatch, replace(registry.WEATHER, digest=None, shape=(10, 2), season=2))
    loaded = load("small", "pf", tmp_path)
    assert str(loaded.times[-1]) == "2020-01-01 01:40:00"
    np.testing.assert_array_equal(loaded.values[:, 0], [n**2 for n in range(12) if n not in (4, 5)])


# --------------------------------------------------------------------------------------------------------- a user's CSV


def test_toml_describes_a_csv_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = described(tmp_path / "of mine")
    monkeypatch.chdir(tmp_path)
    loaded = load(toml, "pf")
    np.testing.assert_array_equal(loaded.values, hourly().iloc[:, 1:].to_numpy(np.float32))
    assert (loaded.name, loaded.family, loaded.frequency, loaded.season) == ("mine", "pf", "h", 2)
    assert loaded.columns == ("a", "b")
    assert loaded.bounds == {"train": (0, 6), "validation": (6, 8), "test": (8, 10)}
    assert loaded.file_hash == f"sha256:{sha256(tmp_path / 'of mine' / 'mine.csv')}"
    training = hourly()["a"].to_numpy()[:6]
    standardised = load("of mine/mine.toml", "lsf").values[:, 0]
    np.testing.assert_allclose(standardised, (np.arange(10) ** 2 - training.mean()) / training.std(), rtol=1e-6)


def test_targets_are_taken_in_their_order_and_shares_rounded_down(tmp_path: Path) -> None:
    frame = hourly(19, time="when").assign(note="free text")
    shares = "targets = ['b', 'a']\n[split]\ntrain = 0.6\nvalidation = 0.2\ntest = 0.2\n"
    loaded = load(described(tmp_path, frame, TOML.partition("[split]")[0] + shares), "pf")
    np.testing.assert_array_equal(loaded.values, frame[["b", "a"]].to_numpy(np.float32))
    assert loaded.bounds == {"train": (0, 11), "validation": (11, 16), "test": (16, 19)}


def test_times_in_another_form_and_with_a_zone(tmp_path: Path) -> None:
    frame = hourly(time="when")
    frame["when"] = pd.date_range("2024-02-28 22:00", periods=10, freq="h").strftime("%d/%m/%Y %Hh")
    assert (
        str(load(described(tmp_path, frame, f"time_format = '%d/%m/%Y %Hh'{TOML}"), "pf").times[9])
        == "2024-02-29 07:00:00"
    )
    frame["when"] = pd.date_range("2024-03-31", periods=10, freq="h", tz="Europe/Berlin").map(pd.Timestamp.isoformat)
    times = load(described(tmp_path, frame), "pf").times
    assert times.tz is None
    assert str(times[0]) == "2024-03-30 23:00:00"


def test_months_are_a_frequency(tmp_path: Path) -> None:
    frame = hourly(time="when")
    frame["when"] = pd.date_range("2024-01-01", periods=10, freq="MS").strftime("%Y-%m-%d")
    loaded = load(described(tmp_path, frame, TOML.replace('"h"', '"MS"')), "pf")
    assert loaded.series("test").freq_str == "MS"


def test_given_hash_is_checked(tmp_path: Path) -> None:
    found = sha256(Path(described(tmp_path)).with_name("mine.csv"))
    assert load(described(tmp_path, toml=f"sha256 = '{found.upper()}'{TOML}"), "pf").file_hash == f"sha256:{found}"
    with pytest.raises(ValueError, match=rf"SHA256 sum is {found}, expected 00ff; .*correct sha256 in .*mine\.toml"):
        load(described(tmp_path, toml=f"sha256 = '00ff'{TOML}"), "pf")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("season", "seasons", r"mine\.toml has the unknown key 'seasons'; it may have csv, time, frequency, season"),
        ("season = 2\n", "", r"mine\.toml lacks 'season'; it needs csv"),
        ("season = 2", "season = '2'", r"season='2', a str"),
        ("season = 2", "season = true", r"season=True, a bool"),
        ("season = 2", "season = 0", r"season=0 is not allowed; give at least 1"),
        ("season = 2", "season = 6", r"season=6 is not allowed with 6 training steps"),
        ("season = 2", "season =", r"is no TOML: .*the head of benchmarks/datasets\.py"),
        ('"mine.csv"', '"other.csv"', r"other\.csv, which .*mine\.toml names, does not exist; give csv relative"),
        ("[split]", "targets = []\n[split]", r"targets=\[\] is not allowed"),
        ("[split]", "targets = ['a', 'a']\n[split]", r"targets=\['a', 'a'\] is not allowed"),
        ("[split]", "targets = ['when']\n[split]", r"targets=\['when'\] is not allowed; name columns other than"),
        ("[split]", "targets = ['c']\n[split]", r"no column 'c'; it has when, a, b"),
        ('"when"', '"date"', r"no time column 'date'; it has when, a, b"),
        ('"h"', '"hour by hour"', r"frequency='hour by hour' is not allowed .*give a pandas alias"),
        ('"h"', '"2h"', r"step 2 is at 2024-03-01 01:00:00, expected 2024-03-01 02:00:00 at the frequency '2h'"),
        (
            "train = 6",
            "train = 0.6",
            r"\[split\] of .* has 0\.6, 2, 2; give three shares that make 1, or three numbers",
        ),
        ("train = 6", "train = 7", r"Split\(train=7, validation=2, test=2\) does not fit 10 steps"),
        ("test = 2", "test = 0", r"\[split\] of .* has 6, 2, 0; "),
        ("test = 2", "tests = 2", r"\[split\] of .* has the unknown key 'tests'; it may have train, validation, test"),
        ("train = 6\n", "", r"\[split\] of .* lacks 'train'"),
        ("train = 6\nvalidation = 2\ntest = 2", "train = 0.6\nvalidation = 0.2\ntest = 0.1", r"0\.6, 0\.2, 0\.1; give"),
        (
            "train = 6\nvalidation = 2\ntest = 2",
            "train = 0.96\nvalidation = 0.02\ntest = 0.02",
            "does not fit 10 steps",
        ),
    ],
)
def test_wrong_toml_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(described(tmp_path, toml=TOML.replace(old, new, 1)), "pf")


def test_missing_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.toml does not exist; give the path of a \.toml, or one of"):
        load(str(tmp_path / "none.toml"), "pf")


@pytest.mark.parametrize(
    ("row", "column", "cell", "message"),
    [
        (4, "b", None, r"no finite value of 'b' at 2024-03-01 04:00:00, the first of 1; fill them"),
        (7, "a", "inf", r"no finite value of 'a' at 2024-03-01 07:00:00"),
        (2, "a", "n/k", r"has 'n/k' in column 'a', data row 3; only numbers are allowed"),
        (5, "when", "soon", r"the time 'soon' in data row 6, expected the form 'ISO8601'; .*time_format"),
        (5, "when", None, r"the time nan in data row 6"),
        (5, "when", "2024-03-01 04:00:00", r"step 6 is at 2024-03-01 04:00:00, expected 2024-03-01 05:00:00"),
    ],
)
def test_cell_that_cannot_be_read_safely_is_refused(
    tmp_path: Path, row: int, column: str, cell: str | None, message: str
) -> None:
    frame = hourly(time="when").astype(object)
    frame.loc[row, column] = cell
    with pytest.raises(ValueError, match=message):
        load(described(tmp_path, frame), "pf")


def test_first_of_several_missing_values_is_the_earliest(tmp_path: Path) -> None:
    frame = hourly(time="when")
    frame.loc[6:, "a"] = np.nan
    frame.loc[3, "b"] = np.nan
    with pytest.raises(ValueError, match=r"'b' at 2024-03-01 03:00:00, the first of 5;"):
        load(described(tmp_path, frame), "pf")


@pytest.mark.parametrize(
    "rows", [[0, 1, 2, 4, 5, 6, 7, 8, 9], [1, 0, 2, 3, 4, 5, 6, 7, 8, 9], [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]]
)
def test_times_that_do_not_follow_one_another_are_refused(tmp_path: Path, rows: list[int]) -> None:
    with pytest.raises(ValueError, match=r"is not regular: step \d is at .* expected .*sort its rows"):
        load(described(tmp_path, hourly(time="when").iloc[rows]), "pf")


def test_files_without_a_table_are_refused(tmp_path: Path) -> None:
    toml = described(tmp_path)
    for content, message in (
        (b"", r"can't be read as CSV in UTF-8: .*save it as such"),
        (b"when,\xe4\n2024-03-01,1\n", r"can't be read as CSV in UTF-8"),
        (b"when,a\n", r"0 rows of 1 variables; at least one of each"),
        (b"when\n2024-03-01\n", r"1 rows of 0 variables"),
    ):
        (tmp_path / "mine.csv").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load(toml, "pf")


def test_variable_that_never_changes_cannot_be_standardised(tmp_path: Path) -> None:
    frame = hourly(time="when")
    frame.loc[:5, "b"] = 3.3
    with pytest.raises(ValueError, match=r"'b' of mine never changes in the training part.*take the family 'pf'"):
        load(described(tmp_path, frame), "lsf")
    assert load(described(tmp_path, frame), "pf").values[0, 1] == np.float32(3.3)


# ------------------------------------------------------------------------------------------------- marks of no value


def test_the_value_before_takes_the_place_of_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = hourly()
    frame.loc[[3, 4, 8], "b"] = -9999
    put(frame, tmp_path)
    register(monkeypatch, replace(SMALL, missing=-9999.0))
    b = [100 - row % 3 for row in range(10)]
    assert load("small", "pf", tmp_path).values[:, 1].tolist() == [*b[:3], b[2], b[2], *b[5:8], b[7], b[9]]
    register(monkeypatch, SMALL)
    assert load("small", "pf", tmp_path).values[3, 1] == -9999


def test_a_mark_with_nothing_before_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = hourly()
    frame.loc[0, "b"] = -9999
    put(frame, tmp_path)
    register(monkeypatch, replace(SMALL, missing=-9999.0))
    with pytest.raises(ValueError, match=r"no finite value of 'b' at 2024-03-01 00:00:00, the first of 1"):
        load("small", "pf", tmp_path)
