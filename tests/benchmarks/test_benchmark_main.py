"""The command line: its verbs, what is wrong in a line, and quick help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks import __main__
from benchmarks.errors import Misuse

ROOT = Path(benchmarks.__file__).parents[1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["run"], "--suite"),
        (["run", "--suite", "nix"], "nix"),
        (["run", "--suite", "smoke", "--seeds", "-1"], "--seeds"),
        (["run", "--suite", "smoke", "--stride", "day"], "--stride"),
        (["run", "--suite", "pf", "--stride", "5", "--dry-run"], "--stride is of the family lsf"),
        (["cost", "--rounds", "0"], "--rounds"),
        (["show", "--results", "/nowhere"], "/nowhere"),
    ],
)
def test_what_is_wrong_is_named(words: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(words) == __main__.MISUSED == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error


def test_misuse_is_a_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> None:
        def check(folder: Path) -> int:
            raise error

        monkeypatch.setattr(__main__.suites, "check", check)

    for error in (Misuse("no such results"), FileNotFoundError("no such results")):
        fails(error)
        assert __main__.main(["check"]) == 2
        assert capsys.readouterr().err == "python -m benchmarks: no such results\n"
    fails(ValueError("operands could not be broadcast"))
    with pytest.raises(ValueError, match="broadcast"):
        __main__.main(["check"])


def test_help_comes_without_torch_and_darts() -> None:
    script = "import sys\nfrom benchmarks import __main__\n__main__.main(['run', '--help'])\n"
    script += "assert not {'torch', 'darts', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)
