"""Width and depth of the bundled checkpoint: equal processor time for each, on synthetic series alone.

    python -m benchmarks.sizes [--sizes 96x4 128x6 192x6 --minutes 8]

Each size pretrains for the same processor time on one thread (whole schedule, decay included) and is scored on the
held-back synthetic series; then its size on disk and the time of 256 zero-shot forecasts (context 512, horizon 96,
100 samples, patch 32) are measured.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries

from benchmarks.listings import append
from benchmarks.provenance import provenance
from darts_msft import MSFTFoundationModel
from darts_msft.pretraining.train import Pretraining, Settings

RESULTS = Path(__file__).parent / "results" / "sizes.json"
PROBE_STEPS = 12  # steps that tell how many fit into the time


def steps_within(settings: dict[str, Any], seconds: float, directory: Path) -> int:
    """Training steps that take `seconds` of processor time."""
    run = Pretraining(Settings(**settings, steps=PROBE_STEPS + 1), directory)
    for index, task in enumerate(run.batches()):
        if index == 1:
            begin = time.process_time()
        run.train_step(task)
    return max(PROBE_STEPS, round(seconds / (time.process_time() - begin) * PROBE_STEPS))


def forecast_seconds(checkpoint: Path) -> float:
    """Seconds of 256 forecasts through Darts, all threads; the second of two calls."""
    model = MSFTFoundationModel(
        512, 96, backbone=str(checkpoint), patch_size=32, batch_size=256, pl_trainer_kwargs={"accelerator": "cpu"}
    )
    walks = np.random.default_rng(0).standard_normal((256, 512, 1)).cumsum(axis=1).astype(np.float32)
    series = [TimeSeries.from_values(walk) for walk in walks]
    for _ in range(2):
        begin = time.perf_counter()
        model.predict(96, series=series, num_samples=100, verbose=False)
    return time.perf_counter() - begin


def measure(size: str, minutes: float) -> dict[str, Any]:
    width, layers = map(int, size.split("x"))
    settings = {"width": width, "layers": layers, "precision": "bfloat16", "warmup": 100}
    with tempfile.TemporaryDirectory() as folder:
        directory, threads = Path(folder), torch.get_num_threads()
        torch.set_num_threads(1)
        steps = steps_within(settings, minutes * 60, directory / "probe")
        run, begin = Pretraining(Settings(**settings, steps=steps), directory / "run"), time.process_time()
        run.run(log_every=steps, save_every=steps)
        seconds = time.process_time() - begin
        torch.set_num_threads(threads)
        export = directory / "run" / "export"
        return {
            "size": size,
            "parameters": sum(p.numel() for p in run.module.parameters()),
            "megabytes": (export / "model.safetensors").stat().st_size / 1e6,
            "steps": steps,
            "processor_seconds": seconds,
            "validation_loss": run.validation_loss(run.averaged_backbones),
            "seconds_256_forecasts": forecast_seconds(export),
            "threads": threads,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes", description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["96x4", "128x6", "192x6"], help="width x layers")
    parser.add_argument("--minutes", type=float, default=8.0, help="processor time for each size")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        result = {**provenance(), "minutes": arguments.minutes, **measure(size, arguments.minutes)}
        append(RESULTS, result)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
