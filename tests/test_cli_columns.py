"""How the command reads dates, numbers, names and repeated rows that may be meant otherwise."""

from __future__ import annotations

import logging
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from darts_msft_command import main
from darts_msft_command.columns import Signs
from darts_msft_command.tables import Rows, read

DAYS = pd.date_range("2024-01-01", periods=10)


def rows_of(folder: Path, times: Any, values: Any = None, header: str = "date;load", **asked: Any) -> Rows:
    values = range(len(times)) if values is None else values
    lines = [header, *(f"{time};{value}" for time, value in zip(times, values, strict=True))]
    (folder / "load.csv").write_text("\n".join(lines), encoding="utf-8")
    return read(folder / "load.csv", "date", **asked)


def loads(folder: Path, texts: list[str], **asked: Any) -> list[float]:
    return rows_of(folder, DAYS[: len(texts)], texts, **asked).frames[""]["load"].tolist()


MONTHS = pd.date_range("2020-01-01", periods=36, freq="MS")
HOURS = pd.date_range("2024-02-01", periods=240, freq="h").delete([7, 8, 100])
TEN = pd.date_range("2024-03-01", periods=10)


@pytest.mark.parametrize(
    ("times", "written", "other"),
    [
        (MONTHS, "%d.%m.%Y", None),
        (TEN, "%d.%m.%Y", None),
        (TEN, "%d.%m.%y %H:%M", None),
        (TEN, "%Y/%m/%d", None),
        (MONTHS, "%d/%m/%Y", "--month-first"),
        (HOURS, "%d/%m/%Y %H:%M", "--month-first"),
        (HOURS, "%d-%m-%Y %H:%M", "--month-first"),
        (HOURS, "%m/%d/%Y %I:%M %p", "--day-first"),
        (MONTHS, "%m/%d/%Y", "--day-first"),
        (pd.date_range("2024-01-01", periods=20), "%m/%d/%Y", None),
        (pd.date_range("2024-01-01", periods=20), "%d/%m/%Y", None),
    ],
)
def test_days_and_months(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, times: pd.DatetimeIndex, written: str, other: str | None
) -> None:
    assert rows_of(tmp_path, times.strftime(written)).frames[""]["date"].tolist() == times.tolist()
    assert caplog.text.count("--") == int(other is not None)
    assert (other or "") in caplog.text


def test_days_and_months_that_nothing_tells_apart(tmp_path: Path) -> None:
    """12 days of January, or the first of 12 months."""
    days = pd.date_range("2024-01-01", periods=12)
    text = days.strftime("%d/%m/%Y")
    with pytest.raises(ValueError, match=r"'02/01/2024' \(row 3 .* 1 February 2024: say --day-first or --month-first"):
        rows_of(tmp_path, text)
    assert rows_of(tmp_path, text, day_first=True).frames[""]["date"].tolist() == days.tolist()
    months = pd.date_range("2024-01-01", periods=12, freq="MS")
    assert rows_of(tmp_path, text, day_first=False).frames[""]["date"].tolist() == months.tolist()


@pytest.mark.parametrize(
    ("text", "asked", "says"),
    [
        (["01/02/2024", "13/02/2024"], False, r"--month-first: not so in '13/02/2024' \(row 3\)"),
        (["01/02/2024", "01/13/2024"], True, r"--day-first: not so in '01/13/2024' \(row 3\)"),
        (["1/13/2024 1:00 PM", "13/1/2024 2:00 PM"], None, r"'13/1/2024 2:00 PM' \(row 3 .*: write them alike"),
    ],
)
def test_days_and_months_that_contradict(tmp_path: Path, text: list[str], asked: bool | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        rows_of(tmp_path, text, day_first=asked)


@pytest.mark.parametrize(
    ("texts", "signs", "expected"),
    [
        (["1\u00a0234", "1\u202f234 567", "5"], Signs(thousands=" "), [1234, 1234567, 5]),
        (["1\u00a0234,5", "-0,5", "5"], Signs(",", "\u202f"), [1234.5, -0.5, 5]),
        (["1'234.5", "12'345'678", "5e3"], Signs(thousands="'"), [1234.5, 12345678, 5000]),
        (["12,34,567", "1,234", "+5"], Signs(thousands=","), [1234567, 1234, 5]),
        (["True", "false", "true"], Signs(), [1, 0, 1]),
        (["1.5", "NA", "-.5e1"], Signs(), [1.5, np.nan, -5]),
    ],
)
def test_numbers(tmp_path: Path, texts: list[str], signs: Signs, expected: list[float]) -> None:
    np.testing.assert_array_equal(loads(tmp_path, texts, signs=signs), expected)


@pytest.mark.parametrize(
    ("texts", "signs", "says"),
    [
        (["1012.57", "5"], Signs(","), "'1012.57', not so as --decimal and --thousands have it: say how"),
        (["12,34", "5"], Signs(thousands=","), "'12,34', not so as"),
        (["1\u00a0234", "5"], Signs(), "'1 234': say how they are written"),
        (["1,5", "5"], Signs(), "'1,5': say how they are written"),
        (["5", "inf", "5"], Signs(), r"'inf' \(row 3 of the file; 1 of 3 rows are no numbers\)"),
    ],
)
def test_numbers_that_are_refused(tmp_path: Path, texts: list[str], signs: Signs, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        loads(tmp_path, texts, signs=signs)


@pytest.mark.parametrize(
    ("texts", "told"),
    [(["999", "1.012"], True), (["0.999", "1.012"], False), (["1999", "1.012"], False), (["999", "1.01"], False)],
)
def test_points_that_may_be_of_thousands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, texts: list[str], told: bool
) -> None:
    assert loads(tmp_path, texts) == [float(text) for text in texts]
    assert ("column 'load': 1.012 is read as a little more than 1" in caplog.text) == told


def test_exact_decimals_and_infinite_values_of_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame({"date": DAYS, "load": [Decimal("1.5")] * 9 + [None]})
    frame.to_parquet(tmp_path / "load.parquet")
    read_back = read(tmp_path / "load.parquet", "date", signs=Signs(",")).frames[""]["load"]
    np.testing.assert_array_equal(read_back, [1.5] * 9 + [np.nan])
    frame.assign(
        load=pd.array(["1.5", None] * 5, dtype="string"), parts=[[1, 2]] * 10, notes=[{"a": 1}] * 10
    ).to_parquet(tmp_path / "load.parquet")
    np.testing.assert_array_equal(read(tmp_path / "load.parquet", "date").frames[""]["load"], [1.5, np.nan] * 5)
    frame.assign(load=[*range(9), np.inf]).to_parquet(tmp_path / "load.parquet")
    with pytest.raises(ValueError, match=r"holds 'inf' \(row 11 of the file"):
        read(tmp_path / "load.parquet", "date")


def test_columns_that_are_left_out_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Dates and codes are no numbers."""
    values = [f"{number};{day:%d.%m.%Y};A-{number};" for number, day in enumerate(DAYS)]
    rows = rows_of(tmp_path, DAYS, values, "date;load;delivered;code;note")
    assert rows.targets == ["load"]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        "columns of no numbers, which are left out: delivered, code",
        "columns of no values, which are left out: note",
    ]
    with pytest.raises(ValueError, match="has no value in note"):
        rows_of(tmp_path, DAYS, values, "date;load;delivered;code;note", target=["load", "note"])


def test_a_table_of_many_columns(tmp_path: Path) -> None:
    names = [f"load{number}" for number in range(150)]
    rows = rows_of(tmp_path, DAYS, [";".join(map(str, range(150)))] * 10, ";".join(["date", *names]))
    assert rows.targets == names
    assert rows.frames[""][names].to_numpy().tolist() == [list(range(150))] * 10


def test_series_of_any_name(tmp_path: Path) -> None:
    names = ["NA", "None", "nan", "007"]
    values = [f"{name};{number}" for number, name in enumerate(names * 10)]
    rows = rows_of(tmp_path, DAYS.repeat(4), values, "date;shop;load", series="shop")
    assert {name: frame["load"].iloc[0] for name, frame in rows.frames.items()} == dict(
        zip(names, range(4), strict=True)
    )
    with pytest.raises(ValueError, match="'shop' names no series in 10 rows"):
        rows_of(tmp_path, DAYS.repeat(4), [line.replace("nan", "") for line in values], "date;shop;load", series="shop")


@pytest.mark.parametrize("same", [1.0, 0.5])
def test_series_of_equal_values_are_no_repeated_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, same: float
) -> None:
    """Two shops that sell the same, on all days or on half of them."""
    values = [
        f"{number};{shop};{int(day / 10 >= same) * shop}"
        for number, (day, shop) in enumerate(zip(np.arange(20) // 2, [0, 1] * 10, strict=True))
    ]
    with pytest.raises(ValueError, match="as in --series shop, or keep"):
        rows_of(tmp_path, DAYS.repeat(2), values, "date;id;shop;load", target=["load"])
    assert not caplog.text


def test_series_that_their_column_does_not_tell_apart(tmp_path: Path) -> None:
    values = [f"{shop};{product};0" for _ in DAYS for shop in "ab" for product in "xy"]
    with pytest.raises(ValueError, match="more than once in series 'a', as many of its times: --series shop doesn't"):
        rows_of(tmp_path, DAYS.repeat(4), values, "date;shop;product;load", series="shop")


def test_a_repeated_row_with_another_remark_counts_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = [f"{number};a" for number in range(10)]
    rows = rows_of(tmp_path, [*DAYS, DAYS[3]], [*values, "3;b"], "date;load;note")
    assert rows.frames[""]["load"].tolist() == list(range(10))
    assert "1 rows of" in caplog.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--thousands", "."], "--decimal and --thousands are both '.'"),
        (["--series", "date"], "'date' is in --time and in --series"),
        (["--output", "x.csv", "--picture", "x.csv"], "--output and --picture are both x.csv"),
        (["--picture", "x.PNG", "--target", "none"], "no column 'none'"),
    ],
)
def test_options_that_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    rows_of(tmp_path, DAYS)
    assert main(["forecast", str(tmp_path / "load.csv"), "--time", "date", "--horizon", "1", *words]) == 2
    assert says in capsys.readouterr().err


def test_a_file_of_excel_is_told_to_be_saved_otherwise(tmp_path: Path) -> None:
    (tmp_path / "load.csv").write_bytes("date;größe\n2024-01-01;5\n".encode("cp1252"))
    with pytest.raises(ValueError, match="is not in UTF-8: save it so, in Excel as 'CSV UTF-8'"):
        read(tmp_path / "load.csv", "date")


@pytest.fixture(autouse=True)
def _warnings_are_caught(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "darts_msft")


def test_the_package_runs_as_a_module() -> None:
    words = [sys.executable, "-m", "darts_msft_command", "--version"]
    told = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[1])
    assert told.stdout.startswith("darts-msft ")
