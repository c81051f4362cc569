"""The examples run to their end on the bundled checkpoint, and on the bundled series or its beginning.

They run in this process, which has imported all that is slow; `make demo` runs the first as a user does.
"""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import darts_msft.backbones
import darts_msft.datasets

EXAMPLES = Path(__file__).parent.parent / "examples"
Example = Callable[..., str]


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Example:
    """Runs a script with arguments; what it prints, or its SystemExit."""

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr("darts_msft.training.windows.VALIDATION_WINDOWS", 32)
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def short_series(monkeypatch: pytest.MonkeyPatch) -> None:
    series = darts_msft.datasets.load_sea_temperature()[9000:12000]
    monkeypatch.setattr(darts_msft.datasets, "load_sea_temperature", lambda: series)
    monkeypatch.setattr(darts_msft.datasets, "load_dataset", lambda *_: series)


def flags(**options: object) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.mark.slow
def test_quickstart(example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten weeks, one epoch: a table of positive scores, the reports, the pictures; a week of flights is learned."""
    series = darts_msft.datasets.load_departures()[:1700]
    monkeypatch.setattr(darts_msft.datasets, "load_dataset", lambda *_: series)
    printed = example("01_quickstart.py", *flags(epochs=1, out=tmp_path, forecast=tmp_path / "forecast.png"))
    table = {line[:16].strip(): line[16:].replace("*", "").split() for line in printed.splitlines()}
    models = ("seasonal naive", "DLinear", "zero-shot", "fit in seconds", "finetuned")
    scores = {name: [float(value) for value in table[name]] for name in models}
    assert all(len(values) == 4 and all(0 < value < 1000 for value in values[:3]) for values in scores.values())
    assert [name for name in models if scores[name][3] > 0] == ["DLinear", "fit in seconds", "finetuned"]
    assert scores["fit in seconds"][0] < 0.6 * scores["zero-shot"][0]
    assert printed.count("kept: ") == 2
    total = re.search(r"two days: ([\d,]+), 80 % between ([\d,]+) and ([\d,]+); came: ([\d,]+)", printed)
    assert total
    middle, low, high, came = (float(number.replace(",", "")) for number in total.groups())
    assert low < middle < high
    assert abs(middle / came - 1) < 0.3
    assert (tmp_path / "quickstart_departures.png").stat().st_size > 20_000
    assert (tmp_path / "forecast.png").stat().st_size > 20_000


@pytest.mark.slow
def test_compare_a_method_that_trains_and_one_that_does_not(
    example: Example, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = flags(dataset="sea_temperature", epochs=1, stride=500, test_stride=800, out=tmp_path)
    asked += ["--seeds", "0", "--methods", "zero_shot", "linear_probe"]
    printed, file = example("02_compare_methods.py", *asked), tmp_path / "methods_sea_temperature.json"
    found = json.loads(file.read_text())
    known = "[0-9a-f]{40}(-dirty)?" if (EXAMPLES.parent / ".git").exists() else "unknown: .*"
    assert re.fullmatch(known, found["commit"])
    assert found["settings"]["epochs"] == 1
    assert all(re.fullmatch("[0-9a-f]{64}", found[name]) for name in ("data_hash", "weights"))
    rows = found["rows"]
    assert [(row["method"], row["trained"] > 0) for row in rows] == [("zero_shot", False), ("linear_probe", True)]
    assert all(0 < row["validation"] < 1 for row in rows)
    table = [line.split() for line in printed.splitlines()]
    for row in rows:
        (cells,) = [line for line in table if line[:1] == [row["method"]]]
        assert cells[1:5] == [*(f"{row[name]:.4f}" for name in ("MSE", "MAE", "CRPS")), f"{row['trained']:,}"]
    assert file.with_suffix(".png").stat().st_size > 10_000
    before = file.read_bytes()
    with pytest.raises(SystemExit, match="2"):
        example("02_compare_methods.py", *asked)
    assert "--out" in capsys.readouterr().err
    assert file.read_bytes() == before


@pytest.mark.usefixtures("short_series")
def test_tune_for_one_trial(example: Example) -> None:
    pytest.importorskip("optuna")
    first, *rest = (
        example("03_tune_with_optuna.py", *flags(trials=1, epochs=1, context=128, horizon=32, stride=500))
        .strip()
        .splitlines()
    )
    found = re.fullmatch(r"best validation CRPS: (\d\.\d{4}) in trial 0 \(zero-shot (\d\.\d{4})\)", first)
    assert found
    best, zero_shot = map(float, found.groups())
    assert 0 < best <= zero_shot < 1
    settings = dict(line.strip().split(" = ") for line in rest)
    assert set(settings) == {"patch_size", "num_scales", "lora_rank", "lr_new", "lr_head"}
    assert settings["patch_size"] in ("16", "32")
    assert 1e-5 <= float(settings["lr_new"]) <= 1e-3


def test_an_encoder_of_one_s_own_is_registered_and_learns(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(darts_msft.backbones, "ARCHITECTURES", dict(darts_msft.backbones.ARCHITECTURES))
    printed = example("04_add_a_backbone.py", *flags(epochs=1, out=tmp_path / "weights"))
    assert {file.name for file in (tmp_path / "weights").iterdir()} == {"config.json", "model.safetensors"}
    zero_shot, epoch = (re.search(pattern, printed) for pattern in (r"zero-shot (\d+\.\d+);", r"epochs: 1: (\d+\.\d+)"))
    assert zero_shot
    assert epoch
    assert float(epoch[1]) < 0.9 * float(zero_shot[1])
    assert re.search(r"^mean absolute error: \d+\.\d\d flights an hour$", printed, re.MULTILINE)


@pytest.mark.slow
def test_totals_of_paths(example: Example, tmp_path: Path, short_series: None) -> None:
    printed = example("05_totals.py", *flags(dataset="sea_temperature", picture=tmp_path / "paths.png"))
    rows = [re.findall(r"-?[\d,]+\.\d", line) for line in printed.splitlines() if "came:" in line]
    assert len(rows) == 2
    for middle, low, high, came in ([float(cell.replace(",", "")) for cell in row] for row in rows):
        assert low <= middle <= high
        assert abs(middle - came) < 0.2 * came
    assert (tmp_path / "paths.png").stat().st_size > 20_000


def test_many_series(example: Example, tmp_path: Path) -> None:
    printed = example("06_many_series.py", *flags(series=6, out=tmp_path / "forecasts.parquet"))
    assert "linear member" in printed
    told = pd.read_parquet(tmp_path / "forecasts.parquet")
    assert told.groupby("shop").size().tolist() == 6 * [14]
    assert (told["q0.1"] < told["q0.9"]).all()


@pytest.mark.slow
def test_actors_on_ray_forecast_the_same_and_a_lost_one_is_replaced() -> None:
    """In a process of its own: Ray's sockets are forbidden here."""
    pytest.importorskip("ray")
    asked = [sys.executable, str(EXAMPLES / "07_ray.py"), *flags(series=4, files=2), "--lose-a-worker"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "56 rows of 4 series by 2 workers, one was lost" in done.stdout


@pytest.mark.slow
def test_several_processes_keep_the_same_and_one_forecasts(tmp_path: Path) -> None:
    """In processes of their own: Lightning starts the file again for the second."""
    asked = [*flags(epochs=1, windows=64, out=tmp_path / "model.pt")]
    command = [sys.executable, str(EXAMPLES / "09_several_processes.py"), *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    kept = dict(re.findall(r"process (\d) of 2 kept: (.+)", done.stdout))
    assert set(kept) == {"1", "2"}
    assert kept["1"] == kept["2"]
    (error,) = re.findall(r"^mean absolute error: (\d+\.\d\d) flights an hour$", done.stdout, re.MULTILINE)
    assert 0 < float(error) < 3  # of 0 to 30 flights


def test_a_look_inside(example: Example, tmp_path: Path) -> None:
    printed = example("08_look_inside.py", *flags(picture=tmp_path / "scales.png"))
    rows = [line.split() for line in printed.splitlines() if re.match(r"[12] +-?\d", line)]
    assert [row[0] for row in rows] == ["1", "2"]  # two days
    for row in rows:
        pulls, weights = ([float(cell) for cell in part] for part in (row[1:4], row[4:]))
        assert sum(weights) == pytest.approx(1, abs=2e-3)
        assert sum(pulls) == pytest.approx(0, abs=2e-3)
    assert (tmp_path / "scales.png").stat().st_size > 20_000
