"""What `benchmarks.efficiency` measures, each case in a process of its own: seconds, and memory beyond the model's.

Training steps (forward, loss, backward, clipping, AdamW), forecasts of a list of series end to end, backtests at
stride 1, and imports. Series are random walks, in the backtests ETTm1. B: series of a step, C: context, H: horizon.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from darts import TimeSeries
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from einops import rearrange
from gluonts.dataset.common import ListDataset
from torch import Tensor
from torch.utils.benchmark import Timer
from uni2ts import distribution
from uni2ts.loss.packed import PackedNLLLoss
from uni2ts.model.moirai import MoiraiForecast, MoiraiModule

from benchmarks.checkpoint import make_model
from benchmarks.data.registry import REGISTRY
from benchmarks.run.processes import peak_memory_mb, quiet
from darts_msft import MSFTFoundationModel
from darts_msft.datasets import load_dataset

ARGUMENTS: dict[str, dict[str, Any]] = {  # a case's method -> arguments of MSFTFoundationModel
    "zero_shot": {"method": "zero_shot"},
    "full": {"method": "full"},
    "msft": {"method": "msft"},
    "one_sequence": {"method": "msft", "attention": "one_sequence"},
    "uni2ts": {"method": "zero_shot"},  # these two run uni2ts' own code on the same weights
    "full_uni2ts": {"method": "full"},
}
ETTM1_TEST = REGISTRY["lsf"]["ETTm1"].split.ends(REGISTRY["lsf"]["ETTm1"].file.shape[0])[1:]  # steps, begin and end
SIZED = 100  # forecasts whose size in memory is looked up; all are alike
PROFILE_ROWS = 15
CLEAR_REFS = Path("/proc/self/clear_refs")  # Linux' way to begin a new peak
LEAST_SECONDS = 0.5  # in each process, short runs are repeated for so long
COMPONENTS = ("StudentTOutput", "NormalFixedScaleOutput", "NegativeBinomialOutput", "LogNormalOutput")


@dataclass(frozen=True)
class Settings:
    """What all cases of a run share. `horizon` in steps; `series` are forecast, each in `samples` paths."""

    horizon: int
    samples: int
    series: int
    threads: int
    accelerator: str


@dataclass(frozen=True)
class Case:
    """One line of the table. `backbone` is what the model is loaded from, `scales` K, `length` a backtest's steps."""

    model: str
    backbone: str
    what: str
    method: str
    scales: int
    context: int
    patch: int
    batch: int
    length: int = 0

    def __str__(self) -> str:
        scales = f" K={self.scales}" if self.method in ("msft", "one_sequence") else ""
        length = f" of {self.length} steps in batches of {self.batch}" if self.length else ""
        return f"{self.model} {self.what} {self.method}{scales} context {self.context}{length}"


def save_random_small(folder: str | Path) -> None:
    """A checkpoint of MOIRAI small's size (13.8 M parameters) with random weights, as config.json and safetensors."""
    torch.manual_seed(0)
    mixture = distribution.MixtureOutput([getattr(distribution, name)() for name in COMPONENTS])
    sizes = {"d_model": 384, "num_layers": 6, "patch_sizes": (8, 16, 32, 64, 128), "max_seq_len": 512}
    MoiraiModule(mixture, **sizes, attn_dropout_p=0.0, dropout_p=0.0).save_pretrained(folder)


def walks(count: int, length: int) -> np.ndarray:
    """Random walks (count, length)."""
    return np.random.default_rng(0).standard_normal((count, length)).cumsum(axis=1).astype(np.float32)


# ------------------------------------------------------------------------------------------------------------- models


def refusal(case: Case, settings: Settings) -> str | None:
    """Why the case's model can't have this context, patch size or K; None where it can."""
    try:
        create(case, settings)
    except ValueError as error:
        return str(error)
    return None


def create(case: Case, settings: Settings, **changes: Any) -> MSFTFoundationModel:
    """The case's model, without weights yet."""
    chosen = {"likelihood": "native", "batch_size": case.batch, "num_scales": case.scales, **ARGUMENTS[case.method]}
    where = (case.backbone, case.context, settings.horizon, case.patch, settings.accelerator)
    return make_model(*where, **{**chosen, **changes})


def load(case: Case, settings: Settings, variables: int = 1, **changes: Any) -> MSFTFoundationModel:
    """The same with weights, in the state after a fit: every scale forecasts."""
    model = create(case, settings, **changes)
    model.scale_forecasts(TimeSeries.from_values(walks(variables, case.context).T))
    model.model.trained.fill_(case.method != "zero_shot")
    return model


# -------------------------------------------------------------------------------------------------------------- steps


class PackedLoss:
    """The loss of full finetuning as uni2ts computes it: `MoiraiModule.forward` on packed tokens, `PackedNLLLoss`.

    `series` is (B, C + H); here no row holds several series, which uni2ts' finetuning packs where they are short.
    """

    def __init__(self, module: MoiraiModule, series: Tensor, context: int, patch: int) -> None:
        self.module, self.loss = module.train(), PackedNLLLoss()
        padding = (-context % patch, -(series.shape[1] - context) % patch)
        widen = (0, max(module.patch_sizes) - patch)
        patches = [
            F.pad(rearrange(F.pad(values, padding), "b (n p) -> b n p", p=patch), widen)
            for values in (series, torch.ones_like(series))
        ]
        self.tokens, self.observed = patches[0], patches[1].bool()
        rows, count = self.tokens.shape[:2]
        self.time = torch.arange(count, device=series.device).expand(rows, count)
        self.ahead = self.time >= (context + padding[0]) // patch
        self.ones, self.patch = torch.ones_like(self.time), patch

    def __call__(self) -> Tensor:
        sample, variate, patches = self.ones, self.ones * 0, self.ones * self.patch
        forecast = self.module(self.tokens, self.observed, sample, self.time, variate, self.ahead, patches)
        loss: Tensor = self.loss(forecast, self.tokens, self.ahead, self.observed, sample, variate)
        return loss


def training_step(case: Case, settings: Settings) -> Callable[[], None]:
    """A function that takes one step on a batch of random walks."""
    module = load(case, settings).model.to(settings.accelerator).train()
    series = torch.from_numpy(walks(case.batch, case.context + settings.horizon)).to(settings.accelerator)
    if case.method == "full_uni2ts":
        loss_of: Callable[[], Tensor] = PackedLoss(module.backbone.module, series, case.context, case.patch)
        optimizer = torch.optim.AdamW([p for p in module.backbone.parameters() if p.requires_grad], lr=1e-5)
    else:
        past, future = series.unsqueeze(-1).split([case.context, settings.horizon], dim=1)
        batch = TorchTrainingBatch(past_target=past, future_target=future)
        loss_of = partial(_own_loss, module, batch)
        optimizer = module.configure_optimizers()
    return partial(_take_step, loss_of, optimizer)


def _own_loss(module: Any, batch: TorchTrainingBatch) -> Tensor:
    loss: Tensor = module.training_loss(batch, module.forecast_scales(batch.past_target))
    return loss


def _take_step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss_of().backward()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


# ---------------------------------------------------------------------------------------------------------- forecasts


def forecasting(case: Case, settings: Settings) -> Callable[[], list[Any]]:
    """A function that forecasts the list of series, from what users hold to what they get, with `samples` paths each.

    uni2ts': `MoiraiForecast(...).create_predictor(...).predict(dataset)`, at the same patch size and batch size.
    """
    values = walks(settings.series, case.context)
    if case.method != "uni2ts":
        model, series = load(case, settings), [TimeSeries.from_values(row) for row in values]
        return partial(model.predict, settings.horizon, series, num_samples=settings.samples, verbose=False)
    predictor = MoiraiForecast(
        prediction_length=settings.horizon,
        target_dim=1,
        feat_dynamic_real_dim=0,
        past_feat_dynamic_real_dim=0,
        context_length=case.context,
        module=load(case, settings).model.backbone.module,
        patch_size=case.patch,
        num_samples=settings.samples,
    ).create_predictor(batch_size=case.batch, device=settings.accelerator)
    start = pd.Period("2024-01-01", freq="h")
    dataset = ListDataset([{"start": start, "target": row} for row in values], freq="h")
    return lambda: list(predictor.predict(dataset))


BUILDERS: dict[str, Callable[[Case, Settings], Callable[[], Any]]] = {
    "step": training_step,
    "forecast": forecasting,
}


# ----------------------------------------------------------------------------------------------- seconds and memory


class Memory:
    """The most memory held since it was made, in bytes.

    On a GPU, all that torch allocates there, weights included; else what the process holds beyond its size before.
    `restarted`: False where the system can't begin a new peak: then loading the model counts, or hides what follows.
    """

    def __init__(self, accelerator: str) -> None:
        self.on_gpu, self.before, self.restarted = accelerator != "cpu", 0, True
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            self.before, self.restarted = _restart_peak()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.on_gpu else round(peak_memory_mb() * 1e6) - self.before


def _restart_peak() -> tuple[int, bool]:
    """What this process holds now, and whether its peak, which loading a model leaves higher, counts from here on.

    Where the system is not Linux, the most that it has held.
    """
    now, restarted = Path("/proc/self/statm"), True
    if not now.exists():
        return round(peak_memory_mb() * 1e6), False
    try:
        CLEAR_REFS.write_text("5")
    except OSError:  # a kernel without it, or a container that may not
        restarted = False
    return int(now.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"), restarted


def measure(case: Case, settings: Settings) -> dict[str, Any]:
    """Seconds of one run or more, after one to warm up, and their peak memory."""
    be_quiet(settings.threads)
    run = BUILDERS[case.what](case, settings)
    memory = Memory(settings.accelerator)
    timer = Timer("run()", globals={"run": run}, num_threads=settings.threads)
    seconds = timer.blocked_autorange(min_run_time=LEAST_SECONDS).times
    return {"seconds": seconds, "peak_memory_bytes": memory.peak(), "peak_restarted": memory.restarted}


def measure_backtest(case: Case, settings: Settings, folder: str | None) -> dict[str, Any]:
    """`historical_forecasts` over the first `length` steps of ETTm1's test part: stride 1, point forecasts."""
    be_quiet(settings.threads)
    begin = ETTM1_TEST[0]
    series = load_dataset("ETTm1", folder)[begin - case.context : begin + case.length].astype(np.float32)
    model = load(case, settings, variables=series.n_components, likelihood=None)
    memory, started = Memory(settings.accelerator), time.perf_counter()
    found = model.historical_forecasts(
        series, forecast_horizon=settings.horizon, stride=1, retrain=False, last_points_only=False
    )
    seconds, peak = time.perf_counter() - started, memory.peak()
    held = 0 if memory.on_gpu else size_of(found)
    return {
        "seconds": [seconds],
        "peak_memory_bytes": peak,
        "peak_restarted": memory.restarted,
        "windows": len(found),
        "result_bytes": held,
        "beyond_result_bytes": peak - held,
    }


def size_of(forecasts: list[TimeSeries]) -> int:
    """Bytes that a list of forecasts of equal shape holds: those of a copy of its first, times their number."""
    sized = forecasts[:SIZED]
    tracemalloc.start()
    copied = copy.deepcopy(sized)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(size / len(copied) * len(forecasts))


def profile(case: Case, settings: Settings) -> str:
    """The operations that one run, after one to warm up, spends most of its own time in."""
    be_quiet(settings.threads)
    run, activities = BUILDERS[case.what](case, settings), [torch.profiler.ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if settings.accelerator != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        order = "self_device_time_total"
    run()
    with torch.profiler.profile(activities=activities) as profiler:
        run()
    return profiler.key_averages().table(sort_by=order, row_limit=PROFILE_ROWS, max_name_column_width=50)


def import_seconds(statement: str) -> float:
    """Seconds that Python's own accounting gives the imports of `statement`, in a fresh process."""
    words = [sys.executable, "-X", "importtime", "-c", statement]
    log = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    return imported(log)


def imported(log: str) -> float:
    """Seconds in what `-X importtime` prints: the totals that stand at the left, from the interpreter's start-up on."""
    total = 0
    for line in log.splitlines():
        times, _, name = line.removeprefix("import time:").rpartition("|")
        cumulative = times.rpartition("|")[2].strip()
        if cumulative.isdigit() and not name.startswith("  "):
            total = 0 if name.strip() == "site" else total + int(cumulative)
    return total / 1e6


def be_quiet(threads: int) -> None:
    """What the processes of all cases begin with."""
    torch.set_num_threads(threads)
    quiet()
