"""One case in a process of its own: seconds of a training step or a forecast, of random walks, and their memory.

B: series of a step, C: context, H: horizon.
"""

from __future__ import annotations

import ctypes
import gc
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from darts import TimeSeries
from darts.models import Chronos2Model
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from darts.utils.likelihood_models.torch import QuantileRegression
from safetensors.torch import save_file
from torch.utils.benchmark import Timer
from uni2ts import distribution
from uni2ts.model.moirai import MoiraiModule

from benchmarks.models.base import QUIET
from benchmarks.run.provenance import quiet
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import ARCHITECTURES, PRETRAINED, load_class

ASKED = [0.1, 0.5, 0.9]  # quantiles of Chronos-2's forecasts


@dataclass(frozen=True)
class Case:
    """One row. `backbone` is what the model is loaded from, `scales` K.

    `method` is one of MSFTFoundationModel's, or "darts" for Darts' Chronos2Model. `finest` are the steps that scale 0
    sees; 0: the whole context, as every scale.
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
    finest: int = 0


def save_random(folder: str | Path, d_model: int = 384, num_layers: int = 6) -> None:
    """A checkpoint of MOIRAI small's size (13.8 M parameters), or another, with random weights."""
    torch.manual_seed(0)
    names = ("StudentTOutput", "NormalFixedScaleOutput", "NegativeBinomialOutput", "LogNormalOutput")
    mixture = distribution.MixtureOutput([getattr(distribution, name)() for name in names])
    sizes = {"d_model": d_model, "num_layers": num_layers, "patch_sizes": (8, 16, 32, 64, 128), "max_seq_len": 512}
    MoiraiModule(mixture, **sizes, attn_dropout_p=0.0, dropout_p=0.0).save_pretrained(folder)


def save_random_chronos2(folder: str | Path, name: str) -> None:
    """The same of an official Chronos-2's size."""
    width, layers = PRETRAINED[name].width, PRETRAINED[name].layers
    published = ARCHITECTURES["chronos2"].published
    more = {"time_encoding_scale": 8192, "use_arcsinh": True, "use_reg_token": True}
    config = {**published, "d_model": width, "num_layers": layers}
    config |= {"chronos_config": {**published["chronos_config"], **more}}
    config |= {"d_kv": 64, "d_ff": 4 * width, "num_heads": width // 64, "dropout_rate": 0.1}
    config |= {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "rope_theta": 10000.0}
    torch.manual_seed(0)
    backbone = load_class("chronos2").from_config(config, config["chronos_config"]["input_patch_size"])
    Path(folder, "config.json").write_text(json.dumps(config))
    save_file(backbone.state_dict(), Path(folder, "model.safetensors"))


def walks(count: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, length)).cumsum(axis=1).astype(np.float32)


def load(case: Case) -> Any:
    """The case's model after a step on one window, from which on every scale forecasts."""
    trainer = {**QUIET, "accelerator": case.accelerator, "devices": 1}
    shared: dict[str, Any] = {"batch_size": case.batch, "n_epochs": 1, "random_state": 0, "pl_trainer_kwargs": trainer}
    likelihood = QuantileRegression(ASKED) if _is_chronos2(case) else "native"
    model: Any
    if case.method == "darts":
        own = {"local_dir": case.backbone, "enable_finetuning": case.what == "step"}
        model = Chronos2Model(case.context, case.horizon, likelihood=likelihood, **own, **shared)
    else:
        scales = {"num_scales": case.scales, "finest_context": case.finest or case.context, "patch_size": case.patch}
        own = {"backbone": case.backbone, "method": case.method, "likelihood": likelihood}
        model = MSFTFoundationModel(case.context, case.horizon, **scales, **own, **shared)
    return model.fit(TimeSeries.from_values(walks(1, case.context + case.horizon).T))


def _is_chronos2(case: Case) -> bool:
    return case.model.startswith("chronos")


def training_step(case: Case) -> Callable[[], None]:
    """A function that takes one step on a batch of random walks. Darts doesn't clip gradients, MSFT does."""
    module = load(case).model.to(case.accelerator).train()
    module.log = lambda *_, **__: None  # there is no trainer that it could tell
    series = torch.from_numpy(walks(case.batch, case.context + case.horizon)).to(case.accelerator)
    past, future = series.unsqueeze(-1).split([case.context, case.horizon], dim=1)
    batch, made = TorchTrainingBatch(past_target=past, future_target=future), module.configure_optimizers()
    optimizer = made if isinstance(made, torch.optim.Optimizer) else made[0][0]
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = module.training_step(batch, 0)
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        if case.method != "darts":
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()

    return step


def forecasting(case: Case) -> Callable[[], list[TimeSeries]]:
    """A function that forecasts the list of series, from what users hold to what they get."""
    asked = {"predict_likelihood_parameters": True} if _is_chronos2(case) else {"num_samples": case.samples}
    series = [TimeSeries.from_values(row) for row in walks(case.series, case.context)]
    return partial(load(case).predict, case.horizon, series, verbose=False, **asked)


def begin_peak(accelerator: str) -> Callable[[], int | None]:
    """A function that gives the most bytes held since this call: on a GPU torch's, else those beyond the size now."""
    gc.collect()  # what earlier cases left
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
    """Seconds of one run or more, after one to warm up, and their peak memory."""
    torch.set_num_threads(case.threads)
    quiet()
    warnings.filterwarnings("ignore", message="Total length of")  # there is no validation data
    run = training_step(case) if case.what == "step" else forecasting(case)
    if case.what == "forecast":
        run()  # what a first run imports and keeps is in no peak; a step's peak has the optimiser's state
    peak = begin_peak(case.accelerator)
    timer = Timer("run()", globals={"run": run}, num_threads=case.threads)
    return {"seconds": timer.blocked_autorange(min_run_time=0.5).times, "peak_memory_bytes": peak()}
