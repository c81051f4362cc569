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

from benchmarks import data
from benchmarks.data import PARTS, load
from benchmarks.data.files import REGISTRY, RawFile, Split
from darts_msft.datasets import load_sea_temperature

pytestmark = pytest.mark.usefixtures("only_given_places")

SMALL = RawFile("small.csv", "https://example.org/small", "h", 2, shape=(10, 2))
TOML = """
csv = "mine.csv"
time = "when"
frequency = "h"
season = 2
[split]
train = 6
validation = 2
test = 2
"""


def hourly(rows: int = 10, time: str = "when", start: str = "2024-03-01") -> pd.DataFrame:
    """Two variables that no standardisation maps onto one another."""
    stamps = pd.date_range(start, periods=rows, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    return pd.DataFrame({time: stamps, "a": np.arange(rows) ** 2.0, "b": 100.0 - np.arange(rows) % 3})


def put(frame: pd.DataFrame, folder: Path, name: str = "small.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / name, index=False)
    return folder / name


def described(folder: Path, frame: pd.DataFrame | None = None, toml: str = TOML) -> str:
    """The path of mine.toml, beside mine.csv."""
    put(hourly() if frame is None else frame, folder, "mine.csv")
    (folder / "mine.toml").write_text(toml)
    return str(folder / "mine.toml")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Loads "small", a file of this form in the temporary folder, with the frame in it where one is given."""

    def loaded(file: RawFile, frame: pd.DataFrame | None = None) -> Any:
        monkeypatch.setitem(REGISTRY["pf"], "small", (file, Split(6, 2, 2)))
        if frame is not None:
            put(frame, tmp_path, file.file)
        return load("small", "pf", tmp_path)

    return loaded


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
def test_lsf_splits_and_scales(ett_dir: Path, name: str, file: str, ends: tuple[int, ...]) -> None:
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


def test_the_bundled_series_needs_no_folder() -> None:
    loaded, series = load("sea_temperature", "pf"), load_sea_temperature()
    assert loaded.bounds == {"train": (0, 13474), "validation": (13474, 15400), "test": (15400, 19249)}
    assert loaded.times.equals(series.time_index)
    np.testing.assert_allclose(loaded.values, series.values(), rtol=1e-6)
    assert load("departures", "lsf").columns == ("EWR", "JFK", "LGA")


# ---- where a file lies, and whether it is the published one


def test_where_files_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Any) -> None:
    """The folder, then the environment's, then Darts' cache, which serves only what Darts has."""
    monkeypatch.setenv("DARTS_MSFT_DATA", str(tmp_path / "environment"))
    places = (tmp_path / "cache", tmp_path / "environment", tmp_path)
    for number, place in enumerate(places):
        put(hourly(time="date").assign(b=float(number)), place)
        assert small(replace(SMALL, loader="ETTh1Dataset")).values[0, 1] == number
    for place, number in zip(reversed(places[1:]), (1, 0), strict=True):
        (place / "small.csv").unlink()
        assert load("small", "pf", tmp_path).values[0, 1] == number
    with pytest.raises(FileNotFoundError, match=r"example\.org"):
        small(SMALL)
    with pytest.raises(FileNotFoundError, match="could not download"):  # the test run has no sockets
        load("ETTm2", "lsf", tmp_path)

    class Loader:
        def load(self) -> None:
            put(hourly(time="date").assign(b=9.0), tmp_path / "cache")

    (tmp_path / "cache" / "small.csv").unlink()
    monkeypatch.setattr(darts.datasets, "ETTh1Dataset", Loader)
    assert small(replace(SMALL, loader="ETTh1Dataset")).values[0, 1] == 9


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_changed_file_and_unknown_name_are_refused(tmp_path: Path, small: Any, kind: str) -> None:
    for name in ("weather", "my.toml"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            load(name, "lsf")
    path = put(hourly(time="date"), tmp_path)
    published = f"{kind}:{hashlib.new(kind, path.read_bytes()).hexdigest()}"
    assert small(replace(SMALL, digest=published)).file_hash == published
    path.write_text(path.read_text().replace("81.0", "80.0"))
    with pytest.raises(ValueError, match=published.partition(":")[2]):
        small(replace(SMALL, digest=published))
    with pytest.raises(ValueError, match=r"expected \(11, 2"):
        small(replace(SMALL, shape=(11, 2)))


# ---- forms of a file


def test_headerless_rows_are_counted_and_summed_over_the_hour(tmp_path: Path, small: Any) -> None:
    """The form of solar_AL.txt.gz."""
    cells = np.random.default_rng(0).random((60, 3)).round(3)
    with gzip.open(tmp_path / "small.txt.gz", "wt") as lines:
        csv.writer(lines).writerows(cells)
    loaded = small(replace(REGISTRY["pf"]["Solar"][0], file="small.txt.gz", digest=None, shape=(10, 3), season=2))
    expected = [[sum(cells[6 * hour + step, plant] for step in range(6)) for plant in range(3)] for hour in range(10)]
    np.testing.assert_allclose(loaded.values, expected, rtol=1e-6)
    assert (str(loaded.times[0]), str(loaded.times[-1])) == ("2006-01-01 00:00:00", "2006-01-01 09:00:00")


def test_minutes_become_the_mean_of_the_hour(small: Any) -> None:
    """The form of istanbul_traffic.csv, whose minutes need not be complete; its hours do."""
    stamps = pd.date_range("2022-01-01 00:00", periods=600, freq="min").delete([3, 4, 130])
    values = np.random.default_rng(0).random(len(stamps))
    frame = pd.DataFrame({"datetime": stamps, "TI": values})
    file = replace(REGISTRY["pf"]["IstanbulTraffic"][0], shape=(10, 1), season=2)
    expected = [[np.mean([v for s, v in zip(stamps, values, strict=True) if s.hour == hour])] for hour in range(10)]
    np.testing.assert_allclose(small(file, frame).values, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="step 5"):
        small(file, frame[stamps.hour != 4])


def test_the_value_before_takes_the_place_of_a_mark(small: Any) -> None:
    frame, file = hourly(time="date"), replace(SMALL, missing=-9999.0)
    frame.loc[[3, 4, 8], "b"] = -9999
    b = [100 - row % 3 for row in range(10)]
    assert small(file, frame).values[:, 1].tolist() == [*b[:3], b[2], b[2], *b[5:8], b[7], b[9]]
    frame.loc[0, "b"] = -9999  # nothing is before it
    with pytest.raises(ValueError, match="step 1:"):
        small(file, frame)


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
    with pytest.raises(ValueError, match="expected 00ff"):
        load(described(tmp_path, toml=f"sha256 = '00ff'{TOML}"), "pf")


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (".toml", "season = 2", "season = 0", "season=0"),
        (".toml", "season = 2", "seasons = 2", "seasons"),
        (".toml", "season = 2", "season = 6", "6 training steps"),
        (".toml", "mine.csv", "yours.csv", r"yours\.csv"),
        (".toml", r"\[split]", "targets = ['c']\n[split]", "'c'"),
        (".toml", '"h"', '"hour by hour"', "can't be read: .*hour by hour"),
        (".toml", "train = 6", "train = 7", "does not fit 10 steps"),
        (".toml", "test = 2", "tests = 2", "tests"),
        (".toml", "(?s)train.*", "train = 0.6\nvalidation = 0.2\ntest = 0.1", "make 1"),
        (".csv", r"(?m),[\d.]+$", ",3.3", "'b' of mine never changes"),
        (".csv", ",16.0,", ",,", "no finite number in column 'a', step 5"),
        (".csv", ",16.0,", ",n/k,", "n/k"),
        (".csv", "2024-03-01 05:00:00", "2024-03-01 04:00:00", "step 6 .* expected 2024-03-01 05:00:00"),
        (".csv", "2024-03-01 05:00:00", "noon", "can't be read: .*noon"),
        (".csv", "when,a", "when,\udce4", "utf-8"),
    ],
)
def test_what_cannot_be_read_safely_is_refused(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    toml = Path(described(tmp_path))
    changed, count = re.subn(old, new, toml.with_suffix(file).read_text(), count=0 if "$" in old else 1)
    toml.with_suffix(file).write_text(changed, errors="surrogateescape")
    assert count
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(str(toml), "lsf")


def test_the_example_of_the_documentation_is_allowed(tmp_path: Path) -> None:
    """Its times have a form of their own."""
    lines = [line.strip() for line in str(data.__doc__).splitlines() if line.startswith("    ")]
    frame = hourly(50, "date").rename(columns={"a": "shop_1", "b": "shop_2"})
    frame["date"] = pd.to_datetime(frame["date"]).dt.strftime("%d.%m.%Y %H:%M")
    path = put(frame, tmp_path, "sales.csv")
    (tmp_path / "sales.toml").write_text("\n".join(lines).replace('"..."', f'"{sha256(path)}"'))
    loaded = load(str(tmp_path / "sales.toml"), "lsf")
    assert (loaded.bounds["test"], str(loaded.times[-1])) == ((40, 50), "2024-03-03 01:00:00")


# ---- the data set


def test_series_and_windows_of_a_part(tmp_path: Path) -> None:
    loaded = load(described(tmp_path), "pf")
    series = loaded.series("test", look_back=3)
    assert [str(stamp) for stamp in series.time_index] == [f"2024-03-01 0{hour}:00:00" for hour in range(5, 10)]
    np.testing.assert_array_equal(series.values(), loaded.values[5:])
    joined = np.concatenate([loaded.series(part).values() for part in PARTS])
    np.testing.assert_array_equal(joined, loaded.values)
    assert list(loaded.starts("train", 3, 1)) == [0, 1, 2, 3]
    assert list(loaded.starts("train", 2, 2)) == [0, 2, 4]
    assert list(loaded.starts("test", 2, 5)) == [8]
    with pytest.raises(ValueError, match="horizon=3"):
        loaded.starts("validation", 3, 1)
    for part, look_back in (("validation", 7), ("train", 1), ("test", -1)):
        with pytest.raises(ValueError, match=f"look_back={look_back} .* {part}"):
            loaded.series(part, look_back)


def test_hash_tells_apart_what_gives_other_results(tmp_path: Path) -> None:
    def hash_of(family: str = "pf", **changes: Any) -> str:
        return load(described(tmp_path, **changes), family).hash

    others = [
        hash_of(toml=TOML.replace("train = 6\nvalidation = 2", "train = 5\nvalidation = 3")),
        hash_of(toml=TOML.replace("season = 2", "season = 3")),
        hash_of(frame=hourly(start="2024-03-02")),
        hash_of(frame=hourly().assign(b=1.0)),
        hash_of("lsf"),
    ]
    assert len({hash_of(), hash_of(), *others}) == 6
