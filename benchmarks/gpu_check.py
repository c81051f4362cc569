"""`python -m benchmarks.gpu_check`: everything once on a GPU, in about 4 minutes; a line of JSON for each case.

Parts are processes with a time limit, so that one that fails or hangs leaves the others alone. `--device cpu --quick`
tries the script itself where there is no GPU. Needs no git checkout and, but for the headline's ETTm1.csv (in the
folder DARTS_MSFT_DATA), no data.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEADLINE = {  # as the suite "long_memory" chose them
    "msft": {"look_back": 4096, "finest_context": 512, "patch_size": 32},
    "full": {"look_back": 2048, "num_scales": 0, "patch_size": 32},
}
STAGES = {  # parts that run side by side, and none longer than these seconds
    170: [
        "agreement",
        "fits 32-true",
        "fits bf16-mixed",
        *(f"headline {name} {seed}" for name in HEADLINE for seed in range(3)),
    ],
    60: ["cost"],  # alone: it is timed
}
MOST_DIFFERENT = 1e-4  # relative: forecasts of two devices, and those before and after save and load
Case = tuple[dict[str, Any], Callable[[], dict[str, Any]]]  # what it is, and what finds its figures


def trainer_of(device: str, **more: Any) -> dict[str, Any]:
    from benchmarks.models.base import QUIET

    return {**QUIET, "accelerator": device, "devices": 1, **more}


def agreement(device: str, quick: bool) -> Iterator[Case]:
    """Zero-shot point forecasts of every architecture's tiny random checkpoint: the device against the processor."""
    sys.path.insert(0, str(ROOT / "tests"))
    import numpy as np
    from contract_backbone import MAKERS, WITHOUT_HEAD, random_walks
    from darts import TimeSeries

    from darts_msft import MSFTFoundationModel

    def compare(name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            MAKERS[name](Path(folder))
            series = TimeSeries.from_values(random_walks(1, 2, 40)[0].T.numpy().astype(np.float32))
            values = []
            for where in ("cpu", device):
                lengths = {"input_chunk_length": 22, "output_chunk_length": 6, "num_scales": 2, "patch_size": 4}
                method = {"backbone": folder, "method": "zero_shot", "likelihood": None, "linear_member": False}
                model = MSFTFoundationModel(**lengths, **method, random_state=0, pl_trainer_kwargs=trainer_of(where))
                values.append(model.fit(series).predict(6, series).values())
        difference = float(np.abs(values[1] - values[0]).max() / np.abs(values[0]).max())
        return {"relative_difference": difference, "finite": bool(np.isfinite(values).all())}

    for name in [name for name in MAKERS if name not in WITHOUT_HEAD and "toy" not in name][: 1 if quick else None]:
        yield {"architecture": name}, lambda name=name: compare(name)


def fits(device: str, quick: bool, precision: str) -> Iterator[Case]:
    """A short validated fit of every method on the bundled departures, a forecast, and the same after save and load."""
    import numpy as np

    from benchmarks.cost.cases import begin_peak
    from darts_msft import MSFTFoundationModel
    from darts_msft.datasets import load_departures
    from darts_msft.methods import METHODS

    context, batches, validated = (96, 2, 28) if quick else (336, 8, 80)
    series = load_departures()[-2000:].astype(np.float32)

    def fit(method: str) -> dict[str, Any]:
        settings = {"num_scales": 2, "patch_size": 16, "finest_context": context // 2, "n_epochs": 2, "random_state": 0}
        settings["linear_member"] = False  # a closed form, solved on the processor
        trainer = trainer_of(device, precision=precision, limit_train_batches=batches)
        model = MSFTFoundationModel(context, 24, method=method, **settings, pl_trainer_kwargs=trainer)
        peak, begin = begin_peak(device), time.perf_counter()
        model.fit(series[:-600], val_series=series[-context - validated :])
        found = {"fit_seconds": time.perf_counter() - begin, "peak_memory_mb": (peak() or 0) / 1e6}
        asked = {"num_samples": 100, "random_state": 0}
        forecast = model.predict(24, series, **asked).all_values()
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.pt")
            again = MSFTFoundationModel.load(f"{folder}/model.pt").predict(24, series, **asked).all_values()
        if report := model.fit_report:
            found |= {"before": report.before, "best": report.best, "kept": report.kept}
            found["finite_scores"] = all(map(math.isfinite, (report.before or 0.0, report.best or 0.0)))
        found["relative_difference_after_load"] = float(np.abs(again - forecast).max() / np.abs(forecast).max())
        return {**found, "finite": bool(np.isfinite(forecast).all())}

    for name in list(METHODS)[: 2 if quick else None]:
        yield {"method": name, "precision": precision}, lambda name=name: fit(name)


def cost(device: str, quick: bool) -> Iterator[Case]:
    """Steps and forecasts of MSFT with long memory, at one scale and zero-shot, at MOIRAI small's and base's sizes."""
    from benchmarks.cost import cases

    folder = Path(tempfile.mkdtemp())
    sizes = {"tiny": "moirai-tiny"} if quick else {"small": str(folder / "small"), "base": str(folder / "base")}
    if not quick:
        cases.save_random(sizes["small"])
        cases.save_random(sizes["base"], d_model=768, num_layers=12)
    kinds = [("step", "msft", 2, 512), ("step", "full", 0, 0)]
    kinds += [("forecast", "msft", 2, 512), ("forecast", "full", 0, 0), ("forecast", "zero_shot", 2, 512)]
    contexts, batch, samples = ([1024], 2, 3) if quick else ([8192, 512, 2048], 32, 100)

    def find(size: str, context: int, what: str, method: str, scales: int, finest: int) -> dict[str, Any]:
        shape = (what, method, scales, context, 32, batch, 96, batch, samples, 4, device)
        found = cases.measure(cases.Case(size, sizes[size], *shape, finest=min(finest, context)))
        times = sorted(found["seconds"])
        middle = {"median_seconds": times[len(times) // 2], "fastest_seconds": times[0], "runs": len(times)}
        return {**middle, "peak_memory_mb": (found["peak_memory_bytes"] or 0) / 1e6}

    names = ("size", "context", "what", "method", "scales", "finest")
    for context, size, kind in product(contexts, sizes, kinds[1 if quick else 0 :]):
        each = (size, context, *kind)
        yield dict(zip(names, each, strict=True)), lambda each=each: find(*each)


def headline(device: str, quick: bool, name: str, seed: str) -> Iterator[Case]:
    """ETTm1-96 as the suite "long_memory" has it, with more windows: 16 epochs of 2,048 are all of them about once.

    No epoch begins after 45 % of the stage's seconds, so that there is time to measure the test part's forecasts.
    """
    from pytorch_lightning import Callback

    from benchmarks import data
    from benchmarks.models import Budget, load_forecaster
    from benchmarks.run.measures import measure

    begin, limit = time.perf_counter(), next(iter(STAGES))
    windows, epochs, few, stride = (64, 1, 4, 997) if quick else (2048, 16, 160, 7)
    budget = Budget(epochs=epochs, patience=4, train_windows=windows, validation_windows=few)
    forecaster, dataset = load_forecaster(name, HEADLINE[name], budget), data.load("ETTm1", "lsf", None)

    class StopInTime(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop |= time.perf_counter() - begin > 0.45 * limit

    def find() -> dict[str, Any]:
        trainer = forecaster.trainer()
        more = {"callbacks": [*trainer["callbacks"], StopInTime()], "accelerator": device, "devices": 1}
        forecaster.trainer = lambda *_, **__: {**trainer, **more}  # type: ignore[method-assign]
        (settings,), _ = forecaster.candidates(dataset, 96)
        model = forecaster.build(settings, dataset, 96, int(seed), None)
        forecaster.fit(model, dataset, settings)
        report, found = model.fit_report, measure(forecaster, model, dataset, "test", stride, None)
        scores = {"before": report.before, "best": report.best, "kept": report.kept}
        scores |= {"epoch_seconds": report.epoch_seconds, "windows_an_epoch": windows}
        return {**scores, "forecast_seconds": found["seconds"], "windows": found["windows"], **found["metrics"]}

    yield {"model": name, "seed": int(seed)}, find


def environment(device: str) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    names = ("torch", "numpy", "pandas", "darts", "pytorch-lightning", "peft", "transformers")
    found = {"made": str(date.today()), "python": platform.python_version(), **{name: version(name) for name in names}}
    return found | ({"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {})


def run_part(part: str, file: Path, device: str, quick: bool) -> None:
    """In this process; adds a line to `file` for every case, an error's text in the place of figures."""
    from benchmarks.run.provenance import quiet

    warnings.simplefilter("ignore")
    quiet()
    makers: dict[str, Callable[..., Iterator[Case]]]
    makers = {"agreement": agreement, "fits": fits, "cost": cost, "headline": headline}
    name, *words = part.split()
    for place, find in makers[name](device, quick, *words):
        begin = time.perf_counter()
        try:
            found = find()
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:600]}
        add(file, {"part": part, **place, **found, "seconds": round(time.perf_counter() - begin, 3)})


def add(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def start_part(part: str, limit: int, file: Path, given: list[str]) -> bool:
    """In a process of its own; whether it ended by itself and in time."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--part", part, "--output", str(file), *given]
    with file.with_suffix(f".{part.replace(' ', '_')}.log").open("w") as log:
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=limit).returncode
        except subprocess.TimeoutExpired:
            code = None
    ended = f"ended at its limit of {limit} s" if code is None else f"exit status {code}"
    add(file, {"part": part, "finished": ended})
    print(part, ended, flush=True)
    return code == 0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/gpu/gpu.jsonl"), help="file of the lines")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script")
    every = [part for parts in STAGES.values() for part in parts]
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="PART", help=", ".join(every))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        return run_part(asked.part, asked.output, asked.device, asked.quick)
    try:
        found = environment(asked.device)
    except (AssertionError, RuntimeError) as error:
        parser.error(f"--device {asked.device}: {error}; --device cpu --quick tries the script")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    asked.output.write_text("")
    add(asked.output, {"part": "environment", **found})
    given, good = ["--device", asked.device, *(["--quick"] if asked.quick else [])], True
    for limit, parts in STAGES.items():
        chosen = [part for part in parts if part in asked.only]
        start = partial(start_part, limit=limit, file=asked.output, given=given)
        with ThreadPoolExecutor(max(1, len(chosen))) as pool:
            good &= all(pool.map(start, chosen))
    lines = [json.loads(line) for line in asked.output.read_text().splitlines()]
    sys.exit(not good or any(map(is_wrong, lines)))


def is_wrong(line: dict[str, Any]) -> bool:
    """Whether a case ended in an error, or found what must not be."""
    finite = all(line.get(name, True) for name in ("finite", "finite_scores"))
    same = all(line.get(name, 0.0) <= MOST_DIFFERENT for name in line if name.startswith("relative_difference"))
    return "error" in line or not finite or not same


if __name__ == "__main__":
    main()
