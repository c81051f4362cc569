"""The command line: one module a command, imported when it is asked for."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_datasets import hourly, put

import benchmarks
from benchmarks import __main__
from benchmarks.data import datasets
from benchmarks.errors import Misuse

ROOT = Path(benchmarks.__file__).parents[1]


def test_a_command_is_its_module_s(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    fake = ModuleType("fake_command")
    fake.add_arguments = lambda parser: parser.add_argument("--results")  # type: ignore[attr-defined]
    fake.main = called.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command", fake)
    monkeypatch.setitem(__main__.COMMANDS, "table", ("fake_command", ""))
    assert __main__.main(["table", "--results", "here"]) == 0
    assert called[0].results == "here"
    fake.main = lambda arguments: 3  # type: ignore[attr-defined]
    assert __main__.main(["table"]) == 3


def fail(error: Exception) -> Any:
    raise error


def test_a_program_gets_the_words_after_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []
    fake = ModuleType("fake_program")
    fake.main = called.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_program", fake)
    monkeypatch.setitem(__main__.PROGRAMS, "sizes", ("fake_program", ""))
    assert __main__.main(["sizes", "--sizes", "96x4", "--help"]) == 0
    assert called == [["--sizes", "96x4", "--help"]]
    fake.main = lambda words: 3  # type: ignore[attr-defined]
    assert __main__.main(["sizes"]) == 3
    fake.main = lambda words: fail(Misuse("no such size"))  # type: ignore[attr-defined]
    assert __main__.main(["sizes"]) == __main__.MISUSED
    assert capsys.readouterr().err == "python -m benchmarks sizes: no such size\n"


def test_what_is_wrong_is_said_in_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert __main__.main(["table", "--results", str(tmp_path / "nowhere")]) == __main__.MISUSED
    message = capsys.readouterr().err
    assert message.startswith("python -m benchmarks table: ")
    assert "nowhere" in message
    assert "Traceback" not in message


def test_misuse_is_a_line_and_any_other_error_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = ModuleType("fake_command")
    fake.add_arguments = lambda parser: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_command", fake)
    monkeypatch.setitem(__main__.COMMANDS, "table", ("fake_command", ""))
    fake.main = lambda _: fail(Misuse("no such table"))  # type: ignore[attr-defined]
    assert __main__.main(["table"]) == 2
    assert capsys.readouterr().err == "python -m benchmarks table: no such table\n"
    fake.main = lambda _: fail(ValueError("operands could not be broadcast"))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="broadcast"):
        __main__.main(["table"])


@pytest.mark.parametrize(("words", "code"), [([], 2), (["tables"], 2), (["--suite", "run"], 2), (["--help"], 0)])
def test_without_a_command_the_choices_are_shown(
    words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        __main__.main(words)
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert "COMMAND" in printed.out + printed.err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for program in ("checkpoint", "sizes"):
        monkeypatch.setattr(f"benchmarks.{program}.quiet", lambda: None)  # would silence the tests after this one
    for command, (module, _) in {**__main__.COMMANDS, **__main__.PROGRAMS}.items():
        with pytest.raises(SystemExit) as ended:
            __main__.main([command, "--help"])
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: python -m benchmarks {command} ")
        assert str(importlib.import_module(module).__doc__) in shown


def test_the_help_of_run_shows_a_description_of_data_that_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["run", "--help"])
    (toml,) = re.findall(r"^ +csv = .*?^ +split = .*?$", capsys.readouterr().out, re.MULTILINE | re.DOTALL)
    (tmp_path / "sales.toml").write_text(textwrap.dedent(toml))
    put(hourly(100), tmp_path, "sales.csv")
    found = datasets.load(str(tmp_path / "sales.toml"), "lsf")
    assert found.columns == ("a", "b")
    assert found.bounds == {"train": (0, 70), "validation": (70, 80), "test": (80, 100)}


def test_the_help_has_a_line_for_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        __main__.main(["--help"])
    shown = capsys.readouterr().out
    for command, (_, line) in {**__main__.COMMANDS, **__main__.PROGRAMS}.items():
        assert f"\n    python -m benchmarks {command} " in shown
        assert f" {command} {line} " in " ".join(shown.split())


def test_the_command_line_starts_without_torch_and_darts() -> None:
    script = "import sys\nfrom benchmarks import __main__\n"
    script += "try: __main__.main(['run', '--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'torch', 'darts', 'pandas'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(
    "words",
    [
        ["defaults", "--epochs", "0"],
        ["defaults", "--seeds", "-1"],
        ["checkpoint", "speed", "--threads", "0"],
        ["checkpoint", "test", "--horizons", "0"],
        ["run", "--suite", "smoke", "--seeds", "-1"],
    ],
)
def test_a_number_out_of_range_is_named_with_its_option(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.checkpoint.quiet", lambda: None)
    with pytest.raises(SystemExit, match="2"):
        __main__.main(words)
    assert f"argument {words[-2]}: {words[-1]} is not allowed; give an integer of at least" in capsys.readouterr().err
