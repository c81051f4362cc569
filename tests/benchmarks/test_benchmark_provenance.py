"""From which code a result is, in a small repository; and a process of its own for each job."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from benchmarks.errors import Misuse
from benchmarks.run import provenance

NO_CODE = ("README.md", "darts_msft/card.md", "tests/test_a.py", "examples/01.py", "benchmarks/results/runs/a.json")
CODE = ("darts_msft/model.py", "pyproject.toml", "darts_msft/tests/a.py")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def put(folder: Path, name: str, text: str = "1") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def commit(folder: Path) -> str:
    """Everything, as a commit, by its name."""
    git(folder, "add", ".")
    git(folder, "commit", "-m", "more")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository that results are of."""
    for name in (*NO_CODE, *CODE):
        put(tmp_path, name)
    git(tmp_path, "init")
    commit(tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("names", "counts"), [(NO_CODE, False), (CODE, True)])
def test_what_a_figure_may_rest_on_counts(checkout: Path, names: tuple[str, ...], counts: bool) -> None:
    """New beside it, changed, removed and committed."""
    for name in names:
        before, new = git(checkout, "rev-parse", "HEAD"), Path(name).with_stem("new")
        put(checkout, str(new))
        assert provenance.is_dirty() == counts, name
        (checkout / new).unlink()
        put(checkout, name, "2")
        assert provenance.is_dirty() == counts, name
        (checkout / name).unlink()
        assert provenance.is_dirty() == counts, name
        after = commit(checkout)
        assert provenance.provenance()["commit"] == after != before
        assert provenance.same_code(before, after) == (not counts), name
        assert not provenance.is_dirty()


def test_a_download_is_refused_also_inside_another_repository(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for download in (checkout / "download", checkout.parent / f"{checkout.name}-download"):
        download.mkdir()
        monkeypatch.setattr(provenance, "ROOT", download)
        with pytest.raises(Misuse, match="git clone") as error:
            provenance.commit()
        assert "\n" not in str(error.value)


# ---- a process of its own


def add(first: int, second: int) -> tuple[int, int]:
    return first + second, os.getpid()


def fail(value: int) -> None:
    raise KeyError(f"no {value}")


def leave() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_function_is_called_in_another_process() -> None:
    total, first = provenance.isolated(add, 2, 3)
    _, second = provenance.isolated(add, 0, 0)
    assert total == 5
    assert len({first, second, os.getpid()}) == 3
    with pytest.raises(KeyError, match="no 7") as found:
        provenance.isolated(fail, 7)
    assert "in fail" in str(found.value.__cause__)
    with pytest.raises(BrokenProcessPool):
        provenance.isolated(leave)


def note_and_sleep(folder: Path) -> None:
    (folder / "part").write_text(str(os.getpid()))
    (folder / "part").rename(folder / "pid")
    time.sleep(60)


def test_an_interrupt_ends_the_other_process_too(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        provenance.isolated(note_and_sleep, tmp_path)
    assert time.time() - (tmp_path / "pid").stat().st_mtime < 30  # it isn't waited for
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
