"""The Optuna example runs as a user runs it, on the bundled series and checkpoint."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parent.parent / "examples" / "03_tune_with_optuna.py"


def test_one_trial() -> None:
    options = {"trials": 1, "epochs": 1, "context": 128, "horizon": 32, "stride": 500}
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-W", "ignore", str(EXAMPLE), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert answer.returncode == 0, answer.stderr[-2000:]
    first, *rest = answer.stdout.strip().splitlines()
    found = re.fullmatch(r"best validation CRPS: (\d\.\d{4}) in trial 0 \(zero-shot (\d\.\d{4})\)", first)
    assert found
    best, zero_shot = map(float, found.groups())
    assert 0 < best <= zero_shot < 1
    settings = dict(line.strip().split(" = ") for line in rest)
    assert set(settings) == {"patch_size", "num_scales", "lora_rank", "lr_new", "lr_head"}
    assert settings["patch_size"] in ("16", "32")
    assert 0 <= int(settings["num_scales"]) <= 3
    assert 1e-5 <= float(settings["lr_new"]) <= 1e-3
