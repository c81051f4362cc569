"""`python -m benchmarks.cost.chronos2`: MSFT on Chronos-2 against Darts' own Chronos2Model, in seconds.

Both have random weights of the official sizes and forecast the same random walks from the same memory: Darts' model
sees all of it at once, MSFT's finest scale a quarter, and its two coarser ones twice and four times as much. A forecast
is `predict` with the parameters of QuantileRegression; a training step is one of MSFT against one of Darts'
`enable_finetuning=True`, which trains every weight.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from darts import TimeSeries
from darts.models import Chronos2Model
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from darts.utils.likelihood_models.torch import QuantileRegression
from safetensors.torch import save_file

from benchmarks.cost.cases import walks
from benchmarks.models.base import QUIET
from benchmarks.run.provenance import provenance, quiet
from benchmarks.run.store import append
from darts_msft import MSFTFoundationModel
from darts_msft.backbones import ARCHITECTURES, PRETRAINED, load_class

SIZES = ("chronos-2", "chronos-2-small")
ASKED = [0.1, 0.5, 0.9]
PATCH, SCALES, CLIP = 16, 2, 1.0  # of the gradients' norm, as MSFT does and Darts doesn't


def save_random(folder: str, size: str) -> None:
    """A checkpoint of an official one's size."""
    width, layers = PRETRAINED[size].width, PRETRAINED[size].layers
    config = {**ARCHITECTURES["chronos2"].published, "d_model": width, "num_layers": layers}
    config["chronos_config"] = {
        **config["chronos_config"],
        "time_encoding_scale": 8192,
        "use_arcsinh": True,
        "use_reg_token": True,
    }
    config |= {"d_kv": 64, "d_ff": 4 * width, "num_heads": width // 64, "dropout_rate": 0.1}
    config |= {"feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "rope_theta": 10000.0}
    torch.manual_seed(0)
    backbone = load_class("chronos2").from_config(config, PATCH)
    Path(folder, "config.json").write_text(json.dumps(config))
    save_file(backbone.state_dict(), Path(folder, "model.safetensors"))


def theirs(folder: str, context: int, horizon: int, batch: int, trains: bool) -> Chronos2Model:
    return Chronos2Model(
        context,
        horizon,
        local_dir=folder,
        likelihood=QuantileRegression(ASKED),
        enable_finetuning=trains,
        batch_size=batch,
        n_epochs=1,
        random_state=0,
        pl_trainer_kwargs={**QUIET, "accelerator": "cpu"},
    )


def ours(folder: str, context: int, horizon: int, batch: int) -> MSFTFoundationModel:
    return MSFTFoundationModel(
        context,
        horizon,
        backbone=folder,
        num_scales=SCALES,
        finest_context=context // 2**SCALES,
        likelihood=QuantileRegression(ASKED),
        batch_size=batch,
        n_epochs=1,
        random_state=0,
        pl_trainer_kwargs={**QUIET, "accelerator": "cpu"},
    )


def forecasting(model: Any, horizon: int, values: np.ndarray) -> Callable[[], Any]:
    series = [TimeSeries.from_values(row) for row in values[:, :-horizon]]
    return partial(model.predict, horizon, series, predict_likelihood_parameters=True, verbose=False)


def training_step(model: Any, horizon: int, values: np.ndarray, clips: bool) -> Callable[[], None]:
    """A step on the series as one batch."""
    module = model.model.train()
    module.log = lambda *_, **__: None  # there is no trainer that it could tell
    past, future = torch.from_numpy(values).unsqueeze(-1).split([values.shape[1] - horizon, horizon], dim=1)
    batch, made = TorchTrainingBatch(past_target=past, future_target=future), module.configure_optimizers()
    optimizer = made if isinstance(made, torch.optim.Optimizer) else made[0][0]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = module.training_step(batch, 0)
        (loss["loss"] if isinstance(loss, dict) else loss).backward()
        if clips:
            torch.nn.utils.clip_grad_norm_([one for one in module.parameters() if one.requires_grad], CLIP)
        optimizer.step()

    return step


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds of each, after one to warm up; there and back, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in list(runs)[:: -1 if number % 2 else 1]:
            began = time.process_time()
            runs[name]()
            if number:
                seconds[name].append(time.process_time() - began)
                print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return seconds


def compare(what: str, folder: str, lengths: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """A "forecast" or a "step" of both; `lengths` are context, horizon and batch."""
    context, horizon, batch = lengths
    values = walks(batch, context + horizon)
    window = TimeSeries.from_values(values[0])
    models = {"msft": ours(folder, *lengths), "darts": theirs(folder, *lengths, what == "step")}
    for model in models.values():
        model.fit(window)
    if what == "forecast":
        runs: dict[str, Any] = {name: forecasting(model, horizon, values) for name, model in models.items()}
    else:
        runs = {name: training_step(model, horizon, values, name == "msft") for name, model in models.items()}
    seconds = in_turns(runs, rounds)
    own, other = (float(np.median(seconds[name])) for name in ("msft", "darts"))
    print(f"context {context}, {what}: MSFT {own:.2f} s, Darts {other:.2f} s, ratio {own / other:.2f}", flush=True)
    return {"context": context, "what": what, "seconds": seconds, "ratio": own / other}


def main(
    sizes: Annotated[list[str], typer.Option("--size", help=" | ".join(SIZES))] = [*SIZES],  # noqa: B006
    contexts: Annotated[list[int], typer.Option("--context", min=64, help="steps")] = [2048, 4096],  # noqa: B006
    horizon: Annotated[int, typer.Option(min=1, help="steps")] = 96,
    batch: Annotated[int, typer.Option(min=1, help="series of a step, and of a forecast")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="runs of each, after one to warm up")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="torch's threads")] = 1,
    results: Annotated[Path | None, typer.Option(help="file that the entry is added to")] = None,
) -> None:
    """Measure forecasts and training steps, and print them with their ratios."""
    torch.set_num_threads(threads)
    quiet()
    warnings.filterwarnings("ignore", message="Total length of")  # there is no validation data
    rows = []
    for size in sizes:
        print(size)
        with tempfile.TemporaryDirectory() as folder:
            save_random(folder, size)
            for context, what in product(contexts, ("forecast", "step")):
                rows.append({"size": size, **compare(what, folder, (context, horizon, batch), rounds)})
                gc.collect()
    if results is not None:
        settings = {"horizon": horizon, "batch": batch, "rounds": rounds, "threads": threads, "scales": SCALES}
        append(results, {**provenance(), "settings": settings, "rows": rows})


if __name__ == "__main__":
    typer.run(main)
