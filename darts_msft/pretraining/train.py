"""The pretraining run: resumable, seeded, logged; writes a checkpoint in MoiraiModule's own layout."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from uni2ts.distribution import MixtureOutput, StudentTOutput
from uni2ts.model.moirai.module import MoiraiModule

from darts_msft.backbones.moirai import MoiraiBackbone
from darts_msft.pretraining.objective import PATCH_SIZE_SHARES, Task, draw_layout, horizon_loss, make_task
from darts_msft.pretraining.synthetic import SyntheticSeries

logger = logging.getLogger(__name__)

SERIES_LENGTH = 2048
VALIDATION_SEED = 1_000_003
VALIDATION_BATCHES = 24


@dataclass(frozen=True)
class Settings:
    """One pretraining run; every field is a command-line flag of the same name."""

    steps: int = 15_000
    tokens: int = 4096  # tokens a step
    width: int = 128
    layers: int = 6
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 400
    decay: float = 0.25  # share of the steps, at the end, in which the rate falls linearly to zero
    seed: int = 0
    device: str = "cpu"
    precision: str = "float32"  # or bfloat16 (autocast)


def build_module(settings: Settings) -> MoiraiModule:
    """A small MoiraiModule; three Student-t components, which suit standardised series of any sign."""
    return MoiraiModule(
        distr_output=MixtureOutput([StudentTOutput(), StudentTOutput(), StudentTOutput()]),
        d_model=settings.width,
        num_layers=settings.layers,
        patch_sizes=tuple(PATCH_SIZE_SHARES),
        max_seq_len=512,
        attn_dropout_p=0.0,
        dropout_p=0.0,
    )


class TaskStream:
    """Endless training batches; its state resumes a run where it stopped."""

    def __init__(self, seed: int, tokens: int) -> None:
        self.source = SyntheticSeries(seed=seed, length=SERIES_LENGTH)
        self.rng = np.random.default_rng([seed, 1])
        self.tokens = tokens

    def __iter__(self) -> Iterator[Task]:
        while True:
            layout = draw_layout(self.rng, SERIES_LENGTH)
            patch_size, context_tokens, horizon_tokens, pooling = layout
            size = max(1, round(self.tokens / (context_tokens + horizon_tokens)))
            steps = (context_tokens + horizon_tokens) * patch_size * pooling
            rows = -(-size // (SERIES_LENGTH // steps))
            yield make_task(self.source.batch(rows), layout, self.rng, size)

    def state(self) -> dict[str, Any]:
        return {"source": self.source.state(), "rng": self.rng.bit_generator.state}

    def load_state(self, state: dict[str, Any]) -> None:
        self.source.load_state(state["source"])
        self.rng.bit_generator.state = state["rng"]


class Pretraining:
    """A run in `directory`: `state.pt` to resume from, `log.jsonl`, and `export/` with the newest weights."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        torch.manual_seed(settings.seed)
        self.settings, self.directory = settings, directory
        self.module = build_module(settings).to(settings.device)
        self.backbones = {patch: MoiraiBackbone(self.module, patch) for patch in self.module.patch_sizes}
        decayed = [p for p in self.module.parameters() if p.ndim > 1]
        plain = [p for p in self.module.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self.stream = TaskStream(settings.seed, settings.tokens)
        self.step, self.seconds = 0, 0.0
        held_back = iter(TaskStream(VALIDATION_SEED, settings.tokens))
        self.validation = [next(held_back) for _ in range(VALIDATION_BATCHES)]

    @property
    def state_file(self) -> Path:
        return self.directory / "state.pt"

    def resume(self) -> None:
        """Goes on from `state.pt` if there is one; another run's settings are refused (more steps are not)."""
        if not self.state_file.exists():
            return
        state = torch.load(self.state_file, map_location=self.settings.device, weights_only=False)
        free = ("steps", "device", "precision", "decay")
        changed = {
            name: (state["settings"][name], value)
            for name, value in asdict(self.settings).items()
            if name not in free and state["settings"][name] != value
        }
        if changed:
            raise ValueError(
                f"{self.state_file} holds a run with other settings (saved, asked): {changed}; "
                "use the saved ones or another --out directory"
            )
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stream.load_state(state["stream"])
        self.step, self.seconds = state["step"], state["seconds"]
        logger.info("resumed at step %d", self.step)

    def save(self) -> None:
        """Writes `state.pt` and `export/`, each whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        state = {
            "settings": asdict(self.settings),
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stream": self.stream.state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        part = self.state_file.with_suffix(".part")
        torch.save(state, part)
        os.replace(part, self.state_file)
        export(self.module, self.directory / "export")

    def learning_rate(self) -> float:
        settings = self.settings
        left = (settings.steps - self.step) / max(1, round(settings.steps * settings.decay))
        return settings.learning_rate * min(1.0, (self.step + 1) / settings.warmup, left)

    def loss(self, task: Task) -> Tensor:
        device = self.settings.device
        task = Task(task.patch_size, task.context.to(device), task.horizon.to(device))
        enabled = self.settings.precision == "bfloat16"
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=enabled):
            return horizon_loss(self.backbones, task)

    @torch.no_grad()
    def validation_loss(self) -> float:
        return float(np.mean([self.loss(task).item() for task in self.validation]))

    def train_step(self, task: Task) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = self.loss(task)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {self.step}; resume from {self.state_file}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def log(self, **values: float) -> None:
        line = json.dumps({"step": self.step, **{name: round(value, 5) for name, value in values.items()}})
        logger.info(line)
        with (self.directory / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def run(self, log_every: int = 100, save_every: int = 500) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        losses: list[float] = []
        begin, tokens = time.perf_counter(), 0
        tasks = iter(self.stream)
        while self.step < self.settings.steps:
            task = next(tasks)
            losses.append(self.train_step(task))
            tokens += (task.context.shape[-1] + task.horizon.shape[-1]) // task.patch_size * len(task.context)
            if self.step % log_every and self.step % save_every and self.step < self.settings.steps:
                continue
            elapsed = time.perf_counter() - begin
            self.seconds += elapsed
            values = {"loss": float(np.mean(losses)), "tokens_per_second": tokens / elapsed, "seconds": self.seconds}
            if self.step % save_every == 0 or self.step == self.settings.steps:
                values["validation_loss"] = self.validation_loss()
                self.save()
            self.log(**values, learning_rate=self.learning_rate())
            losses, tokens, begin = [], 0, time.perf_counter()


def export(module: MoiraiModule, directory: Path) -> None:
    """Writes config.json and model.safetensors (float16) so that `MoiraiModule.from_pretrained` reads them."""
    part = directory.with_name(directory.name + ".part")
    copy.deepcopy(module).cpu().half().save_pretrained(part)
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        os.replace(part / name, directory / name)
    shutil.rmtree(part)  # what save_pretrained leaves beside them (a README)
