"""The command that prints and writes tables."""

from __future__ import annotations

from pathlib import Path

import typer
from fake_results import of, store
from typer.testing import CliRunner

from benchmarks import show


def test_a_suite_is_only_printed_without_a_place(tmp_path: Path) -> None:
    folder = store(tmp_path, of("msft", 0.3), of("full", 0.4, suite="mine"), of("zero_shot", 0.4))
    app = typer.Typer()
    app.command()(show.main)
    words = ["--results", str(folder), "--suite", "first"]
    out = CliRunner().invoke(app, words).output
    assert "MSFT" in out
    assert "full finetuning" not in out
    assert [path.name for path in folder.iterdir() if path.is_file()] == []
