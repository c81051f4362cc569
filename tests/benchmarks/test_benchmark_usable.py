"""Data that can't be used are noticed before any work, and cost the other data sets nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from runner_fakes import Run, experiment, notes, runs
from small_datasets import described, hourly

from benchmarks.data import datasets

LOAD = datasets.load
TOML = """
csv = "mine.csv"
time = "when"
frequency = "h"
season = 12
targets = ["a", "b"]
split = {train = 0.6, validation = 0.2, test = 0.2}
"""

pytestmark = pytest.mark.usefixtures("fakes")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often the real loader, in place of the fakes', has read which data set."""
    seen = Counter[tuple[str, str]]()

    def load(name: str, family: str, folder: Any = None) -> Any:
        seen[name, family] += 1
        return LOAD(name, family, folder)

    monkeypatch.setattr(datasets, "load", load)
    return seen


def toml(folder: Path, text: str = TOML) -> str:
    return described(folder, hourly(500, time="when"), text)


def test_what_cannot_be_used_is_told_first_and_once(
    tmp_path: Path, run: Run, reads: Counter[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = toml(tmp_path / "good"), toml(tmp_path / "bad", TOML.replace('"b"', '"shop"'))
    asked = [experiment(tmp_path, dataset=name, seed=seed) for name in (bad, good) for seed in (0, 1)]
    reason = f"{tmp_path / 'bad' / 'mine.csv'} has no column 'shop'; it has when, a, b"
    assert run(asked, "--dry-run") == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"can't be used: {bad}: {reason}\n")
    assert printed.out.splitlines()[-1] == "4 experiments, 2 of them to run"
    reads.clear()
    assert run(asked) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"can't be used: {bad}: {reason}\n")
    assert printed.err.count("can't be used") == 1
    assert f"FAILED {asked[0]}\nValueError: {reason}" in printed.err
    assert "2 experiments failed" in printed.err
    assert reads[bad, "lsf"] == 1
    assert [result["experiment"]["dataset"] for result in runs(tmp_path)] == [good, good]


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_run_of_unusable_data_alone_ends_at_once(
    tmp_path: Path, run: Run, reads: Counter[tuple[str, str]], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    bad = toml(tmp_path, TOML.replace('"b"', '"shop"'))
    asked = [experiment(tmp_path, family, dataset=bad, seed=seed) for family in ("lsf", "pf") for seed in (0, 1)]
    assert run([*asked, experiment(tmp_path, dataset="nowhere.toml")], *words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"python -m benchmarks run: no data set can be used; {bad}: {tmp_path / 'mine.csv'} has no column 'shop'; it "
        "has when, a, b; nowhere.toml: nowhere.toml does not exist; give the path of a .toml, or one of the "
        "registered names\n"
    )
    assert set(reads.values()) == {1}
    assert notes(tmp_path) == []


def test_data_of_no_use_in_one_family_are_used_in_the_other(
    tmp_path: Path, run: Run, reads: Counter[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable that never changes can't be standardised."""
    name = described(tmp_path, hourly(500, time="when").assign(b=1.0), TOML.replace("targets", "# targets"))
    assert run([experiment(tmp_path, family, dataset=name) for family in ("lsf", "pf")]) == 1
    assert f"can't be used: {name}: 'b' of mine never changes in the training part" in capsys.readouterr().err
    assert [result["experiment"]["family"] for result in runs(tmp_path)] == ["pf"]
