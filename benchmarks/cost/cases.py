"""One case in a process of its own: seconds of a training step or a forecast, or the memory of a backtest.

Series are random walks, in the backtests ETTm1. B: series of a step, C: context, H: horizon.
"""

from __future__ import annotations

import copy
import ctypes
import time
import tracemalloc
import warnings
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

from benchmarks.models.base import QUIET
from benchmarks.run.provenance import quiet
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import describe
from darts_msft.datasets import load_dataset

ARGUMENTS: dict[str, dict[str, Any]] = {  # a case's method -> arguments of MSFTFoundationModel
    **{name: {"method": name} for name in ("zero_shot", "full", "msft", "msft_full")},
    "one_sequence": {"method": "msft", "attention": "one_sequence"},
    "uni2ts": {"method": "zero_shot"},  # these two run uni2ts' own code on the same weights
    "full_uni2ts": {"method": "full"},
}
ETTM1_TEST = (46_080, 57_600)  # steps: from the end of the 16th to that of the 20th month of 30 days


@dataclass(frozen=True)
class Case:
    """One row. `backbone` is what the model is loaded from, `scales` K; `length` are a backtest's steps.

    `finest` are the steps that scale 0 sees; 0: the whole context, as every scale.
    """

    model: str
    backbone: str
    what: str
    method: str
    scales: int
    context: int
    patch: int
    batch: int
    horizon: int
    series: int
    samples: int
    threads: int
    accelerator: str
    data: str | None = None
    length: int = 0
    finest: int = 0


def save_random(folder: str | Path, d_model: int = 384, num_layers: int = 6) -> None:
    """A checkpoint of MOIRAI small's size (13.8 M parameters), or another, with random weights."""
    torch.manual_seed(0)
    names = ("StudentTOutput", "NormalFixedScaleOutput", "NegativeBinomialOutput", "LogNormalOutput")
    mixture = distribution.MixtureOutput([getattr(distribution, name)() for name in names])
    sizes = {"d_model": d_model, "num_layers": num_layers, "patch_sizes": (8, 16, 32, 64, 128), "max_seq_len": 512}
    MoiraiModule(mixture, **sizes, attn_dropout_p=0.0, dropout_p=0.0).save_pretrained(folder)


def walks(count: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, length)).cumsum(axis=1).astype(np.float32)


def create(case: Case, likelihood: str | None = "native") -> MSFTFoundationModel:
    """The case's model, without weights yet."""
    return MSFTFoundationModel(
        case.context,
        case.horizon,
        backbone=case.backbone,
        patch_size=case.patch,
        num_scales=case.scales,
        finest_context=case.finest or case.context,
        likelihood=likelihood,
        batch_size=case.batch,
        n_epochs=1,
        random_state=0,
        pl_trainer_kwargs={**QUIET, "accelerator": case.accelerator, "devices": 1},
        **ARGUMENTS[case.method],
    )


def load(case: Case, likelihood: str | None = "native", variables: int = 1) -> MSFTFoundationModel:
    """The same with weights and after a step on one window, from which on every scale forecasts."""
    return create(case, likelihood).fit(TimeSeries.from_values(walks(variables, case.context + case.horizon).T))


def packed_loss(module: MoiraiModule, series: Tensor, context: int, patch: int) -> Callable[[], Tensor]:
    """The loss of full finetuning as uni2ts computes it on packed tokens; `series` is (B, C + H), one in each row."""
    padding = (-context % patch, -(series.shape[1] - context) % patch)
    widen = (0, max(module.patch_sizes) - patch)
    tokens, observed = (
        F.pad(rearrange(F.pad(values, padding), "b (n p) -> b n p", p=patch), widen)
        for values in (series, torch.ones_like(series))
    )
    time_id = torch.arange(tokens.shape[1], device=series.device).expand(tokens.shape[:2])
    ahead, sample, variate = time_id >= (context + padding[0]) // patch, torch.ones_like(time_id), time_id * 0

    def loss() -> Tensor:
        forecast = module(tokens, observed.bool(), sample, time_id, variate, ahead, sample * patch)
        return PackedNLLLoss()(forecast, tokens, ahead, observed.bool(), sample, variate)

    return loss


def training_step(case: Case) -> Callable[[], None]:
    """A function that takes one step on a batch of random walks."""
    series = torch.from_numpy(walks(case.batch, case.context + case.horizon)).to(case.accelerator)
    if case.method == "full_uni2ts":
        module: Any = MoiraiModule.from_pretrained(describe(case.backbone)[0].location).to(case.accelerator)
        loss_of = packed_loss(module.train(), series, case.context, case.patch)
        return partial(_take_step, loss_of, torch.optim.AdamW(module.parameters(), lr=1e-5))
    module = load(case).model
    module.to(case.accelerator).train()
    module.log = lambda *_, **__: None  # there is no trainer that it could tell
    past, future = series.unsqueeze(-1).split([case.context, case.horizon], dim=1)
    batch = TorchTrainingBatch(past_target=past, future_target=future)
    return partial(_take_step, partial(module.training_step, batch, 0), module.configure_optimizers())


def _take_step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss_of().backward()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()


def forecasting(case: Case) -> Callable[[], list[Any]]:
    """A function that forecasts the list of series, from what users hold to what they get, with sample paths."""
    values = walks(case.series, case.context)
    if case.method != "uni2ts":
        model, series = load(case), [TimeSeries.from_values(row) for row in values]
        return partial(model.predict, case.horizon, series, num_samples=case.samples, verbose=False)
    module = MoiraiModule.from_pretrained(describe(case.backbone)[0].location)
    lengths = {"prediction_length": case.horizon, "context_length": case.context, "patch_size": case.patch}
    inputs = {"target_dim": 1, "feat_dynamic_real_dim": 0, "past_feat_dynamic_real_dim": 0}
    forecaster = MoiraiForecast(module=module, num_samples=case.samples, **lengths, **inputs)
    predictor = forecaster.create_predictor(batch_size=case.batch, device=case.accelerator)
    start = pd.Period("2024-01-01", freq="h")
    dataset = ListDataset([{"start": start, "target": row} for row in values], freq="h")
    return lambda: list(predictor.predict(dataset))


def begin_peak(accelerator: str) -> Callable[[], int | None]:
    """A function that gives the most bytes held since this call: on a GPU torch's, else those beyond the size now."""
    if accelerator != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before counts as held now, and hides as much of the peak
        Path("/proc/self/clear_refs").write_text("5")
    except (AttributeError, OSError):
        return lambda: None
    before = _held("VmRSS")
    return lambda: _held("VmHWM") - before


def _held(name: str) -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def measure(case: Case) -> dict[str, Any]:
    """Seconds of one run or more, after one to warm up, and their peak memory; or those of a backtest."""
    torch.set_num_threads(case.threads)
    quiet()
    warnings.filterwarnings("ignore", message="Total length of")  # there is no validation data
    if case.what == "memory":
        return _measure_backtest(case)
    run = training_step(case) if case.what == "step" else forecasting(case)
    if case.what == "forecast":
        run()  # what a first run imports and keeps is in no peak; a step's peak has the optimiser's state
    peak = begin_peak(case.accelerator)
    timer = Timer("run()", globals={"run": run}, num_threads=case.threads)
    return {"seconds": timer.blocked_autorange(min_run_time=0.5).times, "peak_memory_bytes": peak()}


def _measure_backtest(case: Case) -> dict[str, Any]:
    """`historical_forecasts` over the first `length` steps of ETTm1's test part: stride 1, point forecasts."""
    begin = ETTM1_TEST[0]
    series = load_dataset("ETTm1", case.data)[begin - case.context : begin + case.length].astype(np.float32)
    model = load(case, likelihood=None, variables=series.n_components)
    peak, started = begin_peak(case.accelerator), time.perf_counter()
    how = {"forecast_horizon": case.horizon, "stride": 1, "retrain": False, "last_points_only": False}
    found = model.historical_forecasts(series, **how)
    seconds, most = time.perf_counter() - started, peak()
    held = size_of(found) if case.accelerator == "cpu" else 0
    more = {"result_bytes": held, "beyond_result_bytes": None if most is None else most - held}
    return {"seconds": [seconds], "peak_memory_bytes": most, "windows": len(found), **more}


def size_of(forecasts: list[TimeSeries]) -> int:
    """Bytes that a list of forecasts of equal shape holds: those of a copy of its first 100, times their number."""
    tracemalloc.start()
    copied = copy.deepcopy(forecasts[:100])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(size / len(copied) * len(forecasts))
