"""What a training step of MSFT costs against full finetuning of the same model at one scale, in one run.

    python -m benchmarks.step_cost [--width 384 --layers 6 --batch 32 --rounds 7]

Random weights of MOIRAI small's size by default. Both steps are forward, loss, backward, clipping and AdamW over
the same batch and the same fixed-shape forward; rounds alternate, so that both see the same machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from darts.utils.data.torch_datasets.utils import TorchTrainingBatch
from uni2ts.distribution import (
    LogNormalOutput,
    MixtureOutput,
    NegativeBinomialOutput,
    NormalFixedScaleOutput,
    StudentTOutput,
)
from uni2ts.model.moirai.module import MoiraiModule, encode_distr_output

from darts_msft.config import LearningRates, MethodConfig, MixingConfig
from darts_msft.likelihoods import ScaleMixture
from darts_msft.methods import METHODS
from darts_msft.methods.base import Method
from darts_msft.module import MSFTModule

RESULTS = Path(__file__).parent / "results" / "step_cost.json"


class FullFinetuning(Method):
    """Every pretrained weight trains; nothing is added."""

    def backbone_patterns(self) -> dict[str, tuple[str, ...]]:
        return {"pretrained": ("*",), "head": ()}


METHODS["full"] = "benchmarks.step_cost:FullFinetuning"


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


def step(module: MSFTModule, optimizer: torch.optim.Optimizer, batch: TorchTrainingBatch) -> float:
    begin = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = module.training_loss(batch, module.forecast_scales(batch.past_target))
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in module.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return time.perf_counter() - begin


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    modules = {"full": build(arguments, "full", 0)}
    modules |= {f"msft_k{scales}": build(arguments, "msft", scales) for scales in range(arguments.scales + 1)}
    optimizers = {name: module.configure_optimizers() for name, module in modules.items()}
    series = torch.randn(arguments.batch, arguments.context + arguments.horizon, 1).cumsum(dim=1)
    batch = TorchTrainingBatch(past_target=series[:, : arguments.context], future_target=series[:, arguments.context :])
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    for _ in range(arguments.rounds + 1):  # the first round warms up
        for name, module in modules.items():
            seconds[name].append(step(module, optimizers[name], batch))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    trained = {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in modules.items()}
    return {
        "seconds": medians,
        "ratio_to_full": {name: value / medians["full"] for name, value in medians.items()},
        "trained_parameters": trained,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_cost", description=__doc__)
    defaults = {"width": 384, "layers": 6, "batch": 32, "context": 2048, "horizon": 96, "patch": 32, "scales": 3}
    for name, default in {**defaults, "rounds": 7, "threads": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    result = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git.stdout.strip(),
        "settings": vars(arguments),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        **measure(arguments),
    }
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.write_text(json.dumps([*results, result], indent=1) + "\n")
    for name, ratio in result["ratio_to_full"].items():
        print(f"{name:10s} {result['seconds'][name]:.3f} s  {ratio:.2f}x full finetuning at one scale")


if __name__ == "__main__":
    main()
