"""`python -m benchmarks.gpu_check`: everything once on a GPU, in about 4 minutes; what it finds goes to gpu.json.

Parts are processes with time limits, so that one that fails or hangs leaves the others alone; gpu.json is written anew
whenever one has found something. `--device cpu --quick` tries the script itself where there is no GPU. Needs no git
checkout and, but for the headline's ETTm1.csv (in the folder DARTS_MSFT_DATA), no data.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STAGES = (  # parts of one stage run side by side, and none longer than its seconds
    (14, ("environment",)),
    (90, ("agreement", "fits 32-true", "fits bf16-mixed")),
    (44, ("cost",)),
    (102, ("headline",)),
)
PARTS = tuple(part for _, parts in STAGES for part in parts)
HEADLINE = {  # as the suite "long_memory" chose them
    "msft": {"look_back": 4096, "finest_context": 512, "patch_size": 32},
    "full": {"look_back": 2048, "num_scales": 0, "patch_size": 32},
}
Case = tuple[dict[str, Any], Callable[[], dict[str, Any]]]  # what it is, and what finds its figures


def rows(path: Path, cases: list[Case]) -> None:
    """Adds a line of JSON to the file for every case, an error's text in the place of figures."""
    for place, find in cases:
        begin = time.perf_counter()
        try:
            found = find()
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"[:600]}
        line = json.dumps({**place, **found, "all_seconds": round(time.perf_counter() - begin, 3)})
        with path.open("a") as file:
            file.write(line + "\n")


def environment(device: str) -> dict[str, Any]:
    from importlib.metadata import version

    import torch

    names = ("numpy", "pandas", "darts", "pytorch-lightning", "peft", "transformers", "jaxtyping", "scipy")
    found = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    found |= {name: version(name) for name in names}
    if device == "cuda":
        card = torch.cuda.get_device_properties(0)
        found |= {"gpu": card.name, "memory_gb": card.total_memory / 1e9, "cuda": torch.version.cuda}
    return found


def agreement(device: str, quick: bool) -> list[Case]:
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
                model = MSFTFoundationModel(**lengths, **method, random_state=0, pl_trainer_kwargs=quiet_trainer(where))
                values.append(model.fit(series).predict(6, series).values())
        difference = float(np.abs(values[1] - values[0]).max() / np.abs(values[0]).max())
        return {"relative_difference": difference, "finite": bool(np.isfinite(values).all())}

    names = [name for name in MAKERS if name not in WITHOUT_HEAD and "toy" not in name][: 1 if quick else None]
    return [({"architecture": name}, lambda name=name: compare(name)) for name in names]


def quiet_trainer(device: str, **more: Any) -> dict[str, Any]:
    from benchmarks.models.base import QUIET

    return {**QUIET, "accelerator": device, "devices": 1, **more}


def fits(device: str, quick: bool, precision: str) -> list[Case]:
    """A short validated fit of every method on the bundled departures, a forecast, and the same after save and load."""
    import numpy as np
    import torch

    from benchmarks.cost.cases import begin_peak
    from darts_msft import MSFTFoundationModel
    from darts_msft.datasets import load_departures
    from darts_msft.methods import METHODS

    context, batches, validated = (96, 2, 28) if quick else (336, 8, 80)
    series = load_departures()[-2000:].astype(np.float32)

    def fit(method: str) -> dict[str, Any]:
        trainer = quiet_trainer(device, precision=precision, limit_train_batches=batches)
        model = MSFTFoundationModel(
            context,
            24,
            method=method,
            num_scales=2,
            patch_size=16,
            finest_context=context // 2,
            linear_member=False,  # a closed form, solved on the processor
            n_epochs=2,
            random_state=0,
            pl_trainer_kwargs=trainer,
        )
        peak, begin = begin_peak(device), time.perf_counter()
        model.fit(series[:-600], val_series=series[-context - validated :])
        seconds, most, report = time.perf_counter() - begin, peak(), model.fit_report
        asked = {"num_samples": 100, "random_state": 0}
        forecast = model.predict(24, series, **asked).all_values()
        with tempfile.TemporaryDirectory() as folder:
            model.save(f"{folder}/model.pt")
            again = MSFTFoundationModel.load(f"{folder}/model.pt").predict(24, series, **asked).all_values()
        found = {"seconds": seconds, "peak_memory_mb": None if most is None else most / 1e6}
        if report is not None:
            found |= {"before": report.before, "best": report.best, "kept": report.kept}
            found |= {"finite_scores": all(map(math.isfinite, (report.before or 0.0, report.best or 0.0)))}
        same = float(np.abs(again - forecast).max() / np.abs(forecast).max())
        return {**found, "finite": bool(np.isfinite(forecast).all()), "relative_difference_after_load": same}

    torch.set_num_threads(2)
    return [
        ({"method": name, "precision": precision}, lambda name=name: fit(name))
        for name in list(METHODS)[: 2 if quick else None]
    ]


def cost(device: str, quick: bool) -> list[Case]:
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
        times, peak = sorted(found["seconds"]), found["peak_memory_bytes"]
        middle = {"seconds": times[len(times) // 2], "fastest": times[0], "runs": len(times)}
        return {**middle, "peak_memory_mb": None if peak is None else peak / 1e6}

    names = ("size", "context", "what", "method", "scales", "finest")
    all_of = [(size, context, *kind) for context, size, kind in product(contexts, sizes, kinds[1 if quick else 0 :])]
    return [(dict(zip(names, each, strict=True)), lambda each=each: find(*each)) for each in all_of]


def headline(path: Path, device: str, quick: bool, seconds: int) -> None:
    """Both models with three seeds, a process each, side by side."""
    cases = list(product(HEADLINE, range(1 if quick else 3)))
    words = [sys.executable, "-m", "benchmarks.gpu_check", "--device", device, "--seconds", str(seconds)]
    words += ["--rows", str(path), *(["--quick"] if quick else [])]
    children = [subprocess.Popen([*words, "--part", f"headline {name} {seed}"], cwd=ROOT) for name, seed in cases]
    for child in children:
        child.wait()


def headline_of(device: str, quick: bool, seconds: int, name: str, seed: int) -> list[Case]:
    """ETTm1-96 as the suite "long_memory" has it, with more windows: 16 epochs of 2,048 are all of them about once.

    No epoch begins after 45 % of `seconds`, so that there is time to measure the test part's forecasts.
    """
    from pytorch_lightning import Callback

    from benchmarks import data
    from benchmarks.models import Budget, load_forecaster
    from benchmarks.run.measures import measure

    begin, windows, epochs, few, stride = time.perf_counter(), 2048, 16, 160, 7
    if quick:
        windows, epochs, few, stride = 64, 1, 4, 997
    budget = Budget(epochs=epochs, patience=4, train_windows=windows, validation_windows=few)
    forecaster, dataset = load_forecaster(name, HEADLINE[name], budget), data.load("ETTm1", "lsf", None)
    made: list[Any] = []

    class StopInTime(Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop |= time.perf_counter() - begin > 0.45 * seconds

    def fit() -> dict[str, Any]:
        trainer = forecaster.trainer()
        more = {"callbacks": [*trainer["callbacks"], StopInTime()], "accelerator": device, "devices": 1}
        forecaster.trainer = lambda *_, **__: {**trainer, **more}  # type: ignore[method-assign]
        (settings,), _ = forecaster.candidates(dataset, 96)
        model = forecaster.build(settings, dataset, 96, seed, None)
        forecaster.fit(model, dataset, settings)
        made.append(model)
        report = model.fit_report
        scores = {"before": report.before, "best": report.best, "kept": report.kept}
        return {**scores, "epoch_seconds": report.epoch_seconds, "windows_an_epoch": windows}

    def test() -> dict[str, Any]:
        found = measure(forecaster, made[0], dataset, "test", stride, None)
        return {"forecast_seconds": found["seconds"], "windows": found["windows"], **found["metrics"]}

    return [({"model": name, "seed": seed, "what": "fit"}, fit), ({"model": name, "seed": seed, "what": "test"}, test)]


def run_part(words: list[str], path: Path, device: str, quick: bool, seconds: int) -> None:
    """One part, in this process; what it finds goes to `path`."""
    warnings.simplefilter("ignore")
    if words[0] == "headline" and len(words) == 1:
        return headline(path, device, quick, seconds)
    if words[0] == "environment":
        return rows(path, [({}, lambda: environment(device))])
    from benchmarks.run.provenance import quiet

    quiet()
    if words[0] == "headline":
        return rows(path, headline_of(device, quick, seconds, words[1], int(words[2])))
    makers: dict[str, Callable[..., list[Case]]] = {"agreement": agreement, "fits": fits, "cost": cost}
    return rows(path, makers[words[0]](device, quick, *words[1:]))


def run_stage(parts: list[str], limit: int, output: Path, given: list[str], found: dict[str, Any]) -> None:
    """Parts side by side; what they have found is kept at every change, and at the limit they are ended."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        running = {}
        for part in parts:
            path, log = Path(folder, part), output / f"{part.replace(' ', '_')}.log"
            words = ["--part", part, "--rows", str(path), "--seconds", str(limit), *given]
            with log.open("w") as file:
                command = [sys.executable, "-m", "benchmarks.gpu_check", *words]
                places = {"cwd": ROOT, "stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
                running[part] = (subprocess.Popen(command, **places), path)
        going = True
        while going:
            time.sleep(0.5)
            late = time.monotonic() - begin > limit
            going = not late and any(process.poll() is None for process, *_ in running.values())
            for part, (process, path) in running.items():
                state = {"finished": process.poll(), "seconds": round(time.monotonic() - begin, 1)}
                if state["finished"] is None and late:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    state["finished"] = f"ended at its limit of {limit} s"
                if state["finished"] is None or found.get(part, {}).get("finished") is None:
                    lines = (
                        [line for line in path.read_text().splitlines(True) if line[-1] == "\n"]
                        if path.exists()
                        else []
                    )
                    found[part] = {**state, "rows": [json.loads(line) for line in lines]}
            write(output / "gpu.json", found)


def write(path: Path, found: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.with_suffix(".tmp").write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/gpu"), help="folder of gpu.json and the logs")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="these parts alone")
    parser.add_argument("--seconds", type=int, default=sum(limit for limit, _ in STAGES), help="limit of all parts")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        return run_part(asked.part.split(), asked.rows, asked.device, asked.quick, asked.seconds)
    if asked.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: torch sees no CUDA device here; --device cpu --quick tries the script")
    asked.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    given, share = (
        ["--device", asked.device, *(["--quick"] if asked.quick else [])],
        asked.seconds / parser.get_default("seconds"),
    )
    for limit, parts in STAGES:
        if chosen := [part for part in parts if part in asked.only]:
            run_stage(chosen, round(share * limit), asked.output, given, found)
            print(json.dumps({part: found[part]["finished"] for part in chosen}), flush=True)
    if any(map(failed, found.values())):
        sys.exit(1)


def failed(part: dict[str, Any]) -> bool:
    """It did not end by itself, or a case of it ended in an error or as a failure."""
    return part["finished"] != 0 or any(row.get("error") for row in part["rows"])


if __name__ == "__main__":
    main()
