"""The benchmark data sets against their files read without pandas; users' own; what a data set gives."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import darts.datasets
import numpy as np
import pandas as pd
import pytest
from small_datasets import TOML, described, hourly, put, sha256

from benchmarks.data import datasets
from benchmarks.data.datasets import PARTS, Dataset, known, load, prediction_length
from benchmarks.data.registry import REGISTRY
from darts_msft.datasets import load_sea_temperature

pytestmark = pytest.mark.usefixtures("only_given_places")


def rows_of(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8") as lines:
        header, *rows = csv.reader(lines)
    return header, rows


# -------------------------------------------------------------------------------------------------- the published files


@pytest.mark.parametrize(
    ("name", "file", "ends"),
    [
        ("ETTh1", "ETTh1.csv", (8640, 11520, 14400)),
        ("ETTm1", "ETTm1.csv", (34560, 46080, 57600)),
        ("Weather", "weather.csv", (36887, 42157, 52696)),
    ],
)
def test_lsf_has_the_splits_of_the_literature_and_training_statistics(
    ett_dir: Path, name: str, file: str, ends: tuple[int, ...]
) -> None:
    if not (ett_dir / file).is_file():
        pytest.skip(f"no {file} in {ett_dir}")
    loaded = load(name, "lsf", ett_dir)
    header, rows = rows_of(ett_dir / file)
    raw = np.array([row[1:] for row in rows], dtype=np.float64)
    assert loaded.bounds == {"train": (0, ends[0]), "validation": ends[:2], "test": ends[1:]}
    assert loaded.columns == tuple(header[1:])
    assert loaded.values.dtype == np.float32
    assert len(loaded.times) == len(loaded.values) == ends[2]
    mean = raw[: ends[0]].sum(axis=0) / ends[0]
    deviation = np.sqrt(((raw[: ends[0]] - mean) ** 2).sum(axis=0) / ends[0])
    np.testing.assert_allclose(loaded.values, (raw[: ends[2]] - mean) / deviation, rtol=1e-5, atol=1e-5)
    assert str(loaded.times[0]) == rows[0][0]
    if name != "Weather":
        assert [str(stamp) for stamp in loaded.times] == [row[0] for row in rows[: ends[2]]]


def test_jena_weather_ends_in_twice_seven_days_of_raw_values(ett_dir: Path) -> None:
    """Where the station writes -9999, the value before stands; "lsf" keeps the number, as the literature does."""
    if not (ett_dir / "weather.csv").is_file():
        pytest.skip(f"no weather.csv in {ett_dir}")
    loaded, horizon = load("JenaWeather", "pf", ett_dir), prediction_length("JenaWeather")
    raw = np.array([row[1:] for row in rows_of(ett_dir / "weather.csv")[1]], dtype=np.float32)
    assert (raw == -9999).sum() == 81
    standardised = load("Weather", "lsf", ett_dir).values
    assert (standardised.min(axis=0) < -10).sum() == (raw == -9999).any(axis=0).sum() == 3
    for step, variable in zip(*np.nonzero(raw == -9999), strict=True):  # in time order, so a run is filled step by step
        raw[step, variable] = raw[step - 1, variable]
    np.testing.assert_array_equal(loaded.values, raw)
    assert horizon == 144 == loaded.season
    assert list(loaded.starts("test", horizon, horizon)) == [52696 - 144 * days for days in range(7, 0, -1)]
    assert list(loaded.starts("validation", horizon, horizon)) == [52696 - 144 * days for days in range(14, 7, -1)]
    assert loaded.bounds["train"] == (0, 52696 - 144 * 14)
    assert loaded.file_hash == f"sha256:{sha256(ett_dir / 'weather.csv')}"


def test_ett_is_raw_and_whole_for_probabilistic_forecasts(ett_dir: Path) -> None:
    loaded = load("ETTh1", "pf", ett_dir)
    raw = np.array([row[1:] for row in rows_of(ett_dir / "ETTh1.csv")[1]], dtype=np.float32)
    np.testing.assert_array_equal(loaded.values, raw)
    assert loaded.bounds["test"] == (17420 - 7 * 24, 17420)
    assert loaded.file_hash == "md5:8381763947c85f4be6ac456c508460d6"


@pytest.mark.parametrize("family", ["lsf", "pf"])
def test_the_bundled_series_needs_no_folder(family: str) -> None:
    loaded, series = load("sea_temperature", family), load_sea_temperature()
    assert loaded.bounds == {"train": (0, 13474), "validation": (13474, 15400), "test": (15400, 19249)}
    assert (loaded.season, loaded.columns) == (48, ("sea_temperature",))
    assert loaded.times.equals(series.time_index)
    values = series.values()
    expected = (values - values[:13474].mean(dtype=np.float64)) / values[:13474].std(dtype=np.float64)
    np.testing.assert_allclose(loaded.values, expected if family == "lsf" else values, rtol=1e-5, atol=1e-5)
    assert prediction_length("sea_temperature") == 48


def test_the_registry_has_the_issues_data_sets_and_says_where_each_is() -> None:
    assert set(known("lsf")) >= {"ETTh1", "ETTh2", "ETTm1", "ETTm2", "Weather", "Electricity"}
    assert set(known("pf")) >= {"Electricity", "Solar", "TurkeyPower", "IstanbulTraffic", "JenaWeather"}
    for family, entries in REGISTRY.items():
        for name, entry in entries.items():
            assert entry.file.bundled or entry.file.where.startswith("https://"), name
            assert entry.file.digest is None or re.fullmatch(r"md5:\w{32}|sha256:\w{64}", entry.file.digest), name
            assert entry.file.shape is not None
            ends = entry.split.ends(entry.file.shape[0])
            if family == "pf" and name != "sea_temperature":
                assert ends[1] - ends[0] == ends[2] - ends[1] == 7 * entry.horizon, name
                assert entry.horizon == pd.Timedelta("1D") / pd.Timedelta(1, "h") * entry.file.season / 24, name


def test_darts_loaders_serve_exactly_the_files_that_name_them() -> None:
    """Darts' sums for the files that have its loader; and none for the two of which Darts has other versions."""
    files = {entry.file.name: entry.file for entries in REGISTRY.values() for entry in entries.values()}
    with_loader = {name for name, file in files.items() if file.loader}
    assert with_loader == {"ETTh1.csv", "ETTh2.csv", "ETTm1.csv", "ETTm2.csv"}
    for name in with_loader:
        metadata = getattr(darts.datasets, str(files[name].loader))()._metadata
        assert (metadata.name, f"md5:{metadata.hash}") == (name, files[name].digest)
    others = [darts.datasets.WeatherDataset()._metadata.hash, darts.datasets.ElectricityDataset()._metadata.hash]
    assert not {f"md5:{other}" for other in others} & {file.digest for file in files.values()}


# --------------------------------------------------------------------------------------------------------- the data set


@pytest.fixture
def loaded(tmp_path: Path) -> Dataset:
    return load(described(tmp_path), "pf")


def test_series_has_its_real_times_and_names(loaded: Dataset) -> None:
    series = loaded.series("test", look_back=3)
    assert [str(stamp) for stamp in series.time_index] == [f"2024-03-01 0{hour}:00:00" for hour in range(5, 10)]
    assert series.components.tolist() == ["a", "b"]
    assert series.freq == pd.Timedelta("1h")
    np.testing.assert_array_equal(series.values(), loaded.values[5:])
    joined = np.concatenate([loaded.series(part).values() for part in PARTS])
    np.testing.assert_array_equal(joined, loaded.values)


@pytest.mark.parametrize(("part", "look_back"), [("validation", 7), ("train", 1), ("test", -1)])
def test_look_back_before_the_first_step_is_refused(loaded: Dataset, part: str, look_back: int) -> None:
    with pytest.raises(
        ValueError, match=rf"look_back={look_back} is not allowed before the {part} part of mine; give 0 to"
    ):
        loaded.series(part, look_back)


def test_windows_lie_within_their_part(loaded: Dataset) -> None:
    assert list(loaded.starts("train", 3, 1)) == [0, 1, 2, 3]
    assert list(loaded.starts("train", 2, 2)) == [0, 2, 4]
    assert list(loaded.starts("test", 2, 5)) == [8]
    with pytest.raises(ValueError, match="horizon=3 does not fit into the validation part of mine; take 1 to 2 steps"):
        loaded.starts("validation", 3, 1)
    with pytest.raises(ValueError, match="stride=0 is not allowed"):
        loaded.starts("validation", 2, 0)


def test_hash_tells_apart_what_gives_other_results(tmp_path: Path, loaded: Dataset) -> None:
    assert load(described(tmp_path), "pf").hash == loaded.hash
    others = [
        load(described(tmp_path, toml=TOML.replace("train = 6\nvalidation = 2", "train = 5\nvalidation = 3")), "pf"),
        load(described(tmp_path, toml=TOML.replace("season = 2", "season = 3")), "pf"),
        load(described(tmp_path, hourly(time="when", start="2024-03-02")), "pf"),
        load(described(tmp_path, hourly(time="when").assign(b=1.0)), "pf"),
        load(described(tmp_path), "lsf"),
    ]
    assert len({loaded.hash, *(other.hash for other in others)}) == 6


def test_example_toml_of_the_documentation_is_allowed(tmp_path: Path) -> None:
    """The one in the module's docstring, with this test's file and times."""
    assert datasets.__doc__ is not None
    lines = [line.strip() for line in datasets.__doc__.splitlines() if line.startswith("    ")]
    frame = hourly(50, time="date").rename(columns={"a": "shop_1", "b": "shop_2"})
    frame["date"] = pd.to_datetime(frame["date"]).dt.strftime("%d.%m.%Y %H:%M")
    path = put(frame, tmp_path, "sales.csv")
    (tmp_path / "sales.toml").write_text("\n".join(lines).replace('"..."', f'"{sha256(path)}"'))
    assert load(str(tmp_path / "sales.toml"), "lsf").bounds["test"] == (40, 50)
