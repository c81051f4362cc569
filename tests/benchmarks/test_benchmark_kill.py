"""The real command line with the fakes, and a process for each job; what is left when it is killed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import benchmark_fakes
from test_benchmark_processes import eventually, is_alive
from test_benchmark_runner import notes, runs, stored

from benchmarks.run import runner

ROOT = Path(runner.__file__).parents[2]


def start(tmp_path: Path, troubles: str) -> subprocess.Popen[str]:
    """The real command line with the fakes, and a process for each job."""
    environment = {**os.environ, "FAKE_LOG": str(tmp_path / "log"), "FAKE_TROUBLES": troubles}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "benchmarks")])}
    words = ["run", "--suite", "fake", "--results", str(tmp_path / "results")]
    return subprocess.Popen(
        [sys.executable, benchmark_fakes.__file__, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def test_kill_9_in_the_middle_leaves_whole_results_and_a_rerun_makes_the_rest(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    process = start(tmp_path, f"none,wait for {gate}")
    try:
        finished = eventually(lambda: len(notes(tmp_path)) == 4, 240)
        assert finished, process.communicate() if process.poll() is not None else notes(tmp_path)
    finally:
        process.kill()
        process.communicate()
    pid = int((tmp_path / "log").read_text().splitlines()[-1].split()[0])
    assert eventually(lambda: not is_alive(pid))
    before = stored(tmp_path)
    assert len(before) == 3  # the first's choice and result, the second's choice
    assert [json.loads(text)["experiment"]["seed"] for name, text in before.items() if "runs" in name] == [0]
    gate.touch()
    code, output = finish(start(tmp_path, f"none,wait for {gate}"))
    assert code == 0, output
    after = stored(tmp_path)
    assert {name: after[name] for name in before} == before
    assert sorted(result["experiment"]["seed"] for result in runs(tmp_path)) == [0, 1]
    assert len(after) == 4
    builds = [note for note in notes(tmp_path) if note.startswith("build")]
    assert builds == ["build 12 0.0 seed 0", "build 12 1.0 seed 1", "build 12 1.0 seed 1"]
    # each job in a process of its own, and a bar with an estimate
    assert len({line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}) == 3
    assert re.search(r"1/1 \[\d\d:\d\d<00:00", output)
