"""A process of its own for each job: answers, errors, deaths, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.run import processes
from benchmarks.run.processes import ProcessFailed, isolated, peak_memory_mb


def add(first: int, second: int) -> tuple[int, int]:
    return first + second, os.getpid()


def fail(value: int) -> None:
    raise KeyError(f"no {value}")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    sys.exit(3)


def fill(megabytes: int) -> float:
    held = bytearray(megabytes * 10**6)
    held[::4096] = b"x" * len(held[::4096])
    return peak_memory_mb()


def wait(folder: str) -> None:
    """Writes its process id, and never ends by itself."""
    part = Path(folder, "part")
    part.write_text(str(os.getpid()))
    part.rename(Path(folder, "pid"))
    time.sleep(600)


def eventually(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether it holds before so many seconds have passed."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_function_is_called_in_another_process() -> None:
    total, first = isolated(add, 2, 3)
    _, second = isolated(add, 0, 0)
    assert total == 5
    assert len({first, second, os.getpid()}) == 3
    assert not is_alive(first)


def test_what_is_raised_comes_with_its_traceback() -> None:
    with pytest.raises(ProcessFailed, match=r"(?s)Traceback.*in fail.*KeyError: 'no 7'"):
        isolated(fail, 7)


def test_a_process_that_dies_is_an_error() -> None:
    with pytest.raises(ProcessFailed, match="signal 9 before it had a result; signal 9 is often a lack of memory"):
        isolated(die)
    with pytest.raises(ProcessFailed, match="exit code 3 before it had a result"):
        isolated(leave)


def test_peak_memory_is_the_process_s_own() -> None:
    """Neither what this process holds nor what one before it held counts."""
    little = isolated(fill, 1)
    much = isolated(fill, 300)
    assert much - little == pytest.approx(299, rel=0.05)
    held = fill(200)
    assert held > 200
    assert isolated(fill, 1) == pytest.approx(little, abs=5)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_process_ends_with_the_one_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    script = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells leave it ignored in what they run in the background
sys.path[:0] = {[str(Path(__file__).parent), str(Path(processes.__file__).parents[2])]!r}
import test_benchmark_processes as here
if __name__ == "__main__":
    here.isolated(here.wait, {str(tmp_path)!r})
"""
    path = tmp_path / "script.py"
    path.write_text(script)
    started = subprocess.Popen([sys.executable, str(path)], stderr=subprocess.DEVNULL)
    try:
        assert eventually((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert is_alive(child)
        started.send_signal(number)
        started.wait(30)
        assert eventually(lambda: not is_alive(child))
    finally:
        started.kill()
        started.wait()
