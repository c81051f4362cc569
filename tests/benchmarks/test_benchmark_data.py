"""The benchmark data: published files against the csv module, every form of a file, and every refusal."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import darts.datasets
import numpy as np
import pandas as pd
import pytest
from small_datasets import SMALL, TOML, described, hourly, put, register, sha256

from benchmarks import data
from benchmarks.data import PARTS, Dataset, load
from benchmarks.data.files import REGISTRY
from darts_msft.datasets import load_sea_temperature

pytestmark = pytest.mark.usefixtures("only_given_places")


# ---- the published files


def rows_of(folder: Path, name: str) -> tuple[list[str], list[list[str]]]:
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in {folder}")
    with (folder / name).open(encoding="utf-8") as lines:
        header, *rows = csv.reader(lines)
    return header, rows


@pytest.mark.parametrize(
    ("name", "file", "ends"),
    [("ETTh1", "ETTh1.csv", (8640, 11520, 14400)), ("Weather", "weather.csv", (36887, 42157, 52696))],
)
def test_lsf_has_the_splits_of_the_literature_and_training_statistics(
    ett_dir: Path, name: str, file: str, ends: tuple[int, ...]
) -> None:
    header, rows = rows_of(ett_dir, file)
    loaded, raw = load(name, "lsf", ett_dir), np.array([row[1:] for row in rows], dtype=np.float64)
    assert loaded.bounds == {"train": (0, ends[0]), "validation": ends[:2], "test": ends[1:]}
    assert loaded.columns == tuple(header[1:])
    assert len(loaded.times) == len(loaded.values) == ends[2]
    mean = raw[: ends[0]].sum(axis=0) / ends[0]
    deviation = np.sqrt(((raw[: ends[0]] - mean) ** 2).sum(axis=0) / ends[0])
    np.testing.assert_allclose(loaded.values, (raw[: ends[2]] - mean) / deviation, rtol=1e-5, atol=1e-5)
    assert str(loaded.times[0]) == rows[0][0]
    if name != "Weather":  # whose rows are counted
        assert [str(stamp) for stamp in loaded.times] == [row[0] for row in rows[: ends[2]]]


def test_jena_weather_ends_in_twice_seven_days_of_raw_values(ett_dir: Path) -> None:
    """Where the station writes -9999, the value before stands."""
    raw = np.array([row[1:] for row in rows_of(ett_dir, "weather.csv")[1]], dtype=np.float32)
    loaded = load("JenaWeather", "pf", ett_dir)
    assert (raw == -9999).sum() == 81
    for step, variable in zip(*np.nonzero(raw == -9999), strict=True):  # in time order, so a run is filled step by step
        raw[step, variable] = raw[step - 1, variable]
    np.testing.assert_array_equal(loaded.values, raw)
    assert loaded.season == 144
    assert list(loaded.starts("test", 144, 144)) == [52696 - 144 * days for days in range(7, 0, -1)]
    assert list(loaded.starts("validation", 144, 144)) == [52696 - 144 * days for days in range(14, 7, -1)]
    assert loaded.file_hash == f"sha256:{sha256(ett_dir / 'weather.csv')}"


@pytest.mark.parametrize("family", ["lsf", "pf"])
def test_the_bundled_series_needs_no_folder(family: str) -> None:
    loaded, series = load("sea_temperature", family), load_sea_temperature()
    assert loaded.bounds == {"train": (0, 13474), "validation": (13474, 15400), "test": (15400, 19249)}
    assert (loaded.season, loaded.columns) == (48, ("sea_temperature",))
    assert loaded.times.equals(series.time_index)
    values = series.values()
    expected = (values - values[:13474].mean(dtype=np.float64)) / values[:13474].std(dtype=np.float64)
    np.testing.assert_allclose(loaded.values, expected if family == "lsf" else values, rtol=1e-5, atol=1e-5)


def test_the_registry_has_the_paper_s_data_sets_and_says_where_each_is() -> None:
    assert set(REGISTRY["lsf"]) >= {"ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Electricity"}
    assert set(REGISTRY["pf"]) >= {"Electricity", "Solar", "TurkeyPower", "IstanbulTraffic", "JenaWeather"}
    for family, entries in REGISTRY.items():
        for name, (file, split) in entries.items():
            assert file.bundled or file.where.startswith("https://"), name
            assert file.digest is None or re.fullmatch(r"md5:\w{32}|sha256:\w{64}", file.digest), name
            ends = split.ends(file.shape[0])
            if family == "pf" and name != "sea_temperature":
                assert ends[1] - ends[0] == ends[2] - ends[1] == 7 * file.season, name


# ---- where a file lies, and whether it is the published one


def test_the_first_place_that_has_the_file_serves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, replace(SMALL, loader="ETTh1Dataset"))
    monkeypatch.setenv("DARTS_MSFT_DATA", str(tmp_path / "environment"))
    for number, place in enumerate(("cache", "environment", "given")):
        put(hourly() + pd.DataFrame({"date": [""] * 10, "a": 0.0, "b": float(number)}), tmp_path / place)
        assert load("small", "pf", tmp_path / "given").values[0, 1] == 100 + number
    assert load("small", "pf").values[0, 1] == 101
    monkeypatch.delenv("DARTS_MSFT_DATA")
    assert load("small", "pf").values[0, 1] == 100
    register(monkeypatch, SMALL)  # Darts' cache serves no file that Darts doesn't have
    with pytest.raises(FileNotFoundError, match=r"small\.csv .* https://example\.org/small.*DARTS_MSFT_DATA"):
        load("small", "pf")


def test_a_download_is_read_from_darts_cache_and_its_failure_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test run has no sockets, so Darts' own download fails here as it does offline."""
    with pytest.raises(FileNotFoundError, match=r"ETTm2\.csv is not in .*could not download.*github\.com/zhouhaoyi"):
        load("ETTm2", "lsf", tmp_path)

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
    register(monkeypatch, replace(SMALL, shape=(11, 2)))
    with pytest.raises(ValueError, match="has 10 steps of 2 variables, expected 11 of 2; get it anew"):
        load("small", "pf", tmp_path)


def test_unknown_names_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'weather' is no data set of the family 'lsf'; choose one of ETTh1.*\.toml"):
        load("weather", "lsf")
    with pytest.raises(ValueError, match="family='LSF' is not known; choose one of lsf, pf"):
        load("ETTh1", "LSF")


# ---- forms of a file


def test_headerless_rows_are_counted_and_summed_over_the_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of solar_AL.txt.gz."""
    cells = np.random.default_rng(0).random((60, 3)).round(3)
    with gzip.open(tmp_path / "small.txt.gz", "wt") as lines:
        csv.writer(lines).writerows(cells)
    solar, _ = REGISTRY["pf"]["Solar"]
    register(monkeypatch, replace(solar, file="small.txt.gz", digest=None, shape=(10, 3), season=2))
    loaded = load("small", "pf", tmp_path)
    expected = [[sum(cells[6 * hour + step, plant] for step in range(6)) for plant in range(3)] for hour in range(10)]
    np.testing.assert_allclose(loaded.values, expected, rtol=1e-6)
    assert (str(loaded.times[0]), str(loaded.times[-1])) == ("2006-01-01 00:00:00", "2006-01-01 09:00:00")


def test_minutes_become_the_mean_of_the_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of istanbul_traffic.csv, whose minutes need not be complete; its hours do."""
    stamps = pd.date_range("2022-01-01 00:00", periods=600, freq="min").delete([3, 4, 130])
    values = np.random.default_rng(0).random(len(stamps))
    frame = pd.DataFrame({"datetime": stamps, "TI": values})
    register(monkeypatch, replace(REGISTRY["pf"]["IstanbulTraffic"][0], shape=(10, 1), season=2))
    put(frame, tmp_path, "istanbul_traffic.csv")
    expected = [[np.mean([v for s, v in zip(stamps, values, strict=True) if s.hour == hour])] for hour in range(10)]
    np.testing.assert_allclose(load("small", "pf", tmp_path).values, expected, rtol=1e-6)
    put(frame[stamps.hour != 4], tmp_path, "istanbul_traffic.csv")
    with pytest.raises(ValueError, match=r"has .*nan.* in column 'TI', data row 5, which is not finite"):
        load("small", "pf", tmp_path)


def test_rows_of_weather_follow_one_another_whatever_their_stamps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = hourly(12, start="2020-01-01 00:10").drop(index=[4, 5])
    frame.loc[8, "date"] = frame.loc[7, "date"]
    put(frame, tmp_path, "weather.csv")
    register(monkeypatch, replace(REGISTRY["lsf"]["Weather"][0], digest=None, shape=(10, 2), season=2))
    loaded = load("small", "pf", tmp_path)
    assert str(loaded.times[-1]) == "2020-01-01 01:40:00"
    np.testing.assert_array_equal(loaded.values[:, 0], [n**2 for n in range(12) if n not in (4, 5)])


def test_the_value_before_takes_the_place_of_a_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = hourly()
    frame.loc[[3, 4, 8], "b"] = -9999
    put(frame, tmp_path)
    register(monkeypatch, replace(SMALL, missing=-9999.0))
    b = [100 - row % 3 for row in range(10)]
    assert load("small", "pf", tmp_path).values[:, 1].tolist() == [*b[:3], b[2], b[2], *b[5:8], b[7], b[9]]
    frame.loc[0, "b"] = -9999  # nothing is before it
    put(frame, tmp_path)
    with pytest.raises(ValueError, match=r"in column 'b', data row 1, which is not finite"):
        load("small", "pf", tmp_path)


# ---- a user's own


def test_toml_describes_a_csv_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml = described(tmp_path / "of mine")
    monkeypatch.chdir(tmp_path)
    loaded = load(toml, "pf")
    np.testing.assert_array_equal(loaded.values, hourly().iloc[:, 1:].to_numpy(np.float32))
    assert (loaded.name, loaded.family, loaded.frequency, loaded.season) == ("mine", "pf", "h", 2)
    assert loaded.columns == ("a", "b")
    assert loaded.bounds == {"train": (0, 6), "validation": (6, 8), "test": (8, 10)}
    found = sha256(tmp_path / "of mine" / "mine.csv")
    assert loaded.file_hash == f"sha256:{found}"
    training = hourly()["a"].to_numpy()[:6]
    standardised = load("of mine/mine.toml", "lsf").values[:, 0]
    np.testing.assert_allclose(standardised, (np.arange(10) ** 2 - training.mean()) / training.std(), rtol=1e-6)
    assert load(described(tmp_path, toml=f"sha256 = '{found.upper()}'{TOML}"), "pf").file_hash == f"sha256:{found}"
    with pytest.raises(ValueError, match=rf"SHA256 sum is {found}, expected 00ff; .*correct sha256 in .*mine\.toml"):
        load(described(tmp_path, toml=f"sha256 = '00ff'{TOML}"), "pf")


def test_targets_are_taken_in_their_order_and_shares_rounded_down(tmp_path: Path) -> None:
    frame = hourly(19, time="when").assign(note="free text")
    shares = "targets = ['b', 'a']\n[split]\ntrain = 0.6\nvalidation = 0.2\ntest = 0.2\n"
    loaded = load(described(tmp_path, frame, TOML.partition("[split]")[0] + shares), "pf")
    np.testing.assert_array_equal(loaded.values, frame[["b", "a"]].to_numpy(np.float32))
    assert loaded.bounds == {"train": (0, 11), "validation": (11, 16), "test": (16, 19)}


def test_times_in_another_form_with_a_zone_and_of_months(tmp_path: Path) -> None:
    frame = hourly(time="when")
    frame["when"] = pd.date_range("2024-02-28 22:00", periods=10, freq="h").strftime("%d/%m/%Y %Hh")
    other = load(described(tmp_path, frame, f"time_format = '%d/%m/%Y %Hh'{TOML}"), "pf")
    assert str(other.times[9]) == "2024-02-29 07:00:00"
    frame["when"] = pd.date_range("2024-03-31", periods=10, freq="h", tz="Europe/Berlin").map(pd.Timestamp.isoformat)
    times = load(described(tmp_path, frame), "pf").times
    assert times.tz is None
    assert str(times[0]) == "2024-03-30 23:00:00"
    frame["when"] = pd.date_range("2024-01-01", periods=10, freq="MS").strftime("%Y-%m-%d")
    assert load(described(tmp_path, frame, TOML.replace('"h"', '"MS"')), "pf").series("test").freq_str == "MS"


PARTS_OF_TOML = "train = 6\nvalidation = 2\ntest = 2"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("season = 2", "season =", r"is no TOML"),
        ("season = 2", "season = 0", r"season = 0; give at least 1"),
        ("season = 2", "season = 'day'", r"season = 'day'"),
        ("season = 2", "seasons = 2", r"seasons = 2; it may have csv, time"),
        ("season = 2\n", "", r"lacks 'season'"),
        ("season = 2", "season = 6", r"season=6 is not allowed with 6 training steps"),
        ('"mine.csv"', '"yours.csv"', r"yours\.csv, which .* names, does not exist"),
        ("[split]", "targets = []\n[split]", r"targets = \[\]; name columns"),
        ("[split]", "targets = ['a', 'a']\n[split]", r"each once"),
        ("[split]", "targets = ['when']\n[split]", r"name columns other than the time's"),
        ("[split]", "targets = ['c']\n[split]", r"no column 'c'; it has when, a, b"),
        ('"when"', '"date"', r"no column 'date'; it has when, a, b"),
        ('"h"', '"hour by hour"', r"frequency='hour by hour' is not allowed .*give a pandas alias"),
        ('"h"', '"2h"', r"step 2 is at 2024-03-01 01:00:00, expected 2024-03-01 02:00:00 at the frequency '2h'"),
        ("train = 6", "train = 0.6", r"\[split\] .*0\.6.* shares that make 1 or numbers of steps"),
        ("train = 6", "train = 7", r"Split\(train=7, validation=2, test=2\) does not fit 10 steps"),
        ("test = 2", "test = 0", r"\[split\] .* over 0"),
        ("test = 2", "tests = 2", r"\[split\] .* give train, validation and test"),
        (PARTS_OF_TOML, "train = 0.6\nvalidation = 0.2\ntest = 0.1", r"\[split\] .* shares that make 1"),
        (PARTS_OF_TOML, "train = 0.96\nvalidation = 0.02\ntest = 0.02", "does not fit 10 steps"),
    ],
)
def test_wrong_toml_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TOML
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(described(tmp_path, toml=TOML.replace(old, new, 1)), "pf")


@pytest.mark.parametrize(
    ("row", "column", "cell", "message"),
    [
        (4, "b", None, r"has .*nan.* in column 'b', data row 5, which is not finite: fill it"),
        (7, "a", "inf", r"has .*inf.* in column 'a', data row 8, which is not finite"),
        (2, "a", "n/k", r"has 'n/k' in column 'a', data row 3, which is no number"),
        (5, "when", "soon", r"has 'soon' in column 'when', data row 6, which is not of the form 'ISO8601'"),
        (5, "when", None, r"has nan in column 'when', data row 6"),
        (5, "when", "2024-03-01 04:00:00", r"step 6 is at 2024-03-01 04:00:00, expected 2024-03-01 05:00:00"),
        (5, "when", "2024-03-01 06:00:00", r"step 6 is at 2024-03-01 06:00:00, expected .*sort its rows"),
    ],
)
def test_cell_that_cannot_be_read_safely_is_refused(
    tmp_path: Path, row: int, column: str, cell: str | None, message: str
) -> None:
    frame = hourly(time="when").astype(object)
    frame.loc[row, column] = cell
    with pytest.raises(ValueError, match=message):
        load(described(tmp_path, frame), "pf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"can't be read as CSV in UTF-8: .*save it as such"),
        (b"when,\xe4\n2024-03-01,1\n", r"can't be read as CSV in UTF-8"),
        (b"when,a\n", r"0 rows of 1 variables; at least one of each"),
        (b"when\n2024-03-01\n", r"1 rows of 0 variables"),
    ],
)
def test_files_without_a_table_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    toml = described(tmp_path)
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(toml, "pf")


def test_variable_that_never_changes_cannot_be_standardised(tmp_path: Path) -> None:
    frame = hourly(time="when")
    frame.loc[:5, "b"] = 3.3
    with pytest.raises(ValueError, match=r"'b' of mine never changes in the training part.*take the family 'pf'"):
        load(described(tmp_path, frame), "lsf")
    assert load(described(tmp_path, frame), "pf").values[0, 1] == np.float32(3.3)


def test_the_example_of_the_documentation_is_allowed(tmp_path: Path) -> None:
    lines = [line.strip() for line in str(data.__doc__).splitlines() if line.startswith("    ")]
    frame = hourly(50).rename(columns={"a": "shop_1", "b": "shop_2"})
    frame["date"] = pd.to_datetime(frame["date"]).dt.strftime("%d.%m.%Y %H:%M")
    path = put(frame, tmp_path, "sales.csv")
    (tmp_path / "sales.toml").write_text("\n".join(lines).replace('"..."', f'"{sha256(path)}"'))
    assert load(str(tmp_path / "sales.toml"), "lsf").bounds["test"] == (40, 50)


# ---- the data set


@pytest.fixture
def loaded(tmp_path: Path) -> Dataset:
    return load(described(tmp_path), "pf")


def test_series_and_windows_of_a_part(loaded: Dataset) -> None:
    series = loaded.series("test", look_back=3)
    assert [str(stamp) for stamp in series.time_index] == [f"2024-03-01 0{hour}:00:00" for hour in range(5, 10)]
    assert series.components.tolist() == ["a", "b"]
    np.testing.assert_array_equal(series.values(), loaded.values[5:])
    joined = np.concatenate([loaded.series(part).values() for part in PARTS])
    np.testing.assert_array_equal(joined, loaded.values)
    assert list(loaded.starts("train", 3, 1)) == [0, 1, 2, 3]
    assert list(loaded.starts("train", 2, 2)) == [0, 2, 4]
    assert list(loaded.starts("test", 2, 5)) == [8]
    with pytest.raises(ValueError, match="horizon=3 does not fit into the validation part of mine; take 1 to 2 steps"):
        loaded.starts("validation", 3, 1)
    for part, look_back in (("validation", 7), ("train", 1), ("test", -1)):
        with pytest.raises(ValueError, match=rf"look_back={look_back} is not allowed before the {part} part"):
            loaded.series(part, look_back)


def test_hash_tells_apart_what_gives_other_results(tmp_path: Path, loaded: Dataset) -> None:
    def hash_of(family: str = "pf", **changes: Any) -> str:
        return load(described(tmp_path, **changes), family).hash

    assert hash_of() == loaded.hash
    others = [
        hash_of(toml=TOML.replace("train = 6\nvalidation = 2", "train = 5\nvalidation = 3")),
        hash_of(toml=TOML.replace("season = 2", "season = 3")),
        hash_of(frame=hourly(time="when", start="2024-03-02")),
        hash_of(frame=hourly(time="when").assign(b=1.0)),
        hash_of("lsf"),
    ]
    assert len({loaded.hash, *others}) == 6
