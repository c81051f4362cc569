"""The command line's tables of several series, with covariates that are known ahead, and how their numbers look."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from darts_msft_command import main, tables
from darts_msft_command.columns import Signs
from darts_msft_command.series import Table, series_of

STEPS, HORIZON = 400, 8
SIZES = {"north": 1.0, "south": 1000.0}
PROMO = np.random.default_rng(0).random(STEPS + HORIZON) < 0.2


def read(file: Path, time: str, frequency: str | None = None, **asked: Any) -> Table:
    return series_of(tables.read(file, time, **asked), frequency)


def shops(folder: Path, name: str = "shops.csv", **changes: object) -> Path:
    """Sales of shops of unequal size: a promotion adds 3 to 5; rows of the horizon have the promotions alone."""
    dates, wave = (
        pd.date_range("2023-01-01", periods=STEPS + HORIZON),
        np.sin(np.arange(STEPS + HORIZON) * 2 * np.pi / 7),
    )
    noise = np.random.default_rng(1).normal(0, 0.1, (len(SIZES), STEPS + HORIZON))
    every = []
    for (shop, size), own in zip(SIZES.items(), noise, strict=True):
        sales = np.where(np.arange(STEPS + HORIZON) < STEPS, size * (5 + wave + 3 * PROMO + own), np.nan)
        every.append(pd.DataFrame({"date": dates, "shop": shop, "promo": PROMO.astype(int), "sales": sales}))
    pd.concat(every).sort_values("date").assign(**changes).to_csv(folder / name, index=False)
    return folder / name


def asked(file: Path, *more: str, horizon: int = HORIZON) -> list[str]:
    output = file.with_name("forecast.csv")
    words = ["forecast", str(file), "--time", "date", "--horizon", str(horizon), "--output", str(output)]
    return [*words, "--series", "shop", *more]


def test_each_series_is_forecast_with_what_is_known_ahead(
    tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, picture = shops(tmp_path), tmp_path / "forecast.png"
    words = asked(file, "--covariates", "promo", "--context", "56", "--backbone", tiny_moirai, "--total", "--picture")
    assert main([*words, str(picture)]) == 0
    told = pd.read_csv(tmp_path / "forecast.csv")
    assert list(told.columns) == ["date", "shop", "sales_q0.100", "sales_q0.500", "sales_q0.900"]
    assert told["shop"].tolist() == [shop for shop in SIZES for _ in range(HORIZON)]
    assert told["date"].tolist() == 2 * pd.date_range("2024-02-05", periods=HORIZON).strftime("%Y-%m-%d").tolist()
    truth = 5 + np.sin(np.arange(STEPS, STEPS + HORIZON) * 2 * np.pi / 7) + 3 * PROMO[STEPS:]
    out = capsys.readouterr().out
    for shop, size in SIZES.items():
        own = told[told["shop"] == shop]
        np.testing.assert_allclose(own["sales_q0.500"] / size, truth, atol=0.5)  # noise .1, promotions 3
        assert (own["sales_q0.100"] < own["sales_q0.900"]).all()
        line = next(line for line in out.splitlines() if line.startswith(f"total of sales, {shop}: "))
        middle = float(line.split(": ")[1].split(", 80")[0].replace(",", ""))
        assert middle / size == pytest.approx(truth.sum(), rel=0.05)
    assert picture.stat().st_size > 5000
    assert sorted(one.name for one in tmp_path.iterdir()) == ["forecast.csv", "forecast.png", "shops.csv"]


def test_series_and_their_covariates_end_where_they_do(tmp_path: Path) -> None:
    frame = pd.read_csv(shops(tmp_path))
    closed = (frame["shop"] == "south") & (frame["date"] > "2023-12-31")
    frame.assign(sales=frame["sales"].mask(closed)).to_csv(tmp_path / "shops.csv", index=False)
    table = read(tmp_path / "shops.csv", "date", series="shop", covariates=["promo"])
    assert table.names == ["north", "south"]
    assert [one.end_time() for one in table.series] == [pd.Timestamp("2024-02-04"), pd.Timestamp("2023-12-31")]
    assert table.covariates is not None
    assert [one.end_time() for one in table.covariates] == 2 * [pd.Timestamp("2024-02-12")]
    np.testing.assert_array_equal(table.covariates[1].values()[:, 0], PROMO)


def test_columns_that_end_before_others_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.read_csv(shops(tmp_path))
    ended = frame.assign(sales=frame["sales"].mask(frame["date"] > "2024-01-31"))
    ended.to_csv(tmp_path / "shops.csv", index=False)
    table = read(tmp_path / "shops.csv", "date", series="shop")
    assert table.series[0].end_time() == pd.Timestamp("2024-02-12")
    assert "no value in the last 12 steps of sales, while other columns go on" in caplog.text
    caplog.clear()
    assert read(tmp_path / "shops.csv", "date", series="shop", target=["sales"], covariates=["promo"]).covariates
    assert not caplog.text


@pytest.mark.parametrize(
    ("since", "context", "says"),
    [("2024-01-15", 56, "1 of 3 series\n"), ("2023-08-31", 100, "; --context 77 fits to all\n")],
)
def test_a_short_series_is_forecast_beside_long_ones(
    tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str], since: str, context: int, says: str
) -> None:
    frame = pd.read_csv(shops(tmp_path))
    new = frame[(frame["shop"] == "north") & (frame["date"] > since)].assign(shop="007")
    pd.concat([frame, new]).to_csv(tmp_path / "shops.csv", index=False)
    words = ["--covariates", "promo", "--context", str(context), "--backbone", tiny_moirai]
    assert main(asked(tmp_path / "shops.csv", *words)) == 0
    out = capsys.readouterr().out
    assert "forecast.csv: 8 steps of sales, of 3 series, from 2024-02-05 00:00:00\n" in out
    assert "too short to fit to, but forecast all the same: 1 of 3 series" in out
    assert says in out
    told = pd.read_csv(tmp_path / "forecast.csv", dtype={"shop": str})
    assert told["shop"].unique().tolist() == ["north", "south", "007"]
    own = told.loc[told["shop"] == "007", "sales_q0.500"]
    assert own.between(3, 10).all()  # of 4 to 9


def test_forecasts_that_begin_at_different_times(
    tmp_path: Path, tiny_moirai: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(shops(tmp_path))
    frame.assign(sales=frame["sales"].mask((frame["shop"] == "north") & (frame["date"] > "2023-12-30"))).to_csv(
        tmp_path / "shops.csv", index=False
    )
    assert main(asked(tmp_path / "shops.csv", "--target", "sales", "--context", "56", "--backbone", tiny_moirai)) == 0
    assert "of 2 series, from 2023-12-31 00:00:00 to 2024-02-05 00:00:00, each from its own" in capsys.readouterr().out


def test_the_hour_of_autumn_in_each_series(tmp_path: Path) -> None:
    times = pd.date_range("2024-10-26", periods=72, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"date": np.repeat(times.tz_localize(None), 2), "shop": ["b", "a"] * 72, "sales": range(144)})
    frame.to_csv(tmp_path / "shops.csv", index=False)
    table = read(tmp_path / "shops.csv", "date", zone="Europe/Berlin", series="shop")
    assert table.names == ["b", "a"]
    for own, first in zip(table.series, (0, 1), strict=True):
        assert own.values()[:, 0].tolist() == list(range(first, 144, 2))


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
def test_pages_that_overlap(tmp_path: Path, zone: str | None) -> None:
    """An export whose pages begin before the last one's end; values of the hour of autumn repeat."""
    times = pd.date_range("2024-10-25", periods=96, freq="h", tz=zone)
    frame = pd.DataFrame({"date": times.tz_localize(None), "load": [*range(48), *48 * [7]]})
    pd.concat([frame[:30], frame[20:90], frame[80:]]).to_csv(tmp_path / "load.csv", index=False)
    (series,) = read(tmp_path / "load.csv", "date", zone=zone).series
    assert series.values()[:, 0].tolist() == frame["load"].tolist()


def test_times_in_the_index_of_a_parquet_file(tmp_path: Path) -> None:
    wide = pd.DataFrame({"load": np.arange(9.0)}, pd.date_range("2024-01-01", periods=9, name="date"))
    wide.to_parquet(tmp_path / "load.parquet")
    (series,) = read(tmp_path / "load.parquet", "date").series
    assert series.start_time() == pd.Timestamp("2024-01-01")
    assert series.values()[:, 0].tolist() == list(range(9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("date;load\n01.02.2024;1.234,5\n02.02.2024;0,25\n13.02.2024;-7\n", {"signs": Signs(",", ".")}),
        ('date,load\n2024-02-01,"1,234.5"\n2024-02-02,0.25\n2024-02-13,-7\n', {"signs": Signs(thousands=",")}),
        ("date\tload\n2024-02-01\t1234.5\n2024-02-02\t0.25\n2024-02-13\t-7\n", {}),
        ("date,load\n02/01/2024,1234.5\n02/02/2024,.25\n02/13/2024,-7\n", {}),
        ("date,load\n2024-02-01,1234.5\n2024-02-02,.25\n2024-02-13,-7\n2024-02-14,\n", {}),
    ],
)
def test_numbers_and_dates_as_they_are_written(tmp_path: Path, text: str, words: dict[str, Any]) -> None:
    (tmp_path / "load.csv").write_text(text)
    (series,) = read(tmp_path / "load.csv", "date", frequency="D", **words).series
    assert (series.start_time(), len(series)) == (pd.Timestamp("2024-02-01"), 13)
    values = series.values()[:, 0]
    assert values[[0, 1, 12]].tolist() == [1234.5, 0.25, -7]
    assert np.isnan(values[2:12]).all()


@pytest.mark.parametrize(
    ("change", "words", "says"),
    [
        ({}, ["--covariates", "weather"], "no column 'weather'; it has date, shop, promo, sales"),
        ({}, ["--covariates", "promo,date"], "column 'date' is that of times or series: leave it out"),
        ({}, ["--covariates", "promo", "--target", "promo"], "'promo' is in --target and in --covariates"),
        ({}, ["--covariates", "promo", "--horizon", "9"], "'promo' of series 'north' has no value at 2024-02-13"),
        ({}, ["--covariates", "promo", "--horizon", "9"], "add rows with it, or take --horizon 8"),
        (
            {},
            ["--covariates", "promo", "--context", "390"],
            "for a fit with a context of 390, which --covariates",
        ),
        ({}, ["--covariates", "promo", "--lower", "2"], "--lower 2: with --series and --covariates give 0 or auto"),
        ({"shop": None}, [], "'shop' names no series in 816 rows"),
        ({"sales": None}, ["--target", "sales"], "has no value in sales"),
        ({"sales": "1,234.5"}, ["--target", "sales"], "'sales' holds numbers such as '1,234.5'"),
        ({"sales": "1,234.5"}, [], "'sales' holds numbers such as '1,234.5': say how they are written, as in --thou"),
        (
            {"sales": ["5"] * 800 + ["ERR"] * 16},
            [],
            "'sales' holds 'ERR' (row 802 of the file; 16 of 816 rows are no numbers)",
        ),
        ({"promo": "yes"}, ["--covariates", "promo"], "'promo' is no column of numbers, but of text such as 'yes'"),
        ({}, ["--decimal", "comma"], "--decimal 'comma': give one sign"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], words: list[str], says: str
) -> None:
    assert main(asked(shops(tmp_path, **change), *words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert [one.name for one in tmp_path.iterdir()] == ["shops.csv"]


def test_a_table_of_several_series_says_which_column_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forecast", str(shops(tmp_path)), "--time", "date", "--horizon", "8"]) == 2
    assert "as in --series shop" in capsys.readouterr().err


def test_rows_that_are_there_three_times_count_once(tmp_path: Path) -> None:
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=30), "load": np.arange(30.0)})
    pd.concat(3 * [frame]).to_csv(tmp_path / "load.csv", index=False)
    assert read(tmp_path / "load.csv", "date").series[0].values()[:, 0].tolist() == list(range(30))


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ["torch", "darts", "pandas", "darts_msft"]),
        (["--version"], ["torch", "darts", "pandas", "darts_msft"]),
        (["forecast", "absent.csv", "--time", "a", "--horizon", "1"], ["torch", "darts", "pandas", "darts_msft"]),
        (["forecast", "data.csv", "--time", "date", "--horizon", "1"], ["torch", "darts", "darts_msft"]),
    ],
)
def test_answers_that_need_no_forecast_import_nothing_heavy(tmp_path: Path, words: list[str], heavy: list[str]) -> None:
    (tmp_path / "data.csv").write_text("date,load\n2024-01-01,5\n2024-01-02,ERR\n2024-01-03,6\n")
    code = f"import sys, darts_msft_command as it; it.main({words}); assert not {{*{heavy}}} & set(sys.modules)"
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=60, env=paths)
