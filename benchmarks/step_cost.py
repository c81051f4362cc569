"""What a training step of MSFT costs against full finetuning of the same model at one scale, in one run.

    python -m benchmarks.step_cost [--width 384 --layers 6 --batch 32 --rounds 7]

Random weights of MOIRAI small's size by default. Every step is forward, loss, backward, clipping and AdamW over the
same batch; rounds alternate, so that all see the same machine. Full finetuning is measured twice: `full_uni2ts` through
uni2ts' own forward and loss, as its finetuning script runs them (here without packing several series into a row), and
`full` through this package's forward, which does the same in less time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from einops import rearrange
from torch import Tensor
from uni2ts.distribution import (
    LogNormalOutput,
    MixtureOutput,
    NegativeBinomialOutput,
    NormalFixedScaleOutput,
    StudentTOutput,
)
from uni2ts.loss.packed import PackedNLLLoss
from uni2ts.model.moirai.module import MoiraiModule, encode_distr_output

from benchmarks.provenance import provenance
from darts_msft.config import LearningRates, MethodConfig, MixingConfig
from darts_msft.likelihoods import ScaleMixture
from darts_msft.module import MSFTModule

RESULTS = Path(__file__).parent / "results" / "step_cost.json"


def build(arguments: argparse.Namespace, method: str, num_scales: int) -> MSFTModule:
    torch.manual_seed(0)
    components = [StudentTOutput(), NormalFixedScaleOutput(), NegativeBinomialOutput(), LogNormalOutput()]
    config = {
        "distr_output": encode_distr_output(MixtureOutput(components)),
        "d_model": arguments.width,
        "num_layers": arguments.layers,
        "patch_sizes": [8, 16, 32, 64, 128],
        "max_seq_len": 512,
        "attn_dropout_p": 0.0,
        "dropout_p": 0.0,
    }
    module = MSFTModule(
        architecture="moirai",
        backbone_config=config,
        patch_size=arguments.patch,
        num_scales=num_scales,
        method=method,
        method_config=MethodConfig().to_dict(),
        mixing_config=MixingConfig().to_dict(),
        learning_rates=LearningRates(1e-5, 1e-4, 1e-5, 1e-3).to_dict(),
        input_chunk_length=arguments.context,
        output_chunk_length=arguments.horizon,
        train_sample_shape={"past_target": (arguments.context, 1)},
        likelihood=ScaleMixture("moirai", config, num_scales + 1),
        optimizer_cls=torch.optim.AdamW,
    )
    assert isinstance(module.backbone.module, MoiraiModule)
    module.trained.fill_(True)
    return module.train()


def step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Seconds of one training step."""
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss_of().backward()
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    return time.perf_counter() - begin


class PackedStep:
    """Full finetuning as uni2ts runs it: `MoiraiModule.forward` on packed tokens and `PackedNLLLoss`."""

    def __init__(self, module: MoiraiModule, arguments: argparse.Namespace, series: Tensor) -> None:
        self.module, self.loss = module.train(), PackedNLLLoss()
        patch, largest = arguments.patch, max(module.patch_sizes)
        target = rearrange(series, "b (n p) 1 -> b n p", p=patch)
        self.tokens = torch.nn.functional.pad(target, (0, largest - patch))
        rows, count = self.tokens.shape[:2]
        self.observed = torch.zeros_like(self.tokens, dtype=torch.bool)
        self.observed[..., :patch] = True
        self.time = torch.arange(count).expand(rows, count)
        self.horizon = self.time >= arguments.context // patch
        self.ones = torch.ones_like(self.time)

    def __call__(self) -> Tensor:
        sample, variate = self.ones, self.ones * 0
        patches = self.ones * self.observed[0, 0].sum()
        forecast = self.module(self.tokens, self.observed, sample, self.time, variate, self.horizon, patches)
        loss: Tensor = self.loss(forecast, self.tokens, self.horizon, self.observed, sample, variate)
        return loss


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    modules = {"full": build(arguments, "full", 0)}
    modules |= {f"msft_k{scales}": build(arguments, "msft", scales) for scales in range(arguments.scales + 1)}
    series = torch.randn(arguments.batch, arguments.context + arguments.horizon, 1).cumsum(dim=1)
    batch = TorchTrainingBatch(past_target=series[:, : arguments.context], future_target=series[:, arguments.context :])
    losses: dict[str, Callable[[], Tensor]] = {
        name: partial(loss_of, module, batch) for name, module in modules.items()
    }
    optimizers = {name: module.configure_optimizers() for name, module in modules.items()}
    packed = build(arguments, "full", 0).backbone
    losses["full_uni2ts"] = PackedStep(packed.module, arguments, series)
    optimizers["full_uni2ts"] = torch.optim.AdamW([p for p in packed.parameters() if p.requires_grad], lr=1e-5)
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(arguments.rounds + 2):  # the first two rounds warm up
        for name, loss in losses.items():
            seconds[name].append(step(loss, optimizers[name]))
    medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    return {
        "seconds": medians,
        "ratio_to_full": {name: value / medians["full"] for name, value in medians.items()},
        "ratio_to_full_uni2ts": {name: value / medians["full_uni2ts"] for name, value in medians.items()},
        "trained_parameters": {
            name: sum(p.numel() for group in optimizer.param_groups for p in group["params"])
            for name, optimizer in optimizers.items()
        },
    }


def loss_of(module: MSFTModule, batch: TorchTrainingBatch) -> Tensor:
    return module.training_loss(batch, module.forecast_scales(batch.past_target))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cost", description=__doc__)
    defaults = {"width": 384, "layers": 6, "batch": 32, "context": 2048, "horizon": 96, "patch": 32, "scales": 3}
    for name, default in {**defaults, "rounds": 7, "threads": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    result = {**provenance(), "settings": vars(arguments), **measure(arguments)}
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([*results, result], indent=1) + "\n")
    for name, ratio in result["ratio_to_full"].items():
        packed = result["ratio_to_full_uni2ts"][name]
        print(f"{name:12s} {result['seconds'][name]:.3f} s  {ratio:.2f}x full, {packed:.2f}x full_uni2ts")


if __name__ == "__main__":
    main()
